//! What would happen to a packet: the question goes from worker to worker as the packet would (`workers/asker.rs`), and
//! the answer, which speaks of numbers, gets here the names that the configuration has for them.

use std::net::IpAddr;

use weir_api::model::{
    Forwarding, MarkRule, Tuple,
    explain::{self, Candidate, End, Explanation, Question, Return, Scheduling, Way},
};

use crate::{
    control::{
        change::ServiceState,
        error::{PlaneError, Unsupported},
        workers::Workers,
    },
    id::ServerId,
    io::PortId,
    path::{
        admin::explain::question::{Back, Explain, Packet},
        flow::{mark::Rule, route::View, service::Chosen},
        verdict::Verdict,
    },
    table::ends::Ends,
};

impl Workers {
    /// The packet as the path knows it.
    pub(in crate::control) fn packet_of(&self, question: &Question) -> Result<Packet, PlaneError> {
        packet(question, |name| port_number(self.port_names(), name)).ok_or(Unsupported::PacketKind.into())
    }

    /// The answer with the configuration's names.
    pub(in crate::control) fn named(&self, answer: Explain, workers: Vec<u16>) -> Explanation {
        let port = answer.packet.port.unwrap_or(PortId(0));
        let session = answer.session.as_ref();
        let of_session = session.and_then(|(_, server, _)| self.service_with(*server));
        let of_packet = answer.service.and_then(|id| self.services().find(|s| s.id == id));
        let name = |port: PortId| self.port_names().get(port.index()).cloned().unwrap_or_default();
        let server = answer.server.map(|c| self.configured(c)).or_else(|| {
            let (found, id, _) = session?;
            let (address, port) = found.session.server;
            // Servers of the gateway itself are reached by other methods than theirs.
            let method = if answer.delivered { None } else { Some(answer.method?) };
            Some((address, port, method_of(of_session?, *id, method)?))
        });
        let way = |way: View| Way {
            port: name(way.port),
            network: way.network,
            next_hop: way.next_hop,
            mac: way.mac.map(|mac| mac.0),
            mtu: way.mtu,
        };
        let back = answer.back.map(|back| match back {
            Back::Itself => explain::Back::Itself,
            Back::Here { comes, port, leaves, way: out } => explain::Back::Here(Box::new(Return {
                comes: tuple(comes),
                port: port.map(name),
                leaves: tuple(leaves),
                way: out.ok().map(way),
                refused: out.err().map(|reason| (reason.name().into(), reason.advice().into())),
            })),
        });
        Explanation {
            port: name(port),
            workers,
            mark: self.mark_of(port, &answer.packet),
            service: of_packet.or(of_session).map(|s| s.service.key),
            reply: session.is_some_and(|(_, _, reply)| *reply),
            session: answer.session.map(|(found, ..)| found),
            template: answer.template,
            scheduling: answer.scheduling.map(|(scheduler, standing, chosen)| Scheduling {
                scheduler: scheduler.into(),
                standing,
                servers: as_configured(answer.candidates, of_packet),
                chosen,
            }),
            server,
            local_addresses: answer.local_addresses,
            way: answer.way.map(way),
            leaves: answer.leaves.map(tuple),
            back,
            end: match answer.end {
                (Verdict::Punted, _) if answer.delivered => End::Delivered,
                (Verdict::Punted, _) => End::Punted,
                (Verdict::Drop(reason), told) => End::Dropped {
                    reason: reason.name().into(),
                    advice: reason.advice().into(),
                    answer: told,
                },
                (Verdict::Forwarded | Verdict::HandedOver, _) => End::Forwarded,
            },
        }
    }

    /// A chosen server's address, port and method as they are configured: workers reach those of the gateway itself by
    /// others.
    fn configured(&self, chosen: Chosen) -> (IpAddr, u16, Forwarding) {
        let service = self.service_with(chosen.server);
        let server = service.and_then(|s| s.servers.iter().find(|(id, _)| *id == chosen.server));
        server.map_or((chosen.address, chosen.port, chosen.method), |(_, server)| {
            (server.address, chosen.port, server.forwarding)
        })
    }

    fn service_with(&self, server: ServerId) -> Option<&ServiceState> {
        self.services().find(|s| s.servers.iter().any(|(id, _)| *id == server))
    }

    /// The first mark rule that applies.
    fn mark_of(&self, port: PortId, packet: &Packet) -> Option<MarkRule> {
        let applies = |rule: &&MarkRule| {
            Rule::new(rule, self.port_names()).is_some_and(|r| r.applies(port, &packet.ends, packet.protocol))
        };
        self.marks().iter().find(applies).cloned()
    }
}

fn tuple(ends: Ends) -> Tuple {
    (ends.source, ends.destination)
}

/// The method of a session with a server, which may have got another one since.
fn method_of(service: &ServiceState, server: ServerId, of_session: Option<Forwarding>) -> Option<Forwarding> {
    let (_, configured) = service.servers.iter().find(|(id, _)| *id == server)?;
    Some(match (of_session, configured.forwarding) {
        (Some(Forwarding::Tunnel(_)), tunnel @ Forwarding::Tunnel(_)) => tunnel,
        (method, configured) => method.unwrap_or(configured),
    })
}

/// Candidates with the addresses that they are configured with, in the order of their service.
fn as_configured(mut candidates: Vec<Candidate>, service: Option<&ServiceState>) -> Vec<Candidate> {
    let servers = service.iter().flat_map(|service| &service.servers);
    for (candidate, (_, server)) in candidates.iter_mut().zip(servers) {
        candidate.address = server.address;
    }
    candidates
}

/// The packet as the path knows it; none if it is of a kind that isn't forwarded.
fn packet(question: &Question, number: impl Fn(&str) -> Option<PortId>) -> Option<Packet> {
    let one_family = question.source.0.is_ipv6() == question.destination.0.is_ipv6();
    if !one_family {
        return None;
    }
    Some(Packet {
        ends: Ends { source: question.source, destination: question.destination },
        protocol: question.protocol as u8,
        port: question.port.as_deref().and_then(number),
        opens: question.opens,
    })
}

fn port_number(names: &[String], name: &str) -> Option<PortId> {
    names.iter().position(|n| n == name).and_then(|n| u8::try_from(n).ok()).map(PortId)
}
