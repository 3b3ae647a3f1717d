//! The gateway's configuration file: read, validated, and handed to `main` as [`Config`].
//!
//! Three steps: `file` knows the keys, their defaults and the syntax of values; [`Config::parse`] also
//! makes sure that they fit each other; [`check()`] compares the result with the machine. Every complaint
//! carries file, line and reason.
//!
//! `docs/weir.toml` shows every key with its default.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use nix::unistd::Group;
use serde::Deserialize;
use weir_api::model::Masquerade;

mod capacity;
pub mod check;
mod consistency;
pub mod device;
mod file;
mod local_defaults;
mod machine;
mod reach;
pub mod text;

pub use check::{Warning, check};
pub use device::{Bus, Device};
pub use machine::examine;

pub use crate::mac::Mac;
use crate::{
    control::{server::SocketPermissions, store::ServiceDefaults},
    io::PortId,
    path::{flow::behind::RpFilter, settings::Settings},
    prefix::Prefix,
};

/// Something wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file: the configuration, or the rules it names.
    pub file: PathBuf,
    /// Line, counted from 1, where one is to blame.
    pub line: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.line {
            Some(line) => write!(f, "{file}:{line}: {}", self.reason),
            None => write!(f, "{file}: {}", self.reason),
        }
    }
}

/// Everything wrong with the configuration, never empty; one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// What a worker does when there is nothing to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Polls on: lowest latency, a whole CPU.
    Poll,
    /// Sleeps a little after some empty polls.
    Backoff,
}

/// Where the workers run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// This many, on the CPUs that the process may use.
    Count(u16),
    /// One on each of these CPUs.
    Cores(Vec<u16>),
}

impl Placement {
    /// How many there are, at least 1.
    #[must_use]
    pub fn count(&self) -> u16 {
        match self {
            Self::Count(n) => *n,
            Self::Cores(cores) => cores.len().try_into().unwrap_or(u16::MAX),
        }
    }
}

/// `[sessions]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionSettings {
    /// Sessions a worker holds at most, at least 1.
    pub max_per_worker: u32,
    /// Whether the kernel provides their memory at start rather than when it's first used.
    pub prefault: bool,
    /// Seed of the hash key; random when absent.
    pub seed: Option<u64>,
}

/// `[local_addresses]`: the ports of every local address that sessions may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddresses {
    /// First port, host order, at least 1.
    pub first_port: u16,
    /// Last port, host order, not below the first.
    pub last_port: u16,
}

/// `[[port]]`; its [`PortId`] is its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name, unique; also that of the TAP twin.
    pub name: String,
    /// Device; several ports may share one, each with another `vlan`.
    pub device: Device,
    /// IEEE 802.1Q tag of its frames, 1 to 4094.
    pub vlan: Option<u16>,
    /// Addresses of the port, put on the twin; without twins (`host = false`) they say which networks are
    /// attached.
    pub addresses: Vec<Prefix>,
    /// What the routes must say of the source of a packet that opens a session.
    pub rp_filter: RpFilter,
    /// Bytes of an IP packet; the device's own when absent.
    pub mtu: Option<u16>,
    /// Buffers in the port's pool.
    pub mbufs: u32,
    /// Receive descriptors a queue.
    pub rx_desc: u16,
    /// Transmit descriptors a queue.
    pub tx_desc: u16,
}

/// `[[route]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfiguredRoute {
    /// Destination network, host bits clear.
    pub to: Prefix,
    /// Gateway, of the same family; the destination is on the link when absent.
    pub via: Option<IpAddr>,
    /// Port.
    pub port: PortId,
    /// Bytes of an IP packet, where the path behind has room for fewer than the port.
    pub mtu: Option<u16>,
}

/// `[[neighbour]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticNeighbour {
    /// IP address.
    pub address: IpAddr,
    /// Hardware address, unicast.
    pub mac: Mac,
    /// Port.
    pub port: PortId,
}

/// A configuration whose parts fit each other; whether it fits the machine is [`check()`]'s business.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// Path of the control socket.
    pub socket: PathBuf,
    /// Group of the control socket, by name or number, if not the gateway's own.
    pub socket_group: Option<String>,
    /// Mode of the control socket, 0 to 0o777.
    pub socket_mode: u32,
    /// Path of the socket by which everybody may only look, if there is to be one.
    pub read_socket: Option<PathBuf>,
    /// Its group, by name or number, if not the gateway's own.
    pub read_socket_group: Option<String>,
    /// The workers.
    pub workers: Placement,
    /// File of rules to load before the first packet; relative paths are resolved against the
    /// configuration file's directory.
    pub rules: Option<PathBuf>,
    /// TAP twins and netlink mirror.
    pub host: bool,
    /// Network namespace of twins and netlink, if not the process's own.
    pub host_namespace: Option<PathBuf>,
    /// What idle workers do, if the file says so: see [`Config::idle`].
    pub idle: Option<Idle>,
    /// Arguments for DPDK.
    pub eal: Vec<String>,
    /// `[ipvs]` and `[timeouts]`.
    pub settings: Settings,
    /// `[ipvs] masquerade`.
    pub masquerade: Masquerade,
    /// `[local_addresses] default`, each once, usable by sessions, at most
    /// [`MAX_LOCAL_ADDRESSES`](weir_api::protocol::MAX_LOCAL_ADDRESSES).
    pub default_local_addresses: Vec<IpAddr>,
    /// `[sessions]`.
    pub sessions: SessionSettings,
    /// `[local_addresses]`.
    pub local_addresses: LocalAddresses,
    /// `[[port]]`, at least one, at most [`MAX_PORTS`].
    pub ports: Vec<Port>,
    /// `[[route]]`.
    pub routes: Vec<ConfiguredRoute>,
    /// `[[neighbour]]`.
    pub neighbours: Vec<StaticNeighbour>,
    lines: file::KeyPositions,
}

/// Ports that DPDK as Debian builds it can have (`RTE_MAX_ETHPORTS`).
pub const MAX_PORTS: usize = 32;
/// Workers there may be: DPDK's lcores (`RTE_MAX_LCORE`) less the main one.
pub const MAX_WORKERS: u16 = 127;

impl Config {
    /// Reads the file at `path` and validates it.
    ///
    /// # Errors
    /// The file can't be read, isn't TOML, has unknown keys or bad values, or values that don't fit each
    /// other.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let text = text::read(path).map_err(|e| {
            let reason = format!("can't be read: {e}");
            ConfigErrors(vec![ConfigError { file: path.to_owned(), line: None, reason }])
        })?;
        Self::parse(&text, path)
    }

    /// Validates `text`, the contents of `path`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigErrors> {
        let lines = file::KeyPositions::new(text);
        let file: file::File = toml::from_str(text).map_err(|e| {
            let line = e.span().map(|s| file::line_at(text, s.start));
            let mut reason = e.message().trim_end().replace('\n', "; ");
            if let Some(key) = e.span().as_ref().and_then(|s| lines.key_of(s)) {
                reason = format!("{key}: {reason}");
            }
            ConfigErrors(vec![ConfigError { file: path.to_owned(), line, reason }])
        })?;
        consistency::validate(file, lines, path)
    }

    /// For whom the control socket is.
    ///
    /// # Errors
    /// There is no such group.
    pub fn socket_permissions(&self) -> Result<SocketPermissions, String> {
        let group = self.socket_group.as_deref().map(gid).transpose()?;
        Ok(SocketPermissions { mode: self.socket_mode, group })
    }

    /// For whom the socket is by which everybody may only look: its owner and its group.
    ///
    /// # Errors
    /// There is no such group.
    pub fn read_socket_permissions(&self) -> Result<SocketPermissions, String> {
        let group = self.read_socket_group.as_deref().map(gid).transpose()?;
        Ok(SocketPermissions { mode: 0o660, group })
    }

    /// What services have that say nothing of their own.
    #[must_use]
    pub fn service_defaults(&self) -> ServiceDefaults {
        let local_addresses = self.default_local_addresses.as_slice().into();
        ServiceDefaults { masquerade: self.masquerade, local_addresses }
    }

    /// The port called `name`.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<PortId> {
        let n = self.ports.iter().position(|p| p.name == name)?;
        u8::try_from(n).ok().map(PortId)
    }

    /// What idle workers do: what the file says, else polling if every worker has an isolated CPU of its
    /// own (they were set apart for this), else backing off.
    #[must_use]
    pub fn idle(&self) -> Idle {
        self.idle.unwrap_or_else(|| match &self.workers {
            Placement::Cores(cores) if check::all_isolated(cores) => Idle::Poll,
            _ => Idle::Backoff,
        })
    }

    /// An error about `key`.
    fn error(&self, key: &str, reason: String) -> ConfigError {
        ConfigError { file: self.file.clone(), line: self.lines.of(key), reason }
    }
}

/// The number of a group, which is given by name or as a number.
fn gid(group: &str) -> Result<u32, String> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    match Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => Err(format!("there is no group `{group}`: create it with `groupadd --system {group}`")),
        Err(error) => Err(format!("group `{group}` can't be looked up: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sample that operators start from.
    const SAMPLE: &str = include_str!("../../../docs/weir.toml");

    fn parse(text: &str) -> Result<Config, ConfigErrors> {
        Config::parse(text, Path::new("/etc/weir/weir.toml"))
    }

    const PORT: &str = "[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\n";

    #[test]
    fn an_almost_empty_file_has_defaults() {
        let c = parse(PORT).unwrap();
        assert_eq!(c.socket, Path::new("/run/weir/weir.sock"));
        assert_eq!(c.socket_permissions(), Ok(SocketPermissions::default()));
        assert_eq!(c.workers, Placement::Count(1));
        assert!(c.host && c.host_namespace.is_none() && c.rules.is_none() && c.eal.is_empty());
        assert_eq!(c.settings, Settings::default());
        assert_eq!(c.sessions, SessionSettings { max_per_worker: 1_048_576, prefault: true, seed: None });
        assert_eq!(c.local_addresses, LocalAddresses { first_port: 1024, last_port: 65535 });
        assert!(c.masquerade == Masquerade::Nat && c.default_local_addresses.is_empty());
        assert_eq!(c.idle(), Idle::Backoff);
        let p = &c.ports[0];
        assert_eq!((p.mbufs, p.rx_desc, p.tx_desc, p.mtu), (16384, 1024, 1024, None));
        assert_eq!(p.rp_filter, RpFilter::Strict);
        assert_eq!(c.port("wan"), Some(PortId(0)));
        assert_eq!(c.port("lan"), None);
    }

    #[test]
    fn the_sample_states_the_defaults() {
        let plain = parse(PORT).unwrap();
        let sample = parse(SAMPLE).unwrap();
        assert_eq!(sample.socket, plain.socket);
        assert_eq!(sample.socket_permissions(), plain.socket_permissions());
        assert_eq!(sample.workers, plain.workers);
        assert_eq!(sample.host, plain.host);
        assert_eq!(sample.idle, Some(Idle::Backoff));
        assert_eq!(sample.eal, plain.eal);
        assert_eq!(sample.settings, plain.settings);
        assert_eq!(sample.masquerade, plain.masquerade);
        assert_eq!(sample.default_local_addresses, plain.default_local_addresses);
        assert_eq!(sample.sessions, plain.sessions);
        assert_eq!(sample.local_addresses, plain.local_addresses);
        let (a, b) = (&sample.ports[0], &plain.ports[0]);
        assert_eq!((a.mbufs, a.rx_desc, a.tx_desc), (b.mbufs, b.rx_desc, b.tx_desc));
        assert_eq!(a.rp_filter, b.rp_filter);
    }

    #[test]
    fn the_sample_shows_every_key() {
        for key in file::KEYS {
            let shown = SAMPLE.lines().any(|l| {
                l.trim_start_matches("# ").strip_prefix(key).is_some_and(|r| r.trim_start().starts_with('='))
            });
            assert!(shown, "{key}");
        }
    }

    #[test]
    fn everything_given_is_kept() {
        let c = parse(
            r#"
socket = "/tmp/s"
socket_group = "4711"
socket_mode = "0666"
cores = [2, 3]
rules = "rules.save"
host_namespace = "/run/netns/x"
idle = "poll"
eal = ["-m", "256"]
[ipvs]
expire_nodest_conn = true
masquerade = "fullnat"
[timeouts]
established = 60
[sessions]
max_per_worker = 4096
prefault = false
seed = 0
[local_addresses]
first_port = 5000
last_port = 5009
default = ["192.168.80.200-192.168.80.201"]
[[port]]
name = "wan"
device = "net_af_packet0,iface=veth1"
addresses = ["192.168.80.4/24", "2001:db8::1/64"]
mtu = 1400
rp_filter = "loose"
[[port]]
name = "lan"
device = "net_null1"
[[route]]
to = "0.0.0.0/0"
via = "192.168.80.1"
port = "wan"
[[neighbour]]
address = "10.0.0.1"
mac = "02:00:00:00:00:02"
port = "lan"
"#,
        )
        .unwrap();
        assert_eq!(c.socket_permissions(), Ok(SocketPermissions { mode: 0o666, group: Some(4711) }));
        assert_eq!(c.workers, Placement::Cores(vec![2, 3]));
        assert_eq!(c.rules.as_deref(), Some(Path::new("/etc/weir/rules.save")));
        assert!(c.settings.expire_nodest_conn);
        assert_eq!(c.settings.timeouts.established, 60);
        assert_eq!(c.settings.timeouts.udp, 300);
        assert_eq!(c.sessions, SessionSettings { max_per_worker: 4096, prefault: false, seed: Some(0) });
        assert_eq!(c.local_addresses, LocalAddresses { first_port: 5000, last_port: 5009 });
        assert_eq!(c.masquerade, Masquerade::FullNat);
        let defaults: Vec<String> = c.default_local_addresses.iter().map(ToString::to_string).collect();
        assert_eq!(defaults, ["192.168.80.200", "192.168.80.201"]);
        assert_eq!(c.ports[0].addresses[1].to_string(), "2001:db8::1/64");
        assert_eq!(c.ports[0].mtu, Some(1400));
        assert_eq!((c.ports[0].rp_filter, c.ports[1].rp_filter), (RpFilter::Loose, RpFilter::Strict));
        assert_eq!((c.routes[0].port, c.neighbours[0].port), (PortId(0), PortId(1)));
        assert_eq!(c.neighbours[0].mac, Mac([2, 0, 0, 0, 0, 2]));
    }

    #[test]
    fn syntax_errors_have_line_and_reason() {
        for (text, line, reason) in [
            ("socket = 1\n", 1, "socket: invalid type: integer `1`"),
            ("\n\nsokcet = \"/tmp/s\"\n", 3, "unknown field `sokcet`"),
            ("[timeouts]\nestablished = -1\n", 2, "established: invalid value: integer `-1`"),
            ("[timeouts]\n\nestablishd = 1\n", 3, "unknown field `establishd`"),
            ("socket_mode = 660\n", 1, "socket_mode: invalid type: integer `660`"),
            ("socket_mode = \"rw\"\n", 1, "socket_mode: `rw` isn't a mode: octal digits, 0000 to 0777"),
            ("socket_mode = \"1777\"\n", 1, "`1777` isn't a mode"),
            (
                "[ipvs]\nmasquerade = \"snat\"\n",
                2,
                "masquerade: unknown variant `snat`, expected `nat` or `fullnat`",
            ),
            ("workers = 1\nworkers = 2\n", 2, "duplicate key"),
            ("workers = \n", 1, "string values must be quoted"),
            ("idle = \"lazy\"\n", 1, "idle: unknown variant `lazy`"),
            ("[[port]]\nname = \"wan\"\n", 1, "missing field `device`"),
            ("[[port]]\nname = \"a\"\ndevice = \"net_nil0\"\n", 3, "device: `net_nil0` isn't a driver"),
            (
                "[[port]]\nname = \"a\"\ndevice = \"net_null0\"\naddresses = [\n\"10.0.0.1\"]\n",
                5,
                "addresses: `10.0.0.1` has no prefix length",
            ),
            (
                "[[port]]\nname = \"a\"\ndevice = \"net_null0\"\nrp_filter = \"1\"\n",
                4,
                "rp_filter: unknown variant `1`, expected one of `strict`, `loose`, `off`",
            ),
            ("[[neighbour]]\naddress = \"10.0.0.300\"\n", 2, "address: invalid IP address syntax"),
            ("[[neighbour]]\naddress = \"10.0.0.3\"\nmac = \"2\"\n", 3, "mac: `2` isn't a hardware address"),
        ] {
            let errors = parse(text).unwrap_err().0;
            assert_eq!(errors.len(), 1, "{text}");
            assert_eq!(errors[0].line, Some(line), "{text}: {}", errors[0]);
            assert!(errors[0].reason.contains(reason), "{text}: {}", errors[0]);
            assert!(errors[0].to_string().starts_with(&format!("/etc/weir/weir.toml:{line}: ")));
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let e = Config::load(Path::new("/nonexistent/weir.toml")).unwrap_err();
        assert!(e.to_string().starts_with("/nonexistent/weir.toml: can't be read: "), "{e}");
    }
}
