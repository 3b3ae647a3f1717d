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
type Session = (Ipv4Addr, u16, u8);

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
        Some((lip, port, server as u8))
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

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<usize>().expect("a number"));
    let mut arg = |default| args.next().unwrap_or(default);
    let (sessions, lips, servers, workers) = (arg(2_000_000), arg(12), arg(4), arg(1));
    let steering = if workers == 1 {
        Steering::single()
    } else {
        Steering::for_ports(&[Some(Rss::weir(workers as u16))], workers as u16)
    };
    let config = PoolConfig { sessions, seed: 1, ..PoolConfig::default() };
    let pool = LocalPool::new(Arc::new(steering), WorkerId(0), &config).expect("a pool");
    let address = |net: u32| move |n: usize| Ipv4Addr::from_bits(net + n as u32);
    let mut b = Bench {
        pool,
        lips: (1..=lips).map(address(0xc000_0200)).collect(),
        rips: (1..=servers).map(address(0x0a00_0000)).collect(),
        live: Vec::new(),
        random: 88_172_645_463_325_252,
    };
    // Pages of the sessions themselves aren't the pool's.
    b.live.resize(lips * servers * 65_536, (Ipv4Addr::UNSPECIFIED, 0, 0));
    b.live.clear();

    let before = resident();
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
    while let Some(session) = b.allocate(filled % servers, Tick(100_000_000)) {
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
    println!(
        "memory in the end         {:6.2} bytes a session",
        (resident() - before) as f64 / b.live.len() as f64
    );
}
