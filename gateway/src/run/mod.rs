//! The gateway from start to stop.
//!
//! ```text
//! socket claimed -> EAL -> ports -> workers' parts -> host side -> store with rules -> socket served -> lcores
//!   -> control loop, and with it the first packet -> links up, or waited for long enough -> `ready`
//! ```
//!
//! and back in reverse on SIGTERM: the socket goes first, so that nobody configures a gateway that is
//! leaving; the twins go when the workers no longer punt; EAL goes last. The end of a thread that is needed goes the same
//! way ([`crate::threads`]). SIGHUP is ignored, as there is nothing yet that it could have read anew, and so are the other
//! signals that daemons get.

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

use dpdk::{Eal, LogLevel, Mbuf, Memory};
use parking_lot::Mutex;
use thiserror::Error;
use tracing::{debug, error, info, warn};

use crate::{
    config::{Config, check::RuleError},
    control::{
        plane::AddressKind,
        rules::{Rules, RulesError},
        server::{Claim, Limits, ServerError},
        store::Store,
        workers::{self, WorkerTables, Workers},
    },
    host::{Hardware, Host, HostError, HostOptions, Publish},
    id::WorkerId,
    io::{
        PortId,
        dpdk::DpdkIo,
        ports::{self, OpenError, PortHandle},
        vlan::VlanIo,
    },
    log,
    path::{
        Parts, Worker,
        egress::{handover, punt::HostEnd},
        verdict::PathCounters,
    },
    prefix::Prefix,
    table::{
        index::HashKey,
        pool::{LocalPool, PoolConfig, PoolError, PortRange},
        steering::Steering,
    },
    threads::{self, Failure},
};

mod control;
mod devices;
mod frames;
mod mac_filter;
pub mod plane;
mod port_status;
mod prefault;
mod ready;
mod reattach;
pub mod routes;
mod server_hops;
mod signals;
mod warnings;
mod watchdog;
pub mod worker;

use control::{Control, News};
use devices::Devices;
use plane::GatewayPlane;
use routes::{Picture, PortLink, Tables};
use signals::Signals;
use worker::TscClock;

/// How often a worker that is ready to begin looks whether it may.
const BEGIN_ROUND: Duration = Duration::from_micros(100);

/// Why the gateway can't run.
#[derive(Debug, Error)]
pub enum RunError {
    /// DPDK.
    #[error("DPDK: {0}")]
    Dpdk(#[from] dpdk::Error),
    /// A port.
    #[error(transparent)]
    Port(#[from] OpenError),
    /// The pool of local addresses.
    #[error("local addresses: {0}")]
    Pool(#[from] PoolError),
    /// The kernel side.
    #[error("host side: {0}")]
    Host(#[from] HostError),
    /// The rules.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The control socket's group.
    #[error("socket_group: {0}")]
    Group(String),
    /// The control socket.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The system.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A thread ended before it was told to.
    #[error(transparent)]
    Thread(#[from] Failure),
}

fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

/// A worker's queues, by port.
type Ports = VlanIo<DpdkIo>;
type SharedStore = Arc<Mutex<Store<GatewayPlane>>>;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps the gateway from starting, or ends it.
pub fn run(config: &Config) -> Result<(), RunError> {
    let signals = Signals::handle().map_err(system("signals"))?;
    threads::watch(&signals.stop);
    let ended = run_watched(config, signals);
    threads::failure().map_or(ended, |failure| Err(failure.into()))
}

fn run_watched(config: &Config, signals: Signals) -> Result<(), RunError> {
    // Before anything is touched: a second gateway must not reach for the first one's ports.
    let permissions = config.socket_permissions().map_err(RunError::Group)?;
    let claim = Claim::new(&config.socket, permissions)?;
    let mut eal = Eal::init(&ports::eal_config(config, Some(log_dpdk)))?;
    // EAL has moved this thread off the workers' CPUs.
    log::follow_caller();
    info!(memory = ?eal.memory(), "EAL is up");
    let ended = serve(config, &mut eal, &signals, claim);
    if let Err(error) = eal.shutdown() {
        warn!(%error, "EAL did not end cleanly");
    }
    ended
}

fn log_dpdk(level: LogLevel, line: &str) {
    match level {
        LogLevel::Error => error!(target: "dpdk", "{line}"),
        LogLevel::Warning => warn!(target: "dpdk", "{line}"),
        LogLevel::Info => info!(target: "dpdk", "{line}"),
        LogLevel::Debug => debug!(target: "dpdk", "{line}"),
    }
}

fn serve(config: &Config, eal: &mut Eal, signals: &Signals, claim: Claim) -> Result<(), RunError> {
    let count = config.workers.count();
    let (shares, devices) = ports::open(eal, &config.ports, count)?;
    let handles: Vec<&PortHandle> =
        ports::places(&config.ports).iter().map(|place| &devices[usize::from(place.device)]).collect();
    let links = links(config, &handles);
    let ended = assemble(config, eal, signals, claim, shares, &handles, &links);
    for handle in devices {
        let name = handle.name().to_owned();
        if let Err(error) = handle.close() {
            warn!(port = name, %error, "the port did not close cleanly");
        }
    }
    ended
}

fn links(config: &Config, handles: &[&PortHandle]) -> Vec<PortLink> {
    let ports = handles.iter().zip(&config.ports);
    ports.map(|(h, port)| PortLink { mac: h.mac(), mtu: h.mtu_of(port) }).collect()
}

fn assemble(
    config: &Config,
    eal: &mut Eal,
    signals: &Signals,
    claim: Claim,
    shares: Vec<DpdkIo>,
    handles: &[&PortHandle],
    links: &[PortLink],
) -> Result<(), RunError> {
    let clock = TscClock::start();
    let steering = Arc::new(steering(config, handles));
    let pools: Vec<_> = handles.iter().map(|h| h.pool().clone()).collect();
    let allocate = move |port: PortId, bytes: &[u8]| pools.get(port.index())?.alloc_from(bytes);
    let (rings, ends) = frames::connect(shares.len(), Box::new(allocate));
    let host_ends: Vec<Option<HostEnd<Mbuf>>> =
        ends.into_iter().map(|end| config.host.then_some(end)).collect();
    let built = build_workers(config, shares, host_ends, handles, links, &steering, clock)?;

    let (news, inbox) = mpsc::channel();
    let devices = Devices::new(config, handles);
    let carriers: Vec<bool> = devices.states().iter().map(|device| device.up).collect();
    let host = if config.host { Some(start_host(config, &carriers, links, rings, news)?) } else { None };
    let names: Vec<String> = config.ports.iter().map(|p| p.name.clone()).collect();
    let wait = Box::new(|| std::thread::sleep(Duration::from_micros(50)));
    let control = Workers::new(built.links, names.clone(), wait, oracle(config, host.as_ref()));
    let mut plane = GatewayPlane::new(control, host.clone(), names);
    if let Memory::Ordinary { why, .. } = eal.memory() {
        plane.set_memory(why.clone());
    }
    let store: SharedStore = Arc::new(Mutex::new(Store::with_settings(plane, config.settings.clone())));
    let news = News::new(inbox);
    match &host {
        // The host side has published a first state by now.
        Some(_) => news.take_all(&store),
        None => control::take(Tables::new(config, links).without_kernel(), &store),
    }
    load_rules(config, &store)?;
    let server = claim.serve(store.clone(), Limits::default())?;

    let (stop, begin) = (&signals.stop, Arc::default());
    let running = launch(eal, built.workers, clock, config, stop, &begin)?;
    let ended = threads::catch("control", || {
        // Not before somebody sees to the neighbours that packets need.
        begin.store(true, Release);
        let host = host.as_deref();
        let control = Control { eal, config, handles, store: &store, host, clock, signals };
        control.run(&news, devices, &running)
    });
    stop.store(true, Relaxed);
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

/// Ownership by what the ports' RSS really does.
fn steering(config: &Config, handles: &[&PortHandle]) -> Steering {
    let rss: Vec<_> = handles.iter().map(|h| h.rss.as_ref().ok().cloned()).collect();
    for (handle, port) in handles.iter().zip(&config.ports).filter(|_| config.workers.count() > 1) {
        match &handle.rss {
            Ok(_) => info!(port = port.name, "RSS brings frames to their workers"),
            Err(why) => info!(port = port.name, why, "frames are handed over between workers"),
        }
    }
    Steering::for_ports(&rss, config.workers.count())
}

struct Built {
    workers: Vec<Worker<Ports>>,
    links: Vec<workers::WorkerLink>,
}

fn build_workers(
    config: &Config,
    shares: Vec<DpdkIo>,
    host_ends: Vec<Option<HostEnd<Mbuf>>>,
    handles: &[&PortHandle],
    links: &[PortLink],
    steering: &Arc<Steering>,
    clock: TscClock,
) -> Result<Built, RunError> {
    let key = match config.sessions.seed {
        Some(seed) => seed,
        None => random_seed().map_err(system("random numbers"))?,
    };
    let max_sessions = config.sessions.max_per_worker as usize;
    let peers = handover::connect(shares.len());
    let places = ports::places(&config.ports);
    let mut built = Built { workers: Vec::new(), links: Vec::new() };
    for (n, ((io, host), peers)) in shares.into_iter().zip(host_ends).zip(peers).enumerate() {
        let id = WorkerId(n as u16);
        let counters = Arc::new(PathCounters::new().map_err(system("the servers' counters"))?);
        let (mut link, control) = workers::connect(Arc::clone(&counters));
        let pool = PoolConfig {
            sessions: max_sessions,
            ports: PortRange {
                first: config.local_addresses.first_port,
                last: config.local_addresses.last_port,
            },
            seed: key ^ n as u64,
            ..PoolConfig::default()
        };
        let ports = pool.ports;
        let (steering_v6, config_v6) = (Arc::clone(steering), pool);
        link.make_pool_v6 = Some(Box::new(move || LocalPool::new(steering_v6, id, &config_v6)));
        let pool = LocalPool::new(Arc::clone(steering), id, &pool)?;
        link.tables = WorkerTables {
            max_sessions: config.sessions.max_per_worker,
            pool: Some(pool.usage()),
            pool_v6: None,
            ports: u32::from(ports.last) - u32::from(ports.first) + 1,
        };
        let parts = Parts {
            id,
            io: VlanIo::new(io, &places, Arc::clone(&counters))
                .finishing(ports::kernel_interfaces(&config.ports)),
            macs: links.iter().map(|l| l.mac).collect(),
            steered: handles.iter().map(|h| h.rss.is_ok()).collect(),
            max_sessions,
            key: HashKey::from_seed(key),
            pool,
            steering: Arc::clone(steering),
            counters,
            control,
            host,
            peers,
        };
        built.workers.push(Worker::new(parts, clock.now()).map_err(system("session table"))?);
        built.links.push(link);
    }
    Ok(built)
}

fn random_seed() -> std::io::Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn start_host(
    config: &Config,
    carriers: &[bool],
    links: &[PortLink],
    rings: frames::Rings<Mbuf>,
    news: mpsc::Sender<Picture>,
) -> Result<Arc<Host>, RunError> {
    let hardware: Vec<Hardware> =
        links.iter().zip(carriers).map(|(l, up)| Hardware { mac: l.mac, mtu: l.mtu, carrier: *up }).collect();
    // The channel's other end lives as long as the control loop; after it nobody needs the news.
    let mut tables = Tables::new(config, links);
    let publish: Publish = Box::new(move |state| drop(news.send(tables.update(state))));
    Ok(Arc::new(Host::start(HostOptions::new(config, &hardware), Box::new(rings), publish)?))
}

/// What an address is to the gateway.
fn oracle(config: &Config, host: Option<&Arc<Host>>) -> workers::AddressOracle {
    let host = host.cloned();
    let prefixes: Vec<_> = config.ports.iter().flat_map(|p| p.addresses.clone()).collect();
    Box::new(move |address: IpAddr| {
        let mut known = prefixes.clone();
        known.extend(
            host.iter().flat_map(|h| h.state().addresses.iter().map(|a| a.prefix).collect::<Vec<_>>()),
        );
        AddressKind::among(&known, address)
    })
}

fn load_rules(config: &Config, store: &SharedStore) -> Result<(), RunError> {
    if let Some(file) = &config.rules {
        let rules = Rules::read(file)?;
        if let Some(complaint) = rules.complaint() {
            warn!("{complaint}");
        }
        rules.apply(&mut store.lock())?;
        info!(file = %file.display(), rules = rules.len(), "rules loaded");
    }
    Ok(())
}

type Running = Vec<dpdk::Running<Option<Worker<Ports>>>>;

/// Starts the workers, which wait for `begin` before they take a packet.
fn launch(
    eal: &mut Eal,
    workers: Vec<Worker<Ports>>,
    clock: TscClock,
    config: &Config,
    stop: &Arc<AtomicBool>,
    begin: &Arc<AtomicBool>,
) -> Result<Running, RunError> {
    let idle = config.idle();
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
    // Ends when the last one is prepared.
    let _: Result<(), _> = preparing.recv();
    Ok(running)
}

/// Judges the text of a rules file for `weir --check`.
///
/// # Errors
/// The lines that can't be used, and why.
pub fn check_rules(config: &Config, text: &str) -> Result<(), Vec<RuleError>> {
    let ports: Vec<String> = config.ports.iter().map(|p| p.name.clone()).collect();
    let file = config.rules.clone().unwrap_or_default();
    let own: Vec<Prefix> = config.ports.iter().flat_map(|p| p.addresses.clone()).collect();
    let named = |p: &Prefix| [Some(p.address()), p.broadcast(), p.router_anycast()];
    let kinds = own.iter().flat_map(named).flatten().map(|a| (a, AddressKind::among(&own, a)));
    Rules::parse(&file, text.as_bytes()).and_then(|rules| rules.check(&ports, kinds)).map_err(|error| {
        match error {
            RulesError::Lines { lines, .. } => {
                lines.into_iter().map(|(line, reason)| RuleError { line, reason }).collect()
            }
            RulesError::Io { source, .. } => vec![RuleError { line: 0, reason: source.to_string() }],
        }
    })
}
