//! Checksum differences for new addresses and ports (RFC 1624).

use std::net::IpAddr;

use crate::{
    net::checksum::{Delta, Sum},
    table::{endpoints::Endpoints, session::Tuple},
};

/// The differences, for rewriting from `old` to `new`, of the IP checksum and of a transport checksum with
/// its pseudo-header.
#[must_use]
pub fn deltas(old: Tuple, new: Tuple) -> (Delta, Delta) {
    let addresses = |t: Tuple| {
        let (s, d) = (t.source().0, t.destination().0);
        [(s >> 16) as u16, s as u16, (d >> 16) as u16, d as u16]
    };
    let ip = Delta::between(&addresses(old), &addresses(new));
    let ports = |t: Tuple| [t.source().1, t.destination().1];
    (ip, ip.and(Delta::between(&ports(old), &ports(new))))
}

/// The same between packets of any two families. The IP difference is nothing if either is IPv6, which has no
/// checksum.
#[must_use]
pub fn deltas_of(old: &Endpoints, new: &Endpoints) -> (Delta, Delta) {
    if !old.is_ipv6() && !new.is_ipv6() {
        return deltas(old.tuple(), new.tuple());
    }
    let sum = |ends: &Endpoints| {
        [ends.source, ends.destination].iter().fold(Sum::ZERO, |sum, (address, port)| {
            let address = match address {
                IpAddr::V4(a) => Sum::of(&a.octets()),
                IpAddr::V6(a) => Sum::of(&a.octets()),
            };
            sum.and(address).word(*port)
        })
    };
    (Delta::NONE, Delta::from_sums(sum(old), sum(new)))
}
