//! `transfer`: whole connections, from SYN to the last ACK, in steady state: sessions are opened, change their states
//! and expire all the time. `directions`: established packets of clients, of servers, and of both mixed.
//!
//! In process, with [`crate::conversations`] in place of devices; its cost is measured alone and printed, too. Time
//! runs with the traffic, so that the same sessions are there in every run, however fast the machine is.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;
use weir::{
    clock::{TICKS_PER_SECOND, Tick},
    path::{
        Worker,
        settings::{Settings, StateTimeouts},
        verdict::{Reason, Verdict},
    },
};

use crate::{
    conversations::{self, Conversations, ScriptedPacket},
    error::{Error, Result},
    process::check_interrupted,
    replay::{Setup, worker},
    report::{Spread, write_json},
    table::thread_time,
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Connections that are open at a time.
    #[arg(long, default_value_t = 10_000)]
    connections: u32,
    /// After this many connections the path's clock is a second later.
    #[arg(long, default_value_t = 450_000, value_parser = clap::value_parser!(u32).range(100..))]
    per_second: u32,
    /// Samples.
    #[arg(long, default_value_t = 9)]
    samples: u32,
    /// Packets a sample.
    #[arg(long, default_value_t = 4_000_000)]
    packets: usize,
    /// Also write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How to compare directions.
#[derive(Args, Debug)]
pub struct Directions {
    /// Numbers of flows, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100_000, 1_000_000])]
    flows: Vec<u32>,
    /// Samples of each.
    #[arg(long, default_value_t = 11)]
    samples: u32,
    /// Packets a sample.
    #[arg(long, default_value_t = 2_000_000)]
    packets: usize,
    /// Also write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Seconds of the path's clock before the first sample.
const WARM_UP: u32 = 40;
/// Sessions that may be there at a time.
const ROOM: u32 = 1_000_000;
/// Flows for which there are local addresses.
const LOCAL_ADDRESSES_FOR: u32 = 10_000_000;

/// A worker between clients and servers, and the time it is told.
struct InProcess {
    worker: Worker<Conversations>,
    _control: weir::control::workers::Workers,
    /// Packets in a hundredth of a second; it stands still without.
    packets_a_tick: Option<u64>,
}

impl InProcess {
    fn new(connections: Conversations, flows: u32, settings: Settings) -> Result<Self> {
        let (worker, control) = worker(connections, &Setup::default(), flows, settings)?;
        Ok(Self { worker, _control: control, packets_a_tick: None })
    }

    /// Has so many packets sent, and returns the thread's time for it.
    fn run(&mut self, packets: usize) -> Result<Duration> {
        let start = thread_time()?;
        self.worker.io_mut().allowance = packets;
        while self.worker.io_mut().allowance > 0 {
            let sent = self.worker.io_mut().sent;
            self.worker.poll(Tick(self.packets_a_tick.map_or(0, |packets| (sent / packets) as u32)));
        }
        Ok(thread_time()? - start)
    }

    /// Packets that were dropped.
    fn dropped(&self) -> u64 {
        let counters = self.worker.counters();
        Reason::ALL.iter().map(|&reason| counters.get(Verdict::Drop(reason))).sum()
    }
}

/// Runs and prints.
pub fn run(options: &Options) -> Result<()> {
    let second = StateTimeouts { time_wait: 1, fin_wait: 1, close: 1, ..StateTimeouts::default() };
    let settings = Settings { timeouts: second, ..Settings::default() };
    let connections = Conversations::new(options.connections, &conversations::WHOLE, true);
    let mut bench = InProcess::new(connections, LOCAL_ADDRESSES_FOR, settings)?;
    let packets_a_second = u64::from(options.per_second) * conversations::WHOLE.len() as u64;
    bench.packets_a_tick = Some(packets_a_second / u64::from(TICKS_PER_SECOND));
    // The first sessions have expired by then.
    for _ in 0..WARM_UP {
        check_interrupted()?;
        bench.run(packets_a_second as usize)?;
    }
    let (mut samples, mut sessions) = (Vec::new(), 0);
    let before = (bench.dropped(), bench.worker.io_mut().lost);
    for _ in 0..options.samples {
        check_interrupted()?;
        samples.push(bench.run(options.packets)?.as_nanos() as f64 / options.packets as f64);
        sessions = sessions.max(bench.worker.sessions().len());
    }
    let lost = (bench.dropped() - before.0, bench.worker.io_mut().lost - before.1);
    if sessions > ROOM as usize {
        return Err(Error::Unexpected(format!("{sessions} sessions at once are more than {ROOM}")));
    }
    let mut connections = Conversations::new(options.connections, &conversations::WHOLE, true);
    let alone = alone(&mut connections, options.samples, options.packets)?;
    let Some((all, own)) = Spread::of(&samples).zip(Spread::of(&alone)) else { return Ok(()) };
    let each = conversations::WHOLE.len() as f64;
    println!("connect, transfer, close: {each} packets a connection, {sessions} sessions at most");
    println!("ns a packet, generator included: {all}; the generator alone: {own}");
    println!("{:.2} Mpps, {:.2} M connections a second", 1e3 / all.median, 1e3 / all.median / each);
    println!("dropped packets: {}; connections that didn't open: {}", lost.0, lost.1);
    let row = json!({
        "packets_per_connection": each, "sessions": sessions, "ns_per_packet": all.median,
        "generator_ns": own.median, "mpps": 1e3 / all.median, "dropped": lost.0, "not_opened": lost.1,
    });
    write_json(options.json.as_deref(), &[row])
}

/// Nanoseconds a packet of the generator.
fn alone(connections: &mut Conversations, samples: u32, packets: usize) -> Result<Vec<f64>> {
    let sample = |_| {
        let start = thread_time()?;
        connections.alone(packets);
        Ok((thread_time()? - start).as_nanos() as f64 / packets as f64)
    };
    (0..samples).map(sample).collect()
}

/// Runs and prints the directions.
pub fn run_directions(options: &Directions) -> Result<()> {
    const KINDS: [(&str, &[ScriptedPacket]); 3] = [
        ("requests", &conversations::REQUESTS),
        ("replies", &conversations::REPLIES),
        ("both, mixed", &conversations::BOTH),
    ];
    println!("ns a packet, generator included: median (quartiles), packets a second beside requests'");
    let mut rows = Vec::new();
    for &flows in &options.flows {
        let mut bench = InProcess::new(
            Conversations::new(flows, &conversations::OPENING, false),
            flows,
            Settings::default(),
        )?;
        bench.run(flows as usize * conversations::OPENING.len())?;
        let open = bench.worker.io_mut().open();
        if open != flows as usize {
            return Err(Error::Unexpected(format!("{open} of {flows} connections opened")));
        }
        let mut samples = [const { Vec::new() }; KINDS.len()];
        for _ in 0..options.samples {
            for ((_, script), samples) in KINDS.iter().zip(&mut samples) {
                check_interrupted()?;
                bench.worker.io_mut().go_on(script);
                bench.run(flows.min(100_000) as usize)?;
                samples.push(bench.run(options.packets)?.as_nanos() as f64 / options.packets as f64);
            }
        }
        let spreads: Vec<Spread> = samples.iter().filter_map(|s| Spread::of(s)).collect();
        for ((name, _), spread) in KINDS.iter().zip(&spreads) {
            let ratio = spreads.first().map_or(1.0, |first| first.median / spread.median);
            println!("{flows:>9}  {name:<12}  {spread}  {ratio:.2}");
            rows.push(json!({"flows": flows, "packets": name, "ns": spread.median, "ratio": ratio}));
        }
        if bench.dropped() != 0 {
            return Err(Error::Unexpected(format!("{} packets were dropped", bench.dropped())));
        }
    }
    write_json(options.json.as_deref(), &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_of_whole_connections_is_forwarded() {
        let connections = Conversations::new(50, &conversations::WHOLE, true);
        let mut bench = InProcess::new(connections, 1_000, Settings::default()).unwrap();
        bench.run(5_000).unwrap();
        let io = bench.worker.io_mut();
        assert_eq!((io.lost, io.transmitted), (0, 5_000));
        assert_eq!(bench.dropped(), 0);
        assert_eq!(bench.worker.sessions().len(), 500);
    }

    #[test]
    fn established_packets_of_both_directions_are_forwarded() {
        let mut bench = InProcess::new(
            Conversations::new(40, &conversations::OPENING, false),
            1_000,
            Settings::default(),
        )
        .unwrap();
        bench.run(120).unwrap();
        bench.worker.io_mut().go_on(&conversations::BOTH);
        bench.run(400).unwrap();
        assert_eq!((bench.worker.io_mut().transmitted, bench.dropped()), (520, 0));
    }
}
