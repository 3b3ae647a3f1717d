//! What a worker knows of packets that come in fragments: virtual reassembly.
//!
//! Ports are in the first fragment only. It leaves them here under (source, destination, identification, protocol), and
//! the others find them; those that come before it wait, up to a limit. Nothing is joined: each fragment goes on by
//! itself. Bytes that came already don't come again, so that nobody can say two things about one place (RFC 1858, RFC
//! 5722): the later fragment is dropped.
//!
//! The table has a fixed size, four places for each hash. A flood of fragments pushes out other fragments, the oldest
//! first, and nothing else.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::{
    clock::{Tick, seconds},
    net::address::{Address, fold},
};

/// Packets under way that a worker knows.
const FLOWS: usize = 1024;
/// Places for one hash.
const WAYS: usize = 4;
/// Fragments that wait for their first, in all.
const WAITING: usize = 64;
/// Fragments of one packet that wait.
const WAITING_EACH: usize = 16;
/// Gaps and what lies between them that are told apart in one packet.
const RANGES: usize = 24;
/// How long a packet may be under way: Linux's `ipfrag_time`.
const LIFETIME: u32 = seconds(30);
/// How long a fragment waits for the first one.
const PATIENCE: u32 = seconds(2);

/// Which packet a fragment is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// Identification.
    pub id: u32,
    /// IP protocol number of what is fragmented.
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
}

/// Which bytes of its packet a fragment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First byte behind the IP headers.
    pub from: u16,
    /// One more than the last.
    pub to: u16,
    /// No further fragment follows.
    pub last: bool,
}

#[derive(Clone, Debug)]
struct Flow {
    key: FragmentKey,
    /// Source port in the low half, as they lie in the header.
    ports: Option<u32>,
    since: Tick,
    /// Bytes that have come, in order, never adjacent.
    seen: ArrayVec<(u16, u16), RANGES>,
    end: Option<u16>,
    /// Identification that it leaves with where its sender's isn't unique any more.
    id: u16,
}

/// A fragment that waits.
#[derive(Debug)]
struct Waiting<T> {
    key: FragmentKey,
    since: Tick,
    what: T,
}

/// What is to be done with a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It belongs to a packet with these ports, and leaves under this identification where it needs a new one.
    Known(u32, u16),
    /// The first one hasn't come.
    TooEarly,
    /// Some of its bytes came before, or lie behind the packet's end.
    Overlaps,
    /// The packet has more gaps than anybody makes by accident.
    Scattered,
}

/// The table; `T` is what waits.
#[derive(Debug)]
pub struct Fragments<T> {
    flows: Box<[Option<Flow>]>,
    waiting: ArrayVec<Waiting<T>, WAITING>,
    seed: u64,
    ids: u16,
}

impl Flow {
    /// Adds a piece, or says why not.
    fn add(&mut self, piece: Piece) -> Result<(), Fate> {
        let beyond = self.end.is_some_and(|end| piece.to > end || piece.last && piece.to != end);
        let behind = piece.last && self.seen.last().is_some_and(|(_, to)| *to > piece.to);
        let overlaps = self.seen.iter().any(|&(from, to)| piece.from < to && from < piece.to);
        if beyond || behind || overlaps {
            return Err(Fate::Overlaps);
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
                self.seen.try_insert(at, (piece.from, piece.to)).map_err(|_| Fate::Scattered)?;
            }
        }
        if piece.last {
            self.end = Some(piece.to);
        }
        Ok(())
    }

    /// Every byte has come.
    fn is_whole(&self) -> bool {
        matches!((self.seen.as_slice(), self.end), (&[(0, to)], Some(end)) if to == end)
    }
}

impl<T> Fragments<T> {
    /// An empty table; identifications start at `worker` and go on in steps of 1.
    #[must_use]
    pub fn new(seed: u64, first_id: u16) -> Self {
        let flows = (0..FLOWS).map(|_| None).collect();
        Self { flows, waiting: ArrayVec::new(), seed, ids: first_id }
    }

    /// Takes note of a fragment; `ports` if it is the first.
    pub fn note(&mut self, key: &FragmentKey, piece: Piece, ports: Option<u32>, now: Tick) -> Fate {
        let at = self.place(key, now);
        let id = self.ids;
        let flow = match &mut self.flows[at] {
            Some(flow) if flow.key == *key => flow,
            place => {
                self.ids = self.ids.wrapping_add(1);
                let (seen, end) = (ArrayVec::new(), None);
                place.insert(Flow { key: *key, ports: None, since: now, seen, end, id })
            }
        };
        if let Err(fate) = flow.add(piece) {
            return fate;
        }
        flow.ports = flow.ports.or(ports);
        let fate = flow.ports.map_or(Fate::TooEarly, |ports| Fate::Known(ports, flow.id));
        if flow.is_whole() && !self.waiting.iter().any(|w| w.key == *key) {
            // The identification is free for another packet.
            self.flows[at] = None;
        }
        fate
    }

    /// The place of a packet: its own, a free or stale one, else the oldest's.
    fn place(&self, key: &FragmentKey, now: Tick) -> usize {
        let first = key.set(self.seed);
        let flow = |n: usize| self.flows[n].as_ref().filter(|f| now.since(f.since) < LIFETIME);
        let places = first..first + WAYS;
        let own = places.clone().find(|&n| flow(n).is_some_and(|f| f.key == *key));
        let age = |n: &usize| flow(*n).map_or(u32::MAX, |f| now.since(f.since));
        own.or_else(|| places.max_by_key(age)).unwrap_or(first)
    }

    /// Lets a fragment wait for its first; gives it back where too many wait.
    pub fn wait(&mut self, key: &FragmentKey, what: T, now: Tick) -> Option<T> {
        if self.waiting.iter().filter(|w| w.key == *key).count() >= WAITING_EACH {
            return Some(what);
        }
        let refused = self.waiting.try_push(Waiting { key: *key, since: now, what }).err();
        refused.map(|full| full.element().what)
    }

    /// The next fragment that waits for this packet's first, in the order of arrival.
    pub fn released(&mut self, key: &FragmentKey) -> Option<T> {
        let at = self.waiting.iter().position(|w| w.key == *key)?;
        Some(self.waiting.remove(at).what)
    }

    /// A fragment whose first hasn't come in time.
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
        let mut f: Fragments<u8> = Fragments::new(1, 7);
        assert_eq!(f.note(&key(1), piece(0, 8, false), Some(99), Tick(0)), Fate::Known(99, 7));
        assert_eq!(f.note(&key(2), piece(8, 16, false), None, Tick(0)), Fate::TooEarly);
        assert_eq!(f.note(&key(1), piece(8, 16, true), None, Tick(0)), Fate::Known(99, 7));
        assert_eq!(f.note(&key(1), piece(8, 16, true), None, Tick(0)), Fate::TooEarly, "another packet");
    }

    #[test]
    fn early_ones_wait_for_their_own_packet_and_not_for_ever() {
        let mut f: Fragments<u8> = Fragments::new(1, 0);
        f.note(&key(1), piece(8, 16, true), None, Tick(0));
        f.note(&key(2), piece(8, 16, true), None, Tick(0));
        for (id, what) in [(1, 10), (2, 20), (1, 11)] {
            assert_eq!(f.wait(&key(id), what, Tick(0)), None);
        }
        assert_eq!(f.note(&key(1), piece(0, 8, false), Some(5), Tick(1)), Fate::Known(5, 0));
        assert_eq!(
            [f.released(&key(1)), f.released(&key(1)), f.released(&key(1))],
            [Some(10), Some(11), None]
        );
        assert_eq!((f.given_up(Tick(PATIENCE - 1)), f.given_up(Tick(PATIENCE))), (None, Some(20)));
        for n in 0..WAITING_EACH {
            assert_eq!(f.wait(&key(3), n as u8, Tick(0)), None);
        }
        assert_eq!(f.wait(&key(3), 99, Tick(0)), Some(99), "enough of one packet");
    }

    #[test]
    fn what_overlaps_or_lies_behind_the_end_is_refused() {
        let mut f: Fragments<u8> = Fragments::new(1, 0);
        let mut note = |from, to, last| f.note(&key(1), piece(from, to, last), None, Tick(0));
        assert_eq!(note(16, 24, false), Fate::TooEarly);
        for (from, to) in [(16, 24), (8, 17), (23, 32), (0, 64), (18, 20)] {
            assert_eq!(note(from, to, false), Fate::Overlaps, "{from} {to}");
        }
        assert_eq!(note(8, 16, true), Fate::Overlaps, "the last before another");
        assert_eq!(note(32, 40, true), Fate::TooEarly);
        assert_eq!((note(40, 48, false), note(24, 32, true)), (Fate::Overlaps, Fate::Overlaps));
        assert_eq!(note(24, 32, false), Fate::TooEarly);
    }

    #[test]
    fn a_flood_pushes_out_the_oldest_alone() {
        let mut f: Fragments<u8> = Fragments::new(1, 0);
        for id in 0..100_000 {
            f.note(&key(id), piece(0, 8, false), Some(id), Tick(id / 1000));
        }
        let known = |f: &mut Fragments<u8>, id| matches!(f.note(&key(id), piece(8, 16, false), None, Tick(100)), Fate::Known(ports, _) if ports == id);
        assert!(known(&mut f, 99_999) && !known(&mut f, 5));
    }

    proptest! {
        /// Whatever the order, every byte passes once.
        #[test]
        fn no_byte_passes_twice(pieces in prop::collection::vec((0u16..60, 1u16..20), 1..40)) {
            let mut f: Fragments<u8> = Fragments::new(1, 0);
            let mut passed = [false; 100];
            for (from, len) in pieces {
                let fate = f.note(&key(1), piece(from, from + len, false), None, Tick(0));
                let range = usize::from(from)..usize::from(from + len);
                let free = passed[range.clone()].iter().all(|p| !p);
                match fate {
                    Fate::TooEarly => {
                        prop_assert!(free);
                        passed[range].fill(true);
                    }
                    Fate::Overlaps => prop_assert!(!free),
                    other => prop_assert_eq!(other, Fate::Scattered),
                }
            }
        }
    }
}
