//! The fast path, for a packet that changes nothing about its session except when it was last seen, and whose next hop
//! is known. Only here are the decision and the sending one step.
//!
//! FULLNAT, NAT and SNAT sessions have their next hops where the fast path looks first. DR, TUN, TOA and IPv4 to IPv6
//! keep them elsewhere and come here through [`Worker::known_otherwise`], so that the others pay nothing for them.
//! Everything else that may happen to a session takes the slow path: [`Flows::known`].

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    Worker,
    egress::{
        direct::age,
        leave::rewrite as rewrite_by,
        nat64::{self, Across},
        rewrite, toa,
    },
    flow::{route::Hop, session::is_quiet},
    ingress::parse::{self, Parsed},
    next::{As, Exit, Next},
    packet::{Origin, Packet, trim},
    verdict::Reason,
};
use crate::{
    clock::Ticks,
    id::HopId,
    io::{Frame, Io, PortId},
    net::{ipv6::GROWTH, protocol},
    table::{
        counters::ServerCounters,
        endpoints::IPV6,
        session::{Direction, Session, TIMEOUTS},
        sessions::{Candidate, Found},
    },
};

/// Whether a packet takes the fast path: it changes nothing about its session, its server is available, and its next
/// hop is known (according to `known`) and takes the `len` bytes that it will have.
#[inline(always)]
fn is_usual(
    p: &Parsed,
    (session, server): (&Session, &ServerCounters),
    timeouts: &[Ticks; TIMEOUTS],
    known: impl FnOnce() -> bool,
    (next, len): (&Hop, u16),
) -> bool {
    is_quiet(p, session, timeouts)
        && known()
        && server.available.get() != 0
        && p.ttl > 1
        && len <= next.mtu
        && next.usable
}

/// Builds a [`Packet`] from the parts of one that leaves the fast path.
#[inline(always)]
fn packet<F>(frame: F, parsed: &Parsed, (port, origin): Arrival) -> Packet<'_, F> {
    Packet { frame, port, origin, parsed, first: None }
}

/// The port and origin of a packet. The fast path passes the parts of a packet separately, so that they stay in
/// registers; a [`Packet`] is only made when one leaves the fast path.
pub(super) type Arrival = (PortId, Origin);

impl<I: Io> Worker<I> {
    /// Handles a TCP or UDP packet over IPv4, given its hash and the first candidate.
    #[inline]
    pub(super) fn transport(
        &mut self,
        frame: I::Frame,
        p: &Parsed,
        at: Arrival,
        (hash, candidate): (u64, Candidate),
    ) {
        match self.flows.sessions.confirm(candidate, p.tuple, p.protocol) {
            Some(found) => self.known::<false>(frame, p, at, found),
            None => self.transport_sought(frame, p, at, hash),
        }
    }

    /// Like [`Self::transport`], for a packet whose first candidate isn't its session.
    #[inline(never)]
    pub(super) fn transport_sought(&mut self, frame: I::Frame, p: &Parsed, at: Arrival, hash: u64) {
        match self.flows.sessions.find(hash, p.tuple, p.protocol) {
            Some(found) => self.known::<false>(frame, p, at, found),
            None => self.unknown(packet(frame, p, at)),
        }
    }

    /// Like [`Self::transport`], for IPv6 and for all other kinds.
    #[inline(never)]
    pub(super) fn transport_v6(
        &mut self,
        frame: I::Frame,
        p: &Parsed,
        at: Arrival,
        (hash, candidate): (u64, Candidate),
    ) {
        if p.kind != parse::Kind::TransportV6 {
            return self.other(packet(frame, p, at), p.kind);
        }
        let Some(pair) = parse::pair(frame.data(), p.l3) else {
            return self.egress.drop(frame, Reason::Truncated);
        };
        match self.flows.sessions.confirm_v6(candidate, hash, p.tuple, p.protocol | IPV6, pair) {
            Some(found) => self.known::<true>(frame, p, at, found),
            None => self.unknown(packet(frame, p, at)),
        }
    }

    /// Handles a packet of a session, which arrived by IPv6 if `V6`. A packet over IPv4 whose session has IPv6 on its
    /// other side has no next hop here.
    #[inline(always)]
    fn known<const V6: bool>(&mut self, mut frame: I::Frame, p: &Parsed, at: Arrival, found: Found) {
        let flows = &mut self.flows;
        let (session, v6) = if V6 {
            let Some((session, v6)) = flows.sessions.get_mut_v6(found.id) else { return };
            (session, Some(v6))
        } else {
            (flows.sessions.found_mut(found), None)
        };
        let Some(next) = flows.routing.hop(session.hops[found.direction.index()]) else {
            return self.unusual(frame, p, at, found);
        };
        let server = flows.server_counters.of_session(session.slot());
        let generation = flows.routing.generation;
        let known = || session.arrives_by(found.direction, at.0) && session.hops_generation == generation;
        let usual = is_usual(p, (session, server), &flows.timeouts, known, (next, p.ip_len));
        let nat64 = V6 && session.is_nat64();
        if !usual || (nat64 && !p.is_bare()) {
            return self.unusual(frame, p, at, found);
        }
        session.last_seen = flows.now;
        server.count(found.direction, p.ip_len);
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

    /// Handles packets other than the usual ones of FULLNAT, NAT or SNAT. This call is cold so that the usual ones get
    /// the registers; the function behind it isn't.
    #[cold]
    #[inline(never)]
    fn unusual(&mut self, frame: I::Frame, p: &Parsed, at: Arrival, found: Found) {
        self.known_otherwise(frame, p, at, found);
    }

    /// Handles a packet of a session that isn't a usual one of FULLNAT, NAT or SNAT: it takes the fast path of DR and
    /// TUN, of sessions with TOA, or of IPv4 to IPv6, or else the slow path.
    #[inline(never)]
    fn known_otherwise(&mut self, frame: I::Frame, p: &Parsed, at: Arrival, found: Found) {
        let Some(frame) = self.fast_one_way(frame, p, at, found) else { return };
        let Some(frame) = self.fast_told(frame, p, at, found) else { return };
        let Some(frame) = self.fast_to_ipv6(frame, p, at, found) else { return };
        self.slow(packet(frame, p, at), found);
    }

    /// The fast path of DR and TUN. Returns a packet that can't take it.
    #[inline]
    fn fast_one_way(
        &mut self,
        mut frame: I::Frame,
        p: &Parsed,
        at: Arrival,
        found: Found,
    ) -> Option<I::Frame> {
        let flows = &mut self.flows;
        let Some(session) = flows.sessions.get(found.id).filter(|s| s.is_one_way()) else {
            return Some(frame);
        };
        let Some(server) = flows.server_counters.get(session.slot()) else { return Some(frame) };
        let reply = Direction::Reply.index();
        let hop = session.hops[reply];
        let Some(&next) = flows.routing.hop(hop) else { return Some(frame) };
        let known = || session.hops_generation == flows.routing.generation;
        let usual = is_usual(p, (session, server), &flows.timeouts, known, (&next, p.ip_len));
        if !usual {
            return Some(frame);
        }
        server.count(Direction::Request, p.ip_len);
        let v6 = session.is_v6(Direction::Reply);
        let of = session.slot();
        let tunnel = session.is_tunnelled().then(|| session.arriving(Direction::Reply).source().0);
        if let Some(session) = flows.sessions.get_mut(found.id) {
            session.last_seen = flows.now;
        }
        let Some(address) = tunnel else {
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
        let facts = flows.slot(of);
        let word = facts.map_or(0, |facts| facts.others.tunnel.get());
        let server = if v6 { flows.sessions.v6_record(found.id) } else { None };
        let special = match server.and_then(|v6| v6.arriving(Direction::Reply).first_chunk::<16>()) {
            Some(&server) => {
                self.egress.tunnel_fast(&self.flows, frame, p, (word, Ipv6Addr::from(server)), &next)
            }
            None => {
                self.egress.tunnel_fast(&self.flows, frame, p, (word, Ipv4Addr::from_bits(address)), &next)
            }
        };
        if let Some(frame) = special {
            self.through_tunnel(packet(frame, p, at), found, hop);
        }
        None
    }

    /// Sends a packet that changes nothing about its session through a tunnel with special handling.
    #[inline(never)]
    fn through_tunnel(&mut self, packet: Packet<'_, I::Frame>, found: Found, hop: HopId) {
        self.carry_out(packet, Next::Forward(found, Exit::Hop(hop), As::Packet));
    }

    /// The fast path of requests whose server has learned the client's address, if they have no options that must be
    /// blanked. Returns a packet that can't take it.
    #[inline]
    fn fast_told(&mut self, mut frame: I::Frame, p: &Parsed, at: Arrival, found: Found) -> Option<I::Frame> {
        let flows = &mut self.flows;
        let Some(session) = flows.sessions.get_mut(found.id) else { return Some(frame) };
        let hop = session.hops[found.direction.index()];
        if !hop.is_inspected() {
            return Some(frame);
        }
        let Some(next) = flows.routing.hop(hop.unmarked()) else { return Some(frame) };
        let server = flows.server_counters.of_session(session.slot());
        let nat64 = session.is_nat64();
        let generation = flows.routing.generation;
        let known = || session.arrives_by(found.direction, at.0) && session.hops_generation == generation;
        let usual = is_usual(p, (session, server), &flows.timeouts, known, (next, p.ip_len));
        if !usual || !toa::is_clean(frame.data(), p) || (nat64 && !p.is_bare()) {
            return Some(frame);
        }
        session.last_seen = flows.now;
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

    /// The fast path of TCP from IPv4 to IPv6. Returns a packet that can't take it.
    #[inline]
    fn fast_to_ipv6(&mut self, frame: I::Frame, p: &Parsed, at: Arrival, found: Found) -> Option<I::Frame> {
        let flows = &mut self.flows;
        let between = |session: &Session| session.is_nat64() && !session.is_one_way();
        let Some((session, v6)) = flows.sessions.get_mut_v6(found.id).filter(|(s, _)| between(s)) else {
            return Some(frame);
        };
        let (hop, generation) = v6.hop(found.direction, found.direction);
        let (Some(server), Some(next)) = (flows.server_counters.get(session.slot()), flows.routing.hop(hop))
        else {
            return Some(frame);
        };
        let len = p.ip_len.saturating_add(GROWTH);
        let known = || session.arrives_by(found.direction, at.0) && generation == flows.routing.generation;
        let usual = p.protocol == protocol::TCP
            && p.is_bare()
            && !p.ipv6
            && is_usual(p, (session, server), &flows.timeouts, known, (next, len));
        if !usual || session.is_proxied() {
            return Some(frame);
        }
        if let Some(inspects) = flows.told.inspects(session, found)
            && (!inspects || toa::is_clean(frame.data(), p))
        {
            // There is nothing to be inspected more closely.
        } else {
            return Some(frame);
        }
        session.last_seen = flows.now;
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
        match nat64::to_ipv6(frame, p, &across) {
            (frame, Some(acknowledged)) => {
                session.note_acknowledged(found.direction, acknowledged);
                self.egress.transmit(next.port, frame);
            }
            (frame, None) => self.egress.drop(frame, Reason::Truncated),
        }
        None
    }
}
