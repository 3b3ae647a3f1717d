//! The gateway from start to stop.
//!
//! ```text
//! socket claimed -> EAL -> ports -> workers' parts -> host side -> store with rules -> socket served -> lcores
//!   -> control loop, and with it the first packet -> links up, or waited for long enough -> `ready`
//! ```
//!
//! and back in reverse on SIGTERM: the socket goes first, so that a gateway that is stopping can't be configured; the
//! twins go when the workers no longer punt; EAL goes last. The end of a thread that is needed goes the same way
//! ([`crate::threads`]). SIGHUP is ignored, as the gateway can't reload anything, and so are the other signals that
//! daemons get.

use std::sync::Arc;

use dpdk::{Eal, LogLevel};
use parking_lot::Mutex;
use thiserror::Error;
use tracing::{debug, error, info, warn};
use weir_api::model::event::EventKind;

use crate::{
    config::{Config, check::RuleError},
    control::{
        change::AddressKind,
        rules::{RulesError, RulesFile},
        server::{ClaimedSocket, ServerError},
        store::Store,
    },
    host::HostError,
    io::{
        dpdk::DpdkIo,
        ports::{self, OpenError, PortHandle},
        vlan::VlanIo,
    },
    log,
    path::Worker,
    prefix::Prefix,
    table::pool::PoolError,
    threads::{self, Failure},
};

mod build;
mod control;
mod devices;
mod frames;
mod happenings;
mod mac_filter;
pub mod plane;
mod port_status;
mod prefault;
mod ready;
mod reattach;
pub mod routes;
mod server_hops;
mod signals;
mod start;
mod warnings;
mod watchdog;
pub mod worker;

use plane::GatewayPlane;
use routes::PortLink;
use signals::Signals;
use start::Start;
use worker::TscClock;

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
    /// `[local_addresses] default`, and what is wrong with it.
    #[error("[local_addresses] default: {0}")]
    DefaultLocalAddress(String),
    /// The kernel side.
    #[error("host side: {0}")]
    Host(#[from] HostError),
    /// The rules.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A control socket's group.
    #[error("{key}: {reason}")]
    Group {
        /// The key that names it.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
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
/// Errors that keep the gateway from starting, or end it.
pub fn run(config: &Config) -> Result<(), RunError> {
    let signals = Signals::handle().map_err(system("signals"))?;
    threads::watch(&signals.stop);
    let ended = run_watched(config, signals);
    threads::failure().map_or(ended, |failure| Err(failure.into()))
}

fn run_watched(config: &Config, signals: Signals) -> Result<(), RunError> {
    // Before anything is touched: a second gateway must not reach for the first one's ports.
    let claim = claim(config)?;
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

fn claim(config: &Config) -> Result<ClaimedSocket, RunError> {
    let group = |key| move |reason| RunError::Group { key, reason };
    let permissions = config.socket_permissions().map_err(group("socket_group"))?;
    let claim = ClaimedSocket::new(&config.socket, permissions)?;
    let Some(path) = &config.read_socket else { return Ok(claim) };
    let permissions = config.read_socket_permissions().map_err(group("read_socket_group"))?;
    Ok(claim.and_reading(path, permissions)?)
}

fn log_dpdk(level: LogLevel, line: &str) {
    match level {
        LogLevel::Error => error!(target: "dpdk", "{line}"),
        LogLevel::Warning => warn!(target: "dpdk", "{line}"),
        LogLevel::Info => info!(target: "dpdk", "{line}"),
        LogLevel::Debug => debug!(target: "dpdk", "{line}"),
    }
}

fn serve(config: &Config, eal: &mut Eal, signals: &Signals, claim: ClaimedSocket) -> Result<(), RunError> {
    let count = config.workers.count();
    let (shares, devices) = ports::open(eal, &config.ports, count)?;
    let handles: Vec<&PortHandle> =
        ports::places(&config.ports).iter().map(|place| &devices[usize::from(place.device)]).collect();
    let links = links(config, &handles);
    let start = Start { config, signals, handles: &handles, links: &links, clock: TscClock::start() };
    let ended = start.run(eal, claim, shares);
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

fn load_rules(config: &Config, store: &SharedStore) -> Result<(), RunError> {
    if let Some(file) = &config.rules {
        let rules = RulesFile::read(file)?;
        if let Some(complaint) = rules.complaint() {
            warn!("{complaint}");
        }
        rules.apply(&mut store.lock())?;
        let (count, path) = (rules.len(), file.display());
        let fields: [(&str, &dyn std::fmt::Display); 2] = [("changes", &count), ("file", &path)];
        store.lock().events().tell(EventKind::RulesApplied, &fields, format!("{count} rules of {path}"));
        info!(file = %file.display(), rules = rules.len(), "rules loaded");
    }
    Ok(())
}

type Running = Vec<dpdk::Running<Option<Worker<Ports>>>>;

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
    RulesFile::parse(&file, text.as_bytes())
        .and_then(|rules| rules.check(&ports, kinds, config.service_defaults()))
        .map_err(|error| match error {
            RulesError::Lines { lines, .. } => {
                lines.into_iter().map(|(line, reason)| RuleError { line, reason }).collect()
            }
            RulesError::Io { source, .. } => vec![RuleError { line: 0, reason: source.to_string() }],
        })
}
