//! A gateway's start, from open ports to running workers, and its end.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Relaxed, Release},
        },
        mpsc,
    },
    time::Duration,
};

use dpdk::{Eal, Mbuf, Memory};
use parking_lot::Mutex;
use tracing::error;

use super::{
    Ports, RunError, Running, SharedStore,
    control::{self, Control, News},
    devices::Devices,
    frames, load_rules,
    plane::GatewayPlane,
    prefault,
    routes::{Picture, PortLink, RoutingTables},
    signals::Signals,
    worker::{self, TscClock},
};
use crate::{
    config::Config,
    control::{
        change::AddressKind,
        server::{ClaimedSocket, ConnectionLimits},
        store::Store,
        workers::{AddressOracle, WorkerLink, Workers},
    },
    host::{Hardware, Host, HostOptions, Publish},
    io::{PortId, dpdk::DpdkIo, ports::PortHandle},
    path::{Worker, egress::punt::HostEnd},
    threads,
};

/// How often a worker that is ready to begin looks whether it may.
const BEGIN_ROUND: Duration = Duration::from_micros(100);

/// What a gateway is made from: its configuration and its open ports.
#[derive(Clone, Copy)]
pub(super) struct Start<'a> {
    pub config: &'a Config,
    pub signals: &'a Signals,
    /// The ports, in the configuration's order.
    pub handles: &'a [&'a PortHandle],
    /// Their MAC addresses and MTUs.
    pub links: &'a [PortLink],
    pub clock: TscClock,
}

impl Start<'_> {
    /// Builds everything, forwards until it is told to stop, and takes it down again. `shares` are the workers' queues.
    pub fn run(&self, eal: &mut Eal, claim: ClaimedSocket, shares: Vec<DpdkIo>) -> Result<(), RunError> {
        let Self { config, signals, handles, links, clock } = *self;
        let pools: Vec<_> = handles.iter().map(|h| h.pool().clone()).collect();
        let allocate = move |port: PortId, bytes: &[u8]| pools.get(port.index())?.alloc_from(bytes);
        let (rings, ends) = frames::connect(shares.len(), Box::new(allocate));
        let host_ends: Vec<Option<HostEnd<Mbuf>>> =
            ends.into_iter().map(|end| config.host.then_some(end)).collect();
        let built = self.build_workers(shares, host_ends)?;

        let (news, inbox) = mpsc::channel();
        let devices = Devices::new(config, handles);
        let carriers: Vec<bool> = devices.states().iter().map(|device| device.up).collect();
        let host = if config.host { Some(self.start_host(&carriers, rings, news)?) } else { None };
        let store = self.store(built.links, host.as_ref(), eal.memory());
        let news = News::new(inbox);
        match &host {
            // The host side has published a first state by now.
            Some(_) => news.take_all(&store),
            None => control::take(RoutingTables::new(config, links).without_kernel(), &store),
        }
        store.lock().check_defaults().map_err(RunError::DefaultLocalAddress)?;
        load_rules(config, &store)?;
        let server = claim.serve(store.clone(), ConnectionLimits::default())?;

        let begin = Arc::default();
        let running = self.launch(eal, built.workers, &begin)?;
        let ended = threads::catch("control", || {
            // Not before somebody sees to the neighbours that packets need.
            begin.store(true, Release);
            let host = host.as_deref();
            let control = Control { eal, config, handles, store: &store, host, clock, signals };
            control.run(&news, devices, &running)
        });
        signals.stop.store(true, Relaxed);
        drop(server);
        for lcore in running {
            if let (Err(_), _) = lcore.join() {
                error!("a worker panicked");
            }
        }
        drop(store);
        drop(host);
        ended.unwrap_or(Ok(()))
    }

    /// The configuration with the workers behind these links.
    fn store(&self, links: Vec<WorkerLink>, host: Option<&Arc<Host>>, memory: &Memory) -> SharedStore {
        let names: Vec<String> = self.config.ports.iter().map(|p| p.name.clone()).collect();
        let wait = Box::new(|| std::thread::sleep(Duration::from_micros(50)));
        let workers = Workers::new(links, names.clone(), wait, self.oracle(host));
        let mut plane = GatewayPlane::new(workers, host.cloned(), names);
        if let Memory::Ordinary { why, .. } = memory {
            plane.set_memory(why.clone());
        }
        let store = Store::with_settings(plane, self.config.settings.clone());
        Arc::new(Mutex::new(store.with_defaults(self.config.service_defaults())))
    }

    /// The kernel's side, which tells of itself by `news`.
    fn start_host(
        &self,
        carriers: &[bool],
        rings: frames::FrameRings<Mbuf>,
        news: mpsc::Sender<Picture>,
    ) -> Result<Arc<Host>, RunError> {
        let Self { config, links, .. } = *self;
        let hardware: Vec<Hardware> = links
            .iter()
            .zip(carriers)
            .map(|(l, up)| Hardware { mac: l.mac, mtu: l.mtu, carrier: *up })
            .collect();
        // The channel's other end lives as long as the control loop; after it nobody needs the news.
        let mut tables = RoutingTables::new(config, links);
        let publish: Publish = Box::new(move |state| drop(news.send(tables.update(state))));
        Ok(Arc::new(Host::start(HostOptions::new(config, &hardware), Box::new(rings), publish)?))
    }

    /// What an address is to the gateway.
    fn oracle(&self, host: Option<&Arc<Host>>) -> AddressOracle {
        let host = host.cloned();
        let prefixes: Vec<_> = self.config.ports.iter().flat_map(|p| p.addresses.clone()).collect();
        Box::new(move |address: IpAddr| {
            let mut known = prefixes.clone();
            known.extend(
                host.iter().flat_map(|h| h.state().addresses.iter().map(|a| a.prefix).collect::<Vec<_>>()),
            );
            AddressKind::among(&known, address)
        })
    }

    /// Starts the workers, which wait for `begin` before they take a packet.
    fn launch(
        &self,
        eal: &mut Eal,
        workers: Vec<Worker<Ports>>,
        begin: &Arc<AtomicBool>,
    ) -> Result<Running, RunError> {
        let Self { config, clock, .. } = *self;
        let (stop, idle) = (&self.signals.stop, config.idle());
        let lcores = eal.take_lcores();
        let mut running = Vec::new();
        let bytes = workers.iter().map(|worker| worker.sessions().populated_bytes()).sum();
        let prefault = config.sessions.prefault && prefault::is_affordable(bytes);
        let (prepared, preparing) = mpsc::channel();
        for (n, (lcore, mut worker)) in lcores.into_iter().zip(workers).enumerate() {
            let (stop_worker, begin, prepared) = (Arc::clone(stop), Arc::clone(begin), prepared.clone());
            let name = format!("worker {n}");
            let work = move || {
                if prefault {
                    prefault::provide(&mut worker);
                }
                drop(prepared);
                while !begin.load(Acquire) && !stop_worker.load(Relaxed) {
                    std::thread::sleep(BEGIN_ROUND);
                }
                let worker = worker::run(worker, clock, idle, &stop_worker);
                if !stop_worker.load(Relaxed) {
                    threads::fail(&name, "ended".to_owned());
                }
                worker
            };
            let name = format!("worker {n}");
            let launched = lcore.launch(move || threads::catch(&name, work));
            // Those that wait already are waited for in their turn.
            running.push(launched.inspect_err(|_| stop.store(true, Relaxed))?);
        }
        drop(prepared);
        // It ends when the last one is prepared.
        let _: Result<(), _> = preparing.recv();
        Ok(running)
    }
}
