//! `table`: candidates for the flow index, in process and on the same keys.
//!
//! What a session lookup costs decides how forwarding scales with flows; these figures say what general
//! tables reach, per operation and at every size: a hit in random order, a miss, and turnover (one entry out,
//! one in) at constant load.

use std::{hash::BuildHasher, hint::black_box, time::Duration};

use clap::Args;
use nix::time::{ClockId, clock_gettime};

use crate::{
    error::{Error, Result},
    report::Spread,
    traffic::{self, Random, VIP},
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Numbers of entries, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000, 1_000_000, 10_000_000])]
    entries: Vec<u32>,
    /// Repetitions; the median is printed.
    #[arg(long, default_value_t = 5)]
    samples: u32,
}

/// A packet's five-tuple as a key: client, virtual address, ports, protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    addresses: u64,
    ports: u32,
    protocol: u32,
}

impl Key {
    /// Of flow `i`.
    fn of(i: u32) -> Self {
        let (client, port) = traffic::client(i);
        let addresses = (u64::from(client.to_bits()) << 32) | u64::from(VIP.to_bits());
        Self { addresses, ports: (u32::from(port) << 16) | u32::from(traffic::PORT), protocol: 6 }
    }
}

/// Keys looked up together: a receive burst.
const BURST: usize = 32;

/// An index from keys to slots.
trait Index {
    fn insert(&mut self, key: Key, slot: u32);
    fn remove(&mut self, key: &Key) -> bool;
    /// How many of `keys` there are.
    fn find(&self, keys: &[Key]) -> usize;
}

impl<S: BuildHasher> Index for hashbrown::HashMap<Key, u32, S> {
    fn insert(&mut self, key: Key, slot: u32) {
        hashbrown::HashMap::insert(self, key, slot);
    }
    fn remove(&mut self, key: &Key) -> bool {
        hashbrown::HashMap::remove(self, key).is_some()
    }
    fn find(&self, keys: &[Key]) -> usize {
        keys.iter().filter(|k| black_box(self.get(*k)).is_some()).count()
    }
}

type Candidate = (&'static str, fn(usize) -> Box<dyn Index>);

/// The candidates by name, each built with room for so many entries.
const CANDIDATES: [Candidate; 2] = [
    ("hashbrown, foldhash", |n| {
        Box::new(hashbrown::HashMap::<_, _, hashbrown::DefaultHashBuilder>::with_capacity_and_hasher(
            n,
            Default::default(),
        ))
    }),
    ("hashbrown, SipHash", |n| {
        Box::new(hashbrown::HashMap::with_capacity_and_hasher(n, std::hash::RandomState::new()))
    }),
];

/// Time that this thread has been on a CPU.
fn thread_time() -> Result<Duration> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .map_err(|e| Error::Unexpected(format!("thread clock: {e}")))
}

/// Nanoseconds an operation.
#[derive(Debug, Default)]
struct Costs {
    hit: Vec<f64>,
    miss: Vec<f64>,
    turnover: Vec<f64>,
}

/// Runs the table and prints it.
pub fn run(options: &Options) -> Result<()> {
    println!("ns an operation (median), keys in random order, bursts of {BURST}");
    println!("{:<22} {:>9} {:>8} {:>8} {:>9}", "index", "entries", "hit", "miss", "turnover");
    for &entries in &options.entries {
        for (name, build) in CANDIDATES {
            let costs = measure(&mut *build(entries as usize), entries, options.samples)?;
            let median = |samples: &[f64]| Spread::of(samples).map_or(f64::NAN, |s| s.median);
            println!(
                "{name:<22} {entries:>9} {:>8.1} {:>8.1} {:>9.1}",
                median(&costs.hit),
                median(&costs.miss),
                median(&costs.turnover)
            );
        }
    }
    Ok(())
}

fn measure(index: &mut dyn Index, entries: u32, samples: u32) -> Result<Costs> {
    for i in traffic::shuffled(entries, 1) {
        index.insert(Key::of(i), i);
    }
    // Long enough for the clock, short enough for ten million entries.
    let operations = entries.clamp(1 << 20, 1 << 22) as usize;
    let mut random = Random(7);
    let mut costs = Costs::default();
    let mut oldest = 0;
    for _ in 0..samples {
        let mut keys = |from: u32| -> Vec<Key> {
            (0..operations).map(|_| Key::of(from + random.below(u64::from(entries)) as u32)).collect()
        };
        // Turnover has moved the window of present flows.
        let present = keys(oldest);
        costs.hit.push(lookups(index, &present, operations)?);
        let absent = keys(oldest + entries);
        costs.miss.push(lookups(index, &absent, 0)?);
        costs.turnover.push(turnover(index, entries, &mut oldest)?);
    }
    Ok(costs)
}

fn lookups(index: &dyn Index, keys: &[Key], expected: usize) -> Result<f64> {
    let start = thread_time()?;
    let found: usize = keys.chunks(BURST).map(|burst| index.find(burst)).sum();
    let spent = thread_time()? - start;
    if found != expected {
        return Err(Error::Unexpected(format!("{found} keys found and not {expected}")));
    }
    Ok(spent.as_nanos() as f64 / keys.len() as f64)
}

/// Replaces the oldest flows by new ones.
fn turnover(index: &mut dyn Index, entries: u32, oldest: &mut u32) -> Result<f64> {
    let operations: u32 = 1 << 20;
    let start = thread_time()?;
    let mut removed = 0;
    for i in *oldest..*oldest + operations {
        removed += u32::from(index.remove(&Key::of(i)));
        index.insert(Key::of(i + entries), i);
    }
    let spent = thread_time()? - start;
    *oldest += operations;
    if removed != operations {
        return Err(Error::Unexpected(format!("{removed} keys removed and not {operations}")));
    }
    Ok(spent.as_nanos() as f64 / f64::from(operations))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_finds_what_is_there_and_nothing_else() {
        for (name, build) in CANDIDATES {
            let costs = measure(&mut *build(1000), 1000, 1).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!((costs.hit.len(), costs.miss.len(), costs.turnover.len()), (1, 1, 1));
        }
    }
}
