//! What a worker knows: sessions, services and servers, local addresses, routes and next hops. No frame is in it, and nothing
//! here receives or sends one.

use std::{net::Ipv6Addr, sync::Arc};

use arrayvec::ArrayVec;

use super::{
    fragments::RestGoes,
    route::Routing,
    service::{Lookup, ServerAddresses, WorkerService},
    settings::Settings,
    snat::Nat,
    streams::Streams,
    sweep::Sweep,
    timeouts::timeout_ticks,
    told::Told,
    trace::Tracer,
    verdict::PathCounters,
};
use crate::{
    clock::Tick,
    id::{MAX_SERVERS, MAX_SERVICES, ServerId, WorkerId},
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

/// What [`Flows`] begins with.
pub(super) struct Knows {
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
    pub(super) id: WorkerId,
    pub(super) workers: usize,
    pub(super) ports: usize,
    pub(super) kernel: bool,
    pub(super) steered: Vec<bool>,
    pub(super) now: Tick,
    pub(super) sessions: Sessions,
    pub(super) services: Vec<Option<Box<WorkerService>>>,
    pub(super) servers: Vec<Option<ServerSlot>>,
    /// Their counters: what the fast path knows of servers.
    pub(super) figures: Arc<ServerTable>,
    pub(super) lookup: Arc<Lookup>,
    /// Of all services.
    pub(super) server_addresses: Arc<ServerAddresses>,
    pub(super) settings: Arc<Settings>,
    /// By state, then those of SNAT.
    pub(super) timeouts: [u32; TIMEOUTS],
    pub(super) pool: LocalPool,
    /// Local addresses of IPv6, once a service has had one.
    pub(super) pool_v6: Option<Box<LocalPool<Ipv6Addr>>>,
    pub(super) steering: Arc<Steering>,
    pub(super) routing: Routing,
    pub(super) counters: Arc<PathCounters>,
    pub(super) sweeps: ArrayVec<Sweep, 64>,
    /// Call-IDs of templates, once a service has needed them.
    pub(super) call_ids: Option<Box<CallIds>>,
    /// What sessions with TOA know of their servers.
    pub(super) told: Told,
    /// What sessions with PROXY know of their streams.
    pub(super) streams: Streams,
    /// SNAT, once there has been a rule.
    pub(super) snat: Option<Box<Nat>>,
    /// Where the fragments behind the first at hand go, if their ports don't say it.
    pub(super) rest_goes: Option<RestGoes>,
    /// Whoever follows packets.
    pub(super) trace: Option<Box<Tracer>>,
}

impl Flows {
    /// Nothing known yet: no service, no route.
    ///
    /// # Errors
    /// The system's, when there's no memory for the session table.
    pub(super) fn new(knows: Knows, now: Tick) -> std::io::Result<Self> {
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
            servers: Vec::with_capacity(MAX_SERVERS),
            figures: Arc::clone(&knows.counters.servers),
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
        })
    }

    /// The counters of a server.
    #[inline]
    pub(super) fn server(&self, id: ServerId) -> Option<&ServerCounters> {
        Some(&*self.servers.get(id.0 as usize)?.as_ref()?.counters)
    }
}
