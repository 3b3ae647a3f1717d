//! Stage 3: the packet's session.
//!
//! A packet of an established session only writes `last_seen` and its server's counters. Everything else (a
//! change of state or time-out, a deleted server, a SYN on a closed connection) goes through
//! [`Flows::known`], in the order of Linux's `ip_vs_in`.

use weir_api::model::{SessionState, trace::TraceStage};

use super::{
    Flows,
    belief::Belief,
    destination::is_group,
    one_packet, sctp_state,
    tcp_state::{self, CONTROL, QUIET},
};
use crate::{
    clock::Ticks,
    io::{Frame, PortId},
    net::{protocol, tcp as tcp_flags},
    path::{
        ingress::{
            parse::{self, Parsed},
            sctp_event,
        },
        next::{As, Edit, Next},
        packet::Packet,
        verdict::Reason,
    },
    table::{
        counters::ServerSlot,
        endpoints::IPV6,
        session::{Direction, ONE_PACKET, Session, SessionId, TIMEOUTS},
        sessions::Found,
    },
};

/// Whether a packet begins a connection or association.
fn begins(p: &Parsed) -> bool {
    match p.protocol {
        protocol::TCP => p.flags & tcp_flags::SYN != 0,
        protocol::SCTP => p.flags == sctp_event::INIT,
        _ => false,
    }
}

/// Whether a packet leaves its session's state and time-out unchanged.
#[inline(always)]
pub(crate) fn is_quiet(p: &Parsed, session: &Session, timeouts: &[Ticks; TIMEOUTS]) -> bool {
    let state = usize::from(session.state_number()) & (TIMEOUTS - 1);
    p.flags & CONTROL == QUIET[state] && session.timeout == timeouts[state]
}

/// What happens to a packet of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// It goes to the kernel.
    Kernel,
    /// Its TTL has run out.
    TtlExpired,
    /// It begins a new connection.
    Reopen,
    /// Its server was deleted.
    ServerDeleted,
    /// It is forwarded.
    On,
}

impl Flows {
    /// Hashes an IPv6 packet and stores the digests of its addresses in its tuple; starts loading its bucket.
    #[inline(never)]
    pub(crate) fn hash_v6(&self, frame: &impl Frame, p: &mut Parsed) -> u64 {
        if p.ipv6
            && let Some(pair) = parse::pair(frame.data(), p.l3)
        {
            p.tuple.addresses = self.sessions.digests(pair);
        }
        let hash = self.sessions.hash(p.tuple, p.protocol | IPV6);
        self.sessions.prefetch_bucket(hash);
        hash
    }

    /// Handles a packet that may change its session.
    pub(crate) fn known<F: Frame>(&mut self, packet: &Packet<'_, F>, found: Found) -> Next {
        let p = packet.parsed;
        if self.one_way_unchanged(found.id, p) {
            return self.forward(packet, found, As::Packet);
        }
        if !self.arrives_right(packet.port, found) && !self.arrives_again(packet.port, found) {
            return Next::Drop(Reason::Martian);
        }
        let believed = self.believed(&packet.frame, p, found);
        match self.course(found, p, believed) {
            Course::Kernel => return Next::Punt,
            Course::TtlExpired => return Next::Reply(self.ttl_expired(packet)),
            Course::Reopen => return self.reopen(packet, found.id),
            Course::ServerDeleted => return Next::Drop(Reason::ServerDeleted),
            Course::On => {}
        }
        if let Some(reason) = self.held_back(packet, found) {
            return Next::Drop(reason);
        }
        if self.is_available(found) {
            self.count_packet(found, p);
        }
        self.track(found, p, believed);
        self.stamp(TraceStage::Track);
        self.forward(packet, found, As::Packet)
    }

    /// Handles an SCTP packet. Each may change its session's state, so there is no fast path.
    #[inline(never)]
    pub(crate) fn sctp<F: Frame>(&mut self, packet: &Packet<'_, F>) -> Next {
        match self.sessions.find_endpoints(&packet.endpoints(), packet.parsed.protocol) {
            Some(found) => self.known(packet, found),
            None => self.unknown(packet),
        }
    }

    /// Whether a packet belongs to a DR or TUN session and changes nothing but the time the session was last
    /// seen. If so, it is counted.
    #[inline]
    pub(crate) fn one_way_unchanged(&mut self, id: SessionId, p: &Parsed) -> bool {
        let Some(session) = self.sessions.get(id).filter(|s| s.is_one_way()) else { return false };
        let Some(server) = self.server_counters.get(session.slot()) else { return false };
        let unchanged = is_quiet(p, session, &self.timeouts) && server.available.get() != 0 && p.ttl > 1;
        if unchanged {
            server.count(Direction::Request, p.ip_len);
            if let Some(session) = self.sessions.get_mut(id) {
                session.last_seen = self.now;
            }
        }
        unchanged
    }

    /// Handles a packet that arrived on a port its sender isn't behind. The kernel may change the twin that it sends by
    /// without being questioned: the new twin counts from now on.
    #[cold]
    fn arrives_again(&mut self, port: PortId, found: Found) -> bool {
        let session = self.sessions.get_mut(found.id).filter(|_| port.is_twin());
        session.is_some_and(|session| {
            session.set_arrival(found.direction, port);
            true
        })
    }

    /// Whether the session's server is configured.
    fn is_available(&self, found: Found) -> bool {
        let server = self.sessions.get(found.id).and_then(|s| self.counters_of(s.slot()));
        server.is_some_and(|s| s.available.get() != 0)
    }

    /// Decides what happens to a packet of a session, before anything is done about it.
    pub(crate) fn course(&self, found: Found, p: &Parsed, believed: Belief) -> Course {
        let Some(session) = self.sessions.get(found.id) else { return Course::On };
        let available = self.is_available(found);
        if !available && self.lookup.is_empty() && !session.is_fullnat() && !session.is_snat() {
            // Without any service, IPVS looks at nothing: the packet goes to the kernel.
            return Course::Kernel;
        }
        if p.ttl <= 1 {
            return Course::TtlExpired;
        }
        if found.direction == Direction::Reply {
            return Course::On;
        }
        match available {
            _ if believed.counts() && self.reopens(found.id, session, p) => Course::Reopen,
            true => Course::On,
            false if self.settings.expire_nodest_conn => Course::Reopen,
            false => Course::ServerDeleted,
        }
    }

    /// Whether a client's packet begins a new connection, for which a server must be chosen again (Linux's
    /// `ip_vs_in`).
    fn reopens(&self, id: SessionId, session: &Session, p: &Parsed) -> bool {
        if !begins(p) || session.is_snat() {
            return false;
        }
        if self.leaves_server(id, p) {
            return true;
        }
        let mode = self.settings.conn_reuse_mode;
        let over = match session.state() {
            SessionState::TimeWait | SessionState::Close | SessionState::SctpClosed => true,
            // The last state that the client's packets alone can lead to.
            SessionState::FinWait => mode & 2 != 0 && session.is_one_way(),
            _ => false,
        };
        mode != 0 && over && self.sessions.template_of(id).is_none()
    }

    /// Whether a client's packet leaves a server that gets no new sessions, whatever the state of its
    /// session.
    pub(crate) fn leaves_server(&self, id: SessionId, p: &Parsed) -> bool {
        if !self.settings.expire_nodest_conn || !begins(p) {
            return false;
        }
        let server = self.sessions.get(id).and_then(|s| self.slot(s.slot()));
        let quiesced =
            |slot: &ServerSlot| slot.counters.available.get() != 0 && slot.others.quiesced.get() != 0;
        server.is_some_and(quiesced)
    }

    /// Handles a packet of a session that begins a new connection. The session's server counts it until
    /// another server is chosen, as in IPVS.
    fn reopen<F: Frame>(&mut self, packet: &Packet<'_, F>, old: SessionId) -> Next {
        let (ends, protocol) = (packet.endpoints(), packet.parsed.protocol);
        match self.lookup.claim(packet.port, &ends, protocol) {
            Some(service)
                if self.elsewhere_of(packet.queue(), &ends, protocol, service, packet.origin).is_none() =>
            {
                self.open(packet, (&ends, service), Some(old))
            }
            _ => {
                self.end_session(old);
                self.unknown(packet)
            }
        }
    }

    /// Stores what was learned about a session when its packet left.
    pub(crate) fn learn(&mut self, edit: Edit) {
        match edit {
            Edit::Nothing => {}
            Edit::Stream(id, stream) => self.streams.set(id.0, stream),
            Edit::Told(id, server) => {
                self.told.set(id.0, server);
                if let Some(session) = self.sessions.get_mut(id) {
                    // The session must look its hops up again, or no longer uses them.
                    session.forget_hops();
                }
            }
        }
    }

    /// Handles IP in a frame to a group of stations. The kernel may want a packet for a group; a packet for
    /// one host is neither forwarded nor delivered nor answered (RFC 1812 5.3.4, RFC 1122 3.2.2 and 3.3.6).
    #[cold]
    pub(crate) fn group_frame<F: Frame>(&self, packet: &Packet<'_, F>) -> Next {
        let to = packet.endpoints().destination.0;
        let for_a_group = is_group(to) || self.routing.table().is_broadcast(to);
        if for_a_group { Next::Punt } else { Next::Drop(Reason::LinkBroadcast) }
    }

    /// Counts a packet at its server.
    pub(crate) fn count_packet(&self, found: Found, p: &Parsed) {
        let Some(server) = self.sessions.get(found.id).and_then(|s| self.counters_of(s.slot())) else {
            return;
        };
        server.count(found.direction, p.ip_len);
    }

    /// Applies a packet to the session's state and time-out, as far as it is believed.
    pub(crate) fn track(&mut self, found: Found, p: &Parsed, believed: Belief) {
        let Found { id, direction } = found;
        let now = self.now;
        match believed {
            Belief::Nothing => return,
            // The rule of a SNAT session sets how much silence ends it.
            Belief::Doubtful if self.is_snat(id) => return,
            Belief::Doubtful => return self.doubt(id),
            _ => {}
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let old = session.state();
        if session.is_snat() {
            return self.snat_track(id, direction, p, believed);
        }
        session.last_seen = now;
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
                session.set_state(one_packet::ANSWERED);
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

    /// The time-out of a state: SCTP has its own, even for states that it shares with other protocols.
    pub(crate) fn timeout_of(&self, protocol: u8, state: SessionState) -> Ticks {
        if protocol == protocol::SCTP {
            return sctp_state::timeout(state);
        }
        self.timeouts[state as usize & (TIMEOUTS - 1)]
    }

    /// Moves a session between its server's active and inactive counts.
    pub(crate) fn recount(&mut self, id: SessionId, active: bool) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.is_active() == active {
            return;
        }
        session.toggle_active();
        let Some(Some(server)) = self.slots.get(session.slot().0 as usize) else { return };
        let counters = &server.counters;
        if active {
            counters.inactive.dec();
            counters.active.inc();
        } else {
            counters.active.dec();
            counters.inactive.inc();
        }
    }
}
