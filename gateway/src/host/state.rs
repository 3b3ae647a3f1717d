//! The kernel's view of the network around the ports: what the packet path's route table is built from.
//!
//! A [`NetState`] is immutable and cheap to hand around. Its parts are shared between successive states, so
//! `Arc::ptr_eq` tells which of them changed, and [`Map::changes`] which routes.

use std::{net::IpAddr, sync::Arc};

use super::ports::KernelPorts;
pub use crate::path::flow::route::Table;
use crate::{io::PortId, mac::Mac, prefix::Prefix, versions::Map};

/// Addresses, routes and neighbours of all TAP twins at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetState {
    /// Addresses of the twins, ordered by port and address.
    pub addresses: Arc<[KernelAddress]>,
    /// Addresses that the kernel has on other interfaces: `lo`, a VRRP daemon's.
    pub elsewhere: Arc<[IpAddr]>,
    /// Routes of the main table by destination, over any interface: the one that the kernel would use.
    pub routes: Map<Prefix, KernelRoute>,
    /// The same of the tables `local` and `default`. The twins' own addresses aren't among them.
    pub other_routes: Map<(Table, Prefix), KernelRoute>,
    /// Neighbours on the twins, ordered by port and address.
    pub neighbours: Arc<[KernelNeighbour]>,
    /// MAC addresses that the kernel has on interfaces over the twins, ordered by port and address.
    pub stations: Arc<[(PortId, Mac)]>,
    /// The twins themselves, by port.
    pub twins: Arc<[TwinState]>,
    /// Ports that the kernel has for itself; looked at only while somebody asks for it.
    pub kernel_ports: Arc<KernelPorts>,
}

/// What became of a twin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinState {
    /// Whether it is there.
    pub present: bool,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its name, if somebody gave it another than the port's.
    pub renamed: Option<String>,
}

impl TwinState {
    /// As it is meant to be.
    pub const GOOD: Self = Self { present: true, up: true, renamed: None };

    /// What is wrong with it, a phrase each.
    pub fn faults(&self) -> impl Iterator<Item = String> + use<> {
        let Self { present, up, renamed } = self.clone();
        let gone = (!present).then(|| "its twin is gone: the kernel can't reach the port".to_owned());
        let down = (present && !up).then(|| "its twin is down".to_owned());
        let renamed = renamed.map(|name| format!("its twin was renamed to `{name}`"));
        [gone, down, renamed].into_iter().flatten()
    }
}

impl NetState {
    /// The neighbour `address` on `port`, if the kernel has an entry for it.
    #[must_use]
    pub fn neighbour(&self, port: PortId, address: IpAddr) -> Option<&KernelNeighbour> {
        let at = self.neighbours.binary_search_by_key(&(port, address), |n| (n.port, n.address));
        at.ok().map(|n| &self.neighbours[n])
    }

    /// Whether the kernel has `address` on any interface.
    #[must_use]
    pub fn is_anywhere(&self, address: IpAddr) -> bool {
        self.is_local(address) || self.elsewhere.binary_search(&address).is_ok()
    }

    /// Whether `address` is in a network that a twin is in.
    #[must_use]
    pub fn is_attached(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|a| !a.prefix.is_host() && a.prefix.network().contains(&address))
    }

    /// Whether one of the twins has `address`.
    #[must_use]
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|a| a.prefix.address() == address)
    }
}

/// An address of a twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelAddress {
    /// The twin's port.
    pub port: PortId,
    /// The address and the length of its network's prefix.
    pub prefix: Prefix,
}

/// A route of the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    /// The table that it is in.
    pub table: Table,
    /// Destination network.
    pub to: Prefix,
    /// The kernel's priority: lower wins.
    pub metric: u32,
    /// The path's MTU in bytes of an IP packet, if the route has one.
    pub mtu: Option<u32>,
    /// What happens to packets.
    pub action: RouteAction,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// Forwards to one of these, never empty.
    Forward(Arc<[NextHop]>),
    /// Drops silently.
    Blackhole,
    /// Answers that the destination is unreachable.
    Unreachable,
    /// Answers that it is administratively prohibited.
    Prohibit,
    /// Delivers to the host itself, or forwards in a way that the gateway has no part in: over this interface, which is
    /// no twin, or in another wrapping (MPLS, SRv6).
    Elsewhere(u32),
}

/// A next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// Port to leave through.
    pub port: PortId,
    /// Gateway, which for an IPv4 route may be an IPv6 address (RFC 5549); the destination itself is on the
    /// link when absent.
    pub gateway: Option<IpAddr>,
    /// Share of the traffic among equal-cost next hops, 1 to 256.
    pub weight: u16,
}

/// An entry of the kernel's neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelNeighbour {
    /// The twin's port.
    pub port: PortId,
    /// IP address.
    pub address: IpAddr,
    /// Whether, and where, it can be reached.
    pub reachability: Reachability,
}

impl KernelNeighbour {
    /// Where to send frames for it, if that is known.
    #[must_use]
    pub const fn mac(&self) -> Option<Mac> {
        match self.reachability {
            Reachability::Usable(mac) => Some(mac),
            Reachability::Pending | Reachability::Failed => None,
        }
    }
}

/// What the kernel's neighbour state (`NUD_*`) means for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// REACHABLE, STALE, DELAY, PROBE, PERMANENT or NOARP: frames may be sent to this address.
    Usable(Mac),
    /// NONE or INCOMPLETE: being resolved.
    Pending,
    /// FAILED: no answer.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_neighbours_and_addresses() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        let entry = |port, address: &str| KernelNeighbour {
            port: PortId(port),
            address: address.parse().unwrap(),
            reachability: Reachability::Usable(mac),
        };
        let state = NetState {
            addresses: [KernelAddress { port: PortId(1), prefix: "10.0.0.1/24".parse().unwrap() }].into(),
            neighbours: [entry(0, "10.0.0.2"), entry(0, "10.0.0.9"), entry(1, "10.0.0.2")].into(),
            ..NetState::default()
        };
        assert_eq!(
            state.neighbour(PortId(0), "10.0.0.9".parse().unwrap()).and_then(KernelNeighbour::mac),
            Some(mac)
        );
        assert!(state.neighbour(PortId(1), "10.0.0.9".parse().unwrap()).is_none());
        assert!(state.is_local("10.0.0.1".parse().unwrap()));
        assert!(!state.is_local("10.0.0.2".parse().unwrap()));
    }
}
