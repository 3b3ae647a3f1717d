//! `scale`: two workers beside one, and how testpmd itself scales on the same two CPUs.
//!
//! Four programs take turns, each paused while another is measured: testpmd and weir with one core, both with two.
//! With two, each port has two receive queues whose files a NIC's hash has divided, with the key and the table that
//! weir sets on ports. A result is packets by the workers' mean time on a CPU, so that it's twice one worker's if
//! neither waits for the other. Both CPUs are busy then, and what controls the programs runs between.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;

use crate::{
    compare::{Testbed, choose_cpus, write_traffic},
    error::{Error, Result},
    hugepages::Memory,
    method::Method,
    report::{Spread, write_json},
    sample::Subject,
    testpmd, weir,
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Numbers of flows, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100_000])]
    flows: Vec<u32>,
    /// Rounds for each number of flows; each starts all programs again.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Samples of each program in a round.
    #[arg(long, default_value_t = 7)]
    samples: u32,
    /// Length of a sample in milliseconds.
    #[arg(long, default_value_t = 800)]
    period: u64,
    /// Time that a program runs before each sample, in milliseconds.
    #[arg(long, default_value_t = 100)]
    warm_up: u64,
    /// Also write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    programs: weir::Programs,
    /// testpmd's program.
    #[arg(long, default_value = "dpdk-testpmd")]
    testpmd: PathBuf,
}

/// Samples of the four programs, Mpps: by number of workers less one.
#[derive(Default)]
struct Samples {
    testpmd: [Vec<f64>; 2],
    weir: [Vec<f64>; 2],
}

/// Runs the measurement and prints it.
pub fn run(options: &Options) -> Result<()> {
    let found = options.programs.find()?;
    println!("Mpps by the workers' mean time on a CPU: median (quartiles); scaling is two workers' by one's");
    println!(
        "{:>8}  {:<16}{:>22}{:>22}{:>9}  memory",
        "flows", "program", "one worker", "two workers", "scaling"
    );
    let mut rows = Vec::new();
    for &flows in &options.flows {
        let directory = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
        let cpus = choose_cpus(None)?;
        let mut samples = Samples::default();
        let mut testbeds = Vec::new();
        let paths = ["one", "two"].map(|name| directory.path().join(name));
        for (workers, path) in (1..).zip(&paths) {
            std::fs::create_dir(path).map_err(Error::file(path))?;
            let mut testbed = Testbed::new(path, flows, cpus, Method::Fullnat);
            testbed.workers = workers;
            write_traffic(&testbed, 60)?;
            testbeds.push(testbed);
        }
        let memory = Memory::reserve(testbeds.iter().map(|testbed| testbed.memory_needed(2)).sum());
        for testbed in &mut testbeds {
            testbed.ordinary_memory = memory.is_ordinary();
        }
        for round in 1..=options.rounds {
            eprintln!("{flows} flows, round {round} of {}", options.rounds);
            measure(&testbeds, options, &found, &mut samples)?;
        }
        rows.push(print(flows, &samples, memory.name())?);
    }
    write_json(options.json.as_deref(), &rows)
}

fn measure(
    testbeds: &[Testbed],
    options: &Options,
    found: &weir::Found,
    samples: &mut Samples,
) -> Result<()> {
    let paused = |subject: Subject| {
        subject.process.pause();
        subject
    };
    let mut subjects = Vec::new();
    for testbed in testbeds {
        let peer = paused(testpmd::start(testbed, &options.testpmd)?);
        subjects.push((peer, paused(weir::start(testbed, found)?)));
    }
    let (warm_up, period) = (Duration::from_millis(options.warm_up), Duration::from_millis(options.period));
    for _ in 0..options.samples {
        for (n, (peer, ours)) in subjects.iter_mut().enumerate() {
            samples.testpmd[n].push(peer.measure(warm_up, period)?);
            samples.weir[n].push(ours.measure(warm_up, period)?);
        }
    }
    Ok(())
}

/// Prints both programs' lines and returns them.
fn print(flows: u32, samples: &Samples, memory: &str) -> Result<serde_json::Value> {
    let mut row = json!({"flows": flows, "memory": memory, "samples": samples.weir[0].len()});
    let mut scaling = Vec::new();
    for (name, of) in [("testpmd 5tswap", &samples.testpmd), ("weir", &samples.weir)] {
        let (Some(one), Some(two)) = (Spread::of(&of[0]), Spread::of(&of[1])) else {
            return Err(Error::Unexpected("no samples".to_owned()));
        };
        let factor = two.median / one.median;
        println!("{flows:>8}  {name:<16}{one:>22}{two:>22}{factor:>9.3}  {memory}");
        let field = name.split(' ').next().unwrap_or(name);
        row[field] = json!({"one_mpps": one.median, "two_mpps": two.median, "scaling": factor});
        scaling.push(factor);
    }
    println!("{flows:>8}  weir's scaling by testpmd's: {:.3}", scaling[1] / scaling[0]);
    row["ratio"] = (scaling[1] / scaling[0]).into();
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_is_beside_the_peers() {
        let samples = Samples { testpmd: [vec![40.0], vec![80.0]], weir: [vec![20.0], vec![38.0]] };
        let row = print(1, &samples, "").unwrap();
        assert_eq!((&row["testpmd"]["scaling"], &row["weir"]["scaling"]), (&json!(2.0), &json!(1.9)));
        assert_eq!(row["ratio"], json!(0.95));
    }
}
