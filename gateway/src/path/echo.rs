//! Stage 4 for ICMP echoes: they have sessions where SNAT's rules want them, and are the kernel's else.
//!
//! The identifier is the port of whoever asks (RFC 5508). ICMPv6's checksum has a pseudo-header, ICMP's has none: the
//! session's difference knows.

use super::{
    Flows, Worker, belief::Belief, packet::Origin, packet::trim, parse::Parsed, snat::Claim, verdict::Reason,
};
use crate::{
    io::{Frame, Io, PortId},
    net::{Header, icmp::IcmpHeader},
    table::{session::Direction, sessions::Found},
};

impl Flows {
    /// Gives an echo the identifier that its session has on the other side.
    fn reidentify(&self, frame: &mut impl Frame, p: &Parsed, found: Found) -> Option<()> {
        let session = self.sessions.get(found.id)?;
        let (leaving, (_, delta)) = (session.leaving(found.direction), session.deltas(found.direction));
        let identifier = match found.direction {
            Direction::Request => leaving.source().1,
            Direction::Reply => leaving.destination().1,
        };
        let icmp = IcmpHeader::at_mut(frame.data_mut(), usize::from(p.l4))?;
        icmp.set_rest(u32::from(identifier) << 16 | icmp.rest() & 0xffff);
        icmp.set_checksum(delta.apply(icmp.checksum()));
        Some(())
    }
}

impl<I: Io> Worker<I> {
    /// An ICMP echo request or reply: of a session, from inside, or the kernel's.
    #[inline(never)]
    pub(super) fn echo(&mut self, port: PortId, frame: I::Frame, p: &Parsed, origin: Origin) {
        let ends = p.ends(frame.data());
        if self.flows.snat.is_none() || self.flows.lookup.is_virtual(ends.destination.0) {
            return self.punt(port, frame);
        }
        if let Some(found) = self.flows.sessions.find_ends(&ends, p.protocol) {
            if p.ttl <= 1 {
                return self.answer_ttl_expired(port, frame, p);
            }
            self.flows.count_packet(found, p);
            self.flows.snat_track(found.id, found.direction, p, Belief::Counts);
            return self.send_echo(port, frame, p, found);
        }
        let asks = ends.source.1 != 0 || ends.destination.1 == 0;
        match self.flows.snat_claim(&ends, p.protocol) {
            // An external address answers requests itself: an identifier is no port that leads to an inside host.
            Some(claim @ Claim::Out(_)) if asks && !self.flows.is_external(ends.destination.0) => {
                self.snat_unknown(port, frame, p, (&ends, claim), origin);
            }
            Some(Claim::In) if ends.destination.1 != 0 => {
                match self.flows.snat_elsewhere(&ends, Claim::In, origin) {
                    Some(owner) => self.hand_over(port, frame, owner),
                    // A reply that nobody waits for may be to a ping of the kernel's own.
                    None => self.punt(port, frame),
                }
            }
            _ => self.punt(port, frame),
        }
    }

    /// Rewrites an echo of a session and sends it on.
    pub(super) fn send_echo(&mut self, port: PortId, mut frame: I::Frame, p: &Parsed, found: Found) {
        let hop = match self.flows.hop_for(found) {
            Ok(hop) => hop,
            Err(reason) => return self.drop_frame(frame, reason),
        };
        let Some(&next) = self.flows.routing.hop(hop) else { return self.drop_frame(frame, Reason::NoRoute) };
        if p.ip_len > next.mtu && p.dont_fragment {
            return self.answer_too_big(port, frame, p, next.mtu);
        }
        trim(&mut frame, p);
        if let Some(id) = self.flows.fragment_id {
            self.flows.identify(&mut frame, p, found, id);
        }
        if !self.flows.readdress(&mut frame, p, found)
            || self.flows.reidentify(&mut frame, p, found).is_none()
        {
            return self.drop_frame(frame, Reason::Truncated);
        }
        self.leave(frame, hop, p.ip_len);
    }
}
