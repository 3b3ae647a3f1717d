//! Questions that the plane answers: how it is, and which sessions there are of a service.

use std::sync::Arc;

use weir_api::{
    model::{ServiceKey, SessionFilter, explain::Question, status::Status, trace::TraceFilter},
    protocol::{ErrorCode, MAX_PAGE, Refusal, Response, SessionCursor},
};

use super::{
    Store,
    inquiry::{Step, What, refused},
};
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
        &self,
        filter: SessionFilter,
        from: Option<SessionCursor>,
        max: u32,
    ) -> Result<Step, Refusal> {
        let selection = self.selection(filter, false)?;
        let max = max.clamp(1, MAX_PAGE) as usize;
        Ok(self.inquire(What::Find { selection, from: from.unwrap_or_default(), max }))
    }

    pub(super) fn kill_sessions(
        &self,
        filter: SessionFilter,
        from: Option<SessionCursor>,
    ) -> Result<Step, Refusal> {
        let selection = self.selection(filter, true)?;
        Ok(self.inquire(What::Kill { selection, from: from.unwrap_or_default() }))
    }

    pub(super) fn explain(&self, question: &Question) -> Result<Step, Refusal> {
        if question.source.0.is_ipv4() != question.destination.0.is_ipv4() {
            let detail = "the two addresses are of two families";
            return Err(Refusal::new(ErrorCode::InvalidOperation, detail));
        }
        self.check_port(question.port.as_deref())?;
        Ok(self.inquire(What::Explain(self.plane.packet(question)?)))
    }

    pub(super) fn begin_trace(&mut self, filter: &TraceFilter) -> Result<Step, Refusal> {
        self.check_port(filter.port.as_deref())?;
        let (trace, tracers) = self.plane.begin_trace(filter)?;
        Ok(self.inquire(What::Follow { trace, tracers }))
    }

    pub(super) fn traced(&mut self, trace: u64, end: bool) -> Response {
        match self.plane.traced(trace, end) {
            Ok((packets, lost)) => Response::Traced { packets, lost },
            Err(error) => refused(error),
        }
    }

    /// Whether there is a port of this name, where one is named.
    fn check_port(&self, name: Option<&str>) -> Result<(), Refusal> {
        match name.filter(|name| !self.plane.has_port(name)) {
            Some(name) => Err(Refusal::new(ErrorCode::NoSuchPort, name)),
            None => Ok(()),
        }
    }

    /// What the plane is to look for.
    fn selection(&self, filter: SessionFilter, kill: bool) -> Result<Selection, Refusal> {
        let of = |key| self.servers_of(key).ok_or(ErrorCode::NoSuchService);
        let servers = filter.service.as_ref().map(of).transpose()?;
        Ok(Selection { filter, servers, kill })
    }

    /// Numbers of a service's servers in ascending order, with those deleted that sessions still refer to.
    fn servers_of(&self, key: &ServiceKey) -> Option<Arc<[ServerId]>> {
        let record = self.services.get(self.keys.get(key)?)?;
        let mut ids: Vec<ServerId> = record.server_ids().chain(self.ledger.deleted_of(key)).collect();
        ids.sort_unstable();
        Some(ids.into())
    }
}
