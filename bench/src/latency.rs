//! `latency`: what an idle gateway adds to a packet's way, beside testpmd.
//!
//! This process holds the other ends of two memif devices, the clients' and the servers', and has one packet under
//! way at a time:
//!
//! ```text
//! client  --frame-->  gateway  -->  server
//! client  <--  gateway  <--reply--  server (the frame turned round)
//! ```
//!
//! A round is timed by TSC from the frame's sending to the reply's arrival; rounds begin at random times, so that they
//! don't fall into step with the gateway's polling. weir forwards both by a FULLNAT session, testpmd by 5tswap. The
//! gateway's worker has a CPU of its own; this process and the gateways' control share the other.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use dpdk::{Cpus, Eal, EalConfig, Mbuf, Mempool, MempoolConfig, Port, PortConfig, Queues};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde_json::json;
use weir::io::Burst;

use crate::{
    compare::{Testbed, choose_cpus},
    error::{Error, Result},
    hugepages::Memory,
    method::Method,
    process::check_interrupted,
    report::write_json,
    sample::Subject,
    testpmd,
    traffic::{self, Kind, Random, VIP},
    weir as gateway,
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Turns of each program.
    #[arg(long, default_value_t = 10)]
    turns: u32,
    /// Packets there and back in a turn.
    #[arg(long, default_value_t = 20_000)]
    packets: u32,
    /// CPU of the worker; the last one allowed if absent.
    #[arg(long)]
    cpu: Option<usize>,
    /// Also write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    programs: gateway::Programs,
    /// testpmd's program.
    #[arg(long, default_value = "dpdk-testpmd")]
    testpmd: PathBuf,
}

/// MAC address of the gateway's ports.
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x20];
/// A reply that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// Rounds begin up to so many nanoseconds after the last one's end.
const PAUSE_NS: u64 = 5_000;
/// What is read off the sorted times.
const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

/// One end of a wire.
struct End {
    queues: Queues,
    _port: Port,
}

impl End {
    /// The server end of memif `id`, and the device for the other process.
    fn open(eal: &Eal, pool: &Mempool, directory: &Path, id: u16) -> Result<(Self, String)> {
        let socket = directory.join("memif.sock");
        let device = |n: u16, role: &str, more: &str| {
            let socket = socket.display();
            format!("net_memif{n},role={role},id={id},socket={socket},socket-abstract=no{more}")
        };
        let mut port = eal.attach(&device(id, "server", "")).map_err(unexpected)?;
        let queues = port.start(&PortConfig::default(), pool).map_err(unexpected)?;
        let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
        Ok((Self { queues, _port: port }, device(id % 2, "client", &format!(",zero-copy=no,mac={mac}"))))
    }

    fn send(&mut self, frame: Mbuf) {
        let mut burst = Burst::new();
        burst.push(frame);
        self.queues.tx[0].tx(&mut burst); // a frame that isn't taken is missed by who waits for it
    }

    /// The next frame, if it comes before patience ends.
    fn receive(&mut self) -> Option<Mbuf> {
        let start = Instant::now();
        let mut burst = Burst::new();
        loop {
            for _ in 0..1_000 {
                if self.queues.rx[0].rx(&mut burst) > 0 {
                    return burst.pop();
                }
            }
            if start.elapsed() > PATIENCE {
                return None;
            }
        }
    }
}

fn unexpected(error: impl std::fmt::Display) -> Error {
    Error::Unexpected(error.to_string())
}

/// A gateway between two wires.
struct Between {
    subject: Subject,
    clients: End,
    servers: End,
    /// Nanoseconds of each round.
    times: Vec<f64>,
}

impl Between {
    /// Sends `frame` there, and back with `turned` done to it.
    fn round(&mut self, frame: Mbuf, turned: impl Fn(&mut [u8])) -> Option<Mbuf> {
        self.clients.send(frame);
        let mut frame = self.servers.receive()?;
        turned(frame.data_mut());
        self.servers.send(frame);
        self.clients.receive()
    }

    /// Plays a turn while the gateway isn't paused.
    fn play(&mut self, packets: u32, pool: &Mempool, random: &mut Random) -> Result<()> {
        self.subject.process.resume();
        let ns_a_cycle = 1e9 / cpu::tsc_hz() as f64;
        let ack = traffic::frame(1, Kind::Ack, MAC, 60, VIP);
        for n in 0..packets {
            if n % 1_000 == 0 {
                check_interrupted()?;
                self.subject.process.check_running()?;
            }
            let until = cpu::tsc() + (random.below(PAUSE_NS) as f64 / ns_a_cycle) as u64;
            while cpu::tsc() < until {}
            let frame = pool.alloc_from(&ack).ok_or_else(|| unexpected("no buffer"))?;
            let start = cpu::tsc();
            if self.round(frame, turn).is_none() {
                return Err(self.subject.process.failed("lost a packet"));
            }
            self.times.push((cpu::tsc() - start) as f64 * ns_a_cycle);
        }
        self.subject.process.pause();
        Ok(())
    }

    /// Sends frames until one comes back: memif's ends find each other in their own time.
    fn open(&mut self, pool: &Mempool) -> Result<()> {
        for kind in [Kind::Syn, Kind::Ack] {
            let bytes = traffic::frame(1, kind, MAC, 60, VIP);
            let back = (0..30).find_map(|_| {
                self.round(pool.alloc_from(&bytes)?, |frame| {
                    turn(frame);
                    if kind == Kind::Syn {
                        acknowledge(frame);
                    }
                })
            });
            if back.is_none() {
                return Err(self.subject.process.failed("returns no packet"));
            }
        }
        Ok(())
    }
}

/// Turns a TCP frame round: MAC addresses, IP addresses, ports. No checksum changes.
fn turn(frame: &mut [u8]) {
    for (at, length) in [(0, 6), (26, 4), (34, 2)] {
        if let Some(both) = frame.get_mut(at..at + 2 * length) {
            both.rotate_left(length);
        }
    }
}

/// Makes a SYN a SYN-ACK.
fn acknowledge(frame: &mut [u8]) {
    const ACK: u8 = 0x10;
    let Some(head) = frame.first_chunk_mut::<54>() else { return };
    head[47] |= ACK;
    // The checksum is a sum's complement: what the flag adds is taken off.
    let sum = u16::from_be_bytes([head[50], head[51]]);
    let (less, borrow) = sum.overflowing_sub(ACK.into());
    head[50..52].copy_from_slice(&(less - u16::from(borrow)).to_be_bytes());
}

/// Runs the measurement and prints it.
pub fn run(options: &Options) -> Result<()> {
    let directory = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let cpus = choose_cpus(options.cpu)?;
    let found = options.programs.find()?;
    let testbed = Testbed::new(directory.path(), 1, cpus, Method::Fullnat);
    let memory = Memory::reserve(testbed.memory_needed(2));
    let testbed = Testbed { ordinary_memory: memory.is_ordinary(), ..testbed };
    let eal = Eal::init(&EalConfig {
        name: "weir-bench-latency".to_owned(),
        cpus: Cpus::Floating(0),
        devices: Vec::new(),
        memory: 64 << 20,
        args: ["--no-huge", "--no-pci"].map(str::to_owned).to_vec(),
        log: None,
    })
    .map_err(unexpected)?;
    let pool = Mempool::new(&eal, &MempoolConfig::default()).map_err(unexpected)?;
    let mut ends = Vec::new();
    for id in 0..4 {
        ends.push(End::open(&eal, &pool, directory.path(), id)?);
    }
    let [(a, to_a), (b, to_b), (c, to_c), (d, to_d)] =
        <[_; 4]>::try_from(ends).map_err(|_| unexpected("no wires"))?;
    let setup = gateway::Setup {
        testbed: &testbed,
        endless: None,
        once: None,
        wires: Some([to_a, to_b]),
        room: None,
    };
    let between = |subject: Subject, clients, servers| -> Result<Between> {
        let mut between = Between { subject, clients, servers, times: Vec::new() };
        between.open(&pool)?;
        between.subject.process.pause();
        Ok(between)
    };
    let mut ours = between(gateway::launch(&setup, &found)?, a, b)?;
    let mut peer = between(testpmd::launch(&testbed, &options.testpmd, &[to_c, to_d])?, c, d)?;
    keep_to(testbed.main_cpu)?; // only now: what this process starts would inherit it
    let mut random = Random(1);
    for turn in 1..=options.turns {
        eprintln!("turn {turn} of {}", options.turns);
        peer.play(options.packets, &pool, &mut random)?;
        ours.play(options.packets, &pool, &mut random)?;
    }
    print(&peer.times, &ours.times, options.json.as_deref())
}

/// Keeps this thread on one CPU.
fn keep_to(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpus)).map_err(unexpected)
}

/// The quantiles of some times.
fn quantiles(times: &[f64]) -> [f64; 4] {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    QUANTILES
        .map(|q| sorted.get((q * (sorted.len().max(1) - 1) as f64) as usize).copied().unwrap_or(f64::NAN))
}

fn print(peer: &[f64], ours: &[f64], json: Option<&Path>) -> Result<()> {
    println!(
        "One packet there and back, two passes of an idle gateway: microseconds over {} packets",
        ours.len()
    );
    println!("{:<16}{:>9}{:>9}{:>9}{:>9}", "", "p50", "p90", "p99", "p99.9");
    let all = [("testpmd 5tswap", quantiles(peer)), ("weir", quantiles(ours))];
    for (name, percentiles) in &all {
        let cells: String = percentiles.iter().map(|ns| format!("{:>9.2}", ns / 1e3)).collect();
        println!("{name:<16}{cells}");
    }
    let ratios: Vec<f64> = all[1].1.iter().zip(&all[0].1).map(|(ours, peer)| ours / peer).collect();
    println!("{:<16}{}", "ratio", ratios.iter().map(|ratio| format!("{ratio:>9.2}")).collect::<String>());
    let row = |(name, percentiles): &(&str, [f64; 4])| json!({"program": name, "packets": ours.len(), "p50_ns": percentiles[0], "p90_ns": percentiles[1], "p99_ns": percentiles[2], "p999_ns": percentiles[3]});
    write_json(json, &all.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syn_turned_and_acknowledged_has_a_right_checksum() {
        let mut frame = traffic::frame(1, Kind::Syn, MAC, 60, VIP);
        turn(&mut frame);
        acknowledge(&mut frame);
        let packet = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
        assert_eq!((ip.header().source_addr(), ip.header().destination_addr()), (VIP, traffic::client(1).0));
        let Some(etherparse::TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("no TCP") };
        assert!(tcp.syn() && tcp.ack() && tcp.source_port() == traffic::PORT);
        let sum = tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap();
        assert_eq!(tcp.checksum(), sum);
    }

    #[test]
    fn quantiles_of_a_hundred() {
        let times: Vec<f64> = (0..=1000).rev().map(f64::from).collect();
        assert_eq!(quantiles(&times), [500.0, 900.0, 990.0, 999.0]);
    }
}
