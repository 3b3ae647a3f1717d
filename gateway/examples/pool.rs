//! What local ports cost: `cargo run --release -p weir --example pool [SESSIONS [LIPS [SERVERS [WORKERS]]]]`.
//!
//! Fills a pool, then replaces random sessions, at a rate that lets ports rest and at one that doesn't, and
//! prints nanoseconds an operation and bytes a session. Defaults: 2 million sessions, 12 local addresses, 4
//! servers, one worker. With several workers it is the first one's share of the work.

use std::{hint::black_box, net::Ipv4Addr, sync::Arc, time::Duration};

use weir::{
    clock::Tick,
    id::WorkerId,
    table::{
        pool::{LocalPool, PoolConfig},
        rss::Rss,
        steering::Steering,
    },
};
use weirctl::model::Protocol::Tcp;

// As the gateway does: it puts large tables on huge pages where the system lets it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
            let now = from.after((batch as u64 * 1024 * 100 / u64::from(rate)) as u32);
            let picks: Vec<usize> = (0..1024).map(|_| self.draw(self.live.len())).collect();
            let old: Vec<Session> = picks.iter().map(|&at| self.live[at]).collect();
            let mut seen = std::collections::HashSet::new();
            let picks: Vec<usize> = picks.into_iter().filter(|&at| seen.insert(at)).collect();
            let old: Vec<Session> =
                if old.len() == picks.len() { old } else { picks.iter().map(|&at| self.live[at]).collect() };
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
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

/// Resident memory in bytes.
fn resident() -> usize {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let rss = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap_or_default();
    rss.trim().trim_end_matches(" kB").parse().unwrap_or(0) * 1024
}

/// What it costs to find the owner of a reply or a client when there are several workers.
fn owners(workers: u16) {
    let steering = Steering::software(workers);
    let n = 4_000_000u32;
    let lip = Ipv4Addr::new(192, 0, 2, 1);
    let start = cpu_time();
    let sum: u64 = (0..n)
        .map(|i| steering.owner_of_reply(Ipv4Addr::from_bits(i >> 4), 80, lip, i as u16, Tcp).0)
        .map(u64::from)
        .sum();
    let reply = cpu_time() - start;
    let start = cpu_time();
    let sum: u64 =
        (0..n).map(|i| u64::from(steering.owner_of_client(Ipv4Addr::from_bits(i), 5, Tcp).0)).sum::<u64>()
            + sum;
    let client = cpu_time() - start;
    black_box(sum);
    let per = |d: Duration| d.as_nanos() as f64 / f64::from(n);
    println!(
        "owner                     {:6.1} ns of a reply, {:6.1} ns of a client",
        per(reply),
        per(client)
    );
}

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<usize>().expect("a number"));
    let mut arg = |default| args.next().unwrap_or(default);
    let (sessions, lips, servers, workers) = (arg(2_000_000), arg(12), arg(4), arg(1));
    let steering = if workers == 1 {
        Steering::single()
    } else {
        Steering::for_ports(&[Some(Rss::weir(workers as u16))], workers as u16)
    };
    // Pages of the sessions themselves aren't the pool's.
    let most = (lips * servers * 65_536).min(4 * sessions);
    let mut live = vec![(Ipv4Addr::BROADCAST, 1, 1); most];
    live.clear();
    let before = resident();
    let config = PoolConfig { sessions, seed: 1, ..PoolConfig::default() };
    let pool = LocalPool::new(Arc::new(steering), WorkerId(0), &config).expect("a pool");
    let address = |net: u32| move |n: usize| Ipv4Addr::from_bits(net + n as u32);
    let mut b = Bench {
        pool,
        lips: (1..=lips).map(address(0xc000_0200)).collect(),
        rips: (1..=servers).map(address(0x0a00_0000)).collect(),
        live,
        random: 88_172_645_463_325_252,
    };

    let start = cpu_time();
    for n in 0..sessions {
        let session = b.allocate(n % servers, Tick((n / 30_000) as u32));
        b.live.extend(session);
    }
    let took = cpu_time() - start;
    let per = |d: Duration, n: usize| d.as_nanos() as f64 / n as f64;
    println!("{} sessions, {lips} local addresses, {servers} servers, {workers} workers", b.live.len());
    println!("fill                      {:6.1} ns an allocation", per(took, sessions));
    println!(
        "memory                    {:6.2} bytes a session",
        (resident() - before) as f64 / sessions as f64
    );

    let n = 2 * sessions;
    for (what, rate) in [("ports rest, 5 k/s", 5_000), ("under pressure, 3 M/s", 3_000_000)] {
        let early = b.pool.usage().early_reuse();
        let (release, allocate) = b.churn(n, rate, Tick(1_000_000));
        println!(
            "{what:<25} {:6.1} ns a release, {:6.1} ns an allocation, {:.0} % early reuse",
            per(release, n),
            per(allocate, n),
            (b.pool.usage().early_reuse() - early) as f64 * 100.0 / n as f64,
        );
    }

    let mut filled = 0usize;
    let start = cpu_time();
    while b.live.len() < most
        && let Some(session) = b.allocate(filled % servers, Tick(100_000_000))
    {
        b.live.push(session);
        filled += 1;
    }
    println!(
        "fill to the last port     {:6.1} ns an allocation ({filled} more)",
        per(cpu_time() - start, filled.max(1))
    );
    let start = cpu_time();
    for n in 0..1_000_000 {
        black_box(b.allocate(n % servers, Tick(100_000_000)));
    }
    println!("refuse when all is used   {:6.1} ns", per(cpu_time() - start, 1_000_000));
    let (release, allocate) = b.churn(n, 3_000_000, Tick(100_000_000));
    println!(
        "at 100 % full             {:6.1} ns a release, {:6.1} ns an allocation",
        per(release, n),
        per(allocate, n)
    );
    owners(workers.max(2) as u16);
    println!(
        "memory in the end         {:6.2} bytes a session",
        (resident() - before) as f64 / b.live.len() as f64
    );
}
