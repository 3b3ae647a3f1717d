//! What lblc and lblcr remember of each destination: a bounded hash table with expiry.
//!
//! IPVS walks such a table from a timer. Every 30 minutes it removes entries that were unused for the configured time.
//! Every minute, while there are more than 16 * 1024 entries, it removes some that were unused for six minutes. A
//! worker has no such timer and must not stop to walk a table, so it does the same step by step: every scheduled
//! session advances the walk by a few buckets, and a look-up ignores an expired entry that the walk hasn't reached yet.
//! The table is limited to twice that number of entries (IPVS has no limit but memory). Control allocates it, and its
//! memory is only touched as entries are added.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
};

use super::Server;
use crate::clock::{Tick, Ticks};

const BUCKETS: usize = 1024;
/// The number of entries above which old ones are removed early.
const COMFORTABLE: usize = 16 * BUCKETS;
/// The most entries.
pub const CAPACITY: usize = 2 * COMFORTABLE;
/// Time between checks.
const CHECK_INTERVAL: Ticks = Ticks::seconds(60);
/// Every this many checks, the table is checked for expired entries.
const CHECKS_A_ROUND: u32 = 30;
/// The time that even a full table keeps an entry.
const EARLY: Ticks = Ticks::seconds(6 * 60);
/// Buckets walked per session.
const STRIDE: usize = 4;
/// End of a chain.
pub const NIL: u32 = u32::MAX;

/// A server's identity within its service, which outlives its deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerPlace {
    address: IpAddr,
    port: u16,
}

impl ServerPlace {
    /// The identity of `server`.
    pub fn of(server: &Server) -> Self {
        Self { address: server.address, port: server.port }
    }
}

/// The position of each server in the list.
pub struct Places(Vec<(ServerPlace, u32)>);

impl Places {
    pub fn new(servers: &[Server]) -> Self {
        let mut places: Vec<_> = servers.iter().map(ServerPlace::of).zip(0..).collect();
        places.sort_unstable();
        Self(places)
    }

    /// The index of the server, if it is (still, or again) in the list. `hint` is its last known index.
    pub fn find(&self, servers: &[Server], place: ServerPlace, hint: u32) -> Option<usize> {
        if servers.get(hint as usize).is_some_and(|s| ServerPlace::of(s) == place) {
            return Some(hint as usize);
        }
        let at = self.0.binary_search_by_key(&place, |&(place, _)| place).ok()?;
        Some(self.0[at].1 as usize)
    }
}

struct Entry<V> {
    destination: IpAddr,
    last_use: Tick,
    next: u32,
    value: V,
}

/// A walk over the table in progress.
struct Walk {
    /// The number of buckets left.
    buckets: usize,
    /// Entries that were unused for `unused` ticks at the time `at` are removed, up to `goal`.
    at: Tick,
    unused: Ticks,
    goal: usize,
}

/// The checks that have become due.
struct Due {
    checks: u32,
    /// The time of the last one.
    last: Tick,
    /// The time of the latest check that began a round, if any did.
    round: Option<Tick>,
}

/// A table of destinations with a `V` each.
pub struct LocalityTable<V> {
    hasher: RandomState,
    heads: Vec<u32>,
    entries: Vec<Entry<V>>,
    free: u32,
    used: usize,
    next_check: Option<Tick>,
    checks: u32,
    last_round: Option<Tick>,
    walk: Option<Walk>,
    rover: usize,
}

impl<V> LocalityTable<V> {
    pub fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            heads: vec![NIL; BUCKETS],
            entries: Vec::with_capacity(CAPACITY),
            free: NIL,
            used: 0,
            next_check: None,
            checks: 1,
            last_round: None,
            walk: None,
            rover: 0,
        }
    }

    fn bucket(&self, destination: IpAddr) -> usize {
        self.hasher.hash_one(destination) as usize % BUCKETS
    }

    /// The value of `destination`, unless it was unused for `expiration` ticks at the last check. Marks it as used now.
    pub fn get(&mut self, destination: IpAddr, now: Tick, expiration: Ticks) -> Option<&mut V> {
        let mut at = self.heads[self.bucket(destination)];
        while at != NIL && self.entries[at as usize].destination != destination {
            at = self.entries[at as usize].next;
        }
        let entry = self.entries.get_mut(at as usize)?;
        if self.last_round.is_some_and(|round| unused(entry.last_use, round, expiration)) {
            return None;
        }
        entry.last_use = now;
        Some(&mut entry.value)
    }

    /// What [`LocalityTable::maintain`] and [`LocalityTable::get`] would return now, without changing anything. (An
    /// entry that this session's step of the walk would remove from an overfull table is still found.)
    pub fn peek(&self, destination: IpAddr, now: Tick, expiration: Ticks) -> Option<&V> {
        let mut at = self.heads[self.bucket(destination)];
        while at != NIL && self.entries[at as usize].destination != destination {
            at = self.entries[at as usize].next;
        }
        let entry = self.entries.get(at as usize)?;
        let round = match self.next_check.filter(|next| now.reached(*next)) {
            Some(next) => self.due(next, now).round.or(self.last_round),
            None => self.last_round,
        };
        let gone = round.is_some_and(|round| unused(entry.last_use, round, expiration));
        (!gone).then_some(&entry.value)
    }

    /// Sets the value of `destination`. Returns the value that wasn't kept: the previous one, or the new one if the
    /// table is full.
    pub fn set(&mut self, destination: IpAddr, now: Tick, value: V) -> Option<V> {
        let bucket = self.bucket(destination);
        let mut at = self.heads[bucket];
        while at != NIL {
            let entry = &mut self.entries[at as usize];
            if entry.destination == destination {
                entry.last_use = now;
                return Some(std::mem::replace(&mut entry.value, value));
            }
            at = entry.next;
        }
        let entry = Entry { destination, last_use: now, next: self.heads[bucket], value };
        if self.free != NIL {
            at = self.free;
            self.free = self.entries[at as usize].next;
            self.entries[at as usize] = entry;
        } else if self.entries.len() < CAPACITY {
            at = self.entries.len() as u32;
            self.entries.push(entry);
        } else {
            return Some(entry.value);
        }
        self.heads[bucket] = at;
        self.used += 1;
        None
    }

    /// Does the work that is due; must be called for every session scheduled. `removed` gets the removed values.
    pub fn maintain(&mut self, now: Tick, expiration: Ticks, mut removed: impl FnMut(&V)) {
        let next = *self.next_check.get_or_insert(now.after(CHECK_INTERVAL));
        if now.reached(next) {
            self.check(next, now, expiration);
        }
        let Some(mut walk) = self.walk.take() else { return };
        for _ in 0..STRIDE.min(walk.buckets) {
            self.rover = (self.rover + 1) % BUCKETS;
            self.sweep(self.rover, &mut walk, &mut removed);
        }
        walk.buckets = walk.buckets.saturating_sub(STRIDE);
        self.walk = (walk.buckets > 0 && walk.goal > 0).then_some(walk);
    }

    /// Makes up for the checks due from `next` until now, as if each had been on time.
    fn check(&mut self, next: Tick, now: Tick, expiration: Ticks) {
        let Due { checks, last, round } = self.due(next, now);
        self.next_check = Some(last.after(CHECK_INTERVAL));
        if let Some(round) = round {
            self.checks = last.since(round) / CHECK_INTERVAL + 1;
            self.last_round = Some(round);
            self.walk = Some(Walk { buckets: BUCKETS, at: round, unused: expiration, goal: CAPACITY });
        } else if self.used > COMFORTABLE {
            let goal = ((self.used - COMFORTABLE) * 4 / 3).min(COMFORTABLE / 2);
            self.walk = Some(Walk { buckets: BUCKETS, at: last, unused: EARLY, goal });
        } else {
            self.checks += checks;
        }
    }

    /// The checks due from `next` until `now`.
    fn due(&self, next: Tick, now: Tick) -> Due {
        let checks = now.since(next) / CHECK_INTERVAL + 1;
        let last = next.after(CHECK_INTERVAL * (checks - 1));
        // The latest check that began a round; the count starts at 1 after each.
        let round = (self.checks + checks > CHECKS_A_ROUND).then(|| {
            let since = (self.checks + checks - 1 - CHECKS_A_ROUND) % CHECKS_A_ROUND;
            last.before(CHECK_INTERVAL * since)
        });
        Due { checks, last, round }
    }

    fn sweep(&mut self, bucket: usize, walk: &mut Walk, removed: &mut impl FnMut(&V)) {
        let (mut before, mut at) = (NIL, self.heads[bucket]);
        while at != NIL {
            let entry = &mut self.entries[at as usize];
            let next = entry.next;
            if unused(entry.last_use, walk.at, walk.unused) {
                removed(&entry.value);
                entry.next = self.free;
                self.free = at;
                self.used -= 1;
                walk.goal = walk.goal.saturating_sub(1);
                match self.entries.get_mut(before as usize) {
                    Some(before) => before.next = next,
                    None => self.heads[bucket] = next,
                }
            } else {
                before = at;
            }
            at = next;
        }
    }
}

/// Whether an entry last used at `last` had been unused for `ticks` at the time `at`.
fn unused(last: Tick, at: Tick, ticks: Ticks) -> bool {
    at.reached(last) && at.since(last) >= ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Ticks = Ticks::seconds(86_400);

    fn address(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from(n).into()
    }

    fn at(seconds: u32) -> Tick {
        Tick::at(Ticks::seconds(seconds))
    }

    /// Completes all checks and walks.
    fn settle(table: &mut LocalityTable<u32>, now: Tick, expiration: Ticks) -> usize {
        let mut gone = 0;
        (0..BUCKETS).for_each(|_| table.maintain(now, expiration, |_| gone += 1));
        gone
    }

    #[test]
    fn remembers_and_replaces() {
        let mut table = LocalityTable::new();
        assert_eq!(table.get(address(1), at(0), DAY), None);
        assert_eq!(table.set(address(1), at(0), 10), None);
        assert_eq!(table.set(address(2), at(0), 20), None);
        assert_eq!(table.get(address(1), at(1), DAY), Some(&mut 10));
        assert_eq!(table.set(address(1), at(2), 11), Some(10));
        assert_eq!(table.get(address(1), at(3), DAY), Some(&mut 11));
        assert_eq!(table.used, 2);
    }

    #[test]
    fn unused_entries_go_at_the_half_hour() {
        let mut table = LocalityTable::new();
        table.maintain(at(0), Ticks::seconds(100), |_| {});
        table.set(address(1), at(1), 1);
        table.set(address(2), at(2), 2);
        assert_eq!(settle(&mut table, at(1799), Ticks::seconds(100)), 0);
        assert_eq!(table.get(address(1), at(1799), Ticks::seconds(100)), Some(&mut 1));
        // The 30th check removes entries that were unused for 100 s, wherever the walk is.
        table.maintain(at(1800), Ticks::seconds(100), |_| {});
        assert_eq!(table.get(address(2), at(1800), Ticks::seconds(100)), None);
        assert_eq!(table.get(address(1), at(1800), Ticks::seconds(100)), Some(&mut 1));
        assert!(settle(&mut table, at(1801), Ticks::seconds(100)) <= 1);
        assert_eq!(table.used, 1);
        // So does every 30th check after it, even if there was no session for days.
        assert_eq!(settle(&mut table, at(90 * 3600 + 59), Ticks::seconds(100)), 1);
        assert_eq!(table.last_round, Some(at(90 * 3600)));
        assert_eq!(table.next_check, Some(at(90 * 3600 + 60)));
        assert_eq!(table.used, 0);
    }

    #[test]
    fn a_set_revives_what_had_expired() {
        let mut table = LocalityTable::new();
        table.maintain(at(0), Ticks::seconds(10), |_| {});
        table.set(address(1), at(1), 1);
        table.maintain(at(1800), Ticks::seconds(10), |_| {});
        table.set(address(1), at(1800), 2);
        assert_eq!(table.get(address(1), at(1801), Ticks::seconds(10)), Some(&mut 2));
        assert!(settle(&mut table, at(1802), Ticks::seconds(10)) <= 1);
        assert_eq!(table.get(address(1), at(1803), Ticks::seconds(10)), Some(&mut 2));
    }

    #[test]
    fn a_crowded_table_drops_old_entries_early_and_a_full_one_takes_no_more() {
        let mut table = LocalityTable::new();
        table.maintain(at(0), DAY, |_| {});
        for n in 0..CAPACITY as u32 {
            assert_eq!(table.set(address(n), at(1), n), None);
        }
        assert_eq!(table.set(address(u32::MAX), at(1), 7), Some(7));
        assert_eq!(table.get(address(u32::MAX), at(1), DAY), None);
        assert_eq!(settle(&mut table, at(60), DAY), 0);
        let gone = settle(&mut table, at(420), DAY);
        assert!((COMFORTABLE / 2..COMFORTABLE).contains(&gone), "{gone}");
        let capacity = table.entries.capacity();
        assert_eq!(table.set(address(u32::MAX), at(421), 7), None);
        assert_eq!(table.entries.capacity(), capacity);
        assert_eq!(table.used, CAPACITY - gone + 1);
    }

    #[test]
    fn chains_stay_whole() {
        let mut table = LocalityTable::new();
        table.maintain(at(0), Ticks::seconds(600), |_| {});
        (0..5000).for_each(|n| assert_eq!(table.set(address(n), at(n), n), None));
        let gone = settle(&mut table, at(5400), Ticks::seconds(600));
        assert_eq!(gone, 4801);
        for n in 0..5000 {
            assert_eq!(table.get(address(n), at(5400), Ticks::seconds(600)).is_some(), n > 4800, "{n}");
        }
    }

    #[test]
    fn places_are_found_after_moves() {
        let list = super::super::testing::weights(&[1, 1, 1]);
        let places = Places::new(&list);
        assert_eq!(places.find(&list, ServerPlace::of(&list[1]), 1), Some(1));
        assert_eq!(places.find(&list, ServerPlace::of(&list[1]), 7), Some(1));
        let less = &list[1..];
        assert_eq!(Places::new(less).find(less, ServerPlace::of(&list[0]), 0), None);
        assert_eq!(Places::new(less).find(less, ServerPlace::of(&list[2]), 0), Some(1));
    }
}
