//! Which ports an address is behind: the way back to it, by the routes.
//!
//! A port's [`RpFilter`] says what has to be true of that before a packet may open a session: anybody can write any source
//! address into a packet, but not every port leads to it. Made once for each table of routes: ranges of addresses that
//! are behind the same ports, so that a look-up costs the same with a route and with a million, which mostly lead by
//! the same few ports.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::Deserialize;

use super::route::Route;
use crate::io::PortId;

/// What the routes must say of a packet's source (RFC 3704; Linux's `rp_filter` 1, 2 and 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RpFilter {
    /// The best route to it leads by the port that the packet arrived on; of equal ones any.
    #[default]
    Strict,
    /// There is a route to it, by any port.
    Loose,
    /// Nothing.
    Off,
}

/// The ports that an address is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind(u64);

impl Behind {
    /// No packet may come from there.
    const MARTIAN: Self = Self(1 << 63);
    /// Its best route is the default route.
    const DEFAULT: u64 = 1 << 62;
    /// Of a block of addresses: they aren't all behind the same ports.
    const SPLIT: Self = Self(1 << 61);

    fn of(route: &Route) -> Self {
        let ports = route.via.iter().fold(0, |ports, via| ports | bit(via.port));
        Self(if ports != 0 && route.prefix == 0 { ports | Self::DEFAULT } else { ports })
    }

    /// Whether packets to the address leave by this port.
    #[inline]
    #[must_use]
    pub fn is_by(self, port: PortId) -> bool {
        self.0 & bit(port) != 0
    }

    /// Whether they leave by no port at all.
    #[must_use]
    pub fn is_nowhere(self) -> bool {
        self.0 & u64::from(u32::MAX) == 0
    }

    /// Whether nothing but the default route leads there.
    #[must_use]
    pub fn is_by_default(self) -> bool {
        self.0 & Self::DEFAULT != 0
    }

    /// Whether no packet may have the address as its source, wherever it comes from (RFC 1812 5.3.7, RFC 4291 2): it is
    /// the gateway's own, a broadcast or multicast address, of the loopback network or unspecified.
    #[must_use]
    pub fn is_martian(self) -> bool {
        self.0 & Self::MARTIAN.0 != 0
    }
}

/// There are 32 ports at most.
#[inline]
fn bit(port: PortId) -> u64 {
    1 << (port.0 & 31)
}

/// An address as a number.
trait Number: Copy + Ord {
    const ZERO: Self;
    const BITS: u8;
    /// The last address of the network of this prefix length that begins here.
    fn last(self, prefix: u8) -> Self;
    fn masked(self, prefix: u8) -> Self;
    fn next(self) -> Option<Self>;
}

macro_rules! number {
    ($type:ty, $bits:literal) => {
        impl Number for $type {
            const ZERO: Self = 0;
            const BITS: u8 = $bits;
            fn last(self, prefix: u8) -> Self {
                self | Self::MAX.checked_shr(prefix.into()).unwrap_or(0)
            }
            fn masked(self, prefix: u8) -> Self {
                self & !Self::MAX.checked_shr(prefix.into()).unwrap_or(0)
            }
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    };
}
number!(u32, 32);
number!(u128, 128);

/// Ranges of addresses, each with the ports that it is behind.
#[derive(Debug, PartialEq, Eq)]
struct Ranges<A> {
    /// The first address of each range, ascending; that of the first one is 0.
    starts: Vec<A>,
    behind: Vec<Behind>,
}

impl<A: Number> Default for Ranges<A> {
    fn default() -> Self {
        Self { starts: vec![A::ZERO], behind: vec![Behind::default()] }
    }
}

impl<A: Number> Ranges<A> {
    /// From routes, and from networks that no packet comes from.
    fn new(routes: &[(A, &Route)], martians: &[(A, u8)]) -> Self {
        let inside = |network: A, prefix: u8| {
            martians.iter().any(|&(martian, of)| prefix >= of && network.masked(of) == martian)
        };
        let mut networks: BTreeMap<(A, u8), (u32, Behind)> = BTreeMap::new();
        for (network, route) in routes {
            let prefix = route.prefix.min(A::BITS);
            let network = network.masked(prefix);
            if inside(network, prefix) {
                continue;
            }
            let behind = Behind::of(route);
            let (metric, known) = networks.entry((network, prefix)).or_insert((route.metric, behind));
            if route.metric == *metric {
                known.0 |= behind.0;
            } else if route.metric < *metric {
                (*metric, *known) = (route.metric, behind);
            }
        }
        networks.extend(martians.iter().map(|&network| (network, (0, Behind::MARTIAN))));
        let mut ranges = Self::default();
        // Networks that hold the one at hand, the smallest last: where each ends, and what it is.
        let mut around: Vec<(A, Behind)> = Vec::new();
        for ((network, prefix), (_, behind)) in networks {
            ranges.leave(&mut around, Some(network));
            ranges.begin(network, behind);
            around.push((network.last(prefix), behind));
        }
        ranges.leave(&mut around, None);
        ranges
    }

    /// Ends the networks that end before this address, or all.
    fn leave(&mut self, around: &mut Vec<(A, Behind)>, before: Option<A>) {
        while let Some((last, _)) = around.pop_if(|(last, _)| before.is_none_or(|before| *last < before)) {
            let outer = around.last().map_or(Behind::default(), |(_, behind)| *behind);
            if let Some(next) = last.next() {
                self.begin(next, outer);
            }
        }
    }

    /// From here on addresses are `behind`.
    fn begin(&mut self, start: A, behind: Behind) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.behind.pop();
        }
        if self.behind.last() != Some(&behind) {
            self.starts.push(start);
            self.behind.push(behind);
        }
    }

    /// The number of the range that holds this address.
    #[inline]
    fn place(&self, address: A) -> usize {
        self.starts.partition_point(|start| *start <= address).saturating_sub(1)
    }

    #[inline]
    fn get(&self, address: A) -> Behind {
        self.behind.get(self.place(address)).copied().unwrap_or_default()
    }

    /// Makes one address what it is.
    fn set(&mut self, address: A, behind: Behind) {
        let at = self.place(address);
        let around = self.behind[at];
        let own = if self.starts[at] == address { at } else { at + 1 };
        if own == at {
            self.behind[at] = behind;
        } else {
            self.starts.insert(own, address);
            self.behind.insert(own, behind);
        }
        if let Some(next) = address.next()
            && self.starts.get(own + 1) != Some(&next)
        {
            self.starts.insert(own + 1, next);
            self.behind.insert(own + 1, around);
        }
    }
}

/// The ports that addresses of both families are behind.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WaysBack {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    /// By the first byte of an IPv4 address: of most, the rest of it doesn't matter.
    blocks: Box<[Behind; 256]>,
    /// By port; those that aren't there are strict.
    filters: Vec<RpFilter>,
}

impl Default for WaysBack {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl WaysBack {
    /// By these routes.
    pub fn new(routes: &[Route]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for route in routes {
            match route.network {
                IpAddr::V4(a) => v4.push((a.to_bits(), route)),
                IpAddr::V6(a) => v6.push((a.to_bits(), route)),
            }
        }
        let of = |a: [u8; 4]| Ipv4Addr::from(a).to_bits();
        // Addresses of 0/8 and 240/4 are as good as any, as Linux has it.
        let martians_v4 =
            [(of([0; 4]), 32), (of([127, 0, 0, 0]), 8), (of([224, 0, 0, 0]), 4), (of([255; 4]), 32)];
        let mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().to_bits();
        let martians_v6 = [
            (Ipv6Addr::UNSPECIFIED.to_bits(), 128),
            (Ipv6Addr::LOCALHOST.to_bits(), 128),
            // Whoever is told such a client's address takes it for that of IPv4.
            (mapped, 96),
            (0xff << 120, 8),
        ];
        let (v4, v6) = (Ranges::new(&v4, &martians_v4), Ranges::new(&v6, &martians_v6));
        let mut made = Self { v4, v6, blocks: Box::new([Behind::SPLIT; 256]), filters: Vec::new() };
        made.divide();
        made
    }

    /// Takes note that no packet comes from these addresses.
    pub fn add_martians(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            match address {
                IpAddr::V4(a) => self.v4.set(a.to_bits(), Behind::MARTIAN),
                IpAddr::V6(a) => self.v6.set(a.to_bits(), Behind::MARTIAN),
            }
        }
        self.divide();
    }

    pub fn set_filters(&mut self, filters: Vec<RpFilter>) {
        self.filters = filters;
    }

    /// Notes which blocks of IPv4 addresses are one.
    fn divide(&mut self) {
        for (first, block) in (0u32..).zip(self.blocks.iter_mut()) {
            let first = first << 24;
            let range = self.v4.place(first);
            let whole = range == self.v4.place(first.last(8));
            *block = if whole { self.v4.behind[range] } else { Behind::SPLIT };
        }
    }

    /// The ports that an address is behind.
    #[inline]
    pub fn of(&self, address: IpAddr) -> Behind {
        match address {
            IpAddr::V4(a) => {
                let block = self.blocks[usize::from(a.octets()[0])];
                if block == Behind::SPLIT { self.v4.get(a.to_bits()) } else { block }
            }
            IpAddr::V6(a) => self.v6.get(a.to_bits()),
        }
    }

    /// A port's filter.
    pub fn filter(&self, port: PortId) -> RpFilter {
        self.filters.get(port.index()).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::route::Via;

    fn route(network: &str, prefix: u8, ports: &[u8], metric: u32) -> Route {
        let via = |port: &u8| Via { port: PortId(*port), gateway: None, weight: 1 };
        let network = network.parse().unwrap();
        Route { network, prefix, via: ports.iter().map(via).collect(), metric, mtu: None }
    }

    fn ports(ways: &WaysBack, address: &str) -> Vec<u8> {
        let behind = ways.of(address.parse().unwrap());
        (0..32).filter(|port| behind.is_by(PortId(*port))).collect()
    }

    #[test]
    fn the_longest_prefix_says_which_ports() {
        let ways = WaysBack::new(&[
            route("10.1.2.0", 24, &[3], 0),
            route("0.0.0.0", 0, &[0], 0),
            route("10.0.0.0", 8, &[1], 0),
            route("10.1.0.0", 16, &[2], 0),
            route("10.1.255.0", 24, &[31], 0),
            route("10.1.2.3", 32, &[4], 0),
            route("10.9.0.0", 16, &[], 0),
            route("255.255.255.254", 32, &[5], 0),
        ]);
        for (address, due) in [
            ("9.255.255.255", &[0][..]),
            ("10.0.0.0", &[1]),
            ("10.0.255.255", &[1]),
            ("10.1.0.0", &[2]),
            ("10.1.1.255", &[2]),
            ("10.1.2.0", &[3]),
            ("10.1.2.2", &[3]),
            ("10.1.2.3", &[4]),
            ("10.1.2.4", &[3]),
            ("10.1.3.0", &[2]),
            ("10.1.255.255", &[31]),
            ("10.2.0.0", &[1]),
            ("10.8.255.255", &[1]),
            ("10.9.0.0", &[]),
            ("10.10.0.0", &[1]),
            ("10.255.255.255", &[1]),
            ("11.0.0.0", &[0]),
            ("255.255.255.254", &[5]),
        ] {
            assert_eq!(ports(&ways, address), due, "{address}");
        }
        let of = |a: &str| ways.of(a.parse().unwrap());
        assert!(of("9.1.1.1").is_by_default() && !of("10.2.0.0").is_by_default());
        assert!(of("10.9.1.1").is_nowhere() && !of("9.1.1.1").is_nowhere());
        assert!(ports(&WaysBack::default(), "10.1.2.3").is_empty());
    }

    #[test]
    fn ipv6_likewise() {
        let ways = WaysBack::new(&[
            route("2001:db8::", 32, &[1], 0),
            route("2001:db8:1::", 48, &[2], 0),
            route("fe80::", 64, &[1], 256),
            route("fe80::", 64, &[2], 256),
        ]);
        assert_eq!(ports(&ways, "2001:db8::1"), [1]);
        assert_eq!(ports(&ways, "2001:db8:1:ffff::1"), [2]);
        assert_eq!(ports(&ways, "2001:db8:2::"), [1]);
        assert!(ports(&ways, "2001:db9::").is_empty());
        assert_eq!(ports(&ways, "fe80::7"), [1, 2], "a link-local address may be on any link");
    }

    #[test]
    fn of_equal_routes_all_count_and_of_others_the_best() {
        let ways = WaysBack::new(&[
            route("10.0.0.0", 8, &[1, 2], 5),
            route("10.0.0.0", 8, &[3], 5),
            route("10.0.0.0", 8, &[4], 6),
            route("11.0.0.0", 8, &[4], 6),
            route("11.0.0.0", 8, &[3], 5),
            // Host bits say nothing.
            route("11.2.3.4", 8, &[6], 5),
        ]);
        assert_eq!(ports(&ways, "10.1.1.1"), [1, 2, 3]);
        assert_eq!(ports(&ways, "11.1.1.1"), [3, 6]);
    }

    #[test]
    fn who_can_t_be_a_sender() {
        let mut ways = WaysBack::new(&[
            route("0.0.0.0", 0, &[0], 0),
            route("::", 0, &[0], 0),
            // Whatever routes say.
            route("127.0.0.0", 8, &[1], 0),
            route("224.0.0.0", 24, &[1], 0),
            route("ff02::", 16, &[1], 0),
        ]);
        let own = ["192.0.2.1", "192.0.2.255", "255.255.255.254", "2001:db8::1"];
        ways.add_martians(own.iter().map(|a| a.parse().unwrap()));
        let martian = |a: &str| ways.of(a.parse().unwrap()).is_martian();
        for a in ["0.0.0.0", "127.0.0.0", "127.255.255.255", "224.0.0.0", "239.255.255.255"] {
            assert!(martian(a) && ports(&ways, a).is_empty(), "{a}");
        }
        for a in ["255.255.255.255", "::", "::1", "::ffff:10.1.1.1", "ff00::", "ff02::1"] {
            assert!(martian(a) && ports(&ways, a).is_empty(), "{a}");
        }
        own.iter().for_each(|a| assert!(martian(a) && ports(&ways, a).is_empty(), "{a}"));
        let fine = ["0.0.0.1", "0.255.255.255", "126.255.255.255", "128.0.0.0", "223.255.255.255"];
        for a in fine.iter().chain(&["240.0.0.0", "255.255.255.253", "192.0.2.0", "192.0.2.2"]) {
            assert!(!martian(a) && ports(&ways, a) == [0], "{a}");
        }
        for a in ["::2", "::fffe:ffff:ffff", "::1:0:0:0", "feff::", "2001:db8::", "2001:db8::2"] {
            assert!(!martian(a) && ports(&ways, a) == [0], "{a}");
        }
    }

    #[test]
    fn neighbouring_addresses_may_all_be_the_gateways_own() {
        let mut ways = WaysBack::new(&[route("10.0.0.0", 8, &[1], 0)]);
        ways.add_martians(["10.0.0.2", "10.0.0.1", "10.0.0.3", "10.0.0.2"].map(|a| a.parse().unwrap()));
        let martian = |a: &str| ways.of(a.parse().unwrap()).is_martian();
        assert!(martian("10.0.0.1") && martian("10.0.0.2") && martian("10.0.0.3"));
        assert_eq!((ports(&ways, "10.0.0.0"), ports(&ways, "10.0.0.4")), (vec![1], vec![1]));
    }

    #[test]
    fn filters_are_strict_where_nothing_else_is_said() {
        let mut ways = WaysBack::default();
        ways.set_filters(vec![RpFilter::Off, RpFilter::Loose]);
        let of = |port| ways.filter(PortId(port));
        assert_eq!((of(0), of(1), of(2)), (RpFilter::Off, RpFilter::Loose, RpFilter::Strict));
    }
}
