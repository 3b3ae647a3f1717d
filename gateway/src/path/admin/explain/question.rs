//! What is asked about a packet, with room for the answer.

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
    /// On its way to a queue.
    Port,
    /// In this worker's queue.
    Queue,
    /// Handed over to this worker.
    Handed,
}

/// The packet that is asked about.
#[derive(Clone, Copy, Debug)]
pub struct AskedPacket {
    /// Addresses and ports.
    pub ends: Endpoints,
    /// IP protocol number.
    pub protocol: u8,
    /// Port it arrives on; none: the one that leads to its source, else the first.
    pub port: Option<PortId>,
    /// Of TCP: SYN, or ACK.
    pub opens: bool,
}

/// A question with room for its answer.
#[derive(Debug)]
pub struct Explain {
    /// The packet.
    pub packet: AskedPacket,
    /// What it goes between now: not what it did in the beginning, once it has turned back.
    pub ends: Endpoints,
    /// Where it is.
    pub at: At,
    /// Another worker has it: ask that one.
    pub elsewhere: Option<WorkerId>,
    /// The service that takes it.
    pub service: Option<ServiceId>,
    /// The session that it belongs to, its server's number and whether it comes from that server.
    pub session: Option<(FoundSession, ServerId, bool)>,
    /// The session's method, which may not be its server's any more; of a tunnel the kind is the server's.
    pub method: Option<Forwarding>,
    /// The persistence template that names the server.
    pub template: Option<FoundSession>,
    /// Scheduler, where it stands and whom it chooses.
    pub scheduling: Option<(&'static str, Standing, Option<u32>)>,
    /// The servers it chooses from, as many as there was capacity for.
    pub candidates: Vec<CandidateServer>,
    /// The server that gets it: number, address and port, method.
    pub server: Option<Chosen>,
    /// What local addresses have left, as many as there was capacity for.
    pub local_addresses: Vec<LocalRoom>,
    /// The way out.
    pub way: Option<View>,
    /// What it leaves between, if it does; a port 0 isn't chosen yet.
    pub leaves: Option<Endpoints>,
    /// The way of the answer.
    pub back: Option<ReturnLeg>,
    /// It is given to the kernel for a server of the gateway itself.
    pub delivered: bool,
    /// How it ends, and the reply to the sender.
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

    /// The same question to the worker that the answer names.
    #[must_use]
    pub fn again(self) -> Self {
        Self { elsewhere: None, ..self }
    }

    /// It comes in again between other ends, at another worker or this one.
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
    /// Who is looked for among the routes.
    pub to: IpAddr,
    /// What it leaves between.
    pub leaves: Endpoints,
    /// Through the tunnel to this server.
    pub tunnel: Option<ServerId>,
    /// The way of the answer.
    pub back: Option<ReturnLeg>,
}

/// The way of an answer.
#[derive(Clone, Copy, Debug)]
pub enum ReturnLeg {
    /// The server answers the client itself.
    Itself,
    /// It comes by here.
    Here {
        /// What it comes between.
        comes: Endpoints,
        /// The port that leads to its sender.
        port: Option<PortId>,
        /// What it leaves between.
        leaves: Endpoints,
        /// Its way out.
        way: Result<View, Reason>,
    },
}

impl ReturnLeg {
    /// An answer whose way isn't known yet.
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
