//! The route table: an immutable picture of the kernel's routes and the configured ones, made by control.
//!
//! [`Routes`] has them all and makes versions of the [`RouteTable`]. Versions share what didn't change and tell what
//! did, so the cost of a change depends on its size: one changed route of a full internet table neither rebuilds the
//! table nor makes sessions forget their next hops.

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::{
    behind::{Behind, RpFilter},
    trie::Trie,
};
use crate::{
    io::PortId,
    net::{address::Address, ethernet::Mac},
    path::verdict::Reason,
    prefix::Prefix,
};

mod routes;

pub use routes::Routes;

/// Changed networks that a table names; of more it says that everything may have changed.
pub const MAX_CHANGES: usize = 512;

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination network.
    pub network: IpAddr,
    /// Its prefix length, 0..=32 or 0..=128.
    pub prefix: u8,
    /// Where to: of several, each destination has its own. None at all: the destination is refused.
    pub via: Arc<[Via]>,
    /// Lower wins among routes to the same network.
    pub metric: u32,
    /// MTU of the route where it's below the port's.
    pub mtu: Option<u16>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Via {
    /// Port.
    pub port: PortId,
    /// Router, perhaps of the other family (RFC 8950); none where the network is attached.
    pub gateway: Option<IpAddr>,
    /// Share of the destinations, at least 1.
    pub weight: u16,
}

/// The kernel's tables that its rules name unless somebody makes others, those first that are asked last. What an earlier
/// one has isn't asked for in a later one, whatever the prefix lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// `default`, of IPv4 only.
    Default,
    /// `main`.
    #[default]
    Main,
    /// `local`: what is the host's own.
    Local,
}

/// What routes to many networks may have in common: where they lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteWay {
    /// As of a [`Route`].
    pub via: Arc<[Via]>,
    /// As of a [`Route`].
    pub metric: u32,
    /// As of a [`Route`].
    pub mtu: Option<u16>,
    /// The ports that the network is behind, by this route and by equal ones.
    behind: Behind,
}

impl Via {
    /// By an interface that is no port, or to the host itself.
    pub const ELSEWHERE: Self = Self { port: PortId::NONE, gateway: None, weight: 1 };
}

impl RouteWay {
    /// The next hop towards `destination`: always the same one for the same destination.
    ///
    /// # Errors
    /// There is none, or it isn't behind a port.
    pub(crate) fn via(&self, destination: IpAddr) -> Result<&Via, Reason> {
        if let [only] = &*self.via {
            return if only.port == PortId::NONE { Err(Reason::RouteElsewhere) } else { Ok(only) };
        }
        let total: u32 = self.via.iter().map(|v| u32::from(v.weight)).sum();
        let destination = match destination {
            IpAddr::V4(a) => a.to_bits(),
            IpAddr::V6(a) => (a.mix(0) >> 32) as u32,
        };
        let mut at = ((u64::from(destination.wrapping_mul(0x9e37_79b9)) * u64::from(total)) >> 32) as u32;
        let mine = |v: &&Via| {
            let mine = at < u32::from(v.weight);
            at = at.saturating_sub(v.weight.into());
            mine
        };
        self.via.iter().find(mine).ok_or(Reason::NoRoute)
    }
}

/// Which of the routes around an address counts: the highest table's, and there the longest prefix's.
type Rank = (Table, u8);

/// What the table has about the addresses around one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    way: Option<Arc<RouteWay>>,
    /// The route's table and the prefix length of its network.
    rank: Rank,
    /// A single address that no packet comes from.
    martian: bool,
}

impl Leaf {
    /// There is no route.
    const NOTHING: Self = Self { way: None, rank: (Table::Default, 0), martian: false };

    /// The ports that the address is behind.
    #[inline]
    fn behind(&self) -> Behind {
        match &self.way {
            _ if self.martian => Behind::MARTIAN,
            Some(way) if self.rank.1 == 0 => way.behind.by_default(),
            Some(way) => way.behind,
            None => Behind::default(),
        }
    }
}

/// What changed from one version of a table to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// Perhaps everything.
    All,
    /// Routes to these networks, with their prefix lengths.
    Networks(Vec<(IpAddr, u8)>),
}

/// Routes and what the path knows of each port.
#[derive(Clone)]
pub struct RouteTable {
    v4: Trie<u32, Leaf>,
    v6: Trie<u128, Leaf>,
    ports: Arc<[PortFacts]>,
    /// The gateway's own addresses.
    own: Arc<HashSet<IpAddr, RandomState>>,
    /// The broadcast addresses of the networks that they are in.
    broadcast: Arc<HashSet<IpAddr, RandomState>>,
    /// By port; those that aren't there are strict.
    filters: Arc<[RpFilter]>,
    /// Counts the versions of a table.
    version: u64,
    /// From the version before.
    changes: Changes,
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteTable").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Default for RouteTable {
    fn default() -> Self {
        let mut table = Self {
            v4: Trie::new(Leaf::NOTHING),
            v6: Trie::new(Leaf::NOTHING),
            ports: Arc::default(),
            own: Arc::default(),
            broadcast: Arc::default(),
            filters: Arc::default(),
            version: 0,
            changes: Changes::All,
        };
        table.set_ports(Vec::new(), [], []);
        table
    }
}

/// What the path knows of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Its MAC address.
    pub mac: Mac,
    /// Its MTU: bytes of an IP packet.
    pub mtu: u16,
    /// An address of its own to answer from (ICMP errors) and to send tunnels from.
    pub address: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub address_v6: Option<Ipv6Addr>,
}

impl PortFacts {
    /// Its own address of the family of `like`.
    #[must_use]
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.address.map(IpAddr::V4),
            IpAddr::V6(_) => self.address_v6.map(IpAddr::V6),
        }
    }
}

impl RouteTable {
    /// A table of these routes; of several to one network the lowest metric counts, then the first.
    #[must_use]
    pub fn new(routes: &[Route], ports: Vec<PortFacts>) -> Self {
        let mut table = Routes::new(routes).table;
        table.set_ports(ports, [], []);
        table
    }

    /// The table, with more addresses of the gateway's own than the ports answer from.
    #[must_use]
    pub fn with_own(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let own: Vec<_> = self.own.iter().copied().chain(addresses).collect();
        let broadcast: Vec<_> = self.broadcast.iter().copied().collect();
        self.set_ports(self.ports.to_vec(), own, broadcast);
        self
    }

    /// The table, with the broadcast addresses of attached networks.
    #[must_use]
    pub fn with_broadcast(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let own: Vec<_> = self.own.iter().copied().collect();
        self.set_ports(self.ports.to_vec(), own, addresses);
        self
    }

    /// The table, with these filters of the ports, in their order; those without one are strict.
    #[must_use]
    pub fn with_rp_filters(mut self, filters: Vec<RpFilter>) -> Self {
        self.filters = filters.into();
        self
    }

    fn set_ports(
        &mut self,
        ports: Vec<PortFacts>,
        own: impl IntoIterator<Item = IpAddr>,
        broadcast: impl IntoIterator<Item = IpAddr>,
    ) {
        let before = self.martians();
        let of_port = |port: &PortFacts| [port.address.map(IpAddr::V4), port.address_v6.map(IpAddr::V6)];
        self.own = Arc::new(ports.iter().flat_map(of_port).flatten().chain(own).collect());
        self.broadcast = Arc::new(broadcast.into_iter().collect());
        self.ports = ports.into();
        self.changes = Changes::All;
        let now = self.martians();
        before.difference(&now).for_each(|address| self.mark(*address, false));
        now.iter().for_each(|address| self.mark(*address, true));
    }

    /// Single addresses that no packet comes from. Those of 0/8 and 240/4 are as good as any, as Linux has it.
    fn martians(&self) -> HashSet<IpAddr> {
        let always: [IpAddr; 4] = [
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::BROADCAST.into(),
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::LOCALHOST.into(),
        ];
        self.own.iter().chain(self.broadcast.iter()).copied().chain(always).collect()
    }

    /// Notes whether a single address is a martian.
    fn mark(&mut self, address: IpAddr, martian: bool) {
        self.change(address, u8::MAX, |leaf| {
            (leaf.martian != martian).then(|| Leaf { martian, ..leaf.clone() })
        });
    }

    /// Changes the leaves of a network; a prefix longer than the family's is that of an address.
    fn change(&mut self, network: IpAddr, prefix: u8, change: impl Fn(&Leaf) -> Option<Leaf>) {
        match network {
            IpAddr::V4(a) => self.v4.change(a.to_bits(), prefix, &change),
            IpAddr::V6(a) => self.v6.change(a.to_bits(), prefix, &change),
        }
    }

    /// Puts a route in force, where none of a higher rank is.
    fn cover(&mut self, network: IpAddr, rank: Rank, way: &Arc<RouteWay>) {
        self.change(network, rank.1, |leaf| {
            (leaf.rank <= rank).then(|| Leaf { way: Some(Arc::clone(way)), rank, ..*leaf })
        });
    }

    #[inline]
    fn leaf(&self, address: IpAddr) -> &Leaf {
        match address {
            IpAddr::V4(a) => self.v4.get(a.to_bits()),
            IpAddr::V6(a) => self.v6.get(a.to_bits()),
        }
    }

    /// What differs from `before`, as far as that is known.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> &Changes {
        if self.version == before.version + 1 && self.version > 0 { &self.changes } else { &Changes::All }
    }

    /// Whether an address is the gateway's own.
    #[must_use]
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address)
    }

    /// Whether an address is the gateway's own, or one that every host has for itself.
    #[must_use]
    pub fn is_here(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.is_own(address)
    }

    /// Whether the gateway has the same addresses by another table.
    #[must_use]
    pub fn has_own_of(&self, other: &Self) -> bool {
        self.own == other.own
    }

    /// The table, without a way to these addresses.
    #[must_use]
    pub fn without<'a>(mut self, addresses: impl IntoIterator<Item = &'a IpAddr>) -> Self {
        let nowhere = RouteWay { via: Arc::default(), metric: 0, mtu: None, behind: Behind::default() };
        let nowhere = Arc::new(nowhere);
        for address in addresses {
            let prefix = if address.is_ipv6() { 128 } else { 32 };
            self.change(*address, prefix, |leaf| {
                let rank = (leaf.rank.0, prefix);
                Some(Leaf { way: Some(Arc::clone(&nowhere)), rank, ..*leaf })
            });
        }
        self
    }

    /// Why nothing leaves for a destination, as the routes say it.
    #[cold]
    pub(crate) fn no_way(&self, destination: IpAddr, routes: Reason) -> Reason {
        if self.is_here(destination) { Reason::ToGateway } else { routes }
    }

    /// Whether an address is the broadcast address of an attached network.
    #[must_use]
    pub fn is_broadcast(&self, address: IpAddr) -> bool {
        self.broadcast.contains(&address)
    }

    /// The broadcast addresses of attached networks.
    pub fn broadcast(&self) -> impl Iterator<Item = IpAddr> {
        self.broadcast.iter().copied()
    }

    /// Whether the broadcast addresses are the same by another table.
    #[must_use]
    pub fn has_broadcast_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.broadcast, &other.broadcast) || self.broadcast == other.broadcast
    }

    /// The way to `destination`, by the route with the longest prefix.
    #[must_use]
    pub fn lookup(&self, destination: IpAddr) -> Option<&RouteWay> {
        self.leaf(destination).way.as_deref()
    }

    /// The network that this route is to, with its prefix length; the whole family's if there is no route.
    #[must_use]
    pub fn network(&self, destination: IpAddr) -> (IpAddr, u8) {
        let prefix = self.leaf(destination).rank.1;
        let network =
            Prefix::new(destination, prefix).map_or(destination, |prefix| prefix.network().address());
        (network, prefix)
    }

    /// The ports that an address is behind.
    #[inline]
    #[must_use]
    pub fn behind(&self, address: IpAddr) -> Behind {
        match address {
            IpAddr::V4(a) if a.is_loopback() || a.is_multicast() => Behind::MARTIAN,
            // A server that learns an IPv4-mapped client address takes it for an IPv4 address.
            IpAddr::V6(a) if a.is_multicast() || a.to_ipv4_mapped().is_some() => Behind::MARTIAN,
            _ => self.leaf(address).behind(),
        }
    }

    /// What has to be true of the source of a packet that arrives on this port.
    #[must_use]
    pub fn rp_filter(&self, port: PortId) -> RpFilter {
        self.filters.get(port.index()).copied().unwrap_or_default()
    }

    /// Whether a port leads to an address, by one of several ways at least, or isn't asked to by its `rp_filter`. What no
    /// route leads to may be anywhere.
    #[must_use]
    pub fn is_behind(&self, port: PortId, address: IpAddr) -> bool {
        self.rp_filter(port) != RpFilter::Strict
            || self.lookup(address).is_none_or(|way| way.via.iter().any(|via| via.port == port))
    }

    /// The port and the next hop on the way to `destination`: a router, or the destination itself.
    #[must_use]
    pub fn way(&self, destination: IpAddr) -> Option<(PortId, IpAddr)> {
        let via = self.lookup(destination)?.via(destination).ok()?;
        Some((via.port, via.gateway.unwrap_or(destination)))
    }

    /// The facts of a port.
    #[must_use]
    pub fn port(&self, port: PortId) -> Option<&PortFacts> {
        self.ports.get(port.index())
    }
}

impl RouteWay {
    fn of(route: &Route) -> Self {
        let behind = Behind::by(route.via.iter().map(|via| via.port));
        Self { via: Arc::clone(&route.via), metric: route.metric, mtu: route.mtu, behind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(net: [u8; 4], prefix: u8, port: u8) -> Route {
        let via = [Via { port: PortId(port), gateway: None, weight: 1 }];
        Route { network: net.into(), prefix, via: via.into(), metric: 0, mtu: None }
    }

    #[test]
    fn versions_say_what_changed() {
        let mut table = Routes::new(&[route([10, 0, 0, 0], 8, 0)]);
        let first = table.publish();
        assert!(table.set([10, 1, 0, 0].into(), 16, Some(&route([10, 1, 0, 0], 16, 1))));
        assert!(!table.set([10, 1, 0, 0].into(), 16, Some(&route([10, 1, 0, 0], 16, 1))), "nothing new");
        assert!(!table.set([10, 2, 0, 0].into(), 16, None), "nothing there");
        let second = table.publish();
        let changed = Changes::Networks(vec![([10, 1, 0, 0].into(), 16)]);
        assert_eq!(*second.changes_since(&first), changed);
        assert_eq!(*first.changes_since(&RouteTable::default()), Changes::All);
        let port = |table: &RouteTable| table.lookup([10, 1, 2, 3].into()).unwrap().via[0].port.0;
        assert_eq!((port(&first), port(&second)), (0, 1));
        assert!(table.set([10, 1, 0, 0].into(), 16, None));
        let third = table.publish();
        assert_eq!(port(&third), 0);
        assert_eq!(*third.changes_since(&first), Changes::All, "a version between was missed");
        for n in 0..=MAX_CHANGES {
            let network = [11, 0, (n >> 8) as u8, n as u8];
            table.set(network.into(), 32, Some(&route(network, 32, 0)));
        }
        assert_eq!(*table.publish().changes_since(&third), Changes::All);
    }

    fn to(network: &str, prefix: u8, port: u8) -> Route {
        let via = [Via { port: PortId(port), gateway: None, weight: 1 }];
        Route { network: network.parse().unwrap(), prefix, via: via.into(), metric: 0, mtu: None }
    }

    #[test]
    fn tables_are_searched_in_order_regardless_of_prefix_lengths() {
        let mut routes = Routes::new(&[]);
        let mut set = |table, route: Route, there: bool| {
            routes.set_in(table, route.network, route.prefix, there.then_some(&route));
            let table = routes.publish();
            ["10.1.1.1", "10.2.1.1", "11.0.0.1"]
                .map(|to| Some(table.lookup(to.parse().unwrap())?.via[0].port.0))
        };
        assert_eq!(set(Table::Default, to("10.1.1.0", 24, 1), true), [Some(1), None, None]);
        assert_eq!(set(Table::Main, to("10.0.0.0", 8, 2), true), [Some(2), Some(2), None]);
        assert_eq!(set(Table::Default, to("0.0.0.0", 0, 3), true), [Some(2), Some(2), Some(3)]);
        assert_eq!(set(Table::Main, to("10.2.0.0", 16, 4), true), [Some(2), Some(4), Some(3)]);
        assert_eq!(set(Table::Local, to("10.0.0.0", 9, 5), true), [Some(5), Some(5), Some(3)]);
        assert_eq!(set(Table::Main, to("10.0.0.0", 8, 6), true), [Some(5), Some(5), Some(3)]);
        assert_eq!(set(Table::Local, to("10.0.0.0", 9, 5), false), [Some(6), Some(4), Some(3)]);
        assert_eq!(set(Table::Main, to("10.0.0.0", 8, 6), false), [Some(1), Some(4), Some(3)]);
        assert_eq!(set(Table::Main, to("10.2.0.0", 16, 4), false), [Some(1), Some(3), Some(3)]);
        assert_eq!(set(Table::Default, to("10.1.1.0", 24, 1), false), [Some(3), Some(3), Some(3)]);
    }

    #[test]
    fn what_leads_elsewhere_is_behind_no_port() {
        let mut routes = Routes::new(&[to("0.0.0.0", 0, 1)]);
        let elsewhere = Route { via: [Via::ELSEWHERE].into(), ..to("10.0.0.0", 8, 0) };
        routes.set(elsewhere.network, 8, Some(&elsewhere));
        let (table, address) = (routes.publish(), "10.1.1.1".parse().unwrap());
        assert_eq!(table.lookup(address).unwrap().via(address), Err(Reason::RouteElsewhere));
        assert!(table.behind(address).is_nowhere() && !table.is_behind(PortId(31), address));
        assert_eq!(table.way(address), None);
    }
}
