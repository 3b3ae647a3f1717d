//! Compares DPDK's rings with `rtrb`'s for frames from worker to worker, in bursts of 32 and one by one.
//!
//! `cargo run --release -p dpdk --example rings [SECONDS]`
//!
//! It runs on one thread first (the cost of the instructions), then between two lcores (the added cost of the cache
//! lines). Results are nanoseconds of one side's CPU time per frame.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arrayvec::ArrayVec;
use dpdk::{
    Cpus, Eal, EalConfig, Mbuf, Mempool, MempoolConfig,
    ring::{self, Receiver, Sender, SharedSender},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Burst<const N: usize> = ArrayVec<Mbuf, N>;

const CAPACITY: u32 = 1024;

/// A sending end: removes the frames that find room from the burst.
trait Send32: Send + 'static {
    fn send<const N: usize>(&mut self, burst: &mut Burst<N>);
}
/// A receiving end: fills the free room of the burst.
trait Receive32: Send + 'static {
    fn receive<const N: usize>(&mut self, burst: &mut Burst<N>);
}

impl Send32 for Sender {
    fn send<const N: usize>(&mut self, burst: &mut Burst<N>) {
        Self::send(self, burst);
    }
}
impl Send32 for SharedSender {
    fn send<const N: usize>(&mut self, burst: &mut Burst<N>) {
        Self::send(self, burst);
    }
}
impl Receive32 for Receiver {
    fn receive<const N: usize>(&mut self, burst: &mut Burst<N>) {
        Self::receive(self, burst);
    }
}
impl Send32 for rtrb::Producer<Mbuf> {
    fn send<const N: usize>(&mut self, burst: &mut Burst<N>) {
        let n = burst.len().min(self.slots());
        if let Ok(chunk) = self.write_chunk_uninit(n) {
            chunk.fill_from_iter(burst.drain(..n));
        }
    }
}
impl Receive32 for rtrb::Consumer<Mbuf> {
    fn receive<const N: usize>(&mut self, burst: &mut Burst<N>) {
        let n = burst.remaining_capacity().min(self.slots());
        if let Ok(chunk) = self.read_chunk(n) {
            burst.extend(chunk);
        }
    }
}

fn main() -> Result<()> {
    let seconds: u64 = std::env::args().nth(1).map_or(Ok(1), |a| a.parse())?;
    let time = Duration::from_secs(seconds);
    let mut eal = Eal::init(&EalConfig {
        name: "rings".to_owned(),
        cpus: Cpus::Spread(2),
        devices: Vec::new(),
        memory: 64 << 20,
        args: Vec::new(),
        log: None,
    })?;
    let pool = Mempool::new(&eal, &MempoolConfig::default())?;
    for round in 0..3 {
        println!("round {round}");
        one_thread("rte_ring SPSC", ring::spsc(&eal, CAPACITY)?, &pool, time);
        one_thread("rte_ring MPSC", ring::mpsc(&eal, CAPACITY)?, &pool, time);
        one_thread("rtrb", rtrb::RingBuffer::new(CAPACITY as usize), &pool, time);
    }
    let mut lcores = eal.take_lcores();
    for round in 0..3 {
        println!("two lcores, round {round}");
        lcores = two("rte_ring SPSC", ring::spsc(&eal, CAPACITY)?, &pool, time, lcores)?;
        lcores = two("rte_ring MPSC", ring::mpsc(&eal, CAPACITY)?, &pool, time, lcores)?;
        lcores = two("rtrb", rtrb::RingBuffer::new(CAPACITY as usize), &pool, time, lcores)?;
    }
    drop((lcores, pool));
    Ok(eal.shutdown()?)
}

fn one_thread<S: Send32, R: Receive32>(what: &str, (mut s, mut r): (S, R), pool: &Mempool, time: Duration) {
    let bursts = cost::<32, _, _>(&mut s, &mut r, pool, time);
    let single = cost::<1, _, _>(&mut s, &mut r, pool, time);
    println!("  {what:16} {bursts:7.2} ns in bursts of 32 {single:8.2} ns one by one");
}

fn cost<const N: usize, S: Send32, R: Receive32>(
    s: &mut S,
    r: &mut R,
    pool: &Mempool,
    time: Duration,
) -> f64 {
    let mut burst = Burst::<N>::new();
    pool.alloc_bulk(&mut burst);
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut moved = 0u64;
    while start.elapsed() < time {
        for _ in 0..1000 {
            s.send(&mut burst);
            r.receive(&mut burst);
            moved += N as u64;
        }
    }
    (cpu_seconds() - cpu) * 1e9 / moved as f64
}

fn two<S: Send32, R: Receive32>(
    what: &str,
    (mut s, mut r): (S, R),
    pool: &Mempool,
    time: Duration,
    mut lcores: Vec<dpdk::Lcore>,
) -> Result<Vec<dpdk::Lcore>> {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, pool) = (Arc::clone(&stop), pool.clone());
    let receiver = lcores.remove(1).launch(move || {
        let mut got = 0u64;
        let cpu = cpu_seconds();
        let mut burst = Burst::<32>::new();
        while !stopped.load(Relaxed) {
            r.receive(&mut burst);
            got += burst.len() as u64;
            dpdk::free_bulk(&mut burst);
        }
        (cpu_seconds() - cpu) * 1e9 / got as f64
    })?;
    let sender = lcores.remove(0).launch(move || {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let mut burst = Burst::<32>::new();
        let mut sent = 0u64;
        while start.elapsed() < time {
            for _ in 0..100 {
                pool.alloc_bulk(&mut burst);
                let had = burst.len() as u64;
                s.send(&mut burst);
                sent += had - burst.len() as u64;
            }
        }
        (cpu_seconds() - cpu) * 1e9 / sent as f64
    })?;
    let (sending, first) = sender.join();
    stop.store(true, Relaxed);
    let (receiving, second) = receiver.join();
    let failed = |_| "a worker panicked";
    println!(
        "  {what:16} {:7.2} ns a frame sent, {:7.2} ns a frame received (buffers allocated and freed)",
        sending.map_err(failed)?,
        receiving.map_err(failed)?
    );
    Ok(vec![first, second])
}

/// CPU time of this thread.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos: u64 = text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    nanos as f64 / 1e9
}
