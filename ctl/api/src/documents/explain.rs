//! `weirctl explain`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::parts::{Endpoint, Key, Method, Session, mac, network};
use crate::{
    model::{
        self, Protocol, Tuple,
        explain::{Answer, CandidateServer, End, LocalRoom, Question, Skip},
    },
    rules::mark,
};

/// What would happen to a packet. What it doesn't come to is `null` or empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Explanation {
    /// The packet that was asked about.
    pub packet: PacketAsked,
    /// Workers in the order in which they have it: the last one decides.
    pub workers: Vec<u16>,
    /// The mark rule that applies to it.
    pub mark: Option<MarkApplied>,
    /// The service that takes it.
    pub service: Option<Key>,
    /// The session that it belongs to.
    pub session: Option<Session>,
    /// Whether it comes from that session's server.
    pub reply: Option<bool>,
    /// The persistence template that names the server.
    pub template: Option<Session>,
    /// How a server is chosen.
    pub scheduling: Option<Scheduling>,
    /// The server that gets it.
    pub server: Option<ServerChosen>,
    /// Local addresses that a new session may have, in turn.
    pub local_addresses: Vec<LocalAddressRoom>,
    /// Its way out.
    pub way: Option<Way>,
    /// What it leaves between; of a tunnel's packet, what that carries.
    pub leaves: Option<LeavingEnds>,
    /// The way of the answer.
    pub back: Option<Back>,
    /// How it ends.
    pub verdict: Verdict,
    /// Why it is dropped, as counters name it.
    pub reason: Option<String>,
    /// What that means and what to do.
    pub advice: Option<String>,
    /// The reply to the sender of a dropped packet.
    pub answer: Option<Answer>,
}

/// The packet that was asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PacketAsked {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Where it comes from.
    pub source: Endpoint,
    /// Where it goes to.
    pub destination: Endpoint,
    /// Name of the port that it arrives on.
    pub port: String,
    /// Of TCP: whether it opens a connection.
    pub syn: Option<bool>,
}

/// A mark rule that applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MarkApplied {
    /// The mark.
    pub mark: u32,
    /// The rule as `mark add` takes it.
    pub rule: String,
}

/// A scheduler's choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Scheduling {
    /// The scheduler.
    pub scheduler: String,
    /// Where it stands.
    pub standing: Standing,
    /// Index of the server that is chosen.
    pub chosen: Option<u32>,
    /// The servers in the scheduler's order.
    pub servers: Vec<Choice>,
}

/// Where a scheduler stands. Servers are indices into [`Scheduling::servers`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Standing {
    /// It has no memory.
    Stateless,
    /// Clients that hash to this slot belong to this server.
    Slot {
        /// The slot.
        slot: u32,
        /// How many there are.
        slots: u32,
        /// Its server, if it has one.
        server: Option<u32>,
        /// Whether others are tried when that one can't take a session.
        fallback: bool,
    },
    /// A rotation that goes on behind this server; `null`: at the head of the list.
    Behind {
        /// The server.
        server: Option<u32>,
    },
    /// Weighted round robin: servers of at least this weight take part in this pass.
    Level {
        /// Weight needed now.
        level: u32,
        /// Weight needed in the first pass.
        top: u32,
        /// Difference between passes.
        step: u32,
        /// The server to look at next; the list's length is past the last.
        next: u32,
    },
    /// The destination is remembered with this many servers.
    Remembered {
        /// How many.
        servers: u32,
        /// The newest of them, if it is still there.
        first: Option<u32>,
    },
    /// The destination isn't remembered.
    Unknown,
}

/// A server that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Choice {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its weight.
    pub weight: u32,
    /// Active sessions.
    pub active: u32,
    /// Inactive sessions.
    pub inactive: u32,
    /// Upper threshold, 0 = none.
    pub upper: u32,
    /// What the scheduler weighs before it divides by the weight; `null` with schedulers that weigh none.
    pub load: Option<u64>,
    /// Why it is passed over.
    pub skipped: Option<Skip>,
}

/// The server that gets a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServerChosen {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Forwarding method.
    pub method: Method,
}

/// What a local address has left towards the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LocalAddressRoom {
    /// The address.
    pub address: IpAddr,
    /// Ports of the deciding worker in use towards the server.
    pub used: u32,
    /// Ports that the worker has towards the server.
    pub ports: u32,
}

/// A way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Way {
    /// Name of the port.
    pub port: String,
    /// `ADDRESS/BITS` of the route.
    pub route: String,
    /// A router, or the destination itself.
    pub next_hop: IpAddr,
    /// Its MAC address; `null`: it has to be resolved first.
    pub mac: Option<String>,
    /// Largest IP packet that goes this way, in bytes.
    pub mtu: u16,
}

/// What a packet leaves between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LeavingEnds {
    /// Where it comes from.
    pub source: Leaving,
    /// Where it goes to.
    pub destination: Leaving,
}

/// An address, and a port unless one is chosen when the packet comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Leaving {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: Option<u16>,
}

/// The way of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Back {
    /// It comes by the gateway.
    Here(Box<Return>),
    /// It doesn't: the server answers the client itself.
    Elsewhere {
        /// `false`
        here: bool,
    },
}

/// An answer that comes by the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Return {
    /// `true`
    pub here: bool,
    /// What it comes between.
    pub comes: LeavingEnds,
    /// Name of the port that leads to its sender.
    pub port: Option<String>,
    /// What it leaves between.
    pub leaves: LeavingEnds,
    /// Its way out.
    pub way: Option<Way>,
    /// Why it has none.
    pub reason: Option<String>,
    /// What that means and what to do.
    pub advice: Option<String>,
}

/// How a packet ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It leaves.
    Forwarded,
    /// It is given to the kernel.
    Punted,
    /// It is given to the kernel for a server of the gateway itself.
    Delivered,
    /// It is dropped.
    Dropped,
}

impl Explanation {
    /// The answer to a question.
    #[must_use]
    pub fn new(q: &Question, e: &model::explain::Explanation) -> Self {
        let (verdict, reason, advice, answer) = match e.end.clone() {
            End::Forwarded => (Verdict::Forwarded, None, None, None),
            End::Punted => (Verdict::Punted, None, None, None),
            End::Delivered => (Verdict::Delivered, None, None, None),
            End::Dropped { reason, advice, answer } => (Verdict::Dropped, Some(reason), Some(advice), answer),
        };
        Self {
            packet: PacketAsked {
                protocol: q.protocol,
                source: q.source.into(),
                destination: q.destination.into(),
                port: e.port.clone(),
                syn: (q.protocol == Protocol::Tcp).then_some(q.opens),
            },
            workers: e.workers.clone(),
            mark: e.mark.as_ref().map(|rule| MarkApplied { mark: rule.mark, rule: mark::to_words(rule) }),
            service: e.service.as_ref().map(Into::into),
            session: e.session.as_ref().map(Into::into),
            reply: e.session.is_some().then_some(e.reply),
            template: e.template.as_ref().map(Into::into),
            scheduling: e.scheduling.as_ref().map(Into::into),
            server: e.server.map(|(address, port, method)| ServerChosen {
                address,
                port,
                method: method.into(),
            }),
            local_addresses: e.local_addresses.iter().map(Into::into).collect(),
            way: e.way.as_ref().map(Into::into),
            leaves: e.leaves.map(Into::into),
            back: e.back.as_ref().map(Into::into),
            verdict,
            reason,
            advice,
            answer,
        }
    }
}

impl From<&model::explain::Scheduling> for Scheduling {
    fn from(s: &model::explain::Scheduling) -> Self {
        Self {
            scheduler: s.scheduler.clone(),
            standing: s.standing.into(),
            chosen: s.chosen,
            servers: s.servers.iter().map(Into::into).collect(),
        }
    }
}

impl From<model::explain::Standing> for Standing {
    fn from(standing: model::explain::Standing) -> Self {
        use model::explain::Standing as From;
        match standing {
            From::Stateless => Self::Stateless,
            From::Slot { slot, slots, server, fallback } => Self::Slot { slot, slots, server, fallback },
            From::Behind(server) => Self::Behind { server },
            From::Level { level, top, step, next } => Self::Level { level, top, step, next },
            From::Remembered { servers, first } => Self::Remembered { servers, first },
            From::Unknown => Self::Unknown,
        }
    }
}

impl From<&CandidateServer> for Choice {
    fn from(c: &CandidateServer) -> Self {
        Self {
            address: c.address,
            port: c.port,
            weight: c.weight,
            active: c.active,
            inactive: c.inactive,
            upper: c.upper,
            load: c.load,
            skipped: c.skip,
        }
    }
}

impl From<&LocalRoom> for LocalAddressRoom {
    fn from(l: &LocalRoom) -> Self {
        Self { address: l.address, used: l.used, ports: l.ports }
    }
}

impl From<&model::explain::Way> for Way {
    fn from(w: &model::explain::Way) -> Self {
        Self {
            port: w.port.clone(),
            route: network(w.network),
            next_hop: w.next_hop,
            mac: w.mac.map(mac),
            mtu: w.mtu,
        }
    }
}

impl From<Tuple> for LeavingEnds {
    fn from((source, destination): Tuple) -> Self {
        // Port 0 isn't chosen yet.
        let place = |(address, port): (IpAddr, u16)| Leaving { address, port: (port != 0).then_some(port) };
        Self { source: place(source), destination: place(destination) }
    }
}

impl From<&model::explain::Back> for Back {
    fn from(back: &model::explain::Back) -> Self {
        let model::explain::Back::Here(back) = back else { return Self::Elsewhere { here: false } };
        let (reason, advice) = back.refused.clone().unzip();
        Self::Here(Box::new(Return {
            here: true,
            comes: back.comes.into(),
            port: back.port.clone(),
            leaves: back.leaves.into(),
            way: back.way.as_ref().map(Into::into),
            reason,
            advice,
        }))
    }
}
