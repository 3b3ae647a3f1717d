//! One-packet scheduling (`-o`): every datagram gets a server of its own, and no session.
//!
//! As in IPVS such a datagram counts as a connection that ends at once, and a NAT server's reply isn't
//! translated: it leaves to whoever routes it. FULLNAT, which IPVS lacks, can't do without: a local port is taken, only replies
//! lead to it, and two seconds after the first one it's free again.
//!
//! A datagram that comes in fragments is one all the same: where the first went, the others go (`reassembly`).

use weirctl::model::{Forwarding, SessionState};

use super::{
    Flows, Worker,
    packet::trim,
    parse::Parsed,
    reassembly::{Way, readdress},
    rewrite,
    route::Need,
    service::Chosen,
    verdict::Reason,
};
use crate::{
    id::ServiceId,
    io::{Frame, Io, PortId},
    net::protocol,
    sched::Flow,
    table::{
        ends::Ends,
        session::{Direction, INACTIVE, NewSession, Session, SessionId},
        wide::Wide,
    },
};

impl Flows {
    /// Where the rest of a datagram goes whose first fragment is at hand.
    fn note_fragment_way(&mut self, way: Way) {
        if self.fragment_id.is_some() {
            self.fragment_way = Some(way);
        }
    }

    fn note_fragment_session(&mut self, id: SessionId) {
        if let Some(reply) = self.sessions.arriving(id, Direction::Reply) {
            self.note_fragment_way(Way::Session(reply));
        }
    }

    /// A connection that comes and goes: its place under the server's threshold was taken, and is free again.
    fn count_once(&self, chosen: Chosen, p: &Parsed) {
        let Some(Some(server)) = self.servers.get(chosen.server.0 as usize) else { return };
        let counters = &server.counters;
        counters.connections.add(1);
        counters.in_packets.add(1);
        counters.in_bytes.add(u64::from(p.ip_len));
        server.release();
    }

    /// Gives a fragment after the first the server's address.
    pub(super) fn readdress_once(frame: &mut impl Frame, p: &Parsed, chosen: Chosen) -> bool {
        let leaving = Ends { destination: (chosen.address, 0), ..p.ends(frame.data()) };
        readdress(frame.data_mut(), p, &leaving)
    }

    /// Gives a datagram the server's address and port.
    pub(super) fn rewrite_once(
        &self,
        frame: &mut impl Frame,
        p: &Parsed,
        flow: &Flow,
        chosen: Chosen,
    ) -> bool {
        let server_port = if chosen.port == 0 { flow.destination_port } else { chosen.port };
        let request = flow.ends();
        let reply = Ends { source: (chosen.address, server_port), destination: request.source };
        let mut session = Session::new(
            &NewSession {
                request: p.tuple,
                reply: reply.tuple(),
                protocol: p.protocol,
                server: chosen.server,
                flags: INACTIVE,
            },
            self.now,
        );
        let (ip, l4) = rewrite::deltas_of(&request, &reply.reversed());
        session.set_deltas(ip, l4);
        let data = frame.data_mut();
        match Wide::of(&request, &reply) {
            Some(wide) => rewrite::rewrite_v6::<false>(data, p, &mut session, &wide, Direction::Request),
            None => rewrite::rewrite::<false>(data, p, &mut session, Direction::Request),
        }
    }
}

impl<I: Io> Worker<I> {
    /// Sends a datagram of a one-packet service to the server that was chosen for it.
    #[inline(never)]
    pub(super) fn send_once(
        &mut self,
        port: PortId,
        frame: I::Frame,
        p: &Parsed,
        (flow, chosen): (&Flow, Chosen),
        service: ServiceId,
    ) {
        if chosen.method == Forwarding::FullNat {
            return match self.flows.new_session(p, flow, &chosen, service) {
                Ok(id) => {
                    self.flows.note_fragment_session(id);
                    self.first_packet(port, frame, p, id);
                }
                Err(reason) => {
                    self.flows.give_place_back(chosen.server);
                    self.flows.note_fragment_way(Way::Dropped(reason));
                    self.drop_frame(frame, reason);
                }
            };
        }
        self.flows.note_fragment_way(Way::Once(chosen));
        self.flows.count_once(chosen, p);
        if chosen.address.is_ipv6() != p.ipv6 && !matches!(chosen.method, Forwarding::Tunnel(_)) {
            return self.drop_frame(frame, Reason::OtherFamily);
        }
        let hop = match self.flows.routing.towards(chosen.address, Need::Server, self.flows.now) {
            Ok(hop) => hop,
            Err(reason) => return self.once_here(port, frame, p, (flow, chosen), reason),
        };
        match chosen.method {
            Forwarding::Tunnel(_) => {
                self.send_tunnelled(port, frame, p, (chosen.address, chosen.server), hop);
            }
            Forwarding::Route => self.send_direct(port, frame, p, hop),
            Forwarding::Nat | Forwarding::FullNat => {
                self.translate_once(port, frame, p, (flow, chosen), hop);
            }
        }
    }

    /// Sends a fragment after the first one of its datagram, to the server that was chosen for that.
    pub(super) fn fragment_once(&mut self, port: PortId, mut frame: I::Frame, p: &Parsed, chosen: Chosen) {
        if p.ttl <= 1 {
            return self.answer_ttl_expired(port, frame, p);
        }
        let to_other_family = chosen.address.is_ipv6() != p.ipv6;
        if to_other_family && !matches!(chosen.method, Forwarding::Tunnel(_)) {
            return self.drop_frame(frame, Reason::OtherFamily);
        }
        if let Some(server) = self.flows.server(chosen.server) {
            server.count(Direction::Request, p.ip_len);
        }
        let hop = match self.flows.routing.towards(chosen.address, Need::Server, self.flows.now) {
            Ok(hop) => hop,
            Err(reason) => return self.fragment_here(port, frame, p, chosen, reason),
        };
        match chosen.method {
            Forwarding::Tunnel(_) => {
                return self.send_tunnelled(port, frame, p, (chosen.address, chosen.server), hop);
            }
            Forwarding::Route => return self.send_direct(port, frame, p, hop),
            Forwarding::Nat | Forwarding::FullNat => {}
        }
        let Some(next) = self.flows.routing.hop(hop) else { return self.drop_frame(frame, Reason::NoRoute) };
        if p.ip_len > next.mtu && p.dont_fragment {
            let mtu = next.mtu;
            return self.answer_too_big(port, frame, p, mtu);
        }
        trim(&mut frame, p);
        if !Flows::readdress_once(&mut frame, p, chosen) {
            return self.drop_frame(frame, Reason::Truncated);
        }
        self.leave(frame, hop, p.ip_len);
    }

    fn translate_once(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        (flow, chosen): (&Flow, Chosen),
        hop: u16,
    ) {
        let Some(next) = self.flows.routing.hop(hop) else { return self.drop_frame(frame, Reason::NoRoute) };
        if p.ip_len > next.mtu && p.dont_fragment {
            let mtu = next.mtu;
            return self.answer_too_big(port, frame, p, mtu);
        }
        trim(&mut frame, p);
        if !self.flows.rewrite_once(&mut frame, p, flow, chosen) {
            return self.drop_frame(frame, Reason::Truncated);
        }
        self.leave(frame, hop, p.ip_len);
    }
}

/// Whether a service schedules this packet alone.
pub(super) fn applies(one_packet: bool, p: &Parsed) -> bool {
    one_packet && p.protocol == protocol::UDP
}

/// The state of a one-packet session after its first reply: soon over.
pub(super) const ANSWERED: SessionState = SessionState::None;
