//! The fast path: a packet that changes nothing about its session but when that was last seen, and whose way is known. Here
//! alone a packet is decided on and sent in one go.
//!
//! FULLNAT, NAT and SNAT are found in the session at once. DR, TUN, TOA and IPv4 to IPv6 keep their next hops where these
//! don't look, and come here by [`Worker::fast_by_method`], so that the others pay nothing for them. Whatever else may happen
//! to a session is the slow path's: [`Flows::known`].

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    Worker,
    egress::{
        direct::age,
        leave::rewrite as rewrite_by,
        nat64::{self, Across},
        rewrite, toa,
    },
    flow::{route::Hop, session::changes_nothing},
    ingress::parse::{self, Parsed},
    next::{As, Exit, Next},
    packet::{Packet, trim},
    verdict::Reason,
};
use crate::{
    io::{Frame, Io},
    net::{ipv6::GROWTH, protocol},
    table::{
        counters::ServerCounters,
        ends::IPV6,
        session::{Direction, LOOKED_AT, Session, TIMEOUTS},
        sessions::{Candidate, Found},
    },
};

/// Whether a packet takes the fast path: it changes nothing about its session, its server is there, and its way is known
/// (`known`: it arrives where it should, and routes are as they were) and takes the `len` bytes that it will have.
#[inline(always)]
fn is_usual(
    p: &Parsed,
    (session, server): (&Session, &ServerCounters),
    timeouts: &[u32; TIMEOUTS],
    (next, known): (&Hop, bool),
    len: u16,
) -> bool {
    changes_nothing(p, session, server, timeouts) && known && len <= next.mtu && next.usable
}

impl<I: Io> Worker<I> {
    /// A TCP or UDP packet; `key` is its hash and what that led to.
    #[inline]
    pub(super) fn transport(&mut self, packet: Packet<'_, I::Frame>, (hash, candidate): (u64, Candidate)) {
        match self.flows.sessions.confirm(candidate, packet.parsed.tuple, packet.parsed.protocol) {
            Some(found) => self.known::<false>(packet, found),
            None => self.transport_sought(packet, hash),
        }
    }

    /// As [`Self::transport`] for a packet whose first candidate isn't its session.
    #[inline(never)]
    pub(super) fn transport_sought(&mut self, packet: Packet<'_, I::Frame>, hash: u64) {
        match self.flows.sessions.find(hash, packet.parsed.tuple, packet.parsed.protocol) {
            Some(found) => self.known::<false>(packet, found),
            None => self.unknown(packet),
        }
    }

    /// As [`Self::transport`] for IPv6, and for what is neither.
    #[inline(never)]
    pub(super) fn transport_v6(&mut self, packet: Packet<'_, I::Frame>, (hash, candidate): (u64, Candidate)) {
        let p = packet.parsed;
        if p.kind != parse::Kind::TransportV6 {
            return self.other(packet, p.kind);
        }
        let Some(pair) = parse::pair(packet.frame.data(), p.l3) else {
            return self.egress.drop(packet.frame, Reason::Truncated);
        };
        match self.flows.sessions.confirm_v6(candidate, hash, p.tuple, p.protocol | IPV6, pair) {
            Some(found) => self.known::<true>(packet, found),
            None => self.unknown(packet),
        }
    }

    /// A packet of a session. One that changes nothing and whose way is known goes through here: one that
    /// arrived by IPv6 where `V6`. One of IPv4 whose session's other side is IPv6's doesn't, it has no next hop here.
    #[inline(always)]
    fn known<const V6: bool>(&mut self, packet: Packet<'_, I::Frame>, found: Found) {
        let (flows, p) = (&mut self.flows, packet.parsed);
        let (session, v6) = if V6 {
            let Some((session, v6)) = flows.sessions.get_mut_v6(found.id) else { return };
            (session, Some(v6))
        } else {
            (flows.sessions.found_mut(found), None)
        };
        let Some(next) = flows.routing.hop(session.hops[found.direction.index()]) else {
            return self.fast_by_method(packet, found);
        };
        let server = flows.server_counters.of_session(session.server());
        let known = session.arrives_by(found.direction, packet.port)
            && session.hops_generation == flows.routing.generation;
        let usual = is_usual(p, (session, server), &flows.timeouts, (next, known), p.ip_len);
        let nat64 = V6 && session.is_nat64();
        if !usual || (nat64 && !p.is_bare()) {
            return self.slow(packet, found);
        }
        session.last_seen = flows.now.0;
        server.count(found.direction, p.ip_len);
        let mut frame = packet.frame;
        if nat64 {
            let (macs, out) = (next.macs, next.port);
            let (_, delta) = session.deltas(found.direction);
            let leaving = session.leaving(found.direction);
            if let Some(acknowledged) = parse::acknowledged(frame.data(), p) {
                session.note_acknowledged(found.direction, acknowledged);
            }
            return self.egress.leave_by_v4(frame, p, (leaving, delta), (macs, out));
        }
        trim(&mut frame, p);
        let data = frame.data_mut();
        if let Some(field) = data.first_chunk_mut() {
            *field = next.macs;
        }
        let out = next.port;
        let rewritten = match v6 {
            Some(v6) if V6 => rewrite::rewrite_v6(data, p, session, v6, found.direction),
            _ => rewrite::rewrite(data, p, session, found.direction),
        };
        if !rewritten {
            return self.egress.drop(frame, Reason::Truncated);
        }
        self.egress.transmit(out, frame);
    }

    /// The fast path of DR and TUN, of sessions whose servers are told of clients by TOA, and of IPv4 to IPv6.
    #[inline(never)]
    pub(super) fn fast_by_method(&mut self, packet: Packet<'_, I::Frame>, found: Found) {
        let Some(packet) = self.fast_one_way(packet, found) else { return };
        let Some(packet) = self.fast_told(packet, found) else { return };
        let Some(packet) = self.fast_to_ipv6(packet, found) else { return };
        self.slow(packet, found);
    }

    /// The fast path of DR and TUN. Gives back what isn't for it.
    #[inline]
    fn fast_one_way<'a>(
        &mut self,
        packet: Packet<'a, I::Frame>,
        found: Found,
    ) -> Option<Packet<'a, I::Frame>> {
        let (flows, p) = (&mut self.flows, packet.parsed);
        let Some(session) = flows.sessions.get(found.id).filter(|s| s.is_one_way()) else {
            return Some(packet);
        };
        let Some(server) = flows.server_counters.get(session.server()) else { return Some(packet) };
        let reply = Direction::Reply.index();
        let hop = session.hops[reply];
        let Some(&next) = flows.routing.hop(hop) else { return Some(packet) };
        let known = session.hops_generation == flows.routing.generation;
        if !is_usual(p, (session, server), &flows.timeouts, (&next, known), p.ip_len) {
            return Some(packet);
        }
        server.count(Direction::Request, p.ip_len);
        let v6 = session.is_v6(Direction::Reply);
        let of = session.server();
        let tunnel = session.is_tunnelled().then(|| session.arriving(Direction::Reply).source().0);
        if let Some(session) = flows.sessions.get_mut(found.id) {
            session.last_seen = flows.now.0;
        }
        let Some(address) = tunnel else {
            let mut frame = packet.frame;
            trim(&mut frame, p);
            match (age(frame.data_mut(), usize::from(p.l3)), frame.data_mut().first_chunk_mut()) {
                (true, Some(field)) => {
                    *field = next.macs;
                    self.egress.transmit(next.port, frame);
                }
                _ => self.egress.drop(frame, Reason::Truncated),
            }
            return None;
        };
        let facts = flows.servers.get(of.0 as usize).and_then(Option::as_ref);
        let word = facts.map_or(0, |facts| facts.others.tunnel.get());
        let server = if v6 { flows.sessions.v6_record(found.id) } else { None };
        let Packet { frame, port, origin, parsed, first } = packet;
        let special = match server.and_then(|v6| v6.arriving(Direction::Reply).first_chunk::<16>()) {
            Some(&server) => {
                self.egress.tunnel_fast(&self.flows, frame, p, (word, Ipv6Addr::from(server)), &next)
            }
            None => {
                self.egress.tunnel_fast(&self.flows, frame, p, (word, Ipv4Addr::from_bits(address)), &next)
            }
        };
        if let Some(frame) = special {
            self.through_tunnel(Packet { frame, port, origin, parsed, first }, found, hop);
        }
        None
    }

    /// Sends a packet, which changes nothing about its session, through a tunnel that has something special.
    #[inline(never)]
    fn through_tunnel(&mut self, packet: Packet<'_, I::Frame>, found: Found, hop: u16) {
        self.carry_out(packet, Next::Forward(found, Exit::Hop(hop), As::Packet));
    }

    /// The fast path of requests whose server has been told of its client: without options that have to be blanked. Gives back
    /// what isn't for it.
    #[inline]
    fn fast_told<'a>(&mut self, packet: Packet<'a, I::Frame>, found: Found) -> Option<Packet<'a, I::Frame>> {
        let (flows, p) = (&mut self.flows, packet.parsed);
        let Some(session) = flows.sessions.get_mut(found.id) else { return Some(packet) };
        let hop = session.hops[found.direction.index()];
        if hop & LOOKED_AT == 0 {
            return Some(packet);
        }
        let Some(next) = flows.routing.hop(hop & !LOOKED_AT) else { return Some(packet) };
        let server = flows.server_counters.of_session(session.server());
        let nat64 = session.is_nat64();
        let known = session.arrives_by(found.direction, packet.port)
            && session.hops_generation == flows.routing.generation;
        let usual = is_usual(p, (session, server), &flows.timeouts, (next, known), p.ip_len);
        if !usual || !toa::is_clean(packet.frame.data(), p) || (nat64 && !p.is_bare()) {
            return Some(packet);
        }
        session.last_seen = flows.now.0;
        let mut frame = packet.frame;
        if let Some(acknowledged) = parse::acknowledged(frame.data(), p) {
            session.note_acknowledged(found.direction, acknowledged);
        }
        server.count(found.direction, p.ip_len);
        let (macs, out) = (next.macs, next.port);
        if nat64 {
            let (_, delta) = session.deltas(found.direction);
            let leaving = session.leaving(found.direction);
            self.egress.leave_by_v4(frame, p, (leaving, delta), (macs, out));
            return None;
        }
        trim(&mut frame, p);
        if let Some(field) = frame.data_mut().first_chunk_mut() {
            *field = macs;
        }
        if rewrite_by(&self.flows, &mut frame, p, found) {
            self.egress.transmit(out, frame);
        } else {
            self.egress.drop(frame, Reason::Truncated);
        }
        None
    }

    /// The fast path of TCP from IPv4 to IPv6. Gives back what isn't for it.
    #[inline]
    fn fast_to_ipv6<'a>(
        &mut self,
        packet: Packet<'a, I::Frame>,
        found: Found,
    ) -> Option<Packet<'a, I::Frame>> {
        let (flows, p) = (&mut self.flows, packet.parsed);
        let between = |session: &Session| session.is_nat64() && !session.is_one_way();
        let Some((session, v6)) = flows.sessions.get_mut_v6(found.id).filter(|(s, _)| between(s)) else {
            return Some(packet);
        };
        let (hop, generation) = v6.hop(found.direction, found.direction);
        let (Some(server), Some(next)) =
            (flows.server_counters.get(session.server()), flows.routing.hop(hop))
        else {
            return Some(packet);
        };
        let len = p.ip_len.saturating_add(GROWTH);
        let known =
            session.arrives_by(found.direction, packet.port) && generation == flows.routing.generation;
        let usual = p.protocol == protocol::TCP
            && packet.first.is_none()
            && p.is_bare()
            && !p.ipv6
            && is_usual(p, (session, server), &flows.timeouts, (next, known), len);
        if !usual || session.is_proxied() {
            return Some(packet);
        }
        if let Some(mark) = flows.told.mark(session, found)
            && (mark == 0 || toa::is_clean(packet.frame.data(), p))
        {
            // Nothing that has to be looked at more closely.
        } else {
            return Some(packet);
        }
        session.last_seen = flows.now.0;
        server.count(found.direction, p.ip_len);
        let (_, delta) = session.deltas(found.direction);
        let (source, destination) = v6.leaving(found.direction);
        let across = Across {
            macs: next.macs,
            ports: session.leaving(found.direction).ports,
            delta,
            source,
            destination,
        };
        match nat64::to_ipv6(packet.frame, p, &across) {
            (frame, Some(acknowledged)) => {
                session.note_acknowledged(found.direction, acknowledged);
                self.egress.transmit(next.port, frame);
            }
            (frame, None) => self.egress.drop(frame, Reason::Truncated),
        }
        None
    }
}
