//! Services, servers and durations as operators write and read them.
//!
//! ```text
//! tcp/192.0.2.10:80   udp/[2001:db8::1]:53   sctp/192.0.2.10:0   mark/7   mark6/7
//! 10.0.0.1:8080       [2001:db8::1]:8080
//! ```

use std::net::{IpAddr, SocketAddr};

use weir_api::{
    documents::configuration::AddressPort,
    model::{Family, Network, Protocol, ServiceKey},
};

/// A service as it is written.
#[must_use]
pub fn service(key: &ServiceKey) -> String {
    key.to_string()
}

/// An address and a port.
#[must_use]
pub fn endpoint(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// What a service was given as: its key, or an address whose protocol has to be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceName {
    /// Said completely.
    Key(ServiceKey),
    /// Without protocol.
    Address(IpAddr, u16),
}

/// Reads a service: `tcp/ADDRESS:PORT`, `mark/N`, `mark6/N`, or `ADDRESS:PORT` alone.
///
/// # Errors
/// What is wrong with it.
pub fn parse_service(text: &str) -> Result<ServiceName, String> {
    let Some((kind, rest)) = text.split_once('/') else {
        let (address, port) = parse_endpoint(text)?;
        let port =
            port.ok_or_else(|| format!("{text} has no port: write tcp/{text}:80, or :0 for all ports"))?;
        return Ok(ServiceName::Address(address, port));
    };
    let mark = |family| match rest.parse() {
        Ok(mark) if mark != 0 => Ok(ServiceName::Key(ServiceKey::Mark { mark, family })),
        _ => Err(format!("{rest} isn't a mark: 1 to {}", u32::MAX)),
    };
    let protocol = match kind {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        "mark" => return mark(Family::V4),
        "mark6" => return mark(Family::V6),
        _ => {
            let near = nearest(kind, &["tcp", "udp", "sctp", "mark", "mark6"]);
            return Err(format!("{kind} isn't a kind of service{}", did_you_mean(near)));
        }
    };
    let (address, port) = parse_endpoint(rest)?;
    let port = port.ok_or_else(|| format!("{text} has no port: write {text}:80, or :0 for all ports"))?;
    Ok(ServiceName::Key(ServiceKey::Address { protocol, address, port }))
}

/// Reads `ADDRESS`, `ADDRESS:PORT` or `[V6]:PORT`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_endpoint(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    text.parse().map(|AddressPort(address, port)| (address, port))
}

/// Reads `ADDRESS:PORT` or `[V6]:PORT`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_place(text: &str) -> Result<(IpAddr, u16), String> {
    match parse_endpoint(text)? {
        (address, Some(port)) => Ok((address, port)),
        (address, None) => Err(format!("{text} has no port: write {}", endpoint(address, 80))),
    }
}

/// Reads `ADDRESS` or `ADDRESS/BITS`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_network(text: &str) -> Result<Network, String> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| format!("{address} isn't an address"))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => most,
        Some(bits) => match bits.parse() {
            Ok(bits) if bits <= most => bits,
            _ => return Err(format!("{bits} isn't a prefix length: 0 to {most}")),
        },
    };
    Ok(Network { address, bits })
}

/// Reads a duration: `90`, `90s`, `15m`, `2h`, `1d`, `1h30m`. In seconds.
///
/// # Errors
/// What is wrong with it.
pub fn parse_seconds(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text} isn't a duration: 90, 90s, 15m, 2h, 1d or 1h30m");
    let (mut total, mut rest) = (0u64, text);
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(seconds);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|n| *n > 0).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest.as_bytes()[digits] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            _ => return Err(wrong()),
        };
        total = total.saturating_add(number.saturating_mul(unit));
        rest = &rest[digits + 1..];
    }
    match u32::try_from(total) {
        Ok(seconds) if !text.is_empty() && seconds <= u32::MAX / 100 => Ok(seconds),
        _ => Err(wrong()),
    }
}

/// Seconds as a person writes them: `0s`, `59s`, `3m05s`, `2h00m`, `5d03h`.
#[must_use]
pub fn seconds(seconds: u64) -> String {
    let (d, h, m, s) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match () {
        () if d > 0 => format!("{d}d{h:02}h"),
        () if h > 0 => format!("{h}h{m:02}m"),
        () if m > 0 => format!("{m}m{s:02}s"),
        () => format!("{s}s"),
    }
}

/// A number in four or five characters: `999`, `12.3k`, `4.0M`.
#[must_use]
pub fn short(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["", "k", "M", "G", "T", "P"] {
        if value < 999.5 || unit == "P" {
            return if unit.is_empty() {
                n.to_string()
            } else if value < 99.95 {
                format!("{value:.1}{unit}")
            } else {
                format!("{value:.0}{unit}")
            };
        }
        value /= 1000.0;
    }
    n.to_string()
}

/// The candidate that `word` most likely meant, if any is near.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let near = candidates.iter().map(|c| (distance(word, c), *c)).min()?;
    (near.0 <= near.1.len().max(word.len()) / 2).then_some(near.1)
}

/// `: did you mean X?`, or nothing.
#[must_use]
pub fn did_you_mean(near: Option<&str>) -> String {
    near.map(|n| format!(": did you mean {n}?")).unwrap_or_default()
}

/// How many letters to add, remove, replace, or exchange with the next one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_written_as_they_are_read() {
        for text in ["tcp/192.0.2.10:80", "udp/[2001:db8::1]:53", "sctp/192.0.2.10:0", "mark/7", "mark6/9"] {
            let Ok(ServiceName::Key(key)) = parse_service(text) else { panic!("{text}") };
            assert_eq!(service(&key), text);
        }
        assert_eq!(parse_service("192.0.2.10:80"), Ok(ServiceName::Address([192, 0, 2, 10].into(), 80)));
        for (text, why) in [
            ("tpc/192.0.2.10:80", "tpc isn't a kind of service: did you mean tcp?"),
            ("tcp/192.0.2.10", "tcp/192.0.2.10 has no port: write tcp/192.0.2.10:80, or :0 for all ports"),
            ("tcp/192.0.2.10:99999", "99999 isn't a port: 0 to 65535"),
            ("tcp/192.0.2:80", "192.0.2:80 isn't an address, ADDRESS:PORT or [V6ADDRESS]:PORT"),
            ("mark/0", "0 isn't a mark: 1 to 4294967295"),
        ] {
            assert_eq!(parse_service(text), Err(why.into()));
        }
    }

    #[test]
    fn networks() {
        let all = Network { address: [10, 0, 0, 0].into(), bits: 8 };
        assert_eq!(parse_network("10.0.0.0/8"), Ok(all));
        assert_eq!(parse_network("::1").unwrap().bits, 128);
        assert!(parse_network("10.0.0.0/33").is_err() && parse_network("x/8").is_err());
    }

    #[test]
    fn durations() {
        for (text, n) in [("90", 90), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("2d", 172_800)] {
            assert_eq!(parse_seconds(text), Ok(n), "{text}");
        }
        for bad in ["", "s", "1x", "m5", "99999999999", "-1", "9999999d"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
        let shown = [0, 59, 185, 7200, 443_000].map(seconds);
        assert_eq!(shown, ["0s", "59s", "3m05s", "2h00m", "5d03h"]);
    }

    #[test]
    fn short_numbers() {
        let shown = [0, 999, 1000, 12_345, 999_499, 999_600, 4_000_000_000].map(short);
        assert_eq!(shown, ["0", "999", "1.0k", "12.3k", "999k", "1.0M", "4.0G"]);
    }

    #[test]
    fn the_nearest_right_thing() {
        assert_eq!(nearest("wcl", &["rr", "wlc", "wrr"]), Some("wlc"));
        assert_eq!(nearest("fulnat", &["fullnat", "nat"]), Some("fullnat"));
        assert_eq!(nearest("banana", &["rr", "wlc"]), None);
    }
}
