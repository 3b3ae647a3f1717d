//! How addresses, services, flags and counters are written.

use std::net::IpAddr;

use weir_api::{
    ipvsadm::names::Names,
    model::{Family, Forwarding, Protocol, ServiceKey, Tunnel, TunnelChecksum, TunnelKind},
};

/// ipvsadm's buffer for `HOST:PORT` holds this many bytes.
const PLACE_LENGTH: usize = 59;

/// `ADDRESS:PORT`, IPv6 in brackets, by name unless `numeric`.
pub(super) fn place(
    address: IpAddr,
    port: u16,
    protocol: Option<Protocol>,
    numeric: bool,
    names: &dyn Names,
) -> String {
    let (host, port) = if numeric {
        (address.to_string(), port.to_string())
    } else {
        let port_name = protocol.and_then(|p| names.service_name(port, p));
        (
            names.host_name(address).unwrap_or_else(|| address.to_string()),
            port_name.unwrap_or_else(|| port.to_string()),
        )
    };
    let whole = match address {
        IpAddr::V4(_) => format!("{host}:{port}"),
        IpAddr::V6(_) => format!("[{host}]:{port}"),
    };
    cut(whole, PLACE_LENGTH)
}

/// At most `length` bytes of `text`.
pub(super) fn cut(mut text: String, length: usize) -> String {
    let mut end = text.len().min(length);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// A service as options: `-t ADDRESS:PORT`, `-f MARK -6`.
pub(super) fn service_options(key: &ServiceKey, numeric: bool, names: &dyn Names) -> String {
    match *key {
        // Marks are printed as C's int.
        ServiceKey::Mark { mark, family: Family::V4 } => format!("-f {}", mark as i32),
        ServiceKey::Mark { mark, family: Family::V6 } => format!("-f {} -6", mark as i32),
        ServiceKey::Address { protocol, address, port } => {
            let option = match protocol {
                Protocol::Tcp => "-t",
                Protocol::Udp => "-u",
                Protocol::Sctp => "--sctp-service",
            };
            format!("{option} {}", place(address, port, Some(protocol), numeric, names))
        }
    }
}

/// A service as listed: `TCP  ADDRESS:PORT`, `FWM  MARK IPv6`.
pub(super) fn service_name(key: &ServiceKey, numeric: bool, names: &dyn Names) -> String {
    match *key {
        ServiceKey::Mark { mark, family: Family::V4 } => format!("FWM  {}", mark as i32),
        ServiceKey::Mark { mark, family: Family::V6 } => format!("FWM  {} IPv6", mark as i32),
        ServiceKey::Address { protocol, address, port } => {
            let name = format!(
                "{:<4} {}",
                protocol_name(protocol),
                place(address, port, Some(protocol), numeric, names)
            );
            if address.is_ipv4() { cut(name, 33) } else { name }
        }
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

/// The protocol whose names a service's ports have; ports of a mark's servers have none.
pub(super) fn protocol_of(key: &ServiceKey) -> Option<Protocol> {
    match key {
        ServiceKey::Address { protocol, .. } => Some(*protocol),
        ServiceKey::Mark { .. } => None,
    }
}

/// A forwarding method as listed.
pub(super) fn forwarding(method: Forwarding) -> &'static str {
    match method {
        Forwarding::Route => "Route",
        Forwarding::Tunnel(_) => "Tunnel",
        Forwarding::Nat => "Masq",
        Forwarding::FullNat => "FullNat",
    }
}

/// A tunnel as `--tun-info` lists it.
pub(super) fn tunnel_info(method: Forwarding) -> String {
    let Forwarding::Tunnel(Tunnel { kind, port, checksum }) = method else { return "n/a".into() };
    let sum = match checksum {
        TunnelChecksum::None => "-c",
        TunnelChecksum::Full => "+c",
        TunnelChecksum::Remote => "r+c",
    };
    match kind {
        TunnelKind::Ipip => "ipip".into(),
        TunnelKind::Gue => format!("gue:{port}:{sum}"),
        TunnelKind::Gre => format!("gre:{sum}"),
    }
}

/// A counter or rate in its column: a space and 8 digits or more, or abbreviated to 8 characters,
/// truncated to the thousand.
#[must_use]
pub(super) fn large(n: u64, exact: bool) -> String {
    const K: u64 = 1_000;
    const M: u64 = 1_000_000;
    const G: u64 = 1_000_000_000;
    const T: u64 = 1_000_000_000_000;
    match n {
        _ if exact => format!(" {n:>8}"),
        0..100_000_000 => format!("{n:>9}"),
        100_000_000..1_000_000_000 => format!("{:>8}K", n / K),
        1_000_000_000..100_000_000_000 => format!("{:>8}M", n / M),
        100_000_000_000..100_000_000_000_000 => format!("{:>8}G", n / G),
        _ => format!("{:>8}T", n / T),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_truncated() {
        for (n, short, exact) in [
            (0, "        0", "        0"),
            (99_999_999, " 99999999", " 99999999"),
            (100_000_001, " 100000K", " 100000001"),
            (99_999_999_999, "  99999M", " 99999999999"),
            (100_000_000_000, "    100G", " 100000000000"),
            (u64::MAX, "18446744T", " 18446744073709551615"),
        ] {
            assert_eq!(large(n, false).trim_start(), short.trim_start());
            assert_eq!(large(n, false).len(), 9);
            assert_eq!(large(n, true), exact);
        }
    }
}
