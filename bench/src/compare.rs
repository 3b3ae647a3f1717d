//! `compare`: weir FULLNAT beside testpmd's 5tswap, alternating in one run.
//!
//! Both run on the same CPU, one paused while the other is measured, so that a busy neighbour hits both alike. Every
//! round starts both programs again (with other memory addresses each time) and takes several samples of each in
//! turn.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};

use crate::{
    capsule,
    error::{Error, Result},
    hugepages::Memory,
    method::Method,
    process::allowed_cpus,
    report::{Report, Row},
    sample::Subject,
    testpmd, traffic, weir,
};

/// How to compare.
#[derive(Args, Debug)]
pub struct Options {
    /// Numbers of flows, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 10_000, 100_000, 1_000_000])]
    flows: Vec<u32>,
    /// Methods and families, comma-separated.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Method::Fullnat])]
    methods: Vec<Method>,
    /// Sessions to hold beside those of the flows, which stay idle.
    #[arg(long, default_value_t = 0)]
    idle: u32,
    /// Virtual services, among which flows are divided.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=50_000))]
    services: u16,
    /// Servers of each service.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=250))]
    servers: u8,
    /// Rounds for each number of flows; each starts both programs again.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Samples of each program in a round.
    #[arg(long, default_value_t = 7)]
    samples: u32,
    /// Length of a sample in milliseconds.
    #[arg(long, default_value_t = 400)]
    period: u64,
    /// Time that a program runs before each sample, in milliseconds.
    #[arg(long, default_value_t = 100)]
    warm_up: u64,
    /// Frame length without frame check sequence: 60 makes 64 bytes on a wire.
    #[arg(long, default_value_t = 60)]
    frame: usize,
    /// CPU of the worker; the last one allowed if absent.
    #[arg(long)]
    cpu: Option<usize>,
    /// Also measure the same rewrite on capsule's packet API (FULLNAT by IPv4 only).
    #[arg(long)]
    with_capsule: bool,
    /// Measure only one of the two.
    #[arg(long)]
    only: Option<Which>,
    /// Also write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    programs: weir::Programs,
    /// testpmd's program.
    #[arg(long, default_value = "dpdk-testpmd")]
    testpmd: PathBuf,
}

/// One of the compared programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    /// weir, FULLNAT.
    Weir,
    /// dpdk-testpmd, 5tswap.
    Testpmd,
}

/// What both programs run on.
pub struct Testbed<'a> {
    /// Where the pcap files, configuration and logs are.
    pub directory: &'a Path,
    /// Number of flows.
    pub flows: u32,
    /// CPU of the worker.
    pub worker_cpu: usize,
    /// CPU of everything else.
    pub main_cpu: usize,
    /// What memory is made of.
    pub ordinary_memory: bool,
    /// What weir does with the frames.
    pub method: Method,
    /// Sessions that are opened beside those of the flows and see no other packet.
    pub idle: u32,
    /// Virtual services.
    pub services: u16,
    /// Servers of each service.
    pub servers: u8,
    /// Scheduler.
    pub scheduler: &'a str,
    /// Workers, and receive queues of each port: one on the worker's CPU, or two on both CPUs.
    pub workers: u16,
    /// The network namespace of weir's twins; none: weir has no kernel beside it.
    pub twins: Option<PathBuf>,
}

/// Descriptors of each queue. (Software devices have none to fill, but both programs get the same.)
pub const DESCRIPTORS: u16 = 1024;
/// A device's mbufs beyond those that hold an endlessly repeated file.
const SPARE_MBUFS: u32 = 16_384;
/// An mbuf with headroom, object header and share of its ring, generously.
const MBUF_BYTES: u64 = 2_560;
/// What EAL, queues and relays take beside, generously.
const EAL_BYTES: u64 = 128 << 20;

impl<'a> Testbed<'a> {
    /// So many flows of one service with four servers.
    pub fn new(
        directory: &'a Path,
        flows: u32,
        (worker_cpu, main_cpu): (usize, usize),
        method: Method,
    ) -> Self {
        Self {
            directory,
            flows,
            worker_cpu,
            main_cpu,
            ordinary_memory: false,
            method,
            idle: 0,
            services: 1,
            servers: 4,
            scheduler: "wlc",
            workers: 1,
            twins: None,
        }
    }
    /// Sessions that are opened.
    pub fn sessions(&self) -> u32 {
        self.flows + self.idle
    }
    /// A file in the testbed's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
    /// The frames to be forwarded, a file a receive queue.
    pub fn acks(&self) -> Vec<PathBuf> {
        (0..self.workers).map(|queue| self.path(&format!("acks{queue}.pcap"))).collect()
    }
    /// The frames that open the sessions, a file a receive queue.
    pub fn openings(&self) -> Vec<PathBuf> {
        (0..self.workers).map(|queue| self.path(&format!("openings{queue}.pcap"))).collect()
    }
    /// CPUs of the workers.
    pub fn worker_cpus(&self) -> Vec<usize> {
        if self.workers == 1 { vec![self.worker_cpu] } else { vec![self.main_cpu, self.worker_cpu] }
    }
    /// Mbufs of the endless port: net_pcap keeps the whole file in them.
    pub fn mbufs(&self) -> u32 {
        self.flows + SPARE_MBUFS
    }
    /// Bytes of hugepages that so many programs need together.
    pub fn memory_needed(&self, programs: u64) -> u64 {
        programs * (u64::from(self.flows + 3 * SPARE_MBUFS) * MBUF_BYTES + EAL_BYTES)
            + u64::from(self.sessions()) * 512
    }
    /// What testpmd's EAL gets to use the testbed's kind of memory; weir sees for itself.
    pub fn memory_arguments(&self) -> Vec<String> {
        if self.ordinary_memory {
            let mib = (u64::from(self.mbufs() + 2 * SPARE_MBUFS) * MBUF_BYTES).div_ceil(1 << 20) * 2;
            vec!["--no-huge".to_owned(), "-m".to_owned(), mib.to_string()]
        } else {
            vec!["--in-memory".to_owned()]
        }
    }
}

/// Order in which `weir` creates its net_pcap devices; their MAC addresses follow from it.
pub const SYN_DEVICE: u8 = 0;
/// See [`SYN_DEVICE`].
pub const ACK_DEVICE: u8 = 1;

/// The CPU for the worker and the one for everything else.
pub fn choose_cpus(wanted: Option<usize>) -> Result<(usize, usize)> {
    let cpus = allowed_cpus()?;
    let worker = wanted.or(cpus.last().copied()).unwrap_or(0);
    let main = cpus.iter().copied().find(|&c| c != worker);
    main.map(|main| (worker, main)).ok_or_else(|| Error::Unexpected("two CPUs are needed".to_owned()))
}

/// Runs the comparison and prints it.
pub fn run(options: &Options) -> Result<()> {
    let directory = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let cpus = choose_cpus(options.cpu)?;
    let programs = if options.only == Some(Which::Testpmd) { None } else { Some(options.programs.find()?) };
    let baseline = if options.with_capsule { Some(capsule::find()?) } else { None };
    let Options { idle, services, servers, .. } = options;
    println!("{services} services with {servers} servers each; {idle} idle sessions beside the flows'");
    let mut report = Report::new(options.frame);
    for (&flows, &method) in options.flows.iter().flat_map(|f| options.methods.iter().map(move |m| (f, m))) {
        let mut testbed = Testbed::new(directory.path(), flows, cpus, method);
        (testbed.idle, testbed.services, testbed.servers) = (options.idle, options.services, options.servers);
        let memory = Memory::reserve(testbed.memory_needed(2 + u64::from(options.with_capsule)));
        testbed.ordinary_memory = memory.is_ordinary();
        write_traffic(&testbed, options.frame)?;
        let Testbed { idle, services, servers, .. } = testbed;
        let facts = [("idle_sessions", idle), ("services", services.into()), ("servers", servers.into())];
        report.add(
            measure(&testbed, options, programs.as_ref(), baseline.as_deref())?,
            memory.name(),
            &facts,
        );
    }
    report.finish(options.json.as_deref())
}

/// Writes the testbed's ACKs, once to open the sessions and once to be repeated.
pub fn write_traffic(testbed: &Testbed, frame: usize) -> Result<()> {
    // Frames of IPv6 are as long as they are.
    let shape = (!testbed.method.v6()).then_some(frame);
    let flows =
        |count, queue| traffic::Flows { count, services: testbed.services, queue, queues: testbed.workers };
    for (queue, (acks, openings)) in (0..).zip(testbed.acks().iter().zip(&testbed.openings())) {
        let mac = traffic::pcap_mac;
        traffic::write(acks, flows(testbed.flows, queue), traffic::Kind::Ack, mac(ACK_DEVICE), shape, 1)
            .map_err(Error::file(acks))?;
        traffic::write(
            openings,
            flows(testbed.sessions(), queue),
            traffic::Kind::Ack,
            mac(SYN_DEVICE),
            shape,
            2,
        )
        .map_err(Error::file(openings))?;
    }
    Ok(())
}

fn measure(
    testbed: &Testbed,
    options: &Options,
    programs: Option<&weir::Found>,
    baseline: Option<&Path>,
) -> Result<Row> {
    let baseline = baseline.filter(|_| testbed.method == Method::Fullnat);
    let warm_up = Duration::from_millis(options.warm_up);
    let period = Duration::from_millis(options.period);
    let mut row = Row::new(testbed.flows, testbed.method.name());
    for round in 1..=options.rounds {
        eprintln!("{}, {} flows, round {round} of {}", testbed.method.name(), testbed.flows, options.rounds);
        let mut peer = match options.only {
            Some(Which::Weir) => None,
            _ => Some(testpmd::start(testbed, &options.testpmd)?),
        };
        peer.as_ref().inspect(|s| s.process.pause());
        let mut ours = programs.map(|p| weir::start(testbed, p)).transpose()?;
        ours.as_ref().inspect(|s| s.process.pause());
        let mut base = baseline.map(|program| capsule::start(testbed, program)).transpose()?;
        base.as_ref().inspect(|s| s.process.pause());
        for _ in 0..options.samples {
            let sample = |s: &mut Subject| s.measure(warm_up, period);
            row.testpmd.extend(peer.as_mut().map(sample).transpose()?);
            row.ours.extend(ours.as_mut().map(sample).transpose()?);
            row.capsule.extend(base.as_mut().map(sample).transpose()?);
        }
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_gets_a_cpu_of_its_own() {
        let (worker, main) = choose_cpus(None).unwrap();
        assert_ne!(worker, main);
    }
}
