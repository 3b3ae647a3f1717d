//! The gateway's status.

use std::net::IpAddr;

use bincode::{Decode, Encode};

/// Most local addresses in one [`Status`].
pub const MAX_STATUS_ADDRESSES: usize = 4096;

/// How the gateway is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Status {
    /// Version of the gateway.
    pub version: String,
    /// Generation of the configuration.
    pub generation: u64,
    /// Milliseconds since it started.
    pub uptime: u64,
    /// Services configured.
    pub services: u32,
    /// Servers configured, each service's counted on its own.
    pub servers: u32,
    /// The ports, in configuration order.
    pub ports: Vec<PortStatus>,
    /// The workers.
    pub workers: Vec<WorkerStatus>,
    /// Local addresses with ports in use or resting, the fullest first, at most [`MAX_STATUS_ADDRESSES`].
    pub local_addresses: Vec<LocalAddressUse>,
    /// What the operator should look at, a sentence each.
    pub warnings: Vec<String>,
}

/// A port and its device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PortStatus {
    /// Name.
    pub name: String,
    /// The device as configured, with ` vlan N` where the port is a VLAN of it.
    pub device: String,
    /// Its driver.
    pub driver: String,
    /// MAC address.
    pub mac: [u8; 6],
    /// Bytes of IP packet.
    pub mtu: u16,
    /// Whether there is a link.
    pub up: bool,
    /// Mb/s, if known.
    pub speed: Option<u32>,
    /// Why the device's RSS doesn't bring every frame to its owner; absent if it does.
    pub no_rss: Option<String>,
    /// Receive queues.
    pub rx_queues: u16,
    /// Send queues.
    pub tx_queues: u16,
    /// Packet buffers the port has.
    pub buffers: u32,
    /// Of these, in use: with frames, queues and driver.
    pub buffers_used: u32,
    /// The device's own counters.
    pub counters: PortCounters,
    /// What keeps the port from doing its work, a phrase each. Since version 7.
    pub faults: Vec<String>,
}

/// A device's own counters since it was started. Bytes are whole frames.
#[allow(missing_docs, reason = "DPDK's names, which say it")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PortCounters {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_missed: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_no_buffer: u64,
}

/// A worker's load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct WorkerStatus {
    /// Polls since the start.
    pub polls: u64,
    /// Of these, polls that found frames.
    pub busy_polls: u64,
    /// Frames received.
    pub received: u64,
    /// Sessions in the table.
    pub sessions: u32,
    /// Sessions the table has room for; 0 if not known.
    pub max_sessions: u32,
}

/// Use of one local address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LocalAddressUse {
    /// The address.
    pub address: IpAddr,
    /// Ports in use, over all servers.
    pub used: u32,
    /// Ports in use towards the server with the most of them.
    pub busiest: u32,
    /// Ports there are towards each server.
    pub ports: u32,
}

/// Told to subscribers: what is new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Notice {
    /// Generation of the configuration.
    pub generation: u64,
    /// How often the rates have been estimated, every 2 s.
    pub tick: u64,
}
