//! Stage 4 of persistent services: a client stays at its server (Linux `ip_vs_sched_persist`).
//!
//! ```text
//! template   protocol, client network -> virtual address and port | mark | all ports      server
//! sessions   as always, controlled by the template
//! ```
//!
//! The first connection of a client network is scheduled and leaves a template; the next ones take its server,
//! quiesced or not, and give it its time-out again. A template whose time is over while it controls sessions
//! gets 60 s more. With the engine `sip` each Call-ID of a client has a template of its own, and a datagram
//! without one is dropped.
//!
//! With several workers the packets of a persistent service belong to the worker that [`owner`] gives for
//! service and client network, whatever queue they arrive on: templates need no lock and no messages, and a
//! client has one server on all workers.

use std::net::IpAddr;

use weirctl::model::SessionState;

use super::{
    Origin, Worker, nat,
    parse::Parsed,
    service::{Chosen, WorkerService},
    sip,
    verdict::Reason,
};
use crate::{
    clock::seconds,
    id::{ServiceId, WorkerId},
    io::{Io, PortId},
    net::{Header, protocol, udp::UdpHeader},
    sched::Flow,
    table::{
        call_ids::CallId,
        session::{NewSession, ONE_WAY, Session, SessionId, TEMPLATE, Tuple},
    },
};

/// How much longer a template lives that controls sessions, in ticks.
pub(super) const RESPITE: u32 = seconds(60);
/// FTP's control port: its templates cover all ports of the client, for the sake of data connections.
pub const FTP: u16 = 21;
/// Templates lie under protocol numbers of their own: these are nobody's (RFC 3692 reserves 253 and 254).
const PROTOCOLS: [(u8, u8); 4] =
    [(0, 251), (protocol::TCP, 252), (protocol::UDP, 253), (protocol::SCTP, 254)];

/// How a service is persistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Time-out of a template, in ticks.
    pub timeout: u32,
    /// Clients that agree in these bits of their address (host order) are one.
    pub mask: u32,
}

/// The worker, of `workers`, that owns a service's packets of a masked client address.
#[must_use]
pub fn owner(service: ServiceId, client: u32, workers: usize) -> WorkerId {
    let mixed = (u64::from(client) << 32 | u64::from(service.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    WorkerId((((mixed >> 32) * workers as u64) >> 32) as u16)
}

/// The protocol of the packets that a template is for; 0 for those of a mark.
#[must_use]
pub fn packets_of(template: u8) -> u8 {
    PROTOCOLS.iter().find(|(_, t)| *t == template).map_or(0, |(packets, _)| *packets)
}

fn template_of(packets: u8) -> u8 {
    PROTOCOLS.iter().find(|(p, _)| *p == packets).map_or(PROTOCOLS[0].1, |(_, template)| *template)
}

/// Where a client is kept.
pub(super) enum Kept {
    /// At this server, by this template.
    At(SessionId, Chosen),
    /// This template's server is there no more.
    NoMore(SessionId),
    /// It has no template.
    Nowhere,
}

/// What a client's template is found by.
struct Key {
    request: Tuple,
    protocol: u8,
    /// The packet is for the port that the service names.
    own_port: bool,
}

impl Key {
    fn new(service: &WorkerService, client: u32, p: &Parsed) -> Self {
        let (address, port) = p.tuple.destination();
        let own_port = service.mark.is_none() && port == service.port;
        let (protocol, virtual_) = match service.mark {
            Some(mark) => (0, (mark, 0)),
            None if own_port && port != FTP => (p.protocol, (address, port)),
            None => (p.protocol, (address, 0)),
        };
        Self { request: Tuple::new((client, 0), virtual_), protocol: template_of(protocol), own_port }
    }

    /// The server's port: its own for the service's port, else the one that the client asked for (0).
    fn server_port(&self, port: u16) -> u16 {
        if self.own_port { port } else { 0 }
    }
}

impl<I: Io> Worker<I> {
    /// The other worker that owns a packet of `service`, if it is another's.
    pub(super) fn elsewhere_of(
        &self,
        port: PortId,
        tuple: Tuple,
        protocol: u8,
        service: ServiceId,
        origin: Origin,
    ) -> Option<WorkerId> {
        let workers = self.peers.outgoing.len();
        let (persistence, nat) = match self.services.get(service.0 as usize) {
            Some(Some(service)) if workers > 1 => (service.persistence, service.nat),
            _ => (None, false),
        };
        let owner = match persistence {
            Some(persistence) => owner(service, tuple.source().0 & persistence.mask, workers),
            None if nat => nat::owner(protocol, tuple.source(), workers),
            None => return self.elsewhere(port, tuple, protocol, origin),
        };
        (origin != Origin::Worker && owner != self.id).then_some(owner)
    }

    /// The server for a client of a persistent service, and the template that keeps it there. `None`: no
    /// server can take it.
    pub(super) fn schedule_persistent(
        &mut self,
        data: &[u8],
        p: &Parsed,
        (flow, persistence): (&Flow, Persistence),
        id: ServiceId,
    ) -> Result<Option<(Chosen, SessionId)>, Reason> {
        let Some(Some(service)) = self.services.get(id.0 as usize) else { return Err(Reason::NoServer) };
        let client = p.tuple.source().0 & persistence.mask;
        let key = Key::new(service, client, p);
        let call = if service.by_call { Some(call_of(data, p).ok_or(Reason::NoCallId)?) } else { None };
        match self.kept_by(&key, call.as_ref(), id) {
            Kept::At(found, chosen) => {
                self.renew(found);
                return Ok(Some((chosen, found)));
            }
            Kept::NoMore(found) => self.sessions.invalidate(found),
            Kept::Nowhere => {}
        }
        let Some(Some(service)) = self.services.get_mut(id.0 as usize) else { return Err(Reason::NoServer) };
        let own = service.port;
        let Some(mut chosen) = service.schedule(flow) else { return Ok(None) };
        chosen.port = key.server_port(chosen.port);
        let listed = if own == FTP { 0 } else { chosen.port };
        let new = NewSession {
            request: key.request,
            reply: Tuple::new((chosen.address.into(), listed), (client, 0)),
            protocol: key.protocol,
            server: chosen.server,
            flags: TEMPLATE | ONE_WAY,
        };
        let template = self.insert_template(&new, call.as_ref(), persistence.timeout)?;
        if let Some(Some(server)) = self.servers.get(chosen.server.0 as usize) {
            server.counters.persistent.inc();
        }
        Ok(Some((chosen, template)))
    }

    /// Where the client of a packet is kept, by a service that doesn't look at calls.
    pub(super) fn kept(&self, p: &Parsed, persistence: Persistence, id: ServiceId) -> Result<Kept, Reason> {
        let Some(Some(service)) = self.services.get(id.0 as usize) else { return Err(Reason::NoServer) };
        let key = Key::new(service, p.tuple.source().0 & persistence.mask, p);
        Ok(self.kept_by(&key, None, id))
    }

    fn kept_by(&self, key: &Key, call: Option<&CallId>, id: ServiceId) -> Kept {
        let Some(found) = self.find_template(key, call) else { return Kept::Nowhere };
        match self.server_of_template(found, id) {
            Some(chosen) => Kept::At(found, Chosen { port: key.server_port(chosen.port), ..chosen }),
            None => Kept::NoMore(found),
        }
    }

    /// The choice with the port that a persistent service would use for this packet.
    pub(super) fn persistent_port(&self, p: &Parsed, chosen: Chosen, id: ServiceId) -> Chosen {
        match self.services.get(id.0 as usize) {
            Some(Some(service)) if service.persistence.is_some() => {
                let key = Key::new(service, p.tuple.source().0, p);
                Chosen { port: key.server_port(chosen.port), ..chosen }
            }
            _ => chosen,
        }
    }

    fn find_template(&self, key: &Key, call: Option<&CallId>) -> Option<SessionId> {
        let Some(call) = call else {
            let hash = self.sessions.hash(key.request, key.protocol);
            return self.sessions.find(hash, key.request, key.protocol).map(|found| found.id);
        };
        let kept = self.call_ids.as_deref()?;
        let same = |slot| kept.get(slot).is_some_and(|c| c.as_bytes() == call.as_bytes());
        self.sessions.find_call(key.request, key.protocol, self.sessions.digest(call), same)
    }

    fn insert_template(
        &mut self,
        new: &NewSession,
        call: Option<&CallId>,
        timeout: u32,
    ) -> Result<SessionId, Reason> {
        let Some(call) = call else {
            return self.sessions.insert(new, timeout, self.now).ok_or(Reason::SessionsFull);
        };
        let kept = self.call_ids.as_deref_mut().ok_or(Reason::CallIdsFull)?;
        let slot = kept.insert(call).ok_or(Reason::CallIdsFull)?;
        let salt = self.sessions.digest(call);
        let id = self.sessions.insert_call(new, (salt, slot), timeout, self.now);
        if id.is_none() {
            kept.remove(slot);
        }
        id.ok_or(Reason::SessionsFull)
    }

    /// The Call-ID of a template, if it has one.
    pub(super) fn call_id(&self, session: &Session) -> Option<&CallId> {
        let (_, slot) = session.call()?;
        self.call_ids.as_deref()?.get(slot)
    }

    /// The server of a template, if its clients may go on using it (`ip_vs_check_template`).
    fn server_of_template(&self, template: SessionId, service: ServiceId) -> Option<Chosen> {
        let server = self.sessions.get(template)?.server();
        let service = self.services.get(service.0 as usize)?.as_ref()?;
        let n = service.servers.iter().position(|s| s.id == server)?;
        let (facts, method) = (&service.servers[n], *service.methods.get(n)?);
        let IpAddr::V4(address) = facts.address else { return None };
        let quiesced = self.settings.expire_quiescent_template && facts.weight == 0;
        (facts.counters.available.get() != 0 && !quiesced).then_some(Chosen {
            server,
            address,
            port: facts.port,
            method,
        })
    }

    /// Starts a template's time-out again.
    fn renew(&mut self, template: SessionId) {
        let now = self.now;
        if let Some(template) = self.sessions.get_mut(template) {
            template.last_seen = now.0;
        }
    }

    /// A session got somewhere: its template is no longer one of connections that were never established.
    pub(super) fn assure(&mut self, id: SessionId) {
        if let Some(template) = self.sessions.template_of(id)
            && let Some(template) = self.sessions.get_mut(template)
        {
            template.set_state(SessionState::Assured);
        }
    }
}

/// The Call-ID in a datagram, as far as its first buffer holds it.
fn call_of(data: &[u8], p: &Parsed) -> Option<CallId> {
    let end = (usize::from(p.l3) + usize::from(p.ip_len)).min(data.len());
    let payload = data.get(usize::from(p.l4) + UdpHeader::LEN..end)?;
    (p.protocol == protocol::UDP).then(|| sip::call_id(payload)).flatten().and_then(CallId::new)
}

/// What control lists of a template instead of a session's facts: protocol.
pub(super) fn listed_protocol(session: &Session) -> u8 {
    if session.is_template() { packets_of(session.protocol) } else { session.protocol }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_spread_over_workers_and_each_has_one() {
        for workers in 1..6 {
            let mut share = vec![0; workers];
            for client in 0..6000u32 {
                let of = owner(ServiceId(3), client << 8, workers);
                assert_eq!(of, owner(ServiceId(3), client << 8, workers));
                share[usize::from(of.0)] += 1;
            }
            assert!(share.iter().all(|&n| n > 6000 / workers * 8 / 10), "{share:?}");
        }
    }

    #[test]
    fn templates_have_protocol_numbers_of_their_own() {
        for (packets, template) in PROTOCOLS {
            assert_eq!((template_of(packets), packets_of(template)), (template, packets));
            assert!(!matches!(template, protocol::TCP | protocol::UDP | protocol::SCTP));
        }
    }
}
