//! The slow path: decides about a packet, then carries the decision out. The result comes back here: what a session
//! has learned, an answer to the sender, frames that have to wait for a neighbour.

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
    /// A packet of a session that may change it.
    #[cold]
    #[inline(never)]
    pub(super) fn slow(&mut self, packet: Packet<'_, I::Frame>, found: Found) {
        let next = self.flows.known(&packet, found);
        self.carry_out(packet, next);
    }

    /// A packet of no session of this worker.
    #[inline(never)]
    pub(super) fn unknown(&mut self, packet: Packet<'_, I::Frame>) {
        let next = self.flows.unknown(&packet);
        self.carry_out(packet, next);
    }

    /// Does with a packet what has been decided.
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
        // To an external address it turns back, and needs no next hop.
        let back = match self.flows.is_external(ready.to()) {
            true => Err(Reason::ToGateway),
            false => self.flows.routing.back_to(ready.to(), ready.station(port), now),
        };
        self.egress.send_answer(&self.flows, port, ready, back);
    }

    /// Lets frames wait whose next hop isn't known, and has the kernel asked for it.
    #[cold]
    fn wait_for_neighbours(&mut self) {
        let now = self.flows.now;
        for Unresolved { frame, hop, received } in std::mem::take(&mut self.egress.unresolved) {
            let (ask, refused) = self.waiting.wait(&mut self.flows.routing, hop, (frame, received), now);
            if let Some(ask) = ask {
                // A full ring is no loss: it's asked again a second later.
                let _ = self.control.resolve.push(ask);
            }
            if let (Some(frame), true) = (refused, received) {
                self.egress.drop(frame, Reason::NeighbourQueueFull);
            }
        }
    }

    /// Sends the packets whose next hop is known by now, and gives up on those that waited too long.
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
