//! Mark rules, SNAT rules, how servers learn the client's address, what `-m` means, local addresses: listed, or that they
//! were changed.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{change::Changed, parts::network};
use crate::model::{
    ClientAddress, MarkRule, Masquerade, Protocol, ServiceKey,
    snat::{Dependence, Kind, Pooling, SnatRow, SnatTimeouts},
};

/// `weirctl mark`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Marks {
    /// `list`
    List {
        /// In the order in which they are tried.
        rules: Vec<Mark>,
    },
    /// The others.
    Changed(Changed),
}

/// A mark rule. What isn't given says nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Mark {
    /// The mark.
    pub mark: u32,
    /// Order among the rules, the lowest first.
    pub priority: u32,
    /// Transport protocol.
    pub protocol: Option<Protocol>,
    /// `ADDRESS/BITS` of the sources.
    pub source: Option<String>,
    /// `ADDRESS/BITS` of the destinations.
    pub destination: Option<String>,
    /// First and last source port.
    pub source_ports: Option<(u16, u16)>,
    /// First and last destination port.
    pub destination_ports: Option<(u16, u16)>,
    /// Name of the port that packets arrive on.
    pub port: Option<String>,
}

/// `weirctl client-address`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum ClientAddresses {
    /// Without arguments.
    List {
        /// Services whose servers learn the client's address.
        services: Vec<ServiceClientAddress>,
    },
    /// With them.
    Changed(Changed),
}

/// How a service's servers learn the client's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServiceClientAddress {
    /// Name of the service.
    pub service: String,
    /// How.
    pub client_address: ClientAddress,
}

/// `weirctl masquerade`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Masquerades {
    /// Without arguments.
    List {
        /// What `-m` means to all other services: the gateway's setting.
        default: Masquerade,
        /// Services with a setting of their own.
        services: Vec<ServiceMasquerade>,
    },
    /// With them.
    Changed(Changed),
}

/// What `-m` means to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServiceMasquerade {
    /// Name of the service.
    pub service: String,
    /// What it means.
    pub masquerade: Masquerade,
}

/// `weirctl local-address`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum LocalAddresses {
    /// `list`
    List {
        /// Services that have any.
        services: Vec<ServiceLocalAddresses>,
    },
    /// The others.
    Changed(Changed),
}

/// A service's local addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServiceLocalAddresses {
    /// Name of the service.
    pub service: String,
    /// The addresses.
    pub local_addresses: Vec<UsedLocalAddress>,
}

/// A local address and its use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UsedLocalAddress {
    /// The address.
    pub address: IpAddr,
    /// Name of the port whose TAP twin holds it.
    pub port: Option<String>,
    /// Whether it is a default local address, used because the service has none of its own.
    #[serde(default)]
    pub default: bool,
    /// Ports in use over all servers.
    pub used: u32,
    /// Ports in use towards the server with the most of them.
    pub busiest: u32,
    /// Ports there are towards each server; `null` while none has been used.
    pub ports: Option<u32>,
}

/// `weirctl snat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Snat {
    /// `list`
    List {
        /// In the order in which they were added.
        rules: Vec<SnatRule>,
    },
    /// The others.
    Changed(Changed),
}

/// A SNAT rule with what it has counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SnatRule {
    /// Its name.
    pub name: String,
    /// `ADDRESS/BITS` of the inside network.
    pub inside: String,
    /// Name of the port that leads outside.
    pub port: String,
    /// External addresses.
    pub pool: Pool,
    /// Only packets of this protocol.
    pub protocol: Option<Kind>,
    /// `ADDRESS/BITS` of destinations that are left alone.
    pub except: Vec<String>,
    /// How mappings come about.
    pub mapping: Dependence,
    /// Whom a mapping lets in.
    pub filtering: Dependence,
    /// Which external address an inside address gets.
    pub pooling: Pooling,
    /// Most external ports of one inside address.
    pub max_ports: u32,
    /// Most sessions of one inside address; 0 is no limit.
    pub max_sessions: u32,
    /// How long sessions last, in seconds.
    pub timeouts: SnatTimeouts,
    /// Sessions there are.
    pub sessions: u32,
    /// Sessions there have been.
    pub sessions_opened: u64,
    /// Packets from inside.
    pub packets_out: u64,
    /// Packets from outside.
    pub packets_in: u64,
    /// Bytes from inside.
    pub bytes_out: u64,
    /// Bytes from outside.
    pub bytes_in: u64,
}

/// A rule's external addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Pool {
    /// The outside port's own: `port`.
    Own(OwnAddress),
    /// First and last of each range.
    Ranges(Vec<(IpAddr, IpAddr)>),
}

/// The outside port's own address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OwnAddress {
    /// `port`
    Port,
}

impl From<&MarkRule> for Mark {
    fn from(rule: &MarkRule) -> Self {
        Self {
            mark: rule.mark,
            priority: rule.priority,
            protocol: rule.protocol,
            source: rule.source.map(network),
            destination: rule.destination.map(network),
            source_ports: rule.source_ports,
            destination_ports: rule.destination_ports,
            port: rule.port.clone(),
        }
    }
}

impl From<&(ServiceKey, ClientAddress)> for ServiceClientAddress {
    fn from((key, how): &(ServiceKey, ClientAddress)) -> Self {
        Self { service: key.to_string(), client_address: *how }
    }
}

impl From<&(ServiceKey, Masquerade)> for ServiceMasquerade {
    fn from((key, how): &(ServiceKey, Masquerade)) -> Self {
        Self { service: key.to_string(), masquerade: *how }
    }
}

impl From<&SnatRow> for SnatRule {
    fn from(row: &SnatRow) -> Self {
        let SnatRow { rule, sessions, stats, .. } = row;
        let pool =
            if rule.masquerade { Pool::Own(OwnAddress::Port) } else { Pool::Ranges(rule.pool.clone()) };
        Self {
            name: rule.name.clone(),
            inside: network(rule.inside),
            port: rule.port.clone(),
            pool,
            protocol: rule.protocol,
            except: rule.except.iter().copied().map(network).collect(),
            mapping: rule.mapping,
            filtering: rule.filtering,
            pooling: rule.pooling,
            max_ports: rule.max_ports,
            max_sessions: rule.max_sessions,
            timeouts: rule.timeouts,
            sessions: *sessions,
            sessions_opened: stats.connections,
            packets_out: stats.in_packets,
            packets_in: stats.out_packets,
            bytes_out: stats.in_bytes,
            bytes_in: stats.out_bytes,
        }
    }
}
