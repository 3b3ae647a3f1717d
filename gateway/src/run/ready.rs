//! Reports that the gateway forwards, and its state from then on.

use std::{
    io::Write,
    thread::Builder,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tracing::{info, warn};
use weir_api::model::status::PortStatus;

use super::{RunError, system};

/// How long a start waits for links: the slowest negotiate for some seconds. Then it does without.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether `ready` has been said, and what the service manager knows.
pub(super) struct Readiness {
    begun: Instant,
    said: bool,
    /// What is wrong with the ports, as last told.
    told: String,
}

impl Readiness {
    /// Nothing has been said.
    pub fn new() -> Self {
        Self { begun: Instant::now(), said: false, told: String::new() }
    }

    /// Whether `ready` has been said.
    pub fn is_said(&self) -> bool {
        self.said
    }

    /// Says `ready` once all ports are up, or after a while with those that are; from then on tells the service manager
    /// what is wrong with them.
    pub fn tell(&mut self, ports: &[PortStatus]) -> Result<(), RunError> {
        let faults = faults(ports);
        if !self.said && (faults.is_empty() || self.begun.elapsed() >= PATIENCE) {
            self.said = true;
            say_ready()?;
            notify(NotifyState::Ready);
            if faults.is_empty() {
                info!("ready");
            } else {
                warn!("ready, degraded: {faults}");
            }
        }
        if self.said && self.told != faults {
            let status = if faults.is_empty() { "forwarding".into() } else { format!("degraded: {faults}") };
            notify(NotifyState::Status(&status));
            self.told = faults;
        }
        Ok(())
    }
}

fn faults(ports: &[PortStatus]) -> String {
    let each =
        ports.iter().flat_map(|p| p.faults.iter().map(move |fault| format!("port {}: {fault}", p.name)));
    each.collect::<Vec<_>>().join("; ")
}

/// Prints `ready` on stdout, from a thread of its own: the program that started the gateway may not read its output.
fn say_ready() -> Result<(), RunError> {
    let say = || {
        let mut out = std::io::stdout();
        if let Err(error) = writeln!(out, "ready").and_then(|()| out.flush()) {
            warn!(%error, "can't print `ready` on stdout");
        }
    };
    Builder::new().name("weir-ready".into()).spawn(say).map(drop).map_err(system("a thread"))
}

/// Tells the service manager, if there is one.
pub(super) fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "cannot notify the service manager");
    }
}
