//! Parses the words of a command line and reports errors in ipvsadm's order: first each option's argument, in the
//! order of the line; the table of legal combinations comes after ([`super::check`]).

use std::net::IpAddr;

use super::{
    Halt,
    address::{ipv4, place},
    names::Resolve,
    numbers::{leading_number, number},
    options::{Command, Opt, OptSet, Tag},
    scan::{Dialect, Scanner},
};
use crate::model::{Family, Protocol, Timeouts, TunnelChecksum, TunnelKind};

/// Longest time-out in seconds: 31 days.
const MAX_TIMEOUT: i64 = 86_400 * 31;

/// Persistence time-out of `-p` alone.
const DEFAULT_PERSISTENCE: u32 = 360;

/// What ipvsadm keeps of a scheduler's or engine's name, in bytes.
const NAME_LENGTH: usize = 16;

/// What ipvsadm keeps of `-b`, in bytes.
const FLAGS_LENGTH: usize = 127;

/// Whether a sync daemon sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// `master`
    Master,
    /// `backup`
    Backup,
}

/// What the options of one line say, with ipvsadm's defaults.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub command: Command,
    pub options: OptSet,
    pub protocol: Option<Protocol>,
    pub family: Option<Family>,
    pub address: Option<IpAddr>,
    pub port: u16,
    pub mark: u32,
    pub scheduler: String,
    pub scheduler_flags: u8,
    pub persistent: Option<u32>,
    pub netmask: u32,
    pub one_packet: bool,
    pub engine: String,
    pub server: Option<(IpAddr, u16)>,
    pub forwarding: Method,
    pub weight: u32,
    pub upper: u32,
    pub lower: u32,
    pub tunnel: Option<TunnelKind>,
    pub tunnel_port: u16,
    pub tunnel_checksum: TunnelChecksum,
    pub timeouts: Timeouts,
    pub role: Role,
    pub local_address: Option<IpAddr>,
    pub interface: Option<String>,
}

/// A forwarding method without what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Route,
    Tunnel,
    /// By NAT or FULLNAT, whichever it means to the service.
    Masquerade,
    Nat,
    FullNat,
}

/// What the line is.
#[derive(Debug)]
pub(super) enum ParsedCommand {
    /// `-h`; the rest of the line isn't looked at.
    Help,
    /// `-v`; the rest of the line isn't looked at.
    Version,
    /// Anything else.
    Entry(Box<Entry>),
}

type Step = Result<(), Halt>;

/// Reads `words`, the line without the program's name; on lines of servers with the options of a dialect.
pub(super) fn parse(
    program: &str,
    words: &[String],
    names: &dyn Resolve,
    of_servers: Dialect,
) -> Result<ParsedCommand, Halt> {
    let mut scanner = Scanner::new(words);
    let try_help = || Halt::try_help(program);
    let mut entry = match scanner.option().map_err(|_| try_help())? {
        Some((Tag::Command(command), _)) => Entry::new(command, Role::Master),
        Some((Tag::StartDaemon, role)) => {
            let role = role_of(role).ok_or_else(|| Halt::fail("illegal start-daemon parameter specified"))?;
            Entry::new(Command::StartDaemon, role)
        }
        Some((Tag::StopDaemon, role)) => {
            let role = role_of(role).ok_or_else(|| Halt::fail("illegal start_daemon specified"))?;
            Entry::new(Command::StopDaemon, role)
        }
        Some((Tag::Help, _)) => return Ok(ParsedCommand::Help),
        Some((Tag::Version, _)) => return Ok(ParsedCommand::Version),
        _ => return Err(try_help()),
    };
    if matches!(entry.command, Command::AddServer | Command::EditServer) {
        scanner.dialect = of_servers;
    }
    let mut flags = String::new();
    loop {
        match scanner.option() {
            Ok(Some((tag, value))) => entry.take(tag, value, scanner.word(), &mut flags, names)?,
            Ok(None) => break,
            Err(e) => return Err(Halt::refuse(format!("{}: {}", e.word, e.message))),
        }
    }
    entry.rest(&scanner.leftovers)?;
    if !flags.is_empty() {
        entry.scheduler_flags = scheduler_flags(&entry.scheduler, &flags)?;
    }
    Ok(ParsedCommand::Entry(Box::new(entry)))
}

impl Entry {
    fn new(command: Command, role: Role) -> Self {
        Self {
            command,
            options: OptSet::default(),
            protocol: None,
            family: None,
            address: None,
            port: 0,
            mark: 0,
            scheduler: String::new(),
            scheduler_flags: 0,
            persistent: None,
            netmask: u32::MAX,
            one_packet: false,
            engine: String::new(),
            server: None,
            forwarding: Method::Route,
            weight: 1,
            upper: 0,
            lower: 0,
            tunnel: None,
            tunnel_port: 0,
            tunnel_checksum: TunnelChecksum::None,
            timeouts: Timeouts { tcp: 0, tcp_fin: 0, udp: 0 },
            role,
            local_address: None,
            interface: None,
        }
    }

    fn set(&mut self, option: Opt) -> Step {
        if self.options.insert(option) {
            return Ok(());
        }
        Err(Halt::fail(format!("multiple '{}' options specified", option.name())))
    }

    fn take(
        &mut self,
        tag: Tag,
        argument: Option<&str>,
        word: &str,
        flags: &mut String,
        names: &dyn Resolve,
    ) -> Step {
        let value = argument.unwrap_or_default();
        match tag {
            Tag::Tcp => self.service(Protocol::Tcp, value, names),
            Tag::Udp => self.service(Protocol::Udp, value, names),
            Tag::Sctp => self.service(Protocol::Sctp, value, names),
            Tag::Mark => self.mark(value),
            Tag::Ipv6 => self.ipv6(),
            Tag::Route => self.method(Method::Route),
            Tag::Tunnel => self.method(Method::Tunnel),
            Tag::Masquerade => self.method(Method::Masquerade),
            Tag::Nat => self.method(Method::Nat),
            Tag::FullNat => self.method(Method::FullNat),
            Tag::Sort => Ok(()),
            Tag::Plain(option) => {
                self.set(option)?;
                match option {
                    Opt::SchedFlags => {
                        *flags = truncated(value, FLAGS_LENGTH);
                        Ok(())
                    }
                    Opt::Persistent => {
                        self.persistent = Some(argument.map_or(Ok(DEFAULT_PERSISTENCE), |v| timeout(v, 1))?);
                        Ok(())
                    }
                    _ => self.plain(option, value, names),
                }
            }
            Tag::Command(_) | Tag::StartDaemon | Tag::StopDaemon | Tag::Help | Tag::Version => {
                Err(Halt::fail(format!("invalid option `{word}'")))
            }
        }
    }

    fn service(&mut self, protocol: Protocol, value: &str, names: &dyn Resolve) -> Step {
        self.set(Opt::Service)?;
        self.protocol = Some(protocol);
        let Some(place) = place(value, self.protocol, names) else {
            return Err(Halt::fail("illegal virtual server address[:port] specified"));
        };
        self.address = Some(place.address);
        self.port = place.port.unwrap_or(0);
        self.family = Some(family(place.address));
        if place.address.is_ipv6() {
            self.netmask = 128;
        }
        Ok(())
    }

    fn mark(&mut self, value: &str) -> Step {
        self.set(Opt::Service)?;
        self.family = Some(Family::V4);
        // Names of server ports are TCP's then.
        self.protocol = Some(Protocol::Tcp);
        match number(value, 1, i64::from(u32::MAX)) {
            Some(mark) => self.mark = mark as u32,
            None => return Err(Halt::fail(format!("invalid fwmark value `{value}' specified"))),
        }
        Ok(())
    }

    fn ipv6(&mut self) -> Step {
        if self.mark == 0 {
            return Err(Halt::fail("-6 used before -f\n"));
        }
        self.family = Some(Family::V6);
        self.netmask = 128;
        Ok(())
    }

    fn method(&mut self, method: Method) -> Step {
        self.set(Opt::Forward)?;
        self.forwarding = method;
        Ok(())
    }

    fn plain(&mut self, option: Opt, value: &str, names: &dyn Resolve) -> Step {
        match option {
            Opt::Scheduler => self.scheduler = truncated(value, NAME_LENGTH),
            Opt::Engine => self.engine = truncated(value, NAME_LENGTH),
            Opt::Ops => self.one_packet = true,
            Opt::Netmask => self.netmask(value, names)?,
            Opt::Server => self.server(value, names)?,
            Opt::Weight => self.weight = in_range(value, 0, i32::MAX, "illegal weight specified")?,
            Opt::Upper => self.upper = in_range(value, 0, i32::MAX, "illegal u_threshold specified")?,
            Opt::Lower => self.lower = in_range(value, 0, i32::MAX, "illegal l_threshold specified")?,
            Opt::TunType => self.tunnel = Some(tunnel_kind(value)?),
            Opt::TunPort => {
                self.tunnel_port = in_range(value, 1, 65_535, "illegal tunnel port specified")? as u16;
            }
            Opt::TunCsum => self.tunnel_checksum = TunnelChecksum::Full,
            Opt::TunRemCsum => self.tunnel_checksum = TunnelChecksum::Remote,
            Opt::LocalAddress => self.local(value)?,
            Opt::Interface => self.interface = Some(value.into()),
            _ => self.daemon(option, value)?,
        }
        Ok(())
    }

    fn netmask(&mut self, value: &str, names: &dyn Resolve) -> Step {
        if self.family == Some(Family::V6) {
            let length = leading_number(value);
            if !(1..=128).contains(&length) {
                return Err(Halt::fail("illegal ipv6 netmask specified"));
            }
            self.netmask = length as u32;
            return Ok(());
        }
        match ipv4(value, names) {
            Some(mask) => self.netmask = mask.into(),
            None => return Err(Halt::fail("illegal virtual server persistent mask specified")),
        }
        Ok(())
    }

    fn server(&mut self, value: &str, names: &dyn Resolve) -> Step {
        match place(value, self.protocol, names) {
            Some(place) => self.server = Some((place.address, place.port.unwrap_or(self.port))),
            None => return Err(Halt::fail("illegal real server address[:port] specified")),
        }
        Ok(())
    }

    fn local(&mut self, value: &str) -> Step {
        let bare = value.strip_prefix('[').and_then(|v| v.strip_suffix(']')).unwrap_or(value);
        match bare.parse() {
            Ok(address) => self.local_address = Some(address),
            Err(_) => return Err(Halt::fail(format!("illegal local address `{value}' specified"))),
        }
        Ok(())
    }

    /// Options of the sync daemon are checked; the daemon itself is refused later.
    fn daemon(&self, option: Opt, value: &str) -> Step {
        match option {
            Opt::SyncId => in_range(value, 0, 255, "illegal syncid specified").map(drop),
            Opt::McastPort => in_range(value, 1, 65_535, "illegal mcast-port specified").map(drop),
            Opt::McastTtl => in_range(value, 1, 255, "illegal mcast-ttl specified").map(drop),
            Opt::SyncMaxlen => in_range(value, 1, 65_507, "illegal sync-maxlen specified").map(drop),
            Opt::McastGroup => {
                let name = if value.contains(':') { "IPv6" } else { "IPv4" };
                let group = value.parse::<IpAddr>().is_ok_and(|a| a.is_multicast());
                if group { Ok(()) } else { Err(Halt::fail(format!("invalid {name} mcast-group `{value}'"))) }
            }
            _ => Ok(()),
        }
    }

    /// The words that are no options: the values of `--set`, and no others.
    fn rest(&mut self, words: &[&str]) -> Step {
        let mut words = words;
        if self.command == Command::Set {
            let [tcp, tcp_fin, udp, more @ ..] = words else {
                return Err(Halt::fail("--set option requires 3 timeout values"));
            };
            self.timeouts =
                Timeouts { tcp: timeout(tcp, 0)?, tcp_fin: timeout(tcp_fin, 0)?, udp: timeout(udp, 0)? };
            words = more;
        }
        match words.first() {
            Some(word) => Err(Halt::fail(format!("unexpected argument {word}"))),
            None => Ok(()),
        }
    }
}

/// Family of an address.
pub(super) fn family(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

fn role_of(value: Option<&str>) -> Option<Role> {
    match value {
        Some("master") => Some(Role::Master),
        Some("backup") => Some(Role::Backup),
        _ => None,
    }
}

fn in_range(value: &str, min: i64, max: i32, message: &str) -> Result<u32, Halt> {
    number(value, min, i64::from(max)).map(|n| n as u32).ok_or_else(|| Halt::fail(message))
}

fn timeout(value: &str, min: i64) -> Result<u32, Halt> {
    let message = || Halt::fail(format!("invalid timeout value `{value}' specified"));
    number(value, min, MAX_TIMEOUT).map(|n| n as u32).ok_or_else(message)
}

fn tunnel_kind(value: &str) -> Result<TunnelKind, Halt> {
    match value {
        "ipip" => Ok(TunnelKind::Ipip),
        "gue" => Ok(TunnelKind::Gue),
        "gre" => Ok(TunnelKind::Gre),
        _ => Err(Halt::fail("illegal tunnel type specified")),
    }
}

fn truncated(text: &str, length: usize) -> String {
    let mut end = text.len().min(length);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}

/// The bits of `-b FLAG,FLAG`. `,` alone crashes ipvsadm 1.31; here it is refused.
fn scheduler_flags(scheduler: &str, flags: &str) -> Result<u8, Halt> {
    let scheduler = if scheduler.is_empty() { "wlc" } else { scheduler };
    let names = flags.split(',').filter(|f| !f.is_empty());
    if names.clone().next().is_none() {
        return Err(Halt::fail(format!("invalid scheduler flag `{flags}'")));
    }
    let mut bits = 0;
    for flag in names {
        let (bit, of) = match flag {
            "flag-1" => (1, None),
            "flag-2" => (2, None),
            "flag-3" => (4, None),
            "sh-fallback" => (1, Some("sh")),
            "sh-port" => (2, Some("sh")),
            "mh-fallback" => (1, Some("mh")),
            "mh-port" => (2, Some("mh")),
            _ => return Err(Halt::fail(format!("invalid scheduler flag `{flag}'"))),
        };
        if of.is_some_and(|of| of != scheduler) {
            return Err(Halt::fail(format!("incompatible scheduler flag `{flag}'")));
        }
        bits |= bit;
    }
    Ok(bits)
}
