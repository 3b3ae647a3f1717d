//! How an explained packet leaves, and the way of the answer.

use std::net::IpAddr;

use weir_api::model::Forwarding;

use super::question::{AskedPacket, Explain, Leg, ReturnLeg};
use crate::{
    path::{
        flow::{Flows, belief::Belief, service::Chosen, session::Course, tunnel_shape},
        ingress::parse::Parsed,
        verdict::{Reason, Verdict},
    },
    table::{
        endpoints::Endpoints,
        session::{Direction, ONE_PACKET},
        sessions::Found,
    },
};

impl Flows {
    /// Explains how a packet of a session leaves.
    pub(super) fn explain_session_s_way(&self, e: &mut Explain, p: &Parsed, found: Found) {
        let Found { id, direction } = found;
        let Some(session) = self.sessions.get(id) else { return };
        if session.is_one_way() {
            let Some(reply) = self.sessions.arriving(id, Direction::Reply) else { return };
            let tunnel = session.is_tunnelled().then(|| session.slot().server());
            let leg = Leg { to: reply.source.0, leaves: e.ends, tunnel, back: Some(ReturnLeg::Itself) };
            return self.explain_leave(e, p, leg);
        }
        let Some(leaves) = self.sessions.leaving(id, direction) else { return };
        if self.is_hairpin(found) {
            let owner = self.snat_owner(&leaves, crate::path::flow::snat::SnatRole::In);
            return e.turns_back(leaves, owner);
        }
        let (back, refused) = self.answer_in_session(e, found).unzip();
        self.explain_leave(e, p, Leg { to: leaves.destination.0, leaves, tunnel: None, back });
        if let (Some(Some(reason)), Some(ReturnLeg::Here { way, .. })) = (refused, &mut e.back) {
            *way = Err(reason);
        }
    }

    /// The answer to a packet of a session, if it belongs to the session as well, and the reason for which it is
    /// dropped, if it is: the client of a deleted server no longer gets through to it, though the server may answer.
    fn answer_in_session(
        &self,
        e: &Explain,
        Found { id, direction }: Found,
    ) -> Option<(ReturnLeg, Option<Reason>)> {
        let found = Found { id, direction: direction.opposite() };
        // The next datagram of a one-packet service gets a session of its own.
        if self.sessions.get(id)?.flags & ONE_PACKET != 0 && direction == Direction::Reply {
            return None;
        }
        let comes = self.sessions.arriving(id, found.direction)?;
        let leg = ReturnLeg::here(comes, self.sessions.leaving(id, found.direction)?);
        let answer = AskedPacket { ends: comes, opens: false, ..e.packet }.parsed(&comes);
        match self.course(found, &answer, Belief::Counts) {
            Course::Kernel | Course::Reopen => None,
            Course::ServerDeleted => Some((leg, Some(Reason::ServerDeleted))),
            Course::TtlExpired | Course::On => Some((leg, self.would_hold_back(&answer, found))),
        }
    }

    /// The way of a session that doesn't exist yet. `local` is its local address; with `once` it never will exist.
    pub(super) fn new_leg(&self, ends: &Endpoints, chosen: Chosen, local: Option<IpAddr>, once: bool) -> Leg {
        let server = (chosen.address, chosen.port);
        let answer = |comes| Some(ReturnLeg::here(comes, ends.reversed()));
        let (leaves, back) = match (chosen.method, local) {
            (Forwarding::Route | Forwarding::Tunnel(_), _) => (*ends, Some(ReturnLeg::Itself)),
            (_, Some(local)) => {
                let leaves = Endpoints { source: (local, 0), destination: server };
                (leaves, answer(leaves.reversed()))
            }
            (_, None) => {
                let leaves = Endpoints { destination: server, ..*ends };
                // The answer to a datagram without a session isn't translated.
                (leaves, if once { None } else { answer(leaves.reversed()) })
            }
        };
        let tunnel = matches!(chosen.method, Forwarding::Tunnel(_)).then_some(chosen.server);
        Leg { to: chosen.address, leaves, tunnel, back }
    }

    /// Explains how a packet leaves, if it can.
    pub(super) fn explain_leave(&self, e: &mut Explain, p: &Parsed, leg: Leg) {
        if self.routing.leads_here(leg.to) {
            e.delivered = true;
            e.leaves = Some(leg.leaves);
            e.back = leg.back.and_then(|back| self.way_back(back));
            return self.explain_punt(e);
        }
        let way = match self.routing.view(leg.to) {
            Ok(way) => way,
            Err(reason) => return e.drops(reason),
        };
        e.way = Some(way);
        let refused = match leg.tunnel {
            Some(server) => tunnel_shape::refusal(self, p, (leg.to, server), (way.mtu, way.port)),
            None => (p.ip_len > way.mtu).then_some(Reason::TooBig),
        };
        if let Some(reason) = refused {
            return e.drops(reason);
        }
        e.end = (Verdict::Forwarded, None);
        e.leaves = Some(leg.leaves);
        // A packet that has turned back is answered from inside.
        let turned_back = e.ends != e.packet.ends;
        e.back = leg.back.filter(|_| !turned_back).and_then(|back| self.way_back(back));
    }

    /// The way of an answer; none for one that would turn back.
    fn way_back(&self, back: ReturnLeg) -> Option<ReturnLeg> {
        match back {
            ReturnLeg::Itself => Some(ReturnLeg::Itself),
            ReturnLeg::Here { leaves, .. } if self.is_external(leaves.destination.0) => None,
            ReturnLeg::Here { comes, leaves, .. } => {
                let port = self.routing.view(comes.source.0).ok().map(|way| way.port);
                Some(ReturnLeg::Here { comes, port, leaves, way: self.routing.view(leaves.destination.0) })
            }
        }
    }
}
