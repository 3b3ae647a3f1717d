//! The session log (`weirctl log sessions`): a record of each session that is opened or ends.
//!
//! Without a log, opening and ending a session pay one branch each. With one, the record goes to control through a
//! ring; if the ring is full, the record is lost and counted, and nobody waits. Persistence templates are no sessions,
//! and a datagram that is scheduled alone opens none, except with FULLNAT.

use std::net::Ipv4Addr;

use weir_api::model::{
    self, FoundSession, SessionState,
    session_log::{SessionEvent, SessionMethod},
};

use crate::{
    id::SlotId,
    path::flow::Flows,
    table::session::{Session, SessionId, TUNNEL},
};

/// A record.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// Time-stamp counter.
    pub tsc: u64,
    /// What has happened.
    pub event: SessionEvent,
    /// How the session's packets are forwarded.
    pub method: SessionMethod,
    /// The slot of its server or SNAT rule.
    pub slot: SlotId,
    /// The session, in its last state if it has ended.
    pub found: FoundSession,
}

impl SessionRecord {
    /// A record of nothing, to fill a ring with.
    #[must_use]
    pub fn blank() -> Self {
        let nowhere = (Ipv4Addr::UNSPECIFIED.into(), 0);
        let session = model::Session {
            protocol: 0,
            client: nowhere,
            virtual_: nowhere,
            local: nowhere,
            server: nowhere,
            state: SessionState::None,
            expires: 0,
            fullnat: false,
            worker: 0,
            engine: None,
        };
        Self {
            tsc: 0,
            event: SessionEvent::Closed,
            method: SessionMethod::Nat,
            slot: SlotId(0),
            found: FoundSession { session, age: 0, idle: 0 },
        }
    }
}

/// A worker's end of the log.
#[derive(Debug)]
pub struct SessionLog {
    ring: rtrb::Producer<SessionRecord>,
}

impl SessionLog {
    /// Sends records by `ring`.
    #[must_use]
    pub fn new(ring: rtrb::Producer<SessionRecord>) -> Self {
        Self { ring }
    }
}

impl Flows {
    /// Logs that a session was opened.
    #[cold]
    #[inline(never)]
    pub(crate) fn log_opened(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id).copied() else { return };
        self.log_session(SessionEvent::Opened, id, &session);
    }

    /// Logs that a session has ended, whose last record is `session`.
    #[cold]
    #[inline(never)]
    pub(crate) fn log_closed(&mut self, id: SessionId, session: &Session) {
        self.log_session(SessionEvent::Closed, id, session);
    }

    fn log_session(&mut self, event: SessionEvent, id: SessionId, session: &Session) {
        let method = method_of(session);
        let found = self.found(id, session);
        let record = SessionRecord { tsc: cpu::tsc(), event, method, slot: session.slot(), found };
        let Some(log) = &mut self.session_log else { return };
        if log.ring.push(record).is_err() {
            self.counters.events.session_log_lost.add(1);
        }
    }
}

fn method_of(session: &Session) -> SessionMethod {
    match session {
        s if s.is_snat() => SessionMethod::Snat,
        s if s.is_fullnat() => SessionMethod::FullNat,
        s if s.flags & TUNNEL != 0 => SessionMethod::Tunnel,
        s if s.is_one_way() => SessionMethod::Route,
        _ => SessionMethod::Nat,
    }
}
