//! Questions that the plane answers: how it is, and which sessions there are of a service.

use std::sync::Arc;

use weirctl::{
    model::ServiceKey,
    protocol::{ErrorCode, MAX_PAGE, Question, Refusal, Response, SessionCursor, SessionFilter, Status},
};

use super::Store;
use crate::{
    control::plane::{Plane, Selection},
    id::ServerId,
};

impl<P: Plane> Store<P> {
    pub(super) fn status(&self) -> Response {
        let plane = self.plane.status();
        Response::Status(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            generation: self.generation,
            uptime: plane.uptime,
            services: self.services.len() as u32,
            servers: self.services.values().map(|r| r.len() as u32).sum(),
            ports: plane.ports,
            workers: plane.workers,
            local_addresses: plane.local_addresses,
            warnings: plane.warnings,
        })
    }

    pub(super) fn find_sessions(
        &mut self,
        filter: SessionFilter,
        from: Option<SessionCursor>,
        max: u32,
    ) -> Response {
        let Some(selection) = self.selection(filter, false) else {
            return Response::Refused(ErrorCode::NoSuchService.into());
        };
        let max = max.clamp(1, MAX_PAGE) as usize;
        let found = self.plane.select(&selection, from.unwrap_or_default(), max);
        Response::Found { sessions: found.sessions, next: found.next }
    }

    pub(super) fn kill_sessions(&mut self, filter: SessionFilter, from: Option<SessionCursor>) -> Response {
        let Some(selection) = self.selection(filter, true) else {
            return Response::Refused(ErrorCode::NoSuchService.into());
        };
        let found = self.plane.select(&selection, from.unwrap_or_default(), 1);
        Response::Killed { sessions: found.killed, next: found.next }
    }

    pub(super) fn explain(&mut self, question: &Question) -> Response {
        let refuse = |code, detail: String| Response::Refused(Refusal::new(code, detail));
        if question.source.0.is_ipv4() != question.destination.0.is_ipv4() {
            return refuse(ErrorCode::InvalidOperation, "the two addresses are of two families".into());
        }
        if let Some(name) = question.port.as_ref().filter(|name| !self.plane.has_port(name)) {
            return refuse(ErrorCode::NoSuchPort, name.clone());
        }
        match self.plane.explain(question) {
            Some(explanation) => Response::Explained(Box::new(explanation)),
            None => refuse(ErrorCode::Unsupported, "packets of this kind can't be explained".into()),
        }
    }

    /// What the plane is to look for; nothing if there is no such service.
    fn selection(&self, filter: SessionFilter, kill: bool) -> Option<Selection> {
        let servers = match &filter.service {
            None => None,
            Some(key) => Some(self.servers_of(key)?),
        };
        Some(Selection { filter, servers, kill })
    }

    /// Numbers of a service's servers in ascending order, with those deleted that sessions still refer to.
    fn servers_of(&self, key: &ServiceKey) -> Option<Arc<[ServerId]>> {
        let record = self.services.get(self.keys.get(key)?)?;
        let mut ids: Vec<ServerId> = record.server_ids().chain(self.ledger.deleted_of(key)).collect();
        ids.sort_unstable();
        Some(ids.into())
    }
}
