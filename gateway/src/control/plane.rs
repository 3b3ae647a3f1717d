//! What configuration needs of the data plane, so that the store can be tested without workers and the
//! workers without a socket.
//!
//! The store decides *what* is configured and speaks in whole services; the plane turns that into updates
//! for each worker. Everything here is called from control threads, never from a worker.

use std::{net::IpAddr, sync::Arc, time::Duration};

use weir_api::model;
pub use weir_api::{
    model::{FoundSession, PathCounter},
    protocol::SessionCursor,
};
use weir_api::{
    model::{
        explain::{Explanation, Question},
        status::{LocalAddressUse, PortStatus, WorkerStatus},
        trace::TraceFilter,
    },
    protocol::{ErrorCode, Refusal},
};

use super::trace::Haul;
pub use crate::path::admin::search::Selection;
use crate::{
    id::{ServerId, ServiceId},
    path::{
        admin::{
            explain::question::{Explain, Packet},
            trace::Tracer,
        },
        settings::Settings,
    },
    prefix::Prefix,
};

/// One change of the data plane's configuration.
#[derive(Clone, Debug)]
pub enum Change {
    /// The service is now like this: added, or replaced as a whole. Sessions aren't disturbed.
    SetService(ServiceState),
    /// The service is gone; its servers become unavailable, their sessions stay until they expire.
    RemoveService(ServiceId),
    /// Nothing refers to this deleted server any more: its number will be used again. A server that came
    /// and went within one batch is forgotten without ever having been told of.
    ForgetServer(ServerId),
    /// New settings and time-outs.
    Settings(Arc<Settings>),
    /// The SNAT rules are now these, in the order in which they were added; sessions of others end.
    Snat(Vec<(ServerId, Arc<weir_api::model::snat::SnatRule>)>),
    /// The mark rules are now these, in this order.
    Marks(Arc<[model::MarkRule]>),
}

/// A service with everything that belongs to it.
#[derive(Clone, Debug)]
pub struct ServiceState {
    /// Its number.
    pub id: ServiceId,
    /// Its configuration.
    pub service: model::Service,
    /// Its servers, the newest first (the order that scheduling sees).
    pub servers: Vec<(ServerId, model::Server)>,
    /// Its local addresses (`-P`), in the order they were added.
    pub local_addresses: Vec<model::LocalAddress>,
    /// How its FULLNAT servers learn the client's address.
    pub client_address: model::ClientAddress,
}

/// A server's figures summed over the workers. They count from the moment the [`ServerId`] came into use
/// and survive deletion of the server; zeroing (`-Z`) is the store's business: it remembers what to subtract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerTotals {
    /// Active sessions.
    pub active: u32,
    /// Inactive sessions.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// Sessions ever scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Bytes from clients.
    pub in_bytes: u64,
    /// Packets from the server.
    pub out_packets: u64,
    /// Bytes from the server.
    pub out_bytes: u64,
}

/// What an address is to the gateway itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressKind {
    /// One of the gateway's own addresses without a network: a virtual or a local address on a twin.
    Own,
    /// A port's own address, with the network that the port is in: the gateway's own connections come from it.
    Port,
    /// The broadcast address of a network that the gateway is in.
    Broadcast,
    /// The subnet-router anycast address of an IPv6 network that the gateway is in.
    RouterAnycast,
    /// Anything else.
    Other,
}

impl AddressKind {
    /// What an address is to a gateway that has `own` addresses.
    #[must_use]
    pub fn among(own: &[Prefix], address: IpAddr) -> Self {
        let mut same = own.iter().filter(|p| p.address() == address).peekable();
        if same.peek().is_some() {
            return if same.all(Prefix::is_host) { Self::Own } else { Self::Port };
        }
        if own.iter().any(|p| p.broadcast() == Some(address)) {
            return Self::Broadcast;
        }
        let anycast = own.iter().any(|p| p.router_anycast() == Some(address));
        if anycast { Self::RouterAnycast } else { Self::Other }
    }
}

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

/// Why a question has no answer. The end of a list is none of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaneError {
    /// A worker took too long: it hangs, or has very much to do.
    #[error("worker {worker} has not answered for {} s", patience.as_secs_f64())]
    TimedOut {
        /// Which one.
        worker: u16,
        /// How long it was waited for.
        patience: Duration,
    },
    /// What was asked about isn't there, or not any more.
    #[error("{0}")]
    Gone(String),
    /// Another one is being served.
    #[error("{0}")]
    Busy(&'static str),
    /// The plane can't do this.
    #[error("{0}")]
    Unsupported(&'static str),
}

impl From<PlaneError> for Refusal {
    fn from(error: PlaneError) -> Self {
        let code = match error {
            PlaneError::TimedOut { .. } => ErrorCode::TimedOut,
            PlaneError::Gone(_) => ErrorCode::Gone,
            PlaneError::Busy(_) => ErrorCode::TooMany,
            PlaneError::Unsupported(_) => ErrorCode::Unsupported,
        };
        Self::new(code, error.to_string())
    }
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

const NO_PACKETS: PlaneError = PlaneError::Unsupported("no packets are forwarded here");

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
        Err(PlaneError::Gone(format!("trace {trace}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_addresses() {
        let own =
            ["192.0.2.1/24", "192.0.2.9/32", "2001:db8::1/64", "2001:db8:1::1/127", "2001:db8:2::7/128"];
        let own: Vec<Prefix> = own.iter().map(|p| p.parse().unwrap()).collect();
        for (address, kind) in [
            ("192.0.2.1", AddressKind::Port),
            ("192.0.2.9", AddressKind::Own),
            ("192.0.2.255", AddressKind::Broadcast),
            ("192.0.2.0", AddressKind::Other),
            ("2001:db8::1", AddressKind::Port),
            ("2001:db8::", AddressKind::RouterAnycast),
            ("2001:db8::2", AddressKind::Other),
            // A link between two routers has none (RFC 6164), and a single address is no network.
            ("2001:db8:1::", AddressKind::Other),
            ("2001:db8:2::7", AddressKind::Own),
        ] {
            assert_eq!(AddressKind::among(&own, address.parse().unwrap()), kind, "{address}");
        }
        // Who gives a port its network's first address has said so.
        let first: Vec<Prefix> = vec!["2001:db8::/64".parse().unwrap()];
        assert_eq!(AddressKind::among(&first, "2001:db8::".parse().unwrap()), AddressKind::Port);
    }
}
