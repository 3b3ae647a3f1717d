//! What an operator configures: virtual services, real servers and local addresses, as IPVS names them; and what
//! the gateway tells of itself: sessions, and a log of them ([`session_log`]), counters ([`counters`]), its status
//! ([`status`]), what would happen to a packet ([`explain`]) and what happened to packets ([`trace`]).
//!
//! These types travel in the control protocol, and the gateway's configuration store and packet path use them.
//! Ports are in host order, weights and thresholds as IPVS has them (a C `int`, never negative here).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

pub mod counters;
pub mod event;
pub mod explain;
pub mod local;
pub mod schedulers;
pub mod session;
pub mod session_log;
pub mod snat;
pub mod status;
pub mod trace;

pub use counters::{PathCounter, Rates, Stats};
pub use schedulers::{NO_SCHEDULER, SCHEDULERS, is_scheduler};
pub use session::{FoundSession, Network, Session, SessionFilter, SessionState, Tuple};

/// The transport protocol of a virtual service; the value is the IP protocol number.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Protocol {
    /// TCP, RFC 9293.
    Tcp = 6,
    /// UDP, RFC 768.
    Udp = 17,
    /// SCTP, RFC 9260.
    Sctp = 132,
}

/// An address family, for what has no address of its own (a firewall-mark service).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Family {
    /// IPv4.
    #[serde(rename = "ipv4")]
    V4,
    /// IPv6.
    #[serde(rename = "ipv6")]
    V6,
}

/// What identifies a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum ServiceKey {
    /// Protocol, virtual address and port (0 = every port).
    Address {
        /// Transport protocol.
        protocol: Protocol,
        /// Virtual address.
        address: IpAddr,
        /// Virtual port in host order; 0 stands for all ports.
        port: u16,
    },
    /// Packets that carry this mark.
    Mark {
        /// The mark, never 0.
        mark: u32,
        /// Family of the packets.
        family: Family,
    },
}

/// How packets reach a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Forwarding {
    /// `-g`, listed `Route`.
    Route,
    /// `-i`, listed `Tunnel`.
    Tunnel(Tunnel),
    /// `-m`, listed `Masq`.
    Nat,
    /// `--fullnat`, listed `FullNat`.
    FullNat,
}

/// The outer header of [`Forwarding::Tunnel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Tunnel {
    /// Encapsulation.
    pub kind: TunnelKind,
    /// UDP destination port of GUE, host order; 0 otherwise.
    pub port: u16,
    /// Checksum flags of GUE and GRE.
    pub checksum: TunnelChecksum,
}

/// Encapsulations of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum TunnelKind {
    /// IP in IP, RFC 2003 / RFC 2473.
    Ipip,
    /// Generic UDP encapsulation.
    Gue,
    /// Generic routing encapsulation, RFC 2784.
    Gre,
}

/// `--tun-nocsum`, `--tun-csum`, `--tun-remcsum`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum TunnelChecksum {
    /// No checksum.
    #[default]
    None,
    /// Checksum over the outer datagram.
    Full,
    /// Remote checksum offload (GUE only).
    Remote,
}

/// A virtual service as configured.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Service {
    /// What identifies it.
    pub key: ServiceKey,
    /// Scheduler name, `wlc` by default.
    pub scheduler: String,
    /// Scheduler flags: bit 0 `flag-1`, bit 1 `flag-2`, bit 2 `flag-3` (`-b`).
    pub scheduler_flags: u8,
    /// Persistence time-out in seconds (`-p`), absent when not persistent.
    pub persistent: Option<u32>,
    /// Persistence granularity (`-M`): an IPv4 mask in host order, or an IPv6 prefix length.
    pub netmask: u32,
    /// One-packet scheduling (`-o`).
    pub one_packet: bool,
    /// Persistence engine (`--pe`).
    pub engine: Option<String>,
}

/// A real server as configured.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Server {
    /// Address of the real server.
    pub address: IpAddr,
    /// Port in host order.
    pub port: u16,
    /// Forwarding method.
    pub forwarding: Forwarding,
    /// Weight, 0 = quiesced; at most `i32::MAX`.
    pub weight: u32,
    /// Upper connection threshold (`-x`), 0 = none.
    pub upper: u32,
    /// Lower connection threshold (`-y`), 0 = three quarters of the upper one.
    pub lower: u32,
}

/// A local address of a service (`-P`): what FULLNAT puts in place of the client's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// Port (`-F`) whose TAP twin holds the address; absent: the one that the service's servers are routed
    /// through.
    pub interface: Option<String>,
}

/// How the FULLNAT servers of a service learn the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ClientAddress {
    /// They don't: they see a local address.
    #[default]
    None,
    /// By a TCP option of kind 254, as DPVS and LVS FULLNAT write it.
    Toa,
    /// By a line of text before the stream: PROXY protocol, version 1.
    #[serde(rename = "proxy-v1")]
    ProxyV1,
    /// By a binary header before the stream or each datagram: PROXY protocol, version 2.
    #[serde(rename = "proxy-v2")]
    ProxyV2,
}

/// What `-m` (masquerading) means: how a server that is added so is forwarded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Masquerade {
    /// NAT, as in IPVS.
    #[default]
    Nat,
    /// FULLNAT.
    FullNat,
}

impl Masquerade {
    /// The forwarding method.
    #[must_use]
    pub fn forwarding(self) -> Forwarding {
        match self {
            Self::Nat => Forwarding::Nat,
            Self::FullNat => Forwarding::FullNat,
        }
    }
}

/// What `-m` means to each service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct MasqueradeSettings {
    /// To services that say nothing of their own: `[ipvs] masquerade` of the gateway.
    pub default: Masquerade,
    /// To those that do.
    pub services: Vec<(ServiceKey, Masquerade)>,
}

/// What a persistence engine matched, for `-Lc --persistent-conn`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct EngineData {
    /// Engine name, `sip`.
    pub name: String,
    /// The matched data, a call-id.
    pub data: String,
}

/// The time-outs that `--set` sets and `-L --timeout` shows, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Timeouts {
    /// Of established TCP sessions.
    pub tcp: u32,
    /// Of TCP sessions that are being closed (FIN_WAIT).
    pub tcp_fin: u32,
    /// Of UDP sessions.
    pub udp: u32,
}

/// A rule that gives packets a mark, for firewall-mark services (`-f`): a packet gets the mark of the first
/// rule to which everything that is given applies. Where rules overlap the lower priority comes first, then
/// the one that was added first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct MarkRule {
    /// The mark, never 0.
    pub mark: u32,
    /// Order among the rules, the lowest first.
    pub priority: u32,
    /// Transport protocol; absent: every one.
    pub protocol: Option<Protocol>,
    /// Network of the sources.
    pub source: Option<(IpAddr, u8)>,
    /// Network of the destinations.
    pub destination: Option<(IpAddr, u8)>,
    /// First and last source port, host order.
    pub source_ports: Option<(u16, u16)>,
    /// First and last destination port, host order.
    pub destination_ports: Option<(u16, u16)>,
    /// Name of the port that they arrive on.
    pub port: Option<String>,
}

/// As operators write it: `tcp/192.0.2.10:80`, `mark/7`, `mark6/7`.
impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Address { protocol, address, port } => {
                write!(f, "{}/{}", protocol.name(), SocketAddr::new(address, port))
            }
            Self::Mark { mark, family: Family::V4 } => write!(f, "mark/{mark}"),
            Self::Mark { mark, family: Family::V6 } => write!(f, "mark6/{mark}"),
        }
    }
}

impl Protocol {
    /// As operators write it: `tcp`, `udp`, `sctp`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl ServiceKey {
    /// Family of the packets that the service takes.
    #[must_use]
    pub fn family(&self) -> Family {
        match self {
            Self::Address { address: IpAddr::V4(_), .. } => Family::V4,
            Self::Address { address: IpAddr::V6(_), .. } => Family::V6,
            Self::Mark { family, .. } => *family,
        }
    }
}
