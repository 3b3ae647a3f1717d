//! SNAT rules in words.
//!
//! ```text
//! snat add NAME --inside NET --port NAME --pool ADDRESSES [OPTION..]     snat delete NAME     snat clear
//!
//! ADDRESSES: 192.0.2.1, 192.0.2.1-192.0.2.8, several with commas between; `port': the port's own (masquerading)
//! --protocol tcp|udp|icmp   --except NET   --mapping endpoint-independent|address-and-port-dependent
//! --filtering (the same)    --pooling paired|arbitrary   --max-ports N   --max-sessions N
//! --timeout-udp SECONDS   --timeout-dns   --timeout-tcp-established   --timeout-tcp-transitory   --timeout-icmp
//! ```
//!
//! So `weirctl` takes them, `weirctl snat list` prints them, and a rules file holds them.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
};

use crate::{
    model::snat::{DEFAULT_PORTS, Dependence, Kind, Pooling, SnatRule, SnatTimeouts, width},
    protocol::Change,
};

/// The pool that is the outside port's own address.
pub const OWN: &str = "port";

/// The change that the words after `snat` ask for.
///
/// # Errors
/// What is wrong with them.
pub fn parse(words: &[&str]) -> Result<Change, String> {
    match words {
        ["add", name, options @ ..] => Ok(Change::AddSnat(parse_rule(name, options)?)),
        ["delete", name] => Ok(Change::DeleteSnat((*name).to_owned())),
        ["clear"] => Ok(Change::ClearSnat),
        _ => Err("snat takes `add NAME ...', `delete NAME' or `clear'".into()),
    }
}

fn parse_rule(name: &str, words: &[&str]) -> Result<SnatRule, String> {
    let (mut inside, mut port) = (None, None);
    let mut rule = SnatRule {
        name: name.into(),
        inside: (Ipv4Addr::UNSPECIFIED.into(), 0),
        port: String::new(),
        pool: Vec::new(),
        protocol: None,
        except: Vec::new(),
        mapping: Dependence::default(),
        filtering: Dependence::default(),
        pooling: Pooling::default(),
        max_ports: DEFAULT_PORTS,
        max_sessions: 0,
        timeouts: SnatTimeouts::default(),
        masquerade: false,
    };
    let mut words = words.iter();
    while let Some(&option) = words.next() {
        let Some(&value) = words.next() else { return Err(format!("{option} needs a value")) };
        let number = || value.parse().map_err(|_| format!("`{value}' isn't a value for {option}"));
        match option {
            "--inside" => inside = Some(network(value)?),
            "--port" => port = Some(value.to_owned()),
            "--pool" if value == OWN => rule.masquerade = true,
            "--pool" => rule.pool.extend(pool(value)?),
            "--protocol" => rule.protocol = Some(kind(value)?),
            "--except" => rule.except.push(network(value)?),
            "--mapping" => rule.mapping = dependence(value)?,
            "--filtering" => rule.filtering = dependence(value)?,
            "--pooling" => rule.pooling = pooling(value)?,
            "--max-ports" => rule.max_ports = number()?,
            "--max-sessions" => rule.max_sessions = number()?,
            _ => match option.strip_prefix("--").and_then(|name| rule.timeouts.by_name(name)) {
                Some(seconds) => *seconds = number()?,
                None => return Err(format!("snat has no option `{option}'")),
            },
        }
    }
    rule.inside = inside.ok_or("--inside NET is missing: the inside network")?;
    rule.port = port.ok_or("--port NAME is missing: the port that leads outside")?;
    rule.check().map(|()| rule)
}

/// A network.
///
/// # Errors
/// What is wrong with it.
pub fn network(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let parsed = address.parse::<IpAddr>().map(|a| (a, bits.map_or(Ok(width(a)), str::parse)));
    match parsed {
        Ok((address, Ok(bits))) if bits <= width(address) => Ok((address, bits)),
        _ => Err(format!("`{text}' isn't a network: ADDRESS/BITS")),
    }
}

/// Ranges of addresses.
///
/// # Errors
/// What is wrong with them.
pub fn pool(text: &str) -> Result<Vec<(IpAddr, IpAddr)>, String> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<IpAddr>(), last.parse::<IpAddr>()) {
            (Ok(first), Ok(last)) if first <= last && first.is_ipv6() == last.is_ipv6() => Ok((first, last)),
            _ => Err(format!(
                "`{part}' isn't an address or a range: 192.0.2.1, 192.0.2.1-192.0.2.8 or, alone, port"
            )),
        }
    };
    text.split(',').map(range).collect()
}

/// A protocol by its name.
///
/// # Errors
/// That it isn't one.
pub fn kind(name: &str) -> Result<Kind, String> {
    match name {
        "tcp" => Ok(Kind::Tcp),
        "udp" => Ok(Kind::Udp),
        "icmp" => Ok(Kind::Icmp),
        _ => Err(format!("`{name}' isn't a protocol of SNAT: tcp, udp or icmp")),
    }
}

/// A dependence by its name.
///
/// # Errors
/// That it isn't one.
pub fn dependence(name: &str) -> Result<Dependence, String> {
    match name {
        "endpoint-independent" => Ok(Dependence::EndpointIndependent),
        "address-and-port-dependent" => Ok(Dependence::AddressAndPortDependent),
        _ => Err(format!("`{name}': endpoint-independent or address-and-port-dependent")),
    }
}

/// A pooling by its name.
///
/// # Errors
/// That it isn't one.
pub fn pooling(name: &str) -> Result<Pooling, String> {
    match name {
        "paired" => Ok(Pooling::Paired),
        "arbitrary" => Ok(Pooling::Arbitrary),
        _ => Err(format!("`{name}': paired or arbitrary")),
    }
}

/// The name of a protocol.
#[must_use]
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Tcp => "tcp",
        Kind::Udp => "udp",
        Kind::Icmp => "icmp",
    }
}

/// The name of a dependence.
#[must_use]
pub fn dependence_name(dependence: Dependence) -> &'static str {
    match dependence {
        Dependence::EndpointIndependent => "endpoint-independent",
        Dependence::AddressAndPortDependent => "address-and-port-dependent",
    }
}

/// The name of a pooling.
#[must_use]
pub fn pooling_name(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::Paired => "paired",
        Pooling::Arbitrary => "arbitrary",
    }
}

/// A rule's pool as `--pool` takes it.
#[must_use]
pub fn pool_text(rule: &SnatRule) -> String {
    if rule.masquerade {
        return OWN.into();
    }
    let range = |(a, b): &(IpAddr, IpAddr)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    rule.pool.iter().map(range).collect::<Vec<_>>().join(",")
}

/// A rule's options: options and values, those that aren't the default.
#[must_use]
pub fn facts(rule: &SnatRule) -> Vec<(&'static str, String)> {
    let network = |(address, bits): &(IpAddr, u8)| format!("{address}/{bits}");
    let mut facts =
        vec![("inside", network(&rule.inside)), ("port", rule.port.clone()), ("pool", pool_text(rule))];
    facts.extend(rule.protocol.map(|kind| ("protocol", kind_name(kind).to_owned())));
    facts.extend(rule.except.iter().map(|net| ("except", network(net))));
    let usual = SnatTimeouts::default().all();
    let timeouts = rule.timeouts.all().into_iter().zip(usual);
    let unusual = [
        ("mapping", rule.mapping != Dependence::default(), dependence_name(rule.mapping).to_owned()),
        ("filtering", rule.filtering != Dependence::default(), dependence_name(rule.filtering).to_owned()),
        ("pooling", rule.pooling != Pooling::default(), pooling_name(rule.pooling).to_owned()),
        ("max-ports", rule.max_ports != DEFAULT_PORTS, rule.max_ports.to_string()),
        ("max-sessions", rule.max_sessions != 0, rule.max_sessions.to_string()),
    ]
    .into_iter()
    .chain(
        timeouts.map(|((option, seconds, _), (_, usual, _))| (option, seconds != usual, seconds.to_string())),
    );
    facts.extend(unusual.filter(|(_, unusual, _)| *unusual).map(|(option, _, value)| (option, value)));
    facts
}

/// A rule as `snat add` takes it.
#[must_use]
pub fn to_words(rule: &SnatRule) -> String {
    let mut line = format!("snat add {}", rule.name);
    for (option, value) in facts(rule) {
        // Writing to a string can't fail.
        let _ = write!(line, " --{option} {value}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(line: &str) -> Result<Change, String> {
        parse(&line.split(' ').collect::<Vec<_>>())
    }

    #[test]
    fn what_is_listed_can_be_added() {
        for line in [
            "snat add office --inside 10.0.0.0/8 --port wan --pool 192.0.2.1",
            "snat add lab --inside 10.9.0.0/16 --port wan --pool 192.0.2.1-192.0.2.8,192.0.2.20 --protocol icmp \
             --except 172.16.0.0/12 --except 192.168.0.0/16 --mapping address-and-port-dependent \
             --filtering address-and-port-dependent --pooling arbitrary --max-ports 128 --max-sessions 9",
            "snat add home --inside 10.0.0.0/8 --port wan --pool port --max-ports 128",
            "snat add home6 --inside fd00:1::/32 --port wan --pool port",
            "snat add resolver --inside 10.0.0.53/32 --port wan --pool 192.0.2.9 --max-ports 64512 --timeout-udp 120 \
             --timeout-dns 5 --timeout-tcp-established 9000 --timeout-tcp-transitory 250 --timeout-icmp 61",
            "snat add six --inside fd00:1::/32 --port wan --pool 2001:db8::1-2001:db8::8 --except fd00::/8",
        ] {
            let Ok(Change::AddSnat(rule)) = change(line.strip_prefix("snat ").unwrap()) else {
                panic!("{line}")
            };
            assert_eq!(to_words(&rule), line);
        }
        assert_eq!(change("delete office"), Ok(Change::DeleteSnat("office".into())));
        assert_eq!(change("clear"), Ok(Change::ClearSnat));
    }

    #[test]
    fn errors_are_reported() {
        let good = "add office --inside 10.0.0.0/8 --port wan --pool 192.0.2.1";
        for (line, why) in [
            ("add", "snat takes `add NAME ...', `delete NAME' or `clear'".to_owned()),
            ("add office --port wan --pool 192.0.2.1", "--inside NET is missing: the inside network".into()),
            (
                "add office --inside 10.0.0.0/8 --pool 192.0.2.1",
                "--port NAME is missing: the port that leads outside".into(),
            ),
            ("add office --inside 10.0.0.0/8 --port wan", "a pool of 0 addresses: 1 to 256".into()),
            (
                &format!("{good} --inside 2001:db8::/32"),
                "192.0.2.1 and the inside network are of different address families".into(),
            ),
            (
                &format!("{good} --pool 2001:db8::1"),
                "2001:db8::1 and the inside network are of different address families".into(),
            ),
            (
                "add six --inside fd00::/8 --port wan --pool 2001:db8::-2001:db9::",
                "a pool of 79228162514264337593543950337 addresses: 1 to 256".into(),
            ),
            (
                "add six --inside fd00::/8 --port wan --pool fdff::1",
                "fdff::1 of the pool lies in the inside network".into(),
            ),
            (&format!("{good} --inside 10.0.0.0/33"), "`10.0.0.0/33' isn't a network: ADDRESS/BITS".into()),
            (&format!("{good} --pool 10.0.0.9"), "10.0.0.9 of the pool lies in the inside network".into()),
            (&format!("{good} --max-ports 0"), "0 ports an inside address: 1 to 64512".into()),
            (&format!("{good} --max-ports 64513"), "64513 ports an inside address: 1 to 64512".into()),
            (&format!("{good} --pool port"), "--pool is either `port' or addresses".into()),
            (&format!("{good} --timeout-udp 0"), "--timeout-udp 0: 1 to 2592000 seconds".into()),
            (&format!("{good} --timeout-dns 2592001"), "--timeout-dns 2592001: 1 to 2592000 seconds".into()),
            (&format!("{good} --timeout-icmp soon"), "`soon' isn't a value for --timeout-icmp".into()),
            (&format!("{good} --max-ports many"), "`many' isn't a value for --max-ports".into()),
            (&format!("{good} --colour blue"), "snat has no option `--colour'".into()),
            (&format!("{good} --pool"), "--pool needs a value".into()),
        ] {
            assert_eq!(change(line), Err(why), "{line}");
        }
    }

    #[test]
    fn time_outs_below_what_the_rfcs_allow_are_warned_of() {
        let warnings = |options: &str| {
            let line = format!("add office --inside 10.0.0.0/8 --port wan --pool 192.0.2.1 {options}");
            match change(line.trim()) {
                Ok(Change::AddSnat(rule)) => rule.warnings(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(warnings(""), [""; 0]);
        for (option, least, rfc) in [
            ("timeout-udp", 120, "RFC 4787, REQ-5"),
            ("timeout-tcp-established", 7440, "RFC 5382, REQ-5"),
            ("timeout-tcp-transitory", 240, "RFC 5382, REQ-5"),
            ("timeout-icmp", 60, "RFC 5508, REQ-2"),
        ] {
            let below = least - 1;
            let expected = format!("--{option} {below} is shorter than the {least} seconds of {rfc}");
            assert_eq!(warnings(&format!("--{option} {below}")), [expected]);
            assert_eq!(warnings(&format!("--{option} {least}")), [""; 0]);
        }
        assert_eq!(warnings("--timeout-dns 1"), [""; 0]);
        assert_eq!(warnings("--timeout-udp 1 --timeout-icmp 1").len(), 2);
    }
}
