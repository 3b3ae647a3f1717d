//! Stage 6 for DR: the packet keeps its addresses and is sent to its server's MAC address.
//!
//! DR and TUN sessions never see a reply. IPVS calls that "no output" and relies on the client's packets alone, see
//! [`crate::path::flow::tcp_state`].

use super::{Carried, Egress, too_big};
use crate::{
    id::HopId,
    io::{Frame, Io},
    net::{Header, ipv4::Ipv4Header, ipv6::Ipv6Header},
    path::{
        flow::Flows,
        next::{Edit, Exit},
        packet::{Packet, trim},
        verdict::Reason,
    },
    table::session::{Direction, SessionId},
};

/// Decrements the TTL or hop limit; false if there is no IP header at `l3`.
pub(crate) fn age(data: &mut [u8], l3: usize) -> bool {
    if data.get(l3).is_some_and(|first| first >> 4 == 6) {
        return Ipv6Header::at_mut(data, l3).map(Ipv6Header::decrement_hop_limit).is_some();
    }
    Ipv4Header::at_mut(data, l3).map(Ipv4Header::decrement_ttl).is_some()
}

impl<I: Io> Egress<I> {
    /// Sends a packet of a DR or TUN session, or an ICMP error about one, to the server.
    pub(crate) fn send_one_way(
        &mut self,
        flows: &Flows,
        packet: Packet<'_, I::Frame>,
        id: SessionId,
        exit: Exit,
    ) -> Carried<I::Frame> {
        let Exit::Hop(hop) = exit else {
            self.deliver(flows, packet.port, packet.frame, packet.parsed);
            return Ok(Edit::Nothing);
        };
        let tunnel = flows
            .sessions
            .get(id)
            .filter(|session| session.is_tunnelled())
            .map(|session| session.slot().server());
        let server = flows.sessions.arriving(id, Direction::Reply).map(|reply| reply.source.0);
        match (tunnel, server) {
            (None, _) => self.send_direct(flows, packet, hop),
            (Some(of), Some(address)) => self.send_tunnelled(flows, packet, (address, of), hop),
            (Some(_), None) => self.dropped(packet.frame, Reason::NoSession),
        }
    }

    /// Sends a packet to `hop`, unchanged except for its TTL.
    pub(crate) fn send_direct(
        &mut self,
        flows: &Flows,
        packet: Packet<'_, I::Frame>,
        hop: HopId,
    ) -> Carried<I::Frame> {
        let Some(next) = flows.routing.hop(hop) else { return self.dropped(packet.frame, Reason::NoRoute) };
        if packet.parsed.ip_len > next.mtu && packet.parsed.dont_fragment {
            return too_big(flows, packet, next.mtu);
        }
        let Packet { mut frame, parsed: p, .. } = packet;
        trim(&mut frame, p);
        if !age(frame.data_mut(), usize::from(p.l3)) {
            return self.dropped(frame, Reason::Truncated);
        }
        self.leave(flows, frame, hop, p.ip_len);
        Ok(Edit::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_keeps_the_checksum_right() {
        let mut packet = [0u8; 34];
        let mut header = Ipv4Header::new([10, 0, 0, 1].into(), [192, 0, 2, 10].into(), 6, 20);
        header.seal();
        packet[14..].copy_from_slice(zerocopy::IntoBytes::as_bytes(&header));
        assert!(age(&mut packet, 14));
        assert_eq!(packet[22], 63);
        assert!(crate::net::ipv4::checksum_ok(&packet[14..]));
        assert!(!age(&mut packet, 15), "cut off");
    }
}
