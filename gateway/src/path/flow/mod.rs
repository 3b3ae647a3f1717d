//! What a worker knows: sessions, services and servers, local addresses, routes and next hops. It holds no frames,
//! and nothing here receives or sends one.

use std::{net::Ipv6Addr, sync::Arc};

use arrayvec::ArrayVec;

use self::{
    route::Routing,
    service::{Lookup, ServerAddresses, WorkerService},
    snat::Nat,
    streams::Streams,
    sweep::Sweep,
    timeouts::timeout_ticks,
    toa_state::Told,
};
use super::{
    admin::{session_log::SessionLog, trace::Tracer},
    next::RestGoes,
    settings::Settings,
    verdict::PathCounters,
};
use crate::{
    clock::{Tick, Ticks},
    id::{MAX_SERVICES, MAX_SLOTS, SlotId, WorkerId},
    table::{
        call_ids::CallIds,
        counters::{ServerCounters, ServerSlot, ServerTable},
        index::HashKey,
        pool::LocalPool,
        session::TIMEOUTS,
        sessions::Sessions,
        steering::Steering,
    },
};

pub(crate) mod affected;
pub mod behind;
pub(crate) mod belief;
pub(crate) mod deltas;
pub(crate) mod destination;
pub(crate) mod echo;
pub(crate) mod exit;
pub(crate) mod expire;
pub(crate) mod fragments;
pub(crate) mod grown;
pub(crate) mod hops;
pub(crate) mod icmp;
pub mod local_address;
pub mod mark;
pub(crate) mod one_packet;
pub(crate) mod open;
pub mod owner;
pub mod persist;
pub(crate) mod proxy_header;
pub(crate) mod proxy_state;
pub(crate) mod reply;
pub mod route;
pub(crate) mod route_table;
pub(crate) mod sctp_state;
pub(crate) mod sctp_tags;
pub(crate) mod served_here;
pub mod service;
pub(crate) mod session;
pub(crate) mod sip;
pub mod snat;
pub(crate) mod source;
pub(crate) mod stream;
pub(crate) mod streams;
pub(crate) mod sweep;
pub(crate) mod tcp_numbers;
pub mod tcp_state;
pub(crate) mod threshold;
pub(crate) mod timeouts;
pub(crate) mod toa_state;
pub(crate) mod trie;
pub(crate) mod tunnel_error;
pub mod tunnel_shape;
pub(crate) mod weigh;

/// What [`Flows`] begins with.
pub(crate) struct Knows {
    /// The worker's number.
    pub id: WorkerId,
    /// How many workers there are; none that know of each other: 0.
    pub workers: usize,
    /// How many ports.
    pub ports: usize,
    /// Whether there is a kernel to give packets to.
    pub kernel: bool,
    /// Whether the ports' own RSS brings every frame to its owner (one entry a port).
    pub steered: Vec<bool>,
    /// Sessions it may hold.
    pub max_sessions: usize,
    /// Key of the session hash.
    pub key: HashKey,
    /// Its share of the local ports.
    pub pool: LocalPool,
    /// Who owns which packet.
    pub steering: Arc<Steering>,
    /// Its counters.
    pub counters: Arc<PathCounters>,
}

/// What a worker knows.
pub(crate) struct Flows {
    pub(crate) id: WorkerId,
    pub(crate) workers: usize,
    pub(crate) ports: usize,
    pub(crate) kernel: bool,
    pub(crate) steered: Vec<bool>,
    pub(crate) now: Tick,
    pub(crate) sessions: Sessions,
    pub(crate) services: Vec<Option<Box<WorkerService>>>,
    /// Servers and SNAT rules by slot.
    pub(crate) slots: Vec<Option<ServerSlot>>,
    /// Their counters: what the fast path knows of servers.
    pub(crate) server_counters: Arc<ServerTable>,
    pub(crate) lookup: Arc<Lookup>,
    /// Of all services.
    pub(crate) server_addresses: Arc<ServerAddresses>,
    pub(crate) settings: Arc<Settings>,
    /// By state, then those of SNAT.
    pub(crate) timeouts: [Ticks; TIMEOUTS],
    pub(crate) pool: LocalPool,
    /// Local addresses of IPv6, once a service has had one.
    pub(crate) pool_v6: Option<Box<LocalPool<Ipv6Addr>>>,
    pub(crate) steering: Arc<Steering>,
    pub(crate) routing: Routing,
    pub(crate) counters: Arc<PathCounters>,
    pub(crate) sweeps: ArrayVec<Sweep, 64>,
    /// Call-IDs of templates, once a service has needed them.
    pub(crate) call_ids: Option<Box<CallIds>>,
    /// What sessions with TOA know of their servers.
    pub(crate) told: Told,
    /// What sessions with PROXY know of their streams.
    pub(crate) streams: Streams,
    /// SNAT, once there has been a rule.
    pub(crate) snat: Option<Box<Nat>>,
    /// Where the fragments behind the first at hand go, if their ports don't say it.
    pub(crate) rest_goes: Option<RestGoes>,
    /// The tracer, while packets are followed.
    pub(crate) trace: Option<Box<Tracer>>,
    /// The session log, while somebody reads it.
    pub(crate) session_log: Option<Box<SessionLog>>,
}

impl Flows {
    /// Nothing known yet: no service, no route.
    ///
    /// # Errors
    /// The system's, when there's no memory for the session table.
    pub(crate) fn new(knows: Knows, now: Tick) -> std::io::Result<Self> {
        let settings = Settings::default();
        Ok(Self {
            id: knows.id,
            workers: knows.workers,
            ports: knows.ports,
            kernel: knows.kernel,
            steered: knows.steered,
            now,
            sessions: Sessions::new(knows.max_sessions, knows.key, now)?,
            services: Vec::with_capacity(MAX_SERVICES),
            slots: Vec::with_capacity(MAX_SLOTS),
            server_counters: Arc::clone(&knows.counters.servers),
            lookup: Arc::default(),
            server_addresses: Arc::default(),
            timeouts: timeout_ticks(&settings.timeouts),
            settings: Arc::new(settings),
            pool: knows.pool,
            pool_v6: None,
            steering: knows.steering,
            routing: Routing::default(),
            counters: knows.counters,
            sweeps: ArrayVec::new(),
            call_ids: None,
            told: Told::new(knows.max_sessions),
            streams: Streams::new(knows.max_sessions),
            snat: None,
            rest_goes: None,
            trace: None,
            session_log: None,
        })
    }

    /// What a server or SNAT rule counts, and what else is known of it.
    #[inline(always)]
    pub(crate) fn slot(&self, id: SlotId) -> Option<&ServerSlot> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    /// The counters of a slot.
    #[inline]
    pub(crate) fn counters_of(&self, id: SlotId) -> Option<&ServerCounters> {
        Some(&*self.slot(id)?.counters)
    }
}
