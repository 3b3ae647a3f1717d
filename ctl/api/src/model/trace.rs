//! Real packets, followed through the stages.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{Network, Protocol, Tuple};

/// Most packets in one answer.
pub const MAX_TRACED: usize = 256;
/// Bytes of a frame that are kept.
pub const TRACE_SNAP: usize = 256;

/// Packets to which everything that is given applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct TraceFilter {
    /// Of this protocol.
    pub protocol: Option<Protocol>,
    /// To or from an address in this network, on arrival or when they leave.
    pub host: Option<Network>,
    /// To or from this TCP or UDP port, on arrival or when they leave; host order.
    pub service_port: Option<u16>,
    /// That arrive on the gateway's port of this name.
    pub port: Option<String>,
    /// That are dropped.
    pub dropped: bool,
}

/// A stage that a packet came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum TraceStage {
    /// Its headers were read.
    Parse,
    /// Its session was looked for.
    Session,
    /// The service that takes it was found.
    Service,
    /// A server was chosen.
    Schedule,
    /// A new session was opened, with a local address where it needs one.
    Open,
    /// Its state was brought up to date.
    Track,
    /// Its next hop was found.
    Route,
    /// It was rewritten and sent, or ended otherwise.
    End,
}

/// A packet that was followed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TracedPacket {
    /// When it arrived: nanoseconds since 1970.
    pub time: u64,
    /// The worker that had it.
    pub worker: u16,
    /// It came from another worker, not from the port's queue.
    pub handed: bool,
    /// Name of the port that it arrived on.
    pub port: String,
    /// IP protocol number; 0 if it isn't IP.
    pub protocol: u8,
    /// TCP flags.
    pub flags: u8,
    /// Bytes of the frame.
    pub length: u32,
    /// Its tuple on arrival.
    pub before: Option<Tuple>,
    /// The tuple with which a packet left on its account: itself, or the answer to it.
    pub after: Option<Tuple>,
    /// Name of the port by which it left.
    pub out: Option<String>,
    /// How it ended: `forwarded`, `punted`, `handed-over`, `waiting` (for a neighbour), or a reason to drop it.
    pub verdict: String,
    /// Of a drop, what it means and what to do.
    pub advice: Option<String>,
    /// The stages that it came to, and how many cycles of the time-stamp counter each took.
    pub stages: Vec<(TraceStage, u32)>,
    /// The frame as it arrived, its first [`TRACE_SNAP`] bytes.
    pub received: Vec<u8>,
    /// The frame that left on its account, likewise; empty if none did.
    pub sent: Vec<u8>,
}
