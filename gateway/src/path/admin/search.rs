//! Control searches for sessions or ends them, a bounded number of records per request.

use std::sync::Arc;

use weir_api::model::{FoundSession, SessionFilter};

use crate::{
    clock::Tick,
    id::ServerId,
    path::flow::Flows,
    table::session::{Session, SessionId},
};

/// Session records that one request looks at.
pub const LISTING_STRIDE: u32 = 4096;
/// Sessions that one request to end sessions ends at most.
pub const KILL_STRIDE: u32 = 256;
/// Which sessions to find, and whether to end them.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Those to which this applies, and
    pub filter: SessionFilter,
    /// that were scheduled to one of these servers, in ascending order; absent: to any.
    pub servers: Option<Arc<[ServerId]>>,
    /// End them.
    pub kill: bool,
}

/// Sessions wanted: asked for with room, returned filled.
#[derive(Debug)]
pub struct Search {
    /// Which ones.
    pub selection: Selection,
    /// First record to look at.
    pub from: u32,
    /// Sessions found, at most as many as `capacity` was reserved for.
    pub sessions: Vec<FoundSession>,
    /// Sessions ended.
    pub killed: u32,
    /// Where to go on; `None` if that was the last record.
    pub next: Option<u32>,
}

impl Flows {
    /// Looks through a bounded number of records, and ends a smaller one of sessions.
    pub(crate) fn select(&mut self, search: &mut Search) {
        let end = self.sessions.high_water();
        let mut at = search.from;
        let stop = at.saturating_add(LISTING_STRIDE).min(end);
        while at < stop && search.sessions.len() < search.sessions.capacity() && search.killed < KILL_STRIDE {
            let id = SessionId(at);
            at += 1;
            let Some(session) = self.sessions.get(id).filter(|s| s.in_use()) else { continue };
            let servers = search.selection.servers.as_deref();
            if servers.is_some_and(|servers| servers.binary_search(&session.server()).is_err()) {
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
            age: self.now.since(Tick(session.born)),
            idle: self.now.since(Tick(session.last_seen)),
        }
    }
}
