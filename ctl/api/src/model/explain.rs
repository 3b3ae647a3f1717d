//! What would happen to a packet, and why.

use std::net::IpAddr;

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{Forwarding, FoundSession, MarkRule, Protocol, ServiceKey, Tuple};

/// Most servers and local addresses that one explanation lists.
pub const MAX_EXPLAINED: usize = 1024;

/// The packet that is asked about. Ports are in host order.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Question {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Where it comes from.
    pub source: (IpAddr, u16),
    /// Where it goes to.
    pub destination: (IpAddr, u16),
    /// Name of the port it arrives on; absent: the one that leads to its source, else the first.
    pub port: Option<String>,
    /// Of TCP: whether it opens a connection (SYN) or belongs to one (ACK).
    pub opens: bool,
}

/// What would happen to the packet, stage by stage. What the packet doesn't come to is absent or empty.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Explanation {
    /// Name of the port it arrives on.
    pub port: String,
    /// Workers in the order in which they have it: the last one decides.
    pub workers: Vec<u16>,
    /// The mark rule that applies to it.
    pub mark: Option<MarkRule>,
    /// The service that takes it.
    pub service: Option<ServiceKey>,
    /// The session that it belongs to.
    pub session: Option<FoundSession>,
    /// It is a packet of that session's server.
    pub reply: bool,
    /// The persistence template that names the server.
    pub template: Option<FoundSession>,
    /// How a server is chosen.
    pub scheduling: Option<Scheduling>,
    /// The server that gets it, its port, and how it gets there.
    pub server: Option<(IpAddr, u16, Forwarding)>,
    /// Local addresses that a new session may have, in turn.
    pub local_addresses: Vec<LocalRoom>,
    /// Its way out.
    pub way: Option<Way>,
    /// How it ends.
    pub end: End,
    /// What it leaves between, if it leaves; of a tunnel's packet that is what it carries. A port 0 is one of that address's
    /// that is chosen when the packet comes. Since version 8, as what follows.
    pub leaves: Option<Tuple>,
    /// The way of the answer to a packet that leaves, if an answer is to be expected here.
    pub back: Option<Back>,
}

/// The way of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Back {
    /// The server answers the client itself (direct routing, tunnels): the answer doesn't come by here.
    Itself,
    /// It comes by here.
    Here(Box<Return>),
}

/// An answer that comes by the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Return {
    /// What it comes between. A port 0 as in [`Explanation::leaves`].
    pub comes: Tuple,
    /// Name of the port that leads to the sender; absent if none does.
    pub port: Option<String>,
    /// What it leaves between.
    pub leaves: Tuple,
    /// Its way out; absent if there is none.
    pub way: Option<Way>,
    /// Why it has none: the reason as counters name it, and what to do about it.
    pub refused: Option<(String, String)>,
}

/// A scheduler's choice.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Scheduling {
    /// The scheduler.
    pub scheduler: String,
    /// Where it stands.
    pub standing: Standing,
    /// The servers in the scheduler's order, the newest first; at most [`MAX_EXPLAINED`].
    pub servers: Vec<CandidateServer>,
    /// Which of them is chosen.
    pub chosen: Option<u32>,
}

/// Where a scheduler stands. Servers are counted as [`Scheduling::servers`] lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
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
    /// A rotation that goes on behind this server; absent: at the head of the list.
    Behind(Option<u32>),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct CandidateServer {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its weight.
    pub weight: u32,
    /// Active sessions, over all workers.
    pub active: u32,
    /// Inactive sessions, over all workers.
    pub inactive: u32,
    /// Its upper threshold, 0 = none.
    pub upper: u32,
    /// Its load as the scheduler weighs it, before division by the weight; absent where none is weighed.
    pub load: Option<u64>,
    /// Why it is passed over, if it is.
    pub skip: Option<Skip>,
}

/// Why a server is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Skip {
    /// Its weight is 0.
    #[serde(rename = "weight-0")]
    Quiesced,
    /// It is at its upper threshold, or was and isn't yet below the lower one.
    Threshold,
    /// It has more active sessions than weight (`ovf`).
    Overflowing,
}

/// What a local address has left towards the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LocalRoom {
    /// The address.
    pub address: IpAddr,
    /// Ports of the deciding worker in use towards the server.
    pub used: u32,
    /// Ports that the worker has towards the server.
    pub ports: u32,
}

/// A way out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Way {
    /// Name of the port.
    pub port: String,
    /// The route's network and prefix length.
    pub network: (IpAddr, u8),
    /// The next hop: a router, or the destination itself.
    pub next_hop: IpAddr,
    /// Its MAC address; absent: it has to be resolved first.
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet that goes this way, in bytes.
    pub mtu: u16,
}

/// How the packet ends.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum End {
    /// It leaves.
    Forwarded,
    /// It is given to the kernel.
    Punted,
    /// It is dropped.
    Dropped {
        /// The reason, as counters name it.
        reason: String,
        /// What it means and what to do about it.
        advice: String,
        /// The reply to the sender.
        answer: Option<Answer>,
    },
    /// It is given to the kernel for a server of the gateway itself.
    Delivered,
}

/// What the gateway answers in its own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Answer {
    /// A TCP reset.
    #[serde(rename = "tcp-reset")]
    Reset,
    /// ICMP: port unreachable.
    #[serde(rename = "icmp-port-unreachable")]
    PortUnreachable,
    /// ICMP: time exceeded.
    #[serde(rename = "icmp-time-exceeded")]
    TimeExceeded,
    /// ICMP: fragmentation needed, or packet too big.
    #[serde(rename = "icmp-too-big")]
    TooBig,
    /// ICMP: administratively prohibited. Since version 8.
    #[serde(rename = "icmp-prohibited")]
    Prohibited,
}
