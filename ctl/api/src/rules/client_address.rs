//! How FULLNAT servers learn the client's address, in words.
//!
//! ```text
//! client-address SERVICE none|toa|proxy-v1|proxy-v2        SERVICE: tcp/ADDRESS:PORT, udp/.., mark/N, mark6/N
//! ```
//!
//! So `weirctl` takes it, `weirctl client-address` prints it, and a rules file holds it.

use std::net::SocketAddr;

use super::mark;
use crate::{
    model::{ClientAddress, Family, ServiceKey},
    protocol::Change,
};

/// The ways, by name.
pub const WAYS: [(&str, ClientAddress); 4] = [
    ("none", ClientAddress::None),
    ("toa", ClientAddress::Toa),
    ("proxy-v1", ClientAddress::ProxyV1),
    ("proxy-v2", ClientAddress::ProxyV2),
];

/// The change that the words after `client-address` ask for.
///
/// # Errors
/// What is wrong with them.
pub fn parse(words: &[&str]) -> Result<Change, String> {
    match words {
        [of, how] => Ok(Change::SetClientAddress { service: service(of)?, how: way(how)? }),
        _ => Err("client-address takes a service and none, toa, proxy-v1 or proxy-v2".into()),
    }
}

/// A way by its name.
///
/// # Errors
/// That there is none of this name.
pub fn way(name: &str) -> Result<ClientAddress, String> {
    WAYS.iter()
        .find(|(n, _)| *n == name)
        .map(|(_, how)| *how)
        .ok_or_else(|| format!("`{name}' isn't none, toa, proxy-v1 or proxy-v2"))
}

/// The name of a way.
#[must_use]
pub fn name(how: ClientAddress) -> &'static str {
    match how {
        ClientAddress::None => "none",
        ClientAddress::Toa => "toa",
        ClientAddress::ProxyV1 => "proxy-v1",
        ClientAddress::ProxyV2 => "proxy-v2",
    }
}

/// A service by its complete name.
///
/// # Errors
/// That it isn't one.
pub fn service(text: &str) -> Result<ServiceKey, String> {
    let wrong = || format!("`{text}' isn't a service: tcp/ADDRESS:PORT, mark/N or mark6/N");
    let (kind, rest) = text.split_once('/').ok_or_else(wrong)?;
    let family = match kind {
        "mark" => Family::V4,
        "mark6" => Family::V6,
        _ => {
            let protocol = mark::protocol(kind).ok_or_else(wrong)?;
            let place: SocketAddr = rest.parse().map_err(|_| wrong())?;
            return Ok(ServiceKey::Address { protocol, address: place.ip(), port: place.port() });
        }
    };
    let mark = mark::number(rest).filter(|&m| m != 0).ok_or_else(wrong)?;
    Ok(ServiceKey::Mark { mark, family })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_errors_reported() {
        let vip: SocketAddr = "192.0.2.10:80".parse().unwrap();
        let key = ServiceKey::Address {
            protocol: crate::model::Protocol::Tcp,
            address: vip.ip(),
            port: vip.port(),
        };
        for (text, how) in WAYS {
            let change = parse(&["tcp/192.0.2.10:80", text]);
            assert_eq!(change, Ok(Change::SetClientAddress { service: key, how }));
            assert_eq!(name(how), text);
        }
        assert_eq!(service("mark6/7"), Ok(ServiceKey::Mark { mark: 7, family: Family::V6 }));
        for words in
            [&["tcp/192.0.2.10", "toa"][..], &["mark/0", "toa"], &["mark/1", "proxy-v3"], &["mark/1"]]
        {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
