//! Requests and responses.

use std::net::IpAddr;

use bincode::{Decode, Encode};

use super::{MAX_BATCH, MAX_INTERFACE, MAX_NAME, MAX_TRANSACTION};
use crate::model::{
    ClientAddress, FoundSession, LocalAddress, MarkRule, Masquerade, MasqueradeSettings, PathCounter, Rates,
    Server, Service, ServiceKey, Session, SessionFilter, Stats, Timeouts,
    event::EventPage,
    explain::{Explanation, Question},
    session_log::SessionLogPage,
    snat::{self, SnatRow, SnatRule},
    status::{Notice, Status},
    trace::{TraceFilter, TracedPacket},
};

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
    /// How the gateway is; answered by [`Response::Status`]. Since version 2, as everything that follows.
    Status,
    /// Certain sessions with their times, a page; answered by [`Response::Found`].
    FindSessions {
        /// Which ones.
        filter: SessionFilter,
        /// Where to go on; absent to begin.
        from: Option<SessionCursor>,
        /// Most sessions wanted; the gateway may send fewer, none even, before the end.
        max: u32,
    },
    /// End certain sessions, as many as are found at once; answered by [`Response::Killed`].
    KillSessions {
        /// Which ones.
        filter: SessionFilter,
        /// Where to go on; absent to begin.
        from: Option<SessionCursor>,
    },
    /// Changes that come before those of this connection's next [`Request::Apply`]: a transaction larger than a
    /// frame. Answered by [`Response::Staged`]. What is wrong with them is said when they are applied.
    Stage(Vec<Change>),
    /// From now on this connection carries one [`Response::Notice`] whenever something is new, the first at
    /// once, and takes no more requests.
    Subscribe,
    /// The mark rules in their order; answered by [`Response::Marks`].
    Marks,
    /// What would happen to a packet; answered by [`Response::Explained`]. Since version 8: before, answers had no way back.
    Explain(Question),
    /// The services whose servers learn the client's address; answered by [`Response::ClientAddresses`].
    ClientAddresses,
    /// Follow packets; answered by [`Response::Tracing`]. The gateway follows for one client at a time, and no
    /// longer than the client asks for what it has: every 5 s at least.
    Trace(TraceFilter),
    /// What was followed since; answered by [`Response::Traced`].
    Traced {
        /// The trace.
        trace: u64,
    },
    /// Stop the trace; answered by [`Response::Traced`] with the rest.
    EndTrace {
        /// The trace.
        trace: u64,
    },
    /// The SNAT rules in the order in which they were added; answered by [`Response::Snat`]. Since version 7, as all
    /// that has such rules: before, they held IPv4 addresses.
    Snat,
    /// The time-outs that the gateway began with, before anybody set others; answered by [`Response::Timeouts`]. Since
    /// version 8.
    InitialTimeouts,
    /// What has happened, a page; answered by [`Response::Events`]. Since version 9.
    Events {
        /// Number of the first event that is wanted; those before it are left out.
        from: u64,
        /// Most events wanted; the gateway may send fewer.
        max: u32,
    },
    /// Sessions as they are opened and closed, a page; answered by [`Response::SessionLog`]. The gateway keeps a log as
    /// long as somebody asks for it, every 5 s at least; what happens meanwhile is for everybody who asks. Since version
    /// 10.
    SessionLog {
        /// Which sessions.
        filter: SessionFilter,
        /// Position of the first record that is wanted, as a page before said; absent to begin with what happens next.
        from: Option<u64>,
        /// Most records wanted; the gateway may send fewer, none even, before the end.
        max: u32,
    },
    /// What `-m` means; answered by [`Response::Masquerade`]. Since version 10.
    Masquerade,
    /// The local addresses of services that have none of their own; answered by [`Response::DefaultLocalAddresses`].
    /// Since version 10.
    DefaultLocalAddresses,
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
    /// Gives a server the weight 0 and remembers the one it had. Since version 2.
    Drain {
        /// Of this service.
        service: ServiceKey,
        /// The server's address.
        address: IpAddr,
        /// The server's port, host order.
        port: u16,
    },
    /// Gives a drained server its weight back. Since version 2.
    Undrain {
        /// Of this service.
        service: ServiceKey,
        /// The server's address.
        address: IpAddr,
        /// The server's port, host order.
        port: u16,
        /// This weight instead of the one that was remembered.
        weight: Option<u32>,
    },
    /// `weirctl mark add`
    AddMark(MarkRule),
    /// `weirctl mark delete`: the rule that equals this one.
    DeleteMark(MarkRule),
    /// `weirctl mark clear`
    ClearMarks,
    /// `weirctl client-address`
    SetClientAddress {
        /// Of this service.
        service: ServiceKey,
        /// How its servers learn the client's address.
        how: ClientAddress,
    },
    /// `weirctl snat add`. Since version 7: version 6's rules have no time-outs.
    AddSnat(SnatRule),
    /// `weirctl snat delete`: the rule of this name; its sessions end.
    DeleteSnat(String),
    /// `weirctl snat clear`
    ClearSnat,
    /// `weirctl snat edit`: replaces the rule of the same name; its sessions go on. Since version 7.
    EditSnat(SnatRule),
    /// `-a -m`: adds a server by NAT or FULLNAT, whichever `-m` means to the service. The server's own method doesn't
    /// count. Since version 10; before, `-m` is [`Change::AddServer`] with NAT.
    AddMasqueraded {
        /// Of this service.
        service: ServiceKey,
        /// The server.
        server: Server,
    },
    /// `-e -m`: as [`Change::EditServer`]. A server that has NAT or FULLNAT keeps its method, another one gets the method
    /// that `-m` means to the service. Since version 10.
    EditMasqueraded {
        /// Of this service.
        service: ServiceKey,
        /// The server.
        server: Server,
    },
    /// `weirctl masquerade`. Servers that are there keep their methods. Since version 10.
    SetMasquerade {
        /// Of this service.
        service: ServiceKey,
        /// What `-m` means to it; absent: what the gateway's configuration says.
        how: Option<Masquerade>,
    },
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
    /// How the gateway is.
    Status(Status),
    /// A page of sessions with their times.
    Found {
        /// The sessions.
        sessions: Vec<FoundSession>,
        /// Where to go on; absent at the end.
        next: Option<SessionCursor>,
    },
    /// Sessions have been ended.
    Killed {
        /// How many.
        sessions: u32,
        /// Where to go on; absent at the end.
        next: Option<SessionCursor>,
    },
    /// The changes wait for [`Request::Apply`].
    Staged {
        /// How many wait now.
        changes: u32,
    },
    /// What is new.
    Notice(Notice),
    /// All mark rules.
    Marks(Vec<MarkRule>),
    /// What would happen to the packet.
    Explained(Box<Explanation>),
    /// Services whose servers learn the client's address, and how.
    ClientAddresses(Vec<(ServiceKey, ClientAddress)>),
    /// Packets are followed from now on.
    Tracing {
        /// Number of the trace.
        trace: u64,
    },
    /// Packets that were followed, as many as fit.
    Traced {
        /// In the order in which each worker had them.
        packets: Vec<TracedPacket>,
        /// Packets that were lost for want of room since the trace began.
        lost: u64,
    },
    /// SNAT rules with what they have counted.
    Snat(Vec<SnatRow>),
    /// A page of events.
    Events(EventPage),
    /// A page of the session log.
    SessionLog(SessionLogPage),
    /// What `-m` means.
    Masquerade(MasqueradeSettings),
    /// Local addresses of services that have none of their own, those of either family.
    DefaultLocalAddresses(Vec<IpAddr>),
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

impl Request {
    /// Whether it needs [`super::Access::ReadWrite`].
    #[must_use]
    pub fn changes(&self) -> bool {
        matches!(
            self,
            Self::Apply(_)
                | Self::KillSessions { .. }
                | Self::Stage(_)
                | Self::Trace(_)
                | Self::Traced { .. }
                | Self::EndTrace { .. }
        )
    }

    /// The protocol version that first had this request.
    #[must_use]
    pub fn since(&self) -> u16 {
        match self {
            Self::Info | Self::List(_) | Self::Sessions { .. } | Self::Timeouts | Self::Counters => 1,
            Self::Apply(batch) => batch.changes.iter().map(Change::since).max().unwrap_or(1),
            Self::Status
            | Self::FindSessions { .. }
            | Self::KillSessions { .. }
            | Self::Subscribe
            | Self::Marks => 2,
            Self::Stage(changes) => changes.iter().map(Change::since).max().unwrap_or(2).max(2),
            Self::ClientAddresses | Self::Trace(_) | Self::Traced { .. } | Self::EndTrace { .. } => 3,
            Self::Snat => 7,
            Self::Explain(_) | Self::InitialTimeouts => 8,
            Self::Events { .. } => 9,
            Self::SessionLog { .. } | Self::Masquerade | Self::DefaultLocalAddresses => 10,
        }
    }

    /// Holds the limits that the encoding itself doesn't impose.
    ///
    /// # Errors
    /// What is too long, and how long it may be.
    pub fn check(&self) -> Result<(), String> {
        let (changes, max) = match self {
            Self::Apply(batch) => (&batch.changes, MAX_TRANSACTION),
            Self::Stage(changes) => (changes, MAX_BATCH),
            Self::Explain(question) => {
                return question.port.iter().try_for_each(|p| limit("port name", p, MAX_INTERFACE));
            }
            Self::Trace(filter) => {
                return filter.port.iter().try_for_each(|p| limit("port name", p, MAX_INTERFACE));
            }
            _ => return Ok(()),
        };
        if changes.len() > max {
            return Err(format!("{} changes at once, at most {max}", changes.len()));
        }
        changes.iter().try_for_each(Change::check)
    }
}

impl Change {
    fn since(&self) -> u16 {
        match self {
            Self::Drain { .. }
            | Self::Undrain { .. }
            | Self::AddMark(_)
            | Self::DeleteMark(_)
            | Self::ClearMarks => 2,
            Self::SetClientAddress { .. } => 3,
            Self::AddSnat(_) | Self::EditSnat(_) => 7,
            Self::DeleteSnat(_) | Self::ClearSnat => 6,
            Self::AddMasqueraded { .. } | Self::EditMasqueraded { .. } | Self::SetMasquerade { .. } => 10,
            _ => 1,
        }
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::AddService(s) | Self::EditService(s) => {
                limit("scheduler name", &s.scheduler, MAX_NAME)?;
                s.engine.iter().try_for_each(|e| limit("persistence engine name", e, MAX_NAME))
            }
            Self::AddLocalAddress { local, .. } => {
                local.interface.iter().try_for_each(|i| limit("port name", i, MAX_INTERFACE))
            }
            Self::AddSnat(rule) | Self::EditSnat(rule) => {
                limit("name", &rule.name, MAX_NAME)?;
                limit("port name", &rule.port, MAX_INTERFACE)?;
                if rule.pool.len() > snat::MAX_POOL || rule.except.len() > snat::MAX_EXCEPT {
                    return Err("too many networks in a SNAT rule".into());
                }
                Ok(())
            }
            Self::DeleteSnat(name) => limit("name", name, MAX_NAME),
            Self::AddMark(rule) | Self::DeleteMark(rule) => {
                rule.port.iter().try_for_each(|p| limit("port name", p, MAX_INTERFACE))
            }
            _ => Ok(()),
        }
    }
}

fn limit(what: &str, name: &str, max: usize) -> Result<(), String> {
    match name.len() {
        n if n > max => Err(format!("{what} of {n} bytes, at most {max}")),
        _ => Ok(()),
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
    fn staged_changes_are_as_new_as_the_newest() {
        let since = |changes| Request::Stage(changes).since();
        assert_eq!(since(vec![]), 2);
        assert_eq!(since(vec![Change::Flush]), 2);
        assert_eq!(since(vec![Change::ClearSnat, Change::Flush]), 6);
        let of = service("wlc").key;
        assert_eq!(since(vec![Change::SetMasquerade { service: of, how: None }]), 10);
    }

    #[test]
    fn batches_are_limited() {
        assert!(Request::Stage(vec![Change::Flush; MAX_BATCH + 1]).check().is_err());
        let batch = Batch { changes: vec![Change::Flush; MAX_TRANSACTION + 1], expect_generation: None };
        assert!(Request::Apply(batch).check().is_err());
    }
}
