//! Weighs a packet of a session before it changes anything, see [`super::belief`].

use weir_api::model::SessionState::{Close, Established, SynRecv, SynSent};

use super::{
    Flows,
    belief::Belief,
    sctp_tags::{Tags, learn_chunk, weigh_chunk},
    tcp_numbers::{ClientSegment, known, learn, note, weigh},
};
use crate::{
    clock::Ticks,
    io::{Frame, PortId},
    net::{
        protocol,
        tcp::{FIN, RST, SYN},
    },
    path::ingress::{parse::Parsed, sums::transport_checksum_ok},
    table::{
        session::{
            Direction::{Reply, Request},
            Session, SessionId,
        },
        sessions::Found,
    },
};

/// How long after a reset that may be real the session waits for a sign of life.
const DOUBT: Ticks = Ticks::seconds(60);

impl Flows {
    /// What a packet may change about its session; what it tells of numbers is noted.
    pub(crate) fn believed(&mut self, frame: &impl Frame, p: &Parsed, found: Found) -> Belief {
        if found.direction == Request && self.leaves_server(found.id, p) {
            return if transport_checksum_ok(frame, p) { Belief::Counts } else { Belief::Nothing };
        }
        match p.protocol {
            protocol::TCP => self.believed_segment(frame, p, found),
            protocol::SCTP => self.believed_chunk(frame, p, found),
            _ => Belief::Counts,
        }
    }

    fn believed_segment(&mut self, frame: &impl Frame, p: &Parsed, found: Found) -> Belief {
        let Some(segment) = self.segment(frame.data(), p, found) else { return Belief::Nothing };
        let nat_strict = self.settings.nat_strict_tcp;
        let Some(session) = self.sessions.get_mut(found.id) else { return Belief::Nothing };
        let belief = weigh(session, found.direction, &segment, nat_strict);
        match belief {
            Belief::Nothing => Belief::Nothing,
            Belief::Quiet => {
                let shaking = matches!(session.state(), SynSent | SynRecv);
                if !shaking && segment.flags & (SYN | FIN | RST) == 0 {
                    note(session, found.direction, &segment);
                }
                Belief::Quiet
            }
            _ if !transport_checksum_ok(frame, p) => Belief::Nothing,
            Belief::Doubtful => Belief::Doubtful,
            _ => {
                if !session.is_one_way() {
                    learn(session, found.direction, &segment);
                }
                if belief == Belief::Becomes(Established) {
                    // What the client acknowledges is known when it does.
                    session.expect(Request, 0);
                }
                belief
            }
        }
    }

    /// A segment's flags and numbers, as the client counts.
    fn segment(&self, data: &[u8], p: &Parsed, found: Found) -> Option<ClientSegment> {
        let mut segment = ClientSegment::read(data, p)?;
        let proxied = self.sessions.get(found.id).is_some_and(Session::is_proxied);
        if proxied && found.direction == Reply {
            segment.acknowledgement = self.streams.get(found.id.0).back(segment.acknowledgement);
        }
        Some(segment)
    }

    fn believed_chunk(&mut self, frame: &impl Frame, p: &Parsed, found: Found) -> Belief {
        let tags = Tags::read(frame.data(), p);
        let Some(session) = self.sessions.get_mut(found.id) else { return Belief::Nothing };
        let belief = weigh_chunk(session, found.direction, p.flags, tags);
        if !belief.counts() {
            return belief;
        }
        if !transport_checksum_ok(frame, p) {
            return Belief::Nothing;
        }
        learn_chunk(session, found.direction, p.flags, tags);
        belief
    }

    /// The numbers of the packet that opened a session, and the port it came by.
    #[inline(always)]
    pub(crate) fn learn_first(&mut self, port: PortId, frame: &impl Frame, p: &Parsed, found: Found) {
        let Some(session) = self.sessions.get_mut(found.id) else { return };
        session.set_arrival(found.direction, port);
        match p.protocol {
            protocol::TCP => {
                let Some(segment) = ClientSegment::read(frame.data(), p) else { return };
                if p.flags & SYN == 0 {
                    return note(session, found.direction, &segment);
                }
                session.expect(found.direction.opposite(), known(segment.sequence.wrapping_add(1)));
            }
            protocol::SCTP => {
                learn_chunk(session, found.direction, p.flags, Tags::read(frame.data(), p));
            }
            _ => {}
        }
    }

    /// Whether a packet arrives by a port behind which its sender is; that port is remembered.
    pub(crate) fn arrives_right(&mut self, port: PortId, found: Found) -> bool {
        let right = self.may_arrive(port, found);
        if right
            && let Some(session) = self.sessions.get_mut(found.id)
            && !session.arrives_by(found.direction, port)
            && !session.is_one_way()
        {
            session.set_arrival(found.direction, port);
        }
        right
    }

    /// Whether a packet that arrives by this port may be of the session.
    pub(crate) fn may_arrive(&self, port: PortId, found: Found) -> bool {
        let Some(session) = self.sessions.get(found.id) else { return true };
        if session.arrives_by(found.direction, port) || session.is_one_way() {
            return true;
        }
        let Some(sender) = self.sessions.arriving(found.id, found.direction).map(|ends| ends.source.0) else {
            return true;
        };
        // What has turned back comes from an external address.
        self.is_external(sender) || self.routing.table().is_behind(port, sender)
    }

    /// A reset that may be real: the session ends soon, unless a packet follows.
    pub(crate) fn doubt(&mut self, id: SessionId) {
        let now = self.now;
        let Some(session) = self.sessions.get(id) else { return };
        let shaking = matches!(session.state(), SynSent | SynRecv);
        let doubt = if shaking { self.timeouts[Close as usize].min(DOUBT) } else { DOUBT };
        if now.after(doubt).reached(session.deadline()) {
            return;
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.last_seen = now;
        }
        self.sessions.set_timeout(id, doubt);
    }
}
