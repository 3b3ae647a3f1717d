//! Which ports an address is behind, by the routes back to it (reverse-path filter).
//!
//! A port's [`RpFilter`] sets the condition for a packet to open a session: a source address can be forged,
//! but not every port leads to it. [`super::route::RouteTable`] keeps this together with the routes.

use serde::Deserialize;

use crate::io::PortId;

/// The condition on the routes to a packet's source (RFC 3704; Linux's `rp_filter` 1, 2 and 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RpFilter {
    /// The best route to the source leaves by the port that the packet arrived on; any one of equal routes
    /// will do.
    #[default]
    Strict,
    /// There is a route to the source, by any port.
    Loose,
    /// No condition.
    Off,
}

/// The ports that an address is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Behind(u64);

impl Behind {
    /// No packet may come from these addresses.
    pub(crate) const MARTIAN: Self = Self(1 << 63);
    /// The best route is the default route.
    const DEFAULT: u64 = 1 << 62;

    pub(crate) fn by(ports: impl Iterator<Item = PortId>) -> Self {
        Self(ports.filter(|port| *port != PortId::NONE).fold(0, |ports, port| ports | bit(port)))
    }

    /// Marks the default route.
    #[inline]
    pub(crate) fn by_default(self) -> Self {
        if self.0 == 0 { self } else { Self(self.0 | Self::DEFAULT) }
    }

    /// Joins two sets of ports.
    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether packets to the address leave by this port.
    #[inline]
    #[must_use]
    pub fn is_by(self, port: PortId) -> bool {
        self.0 & bit(port) != 0
    }

    /// Whether packets to the address leave by no port at all.
    #[must_use]
    pub fn is_nowhere(self) -> bool {
        self.0 & u64::from(u32::MAX) == 0
    }

    /// Whether only the default route leads there.
    #[must_use]
    pub fn is_by_default(self) -> bool {
        self.0 & Self::DEFAULT != 0
    }

    /// Whether the address is invalid as a source on every port (RFC 1812 5.3.7, RFC 4291 2): it is the
    /// gateway's own, broadcast, multicast, loopback or unspecified.
    #[must_use]
    pub fn is_martian(self) -> bool {
        self.0 & Self::MARTIAN.0 != 0
    }
}

/// There are at most 32 ports.
#[inline]
fn bit(port: PortId) -> u64 {
    1 << (port.0 & 31)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::path::flow::route::{Route, RouteTable, Routes, Via};

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
            // Host bits are ignored.
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
            // Whatever the routes are.
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
        let mut routes = Routes::new(&[route("0.0.0.0", 0, &[0], 0), route("10.0.0.0", 8, &[1], 0)]);
        let set = |routes: &mut Routes, to: &str, prefix, ports: Option<&[u8]>| {
            routes.set(network(to), prefix, ports.map(|ports| route(to, prefix, ports, 0)).as_ref());
            routes.publish()
        };
        let ways = set(&mut routes, "10.1.0.0", 16, Some(&[2]));
        assert_eq!((ports(&ways, "10.1.0.1"), ports(&ways, "10.2.0.1")), (vec![2], vec![1]));
        let ways = set(&mut routes, "10.1.0.0", 16, Some(&[3]));
        let before = std::sync::Arc::clone(&ways);
        let ways = set(&mut routes, "10.1.0.0", 16, None);
        assert_eq!((ports(&ways, "10.1.0.1"), ports(&before, "10.1.0.1")), (vec![1], vec![3]));
        let ways = set(&mut routes, "10.0.0.0", 8, None);
        assert_eq!((ports(&ways, "10.1.0.1"), ports(&ways, "11.1.0.1")), (vec![0], vec![0]));
        let ways = set(&mut routes, "10.0.0.0", 7, Some(&[4]));
        assert_eq!((ports(&ways, "11.1.0.1"), ports(&ways, "12.1.0.1")), (vec![4], vec![0]));
        let ways = set(&mut routes, "0.0.0.0", 0, None);
        assert_eq!((ports(&ways, "11.1.0.1"), ports(&ways, "12.1.0.1")), (vec![4], vec![]));
        // One of the gateway's own addresses is removed, and another is added.
        let martian = |ways: &RouteTable, a: &str| ways.behind(network(a)).is_martian();
        routes.set_ports(Vec::new(), [network("11.0.0.1")], []);
        let ways = routes.publish();
        assert!(martian(&ways, "11.0.0.1") && !martian(&ways, "11.0.0.2"));
        routes.set_ports(Vec::new(), [], [network("12.255.255.255")]);
        let ways = routes.publish();
        assert!(!martian(&ways, "11.0.0.1") && martian(&ways, "12.255.255.255"));
        assert_eq!(ports(&ways, "11.0.0.1"), [4]);
    }

    #[test]
    fn what_was_equal_goes_with_the_route() {
        let mut routes = Routes::new(&[route("10.0.0.0", 8, &[1], 5), route("10.0.0.0", 8, &[2], 5)]);
        assert_eq!(ports(&routes.publish(), "10.1.1.1"), [1, 2]);
        let to = "10.0.0.0".parse().unwrap();
        routes.set(to, 8, Some(&route("10.0.0.0", 8, &[3], 5)));
        assert_eq!(ports(&routes.publish(), "10.1.1.1"), [3]);
        routes.set(to, 8, None);
        assert!(ports(&routes.publish(), "10.1.1.1").is_empty());
    }

    #[test]
    fn filters_are_strict_where_nothing_else_is_said() {
        let ways = RouteTable::default().with_rp_filters(vec![RpFilter::Off, RpFilter::Loose]);
        let of = |port| ways.rp_filter(PortId(port));
        assert_eq!((of(0), of(1), of(2)), (RpFilter::Off, RpFilter::Loose, RpFilter::Strict));
    }
}
