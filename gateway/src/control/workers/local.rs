//! Servers at the gateway's own addresses, as workers see them.
//!
//! As ipvsadm(8) has it they are reached locally, whatever their forwarding method. Workers deliver what has no next
//! hop to the kernel (`path/egress/local.rs`); this file makes sure that such servers have none, and that a session
//! with one keeps the client's address, since the kernel takes no packet from an address of its own: FULLNAT is NAT
//! there.
//!
//! The kernel takes no packet to a loopback address by a twin either (RFC 1122 3.2.1.3, RFC 4291 2.5.3), and there is no
//! other family's packet without another client's address: NAT to such servers leads to the virtual address, if the gateway
//! has it, else to a port's own.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use weir_api::model::{self, ClientAddress, Forwarding, ServiceKey};

use super::{Workers, warnings::some};
use crate::{
    control::change::ServiceState,
    path::{
        admin::update::{Batch, Update},
        flow::route::RouteTable,
    },
};

/// How workers reach a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// The forwarding method that they apply.
    pub forwarding: Forwarding,
    /// The address that they send to.
    pub address: IpAddr,
    /// It is the gateway's own.
    pub here: bool,
}

impl Reach {
    /// Whether replies are NAT's.
    pub fn is_nat(self) -> bool {
        self.forwarding == Forwarding::Nat
    }
}

impl Workers {
    /// How workers reach the service's servers, in their order.
    pub(super) fn reaches(&self, state: &ServiceState) -> Vec<Reach> {
        state.servers.iter().map(|(_, server)| self.reach(&state.service, server)).collect()
    }

    fn reach(&self, service: &model::Service, server: &model::Server) -> Reach {
        let model::Server { forwarding, address, port, .. } = *server;
        let configured = Reach { forwarding, address, here: self.routes.is_here(address) };
        if !configured.here || !matches!(forwarding, Forwarding::Nat | Forwarding::FullNat) {
            return configured;
        }
        let (virtual_, virtual_port, is_v6) = match service.key {
            ServiceKey::Address { address, port, .. } => (Some(address), port, address.is_ipv6()),
            ServiceKey::Mark { family, .. } => (None, 0, family == model::Family::V6),
        };
        // A datagram without session has no translated reply: where the port stays, nothing has to be translated.
        let once = service.one_packet && (port == 0 || port == virtual_port);
        if once && forwarding == Forwarding::FullNat {
            return Reach { forwarding: Forwarding::Route, ..configured };
        }
        let nat = Reach { forwarding: Forwarding::Nat, ..configured };
        if !address.is_loopback() && address.is_ipv6() == is_v6 {
            return nat;
        }
        let held = virtual_.filter(|address| self.routes.is_own(*address));
        let ports = || (0..self.ports.len() as u8).filter_map(|n| self.routes.port(crate::io::PortId(n)));
        let of_port = || match is_v6 {
            true => ports().find_map(|port| port.address_v6.map(IpAddr::V6)),
            false => ports().find_map(|port| port.address.map(IpAddr::V4)),
        };
        match held.or_else(of_port).or(virtual_) {
            Some(address) => Reach { address, ..nat },
            None => configured,
        }
    }

    /// The gateway has other addresses than before: servers there are reached otherwise, and sessions whose client was
    /// hidden from them, or is from now on, are over.
    pub(super) fn follow_own(&mut self) {
        let others = self.services.values().filter(|c| c.reach != self.reaches(&c.state));
        let others: Vec<ServiceState> = others.map(|c| c.state.clone()).collect();
        if !others.is_empty() {
            let mut batches: Vec<Batch> = self.links.iter().map(|_| Batch::new()).collect();
            for state in others {
                self.end_unreached(&state, &mut batches);
                self.set_service(state, &mut batches);
            }
            let lookup = Arc::new(self.lookup());
            batches.iter_mut().for_each(|batch| batch.push(Update::Lookup(Arc::clone(&lookup))));
            self.send_each(batches.into_iter());
        }
        self.renew_here();
    }

    fn end_unreached(&self, state: &ServiceState, batches: &mut [Batch]) {
        let before = self.services.get(&state.id).map_or(&[][..], |c| c.reach.as_slice());
        for ((id, _), (old, new)) in state.servers.iter().zip(before.iter().zip(self.reaches(state))) {
            if old.forwarding != new.forwarding {
                batches.iter_mut().for_each(|batch| batch.push(Update::EndSessions(id.slot())));
            }
        }
    }

    /// Warnings about servers on the gateway itself.
    pub fn warnings_of_local(&self, has_kernel: bool) -> Vec<String> {
        lacking(self.services.values().map(|c| (&c.state, c.reach.as_slice())), has_kernel)
    }

    /// Makes sure that no route leads to servers on the gateway itself.
    pub(super) fn renew_here(&mut self) {
        let reached = self.services.values().flat_map(|c| &c.reach).filter(|reach| reach.here);
        let here: BTreeSet<IpAddr> = reached.map(|reach| reach.address).collect();
        if here != self.here {
            self.here = here;
            self.send_routes();
        }
    }

    /// Tells the workers of the routes.
    pub(super) fn send_routes(&mut self) {
        let table = match self.here.is_empty() {
            true => Arc::clone(&self.routes),
            false => Arc::new(RouteTable::clone(&self.routes).without(&self.here)),
        };
        self.send_all(|_| vec![Update::Routes(Arc::clone(&table))]);
    }
}

/// Servers on the gateway itself that lack something: a kernel beside the gateway, or the PROXY header that others
/// get.
fn lacking<'a>(
    services: impl Iterator<Item = (&'a ServiceState, &'a [Reach])>,
    has_kernel: bool,
) -> Vec<String> {
    let mut cut_off = BTreeSet::new();
    let mut without_header = BTreeSet::new();
    for (state, reach) in services {
        let proxied = matches!(state.client_address, ClientAddress::ProxyV1 | ClientAddress::ProxyV2);
        let servers = state.servers.iter().zip(reach).filter(|(_, reach)| reach.here);
        for server in servers.map(|((_, server), _)| server) {
            cut_off.extend((!has_kernel).then_some(server.address));
            let tells = proxied && server.forwarding == Forwarding::FullNat;
            without_header.extend(tells.then_some(server.address));
        }
    }
    let warning = |servers: BTreeSet<IpAddr>, what: &str| {
        (!servers.is_empty()).then(|| format!("servers on the gateway itself {what}: {}", some(servers)))
    };
    let cut_off = warning(cut_off, "are unreachable with host = false");
    cut_off.into_iter().chain(warning(without_header, "get no PROXY header")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ServerId, ServiceId};

    #[test]
    fn warnings_name_servers_on_the_gateway() {
        let server = |address: &str| model::Server {
            address: address.parse().unwrap(),
            port: 80,
            forwarding: Forwarding::FullNat,
            weight: 1,
            upper: 0,
            lower: 0,
        };
        let key = ServiceKey::Mark { mark: 1, family: model::Family::V4 };
        let service = model::Service {
            key,
            scheduler: "rr".into(),
            scheduler_flags: 0,
            persistent: None,
            netmask: u32::MAX,
            one_packet: false,
            engine: None,
        };
        let servers = ["10.0.0.1", "127.0.0.1"].map(|address| (ServerId(0), server(address)));
        let reach = servers.iter().map(|(_, s)| Reach {
            forwarding: Forwarding::Nat,
            address: s.address,
            here: s.address.is_loopback(),
        });
        let reach: Vec<_> = reach.collect();
        let mut state = ServiceState {
            id: ServiceId(0),
            service,
            servers: servers.into(),
            local_addresses: Vec::new(),
            client_address: ClientAddress::None,
        };
        let told = |state: &ServiceState, has_kernel| {
            lacking(std::iter::once((state, reach.as_slice())), has_kernel)
        };
        assert!(told(&state, true).is_empty());
        state.client_address = ClientAddress::ProxyV2;
        assert_eq!(told(&state, true), ["servers on the gateway itself get no PROXY header: 127.0.0.1"]);
        assert_eq!(told(&state, false).len(), 2);
    }
}
