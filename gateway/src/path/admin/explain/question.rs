//! A question about a packet, with room for the answer.

use std::net::IpAddr;

use weir_api::model::{
    Forwarding, FoundSession,
    explain::{Answer, CandidateServer, LocalRoom, Standing},
};

use crate::{
    id::{ServerId, ServiceId, WorkerId},
    io::PortId,
    path::{
        flow::{route::View, service::Chosen},
        verdict::{Reason, Verdict},
    },
    table::endpoints::Endpoints,
};

/// Where the packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Between a port and a queue.
    Port,
    /// In this worker's queue.
    Queue,
    /// Handed over to this worker.
    Handed,
}

/// The packet in question.
#[derive(Clone, Copy, Debug)]
pub struct AskedPacket {
    /// Addresses and ports.
    pub ends: Endpoints,
    /// IP protocol number.
    pub protocol: u8,
    /// The port that it arrives on; if none, the one that leads to its source, else the first.
    pub port: Option<PortId>,
    /// For TCP: whether it is a SYN; otherwise it is an ACK.
    pub opens: bool,
}

/// A question with room for its answer.
#[derive(Debug)]
pub struct Explain {
    /// The packet.
    pub packet: AskedPacket,
    /// Its current endpoints, which differ from the packet's once it has turned back.
    pub ends: Endpoints,
    /// Where it is.
    pub at: At,
    /// The worker to ask next, because it has the packet.
    pub elsewhere: Option<WorkerId>,
    /// The service that claims it.
    pub service: Option<ServiceId>,
    /// The session that it belongs to, the server's number, and whether the packet comes from the server.
    pub session: Option<(FoundSession, ServerId, bool)>,
    /// The session's forwarding method, which may differ from its server's by now; the kind of a tunnel is the
    /// server's.
    pub method: Option<Forwarding>,
    /// The persistence template that names the server.
    pub template: Option<FoundSession>,
    /// The scheduler, its state, and the server it chooses.
    pub scheduling: Option<(&'static str, Standing, Option<u32>)>,
    /// The servers to choose from, as many as there was capacity for.
    pub candidates: Vec<CandidateServer>,
    /// The chosen server: number, address and port, method.
    pub server: Option<Chosen>,
    /// The free ports of local addresses, as many as there was capacity for.
    pub local_addresses: Vec<LocalRoom>,
    /// The route that it takes.
    pub way: Option<View>,
    /// The endpoints with which it leaves, if it does. Port 0 means that the port hasn't been chosen yet.
    pub leaves: Option<Endpoints>,
    /// The way of the answer.
    pub back: Option<ReturnLeg>,
    /// The kernel gets it, for a server on the gateway itself.
    pub delivered: bool,
    /// The verdict, and the reply to the sender.
    pub end: (Verdict, Option<Answer>),
}

impl Explain {
    /// A question about `packet` with room for `room` servers and local addresses.
    #[must_use]
    pub fn new(packet: AskedPacket, at: At, room: usize) -> Self {
        Self {
            ends: packet.ends,
            packet,
            at,
            elsewhere: None,
            service: None,
            session: None,
            method: None,
            template: None,
            scheduling: None,
            candidates: Vec::with_capacity(room),
            server: None,
            local_addresses: Vec::with_capacity(room),
            way: None,
            leaves: None,
            back: None,
            delivered: false,
            end: (Verdict::Punted, None),
        }
    }

    /// The same question, for the worker named in the answer.
    #[must_use]
    pub fn again(self) -> Self {
        Self { elsewhere: None, ..self }
    }

    /// The packet comes in again with other endpoints, at another worker or this one.
    pub(super) fn turns_back(&mut self, ends: Endpoints, owner: WorkerId) {
        (self.ends, self.at, self.elsewhere) = (ends, At::Handed, Some(owner));
    }

    pub(super) fn drops(&mut self, reason: Reason) {
        self.end = (Verdict::Drop(reason), answer_to(reason));
    }
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leg {
    /// The destination to look up in the routes.
    pub to: IpAddr,
    /// The endpoints with which it leaves.
    pub leaves: Endpoints,
    /// The server whose tunnel it goes through.
    pub tunnel: Option<ServerId>,
    /// The way of the answer.
    pub back: Option<ReturnLeg>,
}

/// The way of an answer.
#[derive(Clone, Copy, Debug)]
pub enum ReturnLeg {
    /// The server answers the client itself.
    Itself,
    /// It passes the gateway.
    Here {
        /// The endpoints with which it arrives.
        comes: Endpoints,
        /// The port that leads to its sender.
        port: Option<PortId>,
        /// The endpoints with which it leaves.
        leaves: Endpoints,
        /// The route that it takes.
        way: Result<View, Reason>,
    },
}

impl ReturnLeg {
    /// An answer whose route isn't known yet.
    pub(super) fn here(comes: Endpoints, leaves: Endpoints) -> Self {
        Self::Here { comes, port: None, leaves, way: Err(Reason::NoRoute) }
    }
}

/// The reply to the sender of a dropped packet.
fn answer_to(reason: Reason) -> Option<Answer> {
    match reason {
        Reason::NoServer => Some(Answer::PortUnreachable),
        Reason::TtlExpired => Some(Answer::TimeExceeded),
        Reason::TooBig => Some(Answer::TooBig),
        Reason::SnatPortsExhausted | Reason::SnatPortLimit | Reason::SnatSessionLimit => {
            Some(Answer::Prohibited)
        }
        _ => None,
    }
}
