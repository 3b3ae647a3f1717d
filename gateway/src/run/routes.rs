//! Gives the path its routes and neighbours: those of the kernel and the configured ones.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crate::{
    config::{self, Config},
    host::{NetState, RouteAction},
    io::PortId,
    net::ethernet::Mac,
    path::flow::route::{Neighbour, PortFacts, Route, RouteTable, Routes, Table, Via},
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

/// What is new for the path.
#[derive(Debug, Default)]
pub struct Picture {
    /// The route table, if it has changed.
    pub table: Option<Arc<RouteTable>>,
    /// Neighbours that have changed, those that disappeared included.
    pub neighbours: Vec<Neighbour>,
    /// The kernel's state, if there is a kernel.
    pub state: Option<Arc<NetState>>,
}

/// Makes the path's tables of the configuration and the kernel's state, as it changes.
pub struct RoutingTables {
    config: Config,
    links: Vec<PortLink>,
    routes: Routes,
    state: Option<Arc<NetState>>,
    neighbours: HashMap<(PortId, IpAddr), Option<Mac>>,
}

impl RoutingTables {
    /// Of these ports, with nothing of the kernel's yet.
    #[must_use]
    pub fn new(config: &Config, links: &[PortLink]) -> Self {
        let routes: Vec<Route> = config.routes.iter().map(configured).collect();
        let routes = with_filters(Routes::new(&routes), config);
        let (config, links) = (config.clone(), links.to_vec());
        Self { config, links, routes, state: None, neighbours: HashMap::new() }
    }

    /// What the path gets without a kernel (`host = false`).
    #[must_use]
    pub fn without_kernel(&mut self) -> Picture {
        let routes: Vec<Route> =
            self.config.routes.iter().map(configured).chain(attached(&self.config)).collect();
        self.routes = with_filters(Routes::new(&routes), &self.config);
        self.set_ports(None);
        let neighbours = self.changed_neighbours(None);
        Picture { table: Some(self.routes.publish()), neighbours, state: None }
    }

    /// What is new in `state`, which comes after the one of the last call.
    #[must_use]
    pub fn update(&mut self, state: &Arc<NetState>) -> Picture {
        let old = self.state.replace(Arc::clone(state));
        let mut changed = self.take_routes(old.as_deref().unwrap_or(&NetState::default()), state);
        let same = |old: &Arc<NetState>| {
            Arc::ptr_eq(&old.addresses, &state.addresses) && Arc::ptr_eq(&old.elsewhere, &state.elsewhere)
        };
        if !old.as_ref().is_some_and(same) {
            self.set_ports(Some(state));
            changed = true;
        }
        let neighbours = match old.is_some_and(|old| Arc::ptr_eq(&old.neighbours, &state.neighbours)) {
            true => Vec::new(),
            false => self.changed_neighbours(Some(state)),
        };
        let table = changed.then(|| self.routes.publish());
        Picture { table, neighbours, state: Some(Arc::clone(state)) }
    }

    /// Takes over routes that aren't what they were; whether there are any.
    fn take_routes(&mut self, old: &NetState, new: &NetState) -> bool {
        let mut routes = Vec::new();
        new.routes.changes(&old.routes, |to, route| routes.push((Table::Main, *to, route.cloned())));
        new.other_routes
            .changes(&old.other_routes, |(table, to), route| routes.push((*table, *to, route.cloned())));
        let mut changed = false;
        for (table, to, route) in routes {
            if table != Table::Main || !self.is_configured(&to.address(), to.length()) {
                let route = route.as_ref().map(kernel);
                changed |= self.routes.set_in(table, to.address(), to.length(), route.as_ref());
            }
        }
        changed
    }

    /// A configured route wins over all others to the same network.
    fn is_configured(&self, network: &IpAddr, prefix: u8) -> bool {
        self.config.routes.iter().any(|r| r.to.length() == prefix && r.to.network().address() == *network)
    }

    fn set_ports(&mut self, state: Option<&NetState>) {
        let Self { config, links, routes, .. } = self;
        let facts = links.iter().enumerate().map(|(n, link)| PortFacts {
            mac: link.mac,
            mtu: link.mtu,
            address: own_address(config, state, n, v4),
            address_v6: own_address(config, state, n, v6),
        });
        let configured = config.ports.iter().flat_map(|port| &port.addresses);
        let kernel = state.iter().flat_map(|state| state.addresses.iter()).map(|a| &a.prefix);
        let own = configured.chain(kernel);
        let broadcast = own.clone().filter_map(Prefix::broadcast);
        let elsewhere = state.iter().flat_map(|state| state.elsewhere.iter().copied());
        routes.set_ports(facts.collect(), own.map(Prefix::address).chain(elsewhere), broadcast);
    }

    /// Neighbours whose state isn't what it was, those that disappeared included.
    fn changed_neighbours(&mut self, state: Option<&NetState>) -> Vec<Neighbour> {
        let now = neighbours(&self.config, state);
        let now: HashMap<_, _> = now.into_iter().map(|n| ((n.port, n.address), n.mac)).collect();
        let neighbour =
            |(port, address): &(PortId, IpAddr), mac| Neighbour { port: *port, address: *address, mac };
        let new = now.iter().filter(|(key, mac)| self.neighbours.get(key) != Some(mac));
        let gone = self.neighbours.keys().filter(|key| !now.contains_key(key));
        let changed = new.map(|(key, mac)| neighbour(key, *mac)).chain(gone.map(|key| neighbour(key, None)));
        let changed = changed.collect();
        self.neighbours = now;
        changed
    }
}

/// A route of the kernel's as the path has it.
fn kernel(route: &crate::host::KernelRoute) -> Route {
    let via = match &route.action {
        RouteAction::Forward(hops) => {
            hops.iter().map(|h| Via { port: h.port, gateway: h.gateway, weight: h.weight.max(1) }).collect()
        }
        RouteAction::Blackhole | RouteAction::Unreachable | RouteAction::Prohibit => Arc::default(),
        RouteAction::Elsewhere(_) => [Via::ELSEWHERE].into(),
    };
    let mtu = route.mtu.and_then(|m| u16::try_from(m).ok());
    Route { metric: route.metric, mtu, ..to(&route.to, via) }
}

fn with_filters(routes: Routes, config: &Config) -> Routes {
    routes.with_rp_filters(config.ports.iter().map(|port| port.rp_filter).collect())
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// A global address: link-local ones don't work for hosts further away.
fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) if !address.is_unicast_link_local() => Some(address),
        _ => None,
    }
}

fn to(to: &Prefix, via: Arc<[Via]>) -> Route {
    Route { network: to.network().address(), prefix: to.length(), via, metric: 0, mtu: None }
}

fn configured(route: &config::ConfiguredRoute) -> Route {
    let via = [Via { port: route.port, gateway: route.via, weight: 1 }].into();
    Route { mtu: route.mtu, ..to(&route.to, via) }
}

/// Without a kernel beside it, the path knows the networks of the ports' own addresses.
fn attached(config: &Config) -> impl Iterator<Item = Route> {
    config.ports.iter().enumerate().flat_map(|(n, port)| {
        port.addresses.iter().map(move |address| {
            to(&address.network(), [Via { port: PortId(n as u8), gateway: None, weight: 1 }].into())
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
        let mine = |a: &&crate::host::KernelAddress| {
            a.port.index() == port && a.prefix.length() < prefix::bits(&a.prefix.address())
        };
        state?.addresses.iter().filter(mine).find_map(|a| family(a.prefix.address()))
    })
}

/// All neighbours that are known; a configured one replaces the kernel's.
fn neighbours(config: &Config, state: Option<&NetState>) -> Vec<Neighbour> {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        host::{KernelPorts, NextHop, Reachability},
        path::flow::route::Changes,
    };

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
        mtu = 1400
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
        let picture = RoutingTables::new(&config, &links()).without_kernel();
        let table = picture.table.unwrap();
        let via = |a: [u8; 4]| table.lookup(a.into()).map(|r| r.via[0]);
        assert_eq!(via([192, 168, 80, 7]).unwrap().gateway, None);
        assert_eq!(via([8, 8, 8, 8]).unwrap().gateway, Some([192, 168, 80, 1].into()));
        assert_eq!(table.lookup([8, 8, 8, 8].into()).unwrap().mtu, Some(1400));
        assert_eq!(table.port(PortId(0)).unwrap().address, Some([192, 168, 80, 4].into()));
        assert_eq!(picture.neighbours.len(), 1);
    }

    fn route(to: &str, last: u8) -> crate::host::KernelRoute {
        let hop = NextHop { port: PortId(1), gateway: Some([10, 0, 0, last].into()), weight: 1 };
        crate::host::KernelRoute {
            table: Table::Main,
            to: to.parse().unwrap(),
            metric: 9,
            mtu: None,
            action: RouteAction::Forward([hop].into()),
        }
    }

    #[test]
    fn a_port_answers_from_an_address_that_it_has() {
        let config = Config::parse(TOML, Path::new("t")).unwrap();
        let at = |addresses: &[&str]| {
            let of = |a: &&str| crate::host::KernelAddress { port: PortId(0), prefix: a.parse().unwrap() };
            let addresses = addresses.iter().map(of).collect::<Vec<_>>().into();
            let state = NetState { addresses, ..NetState::default() };
            let table = RoutingTables::new(&config, &links()).update(&Arc::new(state)).table;
            table.unwrap().port(PortId(0)).unwrap().address
        };
        assert_eq!(at(&["192.168.80.3/24", "192.168.80.4/24"]), Some([192, 168, 80, 4].into()), "configured");
        assert_eq!(at(&["192.168.80.3/24"]), Some([192, 168, 80, 3].into()));
        assert_eq!(at(&["192.168.80.50/32"]), None, "a service's or SNAT's");
        assert_eq!(at(&[]), None);
    }

    #[test]
    fn only_what_changes_is_passed_on() {
        let config = Config::parse(TOML, Path::new("t")).unwrap();
        let mut tables = RoutingTables::new(&config, &links());
        let mut state = NetState::default();
        for r in [route("0.0.0.0/0", 1), route("10.1.0.0/16", 1), route("10.2.0.0/16", 1)] {
            state.routes.set(r.to, Some(r));
        }
        let first = tables.update(&Arc::new(state.clone())).table.unwrap();
        let gateway = |table: &RouteTable, a: [u8; 4]| table.lookup(a.into()).and_then(|r| r.via[0].gateway);
        assert_eq!(gateway(&first, [8, 8, 8, 8]), Some([192, 168, 80, 1].into()), "the configured one");
        assert_eq!(gateway(&first, [10, 1, 0, 1]), Some([10, 0, 0, 1].into()));

        let neighbour = |last, mac: Option<u8>| crate::host::KernelNeighbour {
            port: PortId(1),
            address: [10, 0, 0, last].into(),
            reachability: mac.map_or(Reachability::Failed, |m| Reachability::Usable(Mac([2, 0, 0, 0, 0, m]))),
        };
        let told = |picture: &Picture| {
            let mut all: Vec<_> =
                picture.neighbours.iter().map(|n| (n.address, n.mac.map(|m| m.0[5]))).collect();
            all.sort();
            all
        };
        let address = |last| IpAddr::from([10, 0, 0, last]);
        state.neighbours = [neighbour(1, Some(1)), neighbour(2, Some(2)), neighbour(3, None)].into();
        let picture = tables.update(&Arc::new(state.clone()));
        assert!(picture.table.is_none(), "a neighbour is no reason for another table");
        assert_eq!(told(&picture), [(address(1), Some(1)), (address(2), Some(2)), (address(3), None)]);
        state.neighbours = [neighbour(1, Some(1)), neighbour(2, Some(9)), neighbour(4, Some(4))].into();
        let picture = tables.update(&Arc::new(state.clone()));
        assert_eq!(told(&picture), [(address(2), Some(9)), (address(3), None), (address(4), Some(4))]);

        state.routes.set("10.1.0.0/16".parse().unwrap(), Some(route("10.1.0.0/16", 7)));
        state.routes.set("10.2.0.0/16".parse().unwrap(), None);
        let picture = tables.update(&Arc::new(state.clone()));
        let second = picture.table.unwrap();
        let Changes::Networks(mut changed) = second.changes_since(&first).clone() else {
            panic!("all of it")
        };
        changed.sort();
        assert_eq!(changed, [([10, 1, 0, 0].into(), 16), ([10, 2, 0, 0].into(), 16)]);
        assert_eq!(gateway(&second, [10, 1, 0, 1]), Some([10, 0, 0, 7].into()));
        assert_eq!(gateway(&second, [10, 2, 0, 1]), Some([192, 168, 80, 1].into()));
        assert!(picture.neighbours.is_empty());
        state.kernel_ports = Arc::new(KernelPorts { tcp: vec![8080], ..KernelPorts::default() });
        let picture = tables.update(&Arc::new(state.clone()));
        assert!(picture.table.is_none() && picture.neighbours.is_empty());
        assert_eq!(picture.state.unwrap().kernel_ports.tcp, [8080]);
    }
}
