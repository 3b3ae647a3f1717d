//! Schedulers: which real server gets a new session.
//!
//! One file a scheduler, one trait. Every worker has its own instance of every service's scheduler. A change
//! of the service comes as a *new* instance, prepared by control with whatever tables it needs for the new
//! server list (so that a worker never allocates); the worker lets it [`Scheduler::inherit`] what the old
//! one must hand on, a rotation's position say, and swaps them.

use std::{any::Any, net::IpAddr, sync::Arc};

use crate::{
    clock::Tick,
    id::ServerId,
    table::counters::{OtherWorkers, ServerCounters},
};

/// A real server as a scheduler sees it. Lists are in IPVS's order: the newest server first.
#[derive(Clone, Debug)]
pub struct Server {
    /// Stable identity.
    pub id: ServerId,
    /// Address.
    pub address: IpAddr,
    /// Port, host order.
    pub port: u16,
    /// Weight; 0 = quiesced.
    pub weight: u32,
    /// Upper threshold (`-x`), 0 = none.
    pub upper: u32,
    /// This worker's figures.
    pub counters: Arc<ServerCounters>,
    /// The other workers' figures.
    pub others: Arc<OtherWorkers>,
}

impl Server {
    /// Active sessions over all workers.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.counters.active.get().wrapping_add(self.others.active.get())
    }
    /// Inactive sessions over all workers.
    #[must_use]
    pub fn inactive(&self) -> u32 {
        self.counters.inactive.get().wrapping_add(self.others.inactive.get())
    }
    /// Above its upper threshold: not to be chosen.
    #[must_use]
    pub fn overloaded(&self) -> bool {
        self.others.overloaded.get() != 0
    }
}

/// The packet that asks for a server. Ports are in host order.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Client address.
    pub source: IpAddr,
    /// Client port.
    pub source_port: u16,
    /// Virtual address.
    pub destination: IpAddr,
    /// Virtual port.
    pub destination_port: u16,
    /// Now.
    pub now: Tick,
}

/// A scheduling discipline with its state for one service on one worker.
pub trait Scheduler: Any + Send {
    /// The name in `-s`.
    fn name(&self) -> &'static str;

    /// Takes over what must outlive a change of the service: called on the new instance with the old
    /// one's state and both server lists. No allocation.
    fn inherit(&mut self, old: &dyn Scheduler, old_servers: &[Server], servers: &[Server]);

    /// Picks the index of a server for a new session, or `None` if none can take one.
    /// `servers` is the list this instance was prepared for. No allocation.
    fn schedule(&mut self, servers: &[Server], flow: &Flow) -> Option<usize>;
}
