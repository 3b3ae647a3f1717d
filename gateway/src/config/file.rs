//! The configuration file's shape: every key with its default. Unknown keys are errors.
//!
//! What is written here is what serde can judge by itself: names, types and the syntax of values. Whether
//! values fit each other and the machine is judged in [`super::check`].

use std::{collections::BTreeMap, fmt::Display, net::IpAddr, ops::Range, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error as _};
use toml::de::{DeTable, DeValue};
use weir_api::model::Masquerade;

use super::{
    Idle, LocalAddresses, Mac, SessionSettings,
    device::Device,
    local_defaults::{self, AddressRange},
};
use crate::{
    io::PortId,
    path::{
        flow::behind::RpFilter,
        settings::{Settings, StateTimeouts},
    },
    prefix::Prefix,
};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    /// `socket`: where `weirctl` reaches the gateway. Default `/run/weir/weir.sock`.
    pub socket: PathBuf,
    /// `socket_group`: the group that may use the socket, by name or number. Default: the gateway's own group.
    pub socket_group: Option<String>,
    /// `socket_mode`: the mode of the socket's file, as chmod takes it. Default `"0660"`.
    #[serde(deserialize_with = "mode")]
    pub socket_mode: u32,
    /// `read_socket`: a second socket, by which everybody may only look. Default: none.
    pub read_socket: Option<PathBuf>,
    /// `read_socket_group`: the group that may use that one, by name or number. Default: the gateway's own group.
    pub read_socket_group: Option<String>,
    /// `workers`: how many lcores forward, placed on the CPUs the process may use. Default 1; not with `cores`.
    pub workers: Option<u16>,
    /// `cores`: the CPUs of the workers, one each. Default: none, `workers` counts.
    pub cores: Option<Vec<u16>>,
    /// `rules`: a file as `weirctl -S` prints it, loaded before the first packet; a relative path starts at
    /// the configuration file's directory. Default: no rules.
    pub rules: Option<PathBuf>,
    /// `host`: TAP twins and the netlink mirror. Default true.
    pub host: bool,
    /// `host_namespace`: network namespace of twins and netlink. Default: the process's own.
    pub host_namespace: Option<PathBuf>,
    /// `idle`: `"poll"` or `"backoff"`. Default `"backoff"`, unless all the workers' `cores` are isolated.
    pub idle: Option<Idle>,
    /// `eal`: arguments for DPDK, passed as they are. Default: none.
    pub eal: Vec<String>,
    /// `[ipvs]`.
    pub ipvs: Ipvs,
    /// `[timeouts]`.
    pub timeouts: TimeoutsShape,
    /// `[sessions]`.
    pub sessions: SessionsShape,
    /// `[local_addresses]`.
    pub local_addresses: LocalAddressesShape,
    /// `[[port]]`: at least one.
    pub port: Vec<PortSection>,
    /// `[[route]]`: static routes. Default: none.
    pub route: Vec<RouteSection>,
    /// `[[neighbour]]`: static neighbours. Default: none.
    pub neighbour: Vec<NeighbourSection>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            socket: "/run/weir/weir.sock".into(),
            socket_group: None,
            socket_mode: 0o660,
            read_socket: None,
            read_socket_group: None,
            workers: None,
            cores: None,
            rules: None,
            host: true,
            host_namespace: None,
            idle: None,
            eal: Vec::new(),
            ipvs: Ipvs::default(),
            timeouts: TimeoutsShape::default(),
            sessions: SessionsShape::default(),
            local_addresses: LocalAddressesShape::default(),
            port: Vec::new(),
            route: Vec::new(),
            neighbour: Vec::new(),
        }
    }
}

/// `[ipvs]`: sysctls of IPVS, with the kernel's names and defaults, and how masquerading is done.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ipvs {
    /// Default 1.
    conn_reuse_mode: Option<u32>,
    /// Default false.
    expire_nodest_conn: Option<bool>,
    /// Default false.
    expire_quiescent_template: Option<bool>,
    /// Default false.
    sloppy_tcp: Option<bool>,
    sloppy_sctp: Option<bool>,
    /// Seconds. Default 86400.
    lblc_expiration: Option<u32>,
    /// Seconds. Default 86400.
    lblcr_expiration: Option<u32>,
    /// Default false.
    nat_strict_tcp: Option<bool>,
    /// What `-m` means to services that say nothing of their own: `"nat"` or `"fullnat"`. Default `"nat"`.
    pub masquerade: Masquerade,
}

/// `[timeouts]`: seconds a session stays in each state; defaults are IPVS's, as in [`StateTimeouts`].
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TimeoutsShape {
    none: Option<u32>,
    established: Option<u32>,
    syn_sent: Option<u32>,
    syn_recv: Option<u32>,
    fin_wait: Option<u32>,
    time_wait: Option<u32>,
    close: Option<u32>,
    close_wait: Option<u32>,
    last_ack: Option<u32>,
    listen: Option<u32>,
    synack: Option<u32>,
    udp: Option<u32>,
}

impl File {
    /// Settings of the path: what the file says, IPVS's defaults for the rest.
    pub fn settings(&self) -> Settings {
        let (i, t) = (&self.ipvs, &self.timeouts);
        let d = Settings::default();
        let dt = d.timeouts;
        Settings {
            conn_reuse_mode: i.conn_reuse_mode.unwrap_or(d.conn_reuse_mode),
            expire_nodest_conn: i.expire_nodest_conn.unwrap_or(d.expire_nodest_conn),
            expire_quiescent_template: i.expire_quiescent_template.unwrap_or(d.expire_quiescent_template),
            sloppy_tcp: i.sloppy_tcp.unwrap_or(d.sloppy_tcp),
            sloppy_sctp: i.sloppy_sctp.unwrap_or(d.sloppy_sctp),
            lblc_expiration: i.lblc_expiration.unwrap_or(d.lblc_expiration),
            lblcr_expiration: i.lblcr_expiration.unwrap_or(d.lblcr_expiration),
            nat_strict_tcp: i.nat_strict_tcp.unwrap_or(d.nat_strict_tcp),
            timeouts: StateTimeouts {
                none: t.none.unwrap_or(dt.none),
                established: t.established.unwrap_or(dt.established),
                syn_sent: t.syn_sent.unwrap_or(dt.syn_sent),
                syn_recv: t.syn_recv.unwrap_or(dt.syn_recv),
                fin_wait: t.fin_wait.unwrap_or(dt.fin_wait),
                time_wait: t.time_wait.unwrap_or(dt.time_wait),
                close: t.close.unwrap_or(dt.close),
                close_wait: t.close_wait.unwrap_or(dt.close_wait),
                last_ack: t.last_ack.unwrap_or(dt.last_ack),
                listen: t.listen.unwrap_or(dt.listen),
                synack: t.synack.unwrap_or(dt.synack),
                udp: t.udp.unwrap_or(dt.udp),
            },
        }
    }
}

/// `[sessions]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SessionsShape {
    /// Sessions a worker holds at most. Default 1048576.
    pub max_per_worker: u32,
    /// Whether their memory is provided at start. Default true.
    prefault: bool,
    /// Seed of the hash key, for repeatable runs. Default: random.
    seed: Option<u64>,
}

impl Default for SessionsShape {
    fn default() -> Self {
        Self { max_per_worker: 1 << 20, prefault: true, seed: None }
    }
}

impl SessionsShape {
    pub const fn into_sessions(self) -> SessionSettings {
        SessionSettings { max_per_worker: self.max_per_worker, prefault: self.prefault, seed: self.seed }
    }
}

/// `[local_addresses]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LocalAddressesShape {
    /// First port of a local address given to a session. Default 1024.
    pub first_port: u16,
    /// Last one. Default 65535.
    pub last_port: u16,
    /// Local addresses of services that have none of their own: addresses and ranges. Default: none.
    #[serde(deserialize_with = "local_defaults::ranges")]
    pub default: Vec<AddressRange>,
}

impl Default for LocalAddressesShape {
    fn default() -> Self {
        Self { first_port: 1024, last_port: u16::MAX, default: Vec::new() }
    }
}

impl LocalAddressesShape {
    pub fn into_local_addresses(self) -> LocalAddresses {
        LocalAddresses { first_port: self.first_port, last_port: self.last_port }
    }
}

/// `[[port]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PortSection {
    /// Name of the port and its TAP twin. Required.
    pub name: String,
    /// PCI address or virtual device. Required.
    #[serde(deserialize_with = "device")]
    pub device: Device,
    /// IEEE 802.1Q tag of the port's frames, 1 to 4094. Default: none. Several ports may share a device, each
    /// with a VLAN of its own there and one without.
    #[serde(default)]
    pub vlan: Option<u16>,
    /// Addresses of the port, put on the twin. Default: none.
    #[serde(default, deserialize_with = "prefixes")]
    pub addresses: Vec<Prefix>,
    /// What the routes must say of the source of a packet that opens a session: `strict`, `loose` or `off`. Default
    /// strict.
    #[serde(default)]
    pub rp_filter: RpFilter,
    /// Bytes of an IP packet. Default: what the device has.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Buffers of the port. Default 16384.
    #[serde(default = "default_mbufs")]
    pub mbufs: u32,
    /// Receive descriptors a queue. Default 1024.
    #[serde(default = "default_descriptors")]
    pub rx_desc: u16,
    /// Transmit descriptors a queue. Default 1024.
    #[serde(default = "default_descriptors")]
    pub tx_desc: u16,
}

const fn default_mbufs() -> u32 {
    16384
}

const fn default_descriptors() -> u16 {
    1024
}

/// `[[route]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteSection {
    /// Destination. Required.
    #[serde(deserialize_with = "prefix")]
    pub to: Prefix,
    /// Gateway. Default: the destination is on the link.
    pub via: Option<IpAddr>,
    /// Name of the port. Required.
    pub port: String,
    /// Bytes of an IP packet. Default: what the port has.
    pub mtu: Option<u16>,
}

/// `[[neighbour]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NeighbourSection {
    /// IP address. Required.
    pub address: IpAddr,
    /// Hardware address. Required.
    #[serde(deserialize_with = "mac")]
    pub mac: Mac,
    /// Name of the port. Required.
    pub port: String,
}

fn text<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777 && !text.starts_with('+'));
    mode.ok_or_else(|| D::Error::custom(format!("`{text}` isn't a mode: octal digits, 0000 to 0777")))
}

fn device<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Device, D::Error> {
    text(deserializer)
}

fn prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Prefix, D::Error> {
    text(deserializer)
}

fn mac<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
    text(deserializer)
}

fn prefixes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Prefix>, D::Error> {
    #[derive(Deserialize)]
    struct Item(#[serde(deserialize_with = "prefix")] Prefix);
    Ok(Vec::<Item>::deserialize(deserializer)?.into_iter().map(|Item(p)| p).collect())
}

/// Where each key stands: `"workers"`, `"port[1].device"`, `"port[1].addresses[0]"`.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyPositions(BTreeMap<String, KeyPosition>);

#[derive(Clone, Debug)]
struct KeyPosition {
    /// Line, counted from 1.
    line: usize,
    /// Bytes of the value.
    value: Range<usize>,
}

impl KeyPositions {
    /// Walks the document; empty if it doesn't parse.
    pub fn new(text: &str) -> Self {
        let mut lines = Self::default();
        if let Ok(document) = DeTable::parse(text) {
            lines.table(text, "", document.get_ref());
        }
        lines
    }

    /// The key's line, counted from 1.
    pub fn of(&self, key: &str) -> Option<usize> {
        self.0.get(key).map(|p| p.line)
    }

    /// The key whose value, and no part of it, is the bytes `span`; without the indices of a list.
    pub fn key_of(&self, span: &Range<usize>) -> Option<&str> {
        let (key, _) = self.0.iter().find(|(_, place)| place.value == *span)?;
        key.trim_end_matches(']')
            .trim_end_matches(|c: char| c.is_ascii_digit())
            .trim_end_matches('[')
            .rsplit('.')
            .next()
    }

    fn table(&mut self, text: &str, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let dot = if prefix.is_empty() { "" } else { "." };
            let name = format!("{prefix}{dot}{}", key.get_ref());
            let place = KeyPosition { line: line_at(text, key.span().start), value: value.span() };
            self.0.insert(name.clone(), place);
            self.value(text, &name, value.get_ref());
        }
    }

    fn value(&mut self, text: &str, name: &str, value: &DeValue<'_>) {
        match value {
            DeValue::Table(table) => self.table(text, name, table),
            DeValue::Array(items) => {
                for (n, item) in items.iter().enumerate() {
                    let name = format!("{name}[{n}]");
                    let place = KeyPosition { line: line_at(text, item.span().start), value: item.span() };
                    self.0.insert(name.clone(), place);
                    self.value(text, &name, item.get_ref());
                }
            }
            _ => {}
        }
    }
}

/// The line, counted from 1, that byte `offset` of `text` is on.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()
}

/// The port called `name`, as a number.
pub(super) fn port_id(ports: &[PortSection], name: &str) -> Option<PortId> {
    ports.iter().position(|p| p.name == name).and_then(|n| u8::try_from(n).ok()).map(PortId)
}

/// Every key, for the test that the sample configuration shows them all.
#[cfg(test)]
pub(super) const KEYS: &[&str] = &[
    "socket",
    "socket_group",
    "socket_mode",
    "read_socket",
    "read_socket_group",
    "workers",
    "cores",
    "rules",
    "host",
    "host_namespace",
    "idle",
    "eal",
    "conn_reuse_mode",
    "expire_nodest_conn",
    "expire_quiescent_template",
    "sloppy_tcp",
    "sloppy_sctp",
    "lblc_expiration",
    "lblcr_expiration",
    "nat_strict_tcp",
    "masquerade",
    "none",
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "synack",
    "udp",
    "max_per_worker",
    "prefault",
    "seed",
    "first_port",
    "last_port",
    "default",
    "name",
    "device",
    "addresses",
    "vlan",
    "rp_filter",
    "mtu",
    "mbufs",
    "rx_desc",
    "tx_desc",
    "to",
    "via",
    "port",
    "address",
    "mac",
];
