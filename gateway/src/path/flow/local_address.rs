//! Stage 5: the local address and port of a FULLNAT session.

use std::net::IpAddr;

use weir_api::model::Protocol;

use super::Flows;
use crate::{
    id::ServiceId,
    net::protocol,
    path::verdict::Reason,
    table::{endpoints::Endpoints, pool::Exhausted},
};

/// The protocol of a session, which is one of the three that are forwarded.
pub(crate) fn transport(number: u8) -> Protocol {
    match number {
        protocol::TCP => Protocol::Tcp,
        protocol::SCTP => Protocol::Sctp,
        _ => Protocol::Udp,
    }
}

impl Flows {
    /// A free local address and port (host order) of the service towards a server, such that the replies
    /// come back to this worker.
    pub(crate) fn allocate_local(
        &mut self,
        service: ServiceId,
        server: IpAddr,
        port: u16,
        protocol: u8,
    ) -> Result<(IpAddr, u16), Reason> {
        let Some(Some(service)) = self.services.get(service.0 as usize) else {
            return Err(Reason::NoServer);
        };
        let (protocol, now) = (transport(protocol), self.now);
        let taken = match server {
            IpAddr::V4(server) => {
                let lips = &service.local_addresses;
                self.pool.allocate(lips, server, port, protocol, now).map(|(a, port)| (a.into(), port))
            }
            IpAddr::V6(server) => {
                let lips = &service.local_addresses_v6;
                let pool = self.pool_v6.as_mut().ok_or(Reason::NoLocalAddress)?;
                pool.allocate(lips, server, port, protocol, now).map(|(a, port)| (a.into(), port))
            }
        };
        taken.map_err(|e| match e {
            Exhausted::Addresses => Reason::NoLocalAddress,
            Exhausted::Ports => Reason::LocalPortsExhausted,
            _ => Reason::SessionsFull,
        })
    }

    /// The local address that [`Self::allocate_local`] would take next, if there is one.
    pub(crate) fn local_preview(
        &self,
        service: ServiceId,
        (server, port): (IpAddr, u16),
        protocol: u8,
    ) -> Option<IpAddr> {
        let service = self.services.get(service.0 as usize)?.as_ref()?;
        let (protocol, now) = (transport(protocol), self.now);
        match server {
            IpAddr::V4(server) => {
                let lips = &service.local_addresses;
                self.pool.preview(lips, server, port, protocol, now).map(IpAddr::V4)
            }
            IpAddr::V6(server) => {
                let lips = &service.local_addresses_v6;
                self.pool_v6.as_ref()?.preview(lips, server, port, protocol, now).map(IpAddr::V6)
            }
        }
    }

    /// Gives the local port of a session back, whose replies arrive between these endpoints: it rests before it's used
    /// again.
    pub(crate) fn release_local(&mut self, reply: &Endpoints, protocol: u8) {
        let (protocol, now) = (transport(protocol), self.now);
        let ((server, port), (local, local_port)) = (reply.source, reply.destination);
        match (local, server, &mut self.pool_v6) {
            (IpAddr::V4(local), IpAddr::V4(server), _) => {
                self.pool.release(local, local_port, server, port, protocol, now);
            }
            (IpAddr::V6(local), IpAddr::V6(server), Some(pool)) => {
                pool.release(local, local_port, server, port, protocol, now);
            }
            _ => {}
        }
    }

    /// Ports of a local address used and there towards a server, as this worker has them.
    pub(crate) fn local_room(&self, local: IpAddr, server: IpAddr, port: u16, protocol: u8) -> (u32, u32) {
        let protocol = transport(protocol);
        match (local, server, &self.pool_v6) {
            (IpAddr::V4(local), IpAddr::V4(server), _) => self.pool.room(local, server, port, protocol),
            (IpAddr::V6(local), IpAddr::V6(server), Some(pool)) => pool.room(local, server, port, protocol),
            _ => (0, 0),
        }
    }
}
