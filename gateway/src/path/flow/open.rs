//! Stage 4, on the slow path: a packet without a session, such as a SYN. Finds the service and the server, and opens
//! a session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_api::model::{ClientAddress, Forwarding, SessionState, trace::TraceStage};

use super::{
    Flows,
    belief::Belief,
    deltas::deltas_of,
    local_address::transport,
    one_packet,
    service::Chosen,
    snat::{SnatRole, refuse_source},
    stream::Stream,
    tcp_state,
};
use crate::{
    id::{ServiceId, WorkerId},
    io::{Frame, PortId},
    net::{protocol, tcp as tcp_flags},
    path::{
        ingress::{parse::Parsed, sctp_event},
        next::{As, Next, Reply},
        packet::{Origin, Packet},
        verdict::Reason,
    },
    sched::Flow,
    table::{
        endpoints::Endpoints,
        session::{Direction, FULLNAT, INACTIVE, NewSession, ONE_PACKET, ONE_WAY, SessionId, TELLS, TUNNEL},
        sessions::Found,
    },
};

/// The unset address of a local end, in the server's family.
fn nobody(server: IpAddr) -> (IpAddr, u16) {
    match server {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}

/// The state of a session after its opening packet. SCTP's state is set when the packet is tracked.
fn first_state(p: &Parsed, flags: u8) -> SessionState {
    match p.protocol {
        protocol::UDP => SessionState::Udp,
        protocol::TCP if flags & ONE_WAY != 0 => tcp_state::next_unanswered(SessionState::None, p.flags),
        protocol::TCP => {
            tcp_state::next(SessionState::None, Direction::Request, p.flags, flags & FULLNAT != 0)
        }
        _ => SessionState::None,
    }
}

/// Why a packet may not open a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenRefusal {
    /// Dropped silently.
    Drop(Reason),
    /// Its TTL has run out: answered with ICMP time exceeded.
    TtlExpired,
    /// TCP in the middle of a connection: answered with a reset.
    Reset,
    /// SCTP in the middle of an association: left to the kernel, which answers that it knows none.
    Punt,
}

/// Why a packet for a service opens no session.
#[derive(Clone, Copy, Debug)]
enum Unopened {
    Refused(OpenRefusal),
    /// No server can take it.
    NoServer,
}

/// Who a packet without a session belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Claimed {
    /// A service.
    Service(ServiceId),
    /// It came to a local address.
    Local,
    /// SNAT.
    Snat(SnatRole),
    /// The kernel, unless another worker's NAT knows the packet.
    Nobody,
}

/// What happens to a packet without a session.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plan {
    /// It opens a session of this service.
    Open(ServiceId),
    /// It opens a session of SNAT.
    Snat(SnatRole),
    /// It belongs to another worker.
    HandOver(WorkerId),
    /// It may not open anything.
    Refuse(Reason),
    /// It goes to the kernel.
    Punt,
}

impl Claimed {
    pub(crate) fn is_nobody_s(&self) -> bool {
        matches!(self, Self::Nobody)
    }

    pub(crate) fn service(&self) -> Option<ServiceId> {
        match self {
            Self::Service(id) => Some(*id),
            _ => None,
        }
    }
}

impl Flows {
    /// Who a packet between these endpoints belongs to, if it has no session.
    #[inline(always)]
    pub(crate) fn claimed(&self, port: PortId, ends: &Endpoints, protocol: u8) -> Claimed {
        if let Some(service) = self.lookup.claim(port, ends, protocol) {
            return Claimed::Service(service);
        }
        if self.lookup.is_local(ends.destination.0) {
            return Claimed::Local;
        }
        self.snat_claim(ends, protocol).map_or(Claimed::Nobody, Claimed::Snat)
    }

    /// The other worker that must look for the session of a packet that no NIC steers to its owner: a
    /// fragment, or an error about one.
    #[inline(always)]
    pub(crate) fn owner_elsewhere(
        &self,
        port: PortId,
        ends: &Endpoints,
        protocol: u8,
        claimed: &Claimed,
        origin: Origin,
    ) -> Option<WorkerId> {
        let nat = || self.nat_elsewhere(ends, protocol, origin);
        match *claimed {
            Claimed::Service(service) => self.elsewhere_of(port, ends, protocol, service, origin),
            Claimed::Local => self.elsewhere(port, ends, protocol, origin),
            Claimed::Snat(claim) => nat().or_else(|| self.snat_elsewhere(ends, claim, origin)),
            Claimed::Nobody => nat(),
        }
    }

    /// The other worker that owns a packet, if the port didn't steer the packet there: a NIC doesn't know a
    /// fragment's ports.
    #[inline]
    pub(crate) fn elsewhere(
        &self,
        port: PortId,
        ends: &Endpoints,
        protocol: u8,
        origin: Origin,
    ) -> Option<WorkerId> {
        if origin == Origin::Worker
            || self.workers < 2
            || self.steered.get(port.index()).copied().unwrap_or(false)
        {
            return None;
        }
        let owner = self.owner(ends, protocol);
        (owner != self.id).then_some(owner)
    }

    /// The owner of a packet between these endpoints, computed by the function that RSS applies.
    pub(crate) fn owner(&self, ends: &Endpoints, protocol: u8) -> WorkerId {
        let (sport, dport, protocol) = (ends.source.1, ends.destination.1, transport(protocol));
        match (ends.source.0, ends.destination.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                self.steering.owner_of_reply(from, sport, to, dport, protocol)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                self.steering.owner_of_reply(from, sport, to, dport, protocol)
            }
            _ => self.id,
        }
    }

    /// Chooses the server of a packet for a service, and the template that keeps its client there.
    #[inline(always)]
    fn pick<F: Frame>(
        &mut self,
        packet: &Packet<'_, F>,
        (flow, ends, id): (&Flow, &Endpoints, ServiceId),
    ) -> Result<(Chosen, Option<SessionId>), Unopened> {
        let p = packet.parsed;
        if let Some(refusal) = self.refusal(p, ends, packet.port) {
            return Err(Unopened::Refused(refusal));
        }
        self.stamp(TraceStage::Service);
        let service = self.services.get(id.0 as usize).and_then(Option::as_ref);
        let service = service.ok_or(Unopened::Refused(OpenRefusal::Drop(Reason::NoServer)))?;
        if service.scheduler.is_none() {
            return Err(Unopened::Refused(OpenRefusal::Drop(Reason::MethodNotBuilt)));
        }
        match service.persistence {
            None => self.choose(id, flow).map(|chosen| (chosen, None)).ok_or(Unopened::NoServer),
            Some(persistence) => {
                match self.schedule_persistent(packet.frame.data(), p, (flow, persistence), id) {
                    Ok(Some((chosen, template))) => Ok((chosen, Some(template))),
                    Ok(None) => Err(Unopened::NoServer),
                    Err(reason) => Err(Unopened::Refused(OpenRefusal::Drop(reason))),
                }
            }
        }
    }

    /// A session that is replaced by another one.
    #[cold]
    #[inline(never)]
    fn end_former(&mut self, id: SessionId) {
        self.end_session(id);
    }

    /// The reason why the packet may not open a session, if there is one.
    #[inline]
    pub(crate) fn refusal(&self, p: &Parsed, ends: &Endpoints, port: PortId) -> Option<OpenRefusal> {
        if let Some(reason) = self.source_refusal(port, ends.source.0) {
            return Some(OpenRefusal::Drop(reason));
        }
        let tcp = p.protocol == protocol::TCP;
        match () {
            // A virtual service is nobody's client ("land" attack).
            () if ends.source.0 == ends.destination.0 => Some(OpenRefusal::Drop(Reason::Martian)),
            () if p.ttl <= 1 => Some(OpenRefusal::TtlExpired),
            () if tcp && p.flags & tcp_flags::RST != 0 => Some(OpenRefusal::Drop(Reason::NoSession)),
            () if tcp && p.flags & tcp_flags::SYN == 0 && !self.settings.sloppy_tcp => {
                Some(OpenRefusal::Reset)
            }
            () if p.protocol == protocol::SCTP
                && p.flags != sctp_event::INIT
                && !self.settings.sloppy_sctp =>
            {
                Some(OpenRefusal::Punt)
            }
            () => None,
        }
    }

    pub(crate) fn new_session(
        &mut self,
        p: &Parsed,
        flow: &Flow,
        chosen: &Chosen,
        service: ServiceId,
    ) -> Result<SessionId, Reason> {
        let port = if chosen.port == 0 { flow.destination_port } else { chosen.port };
        let (request, client) = (flow.endpoints(), (flow.source, flow.source_port));
        let nat64 = chosen.address.is_ipv6() != p.ipv6;
        let (local, flags) = match chosen.method {
            Forwarding::FullNat => {
                (self.allocate_local(service, chosen.address, port, p.protocol)?, FULLNAT | INACTIVE)
            }
            // Only a tunnel, or FULLNAT, which replaces the addresses on both sides, can reach the other
            // family.
            Forwarding::Nat | Forwarding::Route if nat64 => return Err(Reason::OtherFamily),
            Forwarding::Nat => (client, INACTIVE),
            Forwarding::Route => (client, ONE_WAY | INACTIVE),
            Forwarding::Tunnel(_) if nat64 => (nobody(chosen.address), ONE_WAY | TUNNEL | INACTIVE),
            Forwarding::Tunnel(_) => (client, ONE_WAY | TUNNEL | INACTIVE),
        };
        let reply = Endpoints { source: (chosen.address, port), destination: local };
        let Some(Some(of)) = self.services.get(service.0 as usize) else { return Err(Reason::NoServer) };
        let flags = if one_packet::applies(of.one_packet, p) { flags | ONE_PACKET } else { flags };
        let how = of.client_address;
        let tells = how == ClientAddress::Toa && p.protocol == protocol::TCP;
        let flags = if tells && flags & FULLNAT != 0 { flags | TELLS } else { flags };
        let state = first_state(p, flags);
        let active = p.protocol == protocol::TCP && tcp_state::is_active(state);
        let flags = if active { flags & !INACTIVE } else { flags };
        let new = NewSession {
            request: p.tuple,
            reply: reply.tuple(),
            protocol: p.protocol,
            slot: chosen.server.slot(),
            flags,
        };
        let timeout = self.timeout_of(p.protocol, state);
        let inserted = if p.ipv6 || nat64 {
            self.sessions.insert_sought_endpoints((&request, &reply), &new, timeout, self.now)
        } else if flags & (FULLNAT | ONE_PACKET) == FULLNAT {
            // The server only answers packets that leave after this burst.
            self.sessions.insert_early(&new, timeout, self.now)
        } else {
            self.sessions.insert_sought(&new, timeout, self.now)
        };
        let Some(id) = inserted else {
            if flags & FULLNAT != 0 {
                self.release_local(&reply, p.protocol);
            }
            let full = self.sessions.len() == self.sessions.capacity();
            return Err(if full { Reason::SessionsFull } else { Reason::TupleInUse });
        };
        if flags & TELLS != 0 {
            self.told.forget(id.0);
        }
        let proxied = match (how, p.protocol) {
            _ if flags & FULLNAT == 0 => false,
            (ClientAddress::ProxyV1, protocol::TCP) => true,
            (ClientAddress::ProxyV2, protocol::TCP | protocol::UDP) => true,
            _ => false,
        };
        if proxied {
            let begins = p.flags & tcp_flags::SYN != 0;
            self.streams.set(id.0, Stream::new(how, begins));
        }
        if let Some(session) = self.sessions.get_mut(id) {
            if proxied {
                session.set_proxied();
            }
            session.set_state(state);
            let (ip, l4) = deltas_of(&request, &reply.reversed());
            session.set_deltas(ip, l4);
        }
        if let Some(server) = self.slot(chosen.server.slot()) {
            server.counters.connections.add(1);
            if active {
                server.counters.active.inc();
            } else {
                server.counters.inactive.inc();
            }
        }
        self.counters.events.sessions_opened.add(1);
        if self.session_log.is_some() {
            self.log_opened(id);
        }
        Ok(id)
    }

    /// Makes the replies of the burst's new sessions findable. A session ends if its reply tuple is taken by
    /// another session. This is so rare that its first packet may go unanswered.
    #[inline(never)]
    pub(crate) fn settle(&mut self) {
        for id in self.sessions.settle() {
            self.counters.events.replies_taken.add(1);
            self.end_session(id);
        }
    }

    /// Handles a TCP, UDP or SCTP packet that belongs to no session of this worker.
    #[inline(always)]
    pub(crate) fn unknown<F: Frame>(&mut self, packet: &Packet<'_, F>) -> Next {
        let (ends, protocol) = (packet.endpoints(), packet.parsed.protocol);
        let claimed = self.claimed(packet.port, &ends, protocol);
        let plan = self.plan(packet.queue(), &ends, protocol, (claimed, packet.origin));
        self.commit(packet, &ends, plan)
    }

    /// Plans what happens to a packet between these endpoints if it has no session. Changes nothing. RSS may
    /// have brought it by `queue`.
    #[inline(always)]
    pub(crate) fn plan(
        &self,
        queue: PortId,
        ends: &Endpoints,
        protocol: u8,
        (claimed, origin): (Claimed, Origin),
    ) -> Plan {
        let owner = match claimed {
            // Counted here, because the owner would take it for a packet that turned back.
            Claimed::Snat(_) if origin == Origin::Port && self.is_external(ends.source.0) => {
                let Some(owner) = self.nat_elsewhere(ends, protocol, origin) else {
                    return Plan::Refuse(Reason::Martian);
                };
                Some(owner)
            }
            _ => self.owner_elsewhere(queue, ends, protocol, &claimed, origin),
        };
        match (owner, claimed) {
            (Some(owner), _) => Plan::HandOver(owner),
            (None, Claimed::Service(service)) => Plan::Open(service),
            (None, Claimed::Local) => Plan::Refuse(Reason::NoLocalSession),
            (None, Claimed::Snat(claim)) => Plan::Snat(claim),
            (None, Claimed::Nobody) => Plan::Punt,
        }
    }

    /// Carries out the plan for a packet without a session.
    #[inline(always)]
    pub(crate) fn commit<F: Frame>(&mut self, packet: &Packet<'_, F>, ends: &Endpoints, plan: Plan) -> Next {
        match plan {
            Plan::Open(service) => self.open(packet, (ends, service), None),
            Plan::Snat(claim) => self.snat_open(packet, ends, claim),
            Plan::HandOver(owner) => Next::HandOver(owner),
            Plan::Refuse(Reason::Martian) => refuse_source(packet.port, Reason::Martian),
            Plan::Refuse(reason) => Next::Drop(reason),
            Plan::Punt => Next::Punt,
        }
    }

    /// Opens a session for a packet of a service whose client has no session, or has one that the packet
    /// starts again. The old session ends once a server is chosen, as in IPVS, whose schedulers and
    /// thresholds count it until then.
    pub(crate) fn open<F: Frame>(
        &mut self,
        packet: &Packet<'_, F>,
        (ends, id): (&Endpoints, ServiceId),
        old: Option<SessionId>,
    ) -> Next {
        let (p, flow) = (packet.parsed, Flow::new(ends, self.now));
        let picked = self.pick(packet, (&flow, ends, id));
        if let Some(old) = old {
            self.end_former(old);
        }
        let (chosen, template) = match &picked {
            Ok(picked) => picked,
            Err(unopened) => return self.turn_away(packet, *unopened),
        };
        self.stamp(TraceStage::Schedule);
        let service = self.services.get(id.0 as usize);
        if service.is_some_and(|s| s.as_ref().is_some_and(|s| one_packet::applies(s.one_packet, p))) {
            return self.once(packet, (&flow, *chosen), id);
        }
        match self.new_session(p, &flow, chosen, id) {
            Ok(id) => {
                if let Some(template) = template {
                    self.sessions.attach(id, *template);
                }
                self.stamp(TraceStage::Open);
                self.first_packet(packet, id)
            }
            Err(reason) => {
                self.give_place_back(chosen.server);
                Next::Drop(reason)
            }
        }
    }

    /// Handles a packet that opens no session.
    #[cold]
    #[inline(never)]
    fn turn_away<F: Frame>(&self, packet: &Packet<'_, F>, why: Unopened) -> Next {
        match why {
            Unopened::Refused(OpenRefusal::Drop(reason)) => Next::Drop(reason),
            Unopened::Refused(OpenRefusal::Punt) => Next::Punt,
            Unopened::Refused(OpenRefusal::TtlExpired) => Next::Reply(self.ttl_expired(packet)),
            Unopened::Refused(OpenRefusal::Reset) => Next::Reply(Reply::RESET),
            Unopened::NoServer => Next::Reply(Reply::no_server(packet)),
        }
    }

    /// Forwards the packet that opened a session.
    #[inline(always)]
    pub(crate) fn first_packet<F: Frame>(&mut self, packet: &Packet<'_, F>, id: SessionId) -> Next {
        let (p, found) = (packet.parsed, Found { id, direction: Direction::Request });
        self.count_packet(found, p);
        self.learn_first(packet.port, &packet.frame, p, found);
        if p.protocol == protocol::SCTP {
            self.track(found, p, Belief::Counts);
        } else if self.sessions.get(id).is_some_and(|s| s.is_in(SessionState::Established)) {
            self.assure(id);
        }
        self.forward(packet, found, As::Packet)
    }
}
