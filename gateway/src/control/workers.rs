//! The data plane made of workers: configuration becomes one batch of updates for each, figures are summed.
//!
//! Control keeps its own end of every ring and shares with a worker only what one side writes and the other
//! reads: counters. What a worker gives back is dropped here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use weirctl::{
    model::{self, EngineData, Forwarding, ServiceKey},
    protocol::{Explanation, Question, TraceFilter},
    snat::SnatRule,
};

use super::{
    claims::NatServer,
    load::{self, WorkerTables},
    plane::{
        AddressKind, Change, PathCounter, Plane, PlaneStatus, Selected, Selection, ServerTotals,
        ServiceState, SessionCursor,
    },
    trace::{Haul, Tracing},
};
use crate::{
    clock::{Tick, seconds},
    id::{ServerId, ServiceId, WorkerId},
    io::PortId,
    net::ethernet::Mac,
    path::{
        ControlEnd,
        persist::Persistence,
        route::{Neighbour, Resolve, RouteTable},
        search::Search,
        service::{ServerAddresses, WorkerService},
        settings::Settings,
        tunnel,
        update::{Batch, Listing, Update},
        verdict::PathCounters,
    },
    sched,
    table::call_ids::CallIds,
    table::counters::{OtherWorkers, ServerFigures, ServerSlot},
    table::limit::Limit,
    table::pool::{LocalPool, PoolError},
    table::snat::{BlockEvent, reserved::Reserved},
};

/// Batches a ring holds; what doesn't fit waits on control's side.
const RING: usize = 256;
/// Requests to workers that one search makes at most, so that the configuration isn't locked for long.
const SEARCH_STEPS: usize = 16;
/// Servers' counters that are looked at in one turn of [`Workers::publish_loads`], over all workers: half a millisecond.
const SLOTS_A_TURN: usize = 8_192;
/// Call-IDs that a worker remembers at once.
const MAX_CALLS: usize = 65_536;
/// How long a worker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Control's end of the rings to one worker.
pub struct WorkerLink {
    updates: rtrb::Producer<Batch>,
    retired: rtrb::Consumer<Batch>,
    resolve: rtrb::Consumer<Resolve>,
    backlog: VecDeque<Batch>,
    /// The worker's counters.
    pub counters: Arc<PathCounters>,
    /// Its tables, as far as control knows of them.
    pub tables: WorkerTables,
    /// Makes its pool of local ports of IPv6 addresses, when there is a first one.
    pub make_pool_v6: Option<MakePool>,
}

/// Makes a pool.
pub type MakePool = Box<dyn FnOnce() -> Result<LocalPool<Ipv6Addr>, PoolError> + Send>;

/// The rings between control and a worker with these counters: both ends.
#[must_use]
pub fn connect(counters: Arc<PathCounters>) -> (WorkerLink, ControlEnd) {
    let (updates, worker_updates) = rtrb::RingBuffer::new(RING);
    let (worker_retired, retired) = rtrb::RingBuffer::new(RING);
    let (worker_resolve, resolve) = rtrb::RingBuffer::new(RING);
    let link = WorkerLink {
        updates,
        retired,
        resolve,
        backlog: VecDeque::new(),
        counters,
        tables: WorkerTables::default(),
        make_pool_v6: None,
    };
    let end = ControlEnd { updates: worker_updates, retired: worker_retired, resolve: worker_resolve };
    (link, end)
}

/// What is done while a worker's answer is awaited: sleep a little, or, in virtual time, run the worker.
pub type Wait = Box<dyn FnMut() + Send>;

/// What the gateway says of an address; see [`Plane::address_kind`].
pub type AddressOracle = Box<dyn Fn(IpAddr) -> AddressKind + Send>;

pub(super) struct ServerState {
    /// One slot a worker.
    pub(super) slots: Vec<ServerSlot>,
}

impl ServerState {
    /// Tells each worker what the others have; `loads` is room to work in. A line whose figures are what they were stays
    /// where it is, in the caches of those who read it.
    fn publish(&self, loads: &mut Vec<[u32; 2]>) {
        loads.clear();
        loads
            .extend(self.slots.iter().map(|slot| [slot.counters.active.get(), slot.counters.inactive.get()]));
        let [active, inactive] = [0, 1].map(|n| loads.iter().fold(0u32, |sum, of| sum.wrapping_add(of[n])));
        for (slot, own) in self.slots.iter().zip(loads) {
            slot.others.active.renew(active.wrapping_sub(own[0]));
            slot.others.inactive.renew(inactive.wrapping_sub(own[1]));
        }
    }
}

/// Whose turn it is to have its sessions told to the workers.
#[derive(Default)]
struct Turn {
    next: ServerId,
    /// When the first server had its last one.
    begun: Option<Tick>,
    loads: Vec<[u32; 2]>,
}

pub(super) struct Configured {
    pub(super) state: ServiceState,
    server_changes: u64,
    /// It has, or has had, NAT servers: their sessions may be there still.
    nat: bool,
}

/// All workers.
pub struct Workers {
    pub(super) links: Vec<WorkerLink>,
    wait: Wait,
    kind: AddressOracle,
    pub(super) ports: Vec<String>,
    pub(super) services: BTreeMap<ServiceId, Configured>,
    pub(super) servers: BTreeMap<ServerId, ServerState>,
    turn: Turn,
    /// Neighbours that are known.
    neighbours: HashMap<(PortId, IpAddr), Mac>,
    pub(super) nat_servers: BTreeMap<ServerId, NatServer>,
    /// Shared with the workers: what changes is a copy.
    pub(super) server_addresses: Arc<ServerAddresses>,
    settings: Arc<Settings>,
    pub(super) marks: Arc<[model::MarkRule]>,
    /// The SNAT rules.
    pub(super) snat: Vec<(ServerId, Arc<SnatRule>)>,
    /// The external addresses that workers know, and the own ones among them.
    pub(super) snat_addresses: BTreeSet<IpAddr>,
    pub(super) masquerade: BTreeMap<ServerId, Option<IpAddr>>,
    /// Ports of own addresses that are the kernel's.
    pub(super) snat_reserved: Arc<Reserved>,
    /// The route table in force.
    pub(super) routes: Arc<RouteTable>,
    /// Where workers tell of port blocks, once they have room for SNAT.
    pub(super) snat_log: Vec<rtrb::Consumer<BlockEvent>>,
    /// Whether the workers have been given room for Call-IDs.
    call_ids: bool,
    tickets: u64,
    tracing: Option<Tracing>,
}

impl Workers {
    /// Workers behind `links`; `ports` are the ports' names.
    #[must_use]
    pub fn new(links: Vec<WorkerLink>, ports: Vec<String>, wait: Wait, kind: AddressOracle) -> Self {
        Self {
            links,
            wait,
            kind,
            ports,
            services: BTreeMap::new(),
            servers: BTreeMap::new(),
            turn: Turn::default(),
            neighbours: HashMap::new(),
            nat_servers: BTreeMap::new(),
            server_addresses: Arc::default(),
            settings: Arc::default(),
            marks: Arc::default(),
            snat: Vec::new(),
            snat_addresses: BTreeSet::new(),
            masquerade: BTreeMap::new(),
            snat_reserved: Arc::default(),
            routes: Arc::default(),
            snat_log: Vec::new(),
            call_ids: false,
            tickets: 0,
            tracing: None,
        }
    }

    /// The links.
    #[must_use]
    pub fn links(&self) -> &[WorkerLink] {
        &self.links
    }

    /// The services as configured.
    pub fn services(&self) -> impl Iterator<Item = &ServiceState> {
        self.services.values().map(|c| &c.state)
    }

    /// The trace under way.
    pub(super) fn tracing(&mut self) -> &mut Option<Tracing> {
        &mut self.tracing
    }

    /// Sends each worker its batch.
    pub(super) fn send_each(&mut self, batches: impl Iterator<Item = Batch>) {
        for (link, batch) in self.links.iter_mut().zip(batches) {
            link.backlog.push_back(batch);
            link.push_backlog();
        }
    }

    /// The ports' names.
    pub(super) fn port_names(&self) -> &[String] {
        &self.ports
    }

    /// The mark rules in their order.
    pub(super) fn marks(&self) -> &[model::MarkRule] {
        &self.marks
    }

    /// Puts a route table in force.
    pub fn set_routes(&mut self, table: &Arc<RouteTable>) {
        self.routes = Arc::clone(table);
        self.send_all(|_| vec![Update::Routes(Arc::clone(table))]);
        self.follow_addresses();
    }

    /// Tells the workers of neighbours.
    pub fn set_neighbours(&mut self, neighbours: &[Neighbour]) {
        for Neighbour { port, address, mac } in neighbours {
            match mac {
                Some(mac) => self.neighbours.insert((*port, *address), *mac),
                None => self.neighbours.remove(&(*port, *address)),
            };
        }
        self.send_all(|_| neighbours.iter().copied().map(Update::Neighbour).collect());
    }

    /// Takes the workers' wishes for neighbours to be resolved. A worker that has forgotten one which is known is told
    /// again: there will be no news of it.
    pub fn take_resolves(&mut self) -> Vec<Resolve> {
        let mut wishes = Vec::new();
        for link in &mut self.links {
            let before = wishes.len();
            wishes.extend(std::iter::from_fn(|| link.resolve.pop().ok()));
            let mine = wishes.get(before..).unwrap_or_default();
            let known: Batch = mine
                .iter()
                .filter_map(|Resolve { port, address }| {
                    let mac = *self.neighbours.get(&(*port, *address))?;
                    Some(Update::Neighbour(Neighbour { port: *port, address: *address, mac: Some(mac) }))
                })
                .collect();
            if !known.is_empty() {
                link.backlog.push_back(known);
                link.push_backlog();
            }
        }
        wishes.dedup();
        wishes
    }

    /// Drops what the workers gave back and sends what had no room. To be called every few milliseconds.
    pub fn service_rings(&mut self) {
        for link in &mut self.links {
            while link.retired.pop().is_ok() {}
            link.push_backlog();
        }
        self.end_silent_trace();
    }

    /// Tells each worker how many sessions the others have at each server: what schedulers that weigh
    /// connections go by. To be called often; each time some servers have their turn, and all of them every 10 ms unless
    /// they are very many. Nothing to do with one worker.
    pub fn publish_loads(&mut self, now: Tick) {
        let Turn { next, begun, loads } = &mut self.turn;
        if self.links.len() < 2 || (*next == ServerId(0) && *begun == Some(now)) {
            return;
        }
        if *next == ServerId(0) {
            *begun = Some(now);
        }
        let at_once = SLOTS_A_TURN / self.links.len();
        let mut last = None;
        for (id, server) in self.servers.range(*next..).take(at_once) {
            server.publish(loads);
            last = Some(*id);
        }
        let more = last.filter(|last| self.servers.range(ServerId(last.0 + 1)..).next().is_some());
        *next = more.map_or(ServerId(0), |last| ServerId(last.0 + 1));
    }

    fn send_all(&mut self, make: impl Fn(usize) -> Batch) {
        for (n, link) in self.links.iter_mut().enumerate() {
            let batch = make(n);
            if !batch.is_empty() {
                link.backlog.push_back(batch);
            }
            link.push_backlog();
        }
    }

    fn take_change(&mut self, change: Change, batches: &mut [Batch]) {
        match change {
            Change::SetService(state) => self.set_service(state, batches),
            Change::RemoveService(id) => {
                if let Some(old) = self.services.remove(&id) {
                    for (server, _) in &old.state.servers {
                        self.retire_server(*server, batches);
                    }
                }
                batches.iter_mut().for_each(|b| b.push(Update::Service(id, None)));
            }
            Change::ForgetServer(id) => {
                self.servers.remove(&id);
                self.nat_servers.remove(&id);
                batches.iter_mut().for_each(|b| b.push(Update::Server(id, None)));
            }
            Change::Marks(rules) => self.marks = rules,
            Change::Snat(rules) => self.set_snat(rules, batches),
            Change::Settings(settings) => {
                self.settings = settings;
                batches.iter_mut().for_each(|b| b.push(Update::Settings(Arc::clone(&self.settings))));
            }
        }
    }

    fn retire_server(&self, id: ServerId, batches: &mut [Batch]) {
        for batch in batches {
            batch.push(Update::Available(id, false));
            if self.settings.expire_nodest_conn {
                batch.push(Update::ExpireServer(id));
            }
        }
    }

    fn set_service(&mut self, state: ServiceState, batches: &mut [Batch]) {
        let before = self.services.get(&state.id);
        let server_changes = match before {
            Some(b) => b.server_changes + u64::from(b.state.servers != state.servers),
            None => 0,
        };
        let before_nat = before.is_some_and(|b| b.nat);
        let gone: Vec<ServerId> = before
            .iter()
            .flat_map(|b| &b.state.servers)
            .map(|(id, _)| *id)
            .filter(|id| state.servers.iter().all(|(kept, _)| kept != id))
            .collect();
        for (id, server) in &state.servers {
            self.configure_server(*id, server, batches);
        }
        if state.service.engine.is_some() && !self.call_ids {
            self.call_ids = true;
            for batch in batches.iter_mut() {
                match CallIds::new(MAX_CALLS) {
                    Ok(room) => batch.push(Update::CallIds(Some(Box::new(room)))),
                    Err(error) => tracing::error!(%error, "no memory for Call-IDs: SIP services drop all"),
                }
            }
        }
        let nat = self.note_nat_servers(&state) || before_nat;
        if state.local_addresses.iter().any(|local| local.address.is_ipv6()) {
            self.make_pools_v6(batches);
        }
        for (n, batch) in batches.iter_mut().enumerate() {
            let service = self.worker_service(&state, WorkerId(n as u16), server_changes);
            let service = WorkerService { nat, ..service };
            batch.push(Update::Service(state.id, Some(Box::new(service))));
        }
        for id in gone {
            self.retire_server(id, batches);
        }
        self.services.insert(state.id, Configured { state, server_changes, nat });
    }

    /// Gives each worker room for local addresses of IPv6, the first time there is one.
    fn make_pools_v6(&mut self, batches: &mut [Batch]) {
        for (link, batch) in self.links.iter_mut().zip(batches) {
            let Some(make) = link.make_pool_v6.take() else { continue };
            match make() {
                Ok(pool) => {
                    link.tables.pool_v6 = Some(pool.usage());
                    batch.push(Update::PoolV6(Some(Box::new(pool))));
                }
                Err(error) => tracing::error!(%error, "IPv6 local addresses can't be used"),
            }
        }
    }

    pub(super) fn configure_server(&mut self, id: ServerId, server: &model::Server, batches: &mut [Batch]) {
        let slots = &mut self.servers.entry(id).or_insert_with(|| ServerState { slots: Vec::new() }).slots;
        let mut changed = slots.is_empty();
        if changed {
            for link in &self.links {
                let Some(counters) = ServerFigures::of(&link.counters.servers, id) else {
                    tracing::error!(server = id.0, "more servers than a worker can hold");
                    continue;
                };
                // Nobody counts there yet: the number was free.
                counters.reset();
                slots.push(ServerSlot { counters, others: Arc::default(), limit: None, expected: 0 });
            }
        }
        changed |= set_limit(slots, server);
        for (slot, batch) in slots.iter().zip(batches) {
            slot.others.quiesced.set(u32::from(server.weight == 0));
            if let Forwarding::Tunnel(tunnel) = server.forwarding {
                set_tunnel(&slot.others, tunnel::pack(tunnel));
            }
            if changed {
                batch.push(Update::Server(id, Some(slot.clone())));
            }
            batch.push(Update::Available(id, true));
        }
    }

    fn worker_service(&self, state: &ServiceState, worker: WorkerId, server_changes: u64) -> WorkerService {
        let servers: Vec<sched::Server> = state
            .servers
            .iter()
            .filter_map(|(id, s)| {
                let slot = self.servers.get(id)?.slots.get(usize::from(worker.0))?.clone();
                Some(sched::Server {
                    id: *id,
                    address: s.address,
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
            methods: state.servers.iter().map(|(_, s)| s.forwarding).collect(),
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
            nat: false,
            persistence: service
                .persistent
                .map(|timeout| Persistence { timeout: seconds(timeout), mask: service.netmask }),
            one_packet: service.one_packet,
            by_call: service.engine.is_some(),
            client_address: state.client_address,
        }
    }

    /// Asks one worker for the sessions in its records from `from` on.
    fn list(&mut self, worker: usize, from: u32, max: usize) -> Option<Listing> {
        let ticket = self.ticket();
        let calls = Vec::with_capacity(if self.call_ids { max } else { 0 });
        let listing = Listing { ticket, from, sessions: Vec::with_capacity(max), calls, next: None };
        let mut page = self.ask(worker, Update::List(listing), |update| match update {
            Update::List(listing) if listing.ticket == ticket => Some(listing),
            _ => None,
        })?;
        for (at, call) in page.calls.drain(..) {
            if let Some(session) = page.sessions.get_mut(at as usize) {
                let data = String::from_utf8_lossy(call.as_bytes()).into_owned();
                session.engine = Some(EngineData { name: "sip".into(), data });
            }
        }
        Some(page)
    }

    /// Asks one worker for certain sessions in its records from `from` on.
    fn search(&mut self, worker: usize, selection: &Selection, from: u32, max: usize) -> Option<Search> {
        let ticket = self.ticket();
        let selection = selection.clone();
        let sessions = Vec::with_capacity(max.max(1));
        let search = Search { ticket, selection, from, sessions, killed: 0, next: None };
        self.ask(worker, Update::Select(search), |update| match update {
            Update::Select(search) if search.ticket == ticket => Some(search),
            _ => None,
        })
    }

    pub(super) fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Sends one worker a question and waits for what `answer` recognises.
    pub(super) fn ask<A>(
        &mut self,
        worker: usize,
        question: Update,
        answer: impl Fn(Update) -> Option<A>,
    ) -> Option<A> {
        let link = self.links.get_mut(worker)?;
        link.backlog.push_back(vec![question]);
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            link.push_backlog();
            (self.wait)();
            while let Ok(batch) = link.retired.pop() {
                if let Some(found) = batch.into_iter().find_map(&answer) {
                    return Some(found);
                }
            }
        }
        tracing::error!(worker, "the worker did not answer in time");
        None
    }
}

/// Tells a worker of the tunnel to a server. The next packet sees whether anything is known of its way.
fn set_tunnel(others: &OtherWorkers, word: u32) {
    if others.tunnel.get() & !tunnel::LEARNED != word {
        others.tunnel.set(word | tunnel::LEARNED);
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

impl WorkerLink {
    fn push_backlog(&mut self) {
        while let Some(batch) = self.backlog.pop_front() {
            if let Err(rtrb::PushError::Full(batch)) = self.updates.push(batch) {
                self.backlog.push_front(batch);
                return;
            }
        }
    }
}

impl Plane for Workers {
    fn apply(&mut self, changes: Vec<Change>) {
        self.service_rings();
        let mut batches: Vec<Batch> = self.links.iter().map(|_| Batch::new()).collect();
        let mut claims_differ = false;
        let addresses = Arc::clone(&self.server_addresses);
        for change in changes {
            claims_differ |= self.changes_claims(&change);
            self.note_server_addresses(&change);
            self.take_change(change, &mut batches);
        }
        // It is made of all services: a weight must not cost what a thousand services do.
        let lookup = claims_differ.then(|| Arc::new(self.lookup()));
        for (link, mut batch) in self.links.iter_mut().zip(batches) {
            batch.extend(lookup.iter().map(|lookup| Update::Lookup(Arc::clone(lookup))));
            if !Arc::ptr_eq(&addresses, &self.server_addresses) {
                batch.push(Update::ServerAddresses(Arc::clone(&self.server_addresses)));
            }
            link.backlog.push_back(batch);
            link.push_backlog();
        }
        self.follow_addresses();
    }

    fn server_totals(&self, id: ServerId) -> ServerTotals {
        let mut t = ServerTotals::default();
        let slots = self.servers.get(&id).map(|s| s.slots.as_slice()).unwrap_or_default();
        for c in slots.iter().map(|s| &s.counters) {
            t.active = t.active.wrapping_add(c.active.get());
            t.inactive = t.inactive.wrapping_add(c.inactive.get());
            t.persistent = t.persistent.wrapping_add(c.persistent.get());
            t.connections += c.connections.get();
            t.in_packets += c.in_packets.get();
            t.in_bytes += c.in_bytes.get();
            t.out_packets += c.out_packets.get();
            t.out_bytes += c.out_bytes.get();
        }
        t
    }

    fn sessions(&mut self, from: SessionCursor, max: usize) -> (Vec<model::Session>, Option<SessionCursor>) {
        let mut sessions = Vec::new();
        let mut at = from;
        while usize::from(at.worker) < self.links.len() && sessions.len() < max {
            let Some(page) = self.list(at.worker.into(), at.slot, max - sessions.len()) else {
                return (sessions, None);
            };
            sessions.extend(page.sessions);
            at = match page.next {
                Some(slot) => SessionCursor { worker: at.worker, slot },
                None => SessionCursor { worker: at.worker + 1, slot: 0 },
            };
        }
        (sessions, (usize::from(at.worker) < self.links.len()).then_some(at))
    }

    fn select(&mut self, selection: &Selection, from: SessionCursor, max: usize) -> Selected {
        let first = selection.filter.worker.unwrap_or(0);
        let last = selection.filter.worker.map_or(self.links.len(), |w| usize::from(w) + 1);
        let end = last.min(self.links.len());
        let inside = |at: &SessionCursor| usize::from(at.worker) < end;
        let from = if from.worker < first { SessionCursor { worker: first, slot: 0 } } else { from };
        let mut all = Selected { next: Some(from).filter(inside), ..Selected::default() };
        for _ in 0..SEARCH_STEPS {
            let Some(at) = all.next.filter(|_| all.sessions.len() < max) else { break };
            let room = max - all.sessions.len();
            let Some(page) = self.search(at.worker.into(), selection, at.slot, room) else {
                all.next = None;
                break;
            };
            all.killed += page.killed;
            all.sessions.extend(page.sessions);
            let next = match page.next {
                Some(slot) => SessionCursor { worker: at.worker, slot },
                None => SessionCursor { worker: at.worker + 1, slot: 0 },
            };
            all.next = Some(next).filter(inside);
        }
        all
    }

    fn address_kind(&self, address: IpAddr) -> AddressKind {
        (self.kind)(address)
    }

    fn has_port(&self, name: &str) -> bool {
        self.ports.iter().any(|p| p == name)
    }

    fn explain(&mut self, question: &Question) -> Option<Explanation> {
        self.ask_about(question)
    }

    fn begin_trace(&mut self, filter: &TraceFilter) -> Option<u64> {
        Workers::begin_trace(self, filter)
    }

    fn traced(&mut self, trace: u64, end: bool) -> Option<Haul> {
        self.take_traced(trace, end)
    }

    fn status(&self) -> PlaneStatus {
        PlaneStatus {
            workers: self.links.iter().map(load::of_worker).collect(),
            local_addresses: load::of_addresses(&self.links),
            ..PlaneStatus::default()
        }
    }

    fn counters(&self) -> Vec<PathCounter> {
        let each: Vec<_> = self.links.iter().map(|link| link.counters.all()).collect();
        let Some(first) = each.first() else { return Vec::new() };
        let rows = first.iter().enumerate().map(|(n, &(name, advice, _))| PathCounter {
            name: name.to_owned(),
            advice: advice.map(str::to_owned),
            workers: each.iter().map(|worker| worker[n].2).collect(),
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_servers_have_their_turn_and_those_of_before_not_again_at_once() {
        let (mut links, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (link, end) = connect(Arc::new(PathCounters::new().unwrap()));
            links.push(link);
            ends.push(end);
        }
        let mut workers = Workers::new(links, Vec::new(), Box::new(|| ()), Box::new(|_| AddressKind::Other));
        let count = SLOTS_A_TURN as u32; // for two workers, two turns
        for n in 0..count {
            let slot = |link: &WorkerLink| ServerSlot {
                counters: ServerFigures::of(&link.counters.servers, ServerId(n)).unwrap(),
                others: Arc::default(),
                limit: None,
                expected: 0,
            };
            let slots: Vec<_> = workers.links.iter().map(slot).collect();
            slots[0].counters.active.set(n);
            slots[1].counters.inactive.set(7);
            workers.servers.insert(ServerId(n), ServerState { slots });
        }
        let told = |workers: &Workers, n: u32| {
            let slots = &workers.servers[&ServerId(n)].slots;
            [0, 1].map(|w| [slots[w].others.active.get(), slots[w].others.inactive.get()])
        };
        workers.publish_loads(Tick(1));
        assert_eq!(told(&workers, 5), [[0, 7], [5, 0]]);
        assert_eq!(told(&workers, count - 1), [[0, 0], [0, 0]], "one turn was enough for all");
        workers.publish_loads(Tick(1));
        assert_eq!(told(&workers, count - 1), [[0, 7], [count - 1, 0]]);
        workers.servers[&ServerId(5)].slots[0].counters.active.set(9);
        workers.publish_loads(Tick(1));
        assert_eq!(told(&workers, 5), [[0, 7], [5, 0]], "a second turn in the same hundredth of a second");
        workers.publish_loads(Tick(2));
        assert_eq!(told(&workers, 5), [[0, 7], [9, 0]]);
    }
}
