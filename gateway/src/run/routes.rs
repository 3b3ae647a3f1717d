//! What the path is told of routes and neighbours: the kernel's, with the configured ones.

use std::net::IpAddr;

use crate::{
    config::{self, Config},
    host::{Action, NetState},
    io::PortId,
    net::ethernet::Mac,
    path::route::{Neighbour, PortFacts, Route, RouteTable, Via},
    prefix::Prefix,
};

/// A port as the device reports it.
#[derive(Clone, Copy, Debug)]
pub struct PortLink {
    /// MAC address.
    pub mac: Mac,
    /// MTU in bytes of an IP packet.
    pub mtu: u16,
}

/// The route table from the configuration and, with a host side, the kernel's state.
#[must_use]
pub fn table(config: &Config, links: &[PortLink], state: Option<&NetState>) -> RouteTable {
    let mut routes: Vec<Route> = config.routes.iter().filter_map(configured).collect();
    match state {
        Some(state) => routes.extend(state.routes.iter().filter_map(kernel)),
        None => routes.extend(attached(config)),
    }
    let ports = links
        .iter()
        .enumerate()
        .map(|(n, link)| PortFacts { mac: link.mac, mtu: link.mtu, address: own_address(config, state, n) })
        .collect();
    let configured = config.ports.iter().flat_map(|port| port.addresses.iter()).map(Prefix::address);
    let kernel = state.iter().flat_map(|state| state.addresses.iter()).map(|a| a.prefix.address());
    RouteTable::new(&routes, ports).with_own(configured.chain(kernel).filter_map(v4))
}

fn network(to: &Prefix) -> Option<(std::net::Ipv4Addr, u8)> {
    match to.address() {
        IpAddr::V4(address) => Some((address, to.length())),
        IpAddr::V6(_) => None,
    }
}

fn v4(address: IpAddr) -> Option<std::net::Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn configured(route: &config::Route) -> Option<Route> {
    let (network, prefix) = network(&route.to)?;
    let via = Via { port: route.port, gateway: route.via.and_then(v4), weight: 1 };
    Some(Route { network, prefix, via: vec![via], metric: 0, mtu: None })
}

fn kernel(route: &crate::host::Route) -> Option<Route> {
    let (network, prefix) = network(&route.to)?;
    let via = match &route.action {
        // A gateway of the other family (RFC 5549) is out of an IPv4 path's reach.
        Action::Forward(hops) => hops
            .iter()
            .filter(|h| h.gateway.is_none_or(|g| g.is_ipv4()))
            .map(|h| Via { port: h.port, gateway: h.gateway.and_then(v4), weight: h.weight.max(1) })
            .collect(),
        Action::Blackhole | Action::Unreachable | Action::Prohibit => Vec::new(),
    };
    let mtu = route.mtu.and_then(|m| u16::try_from(m).ok());
    Some(Route { network, prefix, via, metric: route.metric, mtu })
}

/// Without a kernel beside it, the path knows the networks of the ports' own addresses.
fn attached(config: &Config) -> impl Iterator<Item = Route> {
    config.ports.iter().enumerate().flat_map(|(n, port)| {
        port.addresses.iter().filter_map(move |address| {
            let (network, prefix) = network(&address.network())?;
            let via = Via { port: PortId(n as u8), gateway: None, weight: 1 };
            Some(Route { network, prefix, via: vec![via], metric: 0, mtu: None })
        })
    })
}

/// The address that a port answers from: its first configured one, or the kernel's.
fn own_address(config: &Config, state: Option<&NetState>, port: usize) -> Option<std::net::Ipv4Addr> {
    let configured = config.ports.get(port)?.addresses.iter().find_map(|p| v4(p.address()));
    configured.or_else(|| {
        let mine = |a: &&crate::host::Address| a.port.index() == port && a.prefix.length() < 32;
        state?.addresses.iter().filter(mine).find_map(|a| v4(a.prefix.address()))
    })
}

/// All neighbours that are known; a configured one replaces the kernel's.
#[must_use]
pub fn neighbours(config: &Config, state: Option<&NetState>) -> Vec<Neighbour> {
    let configured: Vec<Neighbour> = config
        .neighbours
        .iter()
        .filter_map(|n| Some(Neighbour { port: n.port, address: v4(n.address)?, mac: Some(n.mac) }))
        .collect();
    let known = state.iter().flat_map(|s| s.neighbours.iter());
    let kernel = known
        .filter_map(|n| Some(Neighbour { port: n.port, address: v4(n.address)?, mac: n.mac() }))
        .filter(|n| configured.iter().all(|c| c.port != n.port || c.address != n.address));
    kernel.chain(configured.iter().copied()).collect()
}

/// Neighbours whose state changed from `old` to `new`, those that disappeared included.
#[must_use]
pub fn changed(old: &[Neighbour], new: &[Neighbour]) -> Vec<Neighbour> {
    let find = |all: &[Neighbour], n: &Neighbour| {
        all.iter().find(|o| o.port == n.port && o.address == n.address).map(|o| o.mac)
    };
    let changed = new.iter().filter(|n| find(old, n) != Some(n.mac)).copied();
    let gone = old.iter().filter(|o| find(new, o).is_none()).map(|o| Neighbour { mac: None, ..*o });
    changed.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TOML: &str = r#"
        [[port]]
        name = "wan"
        device = "net_null0"
        addresses = ["192.168.80.4/24"]
        [[port]]
        name = "lan"
        device = "net_null1"
        [[route]]
        to = "0.0.0.0/0"
        via = "192.168.80.1"
        port = "wan"
        [[neighbour]]
        address = "192.168.80.1"
        mac = "02:00:00:00:00:09"
        port = "wan"
    "#;

    fn links() -> Vec<PortLink> {
        (0..2).map(|n| PortLink { mac: Mac([2, 0, 0, 0, 0, n]), mtu: 1500 }).collect()
    }

    #[test]
    fn without_a_kernel_the_configuration_is_all_there_is() {
        let config = Config::parse(TOML, Path::new("t")).unwrap();
        let table = table(&config, &links(), None);
        let via = |a: [u8; 4]| table.lookup(u32::from_be_bytes(a)).map(|r| r.via[0]);
        assert_eq!(via([192, 168, 80, 7]).unwrap().gateway, None);
        assert_eq!(via([8, 8, 8, 8]).unwrap().gateway, Some([192, 168, 80, 1].into()));
        assert_eq!(table.port(PortId(0)).unwrap().address, Some([192, 168, 80, 4].into()));
        assert_eq!(neighbours(&config, None).len(), 1);
    }

    #[test]
    fn only_changes_of_neighbours_are_passed_on() {
        let n = |last, mac: Option<u8>| Neighbour {
            port: PortId(0),
            address: [10, 0, 0, last].into(),
            mac: mac.map(|m| Mac([2, 0, 0, 0, 0, m])),
        };
        let old = [n(1, Some(1)), n(2, Some(2)), n(3, None)];
        let new = [n(1, Some(1)), n(2, Some(9)), n(4, Some(4))];
        assert_eq!(changed(&old, &new), [n(2, Some(9)), n(4, Some(4)), n(3, None)]);
    }
}
