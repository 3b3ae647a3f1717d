//! What is counted: by services and servers, by SNAT rules, and by the packet path.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// How many packets have ended in one way, or how often something else has happened to packets.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PathCounter {
    /// Its name, which stays: `forwarded`, `local-ports-exhausted`.
    pub name: String,
    /// For a reason to drop packets: what it means and what to do about it. Absent otherwise.
    pub advice: Option<String>,
    /// Each worker's count, in their order.
    pub workers: Vec<u64>,
}

/// Counts since the start or the last `-Z`, as of the last 2 s tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stats {
    /// Sessions scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets from servers.
    pub out_packets: u64,
    /// Bytes from clients, IP total lengths.
    pub in_bytes: u64,
    /// Bytes from servers, IP total lengths.
    pub out_bytes: u64,
}

/// Rates a second as IPVS estimates them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Rates {
    /// Sessions.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets from servers.
    pub out_packets: u64,
    /// Bytes from clients.
    pub in_bytes: u64,
    /// Bytes from servers.
    pub out_bytes: u64,
}
