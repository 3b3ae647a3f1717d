//! `pool`: what local ports cost, in process.
//!
//! Fills a pool, then replaces random sessions, at a rate that lets ports rest and at one that doesn't, then takes
//! the last port and asks for more. With several workers it is the first one's share of the work.

use std::{
    collections::HashSet, fs, hint::black_box, net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration,
};

use clap::Args;
use serde_json::{Value, json};
use weir::{
    clock::{Tick, Ticks},
    id::WorkerId,
    table::{
        pool::{LocalPool, PoolConfig},
        rss::Rss,
        steering::Steering,
    },
};
use weir_api::model::Protocol::Tcp;

use crate::{
    error::{Error, Result},
    process::check_interrupted,
    report::{Spread, write_json},
};

/// What to fill.
#[derive(Args, Debug)]
pub struct Options {
    /// Sessions to open first.
    #[arg(long, default_value_t = 2_000_000)]
    sessions: usize,
    /// Local addresses.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..))]
    local_addresses: u16,
    /// Real servers.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    servers: u16,
    /// Workers, among which replies are steered.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Repetitions, each from an empty pool.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    samples: u16,
    /// Also write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A session: local address and port, server.
type Session = (Ipv4Addr, u16, u32);

struct Bench {
    pool: LocalPool,
    lips: Vec<Ipv4Addr>,
    rips: Vec<Ipv4Addr>,
    live: Vec<Session>,
    random: u64,
}

impl Bench {
    fn allocate(&mut self, server: usize, now: Tick) -> Option<Session> {
        let (lip, port) = self.pool.allocate(&self.lips, self.rips[server], 80, Tcp, now).ok()?;
        Some((lip, port, server as u32))
    }

    fn release(&mut self, (lip, port, server): Session, now: Tick) {
        self.pool.release(lip, port, self.rips[server as usize], 80, Tcp, now);
    }

    fn draw(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((u128::from(self.random) * below as u128) >> 64) as usize
    }

    /// Replaces `n` random sessions in batches, `rate` a second of virtual time; time for each of release
    /// and allocation.
    fn churn(&mut self, n: usize, rate: u32, from: Tick) -> (Duration, Duration) {
        let (mut releasing, mut allocating) = (Duration::ZERO, Duration::ZERO);
        for batch in 0..n / 1024 {
            let now = from.after(Ticks((batch as u64 * 1024 * 100 / u64::from(rate)) as u32));
            let picks: HashSet<usize> = (0..1024).map(|_| self.draw(self.live.len())).collect();
            let old: Vec<Session> = picks.iter().map(|&at| self.live[at]).collect();
            let start = cpu_time();
            for &session in &old {
                self.release(session, now);
            }
            releasing += cpu_time() - start;
            let start = cpu_time();
            for (&at, &(.., server)) in picks.iter().zip(&old) {
                if let Some(session) = self.allocate(server as usize, now) {
                    self.live[at] = session;
                }
            }
            allocating += cpu_time() - start;
        }
        (releasing, allocating)
    }
}

/// Time this thread spent on a processor: the machine may be shared.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

/// Resident memory in bytes.
fn resident() -> usize {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let rss = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap_or_default();
    rss.trim().trim_end_matches(" kB").parse().unwrap_or(0) * 1024
}

/// Nanoseconds each of `n`.
fn each(time: Duration, n: usize) -> f64 {
    time.as_nanos() as f64 / n.max(1) as f64
}

/// What it costs to find the owner of a reply and of a client.
fn owners(steering: &Steering) -> [f64; 2] {
    let n = 4_000_000u32;
    let lip = Ipv4Addr::new(192, 0, 2, 1);
    let time = |owner: &dyn Fn(u32) -> WorkerId| {
        let start = cpu_time();
        black_box((0..n).map(|i| u64::from(owner(i).0)).sum::<u64>());
        each(cpu_time() - start, n as usize)
    };
    [
        time(&|i| steering.owner_of_reply(Ipv4Addr::from_bits(i >> 4), 80, lip, i as u16, Tcp)),
        time(&|i| steering.owner_of_client(Ipv4Addr::from_bits(i), 5, Tcp)),
    ]
}

/// What was measured in one state of the pool.
#[derive(Debug, Default)]
struct Line {
    state: &'static str,
    allocate: Vec<f64>,
    release: Vec<f64>,
    /// Of the first repetition: later ones find memory that was given back.
    more: String,
}

/// The states, in their order.
#[derive(Debug, Default)]
struct Table {
    lines: Vec<Line>,
    /// Finding the owner of a reply, and of a client.
    owners: [Vec<f64>; 2],
}

impl Table {
    /// Notes what an allocation and a release cost in such a state, where it was measured.
    fn line(&mut self, state: &'static str, allocate: f64, release: Option<f64>, more: String) {
        let at = self.lines.iter().position(|line| line.state == state).unwrap_or_else(|| {
            self.lines.push(Line { state, more, ..Line::default() });
            self.lines.len() - 1
        });
        let line = &mut self.lines[at];
        line.allocate.push(allocate);
        line.release.extend(release);
    }

    fn print(&self) {
        let show = |samples: &[f64]| Spread::of(samples).map_or("-".to_owned(), |spread| spread.to_string());
        println!("{:<24} {:>24} {:>24}", "", "allocation", "release");
        for Line { state, allocate, release, more } in &self.lines {
            println!("{state:<24} {:>24} {:>24}  {more}", show(allocate), show(release));
        }
        let [reply, client] = &self.owners;
        println!("owner of a reply {} ns, of a client {} ns", show(reply), show(client));
    }

    fn json(&self) -> Vec<Value> {
        let median = |samples: &[f64]| Spread::of(samples).map(|spread| spread.median);
        let quartiles = |samples: &[f64]| Spread::of(samples).map(|spread| [spread.low, spread.high]);
        let row = |line: &Line| {
            json!({
                "state": line.state,
                "allocate_ns": median(&line.allocate),
                "allocate_quartiles": quartiles(&line.allocate),
                "release_ns": median(&line.release),
                "release_quartiles": quartiles(&line.release),
                "note": line.more,
            })
        };
        self.lines.iter().map(row).collect()
    }
}

/// Runs the measurement and prints it.
pub fn run(options: &Options) -> Result<()> {
    let &Options { sessions, workers, .. } = options;
    let (lips, servers) = (usize::from(options.local_addresses), usize::from(options.servers));
    let steering = Arc::new(match workers {
        1 => Steering::single(),
        _ => Steering::for_ports(&[Some(Rss::weir(workers))], workers),
    });
    println!(
        "{sessions} sessions, {lips} local addresses, {servers} servers, worker 1 of {workers}; nanoseconds: median \
         (quartiles)"
    );
    let mut table = Table::default();
    for _ in 0..options.samples {
        check_interrupted()?;
        repeat(&mut table, &steering, (sessions, lips, servers))?;
        let owners = owners(&Steering::software(workers.max(2)));
        table.owners.iter_mut().zip(owners).for_each(|(samples, owner)| samples.push(owner));
    }
    table.print();
    write_json(options.json.as_deref(), &table.json())
}

/// Measures once.
fn repeat(
    table: &mut Table,
    steering: &Arc<Steering>,
    (sessions, lips, servers): (usize, usize, usize),
) -> Result<()> {
    // Pages of the sessions themselves aren't the pool's.
    let most = (lips * servers * 65_536).min(4 * sessions);
    let mut live = vec![(Ipv4Addr::BROADCAST, 1, 1); most];
    live.clear();
    let config = PoolConfig { sessions, seed: 1, ..PoolConfig::default() };
    let pool = LocalPool::new(Arc::clone(steering), WorkerId(0), &config)
        .map_err(|e| Error::Unexpected(format!("local addresses: {e}")))?;
    let address = |net: u32| move |n: usize| Ipv4Addr::from_bits(net + n as u32);
    let mut bench = Bench {
        pool,
        lips: (1..=lips).map(address(0xc000_0200)).collect(),
        rips: (1..=servers).map(address(0x0a00_0000)).collect(),
        live,
        random: 88_172_645_463_325_252,
    };
    measure(&mut bench, table, (sessions, servers, most));
    Ok(())
}

/// From empty to full.
fn measure(bench: &mut Bench, table: &mut Table, (sessions, servers, most): (usize, usize, usize)) {
    let (before, start) = (resident(), cpu_time());
    for n in 0..sessions {
        let session = bench.allocate(n % servers, Tick((n / 30_000) as u32));
        bench.live.extend(session);
    }
    let filled = bench.live.len();
    let took = each(cpu_time() - start, sessions);
    let bytes = resident().saturating_sub(before) as f64 / filled.max(1) as f64;
    table.line("fill", took, None, format!("{filled} sessions, {bytes:.1} bytes each"));
    let n = 2 * sessions;
    for (state, rate) in [("ports rest, 5 k/s", 5_000), ("under pressure, 3 M/s", 3_000_000)] {
        let early = bench.pool.usage().early_reuse();
        let (release, allocate) = bench.churn(n, rate, Tick(1_000_000));
        let early = (bench.pool.usage().early_reuse() - early) as f64 * 100.0 / n as f64;
        table.line(
            state,
            each(allocate, n),
            Some(each(release, n)),
            format!("{early:.0} % used again early"),
        );
    }
    let late = Tick(100_000_000);
    let mut more = 0usize;
    let start = cpu_time();
    while bench.live.len() < most
        && let Some(session) = bench.allocate(more % servers, late)
    {
        bench.live.push(session);
        more += 1;
    }
    table.line(
        "fill to the last port",
        each(cpu_time() - start, more),
        None,
        format!("{more} sessions more"),
    );
    let start = cpu_time();
    for n in 0..1_000_000 {
        black_box(bench.allocate(n % servers, late));
    }
    table.line("refused", each(cpu_time() - start, 1_000_000), None, String::new());
    let (release, allocate) = bench.churn(n, 3_000_000, late);
    table.line("100 % full", each(allocate, n), Some(each(release, n)), String::new());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_pool_fills_to_its_last_port() {
        let config = PoolConfig { sessions: 70_000, seed: 1, ..PoolConfig::default() };
        let pool = LocalPool::new(Arc::new(Steering::single()), WorkerId(0), &config).unwrap();
        let (lips, rips) = (vec![Ipv4Addr::new(192, 0, 2, 1)], vec![Ipv4Addr::new(10, 0, 0, 1)]);
        let mut bench = Bench { pool, lips, rips, live: Vec::new(), random: 1 };
        let mut table = Table::default();
        measure(&mut bench, &mut table, (10_000, 1, 65_536));
        assert_eq!((table.lines.len(), table.lines[4].state), (6, "refused"));
        assert!(table.json().iter().all(|row| row["allocate_ns"].is_f64()));
        let mut ports: Vec<u16> = bench.live.iter().map(|session| session.1).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), bench.live.len(), "a port was given twice");
        assert!(bench.allocate(0, Tick(100_000_000)).is_none(), "there was another port");
    }
}
