//! One worker's share of the local ports: the ports whose replies arrive at this worker, numbered from 0.
//!
//! For a given server and local address everything depends on the reply's table index with port 0: its coset determines
//! which classes exist, and its class coordinate shifts them all. A worker's share is then
//!
//! ```text
//! slot = place of the class among the worker's classes in this coset * members + member
//! ```
//!
//! and both directions between slot and port take a few table look-ups. Up to the shift, the share is the same for all
//! servers and addresses, so there is one per worker, protocol and family.

use weir_api::model::Protocol;
use zerocopy::FromZeros;

use super::{classes::Classes, steering::Steering};
use crate::{id::WorkerId, net::address::Address};

/// The local ports that may be used, in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest port, at least 1.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl PortRange {
    /// Whether `port` is one of them.
    #[inline]
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// The coset and class coordinate of the reply with port 0, for a server and local address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros)]
pub(super) struct Base {
    pub coset: u16,
    pub class: u16,
}

/// The classes of one coset that belong to the worker.
#[derive(Clone, Copy, Debug)]
struct Owned {
    start: u32,
    slots: u32,
}

/// The slots of one worker for one kind of tuple.
#[derive(Debug)]
pub(super) struct Share {
    classes: Classes,
    range: PortRange,
    /// The first member that can be a port of the range, and the number of such members.
    member_start: u32,
    members: u32,
    /// How many of these, at the start and at the end, may be ports outside of the range.
    edges: (u32, u32),
    /// 2^32 / members, rounded up: exact for dividing slots.
    reciprocal: u64,
    cosets: Vec<Owned>,
    /// The owned classes, coset after coset.
    owned: Vec<u16>,
    /// The class's place in its coset's list, by `coset << rank | class`; `FOREIGN` for the other workers' classes.
    place: Vec<u16>,
}

const FOREIGN: u16 = u16::MAX;

impl Share {
    pub fn new<A: Address>(
        steering: &Steering,
        worker: WorkerId,
        protocol: Protocol,
        range: PortRange,
    ) -> Self {
        let classes = steering.kind::<A>(protocol).classes.clone();
        let (member_start, member_end) = classes.member_range(range.first, range.last);
        let members = member_end - member_start;
        let rank = classes.rank();
        // Table indexes by coset and class: the inverse of `of_index`.
        let table = steering.table();
        let mut worker_of = vec![0; table.len()];
        for (index, &w) in table.iter().enumerate() {
            let (coset, class) = classes.of_index(index as u32);
            worker_of[usize::from(coset) << rank | usize::from(class)] = w;
        }
        let (mut cosets, mut owned, mut place) = (Vec::new(), Vec::new(), vec![FOREIGN; table.len()]);
        for coset in 0..1usize << classes.coset_bits() {
            let start = owned.len();
            for class in (0..1usize << rank).filter(|c| worker_of[coset << rank | c] == worker.0) {
                place[coset << rank | class] = (owned.len() - start) as u16;
                owned.push(class as u16);
            }
            let slots = (owned.len() - start) as u32 * members;
            cosets.push(Owned { start: start as u32, slots });
        }
        let fits = |&member: &u32| {
            (0..1u32 << rank).all(|class| range.contains(classes.port(class as u16, member as u16)))
        };
        let edges = (
            (member_start..member_end).take_while(|m| !fits(m)).count() as u32,
            (member_start..member_end).rev().take_while(|m| !fits(m)).count() as u32,
        );
        let reciprocal = (1u64 << 32).div_ceil(u64::from(members));
        Self { classes, range, member_start, members, edges, reciprocal, cosets, owned, place }
    }

    /// The coset and class coordinate of a tuple whose reply has this table index (with port 0).
    #[inline]
    pub fn base(&self, index: u32) -> Base {
        let (coset, class) = self.classes.of_index(index);
        Base { coset, class }
    }

    /// The number of slots; 0 if these replies can't reach this worker with any port.
    #[inline]
    pub fn slots(&self, base: Base) -> u32 {
        self.cosets[usize::from(base.coset)].slots
    }

    /// The number of slots whose ports are in the range.
    pub fn ports(&self, base: Base) -> u32 {
        let slots = self.slots(base);
        let (first, last) = (self.edges.0, self.members - self.edges.1.min(self.members));
        let edge = (0..first).chain(last.max(first)..self.members);
        let outside = |slot: &u32| !self.range.contains(self.port(base, *slot));
        let places = slots / self.members;
        let out = edge.flat_map(|m| (0..places).map(move |p| p * self.members + m)).filter(outside);
        slots - out.count() as u32
    }

    /// The largest number of slots for any server and address.
    pub fn max_slots(&self) -> u32 {
        self.cosets.iter().map(|c| c.slots).max().unwrap_or(0)
    }

    /// The port of a slot (below [`Share::slots`]), which may be outside of the range.
    #[inline]
    pub fn port(&self, base: Base, slot: u32) -> u16 {
        let place = ((u64::from(slot) * self.reciprocal) >> 32) as u32;
        let member = slot - place * self.members + self.member_start;
        let class = self.owned[(self.cosets[usize::from(base.coset)].start + place) as usize];
        self.classes.port(class ^ base.class, member as u16)
    }

    /// Whether the ports of all slots from `start` to `end` (exclusive, not the same) are certain to be in the range.
    pub fn all_in_range(&self, start: u32, end: u32) -> bool {
        let member = start % self.members;
        self.edges == (0, 0)
            || self.edges.0 <= member && member + (end - start) <= self.members - self.edges.1
    }

    /// The slot of a port, if it is in the range and its replies reach this worker.
    #[inline]
    pub fn slot(&self, base: Base, port: u16) -> Option<u32> {
        if !self.range.contains(port) {
            return None;
        }
        let (class, member) = self.classes.of_port(port);
        let at = usize::from(base.coset) << self.classes.rank() | usize::from(class ^ base.class);
        let place = self.place[at];
        if place == FOREIGN {
            return None;
        }
        // The port is in the range, and so is the member.
        Some(u32::from(place) * self.members + (u32::from(member) - self.member_start))
    }

    /// The usable ports.
    #[inline]
    pub fn range(&self) -> PortRange {
        self.range
    }
}

/// Whether each of `workers` has a port towards the server on at least one of `lips`. This always holds if
/// [`Steering::home_by`] is `Port` and the range has enough ports; otherwise it is worth a warning.
#[must_use]
pub fn every_worker_has_ports<A: Address>(
    steering: &Steering,
    range: PortRange,
    lips: &[A],
    rip: A,
    rport: u16,
    protocol: Protocol,
) -> bool {
    let mut has = vec![false; usize::from(steering.workers())];
    for lip in lips {
        for port in range.first..=range.last {
            has[usize::from(steering.owner_of_reply(rip, rport, *lip, port, protocol).0)] = true;
            if has.iter().all(|&h| h) {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::table::rss::{HashFields, Rss};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// The shares of all workers together are the range, with each port once, and each port's reply reaches its
        /// worker.
        #[test]
        fn shares_split_the_ports(
            key in prop::array::uniform32(any::<u8>()), bits in 0u32..=9, workers in 1u16..=7,
            seed in any::<u64>(), fields in 0..3, a in 1u16.., b in 1u16..,
            rip in any::<u32>(), lip in any::<u32>(), rport in any::<u16>(),
        ) {
            let mut rss = Rss::weir(1);
            rss.key[8..].copy_from_slice(&key);
            if fields == 0 {
                rss.tcp = HashFields::Addresses;
            }
            if fields == 1 {
                rss.key.fill(0x10); // deficient
            }
            rss.reta = (0..1u64 << bits)
                .map(|i| (seed.wrapping_mul(2 * i + 1).rotate_left(23) % u64::from(workers)) as u16)
                .collect();
            let steering = Steering::for_ports(&[Some(rss)], workers);
            let range = PortRange { first: a.min(b), last: a.max(b) };
            let (rip, lip) = (Ipv4Addr::from(rip), Ipv4Addr::from(lip));
            let mut owner = vec![None; 1 << 16];
            for worker in 0..workers {
                let share = Share::new::<Ipv4Addr>(&steering, WorkerId(worker), Protocol::Tcp, range);
                let base = share.base(steering.index(rip, rport, lip, 0, Protocol::Tcp));
                let mut in_range = 0;
                for slot in 0..share.slots(base) {
                    let port = share.port(base, slot);
                    for n in 1..=4.min(share.slots(base) - slot) {
                        prop_assert!(!share.all_in_range(slot, slot + n) || range.contains(port));
                        prop_assert!(range.contains(share.port(base, slot + n - 1)) || !share.all_in_range(slot, slot + n));
                    }
                    if range.contains(port) {
                        prop_assert_eq!(share.slot(base, port), Some(slot));
                        prop_assert_eq!(owner[port as usize].replace(worker), None);
                        let home = steering.owner_of_reply(rip, rport, lip, port, Protocol::Tcp);
                        prop_assert_eq!(home, WorkerId(worker));
                        in_range += 1;
                    } else {
                        prop_assert_eq!(share.slot(base, port), None);
                    }
                }
                prop_assert_eq!(share.ports(base), in_range as u32);
                let known = (1..=u16::MAX).filter(|&p| share.slot(base, p).is_some()).count();
                prop_assert_eq!(known, in_range);
            }
            let reachable = owner.iter().filter(|o| o.is_some()).count();
            prop_assert_eq!(reachable, usize::from(range.last - range.first) + 1);
        }
    }

    #[test]
    fn one_worker_has_the_range_as_it_is() {
        let range = PortRange { first: 1024, last: 1033 };
        let share = Share::new::<Ipv4Addr>(&Steering::single(), WorkerId(0), Protocol::Udp, range);
        assert_eq!(share.slots(Base::default()), 10);
        assert!((0..10).all(|s| share.port(Base::default(), s) == 1024 + s as u16));
        assert_eq!(share.range(), range);
    }

    #[test]
    fn workers_without_ports_are_noticed() {
        let lips = [Ipv4Addr::new(192, 0, 2, 1)];
        let rip = Ipv4Addr::new(10, 0, 0, 1);
        let s = Steering::software(4);
        let check = |first, last| {
            every_worker_has_ports(&s, PortRange { first, last }, &lips, rip, 80, Protocol::Tcp)
        };
        assert!(check(1024, 65_535));
        assert!(!check(5000, 5002));
    }

    #[test]
    fn ranges_have_both_ends() {
        let range = PortRange { first: 1024, last: 1033 };
        assert!([1024, 1025, 1033].iter().all(|port| range.contains(*port)));
        assert!([0, 1023, 1034, 65_535].iter().all(|port| !range.contains(*port)));
        let one = PortRange { first: 5000, last: 5000 };
        assert!(one.contains(5000) && !one.contains(4999) && !one.contains(5001));
    }

    #[test]
    fn what_lies_inside_a_range_is_known_to() {
        let range = PortRange { first: 1024, last: 1033 };
        let share = Share::new::<Ipv4Addr>(&Steering::single(), WorkerId(0), Protocol::Udp, range);
        assert!(share.all_in_range(0, 10) && share.max_slots() == 10);
        // With several workers it is all but the members at the edges, and those only if the range cuts them.
        let steering = Steering::software(4);
        let range = PortRange { first: 1000, last: 60_000 };
        let base = |share: &Share| {
            share.base(steering.index(Ipv4Addr::LOCALHOST, 80, Ipv4Addr::LOCALHOST, 0, Protocol::Tcp))
        };
        for worker in 0..4 {
            let share = Share::new::<Ipv4Addr>(&steering, WorkerId(worker), Protocol::Tcp, range);
            let slots = share.slots(base(&share));
            let inside = (0..slots).filter(|s| range.contains(share.port(base(&share), *s))).count() as u32;
            let known = (0..slots).filter(|s| share.all_in_range(*s, s + 1)).count() as u32;
            assert!(known <= inside && known * 10 >= inside * 9, "{known} of {inside}");
            assert!(share.max_slots() >= slots && share.ports(base(&share)) == inside);
        }
    }

    #[test]
    fn workers_have_ports_from_the_first_range_on_that_reaches_them_all() {
        let (rip, lips) = (Ipv4Addr::new(10, 0, 0, 1), [Ipv4Addr::new(192, 0, 2, 1)]);
        let s = Steering::software(4);
        let owner = |port| s.owner_of_reply(rip, 80, lips[0], port, Protocol::Tcp).0;
        let mut seen = std::collections::BTreeSet::new();
        let last = (5000..).find(|port| seen.insert(owner(*port)) && seen.len() == 4).unwrap();
        let check = |last, lips: &[_]| {
            every_worker_has_ports(&s, PortRange { first: 5000, last }, lips, rip, 80, Protocol::Tcp)
        };
        assert!(check(last, &lips) && check(last + 1, &lips) && !check(last - 1, &lips));
        assert!(!check(last, &[]), "no address, no port");
    }
}
