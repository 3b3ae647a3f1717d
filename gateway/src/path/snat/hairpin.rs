//! Hairpins: packets from inside to an external address (RFC 4787, REQ-9). They are translated on their way out and come
//! in again.

use super::{
    super::{Flows, Worker, packet::Origin, packet::trim, parse::Parsed, verdict::Reason},
    Claim,
};
use crate::{
    io::{BURST, Burst, Frame as _, Io, PortId},
    net::{Header as _, checksum::Delta, ipv4::Ipv4Header},
    table::{ends::Ends, session::Session, sessions::Found},
};

/// Frames that turn back in one poll.
pub(in crate::path) const TURNED_BACK: usize = 2 * BURST;

/// Gives a packet the hop back that rewriting has taken.
fn give_hop_back(data: &mut [u8], p: &Parsed) {
    let l3 = usize::from(p.l3);
    if p.ipv6 {
        if let Some(limit) = data.get_mut(l3 + 7) {
            *limit = limit.saturating_add(1);
        }
    } else if let Some(ip) = Ipv4Header::at_mut(data, l3) {
        // TTL is the high byte of the word that it shares with the protocol.
        ip.ttl = ip.ttl.saturating_add(1);
        ip.set_checksum(Delta::word(0, 0x0100).apply(ip.checksum()));
    }
}

impl Flows {
    /// Whether packets of the session go to an external address: they come in again.
    pub(in crate::path) fn is_hairpin(&self, found: Found) -> bool {
        self.snat.is_some()
            && self.sessions.get(found.id).is_some_and(Session::is_snat)
            && self
                .sessions
                .leaving(found.id, found.direction)
                .is_some_and(|leaving| self.is_external(leaving.destination.0))
    }
}

impl<I: Io> Worker<I> {
    /// A packet from inside to an external address, translated on its way out, comes in again.
    pub(in crate::path) fn turn_back(&mut self, port: PortId, mut frame: I::Frame, p: &Parsed, found: Found) {
        trim(&mut frame, p);
        if let Some(id) = self.flows.fragment_id {
            self.flows.identify(&mut frame, p, found, id);
        }
        if !self.flows.rewrite(&mut frame, p, found) {
            return self.drop_frame(frame, Reason::Truncated);
        }
        self.come_in_again(port, frame, p, found);
    }

    /// As [`Self::turn_back`] for a fragment that isn't the first; `id` is its packet's identification from now on.
    pub(in crate::path) fn turn_back_fragment(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        (found, id): (Found, u16),
    ) {
        trim(&mut frame, p);
        self.flows.identify(&mut frame, p, found, id);
        if !self.flows.readdress(&mut frame, p, found) {
            return self.drop_frame(frame, Reason::Truncated);
        }
        self.come_in_again(port, frame, p, found);
    }

    /// A rewritten packet of the session goes through the stages once more, at the worker that it belongs to now.
    pub(in crate::path) fn come_in_again(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        found: Found,
    ) {
        // One hop in all: the next time through takes it.
        give_hop_back(frame.data_mut(), p);
        let Some(leaving) = self.flows.sessions.leaving(found.id, found.direction) else {
            return self.drop_frame(frame, Reason::NoSession);
        };
        self.turn_to_owner(port, frame, &leaving);
    }

    /// A frame between these ends comes in again, at the worker that its destination's block of ports belongs to.
    pub(in crate::path) fn turn_to_owner(&mut self, port: PortId, frame: I::Frame, ends: &Ends) {
        let owner = self.flows.snat_owner(ends, Claim::In);
        if owner != self.flows.id {
            return self.hand_over(port, frame, owner);
        }
        if let Err(full) = self.turned_back.try_push((port, frame)) {
            let (_, frame) = full.element();
            self.drop_frame(frame, Reason::HandOverFull);
        }
    }

    /// Runs what has turned back through the stages, in the order in which it came.
    pub(in crate::path) fn take_turned_back(&mut self) {
        for (port, frame) in std::mem::take(&mut self.turned_back) {
            let mut burst: Burst<I::Frame> = Burst::new();
            burst.push(frame);
            self.forward(port, &mut burst, Origin::Worker);
        }
    }
}
