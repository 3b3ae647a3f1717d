//! Destinations that services, mark rules and SNAT don't take: addresses that no packet on a wire may have, and
//! multicast and link-local addresses, which are the kernel's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::{
    Header,
    ethernet::{EthernetHeader, ether_type},
    ipv4::Ipv4Header,
    ipv6::Ipv6Header,
};

/// The IPv4 networks that no service serves, whatever marks say.
const UNSERVED_V4: [(Ipv4Addr, u8); 4] = [
    (Ipv4Addr::UNSPECIFIED, 32),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::BROADCAST, 32),
];

/// The IPv6 networks that no service serves: the unspecified and the loopback address, IPv4-mapped ones and groups.
const UNSERVED_V6: [(Ipv6Addr, u8); 3] = [
    (Ipv6Addr::UNSPECIFIED, 127),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// The networks of both families.
pub(crate) fn unserved() -> impl Iterator<Item = (IpAddr, u8)> {
    let v4 = UNSERVED_V4.into_iter().map(|(network, bits)| (network.into(), bits));
    v4.chain(UNSERVED_V6.into_iter().map(|(network, bits)| (network.into(), bits)))
}

/// Whether no packet on a wire has this destination (RFC 1122 3.2.1.3, RFC 4291 2.5, RFC 6890). Those of 0/8 and 240/4
/// are as good as any, as Linux has it.
#[must_use]
pub fn is_martian(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_loopback() || a.is_unspecified(),
        IpAddr::V6(a) => a.is_loopback() || a.is_unspecified() || a.to_ipv4_mapped().is_some(),
    }
}

/// Whether the address is a group's, on whatever link: multicast, or all stations of a link.
#[must_use]
pub fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_multicast() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_multicast(),
    }
}

/// Whether the address is one of a single link, which no router sends on to another (RFC 3927 2.7, RFC 4291 2.5.6).
#[must_use]
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

/// Whether the address may be any of these: what isn't is told at a glance.
#[inline]
pub(crate) fn may_be_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => matches!(a.octets()[0], 0 | 127 | 169 | 224..=239 | 255),
        IpAddr::V6(a) => matches!(a.octets()[0], 0 | 0xfe | 0xff),
    }
}

/// The destination of the IP packet in the frame `data`, which has no tag.
pub(crate) fn of_frame(data: &[u8]) -> Option<IpAddr> {
    let (ethernet, packet) = EthernetHeader::split(data)?;
    match ethernet.ether_type() {
        ether_type::IPV4 => Some(Ipv4Header::split(packet)?.0.destination().into()),
        ether_type::IPV6 => Some(Ipv6Header::split(packet)?.0.destination().into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_special_is_missed_at_a_glance() {
        let special = |a: IpAddr| is_martian(a) || is_group(a) || is_link_local(a);
        for first in 0..=u8::MAX {
            for rest in [[0; 3], [0, 0, 1], [254, 1, 1], [255; 3]] {
                let a = IpAddr::from([first, rest[0], rest[1], rest[2]]);
                assert!(may_be_special(a) || !special(a), "{a}");
            }
        }
        for a in ["::", "::1", "::ffff:10.0.0.1", "fe80::1", "febf::1", "ff02::1", "ff0e::1"] {
            let a: IpAddr = a.parse().unwrap();
            assert!(special(a) && may_be_special(a), "{a}");
        }
        for a in ["10.0.0.1", "128.0.0.1", "2001:db8::1", "fd00::1"] {
            let a: IpAddr = a.parse().unwrap();
            assert!(!special(a) && !may_be_special(a), "{a}");
        }
    }

    #[test]
    fn unserved_addresses_are_invalid_or_multicast() {
        let unserved = |a: IpAddr| is_martian(a) || is_group(a);
        for (network, bits) in UNSERVED_V4 {
            let last = network.to_bits() | u32::MAX.checked_shr(bits.into()).unwrap_or(0);
            assert!(unserved(network.into()) && unserved(Ipv4Addr::from_bits(last).into()), "{network}");
        }
        for (network, bits) in UNSERVED_V6 {
            let last = network.to_bits() | u128::MAX.checked_shr(bits.into()).unwrap_or(0);
            assert!(unserved(network.into()) && unserved(Ipv6Addr::from_bits(last).into()), "{network}");
        }
    }
}
