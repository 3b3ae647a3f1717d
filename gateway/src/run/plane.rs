//! The data plane of the running gateway: the workers and the kernel.
//!
//! Local addresses (`-P`) are kernel addresses: each is put on the twin of the port named by `-F`, or else
//! of the port that the service's servers are routed through. Without a server there is no such port
//! yet, and the address waits for one. External addresses of SNAT are on the twin of their rule's port.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{info, warn};
use weir_api::model::{self, Forwarding, status::PortStatus};

use super::{server_hops::ServerHops, warnings};
use crate::{
    clock::Tick,
    control::{
        error::PlaneError,
        plane::{AddressKind, Plane, PlaneChange, PlaneStatus, ServiceState},
        workers::{WorkerLink, Workers},
    },
    host::{Host, NetState},
    io::PortId,
    mac::Mac,
    path::{
        flow::route::RouteTable,
        ingress::station::Stations,
        verdict::{Reason, Verdict},
    },
};

/// How long a fault is still warned of after it was last seen.
const RECENT: Duration = Duration::from_secs(60);

/// Workers and kernel.
pub struct GatewayPlane {
    /// The workers.
    pub workers: Workers,
    host: Option<Arc<Host>>,
    ports: Vec<String>,
    routes: Arc<RouteTable>,
    /// Local addresses that are on a twin by our doing, and which.
    placed: BTreeMap<IpAddr, PortId>,
    /// Those and the recently removed ones: the kernel's tables may still have them.
    ours: BTreeSet<IpAddr>,
    /// Whether the host looks at the kernel's ports.
    watching: bool,
    server_hops: ServerHops,
    stations: Arc<[(PortId, Mac)]>,
    started: Instant,
    port_status: Vec<PortStatus>,
    /// Why packet buffers aren't in huge pages, if they aren't.
    ordinary_memory: Option<String>,
    /// How many frames of TCP came unsplit, and when that was last seen to grow.
    unsplit: (u64, Option<Instant>),
}

impl GatewayPlane {
    /// Workers, and the host side if there is one; `ports` are the ports' names.
    #[must_use]
    pub fn new(workers: Workers, host: Option<Arc<Host>>, ports: Vec<String>) -> Self {
        Self {
            workers,
            host,
            ports,
            routes: Arc::default(),
            placed: BTreeMap::new(),
            ours: BTreeSet::new(),
            watching: false,
            server_hops: ServerHops::default(),
            stations: Arc::default(),
            started: Instant::now(),
            port_status: Vec::new(),
            ordinary_memory: None,
            unsplit: (0, None),
        }
    }

    /// What the ports say of themselves now.
    pub fn set_ports(&mut self, ports: Vec<PortStatus>) {
        self.port_status = ports;
        let unsplit = |link: &WorkerLink| link.counters.get(Verdict::Drop(Reason::Unsplit));
        let unsplit = self.workers.links().iter().map(unsplit).sum();
        if unsplit != self.unsplit.0 {
            self.unsplit = (unsplit, Some(Instant::now()));
        }
    }

    /// What a kernel on this machine has left to a device which doesn't exist, if it still does.
    fn unsplit_warning(&self) -> Option<String> {
        let (count, last) = self.unsplit;
        let recent = last.is_some_and(|last| last.elapsed() < RECENT);
        recent.then(|| {
            format!(
                "{count} TCP frames came over a veth unsegmented (`unsplit`): run ethtool -K INTERFACE tso \
                    off gso off at its other end"
            )
        })
    }

    /// Packet buffers are in ordinary memory; why.
    pub fn set_memory(&mut self, why: String) {
        self.ordinary_memory = Some(why);
    }

    /// Warnings other than the workers'.
    fn warnings(&self) -> Vec<String> {
        let faults = self
            .port_status
            .iter()
            .flat_map(|p| p.faults.iter().map(move |fault| format!("port {}: {fault}", p.name)));
        let state = self.host.as_ref().map(|host| host.state());
        let workers = &self.workers;
        let others = [
            self.ordinary_memory.as_deref().map(warnings::no_huge_pages),
            state.as_deref().and_then(|s| warnings::absent(workers.services(), s, workers.hears_vrrp())),
            warnings::unresolved(&self.silent(state.as_deref()), &self.ports),
            self.unsplit_warning(),
        ];
        let local = workers.warnings_of_local(self.host.is_some());
        faults.chain(others.into_iter().flatten()).chain(local).collect()
    }

    fn silent(&self, state: Option<&NetState>) -> warnings::Silent {
        let known = |port, address| self.workers.knows(port, address);
        warnings::silent(self.workers.services(), &self.routes, state, known)
    }

    /// Next hops that servers need and that don't answer, by the names of their ports.
    pub fn silent_hops(&self) -> BTreeSet<(String, IpAddr)> {
        let state = self.host.as_ref().map(|host| host.state());
        let silent = self.silent(state.as_deref());
        silent.into_iter().map(|(_, _, port, hop)| (self.name(port).to_owned(), hop)).collect()
    }

    /// Puts a route table in force. Local addresses that waited for a route may find their port now.
    pub fn set_routes(&mut self, table: Arc<RouteTable>) {
        self.workers.set_routes(&table);
        self.routes = table;
        self.server_hops.changed();
        self.place_local_addresses();
    }

    /// Next hops that are in use, as far as that is known since the last call: those of sessions, and every few seconds
    /// those of servers.
    pub fn hops_in_use(&mut self, now: Tick) -> Vec<(PortId, IpAddr)> {
        let sessions = self.workers.hops_in_use(now).into_iter().map(|hop| (hop.port, hop.address));
        let servers = self.server_hops.due(now, &self.workers, &self.routes).into_iter().flatten();
        sessions.chain(servers.copied()).collect()
    }

    /// Takes note of what else the kernel says.
    pub fn set_state(&mut self, state: &NetState) {
        self.ours.retain(|address| self.placed.contains_key(address) || state.is_local(*address));
        self.workers.set_kernel_ports(&state.kernel_ports);
        if self.stations != state.stations {
            self.stations = Arc::clone(&state.stations);
            self.workers.set_stations(Stations::new(state.stations.iter().copied()));
        }
    }

    fn port_of(&self, service: &ServiceState, local: &model::LocalAddress) -> Option<PortId> {
        if let Some(name) = &local.interface {
            let n = self.ports.iter().position(|p| p == name)?;
            return u8::try_from(n).ok().map(PortId);
        }
        // Those that it is for: a service may have servers of both families, and other methods and the gateway's own servers
        // need no local address.
        let routed = service.servers.iter().filter(|(_, s)| !self.routes.is_here(s.address));
        let served: Vec<_> =
            routed.filter(|(_, s)| s.address.is_ipv4() == local.address.is_ipv4()).map(|(_, s)| s).collect();
        let fullnat = served.iter().filter(|s| s.forwarding == Forwarding::FullNat);
        fullnat.chain(&served).find_map(|server| Some(self.routes.way(server.address)?.0))
    }

    fn place_local_addresses(&mut self) {
        let Some(host) = self.host.clone() else { return };
        let mut wanted = BTreeMap::new();
        let mut needed = HashSet::new();
        for service in self.workers.services() {
            for local in &service.local_addresses {
                needed.insert(local.address);
                if let Some(port) = self.port_of(service, local) {
                    wanted.entry(local.address).or_insert(port);
                }
            }
        }
        for rule in self.workers.snat() {
            let port = self.ports.iter().position(|p| *p == rule.port).and_then(|n| u8::try_from(n).ok());
            for address in rule.addresses() {
                needed.insert(address);
                if let Some(port) = port {
                    wanted.entry(address).or_insert(PortId(port));
                }
            }
        }
        // Sessions from a default address go on where their service has addresses of its own by now.
        needed.extend(self.workers.default_local_addresses());
        // An address without a port any more stays where it is as long as a service has it.
        let gone: Vec<IpAddr> = self.placed.keys().filter(|a| !needed.contains(a)).copied().collect();
        for address in gone {
            if let Some(port) = self.placed.remove(&address) {
                self.take_off(&host, address, port);
            }
        }
        for (address, port) in wanted {
            match self.placed.get(&address) {
                Some(at) if *at == port => continue,
                Some(at) => self.take_off(&host, address, *at),
                None => {}
            }
            match host.add_local(port, address) {
                Ok(new) => {
                    info!(%address, port = self.name(port), new, "local address is on the twin");
                    self.placed.insert(address, port);
                    if new {
                        self.ours.insert(address);
                    }
                }
                Err(error) => {
                    warn!(%address, port = self.name(port), %error, "cannot put the local address on the twin");
                }
            }
        }
    }

    fn take_off(&self, host: &Host, address: IpAddr, port: PortId) {
        if let Err(error) = host.remove_local(port, address) {
            warn!(%address, port = self.name(port), %error, "cannot take the local address off the twin");
        }
    }

    fn name(&self, port: PortId) -> &str {
        self.ports.get(port.index()).map_or("?", String::as_str)
    }
}

impl Plane for GatewayPlane {
    fn apply(&mut self, changes: Vec<PlaneChange>) {
        self.workers.apply(changes);
        self.server_hops.changed();
        self.place_local_addresses();
        let watch = self.workers.snat().any(|rule| rule.masquerade);
        if let Some(host) = self.host.as_ref().filter(|_| watch != self.watching) {
            host.watch_ports(watch);
            self.watching = watch;
        }
    }

    fn workers(&self) -> Result<&Workers, PlaneError> {
        Ok(&self.workers)
    }

    fn workers_mut(&mut self) -> Result<&mut Workers, PlaneError> {
        Ok(&mut self.workers)
    }

    fn is_ports_own(&self, address: IpAddr) -> bool {
        let on_a_port = matches!(self.address_kind(address), AddressKind::Own | AddressKind::Port);
        on_a_port && !self.ours.contains(&address)
    }

    fn status(&self) -> PlaneStatus {
        let of_workers = self.workers.status();
        PlaneStatus {
            uptime: self.started.elapsed().as_millis() as u64,
            ports: self.port_status.clone(),
            warnings: self.warnings().into_iter().chain(of_workers.warnings).collect(),
            ..of_workers
        }
    }
}
