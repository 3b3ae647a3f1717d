//! `weirctl status`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::parts::mac;
use crate::model::status::{self, PortStatus};

/// How the gateway is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// Version of the gateway.
    pub weir: String,
    /// Generation of the configuration.
    pub generation: u64,
    /// Since the gateway started.
    pub uptime_ms: u64,
    /// Whether a port has faults.
    pub degraded: bool,
    /// Services configured.
    pub services: u32,
    /// Servers configured.
    pub servers: u32,
    /// The ports.
    pub ports: Vec<Port>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// Local addresses in use, the fullest first.
    pub local_addresses: Vec<LocalAddressUse>,
    /// What the operator should look at, a sentence each.
    pub warnings: Vec<String>,
}

/// A port with its device and the device's counters.
#[allow(missing_docs, reason = "DPDK's names, which say it")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Port {
    /// Name.
    pub name: String,
    /// The device as configured, with ` vlan N` where the port is a VLAN of it.
    pub device: String,
    /// Its driver.
    pub driver: String,
    /// MAC address.
    pub mac: String,
    /// Bytes of IP packet.
    pub mtu: u16,
    /// Whether there is a link.
    pub up: bool,
    /// Mb/s, if known.
    pub speed_mbps: Option<u32>,
    /// Whether the device brings every frame to its worker.
    pub rss: bool,
    /// Why it doesn't.
    pub no_rss_reason: Option<String>,
    /// Receive queues.
    pub rx_queues: u16,
    /// Send queues.
    pub tx_queues: u16,
    /// Packet buffers the port has.
    pub buffers: u32,
    /// Of these, in use.
    pub buffers_used: u32,
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_missed: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_no_buffer: u64,
    /// What keeps the port from doing its work, a phrase each.
    pub faults: Vec<String>,
}

/// A worker's load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Worker {
    /// Its number.
    pub worker: usize,
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
    /// What it did just now.
    pub sample: Sample,
}

/// What a worker did in a short time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Sample {
    /// How long that was.
    pub milliseconds: u64,
    /// Polls.
    pub polls: u64,
    /// Polls that found frames.
    pub busy_polls: u64,
    /// Frames received.
    pub received: u64,
    /// Polls that found frames, of a thousand.
    pub busy_permille: u64,
}

/// Use of a local address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// Whether the gateway forwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ready {
    /// It does.
    pub ready: bool,
    /// Why it doesn't, in the operator's words; none if it does.
    pub reasons: Vec<String>,
}

impl From<&PortStatus> for Port {
    fn from(p: &PortStatus) -> Self {
        let c = &p.counters;
        Self {
            name: p.name.clone(),
            device: p.device.clone(),
            driver: p.driver.clone(),
            mac: mac(p.mac),
            mtu: p.mtu,
            up: p.up,
            speed_mbps: p.speed,
            rss: p.no_rss.is_none(),
            no_rss_reason: p.no_rss.clone(),
            rx_queues: p.rx_queues,
            tx_queues: p.tx_queues,
            buffers: p.buffers,
            buffers_used: p.buffers_used,
            rx_packets: c.rx_packets,
            tx_packets: c.tx_packets,
            rx_bytes: c.rx_bytes,
            tx_bytes: c.tx_bytes,
            rx_missed: c.rx_missed,
            rx_errors: c.rx_errors,
            tx_errors: c.tx_errors,
            rx_no_buffer: c.rx_no_buffer,
            faults: p.faults.clone(),
        }
    }
}

impl From<&status::LocalAddressUse> for LocalAddressUse {
    fn from(a: &status::LocalAddressUse) -> Self {
        Self { address: a.address, used: a.used, busiest: a.busiest, ports: a.ports }
    }
}
