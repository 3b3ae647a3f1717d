//! All sessions of one worker: a slab of records, the index over both directions, and the timer wheel.
//!
//! The wheel is armed lazily: a packet only writes `last_seen`. Each session is in a slot no later than that of its
//! deadline. When the slot comes due and a packet has arrived meanwhile, the session moves on to the slot of its new
//! deadline. Only a *shorter* time-out moves a session at once, to an earlier slot ([`Sessions::set_timeout`]).

use arrayvec::ArrayVec;
use cpu::{HugeSlice, HugeTable, zeroed_slice, zeroed_table};

pub use super::found::{Candidate, Found};
use super::{
    displaced::Links,
    found::{entry, found},
    index::{HashKey, Index},
    late::{LATE, Late},
    session::{Direction, NewSession, ONE_PACKET, Session, SessionId, TEMPLATE, Tuple},
    templates::spread,
    v6_record::V6Record,
    wheel::{NIL, Wheel},
};
use crate::clock::{Tick, Ticks};

/// Sessions of one worker.
pub struct Sessions {
    /// The first `capacity` records are used; the last one, which [`Candidate::NONE`] leads to, never is.
    pub(super) records: HugeTable<Session>,
    capacity: usize,
    /// For a template, the number of sessions that it controls; for a controlled session, its template.
    pub(super) control: HugeSlice<u32>,
    /// Addresses of sessions with an IPv6 side.
    pub(super) v6: HugeSlice<V6Record>,
    /// The chains of NAT sessions that wait for their replies.
    pub(super) chains: HugeSlice<Links>,
    /// The number of sessions that wait.
    pub(super) displaced: u32,
    pub(super) index: Index,
    pub(super) key: HashKey,
    free: u32,
    /// Records from here on have never been used.
    fresh: u32,
    used: u32,
    wheel: Wheel,
    /// Replies that are still to be entered.
    pub(super) late: ArrayVec<Late, LATE>,
    /// Sessions whose reply couldn't be entered.
    pub(super) clashes: ArrayVec<SessionId, LATE>,
}

impl Sessions {
    /// Room for `max` sessions (at most 2^31 - 1), starting at `now`.
    ///
    /// # Errors
    /// The system's, if there is no memory to map.
    pub fn new(max: usize, key: HashKey, now: Tick) -> std::io::Result<Self> {
        Ok(Self {
            records: zeroed_table(max + 1)?,
            capacity: max,
            control: zeroed_slice(max)?,
            v6: zeroed_slice(max)?,
            chains: zeroed_slice(max)?,
            displaced: 0,
            index: Index::new(max * 2)?,
            key,
            free: NIL,
            fresh: 0,
            used: 0,
            wheel: Wheel::new(max, now)?,
            late: ArrayVec::new(),
            clashes: ArrayVec::new(),
        })
    }

    /// The size in bytes of a full table for `max` sessions.
    #[must_use]
    pub fn bytes_for(max: usize) -> u64 {
        (Index::bytes_for(max * 2) + max * size_of::<Session>() + Wheel::bytes(max)) as u64
    }

    /// The number of bytes that [`Self::populate`] takes.
    #[must_use]
    pub fn populated_bytes(&self) -> u64 {
        (self.index.bytes() + self.capacity * size_of::<Session>() + Wheel::bytes(self.capacity)) as u64
    }

    /// Has the kernel provide the memory that every session needs, so that no session waits for a new page: two
    /// milliseconds have been seen for one of 2 MB. The addresses of sessions with an IPv6 side, and what templates
    /// need, are still provided on use. Must be called on the worker's own thread.
    ///
    /// # Errors
    /// Memory is short, or the kernel is older than 5.14; the table works all the same.
    pub fn populate(&mut self) -> std::io::Result<()> {
        self.index.populate()?;
        self.wheel.populate(self.capacity)?;
        self.records.populate(self.capacity)
    }

    /// The number of sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used as usize
    }

    /// Whether there are no sessions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The most sessions there can be.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The bound of record numbers that may be in use, for listings.
    #[must_use]
    pub fn high_water(&self) -> u32 {
        self.fresh
    }

    /// The hash of a packet's tuple.
    #[inline]
    #[must_use]
    pub fn hash(&self, tuple: Tuple, protocol: u8) -> u64 {
        self.key.hash(tuple.addresses, u64::from(tuple.ports) | u64::from(protocol) << 32)
    }

    /// Starts loading the index bucket of `hash`.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// The entry that `hash` probably belongs to; starts loading its record.
    #[inline]
    #[must_use]
    pub fn candidate(&self, hash: u64) -> Candidate {
        let candidate = self.index.candidate(hash).map_or(Candidate::NONE, Candidate);
        cpu::prefetch(self.record(candidate));
        candidate
    }

    /// The record of a candidate, in use or not. For no candidate, a record that matches no packet.
    #[inline(always)]
    #[must_use]
    pub fn record(&self, candidate: Candidate) -> &Session {
        self.records.at(candidate.record())
    }

    /// The session of a packet with this tuple, if it is `candidate`, which [`Self::candidate`] returned for its hash.
    /// If not, [`Self::find`] must look it up.
    #[inline(always)]
    #[must_use]
    pub fn confirm(&self, candidate: Candidate, tuple: Tuple, protocol: u8) -> Option<Found> {
        let likely = candidate.found();
        self.record(candidate).is_at(likely.direction, tuple, protocol).then_some(likely)
    }

    /// The session of a packet with this tuple.
    #[inline(never)]
    #[must_use]
    pub fn find(&self, hash: u64, tuple: Tuple, protocol: u8) -> Option<Found> {
        self.find_where(hash, |found, record| record.is_at(found.direction, tuple, protocol))
    }

    /// The session under `hash` for which `is_it` holds.
    #[inline]
    pub(super) fn find_where(&self, hash: u64, is_it: impl Fn(Found, &Session) -> bool) -> Option<Found> {
        let records = &self.records[..];
        self.index
            .find(hash, |e| {
                let found = found(e);
                records.get(found.id.0 as usize).is_some_and(|record| is_it(found, record))
            })
            .map(found)
    }

    /// The record of a session.
    #[inline]
    #[must_use]
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.records.get(id.0 as usize)
    }

    /// The mutable record of a session that was just found.
    #[inline(always)]
    pub fn found_mut(&mut self, found: Found) -> &mut Session {
        self.records.at_mut(found.id.0 as usize)
    }

    /// The mutable record of a session.
    #[inline]
    pub fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.records.get_mut(id.0 as usize)
    }

    /// Whether a session with either tuple exists already.
    #[must_use]
    pub fn holds(&self, tuple: Tuple, protocol: u8) -> bool {
        self.find(self.hash(tuple, protocol), tuple, protocol).is_some()
    }

    /// Adds a session that expires `timeout` from now; `None` if there is no room, or if one of its two tuples
    /// belongs to another session. For a [`ONE_WAY`] session only the request's tuple counts, for a [`ONE_PACKET`]
    /// session only the reply's. A NAT session takes over the replies of another NAT session, see [`super::displaced`].
    pub fn insert(&mut self, new: &NewSession, timeout: Ticks, now: Tick) -> Option<SessionId> {
        let hashes = [self.hash(new.request, new.protocol), self.hash(new.reply, new.protocol)];
        self.prefetch_insertion(hashes, now.after(timeout));
        if new.flags & ONE_PACKET == 0 && self.find(hashes[0], new.request, new.protocol).is_some() {
            return None;
        }
        self.insert_under(hashes, new, timeout, now)
    }

    /// Like [`Self::insert`], for a request that was just looked up and belongs to no session.
    pub fn insert_sought(&mut self, new: &NewSession, timeout: Ticks, now: Tick) -> Option<SessionId> {
        debug_assert!(new.flags & ONE_PACKET != 0 || !self.holds(new.request, new.protocol));
        let hashes = [self.hash(new.request, new.protocol), self.hash(new.reply, new.protocol)];
        self.prefetch_insertion(hashes, now.after(timeout));
        self.insert_under(hashes, new, timeout, now)
    }

    /// Starts loading every line that an insertion under these hashes touches, so that the cache misses overlap: both
    /// buckets, the record, its link, and the link of its future neighbour on the wheel.
    #[inline]
    pub(super) fn prefetch_insertion(&self, hashes: [u64; 2], deadline: Tick) {
        hashes.into_iter().for_each(|hash| self.index.prefetch(hash));
        let record = if self.free == NIL { self.fresh } else { self.free };
        self.prefetch_record(record);
        self.wheel.prefetch_arming(record, deadline);
    }

    /// Starts loading a record, if one with this number exists.
    #[inline]
    fn prefetch_record(&self, id: u32) {
        if let Some(record) = self.records.get(id as usize) {
            cpu::prefetch(record);
        }
    }

    /// Adds a session whose request tuple is known to be free, with these hashes of its directions.
    fn insert_under(
        &mut self,
        hashes: [u64; 2],
        new: &NewSession,
        timeout: Ticks,
        now: Tick,
    ) -> Option<SessionId> {
        let taken = if new.is_one_way() { None } else { self.find(hashes[1], new.reply, new.protocol) };
        self.insert_before(taken, hashes, new, [new.protocol; 2], timeout, now)
    }

    /// Adds a session whose tuples are known to be free, with these hashes and protocol numbers of its directions. Its
    /// reply is only entered if `replies`.
    pub(super) fn insert_found_by(
        &mut self,
        hashes: [u64; 2],
        replies: bool,
        new: &NewSession,
        protocols: [u8; 2],
        timeout: Ticks,
        now: Tick,
    ) -> Option<SessionId> {
        let requests = new.flags & ONE_PACKET == 0;
        let id = self.take_record()?;
        if requests && !self.index.insert(hashes[0], entry(id, Direction::Request)) {
            self.give_record(id);
            return None;
        }
        if replies && !self.index.insert(hashes[1], entry(id, Direction::Reply)) {
            self.index.remove(hashes[0], entry(id, Direction::Request));
            self.give_record(id);
            return None;
        }
        let record = &mut self.records[id as usize];
        *record = Session::new(new, now);
        record.set_key_protocols(protocols);
        record.timeout = timeout;
        self.wheel.arm(id, now.after(timeout));
        if new.flags & TEMPLATE != 0 {
            self.control[id as usize] = 0;
        }
        Some(SessionId(id))
    }

    /// Removes a request's entry from the index.
    pub(super) fn unindex(&mut self, hash: u64, id: SessionId) {
        self.index.remove(hash, entry(id.0, Direction::Request));
    }

    /// Removes a session and returns its last record; `None` if there is no such session.
    pub fn remove(&mut self, id: SessionId) -> Option<Session> {
        if self.is_unsettled() {
            self.settle_before_end_of(id);
        }
        let record = *self.records.get(id.0 as usize)?;
        if !record.in_use() {
            return None;
        }
        let salt = record.call().map_or(0, |(salt, _)| salt);
        let entries = [(Direction::Request, salt), (Direction::Reply, 0)].map(|(direction, salt)| {
            let hash = self.hash(record.arriving(direction), record.key_protocol(direction)) ^ spread(salt);
            self.index.prefetch(hash);
            (hash, entry(id.0, direction))
        });
        self.wheel.prefetch_disarming(id.0);
        let [request, reply] = entries;
        self.index.remove(request.0, request.1);
        if !self.leave_chain(id, &record, reply.0) {
            self.index.remove(reply.0, reply.1);
        }
        self.wheel.disarm(id.0);
        self.give_record(id.0);
        Some(record)
    }

    /// Changes a session's time-out, and moves the session to an earlier slot if it would be checked too late.
    #[inline]
    pub fn set_timeout(&mut self, id: SessionId, timeout: Ticks) {
        let Some(record) = self.records.get_mut(id.0 as usize) else { return };
        let shorter = timeout < record.timeout;
        record.timeout = timeout;
        if shorter {
            self.wheel.disarm(id.0);
            self.arm(id.0);
        }
    }

    /// The next session that has expired by `now`. It is still in place: the caller removes it, or gives it more time
    /// by [`Sessions::postpone`]. At most `budget` sessions are checked, and `budget` is reduced by their number.
    pub fn next_expired(&mut self, now: Tick, budget: &mut usize) -> Option<SessionId> {
        while let Some(id) = self.wheel.due(now) {
            if *budget == 0 {
                return None;
            }
            *budget -= 1;
            if self.records.get(id as usize).is_some_and(|record| now.reached(record.deadline())) {
                self.prefetch_end_of(self.wheel.next(id));
                return Some(SessionId(id));
            }
            self.wheel.disarm(id);
            self.arm(id);
        }
        None
    }

    /// Starts loading what the removal of a session touches, whose record has been loaded, and the record and link of
    /// the next session in its slot.
    fn prefetch_end_of(&self, id: u32) {
        let Some(record) = self.records.get(id as usize) else { return };
        let after = self.wheel.next(id);
        self.wheel.prefetch(after);
        self.prefetch_record(after);
        for direction in [Direction::Request, Direction::Reply] {
            self.index.prefetch(self.hash(record.arriving(direction), record.key_protocol(direction)));
        }
    }

    /// Restarts a session's time-out now.
    pub fn postpone(&mut self, id: SessionId, timeout: Ticks, now: Tick) {
        let Some(record) = self.records.get_mut(id.0 as usize) else { return };
        record.last_seen = now;
        record.timeout = timeout;
        self.wheel.disarm(id.0);
        self.arm(id.0);
    }

    /// Has the session checked again at `when`, before or after its own deadline.
    pub fn revisit(&mut self, id: SessionId, when: Tick) {
        if (id.0 as usize) < self.records.len() {
            self.wheel.disarm(id.0);
            self.wheel.arm(id.0, when);
        }
    }

    fn take_record(&mut self) -> Option<u32> {
        let id = if self.free != NIL {
            let id = self.free;
            self.free = self.wheel.next(id);
            id
        } else if (self.fresh as usize) < self.capacity {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return None;
        };
        self.used += 1;
        Some(id)
    }

    fn give_record(&mut self, id: u32) {
        self.records[id as usize].retire();
        self.wheel.chain(id, self.free);
        self.free = id;
        self.used -= 1;
    }

    /// Puts a session into the slot of its deadline.
    fn arm(&mut self, id: u32) {
        self.wheel.arm(id, self.records[id as usize].deadline());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::SlotId;

    fn tuple(n: u32) -> NewSession {
        NewSession {
            request: Tuple::new((n, 1), (0xc000_020a, 80)),
            reply: Tuple::new((0x0a00_0001, 80), (0x0a00_00fe, n as u16)),
            protocol: 6,
            slot: SlotId(0),
            flags: 0,
        }
    }

    fn table(max: usize) -> Sessions {
        Sessions::new(max, HashKey::from_seed(0), Tick(0)).unwrap()
    }

    /// Runs the wheel from 0 to `until` and returns (session, time of expiry).
    fn expiries(sessions: &mut Sessions, until: Ticks) -> Vec<(u32, Ticks)> {
        let mut out = vec![];
        for t in (0..=until.0).map(Ticks) {
            let mut budget = 1000;
            while let Some(id) = sessions.next_expired(Tick::at(t), &mut budget) {
                sessions.remove(id);
                out.push((id.0, t));
            }
        }
        out
    }

    /// Whether a session due at `due` expired in time.
    fn soon_after(due: Ticks, at: Ticks) -> bool {
        (due..=Ticks(due.0 + 50)).contains(&at)
    }

    #[test]
    fn both_directions_lead_to_the_session_and_removal_forgets_both() {
        let mut s = table(4);
        let id = s.insert(&tuple(9), Ticks::seconds(60), Tick(0)).unwrap();
        for (t, direction) in [(tuple(9).request, Direction::Request), (tuple(9).reply, Direction::Reply)] {
            assert_eq!(s.find(s.hash(t, 6), t, 6), Some(Found { id, direction }));
            assert_eq!(s.find(s.hash(t, 17), t, 17), None);
        }
        assert!(s.insert(&tuple(9), Ticks(1), Tick(0)).is_none(), "the same tuple twice");
        assert!(s.remove(id).is_some());
        assert!(s.remove(id).is_none());
        assert!(!s.holds(tuple(9).request, 6) && !s.holds(tuple(9).reply, 6));
        assert!(s.is_empty());
    }

    #[test]
    fn no_room_is_said_and_a_removed_record_is_used_again() {
        let mut s = table(2);
        let a = s.insert(&tuple(1), Ticks(100), Tick(0)).unwrap();
        s.insert(&tuple(2), Ticks(100), Tick(0)).unwrap();
        assert!(s.insert(&tuple(3), Ticks(100), Tick(0)).is_none());
        s.remove(a);
        assert_eq!(s.insert(&tuple(3), Ticks(100), Tick(0)), Some(a));
    }

    #[test]
    fn sessions_expire_within_half_a_second_after_their_deadline() {
        let mut s = table(10);
        for (n, secs) in [(1, 10), (2, 60), (3, 900), (4, 5000)] {
            s.insert(&tuple(n), Ticks::seconds(secs), Tick(0)).unwrap();
        }
        let seen = expiries(&mut s, Ticks::seconds(5001));
        for ((id, at), due) in seen.iter().zip([10, 60, 900, 5000]) {
            assert!(soon_after(Ticks::seconds(due), *at), "{id} due {due} s, expired at {at:?}");
        }
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn a_packet_puts_expiry_off_and_a_shorter_timeout_brings_it_forward() {
        let mut s = table(2);
        let a = s.insert(&tuple(1), Ticks::seconds(10), Tick(0)).unwrap();
        let b = s.insert(&tuple(2), Ticks::seconds(900), Tick(0)).unwrap();
        s.get_mut(a).unwrap().last_seen = Tick::at(Ticks::seconds(5));
        s.set_timeout(b, Ticks::seconds(1));
        let seen = expiries(&mut s, Ticks::seconds(20));
        assert_eq!(seen.iter().map(|e| e.0).collect::<Vec<_>>(), [b.0, a.0]);
        assert!(seen[0].1 < Ticks::seconds(2) && seen[1].1 >= Ticks::seconds(15));
    }

    #[test]
    fn a_timeout_may_restart_and_a_visit_be_delayed() {
        let mut s = table(2);
        let a = s.insert(&tuple(1), Ticks::seconds(10), Tick(0)).unwrap();
        let b = s.insert(&tuple(2), Ticks::seconds(10), Tick(0)).unwrap();
        s.postpone(a, Ticks::seconds(20), Tick::at(Ticks::seconds(5)));
        assert_eq!(s.get(a).unwrap().deadline(), Tick::at(Ticks::seconds(25)));
        s.revisit(b, Tick::at(Ticks::seconds(40)));
        let seen = expiries(&mut s, Ticks::seconds(60));
        assert_eq!(seen.iter().map(|e| e.0).collect::<Vec<_>>(), [a.0, b.0]);
        assert!(soon_after(Ticks::seconds(25), seen[0].1), "{seen:?}");
        assert!(soon_after(Ticks::seconds(40), seen[1].1), "{seen:?}");
    }

    #[test]
    fn a_longer_timeout_waits_for_its_turn_and_an_equal_one_changes_nothing() {
        let mut s = table(2);
        let a = s.insert(&tuple(1), Ticks::seconds(10), Tick(0)).unwrap();
        s.set_timeout(a, Ticks::seconds(10));
        s.set_timeout(a, Ticks::seconds(30));
        let seen = expiries(&mut s, Ticks::seconds(60));
        assert!(seen.len() == 1 && soon_after(Ticks::seconds(30), seen[0].1), "{seen:?}");
    }

    #[test]
    fn what_is_populated_is_records_links_and_index() {
        let (small, large) = (table(1000), table(2000));
        assert_eq!(small.populated_bytes() - small.index.bytes() as u64, 1000 * (64 + 16));
        assert_eq!(large.populated_bytes() - large.index.bytes() as u64, 2000 * (64 + 16));
        assert_eq!((small.capacity(), small.high_water(), small.len()), (1000, 0, 0));
    }

    #[test]
    fn the_clock_may_wrap() {
        let start = Tick(u32::MAX).before(Ticks::seconds(5));
        let mut s = Sessions::new(2, HashKey::from_seed(0), start).unwrap();
        s.insert(&tuple(1), Ticks::seconds(10), start).unwrap();
        let mut budget = 100;
        assert_eq!(s.next_expired(start.after(Ticks::seconds(9)), &mut budget), None);
        assert!(s.next_expired(start.after(Ticks::seconds(11)), &mut budget).is_some());
    }

    #[test]
    fn work_a_call_is_bounded() {
        let mut s = table(100);
        for n in 0..100 {
            s.insert(&tuple(n), Ticks::seconds(1), Tick(0)).unwrap();
        }
        let mut budget = 30;
        let mut n = 0;
        while let Some(id) = s.next_expired(Tick::at(Ticks::seconds(3)), &mut budget) {
            s.remove(id);
            n += 1;
        }
        assert_eq!(n, 30);
        assert_eq!(s.len(), 70);
    }

    /// The page faults of this thread so far.
    fn faults() -> i64 {
        use nix::sys::resource::{UsageWho, getrusage};
        getrusage(UsageWho::RUSAGE_THREAD).unwrap().minor_page_faults()
    }

    #[test]
    fn sessions_of_a_populated_table_wait_for_no_page() {
        let opened = |populate: bool| {
            let mut s = Sessions::new(60_000, HashKey::from_seed(1), Tick(0)).unwrap();
            if populate {
                s.populate().unwrap();
            }
            let before = faults();
            for n in 0..60_000 {
                assert!(s.insert(&tuple(n), Ticks(10), Tick(0)).is_some());
            }
            faults() - before
        };
        // With huge pages there are a handful, with small ones a thousand. The first run also loads the pages of the
        // code itself, so that the second one doesn't wait for those.
        assert!(opened(false) > 0);
        assert_eq!(opened(true), 0);
    }

    proptest! {
        #[test]
        fn every_session_expires_once_and_in_time(spec in prop::collection::vec((1u32..2000, 0u32..50), 1..60)) {
            let mut s = table(64);
            for (n, (secs, _)) in spec.iter().enumerate() {
                s.insert(&tuple(n as u32), Ticks::seconds(*secs), Tick(0)).unwrap();
            }
            for (n, (_, later)) in spec.iter().enumerate() {
                s.get_mut(SessionId(n as u32)).unwrap().last_seen = Tick(*later);
            }
            let seen = expiries(&mut s, Ticks::seconds(2002));
            prop_assert_eq!(seen.len(), spec.len());
            for (id, at) in seen {
                let (secs, later) = spec[id as usize];
                prop_assert!(soon_after(Ticks(Ticks::seconds(secs).0 + later), at));
            }
        }
    }
}
