//! Addresses and ports of a packet of either family, for the slow path.
//!
//! The fast path uses [`Tuple`], twelve bytes of the 5-tuple. An IPv6 packet has thirty-six: its tuple holds digests
//! of the addresses, which only mean "probably the same", and the addresses themselves are a [`Pair`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::session::Tuple;

/// Source and destination, as laid out in an IPv6 header.
pub type Pair = [u8; 32];

/// Set in the protocol number under which IPv6 packets look up their session. Neither protocols with sessions nor those
/// of templates (see [`crate::path::flow::persist`]) have this bit.
pub const IPV6: u8 = 0x40;

/// Addresses and ports (host order) of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Sender.
    pub source: (IpAddr, u16),
    /// Receiver.
    pub destination: (IpAddr, u16),
}

impl Endpoints {
    /// The endpoints of an IPv4 packet.
    #[inline]
    #[must_use]
    pub fn of(tuple: Tuple) -> Self {
        let end = |(address, port): (u32, u16)| (IpAddr::V4(Ipv4Addr::from_bits(address)), port);
        Self { source: end(tuple.source()), destination: end(tuple.destination()) }
    }

    /// The endpoints of an IPv6 packet, whose tuple has the ports.
    #[inline]
    #[must_use]
    pub fn of_pair(pair: &Pair, tuple: Tuple) -> Self {
        let (source, destination) = (half(pair, 0), half(pair, 16));
        Self {
            source: (Ipv6Addr::from(source).into(), tuple.source().1),
            destination: (Ipv6Addr::from(destination).into(), tuple.destination().1),
        }
    }

    /// The endpoints of the answer.
    #[inline]
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }

    /// Whether they are an IPv6 packet's.
    #[inline]
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.source.0.is_ipv6()
    }

    /// The addresses of an IPv6 packet; none for IPv4.
    #[inline]
    #[must_use]
    pub fn pair(&self) -> Option<Pair> {
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (self.source.0, self.destination.0) else {
            return None;
        };
        let mut pair = [0; 32];
        pair[..16].copy_from_slice(&source.octets());
        pair[16..].copy_from_slice(&destination.octets());
        Some(pair)
    }

    /// The tuple of an IPv4 packet; for IPv6 only with the ports.
    #[inline]
    #[must_use]
    pub fn tuple(&self) -> Tuple {
        let number = |address: IpAddr| match address {
            IpAddr::V4(a) => a.to_bits(),
            IpAddr::V6(_) => 0,
        };
        Tuple::new((number(self.source.0), self.source.1), (number(self.destination.0), self.destination.1))
    }
}

/// The address of a pair that begins at `at`.
fn half(pair: &Pair, at: usize) -> [u8; 16] {
    pair.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or_default()
}

/// A pair with source and destination exchanged.
#[inline]
#[must_use]
pub fn turned(pair: &Pair) -> Pair {
    let mut turned = [0; 32];
    turned[..16].copy_from_slice(&pair[16..]);
    turned[16..].copy_from_slice(&pair[..16]);
    turned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_what_the_headers_say() {
        let tuple = Tuple::new((0x0a01_0001, 40000), (0xc000_020a, 80));
        let ends = Endpoints::of(tuple);
        assert_eq!(ends.source, ([10, 1, 0, 1].into(), 40000));
        assert_eq!((ends.tuple(), ends.pair()), (tuple, None));
        assert_eq!(ends.reversed().tuple(), tuple.reversed());

        let mut pair = [0x20; 32];
        pair[16..].fill(0x30);
        let v6 = Endpoints::of_pair(&pair, tuple);
        assert_eq!(v6.destination, ([0x30; 16].into(), 80));
        assert_eq!(v6.pair(), Some(pair));
        assert_eq!(v6.reversed().pair(), Some(turned(&pair)));
        assert_eq!(v6.tuple().ports, tuple.ports);
    }
}
