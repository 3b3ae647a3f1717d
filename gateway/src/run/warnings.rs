//! Warnings for the operator about the machine and the kernel: one sentence per kind of trouble, with names.
//! [`Workers::warnings`](crate::control::workers::Workers::warnings) has the rest.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use weir_api::model::{Server, ServiceKey};

use crate::{
    control::{change::ServiceState, workers::warnings::some},
    host::NetState,
    io::PortId,
    path::flow::route::RouteTable,
};

/// Why there are no huge pages, as a warning.
pub(super) fn no_huge_pages(why: &str) -> String {
    format!("no huge pages ({why}): every packet takes longer than it should")
}

/// Virtual addresses in the ports' networks that the kernel has nowhere: nobody answers ARP for them. Where VRRP is heard
/// that is as it should be, on the backup.
pub(super) fn absent<'a>(
    services: impl Iterator<Item = &'a ServiceState>,
    state: &NetState,
    vrrp: bool,
) -> Option<String> {
    if vrrp {
        return None;
    }
    let virtual_: BTreeSet<IpAddr> = services
        .filter_map(|s| match s.service.key {
            ServiceKey::Address { address, .. } => Some(address),
            ServiceKey::Mark { .. } => None,
        })
        .filter(|address| !state.is_anywhere(*address) && state.is_attached(*address))
        .collect();
    (!virtual_.is_empty()).then(|| {
        format!("virtual addresses on no interface, so nobody answers ARP for them: {}", some(virtual_))
    })
}

/// Servers, by address and port, and the ports and next hops by which they can't be reached.
pub(super) type Silent = BTreeSet<(IpAddr, u16, PortId, IpAddr)>;

/// Servers with a weight whose next hop isn't `known` and has been asked for in vain, or can't be.
pub(super) fn silent<'a>(
    services: impl Iterator<Item = &'a ServiceState>,
    routes: &RouteTable,
    state: Option<&NetState>,
    known: impl Fn(PortId, IpAddr) -> bool,
) -> Silent {
    let mut found = BTreeSet::new();
    if state.is_some_and(|state| state.neighbours.iter().all(|n| n.mac().is_some())) {
        return found;
    }
    let silent = |server: &Server| {
        let (port, hop) = routes.way(server.address).filter(|_| server.weight > 0)?;
        let asked = state.is_none_or(|s| s.neighbour(port, hop).is_some_and(|n| n.mac().is_none()));
        (asked && !known(port, hop)).then_some((port, hop))
    };
    for service in services {
        for (_, server) in &service.servers {
            if let Some((port, hop)) = silent(server) {
                found.insert((server.address, server.port, port, hop));
            }
        }
    }
    found
}

/// That there are such servers.
pub(super) fn unresolved(found: &Silent, ports: &[String]) -> Option<String> {
    let each = found.iter().map(|(address, number, port, hop)| {
        let server = SocketAddr::new(*address, *number);
        let port = ports.get(port.index()).map_or("?", String::as_str);
        if hop == address { format!("{server} on {port}") } else { format!("{server} by {hop} on {port}") }
    });
    (!found.is_empty())
        .then(|| format!("servers whose next hop doesn't answer ARP or neighbour discovery: {}", some(each)))
}

#[cfg(test)]
mod tests {
    use weir_api::model::{ClientAddress, Forwarding, Protocol, Service};

    use super::*;
    use crate::{
        host::{KernelAddress, KernelNeighbour, Reachability},
        id::{ServerId, ServiceId},
        mac::Mac,
        path::flow::route::{Route, Via},
    };

    const LAN: PortId = PortId(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn service(vip: &str, servers: &[(&str, u32)]) -> ServiceState {
        let server = |(address, weight): &(&str, u32)| Server {
            address: ip(address),
            port: 80,
            forwarding: Forwarding::Nat,
            weight: *weight,
            upper: 0,
            lower: 0,
        };
        let servers = (0..).zip(servers).map(|(n, of)| (ServerId(n), server(of)));
        ServiceState {
            id: ServiceId(0),
            service: Service {
                key: ServiceKey::Address { protocol: Protocol::Tcp, address: ip(vip), port: 80 },
                scheduler: "rr".into(),
                scheduler_flags: 0,
                persistent: None,
                netmask: u32::MAX,
                one_packet: false,
                engine: None,
            },
            servers: servers.collect(),
            local_addresses: Vec::new(),
            client_address: ClientAddress::None,
        }
    }

    fn state(elsewhere: &[&str], neighbours: &[(&str, Reachability)]) -> NetState {
        let neighbours = neighbours.iter().map(|(address, reachability)| KernelNeighbour {
            port: LAN,
            address: ip(address),
            reachability: *reachability,
        });
        let address = |text: &str| KernelAddress { port: PortId(0), prefix: text.parse().unwrap() };
        NetState {
            addresses: [address("192.0.2.1/24"), address("192.0.2.11/32")].into(),
            elsewhere: elsewhere.iter().map(|text| ip(text)).collect(),
            neighbours: neighbours.collect(),
            ..NetState::default()
        }
    }

    #[test]
    fn a_virtual_address_may_be_on_lo_or_the_masters_or_routed_here() {
        let services = ["192.0.2.10", "192.0.2.11", "198.51.100.1"].map(|vip| service(vip, &[]));
        let warning = absent(services.iter(), &state(&[], &[]), false).unwrap();
        assert!(warning.ends_with(": 192.0.2.10"), "{warning}");
        assert_eq!(absent(services.iter(), &state(&["127.0.0.1", "192.0.2.10"], &[]), false), None);
        assert_eq!(absent(services.iter(), &state(&[], &[]), true), None);
    }

    #[test]
    fn neighbours_of_servers_are_named_once_they_were_asked_for_in_vain() {
        let route = |network: &str, gateway: Option<&str>| Route {
            network: ip(network),
            prefix: 24,
            via: [Via { port: LAN, gateway: gateway.map(ip), weight: 1 }].into(),
            metric: 0,
            mtu: None,
        };
        let routes = vec![route("10.0.0.0", None), route("10.9.0.0", Some("10.0.0.254"))];
        let table = RouteTable::new(&routes, Vec::new());
        let ports = ["wan".to_owned(), "lan".to_owned()];
        let services = [service("192.0.2.10", &[("10.0.0.1", 1), ("10.0.0.2", 0), ("10.9.0.1", 1)])];
        let told = |state: Option<&NetState>, known: &[&str]| {
            let known = |_, address| known.iter().any(|k| ip(k) == address);
            unresolved(&silent(services.iter(), &table, state, known), &ports)
        };
        let mac = Reachability::Usable(Mac([2; 6]));
        let failed = Reachability::Failed;
        // No neighbour asked for; all answer; one without traffic doesn't.
        assert_eq!(told(Some(&state(&[], &[])), &[]), None);
        assert_eq!(told(Some(&state(&[], &[("10.0.0.1", mac), ("10.0.0.254", mac)])), &[]), None);
        assert_eq!(told(Some(&state(&[], &[("10.0.0.2", failed)])), &[]), None);
        for of in [failed, Reachability::Pending] {
            let warning = told(Some(&state(&[], &[("10.0.0.1", of), ("10.0.0.254", of)])), &[]).unwrap();
            let both = ": 10.0.0.1:80 on lan, 10.9.0.1:80 by 10.0.0.254 on lan";
            assert!(warning.ends_with(both), "{warning}");
            // weir.toml may know better than the kernel.
            let static_ = told(Some(&state(&[], &[("10.0.0.1", of)])), &["10.0.0.1"]);
            assert_eq!(static_, None);
        }
        // Without a kernel beside the workers nobody can be asked.
        assert_eq!(told(None, &["10.0.0.1", "10.0.0.254"]), None);
        assert!(told(None, &["10.0.0.254"]).unwrap().ends_with(": 10.0.0.1:80 on lan"));
    }
}
