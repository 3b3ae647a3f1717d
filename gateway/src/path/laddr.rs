//! Stage 5: the local address and port of a FULLNAT session.

use std::net::Ipv4Addr;

use super::{Worker, verdict::Reason};
use weirctl::model::Protocol;

use crate::{
    id::ServiceId,
    io::Io,
    net::protocol,
    table::{pool::Exhausted, session::NewSession},
};

/// The protocol of a session, which is one of the two that are forwarded.
pub(super) fn transport(number: u8) -> Protocol {
    if number == protocol::TCP { Protocol::Tcp } else { Protocol::Udp }
}

impl<I: Io> Worker<I> {
    /// A free local address and port (host order) of the service towards a server, such that the replies
    /// come back to this worker.
    pub(super) fn allocate_local(
        &mut self,
        service: ServiceId,
        server: Ipv4Addr,
        port: u16,
        protocol: u8,
    ) -> Result<(u32, u16), Reason> {
        let Some(Some(service)) = self.services.get(service.0 as usize) else {
            return Err(Reason::NoServer);
        };
        if service.local_addresses.is_empty() {
            return Err(Reason::NoLocalAddress);
        }
        self.pool
            .allocate(&service.local_addresses, server, port, transport(protocol), self.now)
            .map(|(address, port)| (u32::from(address), port))
            .map_err(|e| match e {
                Exhausted::Ports => Reason::LocalPortsExhausted,
                _ => Reason::SessionsFull,
            })
    }

    /// Gives the local port of a session back: it rests before it's used again.
    pub(super) fn release_local(&mut self, session: &NewSession) {
        let ((server, port), (local, local_port)) = (session.reply.source(), session.reply.destination());
        self.pool.release(
            local.into(),
            local_port,
            server.into(),
            port,
            transport(session.protocol),
            self.now,
        );
    }
}
