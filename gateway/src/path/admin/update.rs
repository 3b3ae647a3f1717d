//! Changes that control sends to a worker between two bursts, and how the worker applies them.
//!
//! Control prepares everything: the worker swaps pointers, and neither allocates nor frees. What an update replaces
//! stays in the batch, which goes back to control through another ring and is dropped there.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use weir_api::model;

use super::{
    census::Census,
    explain::question::Explain,
    hops_in_use::HopsInUse,
    search::{LISTING_STRIDE, Search},
    session_log::SessionLog,
    trace::Tracer,
};
use crate::{
    clock::Tick,
    id::{MAX_SERVICES, MAX_SLOTS, ServiceId, SlotId},
    io::{Hand, Io, PortId},
    path::{
        Worker,
        flow::{
            Flows,
            persist::listed_protocol,
            route::{Neighbour, RouteTable},
            service::{Lookup, ServerAddresses, WorkerService},
            snat::{Nat, RuleSet},
        },
        ingress::station::Stations,
        settings::Settings,
    },
    table::{
        call_ids::{CallId, CallIds},
        counters::ServerSlot,
        pool::LocalPool,
        session::{Direction, Session, SessionId},
        snat::{blocks::Blocks, reserved::Reserved},
    },
};

/// One change. Once applied, it holds what it replaced.
pub enum Update {
    /// Replaces a service, or removes it.
    Service(ServiceId, Option<Box<WorkerService>>),
    /// What a server or SNAT rule counts; none if its slot is free again.
    Slot(SlotId, Option<ServerSlot>),
    /// The server or SNAT rule is configured (`true`) or deleted.
    Available(SlotId, bool),
    /// End the sessions of a server (`expire_nodest_conn`) or SNAT rule.
    EndSessions(SlotId),
    /// The table of what the path claims.
    Lookup(Arc<Lookup>),
    /// The servers' addresses.
    ServerAddresses(Arc<ServerAddresses>),
    /// Routes and ports.
    Routes(Arc<RouteTable>),
    /// MAC addresses in addition to the ports' own.
    Stations(Arc<Stations>),
    /// Exchanges the worker's share of a device.
    Device(PortId, Hand),
    /// A neighbour's address has appeared or gone.
    Neighbour(Neighbour),
    /// Settings and time-outs.
    Settings(Arc<Settings>),
    /// Asks for a page of the session list.
    List(Listing),
    /// The table for Call-IDs, if the worker has none yet.
    CallIds(Option<Box<CallIds>>),
    /// Asks which kinds of sessions there are.
    Census(Arc<Census>),
    /// Asks for certain sessions, or ends them.
    Select(Search),
    /// Asks for the next hops that sessions use.
    HopsInUse(Box<HopsInUse>),
    /// Starts following packets, or stops.
    Trace(Option<Box<Tracer>>),
    /// Starts logging sessions, or stops.
    SessionLog(Option<Box<SessionLog>>),
    /// Asks what would happen to a packet.
    Explain(Box<Explain>),
    /// The tables for SNAT, if the worker has none yet.
    SnatRoom(Option<Box<Nat>>),
    /// This worker's blocks of an external address, if it has none yet.
    SnatAddress(IpAddr, Option<Box<Blocks>>),
    /// The SNAT rules.
    Snat(Arc<RuleSet>),
    /// External addresses were withdrawn: ends the sessions that use them.
    SnatWithdrawn,
    /// The kernel's ports of shared addresses.
    SnatReserved(Arc<Reserved>),
    /// The tables for IPv6 local addresses, if the worker has none yet.
    PoolV6(Option<Box<LocalPool<Ipv6Addr>>>),
}

/// A page of the session list: sent with reserved room, returned filled.
#[derive(Debug)]
pub struct Listing {
    /// The first record to examine.
    pub from: u32,
    /// Sessions, at most as many as `capacity` was reserved for.
    pub sessions: Vec<model::Session>,
    /// The Call-IDs of templates among them, by their index in `sessions`, as many as there is capacity for.
    pub calls: Vec<(u32, CallId)>,
    /// The record to continue at; `None` after the last one.
    pub next: Option<u32>,
}

/// Changes that take effect between the same two bursts.
pub type Batch = Vec<Update>;

impl Flows {
    fn take_service(&mut self, id: ServiceId, new: &mut Option<Box<WorkerService>>) {
        let Some(slot) = slot(&mut self.services, id.0, MAX_SERVICES) else { return };
        if let (Some(new), Some(old)) = (new.as_mut(), slot.as_mut()) {
            new.inherit(old);
        }
        std::mem::swap(slot, new);
    }

    fn list(&self, listing: &mut Listing) {
        let end = self.sessions.high_water();
        let mut at = listing.from;
        let stop = at.saturating_add(LISTING_STRIDE).min(end);
        while at < stop && listing.sessions.len() < listing.sessions.capacity() {
            if let Some(session) = self.sessions.get(SessionId(at)).filter(|s| s.in_use()) {
                if let Some(call) = self.call_id(session)
                    && listing.calls.len() < listing.calls.capacity()
                {
                    listing.calls.push((listing.sessions.len() as u32, *call));
                }
                listing.sessions.push(self.describe(SessionId(at), session));
            }
            at += 1;
        }
        listing.next = (at < end).then_some(at);
    }

    pub(crate) fn describe(&self, id: SessionId, session: &Session) -> model::Session {
        let request = self.sessions.endpoints_of(id, session, Direction::Request);
        let reply = self.sessions.endpoints_of(id, session, Direction::Reply);
        model::Session {
            protocol: listed_protocol(session),
            client: request.source,
            virtual_: request.destination,
            local: reply.destination,
            server: (self.lookup.listed(session.slot().server(), reply.source.0), reply.source.1),
            state: session.state(),
            expires: self.snat_deadline(id).unwrap_or(session.deadline()).since(self.now).0,
            fullnat: session.is_fullnat(),
            worker: self.id.0,
            engine: None,
        }
    }
}

impl<I: Io> Worker<I> {
    /// Applies the batches that wait in the ring. A batch stays there while there is no room to return it.
    pub(crate) fn take_updates(&mut self) {
        while !self.control.retired.is_full() {
            let Ok(mut batch) = self.control.updates.pop() else { return };
            for update in &mut batch {
                self.take_update(update);
            }
            self.flows.forget_old_hops();
            // There was room a moment ago, and only this worker fills the ring.
            let _ = self.control.retired.push(batch);
        }
    }

    fn take_update(&mut self, update: &mut Update) {
        match update {
            Update::Service(id, new) => self.flows.take_service(*id, new),
            Update::Slot(id, counters) => {
                if let Some(slot) = slot(&mut self.flows.slots, id.0, MAX_SLOTS) {
                    if let Some(new) = counters {
                        new.join(slot.as_ref());
                    }
                    std::mem::swap(slot, counters);
                }
            }
            Update::Available(id, available) => {
                if let Some(server) = self.flows.slot(*id) {
                    server.counters.available.set(u32::from(*available));
                }
            }
            Update::EndSessions(slot) => self.flows.end_sessions_of(*slot),
            Update::Lookup(lookup) => std::mem::swap(&mut self.flows.lookup, lookup),
            Update::ServerAddresses(addresses) => std::mem::swap(&mut self.flows.server_addresses, addresses),
            Update::Routes(table) => *table = self.flows.routing.replace(Arc::clone(table)),
            Update::Stations(stations) => std::mem::swap(&mut self.egress.macs.beside, stations),
            Update::Device(device, hand) => self.egress.io.exchange(*device, hand),
            Update::Neighbour(neighbour) => {
                self.flows.routing.neighbour(*neighbour, self.flows.now);
            }
            Update::Settings(settings) => {
                std::mem::swap(&mut self.flows.settings, settings);
                self.flows.renew_timeouts();
            }
            Update::List(listing) => self.flows.list(listing),
            Update::CallIds(room) => {
                if self.flows.call_ids.is_none() {
                    self.flows.call_ids = room.take();
                }
            }
            Update::Select(search) => self.flows.select(search),
            Update::Census(census) => self.flows.count_sessions(census),
            Update::HopsInUse(question) => self.flows.look_for_hops(question),
            Update::Trace(tracer) => std::mem::swap(&mut self.flows.trace, tracer),
            Update::SessionLog(log) => std::mem::swap(&mut self.flows.session_log, log),
            Update::Explain(question) => self.flows.explain(question),
            Update::PoolV6(room) => {
                if self.flows.pool_v6.is_none() {
                    self.flows.pool_v6 = room.take();
                }
            }
            Update::SnatRoom(room) => {
                if self.flows.snat.is_none() {
                    self.flows.snat = room.take();
                }
            }
            Update::SnatAddress(address, blocks) => {
                if let Some(nat) = &mut self.flows.snat {
                    nat.add_address(*address, blocks);
                }
            }
            Update::Snat(rules) => {
                if let Some(nat) = &mut self.flows.snat {
                    nat.set_rules(rules);
                }
                self.flows.renew_timeouts();
            }
            Update::SnatWithdrawn => {
                self.flows.end_withdrawn();
            }
            Update::SnatReserved(reserved) => {
                if let Some(nat) = &mut self.flows.snat {
                    nat.set_reserved(reserved);
                }
            }
        }
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.flows.now
    }
}

/// The slot `n` of a table that got its full capacity at the start.
fn slot<T>(table: &mut Vec<Option<T>>, n: u32, max: usize) -> Option<&mut Option<T>> {
    let n = n as usize;
    if n >= max {
        return None;
    }
    if n >= table.len() {
        table.resize_with(n + 1, || None);
    }
    table.get_mut(n)
}
