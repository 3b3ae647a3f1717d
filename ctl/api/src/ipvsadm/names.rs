//! Names of hosts and services, through the system's databases.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dns_lookup::AddrInfoHints;

use crate::model::Protocol;

/// From names to numbers, for what is typed.
pub trait Resolve {
    /// The first IPv4 address of a host.
    fn host(&self, name: &str) -> Option<Ipv4Addr>;

    /// Port of a service, host order.
    fn port(&self, service: &str, protocol: Protocol) -> Option<u16>;
}

/// From numbers to names, for what is printed without `-n`.
pub trait Names: Resolve {
    /// Name of a host.
    fn host_name(&self, address: IpAddr) -> Option<String>;

    /// Name of a service.
    fn service_name(&self, port: u16, protocol: Protocol) -> Option<String>;
}

// The library's numbers differ by system; these are Linux's, the only one that Weir runs on.
const AF_INET: i32 = 2;
const SOCK_STREAM: i32 = 1;
const NAME_REQUIRED: i32 = 8;

/// The system's databases: the resolver for hosts, `/etc/services` for services.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNames;

impl Resolve for SystemNames {
    fn host(&self, name: &str) -> Option<Ipv4Addr> {
        // Asked for IPv4 alone, as ipvsadm's gethostbyname does: the C library then takes a hosts file's ::1 for 127.0.0.1.
        let hints = AddrInfoHints { address: AF_INET, socktype: SOCK_STREAM, ..AddrInfoHints::default() };
        let found = dns_lookup::getaddrinfo(Some(name), None, Some(hints)).ok()?;
        found.flatten().find_map(|info| match info.sockaddr {
            SocketAddr::V4(a) => Some(*a.ip()),
            SocketAddr::V6(_) => None,
        })
    }

    fn port(&self, service: &str, protocol: Protocol) -> Option<u16> {
        services(|line| (line.protocol == protocol.name() && line.is_called(service)).then_some(line.port))
    }
}

impl Names for SystemNames {
    fn host_name(&self, address: IpAddr) -> Option<String> {
        dns_lookup::getnameinfo(&SocketAddr::new(address, 0), NAME_REQUIRED).ok().map(|(host, _)| host)
    }

    fn service_name(&self, port: u16, protocol: Protocol) -> Option<String> {
        services(|line| (line.protocol == protocol.name() && line.port == port).then(|| line.name.to_owned()))
    }
}

/// A line of services(5).
#[derive(Debug, PartialEq, Eq)]
struct ServiceLine<'a> {
    name: &'a str,
    port: u16,
    protocol: &'a str,
    aliases: Vec<&'a str>,
}

impl<'a> ServiceLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let name = words.next()?;
        let (port, protocol) = words.next()?.split_once('/')?;
        Some(Self { name, port: port.parse().ok()?, protocol, aliases: words.collect() })
    }

    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }
}

/// The first line of `/etc/services` that `pick` takes.
fn services<T>(pick: impl Fn(&ServiceLine) -> Option<T>) -> Option<T> {
    static FILE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let read = || std::fs::read("/etc/services").unwrap_or_default();
    let text = FILE.get_or_init(|| String::from_utf8_lossy(&read()).into_owned());
    text.lines().filter_map(ServiceLine::parse).find_map(|line| pick(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_services() {
        let line = ServiceLine::parse("http\t\t80/tcp\t\twww\t\t# WorldWideWeb HTTP").unwrap();
        assert_eq!((line.name, line.port, line.protocol), ("http", 80, "tcp"));
        assert!(line.is_called("www") && line.is_called("http") && !line.is_called("WorldWideWeb"));
        for none in ["", "# comment", "http", "http 80", "http x/tcp"] {
            assert_eq!(ServiceLine::parse(none), None, "{none}");
        }
    }

    #[test]
    fn hosts_without_a_name_server() {
        assert_eq!(SystemNames.host("127.0.0.1"), Some(Ipv4Addr::LOCALHOST));
        assert_eq!(SystemNames.host(""), None);
    }
}
