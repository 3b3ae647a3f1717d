//! What the path is told of routes and neighbours: the kernel's, with the configured ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    config::{self, Config},
    host::{Action, NetState},
    io::PortId,
    net::ethernet::Mac,
    path::route::{Neighbour, PortFacts, Route, RouteTable, Via},
    prefix::{self, Prefix},
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
    let mut routes: Vec<Route> = config.routes.iter().map(configured).collect();
    match state {
        Some(state) => routes.extend(state.routes.iter().map(kernel)),
        None => routes.extend(attached(config)),
    }
    let ports = links
        .iter()
        .enumerate()
        .map(|(n, link)| PortFacts {
            mac: link.mac,
            mtu: link.mtu,
            address: own_address(config, state, n, v4),
            address_v6: own_address(config, state, n, v6),
        })
        .collect();
    let configured = config.ports.iter().flat_map(|port| &port.addresses);
    let kernel = state.iter().flat_map(|state| state.addresses.iter()).map(|a| &a.prefix);
    let own = configured.chain(kernel);
    RouteTable::new(&routes, ports)
        .with_own(own.clone().map(Prefix::address))
        .with_broadcast(own.filter_map(Prefix::broadcast))
        .with_rp_filters(config.ports.iter().map(|port| port.rp_filter).collect())
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// A global address: link-local ones are no good to whoever is further away.
fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) if !address.is_unicast_link_local() => Some(address),
        _ => None,
    }
}

fn to(to: &Prefix, via: Vec<Via>) -> Route {
    Route { network: to.address(), prefix: to.length(), via, metric: 0, mtu: None }
}

fn configured(route: &config::Route) -> Route {
    to(&route.to, vec![Via { port: route.port, gateway: route.via, weight: 1 }])
}

fn kernel(route: &crate::host::Route) -> Route {
    let via = match &route.action {
        Action::Forward(hops) => {
            hops.iter().map(|h| Via { port: h.port, gateway: h.gateway, weight: h.weight.max(1) }).collect()
        }
        Action::Blackhole | Action::Unreachable | Action::Prohibit => Vec::new(),
    };
    let mtu = route.mtu.and_then(|m| u16::try_from(m).ok());
    Route { metric: route.metric, mtu, ..to(&route.to, via) }
}

/// Without a kernel beside it, the path knows the networks of the ports' own addresses.
fn attached(config: &Config) -> impl Iterator<Item = Route> {
    config.ports.iter().enumerate().flat_map(|(n, port)| {
        port.addresses.iter().map(move |address| {
            to(&address.network(), vec![Via { port: PortId(n as u8), gateway: None, weight: 1 }])
        })
    })
}

/// The address of a family that a port answers from: its first configured one that it still has, or the kernel's.
fn own_address<A>(
    config: &Config,
    state: Option<&NetState>,
    port: usize,
    family: fn(IpAddr) -> Option<A>,
) -> Option<A> {
    let has = |address: IpAddr| {
        state.is_none_or(|state| {
            state.addresses.iter().any(|a| a.port.index() == port && a.prefix.address() == address)
        })
    };
    let mut configured = config.ports.get(port)?.addresses.iter().map(Prefix::address).filter(|a| has(*a));
    let configured = configured.find_map(family);
    configured.or_else(|| {
        let mine = |a: &&crate::host::Address| {
            a.port.index() == port && a.prefix.length() < prefix::bits(&a.prefix.address())
        };
        state?.addresses.iter().filter(mine).find_map(|a| family(a.prefix.address()))
    })
}

/// All neighbours that are known; a configured one replaces the kernel's.
#[must_use]
pub fn neighbours(config: &Config, state: Option<&NetState>) -> Vec<Neighbour> {
    let configured: Vec<Neighbour> = config
        .neighbours
        .iter()
        .map(|n| Neighbour { port: n.port, address: n.address, mac: Some(n.mac) })
        .collect();
    let known = state.iter().flat_map(|s| s.neighbours.iter());
    let kernel = known
        .map(|n| Neighbour { port: n.port, address: n.address, mac: n.mac() })
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
        let via = |a: [u8; 4]| table.lookup(a.into()).map(|r| r.via[0]);
        assert_eq!(via([192, 168, 80, 7]).unwrap().gateway, None);
        assert_eq!(via([8, 8, 8, 8]).unwrap().gateway, Some([192, 168, 80, 1].into()));
        assert_eq!(table.port(PortId(0)).unwrap().address, Some([192, 168, 80, 4].into()));
        assert_eq!(neighbours(&config, None).len(), 1);
    }

    #[test]
    fn a_port_answers_from_an_address_that_it_has() {
        let config = Config::parse(TOML, Path::new("t")).unwrap();
        let at = |addresses: &[&str]| {
            let of = |a: &&str| crate::host::Address { port: PortId(0), prefix: a.parse().unwrap() };
            let addresses = addresses.iter().map(of).collect::<Vec<_>>().into();
            let state = NetState { addresses, ..NetState::default() };
            table(&config, &links(), Some(&state)).port(PortId(0)).unwrap().address
        };
        assert_eq!(at(&["192.168.80.3/24", "192.168.80.4/24"]), Some([192, 168, 80, 4].into()), "configured");
        assert_eq!(at(&["192.168.80.3/24"]), Some([192, 168, 80, 3].into()));
        assert_eq!(at(&["192.168.80.50/32"]), None, "a service's or SNAT's");
        assert_eq!(at(&[]), None);
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
