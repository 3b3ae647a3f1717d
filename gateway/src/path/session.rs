//! Stage 3: the packet's session.
//!
//! A packet of an established session only writes `last_seen` and its server's counters. Whatever else may
//! happen to a session (a state, another time-out, a deleted server, a SYN on a finished connection) goes
//! through [`Worker::known_rarely`], as Linux's `ip_vs_in` orders it.

use weirctl::{model::SessionState, protocol::TraceStage};

use super::{
    Flows, Worker,
    belief::Belief,
    onepacket,
    packet::{Next, Origin, trim},
    parse::{self, Parsed},
    rewrite,
    route::{self, Need},
    sctp_state,
    tcp_state::{self, CONTROL, QUIET},
    verdict::{Reason, Verdict},
};
use crate::{
    io::{Frame, Io, PortId},
    net::{protocol, tcp as tcp_flags},
    table::{
        counters::ServerSlot,
        ends::WIDE,
        session::{Direction, INACTIVE, LOOKED_AT, NO_HOP, ONE_PACKET, Session, SessionId, TIMEOUTS},
        sessions::{Candidate, Found},
    },
};

/// Whether a packet begins a connection or association.
fn begins(p: &Parsed) -> bool {
    match p.protocol {
        protocol::TCP => p.flags & tcp_flags::SYN != 0,
        protocol::SCTP => p.flags == sctp_state::INIT,
        _ => false,
    }
}

impl Flows {
    /// The hash of an IPv6 packet, whose tuple gets the digests of its addresses; its bucket is being loaded from now on.
    #[inline(never)]
    pub(super) fn hash_v6(&self, frame: &impl Frame, p: &mut Parsed) -> u64 {
        if p.ipv6
            && let Some(pair) = parse::pair(frame.data(), p.l3)
        {
            p.tuple.addresses = self.sessions.digests(pair);
        }
        let hash = self.sessions.hash(p.tuple, p.protocol | WIDE);
        self.sessions.prefetch_bucket(hash);
        hash
    }

    /// Whether the session's server is configured.
    fn is_available(&self, found: Found) -> bool {
        let server = self.sessions.get(found.id).and_then(|s| self.server(s.server()));
        server.is_some_and(|s| s.available.get() != 0)
    }

    /// What is to become of a packet of a session, before anything is done about it.
    pub(super) fn fate(&self, found: Found, p: &Parsed, believed: Belief) -> Next {
        let Some(session) = self.sessions.get(found.id) else { return Next::Goes };
        let available = self.is_available(found);
        if !available && self.lookup.is_empty() && !session.is_fullnat() && !session.is_snat() {
            // Without any service IPVS looks at nothing: the packet is the kernel's.
            return Next::Punted;
        }
        if p.ttl <= 1 {
            return Next::TtlExpired;
        }
        if found.direction == Direction::Reply {
            return Next::Goes;
        }
        match available {
            _ if believed.counts() && self.begins_anew(found.id, session, p) => Next::Anew,
            true => Next::Goes,
            false if self.settings.expire_nodest_conn => Next::Anew,
            false => Next::ServerDeleted,
        }
    }

    /// Whether a client's packet begins another connection, for which a server is to be chosen anew (Linux's `ip_vs_in`).
    fn begins_anew(&self, id: SessionId, session: &Session, p: &Parsed) -> bool {
        if !begins(p) || session.is_snat() {
            return false;
        }
        if self.leaves_server(id, p) {
            return true;
        }
        let mode = self.settings.conn_reuse_mode;
        let over = match session.state() {
            SessionState::TimeWait | SessionState::Close | SessionState::SctpClosed => true,
            // The last state of which a client alone tells.
            SessionState::FinWait => mode & 2 != 0 && session.is_one_way(),
            _ => false,
        };
        mode != 0 && over && self.sessions.template_of(id).is_none()
    }

    /// Whether a client's packet leaves a server that gets no new sessions, whatever the state of its own.
    pub(super) fn leaves_server(&self, id: SessionId, p: &Parsed) -> bool {
        if !self.settings.expire_nodest_conn || !begins(p) {
            return false;
        }
        let server = self.sessions.get(id).and_then(|s| self.servers.get(s.server().0 as usize));
        let quiesced =
            |slot: &ServerSlot| slot.counters.available.get() != 0 && slot.others.quiesced.get() != 0;
        server.is_some_and(|slot| slot.as_ref().is_some_and(quiesced))
    }

    /// Counts a packet at its server.
    pub(super) fn count_packet(&self, found: Found, p: &Parsed) {
        let Some(server) = self.sessions.get(found.id).and_then(|s| self.server(s.server())) else { return };
        server.count(found.direction, p.ip_len);
    }

    /// Takes a packet into the session's state and time-out, as far as it is believed.
    pub(super) fn track(&mut self, found: Found, p: &Parsed, believed: Belief) {
        let Found { id, direction } = found;
        let now = self.now;
        match believed {
            Belief::Nothing => return,
            // How much silence ends a session of SNAT, its rule says.
            Belief::Doubtful if self.is_snat(id) => return,
            Belief::Doubtful => return self.doubt(id),
            _ => {}
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let old = session.state();
        if session.is_snat() {
            return self.snat_track(id, direction, p, believed);
        }
        session.last_seen = now.0;
        if session.protocol() == protocol::TCP {
            let new = match believed {
                Belief::Becomes(state) => state,
                Belief::Counts if session.is_one_way() => tcp_state::next_unanswered(old, p.flags),
                Belief::Counts => tcp_state::next(old, direction, p.flags, session.is_fullnat()),
                _ => old,
            };
            session.set_state(new);
            if new != old {
                self.recount(id, tcp_state::is_active(new));
            }
            if new == SessionState::Established {
                self.assure(id);
            }
        } else if session.protocol() == protocol::SCTP {
            let new = match believed {
                Belief::Counts => sctp_state::next(old, direction, p.flags, session.is_one_way()),
                _ => old,
            };
            session.set_state(new);
            if new != old {
                self.recount(id, new == SessionState::Established);
            }
            if new == SessionState::Established {
                self.assure(id);
            }
        } else if direction == Direction::Reply {
            if session.flags & ONE_PACKET != 0 {
                session.set_state(onepacket::ANSWERED);
            }
            self.assure(id);
        }
        let Some(session) = self.sessions.get(id) else { return };
        let timeout = self.timeout_of(session.protocol(), session.state());
        self.sessions.set_timeout(id, timeout);
    }

    fn is_snat(&self, id: SessionId) -> bool {
        self.sessions.get(id).is_some_and(Session::is_snat)
    }

    /// The time-out of a state: SCTP has its own, for those that it shares with others too.
    pub(super) fn timeout_of(&self, protocol: u8, state: SessionState) -> u32 {
        if protocol == protocol::SCTP {
            return sctp_state::timeout(state);
        }
        self.timeouts[state as usize & (TIMEOUTS - 1)]
    }

    /// Moves a session between its server's active and inactive ones.
    pub(super) fn recount(&mut self, id: SessionId, active: bool) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let was_active = session.flags & INACTIVE == 0;
        if was_active == active {
            return;
        }
        session.flags ^= INACTIVE;
        let Some(Some(server)) = self.servers.get(session.server().0 as usize) else { return };
        let counters = &server.counters;
        if active {
            counters.inactive.dec();
            counters.active.inc();
        } else {
            counters.active.dec();
            counters.inactive.inc();
        }
    }

    /// The next hop of a session in a direction: the one it remembers, or looked up.
    #[inline]
    pub(super) fn hop_for(&mut self, found: Found) -> Result<u16, Reason> {
        let generation = self.routing.generation;
        let session = self.sessions.get_mut(found.id).ok_or(Reason::NoSession)?;
        let hop = session.hops[found.direction.index()];
        if let Some(hop) = route::remembered(hop, session.hops_generation, generation) {
            return Ok(hop & !LOOKED_AT);
        }
        if hop != NO_HOP && self.still_hold(found.id) {
            return Ok(hop & !LOOKED_AT);
        }
        let session = self.sessions.get(found.id).ok_or(Reason::NoSession)?;
        // SNAT's requests lead to whomever an inside host likes.
        let guest = found.direction == Direction::Reply || session.is_snat();
        let to = self.sessions.leaving(found.id, found.direction).ok_or(Reason::NoSession)?.destination.0;
        let need = if guest { Need::Guest } else { Need::Server };
        let hop = self.routing.towards(to, need, self.now)?;
        let known = self.routing.may_be_remembered(hop);
        let session = self.sessions.get_mut(found.id).ok_or(Reason::NoSession)?;
        let passes_by = session.is_mixed() || session.is_proxied() || !known;
        if !passes_by && let Some(mark) = self.told.mark(session, found) {
            session.remember_hop(found.direction, hop | mark, generation);
        }
        Ok(hop)
    }

    /// Whether both hops of a session are as they were though routes have changed since. Then it remembers them on.
    #[cold]
    fn still_hold(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        let of = session.hops_generation;
        let holds = |direction| {
            self.sessions.leaving(id, direction).is_some_and(|to| self.routing.holds(of, to.destination.0))
        };
        let both = holds(Direction::Request) && holds(Direction::Reply);
        if both && let Some(session) = self.sessions.get_mut(id) {
            session.hops_generation = self.routing.generation;
        }
        both
    }

    /// Gives a packet the other tuple of its session, of the same family.
    #[inline]
    pub(super) fn rewrite(&mut self, frame: &mut impl Frame, p: &Parsed, found: Found) -> bool {
        let data = frame.data_mut();
        if p.ipv6 {
            let Some((session, wide)) = self.sessions.get_mut_wide(found.id) else { return false };
            return rewrite::rewrite_v6::<false>(data, p, session, wide, found.direction);
        }
        let Some(session) = self.sessions.get_mut(found.id) else { return false };
        rewrite::rewrite::<false>(data, p, session, found.direction)
    }
}

impl<I: Io> Worker<I> {
    /// A TCP or UDP packet; `key` is its hash and what that led to.
    #[inline]
    pub(super) fn transport(
        &mut self,
        port: PortId,
        frame: I::Frame,
        p: &Parsed,
        (hash, candidate): (u64, Candidate),
        origin: Origin,
    ) {
        match self.flows.sessions.confirm(candidate, p.tuple, p.protocol) {
            Some(found) => self.known::<false>(port, frame, p, found, origin),
            None => self.transport_sought(port, frame, p, hash, origin),
        }
    }

    /// As [`Self::transport`] for a packet whose first candidate isn't its session.
    #[inline(never)]
    pub(super) fn transport_sought(
        &mut self,
        port: PortId,
        frame: I::Frame,
        p: &Parsed,
        hash: u64,
        origin: Origin,
    ) {
        match self.flows.sessions.find(hash, p.tuple, p.protocol) {
            Some(found) => self.known::<false>(port, frame, p, found, origin),
            None => self.unknown(port, frame, p, origin),
        }
    }

    /// As [`Self::transport`] for IPv6, and for what is neither.
    #[inline(never)]
    pub(super) fn transport_v6(
        &mut self,
        port: PortId,
        frame: I::Frame,
        p: &Parsed,
        (hash, candidate): (u64, Candidate),
        origin: Origin,
    ) {
        if p.kind != parse::Kind::TransportV6 {
            return self.other(port, frame, p, p.kind, origin);
        }
        let Some(pair) = parse::pair(frame.data(), p.l3) else {
            return self.drop_frame(frame, Reason::Truncated);
        };
        match self.flows.sessions.confirm_wide(candidate, hash, p.tuple, p.protocol | WIDE, pair) {
            Some(found) => self.known::<true>(port, frame, p, found, origin),
            None => self.unknown(port, frame, p, origin),
        }
    }

    /// A packet of a session. One that changes nothing and whose way is known goes straight through here: one that
    /// arrived by IPv6 where `V6`. One of IPv4 whose session's other side is IPv6's doesn't, it has no next hop here.
    #[inline(always)]
    fn known<const V6: bool>(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        found: Found,
        origin: Origin,
    ) {
        let (session, wide) = if V6 {
            let Some((session, wide)) = self.flows.sessions.get_mut_wide(found.id) else { return };
            (session, Some(wide))
        } else {
            (self.flows.sessions.found_mut(found), None)
        };
        let Some(next) = self.flows.routing.hop(session.hops[found.direction.index()]) else {
            return self.known_rarely(port, frame, p, found, origin);
        };
        let server = self.flows.figures.of_session(session.server());
        let state = usize::from(session.state_number()) & (TIMEOUTS - 1);
        let usual = p.flags & CONTROL == QUIET[state]
            && session.timeout == self.flows.timeouts[state]
            && session.arrives_by(found.direction, port)
            && session.hops_generation == self.flows.routing.generation
            && server.available.get() != 0
            && p.ttl > 1
            && p.ip_len <= next.mtu
            && next.usable;
        let mixed = V6 && session.is_mixed();
        if !usual || (mixed && !p.is_bare()) {
            return self.known_rarely(port, frame, p, found, origin);
        }
        session.last_seen = self.flows.now.0;
        server.count(found.direction, p.ip_len);
        if mixed {
            let (macs, out) = (next.macs, next.port);
            let (_, delta) = session.deltas(found.direction);
            let leaving = session.leaving(found.direction);
            if let Some(acknowledged) = parse::acknowledged(frame.data(), p) {
                session.note_acknowledged(found.direction, acknowledged);
            }
            return self.leave_by_v4(frame, p, (leaving, delta), (macs, out));
        }
        trim(&mut frame, p);
        let data = frame.data_mut();
        if let Some(field) = data.first_chunk_mut() {
            *field = next.macs;
        }
        let out = next.port;
        let rewritten = match wide {
            Some(wide) if V6 => rewrite::rewrite_v6::<true>(data, p, session, wide, found.direction),
            _ => rewrite::rewrite::<true>(data, p, session, found.direction),
        };
        if !rewritten {
            return self.drop_frame(frame, Reason::Truncated);
        }
        self.tx.push(&mut self.io, &self.counters, out, frame);
    }

    /// A packet of a session that may change it.
    #[cold]
    #[inline(never)]
    pub(super) fn known_rarely(
        &mut self,
        port: PortId,
        frame: I::Frame,
        p: &Parsed,
        found: Found,
        origin: Origin,
    ) {
        let Some(frame) = self.one_way_straight(port, frame, p, found.id) else { return };
        let Some(frame) = self.told_straight(port, frame, p, found) else { return };
        let Some(frame) = self.mixed_straight(port, frame, p, found) else { return };
        if self.flows.one_way_unchanged(found.id, p) {
            return self.send_one_way(port, frame, p, found.id);
        }
        if !self.flows.arrives_right(port, found) {
            return self.arrived_wrong(port, frame, p, found, origin);
        }
        let believed = self.flows.believed(&frame, p, found);
        match self.flows.fate(found, p, believed) {
            Next::Punted => return self.punt(port, frame),
            Next::TtlExpired => return self.answer_ttl_expired(port, frame, p),
            Next::Anew => return self.anew(port, frame, p, found.id, origin),
            Next::ServerDeleted => return self.drop_frame(frame, Reason::ServerDeleted),
            Next::Goes => {}
        }
        if let Some(reason) = self.flows.held_back(&frame, p, found) {
            return self.drop_frame(frame, reason);
        }
        if self.flows.is_available(found) {
            self.flows.count_packet(found, p);
        }
        self.flows.track(found, p, believed);
        self.flows.stamp(TraceStage::Track);
        self.send(port, frame, p, found);
    }

    /// A packet of a session that begins another connection. The session's server counts it until another is chosen, as
    /// in IPVS.
    fn anew(&mut self, port: PortId, frame: I::Frame, p: &Parsed, old: SessionId, origin: Origin) {
        let ends = p.ends(frame.data());
        match self.flows.lookup.claim(port, &ends, p.protocol) {
            Some(service) if self.flows.elsewhere_of(port, &ends, p.protocol, service, origin).is_none() => {
                self.open(port, frame, p, (&ends, service), Some(old));
            }
            _ => {
                self.flows.end_session(old);
                self.unknown(port, frame, p, origin);
            }
        }
    }

    /// An SCTP packet: each may change its session's state, so there is no straight way.
    #[inline(never)]
    pub(super) fn sctp(&mut self, port: PortId, frame: I::Frame, p: &Parsed, origin: Origin) {
        match self.flows.sessions.find_ends(&p.ends(frame.data()), p.protocol) {
            Some(found) => self.known_rarely(port, frame, p, found, origin),
            None => self.unknown(port, frame, p, origin),
        }
    }

    /// Rewrites a packet of a session and sends it to its next hop.
    pub(super) fn send(&mut self, port: PortId, mut frame: I::Frame, p: &Parsed, found: Found) {
        // Most are none of what else there is to ask for.
        let plain = self.flows.fragment_id.is_none()
            && self.flows.sessions.get(found.id).is_some_and(Session::is_plain);
        if !plain {
            if self.flows.sessions.get(found.id).is_some_and(Session::is_one_way) {
                return self.send_one_way(port, frame, p, found.id);
            }
            if self.flows.sessions.get(found.id).is_some_and(Session::is_mixed) {
                return self.send_mixed(port, frame, p, found);
            }
            if self.flows.is_hairpin(found) {
                return self.turn_back(port, frame, p, found);
            }
        }
        let hop = match self.flows.hop_for(found) {
            Ok(hop) => hop,
            Err(reason) => return self.send_here(port, frame, p, found, reason),
        };
        self.flows.stamp(TraceStage::Route);
        let Some(&next) = self.flows.routing.hop(hop) else { return self.drop_frame(frame, Reason::NoRoute) };
        if p.ip_len > next.mtu && p.dont_fragment {
            return self.answer_too_big(port, frame, p, next.mtu);
        }
        trim(&mut frame, p);
        if let Some(id) = self.flows.fragment_id {
            self.flows.identify(&mut frame, p, found, id);
            self.flows.reach_over(&mut frame, p, found);
        }
        if !plain && self.flows.sessions.get(found.id).is_some_and(Session::is_proxied) {
            let mtu = self.flows.way_mtu(p, found, next.mtu);
            let limits = (mtu, !p.dont_fragment && !p.ipv6);
            let Some((mut frame, ip_len)) = self.proxied(port, frame, p, found, limits) else { return };
            if !self.flows.rewrite(&mut frame, p, found) {
                return self.drop_frame(frame, Reason::Truncated);
            }
            if ip_len > mtu {
                return self.fragment(frame, hop, mtu);
            }
            return self.leave(frame, hop, ip_len);
        }
        let tells = !plain && self.flows.sessions.get(found.id).is_some_and(Session::tells_client);
        let ip_len = if tells { self.flows.tell(&mut frame, p, found, next.mtu) } else { p.ip_len };
        if !self.flows.rewrite(&mut frame, p, found) {
            return self.drop_frame(frame, Reason::Truncated);
        }
        self.leave(frame, hop, ip_len);
    }

    /// Sends a packet of the gateway's own making in a session, before another.
    pub(super) fn send_ahead(&mut self, mut frame: I::Frame, p: &Parsed, found: Found, ip_len: u16) {
        if self.flows.sessions.get(found.id).is_some_and(Session::is_mixed) {
            return self.send_ahead_mixed(frame, p, found, ip_len);
        }
        let Ok(hop) = self.flows.hop_for(found) else { return };
        if self.flows.rewrite(&mut frame, p, found) {
            self.leave_uncounted(frame, hop);
        }
    }

    /// Sends a finished frame to a next hop: its Ethernet header is written here.
    pub(super) fn leave(&mut self, mut frame: I::Frame, hop: u16, ip_len: u16) {
        let Some(next) = self.flows.routing.hop(hop) else { return self.drop_frame(frame, Reason::NoRoute) };
        if ip_len > next.mtu {
            let mtu = next.mtu;
            return self.fragment(frame, hop, mtu);
        }
        if !next.usable {
            return self.wait_for(frame, hop, true);
        }
        let Some(macs) = frame.data_mut().first_chunk_mut::<12>() else {
            return self.drop_frame(frame, Reason::Truncated);
        };
        *macs = next.macs;
        let port = next.port;
        self.tx.push(&mut self.io, &self.counters, port, frame);
    }

    /// As [`Self::leave`] for a frame that isn't a received one: an answer or a fragment.
    pub(super) fn leave_uncounted(&mut self, mut frame: I::Frame, hop: u16) {
        let Some(next) = self.flows.routing.hop(hop) else { return };
        if !next.usable {
            return self.wait_for(frame, hop, false);
        }
        let Some(macs) = frame.data_mut().first_chunk_mut::<12>() else { return };
        *macs = next.macs;
        let port = next.port;
        self.tx.push_uncounted(&mut self.io, &self.counters, port, frame);
    }

    #[cold]
    fn wait_for(&mut self, frame: I::Frame, hop: u16, received: bool) {
        let (ask, refused) =
            self.waiting.wait(&mut self.flows.routing, hop, (frame, received), self.flows.now);
        if let Some(ask) = ask {
            // A full ring is no loss: it's asked again a second later.
            let _ = self.control.resolve.push(ask);
        }
        if let (Some(frame), true) = (refused, received) {
            self.drop_frame(frame, Reason::NeighbourQueueFull);
        }
    }

    /// Sends the packets whose next hop is known by now, and gives up on those that waited too long.
    #[cold]
    pub(super) fn send_waiting(&mut self) {
        while let Some((mut waiting, hop)) = self.waiting.ready(&mut self.flows.routing, self.flows.now) {
            match (hop, waiting.frame.data_mut().first_chunk_mut::<12>()) {
                (Some(next), Some(macs)) => {
                    *macs = next.macs;
                    if waiting.received {
                        self.tx.push(&mut self.io, &self.counters, next.port, waiting.frame);
                    } else {
                        self.tx.push_uncounted(&mut self.io, &self.counters, next.port, waiting.frame);
                    }
                }
                _ if waiting.received => self.counters.count(Verdict::Drop(Reason::NeighbourUnresolved)),
                _ => self.counters.events.answers_suppressed.add(1),
            }
        }
    }
}
