//! The operations that tables need of an address, so that one table serves both families.

use std::{
    fmt::Debug,
    hash::Hash,
    net::{Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use zerocopy::FromZeros;

use super::toeplitz::{IPV4_DESTINATION_PORT, IPV6_DESTINATION_PORT, Toeplitz};

/// An IPv4 or IPv6 address.
pub trait Address: Copy + Eq + Hash + Debug + Send + Sync + 'static {
    /// A cell in which one thread stores an address that others may read; the caller must deal with torn reads.
    type Cell: FromZeros + Debug + Send + Sync + 'static;
    /// False for IPv4, true for IPv6.
    const IS_IPV6: bool;
    /// The offset of the destination port in a Toeplitz message.
    const DESTINATION_PORT: usize;

    /// Reads the address from `cell`.
    fn load(cell: &Self::Cell) -> Self;
    /// Stores the address in `cell`.
    fn store(self, cell: &Self::Cell);
    /// Mixes the address into a keyed hash.
    fn mix(self, state: u64) -> u64;
    /// The Toeplitz hash of addresses only.
    fn toeplitz(hash: &Toeplitz, source: Self, destination: Self) -> u32;
    /// The Toeplitz hash of addresses and ports (host order).
    fn toeplitz_ports(hash: &Toeplitz, source: Self, destination: Self, sport: u16, dport: u16) -> u32;
}

impl Address for Ipv4Addr {
    type Cell = AtomicU32;
    const IS_IPV6: bool = false;
    const DESTINATION_PORT: usize = IPV4_DESTINATION_PORT;

    #[inline]
    fn load(cell: &AtomicU32) -> Self {
        Self::from_bits(cell.load(Relaxed))
    }
    #[inline]
    fn store(self, cell: &AtomicU32) {
        cell.store(self.to_bits(), Relaxed);
    }
    #[inline]
    fn mix(self, state: u64) -> u64 {
        fold(state ^ u64::from(self.to_bits()), MIX)
    }
    #[inline]
    fn toeplitz(hash: &Toeplitz, source: Self, destination: Self) -> u32 {
        hash.ipv4(source, destination)
    }
    #[inline]
    fn toeplitz_ports(hash: &Toeplitz, source: Self, destination: Self, sport: u16, dport: u16) -> u32 {
        hash.ipv4_ports(source, destination, sport, dport)
    }
}

impl Address for Ipv6Addr {
    type Cell = [AtomicU64; 2];
    const IS_IPV6: bool = true;
    const DESTINATION_PORT: usize = IPV6_DESTINATION_PORT;

    #[inline]
    fn load(cell: &[AtomicU64; 2]) -> Self {
        let [high, low] = cell.each_ref().map(|half| u128::from(half.load(Relaxed)));
        Self::from_bits(high << 64 | low)
    }
    #[inline]
    fn store(self, cell: &[AtomicU64; 2]) {
        cell[0].store((self.to_bits() >> 64) as u64, Relaxed);
        cell[1].store(self.to_bits() as u64, Relaxed);
    }
    #[inline]
    fn mix(self, state: u64) -> u64 {
        let bits = self.to_bits();
        fold(fold(state ^ (bits >> 64) as u64, MIX) ^ bits as u64, MIX)
    }
    #[inline]
    fn toeplitz(hash: &Toeplitz, source: Self, destination: Self) -> u32 {
        hash.ipv6(source, destination)
    }
    #[inline]
    fn toeplitz_ports(hash: &Toeplitz, source: Self, destination: Self, sport: u16, dport: u16) -> u32 {
        hash.ipv6_ports(source, destination, sport, dport)
    }
}

/// An odd constant without a pattern (the fraction of the golden ratio).
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// Multiplies to 128 bits and folds the halves: every input bit reaches every output bit.
#[inline]
#[must_use]
pub fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_keep_addresses() {
        let cell = AtomicU32::default();
        Ipv4Addr::new(192, 0, 2, 7).store(&cell);
        assert_eq!(Ipv4Addr::load(&cell), Ipv4Addr::new(192, 0, 2, 7));
        let cell = <Ipv6Addr as Address>::Cell::default();
        let a: Ipv6Addr = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        a.store(&cell);
        assert_eq!(Ipv6Addr::load(&cell), a);
    }

    #[test]
    fn hashes_depend_on_address_and_key() {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        assert_ne!(a.mix(1), b.mix(1));
        assert_ne!(a.mix(1), a.mix(2));
        let c: Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_ne!(c.mix(1), c.mix(2));
    }
}
