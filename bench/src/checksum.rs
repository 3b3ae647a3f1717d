//! `checksum`: what each way to get a packet's checksums right costs on the worker's CPU.
//!
//! A rewritten packet's checksums can be changed by the difference (RFC 1624, what weir does), left to the sending
//! device (header lengths and flags in the mbuf, and the pseudo-header's sum in the packet), or computed in full. A
//! received header's can be computed, or taken from the receiving device's flags in the mbuf. Frames are in the
//! cache, as they are when weir rewrites them; the device's own part costs the CPU nothing.

use std::{hint::black_box, net::Ipv4Addr, path::PathBuf};

use clap::Args;
use dpdk::{Checksum, L4, Mbuf, Mempool, MempoolConfig};
use serde_json::json;
use weir::net::{
    checksum::{Delta, Sum},
    ipv4, protocol,
};

use crate::{
    error::{Error, Result},
    process::check_interrupted,
    report::{Spread, write_json},
    table::{start_eal, thread_time},
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Lengths of frames, comma-separated, without frame check sequence: at least 54.
    #[arg(long, value_delimiter = ',', default_values_t = [60, 590, 1514], value_parser = clap::value_parser!(u16).range(54..=1514))]
    frames: Vec<u16>,
    /// Repetitions, of which the median counts.
    #[arg(long, default_value_t = 15)]
    samples: u32,
    /// Also write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Frames at hand, as in a burst.
const BURST: usize = 32;
/// Rounds over the burst in a sample.
const ROUNDS: usize = 20_000;
/// Where the headers and their checksums are.
const L3: usize = 14;
const L4_AT: usize = 34;
const IP_CHECK: usize = 24;
const TCP_CHECK: usize = 50;

type Frames = Vec<Mbuf>;

/// One way to have right checksums.
struct Way {
    name: &'static str,
    /// To be done to each frame; a value that depends on what was done.
    apply: fn(&mut Mbuf) -> u64,
}

const WAYS: [Way; 5] = [
    Way { name: "sent: changed by the difference", apply: difference },
    Way { name: "sent: asked of the device", apply: ask },
    Way { name: "sent: computed in full", apply: in_full },
    Way { name: "received: header summed", apply: sum_header },
    Way { name: "received: the device's word", apply: device_s_word },
];

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let eal = start_eal(0)?;
    let config = MempoolConfig { buffers: 255, data_room: dpdk::DATA_ROOM, cache: 0, socket: None };
    let pool = Mempool::new(&eal, &config).map_err(|e| Error::Unexpected(format!("DPDK: {e}")))?;
    println!("ns a packet of the worker's time: median (quartiles), by length of the frame");
    print!("{:<34}", "");
    options.frames.iter().for_each(|length| print!(" {length:>22}"));
    println!();
    let mut rows = Vec::new();
    for Way { name, apply } in WAYS {
        print!("{name:<34}");
        for &length in &options.frames {
            let mut frames = (0..BURST).map(|n| frame(&pool, length, n)).collect::<Result<Frames>>()?;
            let mut times = Vec::new();
            for _ in 0..options.samples {
                check_interrupted()?;
                times.push(sample(&mut frames, apply)?);
            }
            let Some(spread) = Spread::of(&times) else { continue };
            print!(" {spread:>22}");
            let Spread { median, low, high } = spread;
            rows.push(json!({"way": name, "frame": length, "ns": median, "quartiles": [low, high]}));
        }
        println!();
    }
    write_json(options.json.as_deref(), &rows)
}

/// A TCP frame with right checksums.
fn frame(pool: &Mempool, length: u16, n: usize) -> Result<Mbuf> {
    let mut bytes = vec![n as u8; length.into()];
    bytes[12..14].copy_from_slice(&[8, 0]);
    let total = (length - L3 as u16).to_be_bytes();
    bytes[L3..L4_AT].copy_from_slice(&[
        0x45,
        0,
        total[0],
        total[1],
        0,
        1,
        0x40,
        0,
        64,
        protocol::TCP,
        0,
        0,
        10,
        1,
        0,
        1,
        192,
        0,
        2,
        1,
    ]);
    bytes[46] = 0x50;
    let mut frame =
        pool.alloc_from(&bytes).ok_or_else(|| Error::Unexpected("DPDK: no buffer for a frame".to_owned()))?;
    in_full(&mut frame);
    Ok(frame)
}

fn sample(frames: &mut [Mbuf], apply: fn(&mut Mbuf) -> u64) -> Result<f64> {
    let start = thread_time()?;
    let mut sum = 0u64;
    for _ in 0..ROUNDS {
        for frame in frames.iter_mut() {
            sum = sum.wrapping_add(apply(black_box(frame)));
        }
    }
    black_box(sum);
    Ok((thread_time()? - start).as_nanos() as f64 / (ROUNDS * BURST) as f64)
}

fn field(data: &mut [u8], at: usize) -> &mut [u8; 2] {
    data[at..].first_chunk_mut().expect("frames have 54 bytes")
}

/// Both fields by a difference that there and back is none.
fn difference(frame: &mut Mbuf) -> u64 {
    let data = frame.data_mut();
    let delta = black_box(Delta::NONE);
    let (ip, tcp) = (*field(data, IP_CHECK), *field(data, TCP_CHECK));
    *field(data, IP_CHECK) = delta.apply_to(ip);
    *field(data, TCP_CHECK) = delta.apply_to(tcp);
    0
}

fn addresses(data: &[u8]) -> (Ipv4Addr, Ipv4Addr) {
    let at = |at: usize| Ipv4Addr::from(*data[at..].first_chunk::<4>().expect("frames have 54 bytes"));
    (at(26), at(30))
}

fn pseudo(data: &[u8]) -> Sum {
    let (source, destination) = addresses(data);
    Sum::pseudo_v4(source, destination, protocol::TCP, (data.len() - L4_AT) as u16)
}

/// Flags and lengths in the mbuf; the device wants the pseudo-header's sum, not complemented, and no IP checksum.
fn ask(frame: &mut Mbuf) -> u64 {
    let data = frame.data_mut();
    let sum = pseudo(data).fold();
    *field(data, IP_CHECK) = [0; 2];
    *field(data, TCP_CHECK) = sum.to_be_bytes();
    frame.request_checksums(L3, L4_AT - L3, true, Some(L4::Tcp)).into()
}

fn in_full(frame: &mut Mbuf) -> u64 {
    let data = frame.data_mut();
    *field(data, IP_CHECK) = [0; 2];
    let ip = Sum::of(&data[L3..L4_AT]).checksum();
    *field(data, IP_CHECK) = ip.to_be_bytes();
    *field(data, TCP_CHECK) = [0; 2];
    let tcp = pseudo(data).and(Sum::of(&data[L4_AT..])).checksum();
    *field(data, TCP_CHECK) = tcp.to_be_bytes();
    u64::from(tcp)
}

fn sum_header(frame: &mut Mbuf) -> u64 {
    ipv4::checksum_ok(&frame.data()[L3..L4_AT]).into()
}

fn device_s_word(frame: &mut Mbuf) -> u64 {
    (frame.ip_checksum() == Checksum::Good).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_gives_right_checksums() {
        let eal = start_eal(0).unwrap();
        let config = MempoolConfig { buffers: 63, data_room: dpdk::DATA_ROOM, cache: 0, socket: None };
        let pool = Mempool::new(&eal, &config).unwrap();
        let right = |frame: &Mbuf| {
            let data = frame.data();
            let tcp = pseudo(data).and(Sum::of(&data[L4_AT..])).checksum();
            (ipv4::checksum_ok(&data[L3..L4_AT]), tcp)
        };
        for length in [60, 61, 1514] {
            let mut frame = frame(&pool, length, 3).unwrap();
            assert_eq!(right(&frame), (true, 0));
            assert_eq!(sum_header(&mut frame), 1);
            difference(&mut frame);
            assert_eq!(right(&frame), (true, 0));
            // What the device would add to what is there.
            assert_eq!(ask(&mut frame), 1);
            let (there, data) = (*field(frame.data_mut(), TCP_CHECK), frame.data());
            assert_eq!(u16::from_be_bytes(there), pseudo(data).fold());
            assert!(sample(&mut [frame], difference).unwrap() > 0.0);
        }
    }
}
