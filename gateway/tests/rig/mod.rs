//! A gateway without DPDK: workers on memory I/O under the real configuration store, in virtual time.
//!
//! ```text
//! clients 10.1.0.0/16 --- port 0 (wan) | gateway | port 1 (lan) --- servers 10.0.0.0/24
//!                         VIPs 192.0.2.0/24         local addresses 10.0.0.240/28
//! ```
//!
//! Everybody's MAC address on either side is the same, so that any client and server exists. Frames are built
//! and read by etherparse, never by the code under test.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use weir::{
    clock::{TICKS_PER_SECOND, Tick},
    control::{
        plane::AddressKind,
        store::{ServiceDefaults, Store},
        workers::{self, WorkerTables, Workers},
    },
    host::KernelPorts,
    id::WorkerId,
    io::{
        PortId,
        memory::{MemoryFrame, MemoryIo},
        places,
        vlan::VlanIo,
    },
    net::ethernet::Mac,
    path::{
        Parts, Worker,
        egress::{handover, punt},
        flow::route::{Neighbour, PortFacts, Route, RouteTable, Via},
        settings::Settings,
        verdict::{PathCounters, Reason, Verdict},
    },
    table::{
        index::HashKey,
        pool::{LocalPool, PoolConfig, PortRange},
        steering::Steering,
    },
};
use weir_api::{
    client::{ClientError, Transport},
    model::{self, ServiceKey},
    protocol::{Access, Change, ListQuery, Request, Response, Row},
};

pub mod frames;

pub const WAN: PortId = PortId(0);
pub const LAN: PortId = PortId(1);
pub const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// MAC address of everybody on the client side.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// MAC address of everybody on the server side.
pub const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub const WAN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 255, 254);
pub const LAN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
pub const LIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 240);
pub const WAN_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0xfe);
pub const LAN_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xfe);
pub const LIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xf0);

/// What a rig is made of.
pub struct Options {
    pub workers: usize,
    pub max_sessions: usize,
    pub host: bool,
    /// First and last local port.
    pub ports: (u16, u16),
    pub lan_mtu: u16,
    /// The ports bring what isn't a fragment or an error to its owner.
    pub steered: bool,
    /// VLANs of [`WAN`] and [`LAN`].
    pub vlans: [Option<u16>; 2],
    /// Whether both are ports of one device.
    pub one_device: bool,
    /// Whether everything else is behind 10.1.0.1 and 2001:db8:c::1 on [`WAN`].
    pub default_route: bool,
    /// How long control waits for a worker's answer.
    pub patience: Duration,
    /// What services have that say nothing of their own.
    pub defaults: ServiceDefaults,
}

impl Default for Options {
    fn default() -> Self {
        let (vlans, one_device) = ([None; 2], false);
        Self {
            workers: 1,
            max_sessions: 4096,
            host: true,
            ports: (1024, 65535),
            lan_mtu: 1500,
            steered: false,
            vlans,
            one_device,
            default_route: false,
            patience: Duration::from_secs(5),
            defaults: ServiceDefaults::default(),
        }
    }
}

type SharedWorker = Arc<Mutex<Worker<VlanIo<MemoryIo>>>>;

/// The gateway.
pub struct Rig {
    workers: Vec<SharedWorker>,
    pub store: Store<Workers>,
    clock: Arc<AtomicU32>,
    vlans: [Option<u16>; 2],
    one_device: bool,
    pub counters: Vec<Arc<PathCounters>>,
    punted: Vec<rtrb::Consumer<(PortId, MemoryFrame)>>,
    pub inject: Vec<rtrb::Producer<(PortId, MemoryFrame)>>,
    /// Which neighbours answer.
    pub answers: fn(IpAddr) -> bool,
    /// The worker that answers no questions, if there is one.
    hanging: Arc<AtomicUsize>,
}

/// A frame that left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub port: PortId,
    pub bytes: Vec<u8>,
}

impl Rig {
    pub fn new() -> Self {
        Self::with(&Options::default())
    }

    pub fn with(options: &Options) -> Self {
        let clock = Arc::new(AtomicU32::new(0));
        let steering = Arc::new(Steering::software(options.workers as u16));
        let (mut links, mut shared) = (Vec::new(), Vec::new());
        let (mut punted, mut inject, mut counters) = (Vec::new(), Vec::new(), Vec::new());
        for (n, peers) in handover::connect(options.workers).into_iter().enumerate() {
            let path_counters = Arc::new(PathCounters::new().unwrap());
            let (mut link, control) = workers::connect(path_counters.clone());
            let pool = pool(&steering, n as u16, options);
            let ports = u32::from(options.ports.1 - options.ports.0) + 1;
            let max_sessions = options.max_sessions as u32;
            link.tables = WorkerTables { max_sessions, pool: Some(pool.usage()), pool_v6: None, ports };
            let (steering_v6, config_v6) = (steering.clone(), pool_config(options));
            let id = WorkerId(n as u16);
            link.make_pool_v6 = Some(Box::new(move || LocalPool::new(steering_v6, id, &config_v6)));
            let (to_host, from_path) = rtrb::RingBuffer::new(256);
            let (to_path, from_host) = rtrb::RingBuffer::new(256);
            let parts = Parts {
                id: WorkerId(n as u16),
                io: devices(options, path_counters.clone()),
                macs: vec![Mac(WAN_MAC), Mac(LAN_MAC)],
                steered: vec![options.steered; 2],
                max_sessions: options.max_sessions,
                key: HashKey::from_seed(42),
                pool,
                steering: steering.clone(),
                counters: path_counters.clone(),
                control,
                host: options.host.then(|| punt::HostEnd::new(to_host, from_host)),
                peers,
            };
            shared.push(Arc::new(Mutex::new(Worker::new(parts, Tick(0)).unwrap())));
            links.push(link);
            counters.push(path_counters);
            punted.push(from_path);
            inject.push(to_path);
        }
        let hanging = Arc::new(AtomicUsize::new(usize::MAX));
        let wait = waiter(shared.clone(), clock.clone(), hanging.clone());
        let own = |a: IpAddr| if is_own(a) { AddressKind::Own } else { AddressKind::Other };
        let plane = Workers::new(links, vec!["wan".into(), "lan".into()], wait, Box::new(own));
        let store = Store::new(plane.with_patience(options.patience)).with_defaults(options.defaults.clone());
        let &Options { vlans, one_device, .. } = options;
        let mut rig = Self {
            workers: shared,
            store,
            clock,
            vlans,
            one_device,
            counters,
            punted,
            inject,
            answers: |_| true,
            hanging,
        };
        rig.store.plane_mut().set_routes(&routes(options.lan_mtu, options.default_route));
        rig.store.plane_mut().set_neighbours(&[]);
        // As Linux has it, and somebody listens.
        let ports = KernelPorts { tcp: vec![8080], udp: vec![5353], ..KernelPorts::default() };
        rig.store.plane_mut().set_kernel_ports(&ports);
        rig.run();
        rig
    }

    /// The port `wan` has another address now, or none.
    pub fn renumber(&mut self, wan: Option<Ipv4Addr>) {
        self.store.plane_mut().set_routes(&routes_with(1500, false, wan));
        self.run();
    }

    /// Gives the gateway these addresses beside its ports' own.
    pub fn set_own(&mut self, addresses: &[IpAddr]) {
        let table = RouteTable::clone(&routes(1500, false)).with_own(addresses.iter().copied());
        self.store.plane_mut().set_routes(&Arc::new(table));
        self.run();
    }

    /// Lets the kernel send a frame out of a port's twin, and returns what left.
    pub fn send_from_kernel(&mut self, port: PortId, frame: &[u8]) -> Vec<Sent> {
        let worker = port.index() % self.inject.len();
        self.inject[worker].push((port, MemoryFrame::new(frame))).unwrap();
        self.run();
        self.run();
        self.take_sent()
    }

    /// Puts the same routes in force again, with another MTU towards the servers.
    pub fn new_routes(&mut self, lan_mtu: u16) {
        self.store.plane_mut().set_routes(&routes(lan_mtu, false));
        self.run();
    }

    /// From now on this worker answers no questions.
    pub fn hang(&mut self, worker: usize) {
        self.hanging.store(worker, Relaxed);
    }

    pub fn now(&self) -> Tick {
        Tick(self.clock.load(Relaxed))
    }

    /// Lets every worker work until nothing is left to do.
    pub fn run(&mut self) {
        loop {
            let frames: usize =
                self.workers.iter().map(|w| w.lock().unwrap().poll(Tick(self.clock.load(Relaxed)))).sum();
            self.resolve();
            let idle = |w: &SharedWorker| w.lock().unwrap().io_mut().devices_mut().is_idle();
            if frames == 0 && self.workers.iter().all(idle) {
                return;
            }
        }
    }

    /// Answers the workers' wishes for neighbours, as a kernel whose neighbours all answer would.
    fn resolve(&mut self) {
        let wishes = self.store.plane_mut().take_resolves();
        let found: Vec<Neighbour> = wishes
            .into_iter()
            .filter(|w| (self.answers)(w.address))
            .map(|w| {
                let mac = Mac(if w.port == WAN { CLIENT_MAC } else { SERVER_MAC });
                Neighbour { port: w.port, address: w.address, mac: Some(mac) }
            })
            .collect();
        if !found.is_empty() {
            self.store.plane_mut().set_neighbours(&found);
            for worker in &self.workers {
                worker.lock().unwrap().poll(Tick(self.clock.load(Relaxed)));
            }
        }
    }

    /// Moves the clock on, working all the while.
    pub fn advance(&mut self, seconds: f64) {
        let mut left = (seconds * f64::from(TICKS_PER_SECOND)).round() as u32;
        while left > 0 {
            let step = left.min(TICKS_PER_SECOND / 4);
            self.clock.fetch_add(step, Relaxed);
            left -= step;
            self.run();
            self.store.plane_mut().service_rings();
            let now = self.now();
            self.store.plane_mut().publish_loads(now);
            self.store.plane_mut().look_around(now);
            self.store.tick(kernel_time(self.now()));
        }
    }

    /// Lets worker 0 receive a frame, and returns what left.
    pub fn send(&mut self, port: PortId, frame: &[u8]) -> Vec<Sent> {
        self.send_to(0, port, MemoryFrame::new(frame))
    }

    /// Lets a worker receive a frame, and returns what left by any worker.
    pub fn send_to(&mut self, worker: usize, port: PortId, frame: MemoryFrame) -> Vec<Sent> {
        let device = self.device(port);
        self.workers[worker].lock().unwrap().io_mut().devices_mut().push(device, frame);
        self.run();
        self.run();
        self.take_sent()
    }

    /// Puts a frame into a worker's receive queue.
    pub fn receive(&mut self, worker: usize, port: PortId, frame: &[u8]) {
        let device = self.device(port);
        self.workers[worker].lock().unwrap().io_mut().devices_mut().push(device, MemoryFrame::new(frame));
    }

    /// Lets every worker work on a thread of its own, all at once, until nothing is left to do.
    pub fn run_on_threads(&mut self) {
        let now = self.now();
        std::thread::scope(|scope| {
            for worker in &self.workers {
                scope.spawn(move || (0..200).for_each(|_| _ = worker.lock().unwrap().poll(now)));
            }
        });
        self.run();
    }

    pub fn take_sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        for worker in &self.workers {
            let mut worker = worker.lock().unwrap();
            for device in [WAN, LAN] {
                let frames = worker.io_mut().devices_mut().take(device);
                let port = |bytes: &[u8]| if self.one_device { self.vlan_port(bytes) } else { device };
                let frames = frames.iter().map(MemoryFrame::bytes);
                sent.extend(frames.map(|bytes| Sent { port: port(&bytes), bytes }));
            }
        }
        sent
    }

    /// The device of a port.
    fn device(&self, port: PortId) -> PortId {
        if self.one_device { WAN } else { port }
    }

    /// The port that a frame of the one device is of, by its VLAN.
    fn vlan_port(&self, bytes: &[u8]) -> PortId {
        let tag = (bytes[12..14] == [0x81, 0]).then(|| u16::from_be_bytes([bytes[14], bytes[15]]) & 0xfff);
        if self.vlans[0] == tag { WAN } else { LAN }
    }

    /// What was punted since the last call.
    pub fn take_punted(&mut self) -> Vec<Sent> {
        let mut out = Vec::new();
        for ring in &mut self.punted {
            while let Ok((port, frame)) = ring.pop() {
                out.push(Sent { port, bytes: frame.bytes() });
            }
        }
        out
    }

    /// Sessions held by all workers.
    pub fn session_count(&self) -> usize {
        self.workers.iter().map(|w| w.lock().unwrap().sessions().len()).sum()
    }

    /// Packets that ended so, on all workers.
    pub fn count(&self, verdict: Verdict) -> u64 {
        self.counters.iter().map(|c| c.get(verdict)).sum()
    }

    pub fn drops(&self, reason: Reason) -> u64 {
        self.count(Verdict::Drop(reason))
    }

    /// A counter by its name, over all workers.
    pub fn event(&self, name: &str) -> u64 {
        let all = self.counters.iter().flat_map(|c| c.all());
        all.filter(|(n, ..)| *n == name).map(|(.., n)| n).sum()
    }

    pub fn total(&self) -> u64 {
        self.counters.iter().map(|c| c.total()).sum()
    }

    /// Applies one change; panics if it's refused.
    pub fn change(&mut self, change: Change) {
        let response = self.store.handle(Request::Apply(change.into()), Access::ReadWrite);
        assert!(matches!(response, Response::Done { .. }), "{response:?}");
        self.run();
    }

    /// `-A -t|-u VIP:port -s scheduler`, then `-P` of [`LIP`] where `local`.
    pub fn add_service(
        &mut self,
        protocol: model::Protocol,
        vip: [u8; 4],
        port: u16,
        scheduler: &str,
        local: bool,
    ) {
        let key = key(protocol, vip, port);
        self.change(Change::AddService(model::Service {
            key,
            scheduler: scheduler.into(),
            scheduler_flags: 0,
            persistent: None,
            netmask: u32::MAX,
            one_packet: false,
            engine: None,
        }));
        if local {
            let local = model::LocalAddress { address: LIP.into(), interface: None };
            self.change(Change::AddLocalAddress { service: key, local });
        }
    }

    /// A service as configured.
    pub fn service(&mut self, key: ServiceKey) -> model::Service {
        let query = ListQuery { service: Some(key), from: None, max: 1 };
        match self.store.handle(Request::List(query), Access::ReadOnly) {
            Response::Rows { rows, .. } => match rows.into_iter().next() {
                Some(Row::Service(row)) => row.service,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// A server's (active, inactive, persistent) counts.
    pub fn server_counts(&mut self, service: ServiceKey, address: [u8; 4]) -> (u32, u32, u32) {
        let query = ListQuery { service: Some(service), from: None, max: 100 };
        match self.store.handle(Request::List(query), Access::ReadOnly) {
            Response::Rows { rows, .. } => rows
                .into_iter()
                .find_map(|row| match row {
                    Row::Server(s) if s.server.address == IpAddr::from(address) => {
                        Some((s.active, s.inactive, s.persistent))
                    }
                    _ => None,
                })
                .expect("the server"),
            other => panic!("{other:?}"),
        }
    }

    /// `-a`
    pub fn add_server(&mut self, service: ServiceKey, server: model::Server) {
        self.change(Change::AddServer { service, server });
    }

    pub fn set_settings(&mut self, f: impl FnOnce(&mut Settings)) {
        let mut settings = self.store.settings().clone();
        f(&mut settings);
        self.store.replace_settings(settings);
        self.run();
    }

    /// All sessions, through the store.
    pub fn sessions(&mut self) -> Vec<model::Session> {
        let mut all = Vec::new();
        let mut from = None;
        loop {
            match self.store.handle(Request::Sessions { from, max: 256 }, Access::ReadOnly) {
                Response::Sessions { sessions, next } => {
                    all.extend(sessions);
                    if next.is_none() {
                        return all;
                    }
                    from = next;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

impl Transport for Rig {
    fn call(&mut self, request: Request) -> Result<Response, ClientError> {
        let response = self.store.handle(request, Access::ReadWrite);
        self.run();
        Ok(response)
    }
}

/// Two ports in memory: each a device, or VLANs of one.
fn devices(options: &Options, counters: Arc<PathCounters>) -> VlanIo<MemoryIo> {
    let devices = if options.one_device { [0, 0] } else { [0, 1] };
    let places = places(devices.iter().zip(options.vlans));
    VlanIo::new(MemoryIo::new(2), &places, counters)
}

fn waiter(workers: Vec<SharedWorker>, clock: Arc<AtomicU32>, hanging: Arc<AtomicUsize>) -> workers::Wait {
    Box::new(move || {
        let hanging = hanging.load(Relaxed);
        for worker in workers.iter().enumerate().filter(|(n, _)| *n != hanging).map(|(_, worker)| worker) {
            worker.lock().unwrap().poll(Tick(clock.load(Relaxed)));
        }
    })
}

/// The clock of Linux's estimator: its timer of 500 jiffies is rounded up to 504 by the timer wheel, so that
/// the recordings' ticks are 2.016 s apart.
fn kernel_time(now: Tick) -> Tick {
    Tick((u64::from(now.0) * 1000 / 1008) as u32)
}

fn is_own(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => [WAN_ADDRESS, LAN_ADDRESS].contains(&a),
        IpAddr::V6(a) => [WAN_ADDRESS_V6, LAN_ADDRESS_V6].contains(&a),
    }
}

fn pool(steering: &Arc<Steering>, worker: u16, options: &Options) -> LocalPool {
    LocalPool::new(steering.clone(), WorkerId(worker), &pool_config(options)).unwrap()
}

fn pool_config(options: &Options) -> PoolConfig {
    PoolConfig {
        sessions: options.max_sessions,
        ports: PortRange { first: options.ports.0, last: options.ports.1 },
        ..PoolConfig::default()
    }
}

fn routes(lan_mtu: u16, default_route: bool) -> Arc<RouteTable> {
    routes_with(lan_mtu, default_route, Some(WAN_ADDRESS))
}

fn routes_with(lan_mtu: u16, default_route: bool, wan: Option<Ipv4Addr>) -> Arc<RouteTable> {
    let route = |network: &str, prefix, port| Route {
        network: network.parse().unwrap(),
        prefix,
        via: [Via { port, gateway: None, weight: 1 }].into(),
        metric: 0,
        mtu: None,
    };
    let ports = vec![
        PortFacts { mac: Mac(WAN_MAC), mtu: 1500, address: wan, address_v6: Some(WAN_ADDRESS_V6) },
        PortFacts {
            mac: Mac(LAN_MAC),
            mtu: lan_mtu,
            address: Some(LAN_ADDRESS),
            address_v6: Some(LAN_ADDRESS_V6),
        },
    ];
    let routes = [
        route("10.1.0.0", 16, WAN),
        route("10.0.0.0", 24, LAN),
        route("192.0.2.0", 24, WAN),
        route("10.8.0.0", 13, LAN),
        route("0.0.0.0", 8, WAN),
        route("240.0.0.0", 4, WAN),
        route("2001:db8::", 64, WAN),
        route("2001:db8:c::", 48, WAN),
        route("2001:db8:1::", 64, LAN),
    ];
    let mut routes = routes.to_vec();
    for (network, gateway) in [("0.0.0.0", "10.1.0.1"), ("::", "2001:db8:c::1")] {
        let mut default = route(network, 0, WAN);
        let via = Via { gateway: Some(gateway.parse().unwrap()), ..default.via[0] };
        default.via = [via].into();
        routes.extend(default_route.then_some(default));
    }
    let broadcast = [[10, 1, 255, 255], [10, 0, 0, 255]].map(IpAddr::from);
    Arc::new(RouteTable::new(&routes, ports).with_broadcast(broadcast))
}

/// The key of a service.
pub fn key(protocol: model::Protocol, vip: [u8; 4], port: u16) -> ServiceKey {
    ServiceKey::Address { protocol, address: Ipv4Addr::from(vip).into(), port }
}

/// A server.
pub fn server(address: [u8; 4], port: u16, forwarding: model::Forwarding, weight: u32) -> model::Server {
    model::Server { address: Ipv4Addr::from(address).into(), port, forwarding, weight, upper: 0, lower: 0 }
}
