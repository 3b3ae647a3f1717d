//! Sessions with an IPv6 side.
//!
//! ```text
//! record   as always, with digests in place of addresses    64 bytes
//! wide     both pairs of addresses, by direction             64 bytes, with the record's number, in another table
//! ```
//!
//! A record stays one cache line, and a gateway without IPv6 never touches the second table, whose pages stay
//! untouched. Digests are keyed; if two pairs have the same digest, the pairs decide. A direction is IPv6 if its
//! protocol number has [`IPV6`]: a session from an IPv6 client to an IPv4 server has one direction of each family.

use zerocopy::FromBytes;

use super::{
    endpoints::{Endpoints, IPV6, Pair},
    session::{Direction, NewSession, ONE_PACKET, Session, SessionId, Tuple},
    sessions::{Candidate, Found, Sessions},
    templates::spread,
};
use crate::clock::{Tick, Ticks};
use crate::id::HopId;

/// The addresses of both directions as they arrive. An IPv4 direction holds the hops of [`V6Record::hop`] instead.
#[derive(Clone, Copy, Debug, FromBytes)]
#[repr(C, align(64))]
pub struct V6Record {
    pairs: [Pair; 2],
}

const _: () = assert!(size_of::<V6Record>() == 64);

/// The initial value of the hops of [`V6Record::hop`]: unknown in any generation of routes.
const NO_HOPS: Pair = {
    let mut pair = [0; 32];
    let [low, high] = HopId::NONE.word().to_le_bytes();
    (pair[0], pair[1], pair[2], pair[3]) = (low, high, low, high);
    pair
};

impl V6Record {
    /// The addresses of requests and replies as they arrive; none if neither is IPv6.
    #[must_use]
    pub fn of(request: &Endpoints, reply: &Endpoints) -> Option<Self> {
        let pairs = [request.pair(), reply.pair()];
        pairs.iter().any(Option::is_some).then(|| Self { pairs: pairs.map(|pair| pair.unwrap_or(NO_HOPS)) })
    }

    /// The addresses of a packet that arrives in `direction`.
    #[inline]
    #[must_use]
    pub fn arriving(&self, direction: Direction) -> &Pair {
        &self.pairs[direction.index()]
    }

    /// The next hops of a session between the families. The record's field for them belongs to the fast path, so they
    /// are stored in the pair that the IPv4 direction doesn't need: two hops, then their generation of routes.
    #[inline]
    #[must_use]
    pub(crate) fn hop(&self, v4: Direction, direction: Direction) -> (HopId, u16) {
        let word = |n: usize| {
            let bytes = self.pairs[v4.index()].get(2 * n..).and_then(|b| b.first_chunk());
            bytes.map_or(0, |b| u16::from_le_bytes(*b))
        };
        (HopId::new(word(direction.index())), word(2))
    }

    fn set_hop(&mut self, v4: Direction, direction: Direction, hop: HopId, generation: u16) {
        let (_, before) = self.hop(v4, direction);
        let pair = &mut self.pairs[v4.index()];
        if before != generation {
            pair[..4].copy_from_slice(&HopId::NONE.word().to_le_bytes().repeat(2));
            pair[4..6].copy_from_slice(&generation.to_le_bytes());
        }
        pair[2 * direction.index()..][..2].copy_from_slice(&hop.word().to_le_bytes());
    }

    /// The source and the destination with which a packet of `direction` leaves.
    #[inline]
    #[must_use]
    pub fn leaving(&self, direction: Direction) -> (&[u8], &[u8]) {
        let (destination, source) = self.pairs[1 - direction.index()].split_at(16);
        (source, destination)
    }
}

/// The key of an IPv6 packet's session.
#[derive(Clone, Copy, Debug)]
pub struct V6Key {
    /// Digests and ports.
    pub tuple: Tuple,
    /// IP protocol number with [`IPV6`].
    pub protocol: u8,
    /// Addresses.
    pub pair: Pair,
}

/// The tuple, protocol number and hash under which a packet of either family looks up its session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub tuple: Tuple,
    pub protocol: u8,
    pub hash: u64,
}

impl Sessions {
    /// The digests of a pair, in the form of a tuple's addresses.
    #[inline]
    #[must_use]
    pub fn digests(&self, pair: &Pair) -> u64 {
        let half = |at: usize| {
            let word = |at: usize| pair[at..].first_chunk().map_or(0, |&b| u64::from_le_bytes(b));
            u64::from(self.key.digest(word(at), word(at + 8)))
        };
        half(0) | half(16) << 32
    }

    /// The key of an IPv6 packet's session; none for IPv4.
    #[must_use]
    pub fn v6_key(&self, ends: &Endpoints, protocol: u8) -> Option<V6Key> {
        let pair = ends.pair()?;
        let tuple = Tuple { addresses: self.digests(&pair), ports: ends.tuple().ports };
        Some(V6Key { tuple, protocol: protocol | IPV6, pair })
    }

    /// The key under which a packet of either family looks up its session.
    pub(super) fn key(&self, ends: &Endpoints, protocol: u8) -> Key {
        let (tuple, protocol) = match self.v6_key(ends, protocol) {
            Some(key) => (key.tuple, key.protocol),
            None => (ends.tuple(), protocol),
        };
        Key { tuple, protocol, hash: self.hash(tuple, protocol) }
    }

    /// The session of a packet with these endpoints, given its `key`.
    fn find_key(&self, key: &Key, ends: &Endpoints) -> Option<Found> {
        match ends.pair() {
            Some(pair) => self.find_v6_at(key.hash, key.tuple, key.protocol, &pair),
            None => self.find(key.hash, key.tuple, key.protocol),
        }
    }

    /// The session of a packet with these endpoints, of either family.
    #[must_use]
    pub fn find_endpoints(&self, ends: &Endpoints, protocol: u8) -> Option<Found> {
        self.find_key(&self.key(ends, protocol), ends)
    }

    /// The session of an IPv6 packet.
    #[must_use]
    pub fn find_v6(&self, key: &V6Key) -> Option<Found> {
        self.find_v6_at(self.hash(key.tuple, key.protocol), key.tuple, key.protocol, &key.pair)
    }

    #[inline(never)]
    fn find_v6_at(&self, hash: u64, tuple: Tuple, protocol: u8, pair: &Pair) -> Option<Found> {
        self.find_where(hash, |found, record| {
            record.is_at(found.direction, tuple, protocol) && self.is_pair(found, pair)
        })
    }

    fn is_pair(&self, found: Found, pair: &Pair) -> bool {
        self.v6_record(found.id).is_some_and(|v6| v6.arriving(found.direction) == pair)
    }

    /// Like [`Self::candidate`]; also starts loading its addresses.
    #[inline]
    #[must_use]
    pub fn candidate_v6(&self, hash: u64) -> Candidate {
        let candidate = self.candidate(hash);
        if let Some(v6) = self.v6.get(candidate.record()) {
            cpu::prefetch(v6);
        }
        candidate
    }

    /// Like [`Self::confirm`], for an IPv6 packet: `protocol` has [`IPV6`].
    #[inline]
    #[must_use]
    pub fn confirm_v6(
        &self,
        candidate: Candidate,
        hash: u64,
        tuple: Tuple,
        protocol: u8,
        pair: &Pair,
    ) -> Option<Found> {
        let likely = candidate.found();
        if self.record(candidate).is_at(likely.direction, tuple, protocol) && self.is_pair(likely, pair) {
            return Some(likely);
        }
        self.find_v6_at(hash, tuple, protocol, pair)
    }

    /// The addresses of a session that has an IPv6 side.
    #[inline]
    #[must_use]
    pub fn v6_record(&self, id: SessionId) -> Option<&V6Record> {
        self.v6.get(id.0 as usize)
    }

    /// Notes the next hop of a direction of a session between the families.
    pub(crate) fn remember_nat64_hop(
        &mut self,
        id: SessionId,
        direction: Direction,
        hop: HopId,
        generation: u16,
    ) {
        if let (Some(record), Some(v6)) = (self.records.get(id.0 as usize), self.v6.get_mut(id.0 as usize)) {
            v6.set_hop(record.v4_direction(), direction, hop, generation);
        }
    }

    /// The next hop that [`Self::remember_nat64_hop`] stored.
    pub(crate) fn nat64_hop(&self, id: SessionId, direction: Direction, generation: u16) -> Option<HopId> {
        let (record, v6) = self.records.get(id.0 as usize).zip(self.v6.get(id.0 as usize))?;
        let (hop, of) = v6.hop(record.v4_direction(), direction);
        (of == generation && hop.is_known()).then_some(hop)
    }

    /// A session's mutable record, and its addresses.
    #[inline]
    pub fn get_mut_v6(&mut self, id: SessionId) -> Option<(&mut Session, &V6Record)> {
        self.records.get_mut(id.0 as usize).zip(self.v6.get(id.0 as usize))
    }

    /// The addresses and ports of a packet of the session that arrives in `direction`.
    #[must_use]
    pub fn arriving(&self, id: SessionId, direction: Direction) -> Option<Endpoints> {
        Some(self.endpoints_of(id, self.get(id)?, direction))
    }

    /// The addresses and ports with which a packet of `direction` leaves.
    #[must_use]
    pub fn leaving(&self, id: SessionId, direction: Direction) -> Option<Endpoints> {
        self.arriving(id, direction.opposite()).map(Endpoints::reversed)
    }

    /// Like [`Self::arriving`], for a record that may be a copy: its addresses stay until the number is reused.
    #[inline]
    #[must_use]
    pub fn endpoints_of(&self, id: SessionId, record: &Session, direction: Direction) -> Endpoints {
        let tuple = record.arriving(direction);
        match self.v6_record(id) {
            Some(v6) if record.is_v6(direction) => Endpoints::of_pair(v6.arriving(direction), tuple),
            _ => Endpoints::of(tuple),
        }
    }

    /// Adds a session between these endpoints: requests and replies as they arrive, each of either family. Otherwise
    /// like [`Self::insert`], except that `new` need not have the tuples.
    pub fn insert_endpoints(
        &mut self,
        (request, reply): (&Endpoints, &Endpoints),
        new: &NewSession,
        timeout: Ticks,
        now: Tick,
    ) -> Option<SessionId> {
        if !request.is_ipv6() && !reply.is_ipv6() {
            let new = NewSession { request: request.tuple(), reply: reply.tuple(), ..*new };
            return self.insert(&new, timeout, now);
        }
        let keys = [request, reply].map(|ends| self.key(ends, new.protocol));
        if new.flags & ONE_PACKET == 0 && self.find_key(&keys[0], request).is_some() {
            return None;
        }
        self.insert_keys((request, reply), keys, new, timeout, now)
    }

    /// Like [`Self::insert_endpoints`], for a request that was just looked up and belongs to no session.
    pub fn insert_sought_endpoints(
        &mut self,
        (request, reply): (&Endpoints, &Endpoints),
        new: &NewSession,
        timeout: Ticks,
        now: Tick,
    ) -> Option<SessionId> {
        debug_assert!(new.flags & ONE_PACKET != 0 || self.find_endpoints(request, new.protocol).is_none());
        let keys = [request, reply].map(|ends| self.key(ends, new.protocol));
        self.insert_keys((request, reply), keys, new, timeout, now)
    }

    /// Like [`Self::insert_endpoints`], with the hash of requests changed by `salt`; the caller has looked them up.
    pub(super) fn insert_salted(
        &mut self,
        (request, reply): (&Endpoints, &Endpoints),
        new: &NewSession,
        salt: u32,
        timeout: Ticks,
        now: Tick,
    ) -> Option<SessionId> {
        let mut keys = [request, reply].map(|ends| self.key(ends, new.protocol));
        keys[0].hash ^= spread(salt);
        self.insert_keys((request, reply), keys, new, timeout, now)
    }

    fn insert_keys(
        &mut self,
        (request, reply): (&Endpoints, &Endpoints),
        keys: [Key; 2],
        new: &NewSession,
        timeout: Ticks,
        now: Tick,
    ) -> Option<SessionId> {
        let hashes = [keys[0].hash, keys[1].hash];
        self.prefetch_insertion(hashes, now.after(timeout));
        let taken = if new.is_one_way() { None } else { self.find_key(&keys[1], reply) };
        let new = NewSession { request: keys[0].tuple, reply: keys[1].tuple, ..*new };
        let protocols = [keys[0].protocol, keys[1].protocol];
        let id = self.insert_before(taken, hashes, &new, protocols, timeout, now)?;
        if let (Some(new), Some(v6)) = (V6Record::of(request, reply), self.v6.get_mut(id.0 as usize)) {
            *v6 = new;
        }
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use super::*;
    use crate::{
        id::SlotId,
        table::{index::HashKey, session::ONE_WAY},
    };

    fn v6(n: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n).into()
    }

    fn endpoints(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Endpoints {
        Endpoints { source, destination }
    }

    fn new(flags: u8) -> NewSession {
        let none = Tuple::default();
        NewSession { request: none, reply: none, protocol: 6, slot: SlotId(3), flags }
    }

    fn table() -> Sessions {
        Sessions::new(64, HashKey::from_seed(0), Tick(0)).unwrap()
    }

    #[test]
    fn both_directions_lead_to_a_session_of_any_two_families() {
        let v4 = |n: u8| IpAddr::from([10, 0, 0, n]);
        for (client, vip, server, local) in [
            (v6(1), v6(2), v6(3), v6(4)),
            (v6(1), v6(2), v4(3), v4(4)),
            (v4(1), v4(2), v6(3), v6(4)),
            (v4(1), v4(2), v4(3), v4(4)),
        ] {
            let mut s = table();
            let (request, reply) =
                (endpoints((client, 4000), (vip, 80)), endpoints((server, 80), (local, 5000)));
            let id = s.insert_endpoints((&request, &reply), &new(0), Ticks(100), Tick(0)).unwrap();
            for (way, direction) in [(request, Direction::Request), (reply, Direction::Reply)] {
                assert_eq!(s.find_endpoints(&way, 6), Some(Found { id, direction }));
                assert_eq!(s.find_endpoints(&way, 17), None);
                assert_eq!(s.arriving(id, direction), Some(way));
            }
            assert_eq!(s.leaving(id, Direction::Request), Some(reply.reversed()));
            assert_eq!(
                s.insert_endpoints((&request, &reply), &new(0), Ticks(100), Tick(0)),
                None,
                "the same twice"
            );
            let record = s.remove(id).unwrap();
            assert_eq!((record.protocol(), s.len()), (6, 0));
            assert_eq!(s.endpoints_of(id, &record, Direction::Request), request);
            assert_eq!((s.find_endpoints(&request, 6), s.find_endpoints(&reply, 6)), (None, None));
        }
    }

    #[test]
    fn no_next_hop_is_known_before_one_is_remembered() {
        let mut s = table();
        let v4 = |n: u8| IpAddr::from([10, 0, 0, n]);
        let (request, reply) = (endpoints((v6(1), 4000), (v6(2), 80)), endpoints((v4(3), 80), (v4(4), 5000)));
        let id = s.insert_endpoints((&request, &reply), &new(0), Ticks(100), Tick(0)).unwrap();
        let both = [Direction::Request, Direction::Reply];
        assert!(both.iter().all(|d| (0..=3).all(|generation| s.nat64_hop(id, *d, generation).is_none())));
        s.remember_nat64_hop(id, Direction::Request, HopId::new(7), 0);
        assert_eq!(both.map(|d| s.nat64_hop(id, d, 0)), [Some(HopId::new(7)), None]);
    }

    #[test]
    fn addresses_decide_where_digests_are_the_same() {
        let mut s = table();
        let (request, reply) = (endpoints((v6(1), 4000), (v6(2), 80)), endpoints((v6(3), 80), (v6(4), 5000)));
        let id = s.insert_endpoints((&request, &reply), &new(ONE_WAY), Ticks(100), Tick(0)).unwrap();
        let key = s.v6_key(&request, 6).unwrap();
        let other = V6Key { pair: s.v6_key(&reply, 6).unwrap().pair, ..key };
        let found = Some(Found { id, direction: Direction::Request });
        assert_eq!((s.find_v6(&key), s.find_v6(&other)), (found, None));
        let hash = s.hash(key.tuple, key.protocol);
        let candidate = s.candidate_v6(hash);
        let confirm = |pair| s.confirm_v6(candidate, hash, key.tuple, key.protocol, pair);
        assert_eq!((confirm(&key.pair), confirm(&other.pair)), (found, None));
        assert_eq!(s.find(hash, key.tuple, 6), None, "no IPv4 packet's");
    }
}
