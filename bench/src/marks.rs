//! `marks`: finding the mark of a packet among many rules, in process and with the same rules and packets.
//!
//! A list tried in order, weir's bit vectors, and DPDK's rte_acl, one packet at a time as a packet without session asks,
//! and a burst at once. Half of the packets have a mark.

use std::{hint::black_box, net::Ipv4Addr, time::Instant};

use clap::Args;
use dpdk::Eal;
use rte_tables::acl::{self, RteAcl};
use weir::{
    io::PortId,
    path::flow::mark::{Marks, WorkerMarkRule},
    table::endpoints::Endpoints,
};
use weir_api::model::{MarkRule, Protocol};

use crate::{
    error::{Error, Result},
    report::Spread,
    table::{start_eal, thread_time},
    traffic::Random,
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Numbers of rules, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1_000, 4_096])]
    rules: Vec<usize>,
    /// Repetitions; the median is printed.
    #[arg(long, default_value_t = 5)]
    samples: u32,
}

/// Packets that are looked up again and again.
const PACKETS: usize = 4096;

/// A way to find marks.
trait Finder {
    /// The sum of the numbers of the first rules that apply, counted from 1, over all packets.
    fn sum(&self) -> u64;
}

struct List(Vec<WorkerMarkRule>, Vec<Endpoints>);

impl Finder for List {
    fn sum(&self) -> u64 {
        let Self(rules, packets) = self;
        let first = |ends: &Endpoints| rules.iter().position(|r| r.applies(PortId(0), black_box(ends), 6));
        packets.iter().map(|ends| first(ends).map_or(0, |n| n as u64 + 1)).sum()
    }
}

struct Vectors(Marks, Vec<Endpoints>);

impl Finder for Vectors {
    fn sum(&self) -> u64 {
        let Self(marks, packets) = self;
        packets.iter().map(|ends| marks.of(PortId(0), black_box(ends), 6).map_or(0, u64::from)).sum()
    }
}

struct Acl<'e> {
    acl: RteAcl<'e>,
    keys: Vec<acl::Key>,
    at_once: usize,
}

impl Finder for Acl<'_> {
    fn sum(&self) -> u64 {
        let mut results = [0; acl::BULK];
        let mut sum = 0;
        for burst in self.keys.chunks(self.at_once) {
            self.acl.classify(black_box(burst), &mut results);
            sum += results[..burst.len()].iter().map(|&n| u64::from(n)).sum::<u64>();
        }
        sum
    }
}

/// Rules as people have them: a network or a host, a port or a few, rarely a source.
fn rules(count: usize) -> Vec<MarkRule> {
    let mut random = Random(11);
    let rule = |n: usize| {
        let bits = [32, 32, 28, 24][random.below(4) as usize];
        let port = random.below(60_000) as u16;
        let last = port + [0, 0, 0, 1000][random.below(4) as usize];
        let source = (random.below(8) == 0)
            .then(|| (Ipv4Addr::from_bits(0x0a00_0000 | (random.below(1 << 16) << 8) as u32).into(), 16));
        MarkRule {
            mark: n as u32 + 1,
            priority: 0,
            protocol: (random.below(4) != 0).then_some(Protocol::Tcp),
            source,
            destination: Some((Ipv4Addr::from_bits(0xc000_0000 | random.below(1 << 24) as u32).into(), bits)),
            source_ports: None,
            destination_ports: (random.below(3) != 0).then_some((port, last)),
            port: None,
        }
    };
    (0..count).map(rule).collect()
}

fn v4(address: std::net::IpAddr) -> u32 {
    match address {
        std::net::IpAddr::V4(a) => a.to_bits(),
        std::net::IpAddr::V6(_) => 0,
    }
}

fn acl_rule(rule: &MarkRule) -> acl::Rule {
    let network = |net: Option<(std::net::IpAddr, u8)>| net.map_or((0, 0), |(a, bits)| (v4(a), bits));
    acl::Rule {
        protocol: rule.protocol.map(|p| p as u8),
        source: network(rule.source),
        destination: network(rule.destination),
        source_ports: rule.source_ports.unwrap_or((0, u16::MAX)),
        destination_ports: rule.destination_ports.unwrap_or((0, u16::MAX)),
    }
}

/// Packets, every other of which is as one of the rules says.
fn packets(rules: &[MarkRule]) -> Vec<Endpoints> {
    let mut random = Random(12);
    let mut packet = |n: usize| {
        let mut source = 0x0a00_0000 | random.below(1 << 24) as u32;
        let (mut destination, mut port) =
            (0xc000_0000 | random.below(1 << 24) as u32, random.below(1 << 16) as u16);
        if n.is_multiple_of(2) {
            let rule = &rules[random.below(rules.len() as u64) as usize];
            source = rule.source.map_or(source, |(a, _)| v4(a));
            destination = rule.destination.map_or(destination, |(a, _)| v4(a));
            port = rule.destination_ports.map_or(port, |(first, _)| first);
        }
        let end = |address, port| (Ipv4Addr::from_bits(address).into(), port);
        Endpoints { source: end(source, 40_000), destination: end(destination, port) }
    };
    (0..PACKETS).map(&mut packet).collect()
}

fn key(ends: &Endpoints) -> acl::Key {
    let mut key = [0; 16];
    key[0] = 6;
    key[4..8].copy_from_slice(&v4(ends.source.0).to_be_bytes());
    key[8..12].copy_from_slice(&v4(ends.destination.0).to_be_bytes());
    key[12..14].copy_from_slice(&ends.source.1.to_be_bytes());
    key[14..].copy_from_slice(&ends.destination.1.to_be_bytes());
    key
}

/// A finder by its name, and the milliseconds that making it took.
fn made<'e>(
    name: &str,
    rules: &[MarkRule],
    packets: &[Endpoints],
    eal: &'e Eal,
) -> Result<(Box<dyn Finder + 'e>, f64)> {
    let own = || rules.iter().filter_map(|rule| WorkerMarkRule::new(rule, &[]));
    let begin = Instant::now();
    let finder: Box<dyn Finder> = match name {
        "list" => Box::new(List(own().collect(), packets.to_vec())),
        "weir's bit vectors" => Box::new(Vectors(own().collect(), packets.to_vec())),
        _ => {
            let raw: Vec<_> = rules.iter().map(acl_rule).collect();
            let acl =
                RteAcl::new(eal, &raw).ok_or_else(|| Error::Unexpected("rte_acl: no memory".to_owned()))?;
            let at_once = if name == "rte_acl, one" { 1 } else { acl::BULK };
            Box::new(Acl { acl, keys: packets.iter().map(key).collect(), at_once })
        }
    };
    Ok((finder, begin.elapsed().as_secs_f64() * 1e3))
}

/// The candidates by name.
const CANDIDATES: [&str; 4] = ["list", "weir's bit vectors", "rte_acl, one", "rte_acl, 32 at once"];

/// Runs it and prints a table.
pub fn run(options: &Options) -> Result<()> {
    let eal = start_eal(1 << 21)?;
    println!("ns a look-up (median of {}), half of the packets marked; ms to build", options.samples);
    println!("{:<22} {:>7} {:>9} {:>9}", "finder", "rules", "ns", "build ms");
    for &count in &options.rules {
        let rules = rules(count);
        let packets = packets(&rules);
        let mut due = None;
        for name in CANDIDATES {
            let (finder, build) = made(name, &rules, &packets, &eal)?;
            let rounds = if name == "list" && count > 100 { 4 } else { 64 };
            let mut costs = Vec::new();
            for _ in 0..options.samples {
                let start = thread_time()?;
                for _ in 0..rounds {
                    let sum = finder.sum();
                    if *due.get_or_insert(sum) != sum {
                        return Err(Error::Unexpected(format!("{name} finds other rules than the list")));
                    }
                }
                costs.push((thread_time()? - start).as_nanos() as f64 / (rounds * PACKETS) as f64);
            }
            let median = Spread::of(&costs).map_or(f64::NAN, |s| s.median);
            println!("{name:<22} {count:>7} {median:>9.1} {build:>9.2}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_and_vectors_find_the_same_rules() {
        for count in [1, 70, 700] {
            let rules = rules(count);
            let packets = packets(&rules);
            let own = || rules.iter().filter_map(|rule| WorkerMarkRule::new(rule, &[]));
            let list = List(own().collect(), packets.clone()).sum();
            assert!(list > 0);
            assert_eq!(list, Vectors(own().collect(), packets).sum());
        }
    }
}
