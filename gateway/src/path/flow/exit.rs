//! Stage 7: how a packet of a session leaves. The session remembers the next hop of each direction; otherwise it is
//! looked up.

use std::net::IpAddr;

use weir_api::model::trace::TraceStage;

use super::{
    Flows,
    route::{self, Need},
};
use crate::{
    id::HopId,
    io::Frame,
    path::{
        ingress::sums::is_unchecked,
        next::{As, Exit, Next, RestGoes},
        packet::Packet,
        verdict::Reason,
    },
    table::{
        session::{Direction, Session, SessionId},
        sessions::Found,
    },
};

impl Flows {
    /// Forwards a packet in its session.
    #[inline(always)]
    pub(crate) fn forward<F: Frame>(&mut self, packet: &Packet<'_, F>, found: Found, what: As) -> Next {
        let whole = matches!(what, As::Packet) && packet.first.is_none();
        if !whole || !self.sessions.get(found.id).is_some_and(Session::is_plain) {
            return self.forward_special(packet, found, what);
        }
        let hop = self.hop_for(found);
        self.stamp(TraceStage::Route);
        match hop {
            Ok(hop) => Next::Plain(found, hop),
            Err(reason) if self.is_translated_here(found, reason) => {
                Next::Forward(found, Exit::Local, As::Packet)
            }
            Err(reason) => Next::Drop(reason),
        }
    }

    /// Like [`Self::forward`], for a packet that isn't whole or whose session has something special about it.
    #[inline(never)]
    fn forward_special<F: Frame>(&mut self, packet: &Packet<'_, F>, found: Found, what: As) -> Next {
        let exit = self.exit(packet, found, &what);
        self.stamp(TraceStage::Route);
        match exit {
            Ok(exit) => Next::Forward(found, exit, what),
            Err(reason) => Next::Drop(reason),
        }
    }

    fn exit<F: Frame>(&mut self, packet: &Packet<'_, F>, found: Found, what: &As) -> Result<Exit, Reason> {
        let session = self.sessions.get(found.id).ok_or(Reason::NoSession)?;
        if session.is_one_way() {
            return or_here(self.one_way_hop(found.id));
        }
        if session.is_nat64() {
            return self.nat64_exit(packet, found, what).map(Exit::Hop);
        }
        if self.is_hairpin(found) {
            return Ok(Exit::Hairpin);
        }
        match self.hop_for(found) {
            Err(reason) if self.is_translated_here(found, reason) => Ok(Exit::Local),
            hop => hop.map(Exit::Hop),
        }
    }

    /// How a packet leaves for a server that was chosen for this packet alone.
    pub(crate) fn exit_to(&mut self, server: IpAddr) -> Result<Exit, Reason> {
        or_here(self.routing.towards(server, Need::Server, self.now))
    }

    /// The next hop of a session in a direction: the remembered one, or one looked up.
    fn hop_for(&mut self, found: Found) -> Result<HopId, Reason> {
        let generation = self.routing.generation;
        let session = self.sessions.get_mut(found.id).ok_or(Reason::NoSession)?;
        let hop = session.hops[found.direction.index()];
        if let Some(hop) = route::remembered(hop, session.hops_generation, generation) {
            return Ok(hop.unmarked());
        }
        if hop.is_known() && self.still_hold(found.id) {
            return Ok(hop.unmarked());
        }
        let session = self.sessions.get(found.id).ok_or(Reason::NoSession)?;
        // Inside hosts choose where SNAT's requests go, so those hops count as guests.
        let guest = found.direction == Direction::Reply || session.is_snat();
        let to = self.sessions.leaving(found.id, found.direction).ok_or(Reason::NoSession)?.destination.0;
        let need = if guest { Need::Guest } else { Need::Server };
        let hop = self.routing.towards(to, need, self.now)?;
        let known = self.routing.may_be_remembered(hop);
        let session = self.sessions.get_mut(found.id).ok_or(Reason::NoSession)?;
        let passes_by = session.is_nat64() || session.is_proxied() || !known;
        if !passes_by && let Some(hop) = self.told.to_remember(session, found, hop) {
            session.remember_hop(found.direction, hop, generation);
        }
        Ok(hop)
    }

    /// Whether both hops of a session are still valid although routes have changed since. If so, the session
    /// keeps them.
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

    /// The next hop towards the server: the remembered one, or one looked up.
    fn one_way_hop(&mut self, id: SessionId) -> Result<HopId, Reason> {
        let generation = self.routing.generation;
        let session = self.sessions.get(id).ok_or(Reason::NoSession)?;
        let hop = session.hops[Direction::Reply.index()];
        if let Some(hop) = route::remembered(hop, session.hops_generation, generation) {
            return Ok(hop);
        }
        let of = session.hops_generation;
        let server = self.sessions.arriving(id, Direction::Reply).ok_or(Reason::NoSession)?.source.0;
        if hop.is_known() && self.routing.holds(of, server) {
            self.sessions.get_mut(id).ok_or(Reason::NoSession)?.hops_generation = generation;
            return Ok(hop);
        }
        let hop = self.routing.towards(server, Need::Server, self.now)?;
        if self.routing.may_be_remembered(hop) {
            let session = self.sessions.get_mut(id).ok_or(Reason::NoSession)?;
            session.remember_hop(Direction::Reply, hop, self.routing.generation);
        }
        Ok(hop)
    }

    /// The next hop of a packet whose session has the other family on its other side.
    fn nat64_exit<F: Frame>(
        &mut self,
        packet: &Packet<'_, F>,
        found: Found,
        what: &As,
    ) -> Result<HopId, Reason> {
        if let As::Error(_) = what {
            // The rebuilt error goes to the destination of the session's packets.
            let to = self.sessions.leaving(found.id, found.direction).ok_or(Reason::NoSession)?;
            return self.routing.towards(to.destination.0, Need::Guest, self.now);
        }
        let hop = self.hop_of_nat64(found)?;
        if let As::Packet = what {
            self.remember_across(packet.parsed.ipv6, found, hop);
            if packet.first.is_some() && is_unchecked(packet.frame.data(), packet.parsed) {
                // Nobody has the whole packet to compute its checksum (RFC 7915, 4.5).
                self.rest_goes = Some(RestGoes::Nowhere(Reason::OtherFamily));
                return Err(Reason::OtherFamily);
            }
        }
        Ok(hop)
    }

    /// Lets the IPv6 fast path know the next hop of a session between the families.
    fn remember_across(&mut self, ipv6: bool, found: Found, hop: HopId) {
        let generation = self.routing.generation;
        let known = self.routing.may_be_remembered(hop);
        let session =
            self.sessions.get_mut(found.id).filter(|session| known && ipv6 && !session.is_proxied());
        if let Some(session) = session
            && let Some(hop) = self.told.to_remember(session, found, hop)
        {
            session.remember_hop(found.direction, hop, generation);
        }
    }

    /// The next hop of such a session in a direction: the remembered one, or one looked up.
    fn hop_of_nat64(&mut self, found: Found) -> Result<HopId, Reason> {
        let generation = self.routing.generation;
        if let Some(hop) = self.sessions.nat64_hop(found.id, found.direction, generation) {
            return Ok(hop);
        }
        let leaving = self.sessions.leaving(found.id, found.direction).ok_or(Reason::NoSession)?;
        self.nat64_hop(found, leaving.destination.0)
    }

    /// Looks up the next hop of such a session, and remembers it.
    fn nat64_hop(&mut self, found: Found, to: IpAddr) -> Result<HopId, Reason> {
        let need = if found.direction == Direction::Reply { Need::Guest } else { Need::Server };
        let hop = self.routing.towards(to, need, self.now)?;
        if self.routing.may_be_remembered(hop) {
            let generation = self.routing.generation;
            self.sessions.remember_nat64_hop(found.id, found.direction, hop, generation);
        }
        Ok(hop)
    }
}

/// A hop; the gateway itself if there is no hop because the destination is its own address.
fn or_here(hop: Result<HopId, Reason>) -> Result<Exit, Reason> {
    match hop {
        Err(Reason::ToGateway) => Ok(Exit::Local),
        hop => hop.map(Exit::Hop),
    }
}
