//! What the kernel would refuse, in the order in which it looks (`net/netfilter/ipvs/ip_vs_ctl.c`, Linux 6.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_api::{
    model::{
        ClientAddress, Family, Forwarding, LocalAddress, Protocol, Server, Service, ServiceKey, Timeouts,
        Tunnel, TunnelKind, is_scheduler,
    },
    protocol::{ErrorCode, Refusal},
};

use crate::control::plane::{AddressKind, Plane};

/// Persistence engine names that `--pe` takes.
pub const ENGINES: [&str; 1] = ["sip"];

/// Longest time-out in seconds: what fits into a signed 32-bit number of ticks.
const MAX_TIMEOUT: u32 = i32::MAX as u32 / crate::clock::TICKS_PER_SECOND;

/// Scheduler, persistence engine, mask.
pub(super) fn service(service: &Service) -> Result<(), Refusal> {
    if !is_scheduler(&service.scheduler) {
        return Err(unknown("scheduler", &service.scheduler));
    }
    if let Some(engine) = &service.engine
        && !ENGINES.contains(&engine.as_str())
    {
        return Err(unknown("persistence engine", engine));
    }
    if service.key.family() == Family::V6 && !(1..=128).contains(&service.netmask) {
        return Err(invalid(format!("IPv6 prefix length {}", service.netmask)));
    }
    if service.persistent.is_some_and(|seconds| seconds > MAX_TIMEOUT) {
        return Err(invalid("persistence time-out too long"));
    }
    Ok(())
}

/// Whether servers of this service can learn the client's address so.
pub(super) fn client_address(key: &ServiceKey, how: ClientAddress) -> Result<(), Refusal> {
    if how == ClientAddress::None {
        return Ok(());
    }
    match (how, key) {
        (_, ServiceKey::Address { protocol: Protocol::Tcp, .. } | ServiceKey::Mark { .. }) => Ok(()),
        (ClientAddress::ProxyV2, ServiceKey::Address { protocol: Protocol::Udp, .. }) => Ok(()),
        (ClientAddress::Toa, _) => Err(invalid("TOA is a TCP option: it needs a TCP service or a mark")),
        (ClientAddress::ProxyV1, _) => Err(invalid("PROXY version 1 needs a TCP service or a mark")),
        _ => Err(invalid("PROXY version 2 needs a TCP or UDP service or a mark")),
    }
}

/// Numbers and family of a server, whether added or edited.
pub(super) fn server(server: &Server, family: Family) -> Result<(), Refusal> {
    let tunnel = match server.forwarding {
        Forwarding::Tunnel(tunnel) => Some(tunnel),
        _ => None,
    };
    let may_mix = tunnel.is_some() || server.forwarding == Forwarding::FullNat;
    if !may_mix && server.address.is_ipv4() != (family == Family::V4) {
        return Err(invalid("only tunnels and FULLNAT reach servers of the other address family"));
    }
    if server.weight > i32::MAX as u32 {
        return Err(Refusal::new(ErrorCode::OutOfRange, format!("weight {}", server.weight)));
    }
    if server.lower > server.upper {
        let detail = format!("lower threshold {} above the upper {}", server.lower, server.upper);
        return Err(Refusal::new(ErrorCode::OutOfRange, detail));
    }
    if matches!(tunnel, Some(Tunnel { kind: TunnelKind::Gue, port: 0, .. })) {
        return Err(invalid("a GUE tunnel needs a port"));
    }
    Ok(())
}

/// A new server's address, or a local address: one's own or unicast.
pub(super) fn unicast(address: IpAddr, plane: &impl Plane) -> Result<(), Refusal> {
    let fine = match address {
        IpAddr::V4(a) => unicast_v4(a) && plane.address_kind(address) != AddressKind::Broadcast,
        IpAddr::V6(a) => {
            unicast_v6(a) || matches!(plane.address_kind(address), AddressKind::Own | AddressKind::Port)
        }
    };
    if fine { Ok(()) } else { Err(invalid(format!("{address} isn't a unicast address"))) }
}

/// As Linux since 5.3: of 0/8 only the unspecified address isn't a host's.
fn unicast_v4(a: Ipv4Addr) -> bool {
    !a.is_unspecified() && !a.is_multicast() && !a.is_broadcast()
}

fn unicast_v6(a: Ipv6Addr) -> bool {
    !a.is_unspecified() && !a.is_multicast() && !a.is_unicast_link_local() && a.to_ipv4_mapped().is_none()
}

/// A local address and its port's name.
pub(super) fn local_address(local: &LocalAddress, plane: &impl Plane) -> Result<(), Refusal> {
    unicast(local.address, plane)?;
    match &local.interface {
        Some(name) if !plane.has_port(name) => Err(Refusal::new(ErrorCode::NoSuchPort, name.clone())),
        _ => Ok(()),
    }
}

/// `--set`.
pub(super) fn timeouts(t: &Timeouts) -> Result<(), Refusal> {
    match [t.tcp, t.tcp_fin, t.udp].into_iter().max() {
        Some(longest) if longest > MAX_TIMEOUT => Err(invalid(format!("time-out of {longest} s"))),
        _ => Ok(()),
    }
}

fn unknown(what: &str, name: &str) -> Refusal {
    Refusal::new(ErrorCode::UnknownScheduler, format!("{what} {name:?}"))
}

fn invalid(detail: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidOperation, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_addresses() {
        for bad in ["0.0.0.0", "224.0.0.5", "255.255.255.255"] {
            assert!(!unicast_v4(bad.parse().unwrap()), "{bad}");
        }
        for good in ["127.0.0.1", "0.1.2.3", "240.0.0.1", "10.0.0.255"] {
            assert!(unicast_v4(good.parse().unwrap()), "{good}");
        }
        for bad in ["::", "fe80::5", "ff02::5", "::ffff:10.0.0.1"] {
            assert!(!unicast_v6(bad.parse().unwrap()), "{bad}");
        }
        for good in ["::1", "::10.0.0.1", "2001:db8::1", "fd00::1"] {
            assert!(unicast_v6(good.parse().unwrap()), "{good}");
        }
    }
}
