//! Virtual reassembly: a worker's knowledge of fragmented packets.
//!
//! Only the first fragment has ports. It stores them here under (source, destination, identification, protocol), and
//! the others look them up; fragments that arrive before the first one wait, up to a limit. Nothing is joined: each
//! fragment is forwarded by itself. A fragment that overlaps an earlier one is dropped, so that nobody can send two
//! versions of the same bytes (RFC 1858, RFC 5722).
//!
//! SCTP's checksum is a CRC, and the effect of changed ports on it depends on how many bytes follow. SCTP fragments
//! therefore also wait for the last one, which reveals the packet's length.
//!
//! The table has a fixed size, with four slots per hash. A flood of fragments displaces only other fragments, oldest
//! first. When too many wait, the sender with the most waiting fragments loses one: a single sender can't keep others
//! from waiting.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::{
    clock::{Tick, Ticks},
    net::{
        address::{Address, fold},
        protocol,
    },
};

/// The number of fragmented packets that a worker keeps track of.
const FLOWS: usize = 1024;
/// Slots per hash.
const WAYS: usize = 4;
/// The most fragments that wait for their first one, in all.
const WAITING: usize = 64;
/// The most fragments of one packet that wait.
const WAITING_EACH: usize = 16;
/// The most separate ranges tracked in one packet.
const RANGES: usize = 24;
/// How long a packet's fragments may take to arrive: Linux's `ipfrag_time`.
const LIFETIME: Ticks = Ticks::seconds(30);
/// How long a fragment waits for the first one.
const PATIENCE: Ticks = Ticks::seconds(2);

/// Identifies the packet that a fragment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// Identification.
    pub id: u32,
    /// IP protocol number of the fragmented packet.
    pub protocol: u8,
}

impl FragmentKey {
    fn set(&self, seed: u64) -> usize {
        let mix = |state, address| match address {
            IpAddr::V4(a) => Address::mix(a, state),
            IpAddr::V6(a) => Address::mix(a, state),
        };
        let mixed = mix(mix(seed, self.source), self.destination);
        let mixed = fold(mixed ^ u64::from(self.id) << 8 ^ u64::from(self.protocol), seed | 1);
        (mixed >> 32) as usize % (FLOWS / WAYS) * WAYS
    }

    /// The sender that the fragment counts against: its address, or its /64 for IPv6, since anybody may own a whole
    /// /64.
    fn sender(&self) -> u64 {
        match self.source {
            IpAddr::V4(a) => a.to_bits().into(),
            IpAddr::V6(a) => (a.to_bits() >> 64) as u64,
        }
    }
}

/// The range of its packet that a fragment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First byte behind the IP headers.
    pub from: u16,
    /// One more than the last.
    pub to: u16,
    /// No fragment follows.
    pub last: bool,
}

#[derive(Clone, Debug)]
struct FragmentedPacket<W> {
    key: FragmentKey,
    /// The ports as laid out in the header, with the source port in the low half.
    ports: Option<u32>,
    /// Where the first fragment went, if the ports don't determine it.
    way: Option<W>,
    since: Tick,
    /// The ranges that have arrived, in order, never adjacent.
    seen: ArrayVec<(u16, u16), RANGES>,
    end: Option<u16>,
    /// The identification under which it leaves if the sender's own is no longer unique.
    id: u16,
}

/// A waiting fragment.
#[derive(Debug)]
struct WaitingFragment<T> {
    key: FragmentKey,
    since: Tick,
    what: T,
}

/// What to do with a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentVerdict {
    /// It belongs to a packet with these ports, and leaves under this identification if it needs a new one.
    Known(u32, u16),
    /// The first fragment hasn't arrived; for SCTP, the first or the last.
    TooEarly,
    /// Some of its bytes had already arrived, or lie beyond the packet's end.
    Overlaps,
    /// The packet has more gaps than can arise by accident.
    Scattered,
}

/// The table. `T` is a waiting fragment, `W` a destination that the ports don't determine.
#[derive(Debug)]
pub struct Fragments<T, W> {
    flows: Box<[Option<FragmentedPacket<W>>]>,
    waiting: ArrayVec<WaitingFragment<T>, WAITING>,
    seed: u64,
    ids: u16,
    /// The next slot to be checked for a packet whose time is over.
    next: usize,
}

impl<W> FragmentedPacket<W> {
    /// Adds a range, or tells why it can't be added.
    fn add(&mut self, piece: Piece) -> Result<(), FragmentVerdict> {
        let beyond = self.end.is_some_and(|end| piece.to > end || piece.last && piece.to != end);
        let behind = piece.last && self.seen.last().is_some_and(|(_, to)| *to > piece.to);
        let overlaps = self.seen.iter().any(|&(from, to)| piece.from < to && from < piece.to);
        if beyond || behind || overlaps {
            return Err(FragmentVerdict::Overlaps);
        }
        let at = self.seen.partition_point(|&(from, _)| from < piece.from);
        let joins_before = at > 0 && self.seen[at - 1].1 == piece.from;
        let joins_after = self.seen.get(at).is_some_and(|&(from, _)| from == piece.to);
        match (joins_before, joins_after) {
            (true, true) => {
                self.seen[at - 1].1 = self.seen[at].1;
                self.seen.remove(at);
            }
            (true, false) => self.seen[at - 1].1 = piece.to,
            (false, true) => self.seen[at].0 = piece.from,
            (false, false) => {
                self.seen.try_insert(at, (piece.from, piece.to)).map_err(|_| FragmentVerdict::Scattered)?;
            }
        }
        if piece.last {
            self.end = Some(piece.to);
        }
        Ok(())
    }

    /// Whether fragments of the packet may still arrive.
    fn is_alive(&self, now: Tick) -> bool {
        now.since(self.since) < LIFETIME
    }

    /// Whether every byte has arrived.
    fn is_whole(&self) -> bool {
        matches!((self.seen.as_slice(), self.end), (&[(0, to)], Some(end)) if to == end)
    }
}

impl<T, W: Copy> Fragments<T, W> {
    /// An empty table; identifications start at `first_id` and increase by 1.
    #[must_use]
    pub fn new(seed: u64, first_id: u16) -> Self {
        let flows = (0..FLOWS).map(|_| None).collect();
        Self { flows, waiting: ArrayVec::new(), seed, ids: first_id, next: 0 }
    }

    /// Notes a fragment; `ports` are given for the first one. The caller calls [`Self::finish`] once it has handled the
    /// fragment.
    pub fn note(
        &mut self,
        key: &FragmentKey,
        piece: Piece,
        ports: Option<u32>,
        now: Tick,
    ) -> FragmentVerdict {
        self.tidy(now);
        let at = self.place(key, now);
        let id = self.ids;
        let flow = match &mut self.flows[at] {
            Some(flow) if flow.key == *key && flow.is_alive(now) => flow,
            place => {
                self.ids = self.ids.wrapping_add(1);
                let (seen, end) = (ArrayVec::new(), None);
                place.insert(FragmentedPacket {
                    key: *key,
                    ports: None,
                    way: None,
                    since: now,
                    seen,
                    end,
                    id,
                })
            }
        };
        if let Err(fate) = flow.add(piece) {
            return fate;
        }
        flow.ports = flow.ports.or(ports);
        let ready = key.protocol != protocol::SCTP || flow.end.is_some();
        flow.ports
            .filter(|_| ready)
            .map_or(FragmentVerdict::TooEarly, |ports| FragmentVerdict::Known(ports, flow.id))
    }

    /// The length of a packet behind its IP headers, once its last fragment has arrived.
    #[must_use]
    pub fn len(&self, key: &FragmentKey, now: Tick) -> Option<u16> {
        self.own(key, now).and_then(|at| self.flows[at].as_ref()?.end)
    }

    /// Notes where a packet's first fragment went.
    pub fn set_way(&mut self, key: &FragmentKey, way: W, now: Tick) {
        if let Some(flow) = self.own(key, now).and_then(|at| self.flows[at].as_mut()) {
            flow.way = Some(way);
        }
    }

    /// Where a packet's first fragment went, if that was noted.
    #[must_use]
    pub fn way(&self, key: &FragmentKey, now: Tick) -> Option<W> {
        self.own(key, now).and_then(|at| self.flows[at].as_ref()?.way)
    }

    /// Forgets a packet whose fragments have all arrived and left: its identification becomes free.
    pub fn finish(&mut self, key: &FragmentKey, now: Tick) {
        if let Some(at) = self.own(key, now)
            && self.flows[at].as_ref().is_some_and(FragmentedPacket::is_whole)
        {
            self.flows[at] = None;
        }
    }

    /// Forgets the packet in the next slot if its time is over.
    fn tidy(&mut self, now: Tick) {
        self.next = (self.next + 1) % FLOWS;
        if let Some(place) = self.flows.get_mut(self.next)
            && place.as_ref().is_some_and(|flow| !flow.is_alive(now))
        {
            *place = None;
        }
    }

    /// The slot of a known packet.
    fn own(&self, key: &FragmentKey, now: Tick) -> Option<usize> {
        let first = key.set(self.seed);
        let is = |flow: &FragmentedPacket<W>| flow.key == *key && flow.is_alive(now);
        (first..first + WAYS).find(|&n| self.flows[n].as_ref().is_some_and(is))
    }

    /// The slot for a packet: its own, a free or stale one, or that of the oldest packet.
    fn place(&self, key: &FragmentKey, now: Tick) -> usize {
        let first = key.set(self.seed);
        let alive = |n: usize| self.flows[n].as_ref().filter(|f| f.is_alive(now));
        let age = |n: &usize| alive(*n).map_or(Ticks::MAX, |f| now.since(f.since));
        self.own(key, now).or_else(|| (first..first + WAYS).max_by_key(age)).unwrap_or(first)
    }

    /// Lets a fragment wait for its first one. Returns a fragment that may not wait (any longer): this one if too many
    /// of its packet wait, or the oldest of the sender with the most.
    pub fn wait(&mut self, key: &FragmentKey, what: T, now: Tick) -> Option<T> {
        if self.waiting.iter().filter(|w| w.key == *key).count() >= WAITING_EACH {
            return Some(what);
        }
        let out = if self.waiting.is_full() { self.dispensable(key.sender()) } else { None };
        let out = out.map(|at| self.waiting.remove(at).what);
        let refused = self.waiting.try_push(WaitingFragment { key: *key, since: now, what }).err();
        out.or(refused.map(|full| full.element().what))
    }

    /// The waiting fragment that must make room for one of this sender's.
    fn dispensable(&self, sender: u64) -> Option<usize> {
        let of = |wanted: u64| self.waiting.iter().filter(|w| w.key.sender() == wanted).count();
        let held = |w: &WaitingFragment<T>| of(w.key.sender()) + usize::from(w.key.sender() == sender);
        // Among equals, `max_by_key` returns the last one, which is the oldest here.
        self.waiting.iter().enumerate().rev().max_by_key(|(_, w)| held(w)).map(|(at, _)| at)
    }

    /// The next waiting fragment of this packet, in order of arrival.
    pub fn released(&mut self, key: &FragmentKey) -> Option<T> {
        self.released_if(key, |_| true)
    }

    /// The next waiting fragment for which `is_it` holds.
    pub fn released_if(&mut self, key: &FragmentKey, is_it: impl Fn(&T) -> bool) -> Option<T> {
        let at = self.waiting.iter().position(|w| w.key == *key && is_it(&w.what))?;
        Some(self.waiting.remove(at).what)
    }

    /// A fragment whose first one hasn't arrived in time.
    #[inline]
    pub fn given_up(&mut self, now: Tick) -> Option<T> {
        let oldest = self.waiting.first()?;
        (now.since(oldest.since) >= PATIENCE).then(|| self.waiting.remove(0).what)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(id: u32) -> FragmentKey {
        FragmentKey { source: [10, 1, 0, 1].into(), destination: [192, 0, 2, 10].into(), id, protocol: 17 }
    }

    fn piece(from: u16, to: u16, last: bool) -> Piece {
        Piece { from, to, last }
    }

    #[test]
    fn ports_are_the_first_fragment_s_and_a_whole_packet_is_forgotten() {
        let mut f: Fragments<u8, u8> = Fragments::new(1, 7);
        assert_eq!(f.note(&key(1), piece(0, 8, false), Some(99), Tick(0)), FragmentVerdict::Known(99, 7));
        assert_eq!(f.note(&key(2), piece(8, 16, false), None, Tick(0)), FragmentVerdict::TooEarly);
        f.finish(&key(1), Tick(0));
        assert_eq!(f.note(&key(1), piece(8, 16, true), None, Tick(0)), FragmentVerdict::Known(99, 7));
        f.finish(&key(1), Tick(0));
        assert_eq!(
            f.note(&key(1), piece(8, 16, true), None, Tick(0)),
            FragmentVerdict::TooEarly,
            "another packet"
        );
        // Identifications increase by one: 8 went to the second packet.
        assert_eq!(f.note(&key(1), piece(0, 8, false), Some(98), Tick(0)), FragmentVerdict::Known(98, 9));
    }

    #[test]
    fn a_packet_is_whole_when_nothing_is_missing_before_its_end() {
        let whole = |pieces: &[(u16, u16, bool)]| {
            let mut f: Fragments<u8, u8> = Fragments::new(1, 0);
            for &(from, to, last) in pieces {
                f.note(&key(1), piece(from, to, last), (from == 0).then_some(5), Tick(0));
            }
            f.finish(&key(1), Tick(0));
            // A packet that was forgotten may start again.
            f.note(&key(1), piece(0, 8, false), Some(6), Tick(0)) == FragmentVerdict::Known(6, 1)
        };
        assert!(whole(&[(0, 8, false), (8, 16, false), (16, 20, true)]));
        assert!(whole(&[(16, 20, true), (8, 16, false), (0, 8, false)]));
        assert!(whole(&[(0, 8, false), (16, 20, true), (8, 16, false)]));
        assert!(!whole(&[(0, 8, false), (8, 16, false)]), "no end");
        assert!(!whole(&[(0, 8, false), (16, 20, true)]), "a gap");
        assert!(!whole(&[(8, 16, false), (16, 20, true)]), "no beginning");
    }

    #[test]
    fn a_packet_lives_for_thirty_seconds_and_no_longer() {
        let again = |after: Ticks| {
            let mut f: Fragments<u8, u8> = Fragments::new(1, 0);
            f.note(&key(1), piece(0, 8, false), Some(5), Tick(7));
            f.set_way(&key(1), 3, Tick(7));
            let now = Tick(7).after(after);
            (f.way(&key(1), now), f.note(&key(1), piece(0, 8, false), Some(6), now))
        };
        assert_eq!(again(Ticks(LIFETIME.0 - 1)), (Some(3), FragmentVerdict::Overlaps));
        assert_eq!(again(LIFETIME), (None, FragmentVerdict::Known(6, 1)));
        assert_eq!(again(Ticks(LIFETIME.0 + 1)), (None, FragmentVerdict::Known(6, 1)));
        assert_eq!(again(Ticks::seconds(3600)), (None, FragmentVerdict::Known(6, 1)));
        assert_eq!(LIFETIME, Ticks::seconds(30));
    }

    #[test]
    fn packets_whose_time_is_over_go_while_others_come() {
        let mut f: Fragments<u8, u8> = Fragments::new(1, 0);
        f.note(&key(1), piece(0, 8, false), Some(5), Tick(0));
        let held = |f: &Fragments<u8, u8>, id| f.flows.iter().flatten().any(|flow| flow.key == key(id));
        for n in 0..FLOWS {
            f.note(&key(2), piece(n as u16 * 8, n as u16 * 8 + 8, false), None, Tick(LIFETIME.0 - 1));
        }
        assert!(held(&f, 1) && held(&f, 2));
        for n in 0..FLOWS {
            f.note(&key(2), piece(n as u16 * 8, n as u16 * 8 + 8, false), None, Tick::at(LIFETIME));
        }
        assert!(!held(&f, 1) && held(&f, 2));
    }

    #[test]
    fn a_way_is_its_packet_s() {
        let mut f: Fragments<u8, u8> = Fragments::new(1, 0);
        f.note(&key(1), piece(0, 8, false), Some(5), Tick(0));
        f.note(&key(2), piece(0, 8, false), Some(5), Tick(0));
        f.set_way(&key(1), 3, Tick(0));
        f.set_way(&key(9), 4, Tick(0));
        assert_eq!([1, 2, 9].map(|id| f.way(&key(id), Tick(0))), [Some(3), None, None]);
    }

    #[test]
    fn early_ones_wait_for_their_own_packet_and_not_for_ever() {
        let mut f: Fragments<u8, u8> = Fragments::new(1, 0);
        f.note(&key(1), piece(8, 16, true), None, Tick(0));
        f.note(&key(2), piece(8, 16, true), None, Tick(0));
        for (id, what) in [(1, 10), (2, 20), (1, 11)] {
            assert_eq!(f.wait(&key(id), what, Tick(0)), None);
        }
        assert_eq!(f.note(&key(1), piece(0, 8, false), Some(5), Tick(1)), FragmentVerdict::Known(5, 0));
        assert_eq!(
            [f.released(&key(1)), f.released(&key(1)), f.released(&key(1))],
            [Some(10), Some(11), None]
        );
        assert_eq!((f.given_up(Tick(PATIENCE.0 - 1)), f.given_up(Tick::at(PATIENCE))), (None, Some(20)));
        for n in 0..WAITING_EACH {
            assert_eq!(f.wait(&key(3), n as u8, Tick(0)), None);
        }
        assert_eq!(f.wait(&key(3), 99, Tick(0)), Some(99), "enough of one packet");
        assert_eq!(f.released(&key(3)), Some(0));
        assert_eq!(f.wait(&key(3), 98, Tick(0)), None, "there is room again");
    }

    fn from(source: IpAddr, id: u32) -> FragmentKey {
        FragmentKey { source, ..key(id) }
    }

    #[test]
    fn who_has_the_most_waiting_makes_room() {
        let many: IpAddr = [10, 1, 0, 66].into();
        let mut f: Fragments<u32, u8> = Fragments::new(1, 0);
        for n in 0..WAITING as u32 {
            assert_eq!(f.wait(&from(many, n), n, Tick(n)), None, "{n}");
        }
        let full = WAITING as u32;
        assert_eq!(f.wait(&from(many, full), full, Tick(full)), Some(0), "its own oldest");
        for n in 0..20 {
            assert_eq!(f.wait(&from([10, 2, 0, n].into(), 1), 1000, Tick(full)), Some(u32::from(n) + 1));
        }
        assert_eq!(f.wait(&from(many, 200), 200, Tick(full)), Some(21));
        assert_eq!(f.released(&from([10, 2, 0, 0].into(), 1)), Some(1000), "nobody else's went");
    }

    #[test]
    fn of_equals_the_oldest_makes_room() {
        let mut f: Fragments<u8, u8> = Fragments::new(1, 0);
        for n in 0..WAITING as u8 {
            assert_eq!(f.wait(&from([10, 1, 0, n].into(), 1), n, Tick(0)), None);
        }
        assert_eq!(f.wait(&from([10, 2, 0, 1].into(), 1), 200, Tick(0)), Some(0));
        assert_eq!(f.wait(&from([10, 1, 0, 9].into(), 2), 201, Tick(0)), Some(9), "its sender has two then");
    }

    #[test]
    fn a_network_of_ipv6_is_one_sender() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let sender = |text: &str| from(address(text), 1).sender();
        assert_eq!(sender("2001:db8:0:1::1"), sender("2001:db8:0:1:ffff::2"));
        assert_ne!(sender("2001:db8:0:1::1"), sender("2001:db8:0:2::1"));
        assert_ne!(from([10, 1, 0, 1].into(), 1).sender(), from([10, 1, 0, 2].into(), 1).sender());
    }

    #[test]
    fn gaps_are_counted() {
        let mut f: Fragments<u8, u8> = Fragments::new(1, 0);
        let mut note = |n: u16| f.note(&key(1), piece(n * 16, n * 16 + 8, false), None, Tick(0));
        for n in 0..RANGES as u16 {
            assert_eq!(note(n), FragmentVerdict::TooEarly, "{n}");
        }
        assert_eq!(note(RANGES as u16), FragmentVerdict::Scattered);
        // A fragment that fills a gap needs no room.
        assert_eq!(f.note(&key(1), piece(8, 16, false), None, Tick(0)), FragmentVerdict::TooEarly);
        assert_eq!(note_at(&mut f, RANGES as u16), FragmentVerdict::TooEarly);
    }

    fn note_at(f: &mut Fragments<u8, u8>, n: u16) -> FragmentVerdict {
        f.note(&key(1), piece(n * 16, n * 16 + 8, false), None, Tick(0))
    }

    #[test]
    fn what_overlaps_or_lies_behind_the_end_is_refused() {
        let mut f: Fragments<u8, u8> = Fragments::new(1, 0);
        let mut note = |from, to, last| f.note(&key(1), piece(from, to, last), None, Tick(0));
        assert_eq!(note(16, 24, false), FragmentVerdict::TooEarly);
        for (from, to) in [(16, 24), (8, 17), (23, 32), (0, 64), (18, 20)] {
            assert_eq!(note(from, to, false), FragmentVerdict::Overlaps, "{from} {to}");
        }
        assert_eq!(note(8, 16, true), FragmentVerdict::Overlaps, "the last before another");
        assert_eq!(note(32, 40, true), FragmentVerdict::TooEarly);
        assert_eq!(
            (note(40, 48, false), note(24, 32, true)),
            (FragmentVerdict::Overlaps, FragmentVerdict::Overlaps)
        );
        assert_eq!(note(24, 32, false), FragmentVerdict::TooEarly);
    }

    #[test]
    fn a_flood_pushes_out_the_oldest_alone() {
        let mut f: Fragments<u8, u8> = Fragments::new(1, 0);
        for id in 0..100_000 {
            f.note(&key(id), piece(0, 8, false), Some(id), Tick(id / 1000));
        }
        let known = |f: &mut Fragments<u8, u8>, id| matches!(f.note(&key(id), piece(8, 16, false), None, Tick(100)), FragmentVerdict::Known(ports, _) if ports == id);
        assert!(known(&mut f, 99_999) && !known(&mut f, 5));
    }

    proptest! {
        /// In any order, every byte passes once.
        #[test]
        fn no_byte_passes_twice(pieces in prop::collection::vec((0u16..60, 1u16..20), 1..40)) {
            let mut f: Fragments<u8, u8> = Fragments::new(1, 0);
            let mut passed = [false; 100];
            for (from, len) in pieces {
                let fate = f.note(&key(1), piece(from, from + len, false), None, Tick(0));
                let range = usize::from(from)..usize::from(from + len);
                let free = passed[range.clone()].iter().all(|p| !p);
                match fate {
                    FragmentVerdict::TooEarly => {
                        prop_assert!(free);
                        passed[range].fill(true);
                    }
                    FragmentVerdict::Overlaps => prop_assert!(!free),
                    other => prop_assert_eq!(other, FragmentVerdict::Scattered),
                }
            }
        }
    }
}
