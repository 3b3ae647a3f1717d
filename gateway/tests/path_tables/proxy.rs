//! Headers of the PROXY protocol.

use std::net::{IpAddr, SocketAddr};

/// The PROXY header that a payload begins with, in words.
pub fn read(payload: &[u8]) -> Option<String> {
    payload.strip_prefix(b"PROXY ").map_or_else(|| version_2(payload), version_1)
}

fn version_1(text: &[u8]) -> Option<String> {
    let line = std::str::from_utf8(text.split(|b| *b == b'\r').next()?).ok()?;
    let &[family, from, to, sport, dport] = line.split(' ').collect::<Vec<_>>().as_slice() else {
        return None;
    };
    let end = |address: &str, port: &str| Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?));
    let (from, to) = (end(from, sport)?, end(to, dport)?);
    (family == if from.is_ipv6() { "TCP6" } else { "TCP4" }).then(|| format!("proxy1={from}>{to}"))
}

fn version_2(payload: &[u8]) -> Option<String> {
    let rest =
        payload.strip_prefix(&[0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a])?;
    let (&[0x21, kind, high, low], rest) = rest.split_first_chunk::<4>()? else { return None };
    let body = rest.get(..usize::from(u16::from_be_bytes([high, low])))?;
    // Behind the addresses and ports there may be more.
    let half = if kind >> 4 == 2 { 16 } else { 4 };
    let body = body.get(..2 * half + 4)?;
    let address = |part: &[u8]| match <[u8; 4]>::try_from(part) {
        Ok(v4) => Some(IpAddr::from(v4)),
        Err(_) => <[u8; 16]>::try_from(part).ok().map(IpAddr::from),
    };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let from = SocketAddr::new(address(&body[..half])?, port(2 * half));
    let to = SocketAddr::new(address(&body[half..2 * half])?, port(2 * half + 2));
    let kind = match (kind >> 4, kind & 15) {
        (family, 1) if (family == 2) == from.is_ipv6() => "proxy2",
        (family, 2) if (family == 2) == from.is_ipv6() => "proxy2-datagram",
        _ => return None,
    };
    Some(format!("{kind}={from}>{to}"))
}
