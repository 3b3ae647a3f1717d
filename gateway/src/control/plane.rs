//! The interface between configuration and data plane, so that the store can be tested without workers and the
//! workers without a socket.
//!
//! The store decides *what* is configured and speaks in whole services; the plane turns that into updates for each
//! worker. Everything here is called from control threads, never from a worker. Queries of a plane with workers are
//! in [`queries`](super::queries).

use std::{net::IpAddr, sync::Arc};

use weir_api::model::status::{LocalAddressUse, PortStatus, WorkerStatus};

pub use super::change::{AddressKind, PlaneChange, ServiceState, SlotTotals};
use super::{
    error::{PlaneError, Unsupported},
    workers::{Ask, Nobody, Workers},
};
use crate::id::SlotId;

/// How the data plane is.
#[derive(Clone, Debug, Default)]
pub struct PlaneStatus {
    /// Milliseconds since the start.
    pub uptime: u64,
    /// The ports.
    pub ports: Vec<PortStatus>,
    /// The workers.
    pub workers: Vec<WorkerStatus>,
    /// Use of local addresses.
    pub local_addresses: Vec<LocalAddressUse>,
    /// What to look at.
    pub warnings: Vec<String>,
}

/// The data plane. One that is made of workers says so, and they answer what it doesn't answer itself.
pub trait Plane: Send {
    /// Applies `changes` in order; every worker sees all of them between two bursts.
    fn apply(&mut self, changes: Vec<PlaneChange>);

    /// The workers.
    ///
    /// # Errors
    /// It has none: it only knows a configuration.
    fn workers(&self) -> Result<&Workers, PlaneError> {
        Err(Unsupported::NoPackets.into())
    }

    /// The workers.
    ///
    /// # Errors
    /// As [`Plane::workers`].
    fn workers_mut(&mut self) -> Result<&mut Workers, PlaneError> {
        Err(Unsupported::NoPackets.into())
    }

    /// Whom to ask what only workers know.
    fn asker(&self) -> Arc<dyn Ask> {
        self.workers().map_or_else(|_| Arc::new(Nobody) as Arc<dyn Ask>, Workers::asker)
    }

    /// The counters of a slot. One that isn't in use has none.
    fn totals(&self, slot: SlotId) -> SlotTotals {
        self.workers().map(|workers| workers.totals(slot)).unwrap_or_default()
    }

    /// What `address` is to the gateway: IPVS refuses servers at broadcast addresses.
    fn address_kind(&self, address: IpAddr) -> AddressKind {
        self.workers().map_or(AddressKind::Other, |workers| workers.address_kind(address))
    }

    /// Whether `address` is one of a port, and not there for a service or SNAT only.
    fn is_ports_own(&self, address: IpAddr) -> bool {
        matches!(self.address_kind(address), AddressKind::Own | AddressKind::Port)
    }

    /// Whether the gateway has a port of this name (`-F`).
    fn has_port(&self, name: &str) -> bool {
        self.workers().is_ok_and(|workers| workers.has_port(name))
    }

    /// How it is. A plane without ports and workers has nothing to say.
    fn status(&self) -> PlaneStatus {
        self.workers().map(Workers::status).unwrap_or_default()
    }
}

impl Plane for Workers {
    fn apply(&mut self, changes: Vec<PlaneChange>) {
        self.take_changes(changes);
    }

    fn workers(&self) -> Result<&Workers, PlaneError> {
        Ok(self)
    }

    fn workers_mut(&mut self) -> Result<&mut Workers, PlaneError> {
        Ok(self)
    }
}
