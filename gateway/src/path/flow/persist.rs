//! Stage 4 for persistent services: a client stays with its server (Linux `ip_vs_sched_persist`).
//!
//! ```text
//! template   protocol, client network -> virtual address and port | mark | all ports      server
//! sessions   as always, controlled by the template
//! ```
//!
//! The first connection of a client network is scheduled and leaves a template. Later connections take the
//! template's server, quiesced or not, and restart its time-out. A template that expires while it controls
//! sessions gets 60 s more. With the engine `sip`, each Call-ID of a client has its own template, and a
//! datagram without a Call-ID is dropped.
//!
//! With several workers, the packets of persistent services belong to the worker that
//! [`super::owner::owner_of_network`] gives for the client network, or for a larger one ([`super::owner`]),
//! whatever queue they arrive on. Templates therefore need no lock and no messages, and a client has one
//! server on all workers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_api::model::SessionState;

use super::{
    Flows,
    owner::masked,
    service::{Chosen, Persistence, WorkerService},
    sip,
};
use crate::{
    clock::Ticks,
    id::ServiceId,
    net::{Header, protocol, udp::UdpHeader},
    path::{ingress::parse::Parsed, verdict::Reason},
    sched::Flow,
    table::{
        call_ids::CallId,
        endpoints::Endpoints,
        session::{NewSession, ONE_WAY, Session, SessionId, TEMPLATE, Tuple},
    },
};

/// The extra life of a template that still controls sessions.
pub(crate) const RESPITE: Ticks = Ticks::seconds(60);
/// FTP's control port: its templates cover all ports of the client, so that data connections match too.
pub const FTP: u16 = 21;
/// Templates have their own protocol numbers. These are unassigned, and leave room for
/// [`crate::table::endpoints::IPV6`].
const PROTOCOLS: [(u8, u8); 4] =
    [(0, 187), (protocol::TCP, 188), (protocol::UDP, 189), (protocol::SCTP, 190)];

/// The protocol of a template's packets; 0 for a template of a mark.
#[must_use]
pub fn packets_of(template: u8) -> u8 {
    PROTOCOLS.iter().find(|(_, t)| *t == template).map_or(0, |(packets, _)| *packets)
}

fn template_of(packets: u8) -> u8 {
    PROTOCOLS.iter().find(|(p, _)| *p == packets).map_or(PROTOCOLS[0].1, |(_, template)| *template)
}

/// Where a client is kept.
pub(crate) enum Kept {
    /// At this server, by this template.
    At(SessionId, Chosen),
    /// This template's server no longer exists.
    NoMore(SessionId),
    /// It has no template.
    Nowhere,
}

/// The key that finds a client's template.
struct TemplateKey {
    request: Endpoints,
    protocol: u8,
    /// The packet is for the port that the service is configured with.
    own_port: bool,
}

impl TemplateKey {
    fn new(service: &WorkerService, client: IpAddr, protocol: u8, ends: &Endpoints) -> Self {
        let (address, port) = ends.destination;
        let own_port = service.mark.is_none() && port == service.port;
        let (protocol, virtual_) = match service.mark {
            Some(mark) => (0, (of_mark(mark, client), 0)),
            None if own_port && port != FTP => (protocol, (address, port)),
            None => (protocol, (address, 0)),
        };
        let request = Endpoints { source: (client, 0), destination: virtual_ };
        Self { request, protocol: template_of(protocol), own_port }
    }

    /// The server's port: its own if the packet is for the service's port, else the port that the client
    /// asked for (0).
    fn server_port(&self, port: u16) -> u16 {
        if self.own_port { port } else { 0 }
    }
}

impl Flows {
    /// Whether a client of `service` is kept at its server here. With Call-IDs this is unknown without
    /// reading the datagram.
    pub(crate) fn keeps_client(&self, ends: &Endpoints, protocol: u8, service: ServiceId) -> bool {
        let Some(Some(service)) = self.services.get(service.0 as usize) else { return false };
        service.persistence.is_some_and(|persistence| {
            let client = masked(persistence.mask, ends.source.0);
            !service.by_call
                && self.find_template(&TemplateKey::new(service, client, protocol, ends), None).is_some()
        })
    }

    /// The server for a client of a persistent service, and the template that keeps it there. `None` if no
    /// server can take the client.
    pub(crate) fn schedule_persistent(
        &mut self,
        data: &[u8],
        p: &Parsed,
        (flow, persistence): (&Flow, Persistence),
        id: ServiceId,
    ) -> Result<Option<(Chosen, SessionId)>, Reason> {
        let Some(Some(service)) = self.services.get(id.0 as usize) else { return Err(Reason::NoServer) };
        let client = masked(persistence.mask, flow.source);
        let key = TemplateKey::new(service, client, p.protocol, &flow.endpoints());
        let call = if service.by_call { Some(call_of(data, p).ok_or(Reason::NoCallId)?) } else { None };
        match self.kept_by(&key, call.as_ref(), id) {
            Kept::At(found, chosen) => {
                self.renew(found);
                // As in IPVS, a template's clients are accepted whatever the threshold.
                if let Some(limit) = self.limit_of(chosen.server) {
                    limit.exceed();
                }
                return Ok(Some((chosen, found)));
            }
            Kept::NoMore(found) => self.sessions.invalidate(found),
            Kept::Nowhere => {}
        }
        let Some(Some(service)) = self.services.get(id.0 as usize) else { return Err(Reason::NoServer) };
        let own = service.port;
        let Some(mut chosen) = self.choose(id, flow) else { return Ok(None) };
        chosen.port = key.server_port(chosen.port);
        let listed = if own == FTP { 0 } else { chosen.port };
        let none = Tuple::default();
        let (protocol, server) = (key.protocol, chosen.server);
        let new = NewSession {
            request: none,
            reply: none,
            protocol,
            slot: server.slot(),
            flags: TEMPLATE | ONE_WAY,
        };
        let reply =
            Endpoints { source: (chosen.address, listed), destination: (like(client, chosen.address), 0) };
        let made = self.insert_template((&key.request, &reply), &new, call.as_ref(), persistence.timeout);
        match (made, self.slot(chosen.server.slot())) {
            (Ok(_), Some(server)) => {
                server.counters.persistent.inc();
                server.limit.iter().for_each(|limit| limit.look(true));
            }
            (Ok(_), _) => {}
            (Err(_), _) => self.give_place_back(chosen.server),
        }
        Ok(Some((chosen, made?)))
    }

    /// Where the client of a packet is kept, for a service that ignores Call-IDs.
    pub(crate) fn kept(
        &self,
        p: &Parsed,
        ends: &Endpoints,
        persistence: Persistence,
        id: ServiceId,
    ) -> Result<Kept, Reason> {
        let Some(Some(service)) = self.services.get(id.0 as usize) else { return Err(Reason::NoServer) };
        let key = TemplateKey::new(service, masked(persistence.mask, ends.source.0), p.protocol, ends);
        Ok(self.kept_by(&key, None, id))
    }

    fn kept_by(&self, key: &TemplateKey, call: Option<&CallId>, id: ServiceId) -> Kept {
        let Some(found) = self.find_template(key, call) else { return Kept::Nowhere };
        match self.server_of_template(found, id) {
            Some(chosen) => Kept::At(found, Chosen { port: key.server_port(chosen.port), ..chosen }),
            None => Kept::NoMore(found),
        }
    }

    /// The choice, with the port that a persistent service would use for this packet.
    pub(crate) fn persistent_port(
        &self,
        p: &Parsed,
        ends: &Endpoints,
        chosen: Chosen,
        id: ServiceId,
    ) -> Chosen {
        match self.services.get(id.0 as usize) {
            Some(Some(service)) if service.persistence.is_some() => {
                let key = TemplateKey::new(service, ends.source.0, p.protocol, ends);
                Chosen { port: key.server_port(chosen.port), ..chosen }
            }
            _ => chosen,
        }
    }

    fn find_template(&self, key: &TemplateKey, call: Option<&CallId>) -> Option<SessionId> {
        let Some(call) = call else {
            return self.sessions.find_endpoints(&key.request, key.protocol).map(|found| found.id);
        };
        let kept = self.call_ids.as_deref()?;
        let same = |slot| kept.get(slot).is_some_and(|c| c.as_bytes() == call.as_bytes());
        self.sessions.find_call(&key.request, key.protocol, self.sessions.digest(call), same)
    }

    fn insert_template(
        &mut self,
        ends: (&Endpoints, &Endpoints),
        new: &NewSession,
        call: Option<&CallId>,
        timeout: Ticks,
    ) -> Result<SessionId, Reason> {
        let Some(call) = call else {
            return self.sessions.insert_endpoints(ends, new, timeout, self.now).ok_or(Reason::SessionsFull);
        };
        let kept = self.call_ids.as_deref_mut().ok_or(Reason::CallIdsFull)?;
        let slot = kept.insert(call).ok_or(Reason::CallIdsFull)?;
        let salt = self.sessions.digest(call);
        let id = self.sessions.insert_call(ends, new, (salt, slot), timeout, self.now);
        if id.is_none() {
            kept.remove(slot);
        }
        id.ok_or(Reason::SessionsFull)
    }

    /// The Call-ID of a template, if it has one.
    pub(crate) fn call_id(&self, session: &Session) -> Option<&CallId> {
        let (_, slot) = session.call()?;
        self.call_ids.as_deref()?.get(slot)
    }

    /// The server of a template, if its clients may go on using it (`ip_vs_check_template`).
    fn server_of_template(&self, template: SessionId, service: ServiceId) -> Option<Chosen> {
        let server = self.sessions.get(template)?.slot().server();
        let service = self.services.get(service.0 as usize)?.as_ref()?;
        let n = service.servers.iter().position(|s| s.id == server)?;
        let (facts, method) = (&service.servers[n], *service.methods.get(n)?);
        let quiesced = self.settings.expire_quiescent_template && facts.weight == 0;
        (facts.counters.available.get() != 0 && !quiesced).then_some(Chosen {
            server,
            address: facts.address,
            port: facts.port,
            method,
        })
    }

    /// Restarts a template's time-out.
    fn renew(&mut self, template: SessionId) {
        let now = self.now;
        if let Some(template) = self.sessions.get_mut(template) {
            template.last_seen = now;
        }
    }

    /// Notes that a session was established: its template is no longer one whose connections never were.
    pub(crate) fn assure(&mut self, id: SessionId) {
        if let Some(template) = self.sessions.template_of(id)
            && let Some(template) = self.sessions.get_mut(template)
        {
            template.set_state(SessionState::Assured);
        }
    }
}

/// The number of a mark, as an address of the client's family.
fn of_mark(mark: u32, client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => Ipv4Addr::from_bits(mark).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(mark.into()).into(),
    }
}

/// The address if it is of the same family as the other; else the unspecified address (all zeros).
fn like(address: IpAddr, other: IpAddr) -> IpAddr {
    match other {
        _ if address.is_ipv4() == other.is_ipv4() => address,
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The Call-ID in a datagram, as far as its first buffer holds it.
fn call_of(data: &[u8], p: &Parsed) -> Option<CallId> {
    let end = (usize::from(p.l3) + usize::from(p.ip_len)).min(data.len());
    let payload = data.get(usize::from(p.l4) + UdpHeader::LEN..end)?;
    (p.protocol == protocol::UDP).then(|| sip::call_id(payload)).flatten().and_then(CallId::new)
}

/// The protocol that control lists for a template.
pub(crate) fn listed_protocol(session: &Session) -> u8 {
    if session.is_template() { packets_of(session.protocol()) } else { session.protocol() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_protocol_numbers_of_their_own() {
        for (packets, template) in PROTOCOLS {
            assert_eq!((template_of(packets), packets_of(template)), (template, packets));
            assert!(!matches!(template, protocol::TCP | protocol::UDP | protocol::SCTP));
            assert_eq!(template & crate::table::endpoints::IPV6, 0);
        }
    }
}
