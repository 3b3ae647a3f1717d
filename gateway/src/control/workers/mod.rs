//! The data plane made of workers: configuration becomes one batch of updates for each worker, and counters are
//! summed.
//!
//! Control keeps its own end of every ring and shares with a worker only what one side writes and the other
//! reads: counters. What a worker gives back is dropped here.

mod asker;
mod claims;
mod link;
mod local;
mod owners;
mod servers;
mod snat;
mod turns;
pub mod warnings;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use weir_api::model::{self, snat::SnatRule};

use self::{asker::Asker, claims::NatServer, local::Reach, owners::Owners, turns::SharingTurn};
pub(super) use self::{asker::Nobody, link::Ticket};
pub use self::{
    asker::{Ask, Wait},
    link::{MakePool, WorkerLink, WorkerTables, connect},
};
use super::{
    plane::{AddressKind, PlaneChange, PlaneStatus, ServiceState, SlotTotals},
    queries::{Ongoing, status},
};
use crate::{
    id::{ServerId, ServiceId, SlotId, SnatRuleId, WorkerId},
    io::{Hand, PortId},
    net::ethernet::Mac,
    path::{
        admin::update::{Batch, Update},
        flow::{
            route::{Neighbour, Resolve, RouteTable},
            service::ServerAddresses,
        },
        ingress::station::Stations,
        settings::Settings,
    },
    table::{
        call_ids::CallIds,
        counters::ServerSlot,
        snat::{BlockEvent, reserved::Reserved},
    },
};

/// Call-IDs that a worker remembers at once.
const MAX_CALLS: usize = 65_536;

/// What the gateway says of an address; see [`Plane::address_kind`](super::plane::Plane::address_kind).
pub type AddressOracle = Box<dyn Fn(IpAddr) -> AddressKind + Send>;

struct Configured {
    state: ServiceState,
    /// How workers reach the servers, in their order.
    reach: Vec<Reach>,
    server_changes: u64,
    /// It has, or has had, NAT servers: their sessions may be there still.
    nat: bool,
}

/// All workers.
pub struct Workers {
    pub(in crate::control) links: Vec<WorkerLink>,
    asker: Arc<Asker>,
    kind: AddressOracle,
    ports: Vec<String>,
    services: BTreeMap<ServiceId, Configured>,
    slots: BTreeMap<SlotId, Vec<ServerSlot>>,
    turn: SharingTurn,
    default_local_addresses: Arc<[IpAddr]>,
    /// Neighbours that are known.
    neighbours: HashMap<(PortId, IpAddr), Mac>,
    nat_servers: BTreeMap<ServerId, NatServer>,
    owners: Owners,
    /// Shared with the workers: what changes is a copy.
    server_addresses: Arc<ServerAddresses>,
    settings: Arc<Settings>,
    marks: Arc<[model::MarkRule]>,
    /// The SNAT rules.
    snat: Vec<(SnatRuleId, Arc<SnatRule>)>,
    /// The external addresses that workers know, and the own ones among them.
    snat_addresses: BTreeSet<IpAddr>,
    masquerade: BTreeMap<SnatRuleId, Option<IpAddr>>,
    /// Ports of own addresses that are the kernel's.
    snat_reserved: Arc<Reserved>,
    /// The route table in force.
    routes: Arc<RouteTable>,
    /// Addresses of the gateway itself that servers have: workers' tables have no way there.
    here: BTreeSet<IpAddr>,
    /// Where workers tell of port blocks, once they have room for SNAT.
    snat_log: Vec<rtrb::Consumer<BlockEvent>>,
    /// Whether the workers have been given room for Call-IDs.
    call_ids: bool,
    /// What queries keep.
    pub(in crate::control) kept: Ongoing,
}

impl Workers {
    /// Workers behind `links`; `ports` are the ports' names.
    #[must_use]
    pub fn new(links: Vec<WorkerLink>, ports: Vec<String>, wait: Wait, kind: AddressOracle) -> Self {
        Self {
            asker: Arc::new(Asker::new(&links, wait)),
            links,
            kind,
            ports,
            services: BTreeMap::new(),
            slots: BTreeMap::new(),
            turn: SharingTurn::default(),
            default_local_addresses: Arc::default(),
            neighbours: HashMap::new(),
            nat_servers: BTreeMap::new(),
            owners: Owners::default(),
            server_addresses: Arc::default(),
            settings: Arc::default(),
            marks: Arc::default(),
            snat: Vec::new(),
            snat_addresses: BTreeSet::new(),
            masquerade: BTreeMap::new(),
            snat_reserved: Arc::default(),
            routes: Arc::default(),
            here: BTreeSet::new(),
            snat_log: Vec::new(),
            call_ids: false,
            kept: Ongoing::default(),
        }
    }

    /// How long workers may take to answer a question.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        // Nobody else asks yet.
        if let Some(asker) = Arc::get_mut(&mut self.asker) {
            asker.set_patience(patience);
        }
        self
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

    /// The local addresses of services without their own.
    #[must_use]
    pub fn default_local_addresses(&self) -> &[IpAddr] {
        &self.default_local_addresses
    }

    /// Whether sessions may have Call-IDs.
    pub(in crate::control) fn has_call_ids(&self) -> bool {
        self.call_ids
    }

    /// Sends each worker its batch.
    pub(in crate::control) fn send_each(&mut self, batches: impl Iterator<Item = Batch>) {
        self.links.iter().zip(batches).for_each(|(link, batch)| link.send(batch));
    }

    /// The ports' names.
    pub(in crate::control) fn port_names(&self) -> &[String] {
        &self.ports
    }

    /// The mark rules in their order.
    pub(in crate::control) fn marks(&self) -> &[model::MarkRule] {
        &self.marks
    }

    /// Puts a route table in force.
    pub fn set_routes(&mut self, table: &Arc<RouteTable>) {
        let moved = !self.routes.has_own_of(table);
        let unmarks_others = !self.marks.is_empty() && !self.routes.has_broadcast_of(table);
        self.routes = Arc::clone(table);
        self.send_routes();
        if unmarks_others {
            let lookup = Arc::new(self.lookup());
            self.send_all(|_| vec![Update::Lookup(Arc::clone(&lookup))]);
        }
        if moved {
            self.follow_own();
        }
        self.follow_addresses();
    }

    /// Gives each worker another share of a device. Those that they had come back: [`Self::returned`].
    pub fn exchange(&mut self, device: PortId, hands: Vec<Hand>) {
        for (link, hand) in self.links.iter_mut().zip(hands) {
            let ticket = link.ask(vec![Update::Device(device, hand)]);
            link.exchanges.push((device, ticket));
        }
    }

    /// The shares of a device that the workers have given back, once all have.
    pub fn returned(&mut self, device: PortId) -> Option<Vec<Hand>> {
        let ticket = |link: &WorkerLink| {
            link.exchanges.iter().find(|(of, _)| *of == device).map(|(_, ticket)| *ticket)
        };
        if !self.links.iter().all(|link| ticket(link).is_some_and(|ticket| link.is_back(ticket))) {
            return None;
        }
        let take = |link: &mut WorkerLink| {
            let ticket = ticket(link)?;
            link.exchanges.retain(|(_, of)| *of != ticket);
            match link.take(ticket)?.pop()? {
                Update::Device(_, hand) => Some(hand),
                _ => None,
            }
        };
        Some(self.links.iter_mut().filter_map(take).collect())
    }

    /// Tells the workers of MAC addresses in addition to the ports' own.
    pub fn set_stations(&mut self, stations: Stations) {
        let stations = Arc::new(stations);
        self.send_all(|_| vec![Update::Stations(Arc::clone(&stations))]);
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

    /// Whether the workers know a neighbour's hardware address.
    #[must_use]
    pub fn knows(&self, port: PortId, address: IpAddr) -> bool {
        self.neighbours.contains_key(&(port, address))
    }

    /// Takes the workers' wishes for neighbours to be resolved. A worker that has forgotten one which is known is told
    /// again: there will be no news of it.
    pub fn take_resolves(&mut self) -> Vec<Resolve> {
        let mut wishes = Vec::new();
        for link in &mut self.links {
            let before = wishes.len();
            wishes.extend(link.wishes());
            let mine = wishes.get(before..).unwrap_or_default();
            let known: Batch = mine
                .iter()
                .filter_map(|Resolve { port, address }| {
                    let mac = *self.neighbours.get(&(*port, *address))?;
                    Some(Update::Neighbour(Neighbour { port: *port, address: *address, mac: Some(mac) }))
                })
                .collect();
            link.send(known);
        }
        wishes.dedup();
        wishes
    }

    /// Drops what the workers gave back and sends what had no room. To be called every few milliseconds.
    pub fn service_rings(&mut self) {
        self.links.iter().for_each(WorkerLink::service);
        self.end_silent_trace();
        self.tend_session_log();
    }

    pub(in crate::control) fn send_all(&mut self, make: impl Fn(usize) -> Batch) {
        self.links.iter().enumerate().for_each(|(n, link)| link.send(make(n)));
    }

    fn take_change(&mut self, change: PlaneChange, batches: &mut [Batch]) {
        match change {
            PlaneChange::SetService(state) => self.set_service(state, batches),
            PlaneChange::RemoveService(id) => {
                if let Some(old) = self.services.remove(&id) {
                    for (server, _) in &old.state.servers {
                        self.retire_server(*server, batches);
                    }
                }
                batches.iter_mut().for_each(|b| b.push(Update::Service(id, None)));
            }
            PlaneChange::Forget(id) => {
                self.slots.remove(&id);
                self.nat_servers.remove(&id.server());
                batches.iter_mut().for_each(|b| b.push(Update::Slot(id, None)));
            }
            PlaneChange::Marks(rules) => self.marks = rules,
            PlaneChange::DefaultLocalAddresses(addresses) => self.default_local_addresses = addresses,
            PlaneChange::Snat(rules) => self.set_snat(rules, batches),
            PlaneChange::Settings(settings) => {
                self.settings = settings;
                batches.iter_mut().for_each(|b| b.push(Update::Settings(Arc::clone(&self.settings))));
            }
        }
    }

    pub(in crate::control) fn set_service(&mut self, state: ServiceState, batches: &mut [Batch]) {
        let reach = self.reaches(&state);
        let before = self.services.get(&state.id);
        let server_changes = match before {
            Some(b) => b.server_changes + u64::from(b.state.servers != state.servers || b.reach != reach),
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
                    Err(error) => tracing::error!(%error, "not enough memory for Call-IDs: SIP services \
                        drop every packet"),
                }
            }
        }
        let nat = self.note_nat_servers(&state, &reach) || before_nat;
        self.owners.note(&state);
        if state.local_addresses.iter().any(|local| local.address.is_ipv6()) {
            self.make_pools_v6(batches);
        }
        for (n, batch) in batches.iter_mut().enumerate() {
            let service = self.worker_service(&state, &reach, WorkerId(n as u16), server_changes);
            batch.push(Update::Service(state.id, Some(Box::new(service))));
        }
        for id in gone {
            self.retire_server(id, batches);
        }
        self.services.insert(state.id, Configured { state, reach, server_changes, nat });
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
}

impl Workers {
    /// Makes changes in their order; every worker sees all of them between two bursts.
    pub(super) fn take_changes(&mut self, changes: Vec<PlaneChange>) {
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
            link.send(batch);
        }
        if !Arc::ptr_eq(&addresses, &self.server_addresses) {
            self.renew_here();
        }
        self.follow_addresses();
    }

    /// The counters of a slot over all workers. One that isn't in use has none.
    #[must_use]
    pub fn totals(&self, id: SlotId) -> SlotTotals {
        let mut t = SlotTotals::default();
        let slots = self.slots.get(&id).map(Vec::as_slice).unwrap_or_default();
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

    /// Whom to ask what only workers know.
    #[must_use]
    pub fn asker(&self) -> Arc<dyn Ask> {
        Arc::clone(&self.asker) as Arc<dyn Ask>
    }

    /// What `address` is to the gateway.
    #[must_use]
    pub fn address_kind(&self, address: IpAddr) -> AddressKind {
        (self.kind)(address)
    }

    /// Whether the gateway has a port of this name.
    #[must_use]
    pub fn has_port(&self, name: &str) -> bool {
        self.ports.iter().any(|p| p == name)
    }

    /// How they are.
    #[must_use]
    pub fn status(&self) -> PlaneStatus {
        PlaneStatus {
            workers: self.links.iter().map(status::of_worker).collect(),
            local_addresses: status::of_addresses(&self.links),
            warnings: self.warnings(),
            ..PlaneStatus::default()
        }
    }
}
