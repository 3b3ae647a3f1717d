//! Stages 6 to 8 for a packet of a session: it is rewritten and sent to its next hop.

use super::{Carried, Egress, Unresolved, rewrite, too_big};
use crate::{
    id::HopId,
    io::{Frame, Io},
    path::{
        flow::Flows,
        ingress::parse::Parsed,
        next::{Edit, Exit},
        packet::{Packet, trim},
        verdict::Reason,
    },
    table::{session::Session, sessions::Found},
};

/// Rewrites a packet to the other tuple of its session, of the same family.
#[inline]
pub(crate) fn rewrite(flows: &Flows, frame: &mut impl Frame, p: &Parsed, found: Found) -> bool {
    let data = frame.data_mut();
    let Some(session) = flows.sessions.get(found.id) else { return false };
    if p.ipv6 {
        let Some(v6) = flows.sessions.v6_record(found.id) else { return false };
        return rewrite::rewrite_v6(data, p, session, v6, found.direction);
    }
    rewrite::rewrite(data, p, session, found.direction)
}

/// The MTU towards a hop, if the packet exceeds it and must not be fragmented.
#[inline]
pub(crate) fn exceeded<F: Frame>(flows: &Flows, packet: &Packet<'_, F>, hop: HopId) -> Option<u16> {
    let mtu = flows.routing.hop(hop)?.mtu;
    (packet.parsed.ip_len > mtu && packet.parsed.dont_fragment).then_some(mtu)
}

impl<I: Io> Egress<I> {
    /// Rewrites a whole packet of a session without special handling and sends it to its next hop.
    #[inline]
    pub(crate) fn send_plain(
        &mut self,
        flows: &Flows,
        packet: Packet<'_, I::Frame>,
        found: Found,
        hop: HopId,
    ) -> Carried<I::Frame> {
        if let Some(mtu) = exceeded(flows, &packet, hop) {
            return too_big(flows, packet, mtu);
        }
        let Packet { mut frame, parsed: p, .. } = packet;
        trim(&mut frame, p);
        if !rewrite(flows, &mut frame, p, found) {
            return self.dropped(frame, Reason::Truncated);
        }
        self.leave(flows, frame, hop, p.ip_len);
        Ok(Edit::Nothing)
    }

    /// Like [`Self::send_plain`], for a packet that comes in fragments or whose session needs special handling.
    #[inline(never)]
    pub(crate) fn send(
        &mut self,
        flows: &Flows,
        packet: Packet<'_, I::Frame>,
        found: Found,
        exit: Exit,
    ) -> Carried<I::Frame> {
        let session = flows.sessions.get(found.id);
        if session.is_some_and(Session::is_one_way) {
            return self.send_one_way(flows, packet, found.id, exit);
        }
        if session.is_some_and(Session::is_nat64) {
            return self.send_nat64(flows, packet, found, exit);
        }
        let hop = match exit {
            Exit::Hop(hop) => hop,
            Exit::Local => return self.send_here(flows, packet, found),
            Exit::Hairpin => return self.turn_back(flows, packet, found),
        };
        let Some(mtu) = flows.routing.hop(hop).map(|next| next.mtu) else {
            return self.dropped(packet.frame, Reason::NoRoute);
        };
        if packet.parsed.ip_len > mtu && packet.parsed.dont_fragment {
            return too_big(flows, packet, mtu);
        }
        self.send_special(flows, packet, found, (hop, mtu))
    }

    /// Rewrites and sends a packet that comes in fragments, or whose server is told the client's address.
    fn send_special(
        &mut self,
        flows: &Flows,
        mut packet: Packet<'_, I::Frame>,
        found: Found,
        (hop, mtu): (HopId, u16),
    ) -> Carried<I::Frame> {
        let p = packet.parsed;
        trim(&mut packet.frame, p);
        packet.identify(flows, found);
        packet.reach_over(flows, found);
        let session = flows.sessions.get(found.id);
        if session.is_some_and(Session::is_proxied) {
            let mtu = flows.way_mtu(p, found, mtu);
            let limits = (mtu, !p.dont_fragment && !p.ipv6);
            let (ip_len, edit) = match self.proxied(flows, &mut packet, (found, hop), limits) {
                Ok(changed) => changed,
                Err(refusal) => return self.not_proxied(flows, packet, refusal),
            };
            let mut frame = packet.frame;
            if !rewrite(flows, &mut frame, p, found) {
                self.drop(frame, Reason::Truncated);
            } else if ip_len > mtu {
                self.fragment(flows, frame, hop, mtu);
            } else {
                self.leave(flows, frame, hop, ip_len);
            }
            return Ok(edit);
        }
        let (mut ip_len, mut edit) = (p.ip_len, Edit::Nothing);
        if session.is_some_and(Session::tells_client) {
            (ip_len, edit) = self.tell(flows, &mut packet, found, mtu);
        }
        let mut frame = packet.frame;
        if rewrite(flows, &mut frame, p, found) {
            self.leave(flows, frame, hop, ip_len);
        } else {
            self.drop(frame, Reason::Truncated);
        }
        Ok(edit)
    }

    /// Sends a finished frame to a next hop; writes its Ethernet header.
    pub(crate) fn leave(&mut self, flows: &Flows, mut frame: I::Frame, hop: HopId, ip_len: u16) {
        let Some(next) = flows.routing.hop(hop) else { return self.drop(frame, Reason::NoRoute) };
        if ip_len > next.mtu {
            return self.fragment(flows, frame, hop, next.mtu);
        }
        if !next.usable {
            return self.wait_for(frame, hop, true);
        }
        let Some(macs) = frame.data_mut().first_chunk_mut::<12>() else {
            return self.drop(frame, Reason::Truncated);
        };
        *macs = next.macs;
        self.tx.push(&mut self.io, &self.counters, next.port, frame);
    }

    /// Like [`Self::leave`], for a frame that wasn't received: an answer or a fragment.
    pub(crate) fn leave_uncounted(&mut self, flows: &Flows, mut frame: I::Frame, hop: HopId) {
        let Some(next) = flows.routing.hop(hop) else { return };
        if !next.usable {
            return self.wait_for(frame, hop, false);
        }
        let Some(macs) = frame.data_mut().first_chunk_mut::<12>() else { return };
        *macs = next.macs;
        self.tx.push_uncounted(&mut self.io, &self.counters, next.port, frame);
    }

    /// Makes a frame wait until the MAC address of its next hop is known.
    #[cold]
    fn wait_for(&mut self, frame: I::Frame, hop: HopId, received: bool) {
        if let Err(full) = self.unresolved.try_push(Unresolved { frame, hop, received })
            && received
        {
            self.drop(full.element().frame, Reason::NeighbourQueueFull);
        }
    }
}
