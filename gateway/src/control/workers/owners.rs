//! How each service's packets are assigned to workers; [`crate::path::flow::owner`] explains why.
//!
//! Services that share a NAT server get one way in common. Whenever a service's way changes, the former one is remembered
//! for the sessions that are there; without sessions there is nothing to remember. A service that is deleted is remembered as
//! long as well: added again it finds its sessions, as in IPVS.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use weir_api::model::{self, ServiceKey};

use super::{Configured, Workers};
use crate::{
    control::change::ServiceState,
    id::{ServerId, ServiceId},
    path::flow::owner::{MOST, OwnedBy, Ways},
};

/// The way of a service by itself; `nat` if it has, or has had, NAT servers.
pub(super) fn way_of(service: &model::Service, nat: bool) -> OwnedBy {
    match service.persistent {
        Some(_) => OwnedBy::Network(service.netmask),
        None if nat => OwnedBy::Client,
        None => OwnedBy::Queue,
    }
}

/// A way that brings together what either does.
fn coarser(one: OwnedBy, other: OwnedBy, ipv6: bool) -> OwnedBy {
    match (one, other) {
        (OwnedBy::Network(a), OwnedBy::Network(b)) if ipv6 => OwnedBy::Network(a.min(b)),
        (OwnedBy::Network(a), OwnedBy::Network(b)) => OwnedBy::Network(a & b),
        (network @ OwnedBy::Network(_), _) | (_, network) => network,
    }
}

/// The state of a service.
#[derive(Default)]
struct Of {
    /// The present way is the last.
    ways: Ways,
    /// Servers that may have sessions.
    servers: BTreeSet<ServerId>,
    /// Its number, while it is configured.
    id: Option<ServiceId>,
}

/// The ways of all services.
#[derive(Default)]
pub(super) struct Owners(HashMap<ServiceKey, Of>);

impl Owners {
    /// Those of services whose packets don't simply belong to whom the NIC brings them.
    pub fn services(&self) -> impl Iterator<Item = (ServiceId, Ways)> {
        let usual = |ways: &Ways| ways.as_slice() == [OwnedBy::Queue];
        self.0.values().filter(move |of| !usual(&of.ways)).filter_map(|of| Some((of.id?, of.ways.clone())))
    }

    /// By what replies of a service's NAT server belong to workers, the present way first; `own` is the server's.
    pub fn of_replies(&self, service: &ServiceKey, own: OwnedBy) -> impl Iterator<Item = OwnedBy> {
        let ways = self.0.get(service).map_or(&[][..], |of| of.ways.as_slice());
        ways.iter().rev().copied().chain([own])
    }

    /// Remembers the servers of a service.
    pub fn note(&mut self, state: &ServiceState) {
        let of = self.0.entry(state.service.key).or_default();
        of.servers.extend(state.servers.iter().map(|(id, _)| *id));
    }

    fn renew(&mut self, state: &ServiceState, way: OwnedBy, busy: impl Fn(ServerId) -> bool) {
        let of = self.0.entry(state.service.key).or_default();
        of.id = Some(state.id);
        of.servers.retain(|server| busy(*server));
        if of.servers.is_empty() {
            of.ways.clear();
        }
        of.servers.extend(state.servers.iter().map(|(id, _)| *id));
        of.ways.retain(|former| *former != way);
        if of.ways.len() == MOST {
            of.ways.remove(0);
        }
        of.ways.push(way);
    }
}

impl Workers {
    /// Makes them those of the services as they are.
    pub(super) fn renew_owners(&mut self) {
        let together = self.ways_together();
        let mut owners = std::mem::take(&mut self.owners);
        let busy = |id: ServerId| {
            self.slots.get(&id.slot()).is_some_and(|slots| {
                slots
                    .iter()
                    .map(|slot| &slot.counters)
                    .any(|c| c.active.get() | c.inactive.get() | c.persistent.get() != 0)
            })
        };
        owners.0.values_mut().for_each(|of| of.id = None);
        for (id, configured) in &self.services {
            let alone = way_of(&configured.state.service, configured.nat);
            let way = together.get(id).copied().unwrap_or(alone);
            owners.renew(&configured.state, way, busy);
        }
        owners.0.retain(|_, of| of.id.is_some() || of.servers.iter().any(|server| busy(*server)));
        self.owners = owners;
    }

    /// The ways of services that share a NAT server with others.
    fn ways_together(&self) -> HashMap<ServiceId, OwnedBy> {
        let every_port: BTreeSet<(u8, IpAddr)> =
            self.uses().filter(|u| u.1.2 == 0).map(|u| (u.1.0, u.1.1)).collect();
        let mut first: HashMap<(u8, IpAddr, u16), ServiceId> = HashMap::new();
        let mut leads: HashMap<ServiceId, ServiceId> = HashMap::new();
        for (id, (protocol, address, port)) in self.uses() {
            let port = if every_port.contains(&(protocol, address)) { 0 } else { port };
            let other = *first.entry((protocol, address, port)).or_insert(id);
            let (one, other) = (leader(&leads, id), leader(&leads, other));
            if one != other {
                leads.insert(one.max(other), one.min(other));
            }
        }
        let mut ways: HashMap<ServiceId, OwnedBy> = HashMap::new();
        let members: BTreeSet<ServiceId> = leads.iter().flat_map(|(a, b)| [*a, *b]).collect();
        for id in &members {
            let Some(Configured { state, nat, .. }) = self.services.get(id) else { continue };
            let ipv6 = state.servers.iter().any(|(_, server)| server.address.is_ipv6());
            let way = way_of(&state.service, *nat);
            ways.entry(leader(&leads, *id)).and_modify(|w| *w = coarser(*w, way, ipv6)).or_insert(way);
        }
        members.into_iter().filter_map(|id| Some((id, *ways.get(&leader(&leads, id))?))).collect()
    }

    /// Which NAT servers services have: protocol, address and port, 0 for every port.
    fn uses(&self) -> impl Iterator<Item = (ServiceId, (u8, IpAddr, u16))> {
        self.services.iter().flat_map(|(id, c)| {
            let nat = c.state.servers.iter().zip(&c.reach).filter(|(_, reach)| reach.is_nat());
            nat.filter_map(|((server, _), _)| self.nat_servers.get(server)).flat_map(|server| {
                let of = |protocol: &u8| (*id, (*protocol, server.address, server.port));
                server.protocols.iter().map(of)
            })
        })
    }
}

/// The service that leads a group, after which it is named.
fn leader(leads: &HashMap<ServiceId, ServiceId>, mut id: ServiceId) -> ServiceId {
    while let Some(above) = leads.get(&id) {
        id = *above;
    }
    id
}
