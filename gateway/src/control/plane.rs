//! What configuration needs of the data plane, so that the store can be tested without workers and the
//! workers without a socket.
//!
//! The store decides *what* is configured and speaks in whole services; the plane turns that into updates
//! for each worker. Everything here is called from control threads, never from a worker.

use std::{net::IpAddr, sync::Arc};

use weir_api::model::{
    self,
    explain::{Explanation, Question},
    status::{LocalAddressUse, PortStatus, WorkerStatus},
    trace::TraceFilter,
};
pub use weir_api::{
    model::{FoundSession, PathCounter},
    protocol::SessionCursor,
};

pub use super::{
    change::{AddressKind, Change, ServerTotals, ServiceState},
    error::PlaneError,
};
use super::{
    error::{Gone, Unsupported},
    queries::trace::Haul,
};
pub use crate::path::admin::search::Selection;
use crate::{
    id::ServerId,
    path::admin::{
        explain::question::{Explain, Packet},
        trace::Tracer,
    },
};

/// What was found of a [`Selection`] so far.
#[derive(Clone, Debug, Default)]
pub struct Selected {
    /// The sessions; none if they were to be ended.
    pub sessions: Vec<FoundSession>,
    /// Sessions ended.
    pub killed: u32,
    /// Where to go on, `None` at the end.
    pub next: Option<SessionCursor>,
}

/// A page of sessions and where to go on; `None`: that was all.
pub type SessionPage = (Vec<model::Session>, Option<SessionCursor>);

/// What workers say of a packet.
#[derive(Debug)]
pub struct Explained {
    /// The answer of the one that decides.
    pub answer: Box<Explain>,
    /// Workers in the order in which they have the packet.
    pub workers: Vec<u16>,
}

/// What only workers know. They are asked without a hold on the plane, because one may take its time, or hang.
pub trait Ask: Send + Sync {
    /// Up to `max` sessions from `from` on, and where to go on. Sessions that come and go meanwhile may be missed or
    /// listed once; the others are listed exactly once.
    ///
    /// # Errors
    /// A worker doesn't answer, and nothing was found before its turn.
    fn sessions(&self, from: SessionCursor, max: usize) -> Result<SessionPage, PlaneError>;

    /// Finds, or ends, up to `max` sessions from `from` on; a bounded number is looked at, so there may be
    /// none before the end. A plane without sessions finds none.
    ///
    /// # Errors
    /// As [`Ask::sessions`], and there is no such worker.
    fn select(&self, selection: &Selection, from: SessionCursor, max: usize) -> Result<Selected, PlaneError> {
        let _ = (selection, from, max);
        Ok(Selected::default())
    }

    /// What would happen to a packet.
    ///
    /// # Errors
    /// A worker doesn't answer. A plane without packets can't say.
    fn explain(&self, packet: Packet) -> Result<Explained, PlaneError> {
        let _ = packet;
        Err(NO_PACKETS)
    }

    /// Has each worker follow packets with its tracer. When it returns, all of them do.
    ///
    /// # Errors
    /// A worker doesn't answer; others may have their tracers.
    fn follow(&self, tracers: Vec<Tracer>) -> Result<(), PlaneError> {
        let _ = tracers;
        Err(NO_PACKETS)
    }
}

/// For a plane that only knows a configuration.
struct Nobody;

impl Ask for Nobody {
    fn sessions(&self, _: SessionCursor, _: usize) -> Result<SessionPage, PlaneError> {
        Ok((Vec::new(), None))
    }
}

const NO_PACKETS: PlaneError = PlaneError::Unsupported(Unsupported::NoPackets);

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

/// The data plane.
pub trait Plane: Send {
    /// Applies `changes` in order; every worker sees all of them between two bursts.
    fn apply(&mut self, changes: Vec<Change>);

    /// One server's figures. A number that isn't in use has none.
    fn server_totals(&self, id: ServerId) -> ServerTotals;

    /// What `address` is to the gateway: IPVS refuses servers at broadcast addresses.
    fn address_kind(&self, address: IpAddr) -> AddressKind;

    /// Whether `address` is one of a port, and not there for a service or SNAT only.
    fn is_ports_own(&self, address: IpAddr) -> bool {
        matches!(self.address_kind(address), AddressKind::Own | AddressKind::Port)
    }

    /// Whether the gateway has a port of this name (`-F`).
    fn has_port(&self, name: &str) -> bool;

    /// Whom to ask what only workers know. A plane without workers has no sessions.
    fn asker(&self) -> Arc<dyn Ask> {
        Arc::new(Nobody)
    }

    /// The packet that is asked about, as [`Ask::explain`] wants it.
    ///
    /// # Errors
    /// Nothing can be said of such packets.
    fn packet(&self, question: &Question) -> Result<Packet, PlaneError> {
        let _ = question;
        Err(NO_PACKETS)
    }

    /// What workers have said of a packet, with the configuration's names.
    ///
    /// # Errors
    /// The plane has no packets.
    fn explained(&self, answer: Explained) -> Result<Explanation, PlaneError> {
        let _ = answer;
        Err(NO_PACKETS)
    }

    /// Prepares to follow the packets that `filter` wants: the trace's number, and what [`Ask::follow`] gives the
    /// workers. [`Plane::trace_begun`] ends the preparation.
    ///
    /// # Errors
    /// Others are being followed. A plane without packets can't follow any.
    fn begin_trace(&mut self, filter: &TraceFilter) -> Result<(u64, Vec<Tracer>), PlaneError> {
        let _ = filter;
        Err(NO_PACKETS)
    }

    /// Every worker follows packets now, or not every one: then none is to.
    fn trace_begun(&mut self, trace: u64, by_all: bool) {
        let _ = (trace, by_all);
    }

    /// What was followed since, and the end of it if so.
    ///
    /// # Errors
    /// There is no such trace, or not any more.
    fn traced(&mut self, trace: u64, end: bool) -> Result<Haul, PlaneError> {
        let _ = end;
        Err(Gone::Trace(trace).into())
    }

    /// How it is. A plane without ports and workers has nothing to say.
    fn status(&self) -> PlaneStatus {
        PlaneStatus::default()
    }

    /// How packets have ended, worker by worker. A plane without packets has nothing to say.
    fn counters(&self) -> Vec<PathCounter> {
        Vec::new()
    }
}
