//! Which options go with which command, and what a checked line asks of the gateway.

use super::{
    Action, Format, Halt, List,
    options::{Command, Legal, Opt, OptSet},
    parse::{Entry, Method, Role, family},
};
use crate::{
    model::{Forwarding, LocalAddress, Protocol, Server, Service, ServiceKey, Tunnel, TunnelKind},
    protocol::Change,
};

/// Used when `-s` isn't given, or empty.
const DEFAULT_SCHEDULER: &str = "wlc";

type Step = Result<(), Halt>;

/// Checks a line as ipvsadm does and says what it asks for.
pub(super) fn action(entry: &Entry) -> Result<Action, Halt> {
    legal(&entry.command.legal(), entry.options)?;
    match entry.command {
        Command::AddService | Command::EditService => service_options(entry)?,
        Command::AddServer | Command::EditServer => server_options(entry)?,
        _ => {}
    }
    Ok(match entry.command {
        Command::AddService => Action::Change(Change::AddService(service(entry)?)),
        Command::EditService => Action::Change(Change::EditService(service(entry)?)),
        Command::DeleteService => Action::Change(Change::DeleteService(key(entry)?)),
        Command::Flush => Action::Change(Change::Flush),
        Command::AddServer => {
            let (service, server) = (key(entry)?, server(entry)?);
            Action::Change(match entry.forwarding {
                Method::Masquerade => Change::AddMasqueraded { service, server },
                _ => Change::AddServer { service, server },
            })
        }
        Command::EditServer => {
            let (service, server) = (key(entry)?, server(entry)?);
            Action::Change(match entry.forwarding {
                Method::Masquerade => Change::EditMasqueraded { service, server },
                _ => Change::EditServer { service, server },
            })
        }
        Command::DeleteServer => {
            let (address, port) = place(entry)?;
            Action::Change(Change::DeleteServer { service: key(entry)?, address, port })
        }
        Command::Set => Action::Change(Change::SetTimeouts(entry.timeouts)),
        Command::Zero => Action::Change(Change::Zero(zeroed(entry))),
        Command::AddLocal => {
            let local = LocalAddress { address: local(entry)?, interface: entry.interface.clone() };
            Action::Change(Change::AddLocalAddress { service: key(entry)?, local })
        }
        Command::DeleteLocal => {
            Action::Change(Change::DeleteLocalAddress { service: key(entry)?, address: local(entry)? })
        }
        Command::ListLocal => {
            Action::LocalAddresses { service: key(entry)?, numeric: entry.options.has(Opt::Numeric) }
        }
        Command::List => list(entry)?,
        Command::Save => Action::Save { numeric: entry.options.has(Opt::Numeric) },
        Command::Restore => Action::Restore,
        Command::StartDaemon => Action::StartDaemon { master: entry.role == Role::Master },
        Command::StopDaemon => Action::StopDaemon { master: entry.role == Role::Master },
    })
}

/// The table of legal combinations, option by option.
fn legal(legal: &Legal, options: OptSet) -> Step {
    let mut first = None;
    for option in Opt::ALL {
        let name = option.name();
        let command = legal.name;
        if !options.has(option) {
            if legal.required.contains(&option) {
                let message = format!("You need to supply the '{name}' option for the '{command}' command");
                return Err(Halt::fail(message));
            }
        } else if legal.exclusive.contains(&option) {
            if let Some(first) = first.replace(name) {
                return Err(conflict(name, first, &format!("'{command}' command")));
            }
        } else if !legal.required.contains(&option) && !legal.optional.contains(&option) {
            return Err(Halt::fail(format!("Illegal '{name}' option with the '{command}' command")));
        }
    }
    Ok(())
}

fn conflict(option: &str, first: &str, of: &str) -> Halt {
    Halt::fail(format!("The option '{option}' conflicts with the '{first}' option in the {of}"))
}

fn service_options(entry: &Entry) -> Step {
    if entry.mark == 0 && entry.port == 0 && entry.persistent.is_none() {
        return Err(Halt::fail("Zero port specified for non-persistent service"));
    }
    if entry.one_packet && entry.mark == 0 && entry.protocol != Some(Protocol::Udp) {
        return Err(Halt::fail("One-Packet Scheduling is only for UDP virtual services"));
    }
    Ok(())
}

fn server_options(entry: &Entry) -> Step {
    let tunnel = entry.forwarding == Method::Tunnel;
    let same_family = entry.server.is_some_and(|(address, _)| Some(family(address)) == entry.family);
    // FULLNAT, which ipvsadm lacks, gives both sides addresses of their own.
    if !same_family && !tunnel && entry.forwarding != Method::FullNat {
        return Err(Halt::fail("Different address family is allowed only for tunneling servers"));
    }
    let tunnel_options = [Opt::TunType, Opt::TunPort, Opt::TunNoCsum, Opt::TunCsum, Opt::TunRemCsum];
    if entry.options.any(&tunnel_options) && !tunnel {
        return Err(Halt::fail("Tunnel options conflict with forward method"));
    }
    tunnel_legal(entry.tunnel.unwrap_or(TunnelKind::Ipip), entry.options)
}

/// As [`legal`], by kind of tunnel.
fn tunnel_legal(kind: TunnelKind, options: OptSet) -> Step {
    let (name, exclusive): (_, &[Opt]) = match kind {
        TunnelKind::Ipip => ("ipip", &[]),
        TunnelKind::Gue => ("gue", &[Opt::TunNoCsum, Opt::TunCsum, Opt::TunRemCsum]),
        TunnelKind::Gre => ("gre", &[Opt::TunNoCsum, Opt::TunCsum]),
    };
    let mut first = None;
    for option in [Opt::TunPort, Opt::TunNoCsum, Opt::TunCsum, Opt::TunRemCsum] {
        let needed = option == Opt::TunPort && kind == TunnelKind::Gue;
        let text = option.name();
        if !options.has(option) {
            if needed {
                let message = format!("You need to supply the '{text}' option for the '{name}' tunnel type");
                return Err(Halt::fail(message));
            }
        } else if exclusive.contains(&option) {
            if let Some(first) = first.replace(text) {
                return Err(conflict(text, first, &format!("'{name}' tunnel type")));
            }
        } else if !needed {
            return Err(Halt::fail(format!("Illegal '{text}' option with the '{name}' tunnel type")));
        }
    }
    Ok(())
}

fn key(entry: &Entry) -> Result<ServiceKey, Halt> {
    match (entry.family, entry.protocol, entry.address) {
        (Some(family), ..) if entry.mark != 0 => Ok(ServiceKey::Mark { mark: entry.mark, family }),
        (_, Some(protocol), Some(address)) => Ok(ServiceKey::Address { protocol, address, port: entry.port }),
        _ => Err(Halt::fail("illegal virtual server address[:port] specified")),
    }
}

fn place(entry: &Entry) -> Result<(std::net::IpAddr, u16), Halt> {
    entry.server.ok_or_else(|| Halt::fail("illegal real server address[:port] specified"))
}

fn local(entry: &Entry) -> Result<std::net::IpAddr, Halt> {
    entry.local_address.ok_or_else(|| Halt::fail("illegal local address specified"))
}

/// `-Z` of address and port 0 is `-Z` of everything.
fn zeroed(entry: &Entry) -> Option<ServiceKey> {
    let everything = entry.mark == 0 && entry.port == 0 && entry.address.is_none_or(|a| a.is_unspecified());
    if everything { None } else { key(entry).ok() }
}

fn service(entry: &Entry) -> Result<Service, Halt> {
    let name = |text: &String| if text.is_empty() { None } else { Some(text.clone()) };
    Ok(Service {
        key: key(entry)?,
        scheduler: name(&entry.scheduler).unwrap_or_else(|| DEFAULT_SCHEDULER.into()),
        scheduler_flags: entry.scheduler_flags,
        persistent: entry.persistent,
        netmask: entry.netmask,
        one_packet: entry.one_packet,
        engine: name(&entry.engine),
    })
}

fn server(entry: &Entry) -> Result<Server, Halt> {
    let (address, mut port) = place(entry)?;
    let forwarding = match entry.forwarding {
        Method::Route => Forwarding::Route,
        // Which of the two it is the gateway knows.
        Method::Nat | Method::Masquerade => Forwarding::Nat,
        Method::FullNat => Forwarding::FullNat,
        Method::Tunnel => Forwarding::Tunnel(Tunnel {
            kind: entry.tunnel.unwrap_or(TunnelKind::Ipip),
            port: entry.tunnel_port,
            checksum: entry.tunnel_checksum,
        }),
    };
    // Direct routing and tunnels can't map ports; a mark's service has none of its own.
    if entry.mark == 0 && matches!(entry.forwarding, Method::Route | Method::Tunnel) {
        port = entry.port;
    }
    Ok(Server { address, port, forwarding, weight: entry.weight, upper: entry.upper, lower: entry.lower })
}

fn list(entry: &Entry) -> Result<Action, Halt> {
    let has = |option| entry.options.has(option);
    let counters = entry.options.any(&[Opt::Stats, Opt::Rate, Opt::Thresholds]);
    let other = has(Opt::Timeout) || has(Opt::Daemon);
    if ((has(Opt::Connection) || other) && counters) || (other && has(Opt::PersistentConn)) {
        return Err(Halt::fail("options conflicts in the list command"));
    }
    let format = Format {
        numeric: has(Opt::Numeric),
        stats: has(Opt::Stats),
        rate: has(Opt::Rate),
        thresholds: has(Opt::Thresholds),
        persistent: has(Opt::PersistentConn),
        tunnels: has(Opt::TunInfo),
        exact: has(Opt::Exact),
        unsorted: has(Opt::NoSort),
    };
    let what = match () {
        () if has(Opt::Connection) => List::Connections,
        () if has(Opt::Service) => List::Service(key(entry)?),
        () if has(Opt::Timeout) => List::Timeouts,
        () if has(Opt::Daemon) => List::Daemons,
        () => List::All,
    };
    Ok(Action::List(what, format))
}
