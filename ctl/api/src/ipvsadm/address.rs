//! Addresses and ports as ipvsadm takes them: `inet_aton` forms, host and service names, `[v6]:port`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{names::Resolve, numbers::number};
use crate::model::Protocol;

/// What an `ADDRESS[:PORT]` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ParsedAddress {
    /// The address.
    pub address: IpAddr,
    /// The port, if one is given.
    pub port: Option<u16>,
}

/// Reads `HOST[:PORT]` or `[V6]:PORT`; a bare IPv6 address has no port. `None` if it is neither.
pub(super) fn place(text: &str, protocol: Option<Protocol>, names: &dyn Resolve) -> Option<ParsedAddress> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (host, bracket_port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, Some(rest.strip_prefix(':')?))
        }
        None => (text, None),
    };
    if let Ok(address) = host.parse::<Ipv6Addr>() {
        let port = bracket_port.map(|p| port(p, protocol, names).ok_or(())).transpose().ok()?;
        return Some(ParsedAddress { address: address.into(), port });
    }
    // What stood in brackets and isn't IPv6 loses the port behind them, as ipvsadm has it.
    let (host, port_text) = match host.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (host, None),
    };
    let address = ipv4(host, names)?;
    let port = port_text.map(|p| port(p, protocol, names).ok_or(())).transpose().ok()?;
    Some(ParsedAddress { address: address.into(), port })
}

/// An IPv4 address in any form or the name of a host.
pub(super) fn ipv4(text: &str, names: &dyn Resolve) -> Option<Ipv4Addr> {
    inet_aton(text).or_else(|| names.host(text))
}

fn port(text: &str, protocol: Option<Protocol>, names: &dyn Resolve) -> Option<u16> {
    match number(text, 0, 65_535) {
        Some(n) => Some(n as u16),
        None => names.port(text, protocol?),
    }
}

/// `inet_aton`: one to four parts, each decimal, octal or hexadecimal, the last filling what is left;
/// anything may follow after white space.
pub(super) fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let mut rest = text;
    let mut high: u32 = 0;
    for part in 0..4 {
        let (value, after) = c_number(rest)?;
        let last_limit = u64::from(u32::MAX >> (8 * part));
        match after.strip_prefix('.') {
            Some(next) if part < 3 && value <= 0xff => {
                high |= (value as u32) << (24 - 8 * part);
                rest = next;
            }
            Some(_) => return None,
            None => {
                let clean = after.is_empty() || after.starts_with([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
                return (clean && value <= last_limit).then(|| (high | value as u32).into());
            }
        }
    }
    None
}

/// `strtoul` base 0 on something that begins with a digit, and what follows.
fn c_number(text: &str) -> Option<(u64, &str)> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (radix, digits) = match hex {
        Some(digits) if digits.starts_with(|c: char| c.is_ascii_hexdigit()) => (16, digits),
        _ if text.starts_with('0') => (8, text),
        _ => (10, text),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    Some((u64::from_str_radix(&digits[..end], radix).ok()?, &digits[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Hosts;

    impl Resolve for Hosts {
        fn host(&self, name: &str) -> Option<Ipv4Addr> {
            (name == "vip").then_some(Ipv4Addr::new(192, 0, 2, 10))
        }
        fn port(&self, service: &str, protocol: Protocol) -> Option<u16> {
            (service == "http" && protocol == Protocol::Tcp).then_some(80)
        }
    }

    fn at(text: &str) -> Option<String> {
        let place = place(text, Some(Protocol::Tcp), &Hosts)?;
        Some(match place.port {
            Some(port) => format!("{} {port}", place.address),
            None => format!("{} -", place.address),
        })
    }

    #[test]
    fn forms_of_inet_aton() {
        for (text, expected) in [
            ("192.0.2", "192.0.0.2"),
            ("192.1", "192.0.0.1"),
            ("0xc0000214", "192.0.2.20"),
            ("0300.0.2.25", "192.0.2.25"),
            ("3221225985", "192.0.2.1"),
            ("24", "0.0.0.24"),
            ("192.0.2.10 x", "192.0.2.10"),
        ] {
            assert_eq!(inet_aton(text), Some(expected.parse().unwrap()), "{text}");
        }
        for bad in [
            "",
            " 1.2.3.4",
            "1.2.3.4.5",
            "1.2.3.256",
            "1.256.3.4",
            "08",
            "0x",
            "1.2.3.4x",
            "4294967296",
            "1.",
        ] {
            assert_eq!(inet_aton(bad), None, "{bad}");
        }
    }

    #[test]
    fn places() {
        for (text, expected) in [
            ("192.0.2.10:80", "192.0.2.10 80"),
            ("192.0.2.10", "192.0.2.10 -"),
            ("vip:http", "192.0.2.10 80"),
            ("192.0.2.10 :98", "192.0.2.10 98"),
            ("192.0.2.10:080", "192.0.2.10 80"),
            ("[2001:db8::1]:80", "2001:db8::1 80"),
            ("2001:db8::11:80", "2001:db8::11:80 -"),
            ("[192.0.2.20]:80", "192.0.2.20 -"),
        ] {
            assert_eq!(at(text).as_deref(), Some(expected), "{text}");
        }
        for bad in [
            "80",
            "",
            ":80",
            "192.0.2.10:",
            "192.0.2.10:-1",
            "192.0.2.10:65536",
            "192.0.2.10:0x50",
            "192.0.2.10:1:2",
            "[2001:db8::12]",
            "[2001:db8:1::6:",
            "nosuch:80",
            "192.0.2.10:nosuch",
        ] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }
}
