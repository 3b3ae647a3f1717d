//! Rules that mark packets for firewall-mark services, in words.
//!
//! ```text
//! mark add MARK [OPTION..]     mark delete MARK [OPTION..]     mark clear
//!
//! --priority N   --protocol tcp|udp|sctp   --source NET   --destination NET
//! --source-ports A[-B]   --destination-ports A[-B]   --port NAME
//! ```
//!
//! So `weirctl` takes them, `weirctl mark list` prints them, and a rules file holds them.

use std::{fmt::Write as _, net::IpAddr};

use crate::{
    model::{MarkRule, Protocol},
    protocol::Change,
};

/// The change that the words after `mark` ask for.
///
/// # Errors
/// What is wrong with them.
pub fn parse(words: &[&str]) -> Result<Change, String> {
    match words {
        ["add", rule @ ..] => Ok(Change::AddMark(parse_rule(rule)?)),
        ["delete", rule @ ..] => Ok(Change::DeleteMark(parse_rule(rule)?)),
        ["clear"] => Ok(Change::ClearMarks),
        _ => Err("mark takes `add', `delete' or `clear'".into()),
    }
}

fn parse_rule(words: &[&str]) -> Result<MarkRule, String> {
    let Some((mark, options)) = words.split_first() else { return Err("which mark?".into()) };
    let mut rule = MarkRule {
        mark: number(mark).filter(|&m| m != 0).ok_or_else(|| wrong("mark", mark))?,
        priority: 0,
        protocol: None,
        source: None,
        destination: None,
        source_ports: None,
        destination_ports: None,
        port: None,
    };
    let mut options = options.iter();
    while let Some(&option) = options.next() {
        let Some(&value) = options.next() else { return Err(format!("{option} needs a value")) };
        let bad = || wrong(option, value);
        match option {
            "--priority" => rule.priority = number(value).ok_or_else(bad)?,
            "--protocol" => rule.protocol = Some(protocol(value).ok_or_else(bad)?),
            "--source" => rule.source = Some(network(value).ok_or_else(bad)?),
            "--destination" => rule.destination = Some(network(value).ok_or_else(bad)?),
            "--source-ports" => rule.source_ports = Some(ports(value).ok_or_else(bad)?),
            "--destination-ports" => rule.destination_ports = Some(ports(value).ok_or_else(bad)?),
            "--port" => rule.port = Some(value.to_owned()),
            _ => return Err(format!("mark has no option `{option}'")),
        }
    }
    Ok(rule)
}

fn wrong(what: &str, value: &str) -> String {
    format!("`{value}' isn't a value for {what}")
}

/// A number, decimal, or hexadecimal as marks are often written. Absent if it isn't one.
#[must_use]
pub fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A protocol by its name. Absent if it isn't one.
#[must_use]
pub fn protocol(text: &str) -> Option<Protocol> {
    Some(match text {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    })
}

/// A network, `ADDRESS` or `ADDRESS/BITS`. Absent if it isn't one.
#[must_use]
pub fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let all = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(all);
    (bits <= all).then_some((address, bits))
}

/// A range of ports, `A` or `A-B`. Absent if it isn't one.
#[must_use]
pub fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// A rule's options other than mark and priority: option and value.
#[must_use]
pub fn facts(rule: &MarkRule) -> Vec<(&'static str, String)> {
    let network = |(address, bits): (IpAddr, u8)| format!("{address}/{bits}");
    let ports = |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    let all = [
        ("protocol", rule.protocol.map(|p| p.name().to_owned())),
        ("source", rule.source.map(network)),
        ("destination", rule.destination.map(network)),
        ("source-ports", rule.source_ports.map(ports)),
        ("destination-ports", rule.destination_ports.map(ports)),
        ("port", rule.port.clone()),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// A rule as `mark add` takes it.
#[must_use]
pub fn to_words(rule: &MarkRule) -> String {
    let mut line = format!("mark add {}", rule.mark);
    if rule.priority != 0 {
        let _ = write!(line, " --priority {}", rule.priority);
    }
    for (name, value) in facts(rule) {
        let _ = write!(line, " --{name} {value}");
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
            "mark add 3 --destination 198.51.100.0/24",
            "mark add 4294967295 --priority 7 --protocol udp --source 10.0.0.0/8 --destination 192.0.2.10/32 \
             --source-ports 1024-65535 --destination-ports 53 --port wan",
            "mark add 1 --destination 2001:db8::/32",
        ] {
            let Ok(Change::AddMark(rule)) = change(line.strip_prefix("mark ").unwrap()) else {
                panic!("{line}")
            };
            assert_eq!(to_words(&rule), line);
            let delete = line.replace("mark add", "delete");
            assert_eq!(change(&delete), Ok(Change::DeleteMark(rule)));
        }
        assert_eq!(change("clear"), Ok(Change::ClearMarks));
        let Ok(Change::AddMark(rule)) = change("add 0x10") else { panic!() };
        assert_eq!(rule.mark, 16);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, message) in [
            ("add", "which mark?"),
            ("add 0", "`0' isn't a value for mark"),
            ("add 1 --source", "--source needs a value"),
            ("add 1 --source 10.0.0.0/33", "`10.0.0.0/33' isn't a value for --source"),
            ("add 1 --source-ports 9-8", "`9-8' isn't a value for --source-ports"),
            ("add 1 --protocol icmp", "`icmp' isn't a value for --protocol"),
            ("add 1 --colour red", "mark has no option `--colour'"),
            ("remove 1", "mark takes `add', `delete' or `clear'"),
        ] {
            assert_eq!(change(line), Err(message.into()), "{line}");
        }
    }
}
