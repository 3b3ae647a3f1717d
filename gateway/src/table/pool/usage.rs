//! How much of the local addresses is in use, read by control while the worker runs.
//!
//! The worker is the only writer. Slots are reused for other keys. Each has a generation that is even while the slot's
//! key is valid, and different each time, so that a reader notices a change during its read.

use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use weir_api::model::Protocol;
use zerocopy::FromZeros;

use super::{
    generation::{change, close, consistent},
    index::NoMemory,
};
use crate::{net::address::Address, table::counters::Counter};

/// The ports of one local address in use, over all servers.
#[derive(Debug, FromZeros)]
#[repr(C)]
struct AddressUse<A: Address> {
    generation: AtomicU32,
    used: AtomicU32,
    address: A::Cell,
}

/// The ports of one local address in use towards one server. This is also the pool's own copy of the key.
#[derive(Debug, FromZeros)]
#[repr(C)]
struct PairUse<A: Address> {
    generation: AtomicU32,
    used: AtomicU32,
    lip: A::Cell,
    rip: A::Cell,
    /// Port << 8 | protocol.
    end: AtomicU32,
}

/// A local address and a server endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PairKey<A> {
    /// Local address.
    pub lip: A,
    /// Server address.
    pub rip: A,
    /// Server port, host order.
    pub rport: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl<A> PairKey<A> {
    /// Port << 8 | protocol.
    #[inline]
    fn end(&self) -> u32 {
        u32::from(self.rport) << 8 | self.protocol as u32
    }
}

/// The counters of one worker's pool.
#[derive(Debug)]
pub struct PoolUsage<A: Address> {
    addresses: Vec<AddressUse<A>>,
    pairs: Vec<PairUse<A>>,
    /// Slots above these have never been used.
    addresses_top: AtomicU32,
    pairs_top: AtomicU32,
    early_reuse: Counter,
    stray_releases: Counter,
}

impl<A: Address> PoolUsage<A> {
    pub(super) fn new(addresses: usize, pairs: usize) -> Result<Self, NoMemory> {
        Ok(Self {
            addresses: AddressUse::new_vec_zeroed(addresses + 1).map_err(|_| NoMemory)?,
            pairs: PairUse::new_vec_zeroed(pairs + 1).map_err(|_| NoMemory)?,
            addresses_top: AtomicU32::new(0),
            pairs_top: AtomicU32::new(0),
            early_reuse: Counter::default(),
            stray_releases: Counter::default(),
        })
    }

    /// Ports given out before they had rested for the whole rest period, because nothing else was free.
    #[must_use]
    pub fn early_reuse(&self) -> u64 {
        self.early_reuse.get()
    }

    /// Releases of ports that weren't in use: a bug in the caller.
    #[must_use]
    pub fn stray_releases(&self) -> u64 {
        self.stray_releases.get()
    }

    /// Every local address with ports in use or resting, and the number of its ports in use.
    pub fn addresses(&self) -> impl Iterator<Item = (A, u32)> {
        let top = self.addresses_top.load(Acquire) as usize;
        self.addresses.iter().take(top + 1).filter_map(|slot| {
            consistent(&slot.generation, || (A::load(&slot.address), slot.used.load(Relaxed)))
        })
    }

    /// The number of ports of `lip` in use.
    #[must_use]
    pub fn used(&self, lip: A) -> u32 {
        self.addresses().find(|&(a, _)| a == lip).map_or(0, |(_, used)| used)
    }

    /// Every pair of local address and server with ports in use or resting, and the number of its ports in use.
    pub fn pairs(&self) -> impl Iterator<Item = (PairKey<A>, u32)> {
        let top = self.pairs_top.load(Acquire) as usize;
        self.pairs
            .iter()
            .take(top + 1)
            .filter_map(|slot| consistent(&slot.generation, || (slot.key(), slot.used.load(Relaxed))))
    }

    /// The number of ports in use between a local address and a server.
    #[must_use]
    pub fn used_towards(&self, key: PairKey<A>) -> u32 {
        self.pairs().find(|&(k, _)| k == key).map_or(0, |(_, used)| used)
    }

    /// The number of ports that a pair uses.
    pub(super) fn used_of(&self, id: u32) -> u32 {
        self.pairs[id as usize].used.load(Relaxed)
    }

    #[inline]
    pub(super) fn is_pair(&self, id: u32, key: &PairKey<A>) -> bool {
        let slot = &self.pairs[id as usize];
        slot.end.load(Relaxed) == key.end() && A::load(&slot.lip) == key.lip && A::load(&slot.rip) == key.rip
    }

    pub(super) fn pair_key(&self, id: u32) -> PairKey<A> {
        self.pairs[id as usize].key()
    }

    pub(super) fn is_address(&self, id: u32, lip: A) -> bool {
        A::load(&self.addresses[id as usize].address) == lip
    }

    pub(super) fn address(&self, id: u32) -> A {
        A::load(&self.addresses[id as usize].address)
    }

    pub(super) fn set_pair(&self, id: u32, key: &PairKey<A>) {
        let slot = &self.pairs[id as usize];
        change(&slot.generation, || {
            key.lip.store(&slot.lip);
            key.rip.store(&slot.rip);
            slot.end.store(key.end(), Relaxed);
            slot.used.store(0, Relaxed);
        });
        self.pairs_top.store(self.pairs_top.load(Relaxed).max(id), Release);
    }

    pub(super) fn clear_pair(&self, id: u32) {
        close(&self.pairs[id as usize].generation);
    }

    pub(super) fn set_address(&self, id: u32, lip: A) {
        let slot = &self.addresses[id as usize];
        change(&slot.generation, || {
            lip.store(&slot.address);
            slot.used.store(0, Relaxed);
        });
        self.addresses_top.store(self.addresses_top.load(Relaxed).max(id), Release);
    }

    pub(super) fn clear_address(&self, id: u32) {
        close(&self.addresses[id as usize].generation);
    }

    /// Counts one port more (`by` = 1) or less (-1) in use; returns how many the pair uses now.
    #[inline]
    pub(super) fn count(&self, pair: u32, address: u32, by: i32) -> u32 {
        let add = |used: &AtomicU32| {
            let now = used.load(Relaxed).wrapping_add_signed(by);
            used.store(now, Relaxed);
            now
        };
        add(&self.addresses[address as usize].used);
        add(&self.pairs[pair as usize].used)
    }

    #[inline]
    pub(super) fn count_early_reuse(&self, ports: u32) {
        self.early_reuse.add(u64::from(ports));
    }

    pub(super) fn count_stray_release(&self) {
        self.stray_releases.add(1);
    }
}

impl<A: Address> PairUse<A> {
    #[inline]
    fn key(&self) -> PairKey<A> {
        let end = self.end.load(Relaxed);
        let protocol = match end & 0xff {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => Protocol::Sctp,
        };
        PairKey { lip: A::load(&self.lip), rip: A::load(&self.rip), rport: (end >> 8) as u16, protocol }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn slots_are_seen_while_they_are_in_use() {
        let u = PoolUsage::<Ipv4Addr>::new(4, 4).unwrap();
        let key = |n| PairKey {
            lip: Ipv4Addr::new(192, 0, 2, n),
            rip: Ipv4Addr::new(10, 0, 0, n),
            rport: 65_535,
            protocol: Protocol::Udp,
        };
        assert_eq!((u.addresses().count(), u.pairs().count()), (0, 0));
        u.set_address(1, key(1).lip);
        u.set_pair(2, &key(1));
        assert_eq!(u.count(2, 1, 1), 1);
        assert_eq!(u.count(2, 1, 1), 2);
        assert_eq!(u.pairs().collect::<Vec<_>>(), [(key(1), 2)]);
        assert_eq!((u.used(key(1).lip), u.used(key(2).lip), u.used_towards(key(2))), (2, 0, 0));
        u.count(2, 1, -1);
        u.clear_pair(2);
        assert_eq!((u.pairs().count(), u.used(key(1).lip)), (0, 1));
        u.set_pair(2, &key(2));
        assert_eq!(u.pairs().collect::<Vec<_>>(), [(key(2), 0)]);
        u.clear_address(1);
        assert_eq!(u.addresses().count(), 0);
    }

    #[test]
    fn a_pair_of_ipv4_is_small() {
        assert!(size_of::<PairUse<Ipv4Addr>>() <= 32);
        assert!(size_of::<PairUse<Ipv6Addr>>() <= 64);
    }
}
