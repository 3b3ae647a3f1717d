//! What queries of the data plane learn of the configuration.

use std::sync::Arc;

use weir_api::{
    model::ServiceKey,
    protocol::{ErrorCode, Refusal, Response},
};

use super::Store;
use crate::{
    control::{
        plane::Plane,
        queries::{Configuration, ConfigurationSize, WorkersAnswer},
    },
    id::ServerId,
};

impl<P: Plane> Configuration for Store<P> {
    fn plane(&self) -> &dyn Plane {
        &self.plane
    }

    fn plane_mut(&mut self) -> &mut dyn Plane {
        &mut self.plane
    }

    fn servers_of(&self, service: &ServiceKey) -> Result<Arc<[ServerId]>, Refusal> {
        let record = self.keys.get(service).and_then(|sequence| self.services.get(sequence));
        let record = record.ok_or(ErrorCode::NoSuchService)?;
        let mut ids: Vec<ServerId> = record.server_ids().chain(self.ledger.deleted_of(service)).collect();
        ids.sort_unstable();
        Ok(ids.into())
    }

    fn service_of(&self, server: ServerId) -> Option<ServiceKey> {
        self.ledger.service_of(server)
    }

    fn extent(&self) -> ConfigurationSize {
        ConfigurationSize {
            generation: self.generation,
            services: self.services.len() as u32,
            servers: self.services.values().map(|r| r.len() as u32).sum(),
        }
    }
}

impl<P: Plane> Store<P> {
    /// The response to the request that `told` comes of.
    pub fn finish(&mut self, told: WorkersAnswer) -> Response {
        told.finish(self)
    }
}
