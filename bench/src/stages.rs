//! `stages`: cycles of the path by stage of a burst, in process, in builds with the feature `stages`.

use clap::Args;

use crate::{
    error::{Error, Result},
    replay::Replay,
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Numbers of flows, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100_000, 1_000_000])]
    flows: Vec<u32>,
    /// Packets.
    #[arg(long, default_value_t = 20_000_000)]
    packets: usize,
}

/// Runs and prints.
pub fn run(options: &Options) -> Result<()> {
    if !cfg!(feature = "stages") {
        let how = "cargo run --release -p weir-bench --features stages -- stages";
        return Err(Error::Unexpected(format!("stages aren't counted in this build: {how}")));
    }
    println!("cycles of the time-stamp counter ({:.2} GHz) a packet, path alone", cpu::tsc_hz() as f64 / 1e9);
    for &flows in &options.flows {
        let mut replay = Replay::open(flows, 60)?;
        replay.run((flows as usize).max(100_000));
        let before = replay.cycles();
        replay.run(options.packets);
        let spent: Vec<_> = replay
            .cycles()
            .into_iter()
            .zip(before)
            .map(|((stage, now), (_, was))| (stage, now - was))
            .collect();
        let each = |cycles: u64| cycles as f64 / options.packets as f64;
        println!("{flows} flows: {:.1}", each(spent.iter().map(|(_, cycles)| cycles).sum()));
        for (stage, cycles) in spent {
            println!("  {:<12}{:>8.1}", format!("{stage:?}").to_lowercase(), each(cycles));
        }
    }
    Ok(())
}
