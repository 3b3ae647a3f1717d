//! Explains what would happen to a packet, and why.
//!
//! It asks the stages for their decisions, in order, about a packet that exists only as a description. Nothing changes:
//! no scheduler advances ([`crate::sched::Scheduler::preview`]), no port is taken, no session opened, no counter
//! touched. Each decision is made by the function that the stage itself uses, so that the two can't diverge.
//!
//! Control doesn't know which worker owns a packet. It asks any of them, and continues with the one named in the
//! answer: first the worker whose queue the packet arrives in, then perhaps the one that it is handed to.

mod leave;
pub mod question;

use std::net::IpAddr;

use weir_api::model::{
    Forwarding, Tunnel, TunnelChecksum, TunnelKind,
    explain::{Answer, CandidateServer, LocalRoom},
};

use self::question::{AskedPacket, At, Explain, Leg, ReturnLeg};
use crate::{
    id::ServiceId,
    io::PortId,
    net::{protocol, tcp as tcp_flags},
    path::{
        flow::{
            Flows,
            belief::Belief,
            destination::is_martian,
            one_packet,
            open::{OpenRefusal, Plan},
            persist::Kept,
            service::{Chosen, WorkerService},
            session::Course,
            snat::SnatRole,
        },
        ingress::{
            parse::{Kind, Parsed},
            sctp_event,
        },
        packet::Origin,
        verdict::{Reason, Verdict},
    },
    sched::{Flow, Scheduler, Server},
    table::{
        endpoints::Endpoints,
        session::{Direction, Session, SessionId},
        sessions::Found,
    },
};

impl AskedPacket {
    /// The result of parsing a packet between these endpoints, without payload and with enough TTL.
    fn parsed(self, ends: &Endpoints) -> Parsed {
        let tcp = self.protocol == protocol::TCP;
        Parsed {
            tuple: ends.tuple(),
            kind: match (self.protocol, self.ends.is_ipv6()) {
                (protocol::SCTP, _) => Kind::Sctp,
                (_, true) => Kind::TransportV6,
                (_, false) => Kind::Transport,
            },
            ip_len: if tcp { 40 } else { 28 } + if self.ends.is_ipv6() { 20 } else { 0 },
            ipv6: self.ends.is_ipv6(),
            protocol: self.protocol,
            flags: match (self.protocol, self.opens) {
                (protocol::TCP, true) => tcp_flags::SYN,
                (protocol::TCP, false) => tcp_flags::ACK,
                (protocol::SCTP, true) => sctp_event::INIT,
                (protocol::SCTP, false) => sctp_event::DATA,
                _ => 0,
            },
            ttl: 64,
            dont_fragment: true,
            ..Parsed::NOTHING
        }
    }
}

impl Flows {
    /// Answers a question as far as this worker can.
    pub(crate) fn explain(&mut self, e: &mut Explain) {
        let p = e.packet.parsed(&e.ends);
        let port = e.packet.port.or_else(|| Some(self.routing.view(e.packet.ends.source.0).ok()?.port));
        let port = port.unwrap_or(PortId(0));
        e.packet.port = Some(port);
        if e.at == At::Port {
            let queue = self.owner(&e.ends, p.protocol);
            e.at = At::Queue;
            if queue != self.id {
                e.elsewhere = Some(queue);
                return;
            }
        }
        match self.sessions.find_endpoints(&e.ends, p.protocol) {
            Some(found) => self.explain_known(e, port, &p, found),
            None => self.explain_unknown(e, port, &p, None),
        }
    }

    fn explain_known(&mut self, e: &mut Explain, port: PortId, p: &Parsed, found: Found) {
        let Some(session) = self.sessions.get(found.id) else { return };
        let reply = found.direction == Direction::Reply;
        // For a packet that has turned back, the session it arrived in counts.
        if e.session.is_none() {
            e.session = Some((self.found(found.id, session), session.slot().server(), reply));
            e.method = (!session.is_snat()).then(|| method(session));
        }
        if !self.may_arrive(port, found) {
            return e.drops(Reason::Martian);
        }
        match self.course(found, p, Belief::Counts) {
            Course::Kernel => self.explain_punt(e),
            Course::TtlExpired => e.drops(Reason::TtlExpired),
            Course::ServerDeleted => e.drops(Reason::ServerDeleted),
            Course::Reopen => self.explain_unknown(e, port, p, Some(found.id)),
            Course::On => match self.would_hold_back(p, found) {
                Some(reason) => e.drops(reason),
                None => self.explain_session_s_way(e, p, found),
            },
        }
    }

    /// `old` is the packet's session, if the packet starts it again.
    fn explain_unknown(&mut self, e: &mut Explain, port: PortId, p: &Parsed, old: Option<SessionId>) {
        let origin = if e.at == At::Handed { Origin::Worker } else { Origin::Port };
        let ends = e.ends;
        let claimed = self.claimed(port, &ends, p.protocol);
        e.service = e.service.or(claimed.service());
        match self.plan(port, &ends, p.protocol, (claimed, origin)) {
            Plan::HandOver(owner) => (e.elsewhere, e.at) = (Some(owner), At::Handed),
            Plan::Open(id) => self.explain_open(e, port, p, (id, old)),
            Plan::Snat(claim) => self.explain_snat(e, port, p, (claim, origin)),
            Plan::Refuse(reason) => e.drops(reason),
            Plan::Punt => self.explain_punt(e),
        }
    }

    fn explain_snat(
        &mut self,
        e: &mut Explain,
        port: PortId,
        p: &Parsed,
        (claim, origin): (SnatRole, Origin),
    ) {
        let ends = e.ends;
        if let Some(reason) = self.snat_source_refusal(port, &ends, claim, origin) {
            return e.drops(reason);
        }
        match self.snat_preview(p, &ends, claim) {
            Ok(leaves) if self.is_external(leaves.destination.0) => {
                let owner = self.snat_owner(&leaves, SnatRole::In);
                e.turns_back(leaves, owner);
            }
            Ok(leaves) => {
                let comes = leaves.reversed();
                let back = (claim != SnatRole::In).then(|| ReturnLeg::here(comes, ends.reversed()));
                self.explain_leave(e, p, Leg { to: leaves.destination.0, leaves, tunnel: None, back });
            }
            Err(reason) if self.is_left_to_kernel(&ends, claim, reason) => self.explain_punt(e),
            Err(Reason::NoSession) => e.end = (Verdict::Drop(Reason::NoSession), Some(Answer::Reset)),
            Err(Reason::SessionsFull) if claim != SnatRole::In => {
                e.end = (Verdict::Drop(Reason::SessionsFull), Some(Answer::Prohibited));
            }
            Err(Reason::SnatSessionLimit) if claim == SnatRole::In => {
                e.end = (Verdict::Drop(Reason::SnatSessionLimit), None);
            }
            Err(reason) => e.drops(reason),
        }
    }

    pub(crate) fn explain_punt(&self, e: &mut Explain) {
        match self.kernel {
            _ if is_martian(e.ends.destination.0) => e.drops(Reason::MartianDestination),
            true => e.end = (Verdict::Punted, None),
            false => e.drops(Reason::NoHost),
        }
    }

    fn explain_open(
        &mut self,
        e: &mut Explain,
        port: PortId,
        p: &Parsed,
        (id, old): (ServiceId, Option<SessionId>),
    ) {
        let ends = e.ends;
        match self.refusal(p, &ends, port) {
            Some(OpenRefusal::Drop(reason)) => return e.drops(reason),
            Some(OpenRefusal::TtlExpired) => return e.drops(Reason::TtlExpired),
            Some(OpenRefusal::Punt) => return self.explain_punt(e),
            Some(OpenRefusal::Reset) => {
                e.end = (Verdict::Drop(Reason::NoSession), Some(Answer::Reset));
                return;
            }
            None => {}
        }
        let made = |s: &Option<Box<WorkerService>>| s.as_ref().is_some_and(|s| s.scheduler.is_some());
        if !self.services.get(id.0 as usize).is_some_and(made) {
            return e.drops(Reason::MethodNotBuilt);
        }
        let flow = Flow::new(&ends, self.now);
        let chosen = match self.explain_choice(e, p, &flow, id) {
            Ok(Some(chosen)) => chosen,
            Ok(None) => return e.drops(Reason::NoServer),
            Err(reason) => return e.drops(reason),
        };
        match self.explain_session(e, p, chosen, (id, old)) {
            Ok(leg) => self.explain_leave(e, p, leg),
            Err(reason) => e.drops(reason),
        }
    }

    /// Explains which server a new session would get.
    fn explain_choice(
        &mut self,
        e: &mut Explain,
        p: &Parsed,
        flow: &Flow,
        id: ServiceId,
    ) -> Result<Option<Chosen>, Reason> {
        let Some(Some(service)) = self.services.get(id.0 as usize) else { return Err(Reason::NoServer) };
        let kept = match service.persistence {
            Some(_) if service.by_call => return Err(Reason::NoCallId),
            Some(persistence) => self.kept(p, &flow.endpoints(), persistence, id)?,
            None => Kept::Nowhere,
        };
        if let Kept::At(template, chosen) = kept {
            let record = self.sessions.get(template).ok_or(Reason::NoServer)?;
            e.template = Some(self.found(template, record));
            return Ok(Some(chosen));
        }
        let Some(Some(service)) = self.services.get_mut(id.0 as usize) else { return Err(Reason::NoServer) };
        let scheduler = service.scheduler.as_mut().ok_or(Reason::MethodNotBuilt)?;
        let n = scheduler.preview(&service.servers, flow);
        let standing = scheduler.standing(&service.servers, flow);
        e.scheduling = Some((scheduler.name(), standing, n.map(|n| n as u32)));
        let room = e.candidates.capacity();
        e.candidates.extend(service.servers.iter().take(room).map(|s| candidate(scheduler.as_ref(), s)));
        let chosen = n.and_then(|n| service.choice(n));
        Ok(chosen.map(|chosen| self.persistent_port(p, &flow.endpoints(), chosen, id)))
    }

    /// Explains how a new session would leave, if it could be opened.
    fn explain_session(
        &self,
        e: &mut Explain,
        p: &Parsed,
        chosen: Chosen,
        (id, old): (ServiceId, Option<SessionId>),
    ) -> Result<Leg, Reason> {
        let Some(Some(service)) = self.services.get(id.0 as usize) else { return Err(Reason::NoServer) };
        let port = if chosen.port == 0 { e.ends.destination.1 } else { chosen.port };
        let chosen = Chosen { port, ..chosen };
        e.server = Some(chosen);
        // A template is added before the old session ends, a session after.
        let mut room = self.sessions.capacity() - self.sessions.len();
        if service.persistence.is_some() && e.template.is_none() {
            room = room.checked_sub(1).ok_or(Reason::SessionsFull)?;
        }
        room += usize::from(old.is_some());
        let once = one_packet::applies(service.one_packet, p) && chosen.method != Forwarding::FullNat;
        let nat64 = chosen.address.is_ipv6() != p.ipv6;
        if nat64 && matches!(chosen.method, Forwarding::Nat | Forwarding::Route) {
            return Err(Reason::OtherFamily);
        }
        let local = match chosen.method {
            Forwarding::FullNat => Some(self.explain_local(e, p, chosen, (id, old))?),
            _ => None,
        };
        if room == 0 && !once {
            return Err(Reason::SessionsFull);
        }
        Ok(self.new_leg(&e.ends, chosen, local, once))
    }

    /// Explains the local address of a new session, and how many ports are left.
    fn explain_local(
        &self,
        e: &mut Explain,
        p: &Parsed,
        chosen: Chosen,
        (id, old): (ServiceId, Option<SessionId>),
    ) -> Result<IpAddr, Reason> {
        let Some(Some(service)) = self.services.get(id.0 as usize) else { return Err(Reason::NoServer) };
        let server = (chosen.address, chosen.port);
        let given_back = old.filter(|old| self.sessions.get(*old).is_some_and(Session::is_fullnat));
        let given_back = given_back.and_then(|old| self.sessions.arriving(old, Direction::Reply));
        let given_back = given_back.filter(|reply| reply.source == server).map(|reply| reply.destination.0);
        let row = |address: IpAddr| {
            let (used, ports) = self.local_room(address, chosen.address, chosen.port, p.protocol);
            LocalRoom { address, used: used - u32::from(used > 0 && given_back == Some(address)), ports }
        };
        let all: &mut dyn Iterator<Item = IpAddr> = if chosen.address.is_ipv6() {
            &mut service.local_addresses_v6.iter().copied().map(IpAddr::V6)
        } else {
            &mut service.local_addresses.iter().copied().map(IpAddr::V4)
        };
        let room = e.local_addresses.capacity();
        let (mut first, mut any) = (None, false);
        for local in all.map(row) {
            any = true;
            first = first.or((local.used < local.ports).then_some(local.address));
            if e.local_addresses.len() < room {
                e.local_addresses.push(local);
            }
        }
        match first {
            Some(first) => Ok(self.local_preview(id, server, p.protocol).unwrap_or(first)),
            None if any => Err(Reason::LocalPortsExhausted),
            None => Err(Reason::NoLocalAddress),
        }
    }
}

fn method(session: &Session) -> Forwarding {
    match () {
        () if session.is_fullnat() => Forwarding::FullNat,
        () if session.is_tunnelled() => {
            Forwarding::Tunnel(Tunnel { kind: TunnelKind::Ipip, port: 0, checksum: TunnelChecksum::None })
        }
        () if session.is_one_way() => Forwarding::Route,
        () => Forwarding::Nat,
    }
}

fn candidate(scheduler: &dyn Scheduler, s: &Server) -> CandidateServer {
    CandidateServer {
        address: s.address,
        port: s.port,
        weight: s.weight,
        active: s.active(),
        inactive: s.inactive(),
        upper: s.upper,
        load: scheduler.load(s),
        skip: scheduler.passes_over(s),
    }
}
