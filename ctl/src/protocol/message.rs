//! Requests and responses.

use std::net::IpAddr;

use bincode::{Decode, Encode};

use super::{MAX_BATCH, MAX_INTERFACE, MAX_NAME};
use crate::model::{LocalAddress, Server, Service, ServiceKey, Session};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Answered by [`Response::Info`].
    Info,
    /// Change the configuration; answered by [`Response::Done`] once the workers will see it.
    Apply(Batch),
    /// Services with their servers, a page; answered by [`Response::Rows`].
    List(ListQuery),
    /// Sessions, a page; answered by [`Response::Sessions`].
    Sessions {
        /// Where to go on; absent to begin.
        from: Option<SessionCursor>,
        /// Most sessions wanted; the gateway may send fewer.
        max: u32,
    },
    /// Answered by [`Response::Timeouts`].
    Timeouts,
    /// How packets ended; answered by [`Response::Counters`].
    Counters,
}

/// Changes that happen all or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Batch {
    /// In this order.
    pub changes: Vec<Change>,
    /// Refuse the batch unless the configuration still has this generation.
    pub expect_generation: Option<u64>,
}

impl From<Change> for Batch {
    fn from(change: Change) -> Self {
        Self { changes: vec![change], expect_generation: None }
    }
}

/// One change of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Change {
    /// `-A`
    AddService(Service),
    /// `-E`: replaces everything but the key.
    EditService(Service),
    /// `-D`
    DeleteService(ServiceKey),
    /// `-C`
    Flush,
    /// `-a`
    AddServer {
        /// Of this service.
        service: ServiceKey,
        /// The server.
        server: Server,
    },
    /// `-e`: replaces everything but address and port.
    EditServer {
        /// Of this service.
        service: ServiceKey,
        /// The server.
        server: Server,
    },
    /// `-d`
    DeleteServer {
        /// Of this service.
        service: ServiceKey,
        /// The server's address.
        address: IpAddr,
        /// The server's port, host order.
        port: u16,
    },
    /// `-Z`: of one service and its servers, or of all.
    Zero(Option<ServiceKey>),
    /// `--set`: seconds; 0 keeps a value.
    SetTimeouts(Timeouts),
    /// `-P`
    AddLocalAddress {
        /// Of this service.
        service: ServiceKey,
        /// The address and its port.
        local: LocalAddress,
    },
    /// `-Q`
    DeleteLocalAddress {
        /// Of this service.
        service: ServiceKey,
        /// The address.
        address: IpAddr,
    },
}

/// The time-outs that `--set` sets and `-L --timeout` shows, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Timeouts {
    /// Of established TCP sessions.
    pub tcp: u32,
    /// Of TCP sessions that are being closed (FIN_WAIT).
    pub tcp_fin: u32,
    /// Of UDP sessions.
    pub udp: u32,
}

/// Which services to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ListQuery {
    /// Only this service; all when absent.
    pub service: Option<ServiceKey>,
    /// Where to go on; absent to begin.
    pub from: Option<ListCursor>,
    /// Most rows wanted; the gateway may send fewer.
    pub max: u32,
}

/// Where a listing goes on. Services and servers that exist from the first page to the last are listed
/// exactly once; those that come or go meanwhile once or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ListCursor {
    /// The service that was being listed, opaque.
    pub service: u64,
    /// Its server that was listed last, opaque; absent when the service hasn't been listed at all.
    pub server: Option<u64>,
}

/// Where a listing of sessions goes on, opaque.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SessionCursor {
    /// Worker being listed.
    pub worker: u16,
    /// First slot not yet looked at.
    pub slot: u32,
}

/// What the gateway answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Response {
    /// Nothing was done.
    Refused(super::Refusal),
    /// Everything was done.
    Done {
        /// Generation of the configuration that came of it.
        generation: u64,
    },
    /// About the gateway.
    Info(Info),
    /// A page of services and servers: each service is followed by its servers, the newest first.
    Rows {
        /// The rows.
        rows: Vec<Row>,
        /// Where to go on; absent at the end.
        next: Option<ListCursor>,
    },
    /// A page of sessions.
    Sessions {
        /// The sessions.
        sessions: Vec<Session>,
        /// Where to go on; absent at the end.
        next: Option<SessionCursor>,
    },
    /// The time-outs.
    Timeouts(Timeouts),
    /// Every counter of the packet path, in a fixed order.
    Counters(Vec<PathCounter>),
}

/// How many packets have ended in one way, or how often something else has happened to packets.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PathCounter {
    /// Its name, which stays: `forwarded`, `local-ports-exhausted`.
    pub name: String,
    /// For a reason to drop packets: what it means and what to do about it. Absent otherwise.
    pub advice: Option<String>,
    /// Each worker's count, in their order.
    pub workers: Vec<u64>,
}

/// About the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Info {
    /// Version of the gateway.
    pub version: String,
    /// Generation of the configuration: it grows with every batch that changes something.
    pub generation: u64,
}

/// A row of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Row {
    /// A service.
    Service(ServiceRow),
    /// A server of the service before it.
    Server(ServerRow),
}

/// A service as listed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ServiceRow {
    /// As configured.
    pub service: Service,
    /// Its local addresses, in the order they were added.
    pub local_addresses: Vec<LocalAddress>,
    /// What it has counted.
    pub stats: Stats,
    /// How fast it counts.
    pub rates: Rates,
}

/// A server as listed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ServerRow {
    /// As configured.
    pub server: Server,
    /// Active sessions.
    pub active: u32,
    /// Inactive sessions.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// What it has counted.
    pub stats: Stats,
    /// How fast it counts.
    pub rates: Rates,
}

/// Counts since the start or the last `-Z`, as of the last 2 s tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Stats {
    /// Sessions scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets from servers.
    pub out_packets: u64,
    /// Bytes from clients, IP total lengths.
    pub in_bytes: u64,
    /// Bytes from servers, IP total lengths.
    pub out_bytes: u64,
}

/// Rates a second as IPVS estimates them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Rates {
    /// Sessions.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets from servers.
    pub out_packets: u64,
    /// Bytes from clients.
    pub in_bytes: u64,
    /// Bytes from servers.
    pub out_bytes: u64,
}

impl Request {
    /// Whether it needs [`super::Access::ReadWrite`].
    #[must_use]
    pub fn changes(&self) -> bool {
        matches!(self, Self::Apply(_))
    }

    /// Holds the limits that the encoding itself doesn't impose.
    ///
    /// # Errors
    /// What is too long, and how long it may be.
    pub fn check(&self) -> Result<(), String> {
        let Self::Apply(batch) = self else { return Ok(()) };
        if batch.changes.len() > MAX_BATCH {
            return Err(format!("{} changes in one batch, at most {MAX_BATCH}", batch.changes.len()));
        }
        batch.changes.iter().try_for_each(Change::check)
    }
}

impl Change {
    fn check(&self) -> Result<(), String> {
        let limit = |what: &str, name: &str, max: usize| match name.len() {
            n if n > max => Err(format!("{what} of {n} bytes, at most {max}")),
            _ => Ok(()),
        };
        match self {
            Self::AddService(s) | Self::EditService(s) => {
                limit("scheduler name", &s.scheduler, MAX_NAME)?;
                s.engine.iter().try_for_each(|e| limit("persistence engine name", e, MAX_NAME))
            }
            Self::AddLocalAddress { local, .. } => {
                local.interface.iter().try_for_each(|i| limit("port name", i, MAX_INTERFACE))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn service(scheduler: &str) -> Service {
        Service {
            key: ServiceKey::Address { protocol: Protocol::Tcp, address: [192, 0, 2, 10].into(), port: 80 },
            scheduler: scheduler.into(),
            scheduler_flags: 0,
            persistent: None,
            netmask: u32::MAX,
            one_packet: false,
            engine: None,
        }
    }

    #[test]
    fn names_are_limited() {
        let ok = Request::Apply(Change::AddService(service("wlc")).into());
        assert_eq!(ok.check(), Ok(()));
        let long = Request::Apply(Change::EditService(service("a-very-long-name!")).into());
        assert_eq!(long.check(), Err("scheduler name of 17 bytes, at most 16".into()));
    }

    #[test]
    fn batches_are_limited() {
        let batch = Batch { changes: vec![Change::Flush; MAX_BATCH + 1], expect_generation: None };
        assert!(Request::Apply(batch).check().is_err());
    }
}
