//! Sessions end.

use super::{Flows, persist};
use crate::table::session::{Direction, SessionId};

/// Sessions that one poll looks at.
const BUDGET: usize = 64;

impl Flows {
    /// Ends sessions whose time is over, a bounded number a poll.
    #[inline]
    pub(crate) fn expire(&mut self) {
        let mut budget = BUDGET;
        while let Some(id) = self.sessions.next_expired(self.now, &mut budget) {
            if self.sessions.controls(id) {
                self.sessions.postpone(id, persist::RESPITE, self.now);
            } else if let Some(later) = self.snat_deadline(id).filter(|&deadline| !self.now.reached(deadline))
            {
                self.sessions.revisit(id, later);
            } else {
                self.end_session(id);
            }
        }
        self.snat_tidy();
        if !self.sweeps.is_empty() {
            self.sweep();
        }
    }

    /// Ends a session: its record, its place in the server's counts, its local port. A template that controls
    /// sessions is only found no more, and goes after the last of them.
    pub(crate) fn end_session(&mut self, id: SessionId) {
        if self.sessions.controls(id) {
            return self.sessions.invalidate(id);
        }
        self.sessions.detach(id);
        let Some(session) = self.sessions.remove(id) else { return };
        if session.is_template() {
            if let Some(server) = self.slot(session.slot()) {
                server.counters.persistent.dec();
                server.limit.iter().for_each(|limit| limit.look(false));
            }
            if let (Some((_, slot)), Some(calls)) = (session.call(), &mut self.call_ids) {
                calls.remove(slot);
            }
            return;
        }
        if self.session_log.is_some() {
            self.log_closed(id, &session);
        }
        if let Some(server) = self.slot(session.slot()) {
            if session.is_active() {
                server.counters.active.dec();
            } else {
                server.counters.inactive.dec();
            }
            server.release();
        }
        let reply = || self.sessions.endpoints_of(id, &session, Direction::Reply);
        if session.is_snat() {
            self.snat_ended(session.protocol(), reply().destination);
        } else if session.is_fullnat() {
            self.release_local(&reply(), session.protocol());
        }
        self.counters.events.sessions_ended.add(1);
    }
}
