//! Lets control search for sessions or end them, a bounded number of records per request.

use std::sync::Arc;

use weir_api::model::{FoundSession, SessionFilter};

use crate::{
    id::ServerId,
    path::flow::Flows,
    table::session::{Session, SessionId},
};

/// The number of session records examined per request.
pub const LISTING_STRIDE: u32 = 4096;
/// The most sessions ended per request.
pub const KILL_STRIDE: u32 = 256;
/// Selects sessions, and tells whether to end them.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The filter that sessions must match.
    pub filter: SessionFilter,
    /// The servers that sessions must belong to, in ascending order; any if absent.
    pub servers: Option<Arc<[ServerId]>>,
    /// Whether to end them.
    pub kill: bool,
}

/// A search: sent with reserved room, returned filled.
#[derive(Debug)]
pub struct Search {
    /// The sessions to find.
    pub selection: Selection,
    /// The first record to examine.
    pub from: u32,
    /// Sessions found, at most as many as `capacity` was reserved for.
    pub sessions: Vec<FoundSession>,
    /// The number of sessions ended.
    pub killed: u32,
    /// The record to continue at; `None` after the last one.
    pub next: Option<u32>,
}

impl Flows {
    /// Examines a bounded number of records, and ends a smaller number of sessions.
    pub(crate) fn select(&mut self, search: &mut Search) {
        let end = self.sessions.high_water();
        let mut at = search.from;
        let stop = at.saturating_add(LISTING_STRIDE).min(end);
        while at < stop && search.sessions.len() < search.sessions.capacity() && search.killed < KILL_STRIDE {
            let id = SessionId(at);
            at += 1;
            let Some(session) = self.sessions.get(id).filter(|s| s.in_use()) else { continue };
            let servers = search.selection.servers.as_deref();
            if servers.is_some_and(|servers| servers.binary_search(&session.slot().server()).is_err()) {
                continue;
            }
            let found = self.found(id, session);
            if !search.selection.filter.matches(&found) {
                continue;
            }
            if search.selection.kill {
                self.end_session(id);
                search.killed += 1;
            } else {
                search.sessions.push(found);
            }
        }
        search.next = (at < end).then_some(at);
    }

    /// A session with its times.
    pub(crate) fn found(&self, id: SessionId, session: &Session) -> FoundSession {
        FoundSession {
            session: self.describe(id, session),
            age: self.now.since(session.born).0,
            idle: self.now.since(session.last_seen).0,
        }
    }
}
