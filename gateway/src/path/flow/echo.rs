//! Stage 4 for ICMP echoes: they get a session if a SNAT rule matches, otherwise they go to the kernel.
//!
//! The identifier serves as the sender's port (RFC 5508). ICMPv6's checksum has a pseudo-header and ICMP's
//! has none; the session's checksum difference accounts for that.

use super::{Flows, belief::Belief, open::Claimed, snat::SnatRole};
use crate::{
    io::{Frame, PortId},
    path::{
        next::{As, Next},
        packet::Packet,
    },
};

impl Flows {
    /// Handles an ICMP echo request or reply: it belongs to a session, comes from inside, or goes to the
    /// kernel.
    #[inline(never)]
    pub(crate) fn echo<F: Frame>(&mut self, packet: &Packet<'_, F>) -> Next {
        let (p, ends) = (packet.parsed, packet.endpoints());
        if self.snat.is_none() || self.lookup.is_virtual(ends.destination.0) {
            return Next::Punt;
        }
        if let Some(found) = self.sessions.find_endpoints(&ends, p.protocol) {
            if p.ttl <= 1 {
                return Next::Reply(self.ttl_expired(packet));
            }
            self.count_packet(found, p);
            self.snat_track(found.id, found.direction, p, Belief::Counts);
            return self.forward(packet, found, As::Echo);
        }
        let asks = ends.source.1 != 0 || ends.destination.1 == 0;
        match self.snat_claim(&ends, p.protocol) {
            // An external address answers requests itself: an identifier, unlike a port, doesn't lead to an
            // inside host.
            Some(claim @ SnatRole::Out(_)) if asks && !self.is_external(ends.destination.0) => {
                let plan = self.plan(PortId::NONE, &ends, p.protocol, (Claimed::Snat(claim), packet.origin));
                self.commit(packet, &ends, plan)
            }
            Some(SnatRole::In) if ends.destination.1 != 0 => {
                match self.snat_elsewhere(&ends, SnatRole::In, packet.origin) {
                    Some(owner) => Next::HandOver(owner),
                    // A reply without a session may answer the kernel's own ping.
                    None => Next::Punt,
                }
            }
            _ => Next::Punt,
        }
    }
}
