//! The session log: sessions as they are opened and closed.

use bincode::{Decode, Encode};

use super::{FoundSession, ServiceKey};

/// How the packets of a session are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SessionMethod {
    /// Direct routing.
    Route,
    /// By a tunnel.
    Tunnel,
    /// NAT of the destination.
    Nat,
    /// NAT of both addresses.
    FullNat,
    /// NAT of an inside host's address.
    Snat,
}

/// What has happened to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SessionEvent {
    /// It was opened.
    Opened,
    /// It has ended.
    Closed,
}

/// A session that was opened or closed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LoggedSession {
    /// When: nanoseconds since 1970.
    pub time: u64,
    /// What has happened to it.
    pub event: SessionEvent,
    /// How its packets are forwarded.
    pub method: SessionMethod,
    /// The service that opened it; none for SNAT.
    pub service: Option<ServiceKey>,
    /// Name of the SNAT rule that opened it; none for services.
    pub rule: Option<String>,
    /// The session at that moment. For SNAT `virtual_` and `server` are the outside host, and `local` is the external
    /// endpoint.
    pub found: FoundSession,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum SessionLogEntry {
    /// A session that was opened or closed.
    Session(Box<LoggedSession>),
    /// So many records were lost here. Nobody knows whether the filter would have chosen them.
    Lost(u64),
}

/// A part of the log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SessionLogPage {
    /// In their order.
    pub entries: Vec<SessionLogEntry>,
    /// The position to go on with.
    pub next: u64,
    /// There is more already.
    pub more: bool,
}
