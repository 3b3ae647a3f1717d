//! Stage 3 for ICMP errors: which session an error is about, and whether to believe it.
//!
//! ```text
//! ip | icmp: type code checksum .. | the packet that failed, as it left the gateway: ip | ports ..
//! ```
//!
//! With its addresses swapped, the quoted packet is a packet of the other direction, and its session is
//! looked up as for such a packet. The error then takes that packet's route: its outer addresses become the
//! session's on that side, and the quote becomes the packet that the receiver of the error once sent. As in
//! IPVS, the error appears to come from the virtual service (to clients) or from the local address (to a
//! FULLNAT server).

use super::{Flows, open::Claimed};
use crate::{
    io::{Frame, PortId},
    net::{
        Header,
        checksum::Sum,
        icmp::{self, IcmpHeader, Inner, inner_v4, inner_v6},
        protocol,
    },
    path::{
        ingress::{parse::Parsed, sums::sum_over},
        next::{As, Next},
        packet::Packet,
        verdict::Reason,
    },
    table::{endpoints::Endpoints, session::Session, sessions::Found},
};

impl Flows {
    /// Handles an ICMP or ICMPv6 error.
    #[inline(never)]
    pub(crate) fn icmp_error<F: Frame>(&mut self, packet: &Packet<'_, F>) -> Next {
        let p = packet.parsed;
        let to = packet.endpoints().destination.0;
        let local = self.lookup.is_local(to);
        let not_ours = |reason| if local { Next::Drop(reason) } else { Next::Punt };
        let quoted = quote_of(packet.frame.data(), p);
        let Ok(inner) = (if p.ipv6 { inner_v6(quoted) } else { inner_v4(quoted) }) else {
            return not_ours(Reason::BadIcmp);
        };
        if self.is_about_tunnel(to, &inner) {
            if !checksum_ok(&packet.frame, p) {
                return Next::Drop(Reason::BadIcmp);
            }
            return self.tunnel_error(packet, &inner);
        }
        let has_sessions = match inner.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => true,
            protocol::ICMP => !p.ipv6 && self.snat.is_some(),
            protocol::ICMPV6 => p.ipv6 && self.snat.is_some(),
            _ => false,
        };
        if !has_sessions || inner.later_fragment {
            return not_ours(Reason::IcmpNoSession);
        }
        let back = Endpoints {
            source: (inner.destination, inner.destination_port),
            destination: (inner.source, inner.source_port),
        };
        match self.sessions.find_endpoints(&back, inner.protocol) {
            Some(found) => self.error_of(packet, found, &inner),
            None => self.error_of_nobody(packet, (&back, inner.protocol), local),
        }
    }

    /// Handles an error about no session of this worker. `back` is the packet that would come back; `local`
    /// tells whether the error was sent to a local address.
    fn error_of_nobody<F: Frame>(
        &self,
        packet: &Packet<'_, F>,
        (back, protocol): (&Endpoints, u8),
        local: bool,
    ) -> Next {
        let claimed = self.claimed(packet.port, back, protocol);
        match self.owner_elsewhere(PortId::NONE, back, protocol, &claimed, packet.origin) {
            Some(owner) => match self.beside_refusal(packet.port, packet.endpoints().source.0, packet.origin)
            {
                Some(reason) => Next::Drop(reason),
                None => Next::HandOver(owner),
            },
            None if local || matches!(claimed, Claimed::Snat(_)) && !self.is_shared(back.destination.0) => {
                Next::Drop(Reason::IcmpNoSession)
            }
            None => Next::Punt,
        }
    }

    /// Handles an error about a session, which quotes this packet.
    fn error_of<F: Frame>(&mut self, packet: &Packet<'_, F>, found: Found, inner: &Inner) -> Next {
        let p = packet.parsed;
        if !self.tells_sender(&packet.frame, p, found) {
            return Next::Drop(Reason::IcmpType);
        }
        if let Some(reason) = self.beside_refusal(packet.port, packet.endpoints().source.0, packet.origin) {
            return Next::Drop(reason);
        }
        if p.ttl <= 1 {
            return Next::Drop(Reason::TtlExpired);
        }
        if !checksum_ok(&packet.frame, p) {
            return Next::Drop(Reason::BadIcmp);
        }
        self.learn_way(packet, found);
        self.forward(packet, found, As::Error(*inner))
    }

    /// Whether an error about the session may be passed on to the sender of the quoted packet.
    fn tells_sender(&self, frame: &impl Frame, p: &Parsed, found: Found) -> bool {
        let Some(icmp) = IcmpHeader::at(frame.data(), usize::from(p.l4)) else { return false };
        if p.ipv6 {
            return icmp.tells_sender_v6();
        }
        // A parameter problem for the other family is rebuilt as a new message (RFC 7915 4.2), if it can be
        // translated.
        let rebuilt = || self.sessions.get(found.id).is_some_and(Session::is_nat64);
        icmp.tells_sender_v4() || (icmp.kind == icmp::v4::PARAMETER_PROBLEM && rebuilt())
    }
}

/// The packet that an error quotes, as far as it is quoted and the first buffer holds it, without anything
/// that follows the error in its frame.
pub(crate) fn quote_of<'a>(data: &'a [u8], p: &Parsed) -> &'a [u8] {
    let end = (usize::from(p.l3) + usize::from(p.ip_len)).min(data.len());
    data.get(usize::from(p.l4) + IcmpHeader::LEN..end).unwrap_or_default()
}

/// Whether the checksum is correct, over all segments.
fn checksum_ok(frame: &impl Frame, p: &Parsed) -> bool {
    let from = usize::from(p.l4);
    let len = (usize::from(p.l3) + usize::from(p.ip_len)).saturating_sub(from);
    let Some(sum) = sum_over(frame, from, len) else { return false };
    if !p.ipv6 {
        return sum.checksum() == 0;
    }
    let (Some(pair), Ok(length)) = (p.endpoints(frame.data()).pair(), u16::try_from(len)) else {
        return false;
    };
    let pseudo = Sum::of(&pair).word(u16::from(protocol::ICMPV6)).word(length);
    sum.and(pseudo).checksum() == 0
}
