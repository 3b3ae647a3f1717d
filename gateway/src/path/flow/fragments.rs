//! Stage 3 for fragments: finds their session. The first fragment has the ports and is handled as a whole
//! packet; the others use the ports that the first one stored, or follow it.

use super::{Flows, belief::Belief, session::Course};
use crate::{
    io::{Frame, PortId},
    net::protocol,
    path::{
        ingress::parse::{Kind, Parsed, is_echo},
        next::{As, Next, RestGoes},
        packet::Packet,
        verdict::Reason,
    },
    table::{endpoints::Endpoints, session::Direction, sessions::Found},
};

impl Flows {
    /// Decides on a fragment that doesn't need its packet: one that nobody claims, or one from a wrong
    /// source.
    pub(crate) fn before_reassembly<F: Frame>(
        &self,
        packet: &Packet<'_, F>,
        ends: &Endpoints,
    ) -> Option<Next> {
        if !self.may_be_claimed(ends, packet.parsed) {
            return Some(Next::Punt);
        }
        // Checked before it can take the place of another sender's fragment.
        self.beside_refusal(packet.port, ends.source.0, packet.origin).map(Next::Drop)
    }

    /// Whether the path may claim a packet between these addresses, with any ports.
    fn may_be_claimed(&self, ends: &Endpoints, p: &Parsed) -> bool {
        match p.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => {
                self.lookup.may_claim(ends) || self.snat_may_claim(ends, p.protocol)
            }
            protocol::ICMP | protocol::ICMPV6 => {
                !self.lookup.is_virtual(ends.destination.0) && self.snat_may_claim(ends, p.protocol)
            }
            _ => false,
        }
    }

    /// Handles the first fragment like a whole packet.
    pub(crate) fn first_fragment<F: Frame>(&mut self, packet: &Packet<'_, F>) -> Next {
        let p = packet.parsed;
        match self.sessions.find_endpoints(&packet.endpoints(), p.protocol) {
            _ if p.kind == Kind::Echo => self.echo(packet),
            Some(found) => self.known(packet, found),
            None => self.unknown(packet),
        }
    }

    /// Handles a later fragment by the ports of the first one, or by where that one went. `id` is the
    /// identification under which it leaves if it needs a new one.
    pub(crate) fn later_fragment<F: Frame>(
        &mut self,
        packet: &Packet<'_, F>,
        (rest, id): (Option<RestGoes>, u16),
    ) -> Next {
        let (p, ends) = (packet.parsed, packet.endpoints());
        match rest {
            Some(RestGoes::Once(chosen)) => return self.fragment_once(packet, chosen),
            Some(RestGoes::BySession(reply)) => {
                let Some(found) = self.sessions.find_endpoints(&reply, p.protocol) else {
                    return Next::Drop(Reason::Fragment);
                };
                let found = Found { direction: Direction::Request, ..found };
                return self.fragment_of(packet, found, id);
            }
            Some(RestGoes::Nowhere(reason)) => return Next::Drop(reason),
            None => {}
        }
        if let Some(found) = self.sessions.find_endpoints(&ends, p.protocol) {
            return self.fragment_of(packet, found, id);
        }
        let claimed = self.claimed(packet.port, &ends, p.protocol);
        match self.owner_elsewhere(PortId::NONE, &ends, p.protocol, &claimed, packet.origin) {
            Some(owner) => Next::HandOver(owner),
            // An echo without a session goes to the kernel, see `echo`.
            None if claimed.is_nobody_s() || is_echo(p.protocol) => Next::Punt,
            None => Next::Drop(Reason::Fragment),
        }
    }

    /// Forwards a later fragment in its packet's session.
    fn fragment_of<F: Frame>(&mut self, packet: &Packet<'_, F>, found: Found, id: u16) -> Next {
        match self.course(found, packet.parsed, Belief::Nothing) {
            Course::Kernel => return Next::Punt,
            Course::TtlExpired => return Next::Reply(self.ttl_expired(packet)),
            Course::ServerDeleted => return Next::Drop(Reason::ServerDeleted),
            Course::On | Course::Reopen => {}
        }
        if let Some(session) = self.sessions.get_mut(found.id) {
            session.last_seen = self.now;
        }
        self.count_packet(found, packet.parsed);
        self.forward(packet, found, As::Fragment(id))
    }
}
