//! Parts that several documents have.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    model::{
        self, Family, Forwarding, FoundSession, Protocol, Rates, ServiceKey, Stats, TunnelChecksum,
        TunnelKind,
    },
    protocol::{ServerRow, ServiceRow},
};

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// What identifies a service: its name, as commands take it, and its parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Key {
    /// By protocol, address and port.
    Address {
        /// `tcp/192.0.2.10:80`
        name: String,
        /// Transport protocol.
        protocol: Protocol,
        /// Virtual address.
        address: IpAddr,
        /// Virtual port; 0 stands for all.
        port: u16,
    },
    /// By a firewall mark.
    Mark {
        /// `mark/7`
        name: String,
        /// The mark.
        mark: u32,
        /// Family of its packets.
        family: Family,
    },
}

/// A service as configured and counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Service {
    /// What identifies it.
    pub service: Key,
    /// Scheduler.
    pub scheduler: String,
    /// Its flags: bit 0 `flag-1` and so on.
    pub scheduler_flags: u8,
    /// Persistence time-out in seconds.
    pub persistent: Option<u32>,
    /// One-packet scheduling.
    pub one_packet: bool,
    /// Persistence engine.
    pub engine: Option<String>,
    /// Its local addresses.
    pub local_addresses: Vec<LocalAddress>,
    /// What it has counted.
    pub stats: Stats,
    /// How fast it counts.
    pub rates: Rates,
    /// Its servers.
    pub servers: Vec<Server>,
}

/// A local address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// Name of the port whose TAP twin holds it.
    pub port: Option<String>,
}

/// A server as configured and counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Server {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Forwarding method.
    pub method: Method,
    /// The tunnel that leads to it.
    pub tunnel: Option<Tunnel>,
    /// Weight.
    pub weight: u32,
    /// Upper threshold, 0 = none.
    pub upper: u32,
    /// Lower threshold, 0 = three quarters of the upper one.
    pub lower: u32,
    /// Active sessions.
    pub active: u32,
    /// Inactive sessions.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// What it has counted.
    pub stats: Stats,
    /// How fast it counts.
    pub rates: Rates,
}

/// Name of a forwarding method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Direct routing.
    Route,
    /// By a tunnel.
    Tunnel,
    /// NAT of the destination.
    Nat,
    /// NAT of both addresses.
    FullNat,
}

/// A tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tunnel {
    /// Encapsulation.
    pub kind: TunnelKind,
    /// UDP port of GUE; 0 otherwise.
    pub port: u16,
    /// Checksum of GUE and GRE.
    pub checksum: TunnelChecksum,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Session {
    /// `tcp`, `udp`, `sctp`, `ip`, or the IP protocol's number.
    pub protocol: String,
    /// The client.
    pub client: Endpoint,
    /// The virtual service.
    pub r#virtual: Endpoint,
    /// The local address; the client's own for NAT, DR and TUN.
    pub local: Endpoint,
    /// The real server.
    pub server: Endpoint,
    /// State, as IPVS names it.
    pub state: String,
    /// Whether the client's address is replaced.
    pub fullnat: bool,
    /// Worker that owns it.
    pub worker: u16,
    /// Until it expires.
    pub expires_ms: u64,
    /// Since it was opened.
    pub age_ms: u64,
    /// Since its last packet.
    pub idle_ms: u64,
}

/// The name of an IP protocol number as sessions have it.
#[must_use]
pub fn protocol_name(number: u8) -> String {
    match number {
        6 => "tcp".into(),
        17 => "udp".into(),
        132 => "sctp".into(),
        0 => "ip".into(),
        other => other.to_string(),
    }
}

/// `02:00:00:00:00:01`
#[must_use]
pub fn mac(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// `ADDRESS/BITS`
#[must_use]
pub fn network((address, bits): (IpAddr, u8)) -> String {
    format!("{address}/{bits}")
}

impl From<(IpAddr, u16)> for Endpoint {
    fn from((address, port): (IpAddr, u16)) -> Self {
        Self { address, port }
    }
}

impl From<&ServiceKey> for Key {
    fn from(key: &ServiceKey) -> Self {
        let name = key.to_string();
        match *key {
            ServiceKey::Address { protocol, address, port } => {
                Self::Address { name, protocol, address, port }
            }
            ServiceKey::Mark { mark, family } => Self::Mark { name, mark, family },
        }
    }
}

impl From<&(ServiceRow, Vec<ServerRow>)> for Service {
    fn from((row, servers): &(ServiceRow, Vec<ServerRow>)) -> Self {
        let s = &row.service;
        Self {
            service: (&s.key).into(),
            scheduler: s.scheduler.clone(),
            scheduler_flags: s.scheduler_flags,
            persistent: s.persistent,
            one_packet: s.one_packet,
            engine: s.engine.clone(),
            local_addresses: row.local_addresses.iter().map(Into::into).collect(),
            stats: row.stats,
            rates: row.rates,
            servers: servers.iter().map(Into::into).collect(),
        }
    }
}

impl From<&model::LocalAddress> for LocalAddress {
    fn from(local: &model::LocalAddress) -> Self {
        Self { address: local.address, port: local.interface.clone() }
    }
}

impl From<&ServerRow> for Server {
    fn from(row: &ServerRow) -> Self {
        let s = &row.server;
        Self {
            address: s.address,
            port: s.port,
            method: s.forwarding.into(),
            tunnel: Tunnel::of(s.forwarding),
            weight: s.weight,
            upper: s.upper,
            lower: s.lower,
            active: row.active,
            inactive: row.inactive,
            persistent: row.persistent,
            stats: row.stats,
            rates: row.rates,
        }
    }
}

impl From<Forwarding> for Method {
    fn from(method: Forwarding) -> Self {
        match method {
            Forwarding::Route => Self::Route,
            Forwarding::Tunnel(_) => Self::Tunnel,
            Forwarding::Nat => Self::Nat,
            Forwarding::FullNat => Self::FullNat,
        }
    }
}

impl Method {
    /// As documents have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Tunnel => "tunnel",
            Self::Nat => "nat",
            Self::FullNat => "fullnat",
        }
    }
}

impl Tunnel {
    /// The tunnel of a method that has one.
    #[must_use]
    pub fn of(method: Forwarding) -> Option<Self> {
        match method {
            Forwarding::Tunnel(model::Tunnel { kind, port, checksum }) => Some(Self { kind, port, checksum }),
            _ => None,
        }
    }
}

impl From<&FoundSession> for Session {
    fn from(found: &FoundSession) -> Self {
        let s = &found.session;
        let ms = |hundredths: u32| u64::from(hundredths) * 10;
        Self {
            protocol: protocol_name(s.protocol),
            client: s.client.into(),
            r#virtual: s.virtual_.into(),
            local: s.local.into(),
            server: s.server.into(),
            state: s.state.name().into(),
            fullnat: s.fullnat,
            worker: s.worker,
            expires_ms: ms(s.expires),
            age_ms: ms(found.age),
            idle_ms: ms(found.idle),
        }
    }
}
