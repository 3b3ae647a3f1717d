//! Measures the bare wrapper: empty polls, and frames from `net_pcap` (replayed from memory) to `net_null`.
//!
//! `cargo run --release -p dpdk --example rates [FRAMES_IN_FILE [SECONDS]]`
//!
//! Rates are per second of CPU time of the worker's thread, so that a busy machine doesn't distort them. The frames
//! pass unchanged: this is the upper bound for the packet path between receiving and sending.

use std::{
    error::Error,
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use arrayvec::ArrayVec;
use dpdk::{Cpus, Eal, EalConfig, Mbuf, Mempool, MempoolConfig, PortConfig, RxQueue, TxQueue, free_bulk};

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Burst = ArrayVec<Mbuf, 32>;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let frames: usize = args.next().map_or(Ok(1000), |a| a.parse())?;
    let seconds: u64 = args.next().map_or(Ok(3), |a| a.parse())?;
    let file = std::env::temp_dir().join(format!("dpdk-rates-{}.pcap", std::process::id()));
    write_pcap(&file, frames)?;
    let result = measure(&file, frames, Duration::from_secs(seconds));
    std::fs::remove_file(&file)?;
    result
}

fn measure(file: &Path, frames: usize, time: Duration) -> Result<()> {
    // The pcap driver keeps its own buffers of the file in addition to the pool.
    let buffers = MempoolConfig { buffers: 16_384, ..MempoolConfig::default() };
    let mut eal = Eal::init(&EalConfig {
        name: "rates".to_owned(),
        cpus: Cpus::Spread(1),
        devices: Vec::new(),
        memory: buffers.bytes() + frames as u64 * 4096 + (64 << 20),
        args: Vec::new(),
        log: None,
    })?;
    println!("memory: {:?}", eal.memory());
    let pool = Mempool::new(&eal, &buffers)?;
    let many = Mempool::new(&eal, &MempoolConfig { buffers: (frames as u32 * 2).max(1023), ..buffers })?;

    let mut source = eal.attach(&format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display()))?;
    let mut empty = eal.attach("net_null0,no-rx=1")?;
    let mut sink = eal.attach("net_null1,no-rx=1")?;
    let mut from = source.start(&PortConfig::default(), &many)?;
    let mut idle = empty.start(&PortConfig::default(), &pool)?;
    let mut to = sink.start(&PortConfig::default(), &pool)?;

    let lcore = eal.take_lcores().remove(0);
    let running = lcore.launch(move || {
        polls(&mut idle.rx[0], time);
        forward(&mut from.rx[0], &mut to.tx[0], time);
        drops(&mut from.rx[0], time);
        allocations(&pool, time);
    })?;
    let (result, lcore) = running.join();
    result.map_err(|_| "the worker panicked")?;
    // The queues of the other direction, which the closure didn't take.
    drop((from.tx, idle.tx, to.rx));
    drop((lcore, many, source, empty, sink));
    Ok(eal.shutdown()?)
}

/// Runs `f`, which returns how many items it has handled, for `time` and prints the rate.
fn rate(what: &str, time: Duration, mut f: impl FnMut() -> u64) {
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut done = 0;
    while start.elapsed() < time {
        for _ in 0..1000 {
            done += f();
        }
    }
    let used = cpu_seconds() - cpu;
    println!("{what:32} {:8.2} M/s   {:6.2} ns each", done as f64 / used / 1e6, used * 1e9 / done as f64);
}

fn polls(rx: &mut RxQueue, time: Duration) {
    let mut burst = Burst::new();
    rate("empty polls", time, || {
        black_box(rx.rx(&mut burst));
        1
    });
}

fn forward(rx: &mut RxQueue, tx: &mut TxQueue, time: Duration) {
    let mut burst = Burst::new();
    rate("frames received and sent", time, || {
        rx.rx(&mut burst);
        let sent = tx.tx(&mut burst);
        free_bulk(&mut burst);
        sent as u64
    });
}

fn drops(rx: &mut RxQueue, time: Duration) {
    let mut burst = Burst::new();
    rate("frames received and freed", time, || {
        let got = rx.rx(&mut burst);
        free_bulk(&mut burst);
        got as u64
    });
}

fn allocations(pool: &Mempool, time: Duration) {
    rate("frames allocated and dropped", time, || u64::from(black_box(pool.alloc()).is_some()));
}

/// CPU time of this thread.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos: u64 = text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    nanos as f64 / 1e9
}

/// A pcap file of 64-byte frames (60 without the checksum), each a little different.
fn write_pcap(path: &Path, frames: usize) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_536, 1u32] {
        bytes.extend(word.to_le_bytes());
    }
    for i in 0..frames {
        for word in [0, 0, 60, 60u32] {
            bytes.extend(word.to_le_bytes());
        }
        let mut frame = [0; 60];
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[26..30].copy_from_slice(&(i as u32).to_be_bytes());
        bytes.extend(frame);
    }
    std::fs::write(path, bytes)
}
