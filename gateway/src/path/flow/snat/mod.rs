//! Stage 4 for packets that no service claims: source NAT (SNAT) for inside networks.
//!
//! ```text
//! from inside    rule -> owner by the inside address -> mapping, found or new -> session
//! from outside   owner by the external port's block  -> mapping, found        -> session, if the filter lets it
//! ```
//!
//! A SNAT session is like a NAT session: both directions take the fast path. This module has the differences:
//! how a session is opened, its TCP states and time-outs (RFC 5382, RFC 7857), ICMP echo, whose identifier is
//! its port (RFC 5508), and hairpins, which are packets from inside to an external address: they are
//! translated on their way out and come in again (RFC 4787, REQ-9). docs/snat.md lists the tests of each
//! requirement.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use track::FirstSegment;
use weir_api::model::{
    SessionState::{self, Udp},
    snat::Dependence,
    trace::TraceStage,
};

use super::{
    Flows,
    belief::Belief,
    deltas::deltas_of,
    destination::{is_group, is_link_local, is_martian, may_be_special},
};
use crate::{
    id::{SnatRuleId, WorkerId},
    io::{Frame, PortId},
    net::{checksum::Delta, protocol},
    path::{
        ingress::parse::{Parsed, is_echo},
        next::{As, Next, Reply},
        packet::{Origin, Packet},
        verdict::Reason,
    },
    table::{
        endpoints::Endpoints,
        session::{Direction, INACTIVE, NewSession, SNAT, Session, SessionId, TIMEOUTS, Tuple},
        sessions::Found,
        snat::{
            AddressRole, BlockEvent, Endpoint, Full, Mapping, SnatTables,
            blocks::{Blocks, block_of},
            reserved::Reserved,
        },
    },
};

mod rules;
mod track;

pub use rules::{RuleSet, WorkerSnatRule};
pub use track::{SnatTimeoutTicks, TimeoutTicks};

/// A worker's SNAT.
pub struct Nat {
    /// The current rules.
    pub(crate) rules: Arc<RuleSet>,
    tables: SnatTables,
    /// Reports port blocks to control.
    log: rtrb::Producer<BlockEvent>,
}

impl Nat {
    /// A SNAT with room for this many mappings; port blocks are reported through `log`.
    #[must_use]
    pub fn new(mappings: usize, seed: u32, log: rtrb::Producer<BlockEvent>) -> Self {
        Self { rules: Arc::default(), tables: SnatTables::new(mappings, seed), log }
    }

    /// Time-outs by state, as in [`RuleSet::timeouts`].
    #[must_use]
    pub fn timeouts(&self) -> &TimeoutTicks {
        self.rules.timeouts()
    }

    /// Installs new rules; afterwards `rules` holds the old ones.
    pub fn set_rules(&mut self, rules: &mut Arc<RuleSet>) {
        std::mem::swap(&mut self.rules, rules);
        let rules = &self.rules;
        self.tables.set_standing(|address| rules.standing(address));
    }

    /// Sets which ports of the gateway's own addresses are the kernel's; afterwards `reserved` holds the old
    /// ones.
    pub fn set_reserved(&mut self, reserved: &mut Arc<Reserved>) {
        self.tables.set_reserved(reserved);
    }

    /// Whether a packet to this endpoint always goes to the kernel, though the address is an external one.
    fn is_kernels(&self, protocol: u8, (address, port): Endpoint) -> bool {
        self.rules.standing(address) == Some(AddressRole::Own) && self.tables.is_kept(protocol, port)
    }

    /// The port by which packets under a rule leave.
    pub(crate) fn outside_port(&self, rule: SnatRuleId) -> Option<PortId> {
        self.rules.by_id(rule).map(|rule| rule.port)
    }

    /// Adds this worker's blocks of an external address.
    pub fn add_address(&mut self, address: IpAddr, blocks: &mut Option<Box<Blocks>>) {
        self.tables.add_address(address, blocks);
    }
}

/// The role of a packet in SNAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SnatRole {
    /// It comes from inside, under this rule.
    Out(SnatRuleId),
    /// It is sent to an external address.
    In,
}

/// The refusal of a packet whose source may not open anything. What the kernel sends from its own addresses
/// leaves.
#[cold]
pub(crate) fn refuse_source(port: PortId, reason: Reason) -> Next {
    if port.is_twin() { Next::AsSent } else { Next::Drop(reason) }
}

fn refused(full: Full) -> Reason {
    match full {
        Full::Address => Reason::NoPortAddress,
        Full::Pool => Reason::SnatPortsExhausted,
        Full::Ports => Reason::SnatPortLimit,
        Full::Sessions => Reason::SnatSessionLimit,
        Full::Tables => Reason::SessionsFull,
    }
}

impl Flows {
    /// The role in SNAT of a packet without a session and a service.
    pub(crate) fn snat_claim(&self, ends: &Endpoints, protocol: u8) -> Option<SnatRole> {
        let nat = self.snat.as_ref()?;
        let rules = &nat.rules;
        if protocol == protocol::SCTP {
            return None;
        }
        let pair = (ends.source.0, ends.destination.0);
        let of_port = |port| rules.of_inside(pair, protocol, port);
        if let Some(port) = rules.port_of(pair.1) {
            if nat.is_kernels(protocol, ends.destination) {
                return None;
            }
            // A hairpin doesn't leave by any port, so the rule of any port will do.
            let rule = of_port(Some(port)).or_else(|| of_port(None));
            return Some(rule.map_or(SnatRole::In, |rule| SnatRole::Out(rule.id)));
        }
        if !rules.is_inside(pair.0) {
            return None;
        }
        of_port(Some(self.port_outside(pair.1)?)).map(|rule| SnatRole::Out(rule.id))
    }

    /// The port by which packets to `destination` leave; none if the destination is the gateway's own or must
    /// not be translated.
    fn port_outside(&self, destination: IpAddr) -> Option<PortId> {
        let table = self.routing.table();
        if table.is_own(destination) || table.is_broadcast(destination) {
            return None;
        }
        if may_be_special(destination) && !self.goes_outside(destination) {
            return None;
        }
        self.routing.view(destination).ok().map(|way| way.port)
    }

    /// Whether SNAT's packets may be routed to this destination: a default route doesn't lead to link-local
    /// addresses.
    #[cold]
    fn goes_outside(&self, destination: IpAddr) -> bool {
        let by_default = || self.routing.table().network(destination).1 == 0;
        let on_a_link = is_link_local(destination) && (destination.is_ipv6() || by_default());
        !is_martian(destination) && !is_group(destination) && !on_a_link
    }

    /// The worker that owns a packet of SNAT.
    pub(crate) fn snat_owner(&self, ends: &Endpoints, claim: SnatRole) -> WorkerId {
        let workers = self.workers.max(1) as u16;
        match claim {
            SnatRole::Out(_) => {
                let address = match ends.source.0 {
                    IpAddr::V4(a) => a.to_bits().into(),
                    IpAddr::V6(a) => folded(a),
                };
                let hash = address.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                WorkerId(((hash >> 32) % u64::from(workers)) as u16)
            }
            SnatRole::In => WorkerId(block_of(ends.destination.1).unwrap_or(0) % workers),
        }
    }

    /// The other worker that owns the packet, if there is one and the packet hasn't been handed over yet.
    pub(crate) fn snat_elsewhere(
        &self,
        ends: &Endpoints,
        claim: SnatRole,
        origin: Origin,
    ) -> Option<WorkerId> {
        if origin == Origin::Worker || self.workers < 2 {
            return None;
        }
        let owner = self.snat_owner(ends, claim);
        (owner != self.id).then_some(owner)
    }

    /// Handles a SNAT packet without a session at the worker that owns it.
    pub(crate) fn snat_open<F: Frame>(
        &mut self,
        packet: &Packet<'_, F>,
        ends: &Endpoints,
        claim: SnatRole,
    ) -> Next {
        let (port, p) = (packet.port, packet.parsed);
        if let Some(reason) = self.snat_source_refusal(port, ends, claim, packet.origin) {
            return refuse_source(port, reason);
        }
        let opened = match claim {
            SnatRole::Out(rule) => {
                if p.ttl <= 1 {
                    return Next::Reply(self.ttl_expired(packet));
                }
                match FirstSegment::of(p) {
                    FirstSegment::Opens => self.snat_out(p, ends, rule),
                    FirstSegment::Midway => return Next::Reply(Reply::RESET),
                    FirstSegment::Reset => Err(Reason::NoSession),
                    FirstSegment::Invalid => Err(Reason::SnatInvalid),
                }
            }
            SnatRole::In => self.snat_in(p, ends),
        };
        match opened {
            Ok((id, direction)) => {
                self.stamp(TraceStage::Open);
                let found = Found { id, direction };
                self.count_packet(found, p);
                self.learn_first(port, &packet.frame, p, found);
                self.track(found, p, Belief::Counts);
                let what = if is_echo(p.protocol) { As::Echo } else { As::Packet };
                self.forward(packet, found, what)
            }
            Err(
                reason @ (Reason::SnatPortsExhausted
                | Reason::SnatPortLimit
                | Reason::SnatSessionLimit
                | Reason::SessionsFull),
            ) if claim != SnatRole::In => Next::Reply(self.prohibited(packet, reason)),
            Err(reason) if self.is_left_to_kernel(ends, claim, reason) => Next::Punt,
            Err(reason) => Next::Drop(reason),
        }
    }

    /// Whether a packet from outside that no mapping lets in goes to the kernel. It may if it is for one of
    /// the gateway's own addresses, unless it comes from there itself, which makes it a hairpin.
    pub(crate) fn is_left_to_kernel(&self, ends: &Endpoints, claim: SnatRole, reason: Reason) -> bool {
        claim == SnatRole::In
            && matches!(reason, Reason::SnatNoMapping | Reason::SnatFiltered)
            && self.kernel
            && self.is_shared(ends.destination.0)
            && !self.is_external(ends.source.0)
    }

    /// Whether the kernel uses an external address, too.
    pub(crate) fn is_shared(&self, address: IpAddr) -> bool {
        self.snat.as_ref().is_some_and(|nat| nat.rules.standing(address) == Some(AddressRole::Own))
    }

    /// Whether a fragment between these endpoints, whose ports are unknown, may belong to SNAT.
    pub(crate) fn snat_may_claim(&self, ends: &Endpoints, protocol: u8) -> bool {
        self.is_external(ends.destination.0) || self.snat_claim(ends, protocol).is_some()
    }

    /// Whether a SNAT session has an external address that no rule has any more.
    pub(crate) fn is_withdrawn(&self, id: SessionId) -> bool {
        self.sessions.get(id).is_some_and(|session| session.in_use() && session.is_snat())
            && self
                .sessions
                .arriving(id, Direction::Reply)
                .is_some_and(|reply| !self.is_external(reply.destination.0))
    }

    /// Opens a session for a packet from inside.
    fn snat_out(
        &mut self,
        p: &Parsed,
        ends: &Endpoints,
        rule: SnatRuleId,
    ) -> Result<(SessionId, Direction), Reason> {
        let now = self.now;
        let counters = Arc::clone(&self.counters);
        let nat = self.snat.as_mut().ok_or(Reason::NoSession)?;
        let rules = Arc::clone(&nat.rules);
        let rule = rules.by_id(rule).ok_or(Reason::NoSession)?;
        let (inside, outside) = (ends.source, ends.destination);
        let known =
            nat.tables.by_inside(rule.id, &rule.limits, p.protocol, inside, outside).map(|(id, _)| id);
        let mapping = match known {
            Some(id) => id,
            None => {
                let log = &mut nat.log;
                let mut tell = |event| tell(&counters, log, event);
                let (id, early) = nat
                    .tables
                    .open((rule.id, &rule.limits, &rule.pool), (p.protocol, inside, outside), now, &mut tell)
                    .map_err(refused)?;
                counters.events.snat_mappings_opened.add(1);
                counters.events.ports_reused_early.add(u64::from(early));
                id
            }
        };
        let opened = self.snat_session(mapping, rule, ends, p.protocol);
        if opened.is_err()
            && let Some(nat) = &mut self.snat
        {
            let before = nat.tables.len();
            nat.tables.end_unused(mapping, now);
            self.counters.events.snat_mappings_ended.add((before - nat.tables.len()) as u64);
        }
        opened.map(|id| (id, Direction::Request))
    }

    /// Opens a session for a packet from outside that a mapping lets in.
    fn snat_in(&mut self, p: &Parsed, ends: &Endpoints) -> Result<(SessionId, Direction), Reason> {
        let (mapping, of, rules) = self.lets_in(p, ends)?;
        let rule = rules.by_id(of.rule).ok_or(Reason::SnatNoMapping)?;
        let request = Endpoints { source: of.inside, destination: ends.source };
        self.snat_session(mapping, rule, &request, p.protocol).map(|id| (id, Direction::Reply))
    }

    /// The endpoints with which a packet without a session would leave if a session were opened. The port is
    /// 0 if it would only be chosen then.
    pub(crate) fn snat_preview(
        &self,
        p: &Parsed,
        ends: &Endpoints,
        claim: SnatRole,
    ) -> Result<Endpoints, Reason> {
        let nat = self.snat.as_ref().ok_or(Reason::NoSession)?;
        let (leaves, reply, mapping) = match claim {
            SnatRole::Out(_) if matches!(FirstSegment::of(p), FirstSegment::Midway | FirstSegment::Reset) => {
                return Err(Reason::NoSession);
            }
            SnatRole::Out(_) if FirstSegment::of(p) == FirstSegment::Invalid => {
                return Err(Reason::SnatInvalid);
            }
            SnatRole::Out(id) => {
                let rule = nat.rules.by_id(id).ok_or(Reason::NoSession)?;
                let (inside, outside) = (ends.source, ends.destination);
                let known = nat.tables.by_inside(id, &rule.limits, p.protocol, inside, outside);
                let external = match known {
                    Some((_, mapping)) => mapping.external,
                    None => {
                        let of = (id, &rule.limits, rule.pool.as_slice());
                        let address = nat.tables.preview(of, (p.protocol, inside.0), self.now);
                        (address.map_err(refused)?, 0)
                    }
                };
                let leaves = Endpoints { source: external, destination: outside };
                (leaves, leaves.reversed(), known.map(|(mapping, _)| (mapping, rule.limits)))
            }
            SnatRole::In => {
                let (id, mapping, rules) = self.lets_in(p, ends)?;
                let rule = rules.by_id(mapping.rule).ok_or(Reason::SnatNoMapping)?;
                (
                    Endpoints { source: ends.source, destination: mapping.inside },
                    *ends,
                    Some((id, rule.limits)),
                )
            }
        };
        if mapping.is_some_and(|(id, limits)| !nat.tables.may_open(id, &limits)) {
            return Err(Reason::SnatSessionLimit);
        }
        if self.sessions.find_endpoints(&reply, p.protocol).is_some() {
            return Err(Reason::TupleInUse);
        }
        let full = self.sessions.len() == self.sessions.capacity();
        if full { Err(Reason::SessionsFull) } else { Ok(leaves) }
    }

    /// The mapping that lets a packet from outside in, and its rule.
    fn lets_in(&self, p: &Parsed, ends: &Endpoints) -> Result<(u32, Mapping, Arc<RuleSet>), Reason> {
        let nat = self.snat.as_ref().ok_or(Reason::NoSession)?;
        let found = nat.tables.by_external(p.protocol, ends.destination);
        let (id, mapping) = found.ok_or(Reason::SnatNoMapping)?;
        let rule = nat.rules.by_id(mapping.rule).ok_or(Reason::SnatNoMapping)?;
        match () {
            () if rule.filtering != Dependence::EndpointIndependent => Err(Reason::SnatFiltered),
            () if rule.limits.mapping != Dependence::EndpointIndependent => Err(Reason::SnatFiltered),
            () if FirstSegment::of(p) != FirstSegment::Opens => Err(Reason::SnatFiltered),
            () if p.ttl <= 1 => Err(Reason::TtlExpired),
            () => Ok((id, *mapping, Arc::clone(&nat.rules))),
        }
    }

    fn snat_session(
        &mut self,
        mapping: u32,
        rule: &WorkerSnatRule,
        request: &Endpoints,
        protocol: u8,
    ) -> Result<SessionId, Reason> {
        let nat = self.snat.as_mut().ok_or(Reason::NoSession)?;
        if !nat.tables.may_open(mapping, &rule.limits) {
            return Err(Reason::SnatSessionLimit);
        }
        let external = nat.tables.external(mapping).ok_or(Reason::NoSession)?;
        let reply = Endpoints { source: request.destination, destination: external };
        if self.sessions.find_endpoints(&reply, protocol).is_some() {
            return Err(Reason::TupleInUse);
        }
        let none = Tuple::default();
        let new = NewSession { request: none, reply: none, protocol, slot: rule.id.slot(), flags: INACTIVE };
        let state = match protocol {
            protocol::UDP => Udp,
            _ => SessionState::None,
        };
        let timeout = self.timeouts[usize::from(SNAT | state as u8) & (TIMEOUTS - 1)];
        let Some(id) = self.sessions.insert_endpoints((request, &reply), &new, timeout, self.now) else {
            let full = self.sessions.len() == self.sessions.capacity();
            return Err(if full { Reason::SessionsFull } else { Reason::TupleInUse });
        };
        nat.tables.hold(mapping);
        if let Some(session) = self.sessions.get_mut(id) {
            session.set_snat();
            session.set_state(state);
            let (ip, l4) = deltas_of(request, &reply.reversed());
            // ICMP's checksum has no pseudo-header, ICMPv6's has one.
            let l4 = if protocol == protocol::ICMP { Delta::word(request.source.1, external.1) } else { l4 };
            session.set_deltas(ip, l4);
        }
        if let Some(server) = self.slot(rule.id.slot()) {
            server.counters.connections.add(1);
            server.counters.inactive.inc();
        }
        self.counters.events.sessions_opened.add(1);
        if self.session_log.is_some() {
            self.log_opened(id);
        }
        Ok(id)
    }

    /// Handles the end of a SNAT session.
    pub(crate) fn snat_ended(&mut self, protocol: u8, external: Endpoint) {
        let now = self.now;
        let Some(nat) = &mut self.snat else { return };
        let before = nat.tables.len();
        nat.tables.let_go(protocol, external, now);
        self.counters.events.snat_mappings_ended.add((before - nat.tables.len()) as u64);
    }

    /// Gives back blocks whose inside addresses have been silent, a few per poll.
    pub(crate) fn snat_tidy(&mut self) {
        let (now, counters) = (self.now, &self.counters);
        let Some(nat) = &mut self.snat else { return };
        if nat.tables.has_idle() {
            let log = &mut nat.log;
            nat.tables.tidy(now, &mut |event| tell(counters, log, event));
        }
    }

    /// Whether packets of the session go to an external address, so that they come in again.
    pub(crate) fn is_hairpin(&self, found: Found) -> bool {
        self.snat.is_some()
            && self.sessions.get(found.id).is_some_and(Session::is_snat)
            && self
                .sessions
                .leaving(found.id, found.direction)
                .is_some_and(|leaving| self.is_external(leaving.destination.0))
    }

    pub(crate) fn is_external(&self, address: IpAddr) -> bool {
        self.snat.as_ref().is_some_and(|nat| nat.rules.is_external(address))
    }
}

fn tell(
    counters: &crate::path::verdict::PathCounters,
    log: &mut rtrb::Producer<BlockEvent>,
    event: BlockEvent,
) {
    let events = &counters.events;
    if event.given { &events.snat_blocks_given } else { &events.snat_blocks_returned }.add(1);
    if log.push(event).is_err() {
        events.snat_log_lost.add(1);
    }
}

/// Folds both halves of an address into one word.
fn folded(address: Ipv6Addr) -> u64 {
    let bits = address.to_bits();
    (bits >> 64) as u64 ^ bits as u64
}
