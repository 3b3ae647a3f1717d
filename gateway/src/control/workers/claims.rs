//! The addresses and ports that the path claims, built from all services whenever one of them changes that.

use std::{net::IpAddr, sync::Arc};

use weir_api::model::{self, Forwarding, ServiceKey};

use super::{Configured, Workers, local::Reach, owners};
use crate::{
    control::change::{PlaneChange, ServiceState},
    id::ServerId,
    net::protocol,
    path::flow::{mark, owner::OwnedBy, persist, service::Lookup},
};

/// A NAT server that is configured or that sessions refer to.
pub(super) struct NatServer {
    /// One protocol, or those that marks are given to.
    pub(super) protocols: Vec<u8>,
    pub(super) address: IpAddr,
    /// The address that it was configured with.
    listed: IpAddr,
    /// 0: every port.
    pub(super) port: u16,
    /// The service that has or had it, and the way of that: once the service is gone, of the sessions that are left.
    pub(super) service: ServiceKey,
    pub(super) way: OwnedBy,
    /// It is one of the gateway itself.
    here: bool,
}

impl Workers {
    /// Remembers whose replies may be NAT's. Returns whether there are any.
    pub(super) fn note_nat_servers(&mut self, state: &ServiceState, reach: &[Reach]) -> bool {
        let service = &state.service;
        let protocols = match service.key {
            ServiceKey::Address { protocol, .. } => vec![protocol as u8],
            ServiceKey::Mark { .. } => vec![protocol::TCP, protocol::UDP, protocol::SCTP],
        };
        let way = owners::way_of(service, true);
        // A persistent service of several ports leaves clients theirs.
        let several = match service.key {
            ServiceKey::Address { port, .. } => port == 0 || port == persist::FTP,
            ServiceKey::Mark { .. } => true,
        };
        let every_port = several && service.persistent.is_some();
        let mut any = false;
        for ((id, server), reach) in state.servers.iter().zip(reach) {
            if reach.is_nat() {
                any = true;
                let (protocols, Reach { address, here, .. }) = (protocols.clone(), *reach);
                let (listed, port) = (server.address, if every_port { 0 } else { server.port });
                let service = service.key;
                let server = NatServer { protocols, address, listed, port, service, way, here };
                self.nat_servers.insert(*id, server);
            }
        }
        any
    }

    /// Keeps the servers' addresses: a copy of them is made only where one comes or goes, so that a weight costs nothing.
    pub(super) fn note_server_addresses(&mut self, change: &PlaneChange) {
        let (id, new) = match change {
            PlaneChange::SetService(state) => (state.id, state.servers.as_slice()),
            PlaneChange::RemoveService(id) => (*id, &[][..]),
            _ => return,
        };
        let old = self.services.get(&id).map_or(&[][..], |c| c.state.servers.as_slice());
        let of = |(_, server): &(ServerId, model::Server)| server.address;
        if old.iter().map(of).eq(new.iter().map(of)) {
            return;
        }
        let addresses = Arc::make_mut(&mut self.server_addresses);
        for address in new.iter().map(of) {
            *addresses.entry(address).or_default() += 1;
        }
        for address in old.iter().map(of) {
            if let Some(servers) = addresses.get_mut(&address) {
                *servers -= 1;
                if *servers == 0 {
                    addresses.remove(&address);
                }
            }
        }
    }

    /// Whether the path claims something else after this change: what [`Workers::lookup`] reads.
    pub(super) fn changes_claims(&self, change: &PlaneChange) -> bool {
        fn nat(state: &ServiceState, reach: &[Reach]) -> impl Iterator<Item = (Reach, IpAddr, u16)> {
            let servers = reach.iter().zip(&state.servers).filter(|(reach, _)| reach.is_nat());
            servers.map(|(reach, (_, server))| (*reach, server.address, server.port))
        }
        fn tunnels(state: &ServiceState) -> impl Iterator<Item = IpAddr> {
            let tunnels = state.servers.iter().filter(|(_, s)| matches!(s.forwarding, Forwarding::Tunnel(_)));
            tunnels.map(|(_, s)| s.address)
        }
        match change {
            PlaneChange::RemoveService(_) | PlaneChange::Marks(_) | PlaneChange::DefaultLocalAddresses(_) => {
                true
            }
            PlaneChange::Forget(id) => self.nat_servers.contains_key(&id.server()),
            PlaneChange::Settings(_) | PlaneChange::Snat(_) => false,
            PlaneChange::SetService(new) => {
                self.services.get(&new.id).is_none_or(|Configured { state: old, reach, .. }| {
                    old.service.key != new.service.key
                        || old.service.persistent.is_some() != new.service.persistent.is_some()
                        || old.service.netmask != new.service.netmask
                        || old.local_addresses != new.local_addresses
                        || nat(old, reach).ne(nat(new, &self.reaches(new)))
                        || tunnels(old).ne(tunnels(new))
                })
            }
        }
    }

    /// What the path claims, from all services.
    pub(super) fn lookup(&mut self) -> Lookup {
        let mut lookup = Lookup::default();
        self.renew_owners();
        for state in self.services.values().map(|c| &c.state) {
            match state.service.key {
                ServiceKey::Address { protocol, address, port } => {
                    let protocol = protocol as u8;
                    lookup.add_service(protocol, address, port, state.id);
                    if port == persist::FTP && state.service.persistent.is_some() {
                        lookup.add_ftp(address, state.id);
                    }
                }
                ServiceKey::Mark { mark, family } => lookup.add_mark_service(mark, family, state.id),
            }
            state.local_addresses.iter().for_each(|l| lookup.add_local(l.address));
            for (id, server) in &state.servers {
                if let (Forwarding::Tunnel(_), Some(of)) = (server.forwarding, self.slots.get(&id.slot())) {
                    of.iter().for_each(|slot| lookup.add_tunnel(server.address, &slot.others));
                }
            }
        }
        self.default_local_addresses.iter().for_each(|address| lookup.add_local(*address));
        for (id, ways) in self.owners.services() {
            lookup.set_ways(id, ways);
        }
        for (id, server) in &self.nat_servers {
            for protocol in &server.protocols {
                for way in self.owners.of_replies(&server.service, server.way) {
                    lookup.add_nat_server(*protocol, server.address, server.port, way);
                }
            }
            if server.here {
                lookup.add_here(server.address, (*id, server.listed));
            }
        }
        lookup.join_nat_servers();
        let marks = self.marks.iter().filter_map(|rule| mark::WorkerMarkRule::new(rule, &self.ports));
        lookup.set_marks(marks, self.routes.broadcast());
        lookup
    }
}
