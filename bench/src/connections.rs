//! `connections`: new sessions a second of one worker, as its table fills.
//!
//! SYNs of distinct flows only, repeated without end by net_pcap. Up to the number of flows every SYN that comes
//! out on the servers' side is a new session, so the port counter is the session counter; afterwards weir's own
//! listing must show as many.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;

use crate::{
    compare::{SYN_DEVICE, Testbed, choose_cpus},
    error::{Error, Result},
    hugepages::Memory,
    method::Method,
    process::check_interrupted,
    report::{Spread, write_json},
    sample::Reading,
    traffic, weir,
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Sessions to open.
    #[arg(long, default_value_t = 2_000_000)]
    flows: u32,
    /// Schedulers, comma-separated.
    #[arg(long, value_delimiter = ',', default_value = "wlc")]
    schedulers: Vec<String>,
    /// Rounds, each with a fresh gateway.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Frame length without frame check sequence.
    #[arg(long, default_value_t = 60)]
    frame: usize,
    /// CPU of the worker; the last one allowed if absent.
    #[arg(long)]
    cpu: Option<usize>,
    /// Also write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    programs: weir::Programs,
}

/// Parts into which the filling is divided.
const PARTS: usize = 4;

/// Runs the measurement and prints it.
pub fn run(options: &Options) -> Result<()> {
    let directory = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let cpus = choose_cpus(options.cpu)?;
    let found = options.programs.find()?;
    let mut testbed = Testbed::new(directory.path(), options.flows, cpus, Method::default());
    let memory = Memory::reserve(testbed.memory_needed(1));
    testbed.ordinary_memory = memory.is_ordinary();
    let syns = testbed.path("syns.pcap");
    traffic::write(
        &syns,
        traffic::Flows::all(testbed.flows, testbed.services),
        traffic::Kind::Syn,
        traffic::pcap_mac(SYN_DEVICE),
        Some(options.frame),
        1,
    )
    .map_err(Error::file(&syns))?;

    println!("New sessions, millions per on-CPU second of one worker: median (quartiles); {}", memory.name());
    let mut rows = Vec::new();
    for scheduler in &options.schedulers {
        testbed.scheduler = scheduler;
        let mut parts: [Vec<f64>; PARTS] = Default::default();
        for round in 1..=options.rounds {
            eprintln!("{} sessions, {scheduler}, round {round} of {}", options.flows, options.rounds);
            let readings = fill(&testbed, &found)?;
            for (part, rate) in parts.iter_mut().zip(rates(&readings, testbed.flows)) {
                part.extend(rate);
            }
        }
        rows.extend(print(&parts, scheduler, options.flows));
    }
    write_json(options.json.as_deref(), &rows)
}

/// Opens all sessions and returns what was read meanwhile.
fn fill(testbed: &Testbed, found: &weir::Found) -> Result<Vec<Reading>> {
    let setup = weir::Setup {
        testbed,
        endless: Some((vec![testbed.path("syns.pcap")], SYN_DEVICE)),
        once: None,
        wires: None,
        room: None,
    };
    let mut subject = weir::launch(&setup, found)?;
    let mut readings = vec![subject.read()?];
    let mut stalled = 0;
    while readings.last().is_some_and(|r| r.packets < u64::from(testbed.flows)) {
        check_interrupted()?;
        subject.process.check_running()?;
        std::thread::sleep(Duration::from_millis(20));
        let reading = subject.read()?;
        let still = readings.last().is_some_and(|last| last.packets == reading.packets);
        stalled = if still { stalled + 1 } else { 0 };
        if stalled > 100 {
            return Err(subject.process.failed(format!("stopped at {} forwarded SYNs", reading.packets)));
        }
        readings.push(reading);
    }
    let listed = weir::connections(testbed, found)?;
    if listed.active + listed.inactive != u64::from(testbed.flows) {
        return Err(subject
            .process
            .failed(format!("lists {listed:?} and not {} connections", testbed.flows)));
    }
    Ok(readings)
}

/// Millions of sessions per on-CPU second in each quarter of the filling; none where a quarter was over
/// between two readings.
fn rates(readings: &[Reading], flows: u32) -> [Option<f64>; PARTS] {
    std::array::from_fn(|part| {
        let bound = |n: usize| u64::from(flows) * n as u64 / PARTS as u64;
        let inside = |r: &&Reading| (bound(part)..=bound(part + 1)).contains(&r.packets);
        let first = readings.iter().find(inside)?;
        let last = readings.iter().rfind(inside)?;
        (last.packets > first.packets).then(|| last.mpps_since(first))
    })
}

/// Prints the quarters and returns them.
fn print(parts: &[Vec<f64>; PARTS], scheduler: &str, flows: u32) -> Vec<serde_json::Value> {
    let mut rows = Vec::new();
    for (n, samples) in parts.iter().enumerate() {
        let bound = |n: usize| u64::from(flows) * n as u64 / PARTS as u64;
        let (from, to) = (bound(n), bound(n + 1));
        let spread = Spread::of(samples);
        let text = spread.map_or("-".to_owned(), |s| s.to_string());
        println!("{scheduler:>6}  {from:>9} to {to:>9}  {text:>22}");
        rows.push(json!({"scheduler": scheduler, "from": from, "to": to, "millions_per_second": spread.map(|s| s.median)}));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_by_quarter() {
        let reading = |packets, on_cpu| Reading { packets, on_cpu };
        let readings = [
            reading(0, 0),
            reading(200, 1_000_000),
            reading(500, 2_000_000),
            reading(750, 4_000_000),
            reading(900, 5_000_000),
        ];
        let rates = rates(&readings, 1000);
        assert_eq!(rates[0], Some(0.2)); // 200 in 1 ms
        assert_eq!(rates[1], None); // one reading only
        assert_eq!(rates[2], Some(0.125));
        assert_eq!(rates[3], Some(0.15));
    }
}
