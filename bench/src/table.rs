//! `table`: candidates for the flow index, in process and on the same keys.
//!
//! What a session lookup costs decides how forwarding scales with flows; these results say what general
//! tables reach, per operation and at every size: a hit in random order, a miss, and turnover (one entry out,
//! one in) at constant load.

use std::{
    hash::{BuildHasher, RandomState},
    hint::black_box,
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use dpdk::{Cpus, Eal, EalConfig};
use nix::time::{ClockId, clock_gettime};
use rte_tables::hash::{self, RteHash};
use serde_json::json;
use weir::{
    clock::{Tick, Ticks},
    id::SlotId,
    table::{
        index::HashKey,
        session::{NewSession, Tuple},
        sessions::{Candidate, Sessions},
    },
};

use crate::{
    error::{Error, Result},
    hugepages,
    report::{Spread, write_json},
    traffic::{self, Random, VIP},
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Numbers of entries, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000, 1_000_000, 10_000_000])]
    entries: Vec<u32>,
    /// Repetitions.
    #[arg(long, default_value_t = 5)]
    samples: u32,
    /// Also write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A packet's five-tuple as a key: client, virtual address, ports, protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    addresses: u64,
    ports: u32,
    protocol: u32,
}

impl Key {
    /// Of flow `i`.
    fn of(i: u32) -> Self {
        let (client, port) = traffic::client(i);
        let tuple = Tuple::new((client.to_bits(), port), (VIP.to_bits(), traffic::PORT));
        Self { addresses: tuple.addresses, ports: tuple.ports, protocol: 6 }
    }

    fn tuple(&self) -> Tuple {
        Tuple { addresses: self.addresses, ports: self.ports }
    }

    fn bytes(&self) -> hash::Key {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addresses.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.ports.to_le_bytes());
        bytes[12..].copy_from_slice(&self.protocol.to_le_bytes());
        bytes
    }
}

/// Keys looked up together: a receive burst.
const BURST: usize = 32;

/// An index from keys to slots.
trait Index {
    /// False if there's no room.
    fn insert(&mut self, key: Key, slot: u32) -> bool;
    /// False if it wasn't there.
    fn remove(&mut self, key: &Key) -> bool;
    /// How many of `keys`, at most [`BURST`], there are.
    fn find(&self, keys: &[Key]) -> usize;
}

impl<S: BuildHasher> Index for hashbrown::HashMap<Key, u32, S> {
    fn insert(&mut self, key: Key, slot: u32) -> bool {
        hashbrown::HashMap::insert(self, key, slot).is_none()
    }
    fn remove(&mut self, key: &Key) -> bool {
        hashbrown::HashMap::remove(self, key).is_some()
    }
    fn find(&self, keys: &[Key]) -> usize {
        keys.iter().filter(|k| black_box(self.get(*k)).is_some()).count()
    }
}

impl Index for RteHash<'_> {
    fn insert(&mut self, key: Key, slot: u32) -> bool {
        RteHash::insert(self, &key.bytes(), slot.into())
    }
    fn remove(&mut self, key: &Key) -> bool {
        RteHash::remove(self, &key.bytes())
    }
    fn find(&self, keys: &[Key]) -> usize {
        let mut bytes = [[0; 16]; BURST];
        bytes.iter_mut().zip(keys).for_each(|(b, k)| *b = k.bytes());
        let mut numbers = [0; hash::BULK];
        let found = RteHash::find(self, &bytes[..keys.len()], &mut numbers);
        black_box(&numbers);
        found.count_ones() as usize
    }
}

/// weir's own sessions: both directions of each, so an insertion stores two keys; finding ends at the record,
/// as in the packet path, and not at a number.
impl Index for Sessions {
    fn insert(&mut self, key: Key, slot: u32) -> bool {
        let local = (0xc613_0100 | slot >> 16 & 0xff, slot as u16);
        let server = (0xc613_0001, traffic::PORT);
        let new = NewSession {
            request: key.tuple(),
            reply: Tuple::new(server, local),
            protocol: key.protocol as u8,
            slot: SlotId(0),
            flags: 0,
        };
        Sessions::insert(self, &new, Ticks(u32::MAX / 4), Tick(0)).is_some()
    }
    fn remove(&mut self, key: &Key) -> bool {
        let (tuple, protocol) = (key.tuple(), key.protocol as u8);
        let found = Sessions::find(self, self.hash(tuple, protocol), tuple, protocol);
        found.is_some_and(|f| Sessions::remove(self, f.id).is_some())
    }
    fn find(&self, keys: &[Key]) -> usize {
        let mut hashes = [0; BURST];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = self.hash(key.tuple(), key.protocol as u8);
            self.prefetch_bucket(*hash);
        }
        let mut candidates = [Candidate::NONE; BURST];
        for (candidate, hash) in candidates.iter_mut().zip(&hashes[..keys.len()]) {
            *candidate = self.candidate(*hash);
        }
        let is_there = |((key, hash), candidate): ((&Key, &u64), &Candidate)| {
            let (tuple, protocol) = (key.tuple(), key.protocol as u8);
            let found = self.confirm(*candidate, tuple, protocol);
            black_box(found.or_else(|| self.find(*hash, tuple, protocol))).is_some()
        };
        keys.iter().zip(&hashes).zip(&candidates).filter(|one| is_there(*one)).count()
    }
}

/// The candidates by name.
const CANDIDATES: [&str; 4] =
    ["hashbrown, foldhash", "hashbrown, SipHash", "rte_hash, bulk", "weir's sessions"];

/// A candidate with room for `entries`; none if DPDK isn't up and is needed.
fn build<'e>(name: &str, entries: u32, eal: Option<&'e Eal>) -> Result<Option<Box<dyn Index + 'e>>> {
    let n = entries as usize;
    Ok(match name {
        "hashbrown, foldhash" => Some(Box::new(hashbrown::HashMap::with_capacity_and_hasher(
            n,
            hashbrown::DefaultHashBuilder::default(),
        ))),
        "hashbrown, SipHash" => {
            Some(Box::new(hashbrown::HashMap::with_capacity_and_hasher(n, RandomState::new())))
        }
        "weir's sessions" => {
            let sessions = Sessions::new(n + 1, HashKey::from_seed(1), Tick(0));
            Some(Box::new(sessions.map_err(Error::file("session table"))?))
        }
        _ => match eal {
            // A cuckoo table isn't filled to the brim in earnest.
            Some(eal) => {
                let table = RteHash::new(eal, entries + entries / 4 + 64)
                    .ok_or_else(|| Error::Unexpected("rte_hash: no memory for the table".to_owned()))?;
                Some(Box::new(table))
            }
            None => None,
        },
    })
}

/// Time that this thread has been on a CPU.
pub fn thread_time() -> Result<Duration> {
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
    let most = options.entries.iter().copied().max().unwrap_or(0);
    // rte_hash takes about 50 bytes an entry, in powers of two.
    let memory = hugepages::Memory::reserve(u64::from(most) * 256 + (64 << 20));
    let eal = start_eal(most)?;
    println!(
        "ns an operation: median (quartiles); keys in random order, bursts of {BURST}; DPDK on {}",
        memory.name()
    );
    println!("{:<22} {:>9} {:>20} {:>20} {:>22}", "index", "entries", "hit", "miss", "turnover");
    let mut rows = Vec::new();
    for &entries in &options.entries {
        for name in CANDIDATES {
            let Some(mut index) = build(name, entries, Some(&eal))? else { continue };
            let costs = measure(&mut *index, entries, options.samples)?;
            let all = [&costs.hit, &costs.miss, &costs.turnover].map(|samples| Spread::of(samples));
            let [hit, miss, turnover] = all.map(|spread| spread.map_or("-".to_owned(), |s| s.to_string()));
            println!("{name:<22} {entries:>9} {hit:>20} {miss:>20} {turnover:>22}");
            let [hit, miss, turnover] = all.map(|spread| spread.map(|s| [s.median, s.low, s.high]));
            rows.push(json!({
                "index": name, "entries": entries, "of_each": ["median", "low", "high"],
                "hit_ns": hit, "miss_ns": miss, "turnover_ns": turnover,
            }));
        }
    }
    write_json(options.json.as_deref(), &rows)
}

pub fn start_eal(most: u32) -> Result<Eal> {
    let config = EalConfig {
        name: "weir-bench".to_owned(),
        cpus: Cpus::Floating(0),
        devices: Vec::new(),
        memory: u64::from(most) * 192 + (64 << 20),
        args: vec!["--no-pci".to_owned()],
        log: Some(|_, _| ()),
    };
    Eal::init(&config).map_err(|e| Error::Unexpected(format!("DPDK: {e}")))
}

fn measure(index: &mut dyn Index, entries: u32, samples: u32) -> Result<Costs> {
    for i in traffic::shuffled(entries, 1) {
        if !index.insert(Key::of(i), i) {
            return Err(Error::Unexpected("no room for an entry".to_owned()));
        }
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
    let mut done = 0;
    for i in *oldest..*oldest + operations {
        let removed = index.remove(&Key::of(i));
        done += u32::from(removed & index.insert(Key::of(i + entries), i + entries));
    }
    let spent = thread_time()? - start;
    *oldest += operations;
    if done != operations {
        return Err(Error::Unexpected(format!("{done} keys replaced and not {operations}")));
    }
    Ok(spent.as_nanos() as f64 / f64::from(operations))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_finds_what_is_there_and_nothing_else() {
        for name in CANDIDATES {
            let Some(mut index) = build(name, 1000, None).unwrap() else { continue };
            let costs = measure(&mut *index, 1000, 1).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!((costs.hit.len(), costs.miss.len(), costs.turnover.len()), (1, 1, 1));
        }
    }
}
