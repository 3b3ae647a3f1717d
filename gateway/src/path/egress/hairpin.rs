//! Hairpins: packets from inside to an external address (RFC 4787, REQ-9). They are translated on their way out and come
//! in again.

use super::{Carried, Egress, leave::rewrite};
use crate::{
    io::{BURST, Frame, Io, PortId},
    net::{Header as _, checksum::Delta, ipv4::Ipv4Header},
    path::{
        flow::{Flows, snat::SnatRole},
        ingress::parse::Parsed,
        next::Edit,
        packet::{Packet, trim},
        verdict::Reason,
    },
    table::{endpoints::Endpoints, sessions::Found},
};

/// Frames that turn back in one poll.
pub(crate) const TURNED_BACK: usize = 2 * BURST;

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

impl<I: Io> Egress<I> {
    /// A packet from inside to an external address, translated on its way out, comes in again.
    pub(crate) fn turn_back(
        &mut self,
        flows: &Flows,
        mut packet: Packet<'_, I::Frame>,
        found: Found,
    ) -> Carried<I::Frame> {
        let p = packet.parsed;
        trim(&mut packet.frame, p);
        packet.identify(flows, found);
        if !rewrite(flows, &mut packet.frame, p, found) {
            return self.dropped(packet.frame, Reason::Truncated);
        }
        self.come_in_again(flows, packet.port, packet.frame, (p, found));
        Ok(Edit::Nothing)
    }

    /// A rewritten packet of the session goes through the stages once more, at the worker that it belongs to now.
    pub(crate) fn come_in_again(
        &mut self,
        flows: &Flows,
        port: PortId,
        mut frame: I::Frame,
        (p, found): (&Parsed, Found),
    ) {
        // One hop in all: the next time through takes it.
        give_hop_back(frame.data_mut(), p);
        let Some(leaving) = flows.sessions.leaving(found.id, found.direction) else {
            return self.drop(frame, Reason::NoSession);
        };
        self.turn_to_owner(flows, port, frame, &leaving);
    }

    /// A frame between these endpoints comes in again, at the worker that its destination's block of ports belongs to.
    pub(crate) fn turn_to_owner(&mut self, flows: &Flows, port: PortId, frame: I::Frame, ends: &Endpoints) {
        let owner = flows.snat_owner(ends, SnatRole::In);
        if owner != flows.id {
            return self.hand_over(port, frame, owner);
        }
        if let Err(full) = self.turned_back.try_push((port, frame)) {
            let (_, frame) = full.element();
            self.drop(frame, Reason::HandOverFull);
        }
    }
}
