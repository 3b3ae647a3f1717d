//! `path`: nanoseconds a packet of the path alone, in process on ordinary memory.
//!
//! No devices, no hugepages, no root: what remains when the drivers are taken away, for quick comparisons of
//! one change with another. The result that counts is that of `compare`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;

use crate::{
    error::Result,
    process::check_interrupted,
    replay::Replay,
    report::{Spread, write_json},
    table::thread_time,
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Numbers of flows, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 10_000, 100_000, 1_000_000])]
    flows: Vec<u32>,
    /// Samples.
    #[arg(long, default_value_t = 15)]
    samples: u32,
    /// Packets a sample.
    #[arg(long, default_value_t = 2_000_000)]
    packets: usize,
    /// Frame length without frame check sequence, at most 64.
    #[arg(long, default_value_t = 60)]
    frame: usize,
    /// Also write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Runs and prints.
pub fn run(options: &Options) -> Result<()> {
    println!("ns a packet of the path alone (thread's CPU time): median (quartiles)");
    let mut rows = Vec::new();
    for &flows in &options.flows {
        let mut replay = Replay::open(flows, options.frame)?;
        // Every flow is established and in the table's final place before the clock starts.
        replay.run((flows as usize).max(100_000));
        let mut samples = Vec::new();
        for _ in 0..options.samples {
            check_interrupted()?;
            let spent = timed(&mut replay, options.packets)?;
            samples.push(spent.as_nanos() as f64 / options.packets as f64);
        }
        if let Some(spread) = Spread::of(&samples) {
            println!("{flows:>9}  {spread}");
            rows.push(json!({"flows": flows, "ns_per_packet": spread.median}));
        }
    }
    write_json(options.json.as_deref(), &rows)
}

/// A thread's time for so many packets.
pub fn timed(replay: &mut Replay, packets: usize) -> Result<Duration> {
    let start = thread_time()?;
    replay.run(packets);
    Ok(thread_time()? - start)
}
