//! The route table: an immutable picture of the kernel's routes and the configured ones, made by control.
//!
//! A table's next version shares with it what didn't change, and says what did, so that a change costs what it changes:
//! a full table of the internet's routes is neither made anew for one of them nor are the sessions' next hops forgotten.

use std::{
    collections::HashSet,
    fmt,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::behind::WaysBack;
use crate::{
    io::PortId,
    net::{address::Address, ethernet::Mac},
    versions::Map,
};

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

impl Route {
    /// The way to `destination`: always the same one for the same destination.
    pub(super) fn via(&self, destination: IpAddr) -> Option<&Via> {
        if let [only] = &*self.via {
            return Some(only);
        }
        let total: u32 = self.via.iter().map(|v| u32::from(v.weight)).sum();
        let destination = match destination {
            IpAddr::V4(a) => a.to_bits(),
            IpAddr::V6(a) => (a.mix(0) >> 32) as u32,
        };
        let mut at = ((u64::from(destination.wrapping_mul(0x9e37_79b9)) * u64::from(total)) >> 32) as u32;
        self.via.iter().find(|v| {
            let mine = at < u32::from(v.weight);
            at = at.saturating_sub(v.weight.into());
            mine
        })
    }
}

/// An address as a number with masks.
trait Number: Copy + Eq + Hash {
    fn mask(prefix: u8) -> Self;
    fn under(self, mask: Self) -> Self;
}

impl Number for u32 {
    fn mask(prefix: u8) -> Self {
        Self::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
    }
    fn under(self, mask: Self) -> Self {
        self & mask
    }
}

impl Number for u128 {
    fn mask(prefix: u8) -> Self {
        Self::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0)
    }
    fn under(self, mask: Self) -> Self {
        self & mask
    }
}

/// The routes of one prefix length.
#[derive(Clone)]
struct Level<A> {
    prefix: u8,
    mask: A,
    routes: Map<A, Route>,
}

/// One family's routes, longest prefix first.
#[derive(Clone)]
struct Levels<A>(Vec<Level<A>>);

impl<A> Default for Levels<A> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<A: Number> Levels<A> {
    /// The place of a prefix length, or where it would be.
    fn place(&self, prefix: u8) -> Result<usize, usize> {
        self.0.binary_search_by_key(&std::cmp::Reverse(prefix), |level| std::cmp::Reverse(level.prefix))
    }

    fn get(&self, network: A, prefix: u8) -> Option<&Route> {
        let level = self.0.get(self.place(prefix).ok()?)?;
        level.routes.get(&network.under(level.mask))
    }

    /// Sets the route to a network, or removes it; whether that changes anything.
    fn set(&mut self, network: A, prefix: u8, route: Option<Route>) -> bool {
        let mask = A::mask(prefix);
        let at = match self.place(prefix) {
            Ok(at) => at,
            Err(_) if route.is_none() => return false,
            Err(at) => {
                self.0.insert(at, Level { prefix, mask, routes: Map::default() });
                at
            }
        };
        let Some(level) = self.0.get_mut(at) else { return false };
        let changed = level.routes.set(network.under(mask), route);
        if level.routes.is_empty() {
            self.0.remove(at);
        }
        changed
    }

    fn lookup(&self, destination: A) -> Option<&Route> {
        self.0.iter().find_map(|level| level.routes.get(&destination.under(level.mask)))
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
    v4: Levels<u32>,
    v6: Levels<u128>,
    ports: Arc<[PortFacts]>,
    /// The gateway's own addresses.
    own: Arc<HashSet<IpAddr, RandomState>>,
    /// The broadcast addresses of the networks that they are in.
    broadcast: Arc<HashSet<IpAddr, RandomState>>,
    pub(super) ways_back: WaysBack,
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
        Self::new(&[], Vec::new())
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
        let mut table = Self {
            v4: Levels::default(),
            v6: Levels::default(),
            ports: Arc::default(),
            own: Arc::default(),
            broadcast: Arc::default(),
            ways_back: WaysBack::default(),
            version: 0,
            changes: Changes::All,
        };
        for route in routes {
            match table.get(route.network, route.prefix).cloned() {
                Some(known) if route.metric == known.metric => table.add_equal(&known, route),
                Some(known) if route.metric > known.metric => {}
                _ => _ = table.set(route.network, route.prefix, Some(route.clone())),
            }
        }
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

    /// Sets what is known of the ports, the gateway's own addresses beside theirs, and the broadcast addresses of attached
    /// networks.
    pub fn set_ports(
        &mut self,
        ports: Vec<PortFacts>,
        own: impl IntoIterator<Item = IpAddr>,
        broadcast: impl IntoIterator<Item = IpAddr>,
    ) {
        let of_port = |port: &PortFacts| [port.address.map(IpAddr::V4), port.address_v6.map(IpAddr::V6)];
        self.own = Arc::new(ports.iter().flat_map(of_port).flatten().chain(own).collect());
        self.broadcast = Arc::new(broadcast.into_iter().collect());
        self.ways_back.set_martians(self.own.iter().chain(self.broadcast.iter()).copied());
        self.divide(0..256);
        self.ports = ports.into();
        self.changes = Changes::All;
    }

    fn get(&self, network: IpAddr, prefix: u8) -> Option<&Route> {
        match network {
            IpAddr::V4(a) => self.v4.get(a.to_bits(), prefix),
            IpAddr::V6(a) => self.v6.get(a.to_bits(), prefix),
        }
    }

    /// Sets the route to a network, or removes it; whether that changes anything.
    pub fn set(&mut self, network: IpAddr, prefix: u8, route: Option<Route>) -> bool {
        let (old, now) = (self.get(network, prefix).cloned(), route.is_some());
        let changed = match network {
            IpAddr::V4(a) => self.v4.set(a.to_bits(), prefix, route),
            IpAddr::V6(a) => self.v6.set(a.to_bits(), prefix, route),
        };
        if changed {
            self.note_way_back(network, prefix, old.as_ref(), now);
        }
        if changed && let Changes::Networks(networks) = &mut self.changes {
            if networks.len() < MAX_CHANGES {
                networks.push((network, prefix));
            } else {
                self.changes = Changes::All;
            }
        }
        changed
    }

    /// The table as it is now, for the workers; what is changed from here on is the next version's.
    pub fn publish(&mut self) -> Arc<Self> {
        let published = Arc::new(self.clone());
        self.version += 1;
        self.changes = Changes::Networks(Vec::new());
        published
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

    /// Whether an address is the broadcast address of an attached network.
    #[must_use]
    pub fn is_broadcast(&self, address: IpAddr) -> bool {
        self.broadcast.contains(&address)
    }

    /// The route to `destination`.
    #[must_use]
    pub fn lookup(&self, destination: IpAddr) -> Option<&Route> {
        match destination {
            IpAddr::V4(a) => self.v4.lookup(a.to_bits()),
            IpAddr::V6(a) => self.v6.lookup(a.to_bits()),
        }
    }

    /// The port and the next hop on the way to `destination`: a router, or the destination itself.
    #[must_use]
    pub fn way(&self, destination: IpAddr) -> Option<(PortId, IpAddr)> {
        let via = self.lookup(destination)?.via(destination)?;
        Some((via.port, via.gateway.unwrap_or(destination)))
    }

    /// The facts of a port.
    #[must_use]
    pub fn port(&self, port: PortId) -> Option<&PortFacts> {
        self.ports.get(port.index())
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
        let mut table = RouteTable::new(&[route([10, 0, 0, 0], 8, 0)], Vec::new());
        let first = table.publish();
        assert!(table.set([10, 1, 0, 0].into(), 16, Some(route([10, 1, 0, 0], 16, 1))));
        assert!(!table.set([10, 1, 0, 0].into(), 16, Some(route([10, 1, 0, 0], 16, 1))), "nothing new");
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
            table.set(network.into(), 32, Some(route(network, 32, 0)));
        }
        assert_eq!(*table.publish().changes_since(&third), Changes::All);
    }
}
