//! Stage 4: reserves a session under a server's threshold (`-x`).
//!
//! The reservation is made when a server is chosen, before the session exists, and released if the session isn't
//! opened. So two workers can't both take the last one. Servers without a threshold have no [`Limit`].

use super::{Flows, service::Chosen};
use crate::{
    id::{ServerId, ServiceId},
    sched::Flow,
    table::limit::Limit,
};

/// Servers that are asked for a place before a session is refused: more than one only where another worker has taken the
/// last place at one since it was chosen.
const TRIES: usize = 64;

impl Flows {
    /// The service's server for a new session, with a place taken there; none if no server can take it.
    #[inline]
    pub(crate) fn choose(&mut self, service: ServiceId, flow: &Flow) -> Option<Chosen> {
        let chosen = self.services.get_mut(service.0 as usize)?.as_mut()?.schedule(flow);
        match chosen {
            Some(first) if self.limit_of(first.server).is_some() => self.choose_a_place(service, flow, first),
            _ => chosen,
        }
    }

    /// As [`Self::choose`], where the server chosen `first` has a threshold.
    #[cold]
    #[inline(never)]
    fn choose_a_place(&mut self, id: ServiceId, flow: &Flow, first: Chosen) -> Option<Chosen> {
        let mut chosen = first;
        for _ in 0..TRIES {
            let Some(limit) = self.limit_of(chosen.server) else { return Some(chosen) };
            let service = self.services.get(id.0 as usize)?.as_ref()?;
            if service.scheduler.as_ref().is_some_and(|s| !s.heeds_thresholds()) {
                limit.exceed();
                return Some(chosen);
            }
            if limit.reserve() {
                return Some(chosen);
            }
            chosen = self.services.get_mut(id.0 as usize)?.as_mut()?.schedule(flow)?;
        }
        None
    }

    /// A session wasn't opened after all.
    pub(crate) fn give_place_back(&self, server: ServerId) {
        if let Some(server) = self.slot(server.slot()) {
            server.release();
        }
    }

    /// A server's threshold, if it has one.
    #[inline]
    pub(crate) fn limit_of(&self, server: ServerId) -> Option<&Limit> {
        self.slot(server.slot())?.limit.as_deref()
    }
}
