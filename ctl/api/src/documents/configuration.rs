//! The configuration as `weirctl export` prints it and `weirctl apply` takes it. Keys are those of the TOML file.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::parts::Method;
use crate::model::{ClientAddress, Family, Masquerade, Protocol, TunnelChecksum, TunnelKind};

/// `weirctl export`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Export {
    /// Generation of the configuration.
    pub generation: u64,
    /// SNAT rules.
    pub snat: Vec<SnatEntry>,
    /// Time-outs.
    pub timeouts: TimeoutsEntry,
    /// Services.
    pub service: Vec<ServiceEntry>,
    /// Mark rules; absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mark: Vec<MarkEntry>,
}

/// Time-outs in seconds; 0 or absent leaves one alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TimeoutsEntry {
    /// Of established TCP sessions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tcp: u32,
    /// Of TCP sessions that are being closed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tcp_fin: u32,
    /// Of UDP sessions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub udp: u32,
}

/// A virtual service with its servers, `S`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "schema", schemars(rename = "ServiceEntry"))]
pub struct ServiceEntry<S = ServerEntry> {
    /// Transport protocol; together with `address`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Virtual address and port; port 0 stands for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<AddressPort>,
    /// Firewall mark, instead of protocol and address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// Family of the packets with the mark; absent: IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Scheduler.
    #[serde(default = "wlc")]
    pub scheduler: String,
    /// Its flags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scheduler_flags: Vec<Flag>,
    /// Persistence time-out in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistent: Option<u32>,
    /// Persistence granularity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netmask: Option<Mask>,
    /// One-packet scheduling.
    #[serde(default, skip_serializing_if = "is_default")]
    pub one_packet: bool,
    /// Persistence engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// How FULLNAT servers learn the client's address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_address: ClientAddress,
    /// What `-m` means to it; absent: what the gateway's configuration says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<Masquerade>,
    /// Local addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_addresses: Vec<LocalEntry>,
    /// Real servers.
    #[serde(default = "Vec::<S>::new", skip_serializing_if = "Vec::is_empty")]
    pub server: Vec<S>,
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ServerEntry {
    /// Address and port; without port it is the service's.
    pub address: AddressPort,
    /// Forwarding method.
    pub method: Method,
    /// The tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelEntry>,
    /// Weight; absent: 1.
    #[serde(default = "one")]
    pub weight: u32,
    /// Upper connection threshold; 0 = none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub upper: u32,
    /// Lower connection threshold; 0 = three quarters of the upper one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lower: u32,
}

/// The tunnel of a server whose method is one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TunnelEntry {
    /// Encapsulation.
    pub kind: TunnelKind,
    /// UDP port of GUE.
    #[serde(default, skip_serializing_if = "is_default")]
    pub port: u16,
    /// Checksum of GUE and GRE.
    #[serde(default)]
    pub checksum: TunnelChecksum,
}

/// A scheduler flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Flag {
    /// Bit 0.
    #[serde(rename = "flag-1", alias = "sh-fallback", alias = "mh-fallback")]
    One,
    /// Bit 1.
    #[serde(rename = "flag-2", alias = "sh-port", alias = "mh-port")]
    Two,
    /// Bit 2.
    #[serde(rename = "flag-3")]
    Three,
}

/// A netmask: dotted for IPv4, a prefix length for IPv6.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Mask {
    /// Dotted.
    V4(Ipv4Addr),
    /// A prefix length.
    V6(u32),
}

/// A local address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "an address, or a table with address and port (the name of a port)")]
pub enum LocalEntry {
    /// At the port that the service's servers are routed through.
    Address(IpAddr),
    /// At another port.
    AtPort(LocalTable),
}

/// A local address at a port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LocalTable {
    /// The address.
    pub address: IpAddr,
    /// Name of the port.
    pub port: String,
}

/// A mark rule. What is absent says nothing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MarkEntry {
    /// The mark.
    pub mark: MarkNumber,
    /// Order among the rules, the lowest first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: u32,
    /// Transport protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Network of the sources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Network of the destinations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Source ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<Ports>,
    /// Destination ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_ports: Option<Ports>,
    /// Name of the port that packets arrive on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// A mark.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a mark: a number, or \"0x7\"")]
pub enum MarkNumber {
    /// A number.
    Plain(u32),
    /// `0x7`
    Written(String),
}

/// A port, or a range of ports.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a port, or \"FIRST-LAST\"")]
pub enum Ports {
    /// One port.
    One(u16),
    /// `FIRST-LAST`
    Range(String),
}

/// A SNAT rule. What is absent is as with `snat add`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SnatEntry {
    /// Its name.
    pub name: String,
    /// The inside network.
    pub inside: String,
    /// Name of the port that leads outside.
    pub port: String,
    /// External addresses.
    pub pool: SnatPool,
    /// `tcp`, `udp` or `icmp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Networks that are left alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// `endpoint-independent` or `address-and-port-dependent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapping: Option<String>,
    /// Likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filtering: Option<String>,
    /// `paired` or `arbitrary`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<String>,
    /// Most external ports of one inside address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ports: Option<u32>,
    /// Most sessions of one inside address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
    /// How long sessions last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<SnatTimeoutsEntry>,
}

/// External addresses of a SNAT rule.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "\"port\", an address, a range of addresses, or a list of these")]
pub enum SnatPool {
    /// `port`, the port's own address; an address, or a range of addresses.
    One(String),
    /// Several of these.
    Several(Vec<String>),
}

/// Time-outs of a SNAT rule in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SnatTimeoutsEntry {
    /// UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<u32>,
    /// UDP to port 53.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<u32>,
    /// TCP between handshake and FIN or RST.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_established: Option<u32>,
    /// TCP before and after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_transitory: Option<u32>,
    /// ICMP echo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<u32>,
}

/// An address with or without port: `10.0.0.1`, `10.0.0.1:80`, `[2001:db8::1]:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPort(pub IpAddr, pub Option<u16>);

impl fmt::Display for AddressPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(port) => SocketAddr::new(self.0, port).fmt(f),
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for AddressPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(both) = text.parse::<SocketAddr>() {
            return Ok(Self(both.ip(), Some(both.port())));
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse() {
            return Ok(Self(address, None));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if host.parse::<IpAddr>().is_ok() => {
                Err(format!("{port} isn't a port: 0 to 65535"))
            }
            _ => Err(format!("{text} isn't an address, ADDRESS:PORT or [V6ADDRESS]:PORT")),
        }
    }
}

impl<'de> Deserialize<'de> for AddressPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for AddressPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for AddressPort {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "ADDRESS:PORT, IPv6 addresses in brackets" })
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn wlc() -> String {
    "wlc".into()
}

fn one() -> u32 {
    1
}
