//! `weirctl trace`: a document a packet.

use serde::{Deserialize, Serialize};

use super::parts::Endpoint;
use crate::model::{
    Tuple,
    trace::{self, TraceStage},
};

/// A packet that was followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TracedPacket {
    /// When it arrived: nanoseconds since 1970.
    pub time_ns: u64,
    /// The worker that had it.
    pub worker: u16,
    /// It came from another worker, not from the port's queue.
    pub handed_over: bool,
    /// Name of the port that it arrived on.
    pub port: String,
    /// IP protocol number; 0 if it isn't IP.
    pub protocol: u8,
    /// Letters of `SAFRPU`; `null` if it isn't TCP.
    pub tcp_flags: Option<String>,
    /// Bytes of the frame.
    pub length: u32,
    /// What it was between on arrival.
    pub before: Option<Ends>,
    /// What the packet was between that left on its account: itself, or the answer to it.
    pub after: Option<Ends>,
    /// Name of the port by which it left.
    pub out: Option<String>,
    /// `forwarded`, `punted`, `handed-over`, `waiting`, or a reason to drop it.
    pub verdict: String,
    /// Of a drop, what it means and what to do.
    pub advice: Option<String>,
    /// The stages that it came to.
    pub stages: Vec<PacketStage>,
}

/// Source and destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ends {
    /// Where it comes from.
    pub source: Endpoint,
    /// Where it goes to.
    pub destination: Endpoint,
}

/// A stage that a packet came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PacketStage {
    /// The stage.
    pub stage: TraceStage,
    /// How many cycles of the time-stamp counter it took.
    pub cycles: u32,
}

/// TCP flags as letters.
#[must_use]
pub fn flags(flags: u8) -> String {
    let letters = [(2, 'S'), (16, 'A'), (1, 'F'), (4, 'R'), (8, 'P'), (32, 'U')];
    letters.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| *letter).collect()
}

impl From<Tuple> for Ends {
    fn from((source, destination): Tuple) -> Self {
        Self { source: source.into(), destination: destination.into() }
    }
}

impl From<&trace::TracedPacket> for TracedPacket {
    fn from(p: &trace::TracedPacket) -> Self {
        Self {
            time_ns: p.time,
            worker: p.worker,
            handed_over: p.handed,
            port: p.port.clone(),
            protocol: p.protocol,
            tcp_flags: (p.protocol == 6).then(|| flags(p.flags)),
            length: p.length,
            before: p.before.map(Into::into),
            after: p.after.map(Into::into),
            out: p.out.clone(),
            verdict: p.verdict.clone(),
            advice: p.advice.clone(),
            stages: p.stages.iter().map(|&(stage, cycles)| PacketStage { stage, cycles }).collect(),
        }
    }
}
