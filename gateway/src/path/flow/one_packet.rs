//! One-packet scheduling (`-o`): every datagram gets a server of its own, and no session.
//!
//! As in IPVS such a datagram counts as a connection that ends at once, and a NAT server's reply isn't translated: it
//! leaves as any routed packet. FULLNAT, which IPVS lacks, can't do without: a local port is taken, only replies lead
//! to it, and two seconds after the first one it's free again.
//!
//! A datagram that comes in fragments is one all the same: where the first went, the others go (`reassembly`).

use weir_api::model::{Forwarding, SessionState};

use super::{Flows, service::Chosen};
use crate::{
    id::ServiceId,
    io::Frame,
    net::protocol,
    path::{
        ingress::parse::Parsed,
        next::{Next, RestGoes},
        packet::Packet,
        verdict::Reason,
    },
    sched::Flow,
    table::session::{Direction, SessionId},
};

impl Flows {
    /// A datagram of a one-packet service goes to the server that was chosen for it.
    #[inline(never)]
    pub(crate) fn once<F: Frame>(
        &mut self,
        packet: &Packet<'_, F>,
        (flow, chosen): (&Flow, Chosen),
        service: ServiceId,
    ) -> Next {
        if chosen.method == Forwarding::FullNat {
            return match self.new_session(packet.parsed, flow, &chosen, service) {
                Ok(id) => {
                    self.note_session_of_rest(packet, id);
                    self.first_packet(packet, id)
                }
                Err(reason) => {
                    self.give_place_back(chosen.server);
                    self.note_rest(packet, RestGoes::Nowhere(reason));
                    Next::Drop(reason)
                }
            };
        }
        self.note_rest(packet, RestGoes::Once(chosen));
        self.count_once(chosen, packet.parsed);
        self.leaves_once(packet, chosen, false)
    }

    /// A fragment after the first one of such a datagram goes to the server that was chosen for that.
    pub(crate) fn fragment_once<F: Frame>(&mut self, packet: &Packet<'_, F>, chosen: Chosen) -> Next {
        if packet.parsed.ttl <= 1 {
            return Next::Reply(self.ttl_expired(packet));
        }
        self.leaves_once(packet, chosen, true)
    }

    fn leaves_once<F: Frame>(&mut self, packet: &Packet<'_, F>, chosen: Chosen, later: bool) -> Next {
        let to_other_family = chosen.address.is_ipv6() != packet.parsed.ipv6;
        if to_other_family && !matches!(chosen.method, Forwarding::Tunnel(_)) {
            return Next::Drop(Reason::OtherFamily);
        }
        if let Some(server) = self.counters_of(chosen.server.slot()).filter(|_| later) {
            server.count(Direction::Request, packet.parsed.ip_len);
        }
        match self.exit_to(chosen.address) {
            Ok(exit) => Next::Once(chosen, exit, later),
            Err(reason) => Next::Drop(reason),
        }
    }

    /// Where the rest of a datagram goes whose first fragment is at hand.
    fn note_rest<F: Frame>(&mut self, packet: &Packet<'_, F>, rest: RestGoes) {
        if packet.first.is_some() {
            self.rest_goes = Some(rest);
        }
    }

    fn note_session_of_rest<F: Frame>(&mut self, packet: &Packet<'_, F>, id: SessionId) {
        if let Some(reply) = self.sessions.arriving(id, Direction::Reply) {
            self.note_rest(packet, RestGoes::BySession(reply));
        }
    }

    /// A connection that comes and goes: its place under the server's threshold was taken, and is free again.
    fn count_once(&self, chosen: Chosen, p: &Parsed) {
        let Some(server) = self.slot(chosen.server.slot()) else { return };
        let counters = &server.counters;
        counters.connections.add(1);
        counters.in_packets.add(1);
        counters.in_bytes.add(u64::from(p.ip_len));
        server.release();
    }
}

/// Whether a service schedules this packet alone.
pub(crate) fn applies(one_packet: bool, p: &Parsed) -> bool {
    one_packet && p.protocol == protocol::UDP
}

/// The state of a one-packet session after its first reply: soon over.
pub(crate) const ANSWERED: SessionState = SessionState::None;
