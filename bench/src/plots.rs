//! `report`: the results that other subcommands wrote as JSON, as a page with plots.
//!
//! ```text
//! compare.json      ->  throughput.svg    Mpps against flows, weir beside testpmd, quartiles as bars
//! connections.json  ->  connections.svg   new sessions a second as the table fills
//! memory.json       ->  memory.svg        bytes a session
//! scale.json        ->  scaling.svg       two workers by one, testpmd and weir
//! latency.json      ->  latency.svg       one packet there and back, 99th percentile
//!                       README.md         all of it as tables, with the machine
//! ```

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;
use plotters::prelude::*;
use serde_json::Value;

use crate::error::{Error, Result};

/// What to report.
#[derive(Args, Debug)]
pub struct Options {
    /// Folder of the JSON files; page and plots go there too.
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
}

const SIZE: (u32, u32) = (720, 420);
const OURS: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const PEER: RGBColor = RGBColor(0x99, 0x99, 0x99);

/// Writes page and plots.
pub fn run(options: &Options) -> Result<()> {
    let folder = &options.results;
    let mut page = format!(
        "# Results\n\nMade by `weir-bench report` from the JSON files here; [../README.md](../README.md) tells how each is \
         measured. On {}.\n",
        machine()
    );
    let mut any = false;
    for (name, section) in [
        ("compare", throughput as Section),
        ("connections", connections),
        ("memory", memory),
        ("scale", scaling),
        ("latency", latency),
    ] {
        let path = folder.join(name).with_extension("json");
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let rows: Vec<Value> =
            serde_json::from_str(&text).map_err(|e| Error::Unexpected(format!("{}: {e}", path.display())))?;
        page.push_str(&section(&rows, folder)?);
        any = true;
    }
    if !any {
        return Err(Error::Unexpected(format!(
            "{}: no compare.json, connections.json, memory.json, scale.json or latency.json",
            folder.display()
        )));
    }
    let readme = folder.join("README.md");
    fs::write(&readme, page).map_err(Error::file(&readme))
}

type Section = fn(&[Value], &Path) -> Result<String>;

/// Processor, memory, kernel, DPDK.
fn machine() -> String {
    let first = |path: &str, field: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        line.split_once(':').map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let of = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output.map_or("?".to_owned(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
    };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "a shared virtual machine: {cpus} CPUs ({}), Linux {}, DPDK {}",
        first("/proc/cpuinfo", "model name"),
        of("uname", &["-r"]).split('-').next().unwrap_or("?"),
        of("pkg-config", &["--modversion", "libdpdk"]),
    )
}

fn number(row: &Value, field: &str) -> f64 {
    row[field].as_f64().unwrap_or(f64::NAN)
}

fn cannot<E: std::fmt::Display>(error: E) -> Error {
    Error::Unexpected(format!("plot: {error}"))
}

/// Mpps against flows.
fn throughput(rows: &[Value], folder: &Path) -> Result<String> {
    let mut text = "\n## Established FULLNAT, one worker\n\n![packets a second against flows](throughput.svg)\n\n\
                    Millions of 64-byte packets per on-CPU second, median (quartiles), and weir's part of testpmd's.\n\n\
                    | flows | testpmd 5tswap | weir | ratio |\n|---|---|---|---|\n"
        .to_owned();
    let rows: Vec<&Value> = rows.iter().filter(|row| row["method"] == "fullnat").collect();
    let with_spread = |row: &Value, who: &str| {
        let quartiles = &row[format!("{who}_quartiles")];
        format!(
            "{:.1} ({:.1}-{:.1})",
            number(row, &format!("{who}_mpps")),
            quartiles[0].as_f64().unwrap_or(f64::NAN),
            quartiles[1].as_f64().unwrap_or(f64::NAN)
        )
    };
    for row in &rows {
        let (peer, ours) = (with_spread(row, "testpmd_5tswap"), with_spread(row, "ours"));
        let _ = writeln!(text, "| {} | {peer} | {ours} | {:.2} |", row["flows"], number(row, "ratio"));
    }
    let most = rows.iter().map(|row| number(row, "testpmd_5tswap_mpps")).fold(1.0, f64::max);
    let last = rows.iter().map(|row| number(row, "flows")).fold(10.0, f64::max);
    let path = folder.join("throughput.svg");
    let area = SVGBackend::new(&path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(cannot)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d((1f64..last * 1.2).log_scale(), 0f64..most * 1.2)
        .map_err(cannot)?;
    let flows = |n: &f64| format!("{n:.0}");
    chart
        .configure_mesh()
        .x_desc("flows")
        .y_desc("Mpps per on-CPU second")
        .max_light_lines(1)
        .x_label_formatter(&flows)
        .draw()
        .map_err(cannot)?;
    for (who, name, colour) in [("testpmd_5tswap", "testpmd 5tswap", PEER), ("ours", "weir FULLNAT", OURS)] {
        let field = format!("{who}_mpps");
        let points: Vec<(f64, f64)> = rows.iter().map(|r| (number(r, "flows"), number(r, &field))).collect();
        let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
        let drawn = chart.draw_series(line).map_err(cannot)?;
        drawn
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        let bars = rows.iter().map(|row| {
            let at = |n: usize| row[format!("{who}_quartiles")][n].as_f64().unwrap_or(f64::NAN);
            PathElement::new([(number(row, "flows"), at(0)), (number(row, "flows"), at(1))], colour)
        });
        chart.draw_series(bars).map_err(cannot)?;
        chart.draw_series(points.iter().map(|p| Circle::new(*p, 3, colour.filled()))).map_err(cannot)?;
    }
    let corner = SeriesLabelPosition::UpperRight;
    chart.configure_series_labels().position(corner).border_style(PEER).draw().map_err(cannot)?;
    area.present().map_err(cannot)?;
    drop(chart);
    Ok(text)
}

/// New sessions a second as the table fills.
fn connections(rows: &[Value], folder: &Path) -> Result<String> {
    let mut text = "\n## New connections, one worker\n\n![new sessions a second](connections.svg)\n\n\
                    | scheduler | sessions | millions a second |\n|---|---|---|\n"
        .to_owned();
    let mut bars = Vec::new();
    for row in rows {
        let (name, rate) = (format!("{} to {}", row["from"], row["to"]), number(row, "millions_per_second"));
        let scheduler = row["scheduler"].as_str().unwrap_or("wlc");
        let _ = writeln!(text, "| {scheduler} | {name} | {rate:.2} |");
        // The others are near it, or aren't what most use.
        if scheduler == "wlc" {
            bars.push((name, rate));
        }
    }
    draw_bars(&folder.join("connections.svg"), "millions of new sessions a second", &bars)?;
    Ok(text)
}

/// Bytes a session.
fn memory(rows: &[Value], folder: &Path) -> Result<String> {
    let mut text = "\n## Memory\n\n![bytes a session](memory.svg)\n\n\
                    | method | sessions | bytes a session |\n|---|---|---|\n"
        .to_owned();
    let mut bars = Vec::new();
    for row in rows {
        let (name, bytes) = (row["method"].as_str().unwrap_or("?"), number(row, "bytes_per_session"));
        let _ = writeln!(text, "| {name} | {} | {bytes:.1} |", row["sessions"]);
        bars.push((name.to_owned(), bytes));
    }
    draw_bars(&folder.join("memory.svg"), "bytes a session", &bars)?;
    Ok(text)
}

/// Two workers by one.
fn scaling(rows: &[Value], folder: &Path) -> Result<String> {
    let mut text = "\n## Two workers beside one\n\n![two workers by one](scaling.svg)\n\nMpps by the workers' mean time on \
                    a CPU.\n\n| flows | program | one worker | two workers | scaling |\n|---|---|---|---|---|\n"
        .to_owned();
    let mut bars = Vec::new();
    for row in rows {
        for program in ["testpmd", "weir"] {
            let of = &row[program];
            let (one, two, factor) = (number(of, "one_mpps"), number(of, "two_mpps"), number(of, "scaling"));
            let _ = writeln!(text, "| {} | {program} | {one:.1} | {two:.1} | {factor:.2} |", row["flows"]);
            bars.push((format!("{program}, {} flows", row["flows"]), factor));
        }
    }
    draw_bars(&folder.join("scaling.svg"), "two workers' packets by one's", &bars)?;
    Ok(text)
}

/// One packet through an idle gateway and back.
fn latency(rows: &[Value], folder: &Path) -> Result<String> {
    let mut text = "\n## An idle gateway\n\n![99th percentile](latency.svg)\n\nOne packet there and back over memif, two \
                    passes of the gateway, microseconds.\n\n| program | p50 | p90 | p99 | p99.9 |\n|---|---|---|---|---|\n"
        .to_owned();
    let mut bars = Vec::new();
    for row in rows {
        let name = row["program"].as_str().unwrap_or("?");
        let cells: String = ["p50_ns", "p90_ns", "p99_ns", "p999_ns"]
            .map(|field| format!(" {:.2} |", number(row, field) / 1e3))
            .concat();
        let _ = writeln!(text, "| {name} |{cells}");
        bars.push((name.to_owned(), number(row, "p99_ns") / 1e3));
    }
    draw_bars(&folder.join("latency.svg"), "microseconds there and back, 99th percentile", &bars)?;
    Ok(text)
}

fn draw_bars(path: &Path, what: &str, bars: &[(String, f64)]) -> Result<()> {
    let most = bars.iter().map(|bar| bar.1).fold(0.1, f64::max);
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(cannot)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d((0..bars.len().max(1) as i32 - 1).into_segmented(), 0f64..most * 1.15)
        .map_err(cannot)?;
    let name = |at: &SegmentValue<i32>| match at {
        SegmentValue::CenterOf(n) => bars.get(*n as usize).map_or(String::new(), |bar| bar.0.clone()),
        _ => String::new(),
    };
    let mut mesh = chart.configure_mesh();
    mesh.disable_x_mesh()
        .max_light_lines(1)
        .y_desc(what)
        .x_labels(bars.len())
        .x_label_formatter(&name)
        .draw()
        .map_err(cannot)?;
    let rectangles = bars.iter().enumerate().map(|(n, (_, value))| {
        let (from, to) = (SegmentValue::Exact(n as i32), SegmentValue::Exact(n as i32 + 1));
        let mut bar = Rectangle::new([(from, 0.0), (to, *value)], OURS.filled());
        bar.set_margin(0, 0, 24, 24);
        bar
    });
    chart.draw_series(rectangles).map_err(cannot)?;
    area.present().map_err(cannot)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_has_what_there_is_and_plots_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { results: folder.path().to_owned() };
        assert!(run(&options).is_err(), "nothing to report");
        let compare: Vec<Value> = [(1, 60.0, 30.0), (1000, 50.0, 25.0)]
            .iter()
            .map(|&(flows, peer, ours)| {
                json!({"flows": flows, "method": "fullnat", "ours_mpps": ours, "testpmd_5tswap_mpps": peer,
                    "ratio": 0.5, "ours_quartiles": [ours - 1.0, ours + 1.0],
                    "testpmd_5tswap_quartiles": [peer - 1.0, peer + 1.0]})
            })
            .collect();
        let memory = json!([{"method": "fullnat", "sessions": 1000, "bytes_per_session": 94.7}]);
        fs::write(folder.path().join("compare.json"), json!(compare).to_string()).unwrap();
        fs::write(folder.path().join("memory.json"), memory.to_string()).unwrap();
        let one = json!({"one_mpps": 50.0, "two_mpps": 90.0, "scaling": 1.8});
        let scale = json!([{"flows": 1000, "testpmd": one, "weir": one}]);
        fs::write(folder.path().join("scale.json"), scale.to_string()).unwrap();
        let idle = json!([{"program": "weir", "p50_ns": 2000.0, "p90_ns": 3000.0, "p99_ns": 4000.0, "p999_ns": 5000.0}]);
        fs::write(folder.path().join("latency.json"), idle.to_string()).unwrap();
        run(&options).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let page = read("README.md");
        assert!(page.contains("| 1000 | 50.0 (49.0-51.0) | 25.0 (24.0-26.0) | 0.50 |"), "{page}");
        assert!(page.contains("| fullnat | 1000 | 94.7 |") && !page.contains("connections.svg"), "{page}");
        assert!(page.contains("| 1000 | weir | 50.0 | 90.0 | 1.80 |"), "{page}");
        assert!(page.contains("| weir | 2.00 | 3.00 | 4.00 | 5.00 |"), "{page}");
        for (name, label) in [
            ("throughput.svg", "weir FULLNAT"),
            ("memory.svg", "bytes a session"),
            ("scaling.svg", "weir, 1000 flows"),
            ("latency.svg", "99th percentile"),
        ] {
            let plot = read(name);
            assert!(plot.starts_with("<svg") && plot.contains(label), "{name}");
        }
    }
}
