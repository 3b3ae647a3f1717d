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

/// Frames that may turn back in one poll.
pub(crate) const TURNED_BACK: usize = 2 * BURST;

/// Restores the TTL of a packet that rewriting has decremented.
fn give_hop_back(data: &mut [u8], p: &Parsed) {
    let l3 = usize::from(p.l3);
    if p.ipv6 {
        if let Some(limit) = data.get_mut(l3 + 7) {
            *limit = limit.saturating_add(1);
        }
    } else if let Some(ip) = Ipv4Header::at_mut(data, l3) {
        // The TTL is the high byte of the word it shares with the protocol.
        ip.ttl = ip.ttl.saturating_add(1);
        ip.set_checksum(Delta::word(0, 0x0100).apply(ip.checksum()));
    }
}

impl<I: Io> Egress<I> {
    /// Sends a packet from inside to an external address, translated on its way out, back in.
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

    /// Sends a rewritten packet of the session through the stages once more, at the worker that owns it now.
    pub(crate) fn come_in_again(
        &mut self,
        flows: &Flows,
        port: PortId,
        mut frame: I::Frame,
        (p, found): (&Parsed, Found),
    ) {
        // The packet passes the gateway twice but takes one hop: the second pass counts it.
        give_hop_back(frame.data_mut(), p);
        let Some(leaving) = flows.sessions.leaving(found.id, found.direction) else {
            return self.drop(frame, Reason::NoSession);
        };
        self.turn_to_owner(flows, port, frame, &leaving);
    }

    /// Sends a frame between these endpoints back in, at the worker that owns the destination's port block.
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
