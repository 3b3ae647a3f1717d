//! Servers on the gateway itself, IPVS's "local node".
//!
//! ```text
//! to the server     wire -> its session -> punt -> the port's twin -> kernel
//! from the server   kernel -> a twin -> its session, like a packet that arrives on the twin's port -> wire
//! ```
//!
//! Such a server is recognised when the look-up of its next hop finds none ([`Reason::ToGateway`]), so packets of other
//! sessions pay nothing for it. DR and TUN packets reach the kernel unchanged, and the server's answers leave as the
//! kernel sent them. NAT packets get the server's address and port, and keep the client's, because the kernel accepts
//! no packets from its own addresses. For the same reason control gives workers a FULLNAT server of this kind as a NAT
//! server. Replies leave the kernel through the twin that its routes name, and are taken to their session's owner like
//! any reply; without a session they leave as the kernel sent them.

use super::{Carried, Egress, leave::rewrite, punt_kind::PuntKind};
use crate::{
    io::{Frame, Io, PortId},
    path::{
        flow::Flows,
        ingress::parse::Parsed,
        next::Edit,
        packet::{Packet, trim},
        verdict::Reason,
    },
    table::sessions::Found,
};

impl<I: Io> Egress<I> {
    /// Rewrites a packet of a session whose server is here, and gives it to the kernel.
    #[cold]
    pub(crate) fn send_here(
        &mut self,
        flows: &Flows,
        packet: Packet<'_, I::Frame>,
        found: Found,
    ) -> Carried<I::Frame> {
        let Packet { mut frame, port, parsed: p, .. } = packet;
        trim(&mut frame, p);
        if !rewrite(flows, &mut frame, p, found) {
            return self.dropped(frame, Reason::Truncated);
        }
        self.deliver(flows, port, frame, p);
        Ok(Edit::Nothing)
    }

    /// Gives the kernel a finished frame for one of its addresses, through the twin by which it would answer the
    /// sender.
    pub(crate) fn deliver(&mut self, flows: &Flows, port: PortId, mut frame: I::Frame, p: &Parsed) {
        if port.is_twin() {
            return self.drop(frame, Reason::ToGateway);
        }
        let sender = p.endpoints(frame.data()).source.0;
        let route = flows.routing.table().lookup(sender);
        let ways = || route.iter().flat_map(|route| route.via.iter()).map(|via| via.port);
        let twin = if ways().any(|way| way == port) { port } else { ways().next().unwrap_or(port) };
        match (frame.data_mut().first_chunk_mut::<6>(), self.macs.of(twin)) {
            (Some(field), Some(mac)) => *field = mac.0,
            _ => return self.drop(frame, Reason::Truncated),
        }
        self.punt_as(flows, PuntKind::Local, twin, frame);
    }

    /// Gives the kernel an answer to one of its packets.
    pub(crate) fn answer_here(&mut self, flows: &Flows, port: PortId, frame: I::Frame) {
        let pushed = self.host.as_mut().is_some_and(|host| {
            let port = if port.is_twin() { port.of_twin() } else { port };
            host.push(port, frame, PuntKind::Local, flows.now)
        });
        if !pushed {
            self.counters.events.answers_suppressed.add(1);
        }
    }

    /// Addresses a frame that the kernel sent out of the twin of `port` like one that arrives on the port. Returns
    /// whether this was possible.
    pub(crate) fn turn_round(&self, port: PortId, frame: &mut I::Frame) -> bool {
        let (Some(us), Some(&to)) = (self.macs.of(port), frame.data().first_chunk::<6>()) else {
            return false;
        };
        if let Some(field) = frame.data_mut().first_chunk_mut::<12>() {
            field[..6].copy_from_slice(&us.0);
            field[6..].copy_from_slice(&to);
        }
        true
    }

    /// Sends out, unchanged, a frame of the kernel's that turned out not to be a reply.
    pub(crate) fn leave_as_sent(&mut self, port: PortId, mut frame: I::Frame) {
        if let Some(field) = frame.data_mut().first_chunk_mut::<12>() {
            field.rotate_left(6);
        }
        self.tx.push_uncounted(&mut self.io, &self.counters, port.of_twin(), frame);
    }
}
