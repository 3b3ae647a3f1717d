//! What would happen to a packet: `weirctl explain`.
//!
//! The question goes from worker to worker as the packet would. Numbers in the answer are replaced by the names of
//! the configuration.

use std::net::IpAddr;

use weir_api::{
    model::{
        Forwarding, MarkRule, Tuple,
        explain::{
            self, CandidateServer, End, Explanation, MAX_EXPLAINED, Question as Asked, Return, Scheduling,
            Way,
        },
    },
    protocol::{ErrorCode, Refusal, Response},
};

use super::{Configuration, Query, WorkerQuestion, check_port, put};
use crate::{
    control::{
        change::ServiceState,
        error::{PlaneError, Unsupported},
        workers::{Ask, Workers},
    },
    id::{ServerId, WorkerId},
    io::PortId,
    path::{
        admin::{
            explain::question::{AskedPacket, At, Explain, ReturnLeg},
            update::Update,
        },
        flow::{mark::WorkerMarkRule, route::View, service::Chosen},
        verdict::Verdict,
    },
    table::endpoints::Endpoints,
};

/// A packet is on its way to a queue, in the queue, handed over, perhaps to several owners of NAT's replies, and may turn
/// back once.
const MOST_STOPS: usize = 16;

/// A packet whose way is asked for.
pub(super) struct ExplainPacket(AskedPacket);

/// What workers say of it.
pub(super) struct Explained {
    /// The answer of the one that decides.
    answer: Box<Explain>,
    /// Workers in the order in which they have the packet.
    workers: Vec<u16>,
}

impl Query for ExplainPacket {
    type Request = Asked;
    type Answer = Explained;

    fn prepare(question: Asked, held: &mut dyn Configuration) -> Result<Self, Refusal> {
        if question.source.0.is_ipv4() != question.destination.0.is_ipv4() {
            let detail = "the two addresses are of different families";
            return Err(Refusal::new(ErrorCode::InvalidOperation, detail));
        }
        check_port(question.port.as_deref(), held)?;
        Ok(Self(held.plane().workers()?.packet_of(&question)?))
    }

    fn ask(&mut self, workers: &dyn Ask) -> Result<Explained, PlaneError> {
        let (mut worker, mut have) = (WorkerId(0), Vec::new());
        let mut question = Box::new(Explain::new(self.0, At::Port, MAX_EXPLAINED));
        for _ in 0..MOST_STOPS {
            let answer = put(workers, worker.0, question)?;
            let has_it = answer.elsewhere.is_none() || answer.at == At::Handed;
            if has_it && have.last() != Some(&worker.0) {
                have.push(worker.0);
            }
            match answer.elsewhere {
                Some(other) => (question, worker) = (Box::new(answer.again()), other),
                None => return Ok(Explained { answer, workers: have }),
            }
        }
        Err(Unsupported::NoOwner.into())
    }

    fn respond(
        self,
        answer: Result<Explained, PlaneError>,
        held: &mut dyn Configuration,
    ) -> Result<Response, PlaneError> {
        let Explained { answer, workers } = answer?;
        let explanation = held.plane().workers()?.named(*answer, workers);
        Ok(Response::Explained(Box::new(explanation)))
    }
}

impl WorkerQuestion for Box<Explain> {
    fn update(self) -> Update {
        Update::Explain(self)
    }

    fn answered(update: Update) -> Option<Self> {
        match update {
            Update::Explain(answer) => Some(answer),
            _ => None,
        }
    }
}

impl Workers {
    /// The packet as the path knows it.
    fn packet_of(&self, question: &Asked) -> Result<AskedPacket, PlaneError> {
        packet(question, |name| port_number(self.port_names(), name)).ok_or(Unsupported::PacketKind.into())
    }

    /// The answer with the configuration's names.
    fn named(&self, answer: Explain, workers: Vec<u16>) -> Explanation {
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
            ReturnLeg::Itself => explain::Back::Itself,
            ReturnLeg::Here { comes, port, leaves, way: out } => explain::Back::Here(Box::new(Return {
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
    fn mark_of(&self, port: PortId, packet: &AskedPacket) -> Option<MarkRule> {
        let applies = |rule: &&MarkRule| {
            WorkerMarkRule::new(rule, self.port_names())
                .is_some_and(|r| r.applies(port, &packet.ends, packet.protocol))
        };
        self.marks().iter().find(applies).cloned()
    }
}

fn tuple(ends: Endpoints) -> Tuple {
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
fn as_configured(
    mut candidates: Vec<CandidateServer>,
    service: Option<&ServiceState>,
) -> Vec<CandidateServer> {
    let servers = service.iter().flat_map(|service| &service.servers);
    for (candidate, (_, server)) in candidates.iter_mut().zip(servers) {
        candidate.address = server.address;
    }
    candidates
}

/// The packet as the path knows it; none if it is of a kind that isn't forwarded.
fn packet(question: &Asked, number: impl Fn(&str) -> Option<PortId>) -> Option<AskedPacket> {
    let one_family = question.source.0.is_ipv6() == question.destination.0.is_ipv6();
    if !one_family {
        return None;
    }
    Some(AskedPacket {
        ends: Endpoints { source: question.source, destination: question.destination },
        protocol: question.protocol as u8,
        port: question.port.as_deref().and_then(number),
        opens: question.opens,
    })
}

fn port_number(names: &[String], name: &str) -> Option<PortId> {
    names.iter().position(|n| n == name).and_then(|n| u8::try_from(n).ok()).map(PortId)
}
