//! Servers as workers know them: a slot with counters for each, and the services that schedule among them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use weir_api::model::{self, Forwarding, ServiceKey};

use super::{Workers, local::Reach};
use crate::{
    clock::Ticks,
    control::change::ServiceState,
    id::{ServerId, SlotId, SnatRuleId, WorkerId},
    path::{
        admin::update::{Batch, Update},
        flow::{
            service::{Persistence, WorkerService},
            tunnel_shape,
        },
    },
    sched,
    table::{
        counters::{OtherWorkers, ServerCountersRef, ServerSlot},
        limit::Limit,
    },
};

impl Workers {
    /// The server is deleted: its sessions end if they are to.
    pub(super) fn retire_server(&self, id: ServerId, batches: &mut [Batch]) {
        for batch in batches {
            batch.push(Update::Available(id.slot(), false));
            if self.settings.expire_nodest_conn {
                batch.push(Update::EndSessions(id.slot()));
            }
        }
    }

    /// The server is configured like this.
    pub(super) fn configure_server(&mut self, id: ServerId, server: &model::Server, batches: &mut [Batch]) {
        let (slots, new) = self.open_slots(id.slot());
        let changed = set_limit(slots, server) || new;
        for (slot, batch) in slots.iter().zip(batches) {
            slot.others.quiesced.set(u32::from(server.weight == 0));
            if let Forwarding::Tunnel(tunnel) = server.forwarding {
                set_tunnel(&slot.others, tunnel_shape::pack(tunnel));
            }
            if changed {
                batch.push(Update::Slot(id.slot(), Some(slot.clone())));
            }
            batch.push(Update::Available(id.slot(), true));
        }
    }

    /// A SNAT rule is counted from now on.
    pub(super) fn open_rule(&mut self, id: SnatRuleId, batches: &mut [Batch]) {
        let (slots, _) = self.open_slots(id.slot());
        for (slot, batch) in slots.iter().zip(batches) {
            batch.push(Update::Slot(id.slot(), Some(slot.clone())));
            batch.push(Update::Available(id.slot(), true));
        }
    }

    /// A slot's counters, one a worker, and whether nothing had the slot.
    fn open_slots(&mut self, id: SlotId) -> (&mut Vec<ServerSlot>, bool) {
        let slots = self.slots.entry(id).or_default();
        let new = slots.is_empty();
        if new {
            for link in &self.links {
                let Some(counters) = ServerCountersRef::of(&link.counters.servers, id) else {
                    tracing::error!(slot = id.0, "more servers and SNAT rules than a worker can hold");
                    continue;
                };
                // Nothing is counted there yet: the number was free.
                counters.reset();
                slots.push(ServerSlot { counters, others: Arc::default(), limit: None, expected: 0 });
            }
        }
        (slots, new)
    }

    /// The service as one worker has it.
    pub(super) fn worker_service(
        &self,
        state: &ServiceState,
        reach: &[Reach],
        worker: WorkerId,
        server_changes: u64,
    ) -> WorkerService {
        let servers: Vec<sched::Server> = state
            .servers
            .iter()
            .zip(reach)
            .filter_map(|((id, s), reach)| {
                let slot = self.slots.get(&id.slot())?.get(usize::from(worker.0))?.clone();
                Some(sched::Server {
                    id: *id,
                    address: reach.address,
                    port: s.port,
                    weight: s.weight,
                    upper: s.upper,
                    counters: slot.counters,
                    others: slot.others,
                    limit: slot.limit,
                })
            })
            .collect();
        let service = &state.service;
        WorkerService {
            id: state.id,
            scheduler: sched::prepare(
                &service.scheduler,
                service.scheduler_flags,
                &servers,
                worker,
                &self.settings,
                server_changes,
            ),
            servers,
            methods: reach.iter().map(|reach| reach.forwarding).collect(),
            local_addresses: state.local_addresses.iter().filter_map(|l| v4(l.address)).collect(),
            local_addresses_v6: state.local_addresses.iter().filter_map(|l| v6(l.address)).collect(),
            port: match service.key {
                ServiceKey::Address { port, .. } => port,
                ServiceKey::Mark { .. } => 0,
            },
            mark: match service.key {
                ServiceKey::Mark { mark, .. } => Some(mark),
                ServiceKey::Address { .. } => None,
            },
            persistence: service
                .persistent
                .map(|timeout| Persistence { timeout: Ticks::seconds(timeout), mask: service.netmask }),
            one_packet: service.one_packet,
            by_call: service.engine.is_some(),
            client_address: state.client_address,
        }
    }
}

/// Tells a worker of the tunnel to a server. The next packet sees whether anything is known of its way.
fn set_tunnel(others: &OtherWorkers, word: u32) {
    if others.tunnel.get() & !tunnel_shape::LEARNED != word {
        others.tunnel.set(word | tunnel_shape::LEARNED);
    }
}

/// Gives a server's slots its threshold. Returns whether there is one now and was none, or the reverse: the workers are to
/// be told then.
fn set_limit(slots: &mut [ServerSlot], server: &model::Server) -> bool {
    let before = slots.first().and_then(|slot| slot.limit.clone());
    match (server.upper, before) {
        (0, None) => return false,
        (0, Some(_)) => slots.iter_mut().for_each(|slot| slot.limit = None),
        (upper, Some(limit)) => {
            limit.edit(upper, server.lower);
            return false;
        }
        (upper, None) => {
            for slot in slots.iter_mut() {
                slot.expected = slot.counters.active.get().wrapping_add(slot.counters.inactive.get());
            }
            let sessions = slots.iter().fold(0, |sum: u32, slot| sum.wrapping_add(slot.expected));
            let limit = Arc::new(Limit::new(upper, server.lower, sessions));
            slots.iter_mut().for_each(|slot| slot.limit = Some(Arc::clone(&limit)));
        }
    }
    true
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(a) => Some(a),
        IpAddr::V6(_) => None,
    }
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(a) => Some(a),
        IpAddr::V4(_) => None,
    }
}
