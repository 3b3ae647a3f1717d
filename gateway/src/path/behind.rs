//! Which ports an address is behind: the way back to it, by the routes.
//!
//! A port's [`RpFilter`] says what has to be true of that before a packet may open a session: anybody can write any source
//! address into a packet, but not every port leads to it. The routes are looked up for it, as for a packet to the
//! address; where a whole /8 is behind the same ports, which is so of most with few routes, that is known beforehand.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use foldhash::fast::RandomState;
use serde::Deserialize;

use super::route_table::{Route, RouteTable};
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

/// What is known of addresses besides the routes to them.
#[derive(Clone, Debug)]
pub(super) struct WaysBack {
    /// By the first byte of an IPv4 address: of most, the rest of it doesn't matter.
    blocks: Box<[Behind; 256]>,
    /// How many addresses and routes of more than 8 bits are in each block: with any it is [`Behind::SPLIT`].
    inside: Box<[u32; 256]>,
    /// Single addresses that no packet comes from.
    martians: HashSet<IpAddr, RandomState>,
    /// Where routes of the same metric to a network lead that has a route already.
    equal: HashMap<(IpAddr, u8), Behind, RandomState>,
    /// By port; those that aren't there are strict.
    filters: Vec<RpFilter>,
}

impl Default for WaysBack {
    fn default() -> Self {
        Self {
            blocks: Box::new([Behind::default(); 256]),
            inside: Box::new([0; 256]),
            martians: HashSet::default(),
            equal: HashMap::default(),
            filters: Vec::new(),
        }
    }
}

/// The block of an IPv4 address.
fn block(address: Ipv4Addr) -> usize {
    address.octets()[0].into()
}

/// The blocks of an IPv4 network of up to 8 bits.
fn blocks(network: Ipv4Addr, prefix: u8) -> Range<usize> {
    let count = 1 << 8_u8.saturating_sub(prefix);
    let first = block(network) & !(count - 1);
    first..first + count
}

impl WaysBack {
    /// The addresses that no packet comes from, with those of the gateway.
    pub fn set_martians(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        // Addresses of 0/8 and 240/4 are as good as any, as Linux has it.
        let always: [IpAddr; 4] = [
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::BROADCAST.into(),
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::LOCALHOST.into(),
        ];
        let new = always.into_iter().chain(addresses).collect();
        let v4 = |address: &IpAddr| match address {
            IpAddr::V4(a) => Some(block(*a)),
            IpAddr::V6(_) => None,
        };
        let old = std::mem::replace(&mut self.martians, new);
        old.iter().filter_map(v4).for_each(|n| self.inside[n] -= 1);
        self.martians.iter().filter_map(v4).for_each(|n| self.inside[n] += 1);
    }

    /// Where an address is, if that doesn't depend on the routes to it alone.
    #[inline]
    fn known(&self, address: IpAddr) -> Option<Behind> {
        match address {
            IpAddr::V4(a) => {
                let whole = self.blocks[block(a)];
                if whole != Behind::SPLIT {
                    return Some(whole);
                }
            }
            // Multicast; and who is told an IPv4-mapped client's address takes it for that of IPv4.
            IpAddr::V6(a) if a.is_multicast() || a.to_ipv4_mapped().is_some() => {
                return Some(Behind::MARTIAN);
            }
            IpAddr::V6(_) => {}
        }
        self.martians.contains(&address).then_some(Behind::MARTIAN)
    }
}

impl RouteTable {
    /// The table, with these filters of the ports, in their order; those without one are strict.
    #[must_use]
    pub fn with_rp_filters(mut self, filters: Vec<RpFilter>) -> Self {
        self.ways_back.filters = filters;
        self
    }

    /// The ports that an address is behind.
    #[inline]
    #[must_use]
    pub fn behind(&self, address: IpAddr) -> Behind {
        self.ways_back.known(address).unwrap_or_else(|| self.by_routes(address))
    }

    /// What has to be true of the source of a packet that arrives on this port.
    #[must_use]
    pub fn rp_filter(&self, port: PortId) -> RpFilter {
        self.ways_back.filters.get(port.index()).copied().unwrap_or_default()
    }

    /// Whether a port leads to an address, by one of several ways at least, or isn't asked to by its `rp_filter`. What no
    /// route leads to may be anywhere.
    #[must_use]
    pub fn is_behind(&self, port: PortId, address: IpAddr) -> bool {
        self.rp_filter(port) != RpFilter::Strict
            || self.lookup(address).is_none_or(|route| route.via.iter().any(|via| via.port == port))
    }

    fn by_routes(&self, address: IpAddr) -> Behind {
        let Some(route) = self.lookup(address) else { return Behind::default() };
        let behind = Behind::of(route);
        match self.ways_back.equal.is_empty() {
            true => behind,
            false => self.ways_back.equal.get(&key(route)).map_or(behind, |also| Behind(behind.0 | also.0)),
        }
    }

    /// Another route to a network that has one of the same metric already.
    pub(super) fn add_equal(&mut self, known: &Route, other: &Route) {
        self.ways_back.equal.entry(key(known)).or_default().0 |= Behind::of(other).0;
        self.divide_network(known.network, known.prefix);
    }

    /// Notes that the route to a network isn't what it was, or that there is none any more.
    pub(super) fn note_way_back(&mut self, network: IpAddr, prefix: u8, old: Option<&Route>, now: bool) {
        if let Some(old) = old {
            self.ways_back.equal.remove(&key(old));
        }
        if let (IpAddr::V4(network), true) = (network, prefix > 8) {
            let inside = &mut self.ways_back.inside[block(network)];
            match (old.is_some(), now) {
                (false, true) => *inside += 1,
                (true, false) => *inside -= 1,
                _ => return,
            }
        }
        self.divide_network(network, prefix);
    }

    fn divide_network(&mut self, network: IpAddr, prefix: u8) {
        if let IpAddr::V4(network) = network {
            self.divide(blocks(network, prefix));
        }
    }

    /// Notes which blocks of IPv4 addresses are one.
    pub(super) fn divide(&mut self, blocks: Range<usize>) {
        for n in blocks {
            let behind = match n {
                127 | 224..=239 => Behind::MARTIAN,
                _ if self.ways_back.inside[n] > 0 => Behind::SPLIT,
                _ => self.by_routes(Ipv4Addr::new(n as u8, 0, 0, 0).into()),
            };
            self.ways_back.blocks[n] = behind;
        }
    }
}

fn key(route: &Route) -> (IpAddr, u8) {
    (route.network, route.prefix)
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

    fn table(routes: &[Route]) -> RouteTable {
        RouteTable::new(routes, Vec::new())
    }

    fn ports(ways: &RouteTable, address: &str) -> Vec<u8> {
        let behind = ways.behind(address.parse().unwrap());
        (0..32).filter(|port| behind.is_by(PortId(*port))).collect()
    }

    #[test]
    fn the_longest_prefix_says_which_ports() {
        let ways = table(&[
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
        let of = |a: &str| ways.behind(a.parse().unwrap());
        assert!(of("9.1.1.1").is_by_default() && !of("10.2.0.0").is_by_default());
        assert!(of("10.9.1.1").is_nowhere() && !of("9.1.1.1").is_nowhere());
        assert!(ports(&RouteTable::default(), "10.1.2.3").is_empty());
    }

    #[test]
    fn ipv6_likewise() {
        let ways = table(&[
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
        let ways = table(&[
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
        let ways = table(&[
            route("0.0.0.0", 0, &[0], 0),
            route("::", 0, &[0], 0),
            // Whatever routes say.
            route("127.0.0.0", 8, &[1], 0),
            route("224.0.0.0", 24, &[1], 0),
            route("ff02::", 16, &[1], 0),
        ]);
        let own = ["192.0.2.1", "192.0.2.255", "255.255.255.254", "2001:db8::1"];
        let ways = ways.with_own(own.iter().map(|a| a.parse().unwrap()));
        let martian = |a: &str| ways.behind(a.parse().unwrap()).is_martian();
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
        let ways = table(&[route("10.0.0.0", 8, &[1], 0)]);
        let ways =
            ways.with_own(["10.0.0.2", "10.0.0.1", "10.0.0.3", "10.0.0.2"].map(|a| a.parse().unwrap()));
        let martian = |a: &str| ways.behind(a.parse().unwrap()).is_martian();
        assert!(martian("10.0.0.1") && martian("10.0.0.2") && martian("10.0.0.3"));
        assert_eq!((ports(&ways, "10.0.0.0"), ports(&ways, "10.0.0.4")), (vec![1], vec![1]));
    }

    #[test]
    fn ways_back_follow_changes_of_routes() {
        let network = |network: &str| network.parse::<IpAddr>().unwrap();
        let mut ways = table(&[route("0.0.0.0", 0, &[0], 0), route("10.0.0.0", 8, &[1], 0)]);
        let set = |ways: &mut RouteTable, to: &str, prefix, ports: Option<&[u8]>| {
            ways.set(network(to), prefix, ports.map(|ports| route(to, prefix, ports, 0)));
        };
        set(&mut ways, "10.1.0.0", 16, Some(&[2]));
        assert_eq!((ports(&ways, "10.1.0.1"), ports(&ways, "10.2.0.1")), (vec![2], vec![1]));
        set(&mut ways, "10.1.0.0", 16, Some(&[3]));
        let before = ways.clone();
        set(&mut ways, "10.1.0.0", 16, None);
        assert_eq!((ports(&ways, "10.1.0.1"), ports(&before, "10.1.0.1")), (vec![1], vec![3]));
        set(&mut ways, "10.0.0.0", 8, None);
        assert_eq!((ports(&ways, "10.1.0.1"), ports(&ways, "11.1.0.1")), (vec![0], vec![0]));
        set(&mut ways, "10.0.0.0", 7, Some(&[4]));
        assert_eq!((ports(&ways, "11.1.0.1"), ports(&ways, "12.1.0.1")), (vec![4], vec![0]));
        set(&mut ways, "0.0.0.0", 0, None);
        assert_eq!((ports(&ways, "11.1.0.1"), ports(&ways, "12.1.0.1")), (vec![4], vec![]));
        // An address of the gateway's own goes, and another comes.
        let martian = |ways: &RouteTable, a: &str| ways.behind(network(a)).is_martian();
        ways.set_ports(Vec::new(), [network("11.0.0.1")], []);
        assert!(martian(&ways, "11.0.0.1") && !martian(&ways, "11.0.0.2"));
        ways.set_ports(Vec::new(), [], [network("12.255.255.255")]);
        assert!(!martian(&ways, "11.0.0.1") && martian(&ways, "12.255.255.255"));
        assert_eq!(ports(&ways, "11.0.0.1"), [4]);
    }

    #[test]
    fn what_was_equal_goes_with_the_route() {
        let mut ways = table(&[route("10.0.0.0", 8, &[1], 5), route("10.0.0.0", 8, &[2], 5)]);
        assert_eq!(ports(&ways, "10.1.1.1"), [1, 2]);
        let to = "10.0.0.0".parse().unwrap();
        ways.set(to, 8, Some(route("10.0.0.0", 8, &[3], 5)));
        assert_eq!(ports(&ways, "10.1.1.1"), [3]);
        ways.set(to, 8, None);
        assert!(ports(&ways, "10.1.1.1").is_empty());
    }

    #[test]
    fn filters_are_strict_where_nothing_else_is_said() {
        let ways = RouteTable::default().with_rp_filters(vec![RpFilter::Off, RpFilter::Loose]);
        let of = |port| ways.rp_filter(PortId(port));
        assert_eq!((of(0), of(1), of(2)), (RpFilter::Off, RpFilter::Loose, RpFilter::Strict));
    }
}
