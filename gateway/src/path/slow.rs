//! The slow path: decides about a packet, then carries out the decision. The results are handled here: what a session
//! has learned, an answer to the sender, frames that must wait for a neighbour.

use super::{
    Worker,
    egress::{Refused, Unresolved},
    ingress::parse::Parsed,
    next::{Edit, Next},
    packet::Packet,
    verdict::{Reason, Verdict},
};
use crate::{
    io::{Frame, Io, PortId},
    table::sessions::Found,
};

impl<I: Io> Worker<I> {
    /// Handles a packet that may change its session.
    #[cold]
    #[inline(never)]
    pub(super) fn slow(&mut self, packet: Packet<'_, I::Frame>, found: Found) {
        let next = self.flows.known(&packet, found);
        self.carry_out(packet, next);
    }

    /// Handles a packet without a session at this worker.
    #[inline(never)]
    pub(super) fn unknown(&mut self, packet: Packet<'_, I::Frame>) {
        let next = self.flows.unknown(&packet);
        self.carry_out(packet, next);
    }

    /// Carries out the decision on a packet.
    #[inline]
    pub(super) fn carry_out(&mut self, packet: Packet<'_, I::Frame>, next: Next) {
        let (port, p) = (packet.port, packet.parsed);
        match self.egress.carry_out(&self.flows, packet, &next) {
            Ok(Edit::Nothing) => {}
            Ok(edit) => self.flows.learn(edit),
            Err(refused) => self.answer((port, p), refused),
        }
        if !self.egress.unresolved.is_empty() {
            self.wait_for_neighbours();
        }
    }

    /// Answers the sender of a packet that isn't forwarded.
    #[cold]
    fn answer(&mut self, (port, p): (PortId, &Parsed), refused: Refused<I::Frame>) {
        let Some(ready) = self.egress.answer(&self.flows, (port, p), refused) else { return };
        let now = self.flows.now;
        // An answer to an external address turns back and needs no next hop.
        let back = match self.flows.is_external(ready.to()) {
            true => Err(Reason::ToGateway),
            false => self.flows.routing.back_to(ready.to(), ready.station(port), now),
        };
        self.egress.send_answer(&self.flows, port, ready, back);
    }

    /// Lets frames wait for their next hop, and has the kernel asked to resolve it.
    #[cold]
    fn wait_for_neighbours(&mut self) {
        let now = self.flows.now;
        for Unresolved { frame, hop, received } in std::mem::take(&mut self.egress.unresolved) {
            let (ask, refused) = self.waiting.wait(&mut self.flows.routing, hop, (frame, received), now);
            if let Some(ask) = ask {
                // A full ring does no harm: the question is repeated a second later.
                let _ = self.control.resolve.push(ask);
            }
            if let (Some(frame), true) = (refused, received) {
                self.egress.drop(frame, Reason::NeighbourQueueFull);
            }
        }
    }

    /// Sends the packets whose next hop is known by now, and drops those that waited too long.
    #[cold]
    pub(super) fn send_waiting(&mut self) {
        while let Some((mut waiting, hop)) = self.waiting.ready(&mut self.flows.routing, self.flows.now) {
            match (hop, waiting.frame.data_mut().first_chunk_mut::<12>()) {
                (Some(next), Some(macs)) => {
                    *macs = next.macs;
                    if waiting.received {
                        self.egress.transmit(next.port, waiting.frame);
                    } else {
                        self.egress.transmit_uncounted(next.port, waiting.frame);
                    }
                }
                _ if waiting.received => {
                    self.egress.counters.count(Verdict::Drop(Reason::NeighbourUnresolved));
                }
                _ => self.egress.counters.events.answers_suppressed.add(1),
            }
        }
    }
}
