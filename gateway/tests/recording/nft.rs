//! Netfilter marks packets for the kernel; here mark rules do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_api::model::{MarkRule, Protocol};

/// The priority of a chain's first rule that is not the last word about what it matches: a later one
/// marks anew, so it comes before.
const LAST: u32 = 1_000_000;

/// The words of a shell's line, without their quotes.
pub fn shell_words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                let held = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        None => return Err(format!("{line}: a quote has no end")),
                        Some(end) if end == c => break,
                        Some('\\') if c == '"' => held.extend(chars.next()),
                        Some(other) => held.push(other),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// nft's words: braces, commas and semicolons are some.
fn tokens(line: &str) -> Vec<String> {
    let spaced: String = line
        .chars()
        .flat_map(|c| {
            if "{},;".contains(c) {
                vec![' ', c, ' ']
            } else if c == '"' {
                vec![]
            } else {
                vec![c]
            }
        })
        .collect();
    spaced.split_whitespace().map(str::to_owned).collect()
}

/// What a rule matches so far, each a choice of several.
struct Rule {
    protocols: Vec<Option<Protocol>>,
    sources: Vec<Option<(IpAddr, u8)>>,
    destinations: Vec<Option<(IpAddr, u8)>>,
    source_ports: Vec<Option<(u16, u16)>>,
    destination_ports: Vec<Option<(u16, u16)>>,
    mark: Option<u32>,
    last_word: bool,
}

/// The mark rules of a command, whose first is number `n` of the recording's.
pub fn rules(words: &[String], n: usize) -> Result<Vec<MarkRule>, String> {
    let line = words.join(" ");
    let all = tokens(&line);
    match all.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["add" | "create", "table" | "chain", ..] => Ok(Vec::new()),
        ["add", "rule", family @ ("ip" | "ip6" | "inet"), _, _, rest @ ..] => {
            rule(family, rest).map_err(|e| format!("{line}: {e}"))?.expand(n)
        }
        _ => Err(format!("nft {line}: not a command that a replay understands")),
    }
}

fn rule(family: &str, words: &[&str]) -> Result<Rule, String> {
    let mut rule = Rule {
        protocols: vec![None],
        sources: vec![None],
        destinations: vec![None],
        source_ports: vec![None],
        destination_ports: vec![None],
        mark: None,
        last_word: false,
    };
    let mut rest = words;
    while !rest.is_empty() {
        rest = rule.take(rest)?;
    }
    if rule.destinations == [None] && family != "inet" {
        let any: IpAddr =
            if family == "ip" { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        rule.destinations = vec![Some((any, 0))];
    }
    Ok(rule)
}

impl Rule {
    /// Takes one match or statement, and leaves the rest.
    fn take<'a>(&mut self, words: &'a [&'a str]) -> Result<&'a [&'a str], String> {
        let some = |all: Vec<_>| all.into_iter().map(Some).collect();
        match words {
            ["ip" | "ip6", field @ ("saddr" | "daddr"), rest @ ..] => {
                let (values, rest) = values(rest)?;
                let mut networks = Vec::new();
                for value in values {
                    networks.extend(addresses(value)?.into_iter().map(Some));
                }
                *(if *field == "saddr" { &mut self.sources } else { &mut self.destinations }) = networks;
                Ok(rest)
            }
            [of @ ("tcp" | "udp" | "sctp" | "th"), field @ ("sport" | "dport"), rest @ ..] => {
                let (values, rest) = values(rest)?;
                let ports = values.into_iter().map(ports).collect::<Result<Vec<_>, _>>()?;
                if *of != "th" {
                    self.protocols = vec![Some(protocol(of)?)];
                }
                *(if *field == "sport" { &mut self.source_ports } else { &mut self.destination_ports }) =
                    some(ports);
                Ok(rest)
            }
            ["ip", "protocol", rest @ ..]
            | ["ip6", "nexthdr", rest @ ..]
            | ["meta", "l4proto", rest @ ..] => {
                let (values, rest) = values(rest)?;
                self.protocols =
                    values.into_iter().map(|v| protocol(v).map(Some)).collect::<Result<_, _>>()?;
                Ok(rest)
            }
            ["meta", "mark", "set", mark, rest @ ..] | ["mark", "set", mark, rest @ ..] => {
                let number = match mark.strip_prefix("0x") {
                    Some(digits) => u32::from_str_radix(digits, 16),
                    None => mark.parse(),
                };
                self.mark = Some(number.map_err(|_| format!("{mark} is no mark"))?);
                Ok(rest)
            }
            ["counter", rest @ ..] => Ok(rest),
            ["accept" | "return"] => {
                self.last_word = true;
                Ok(&[])
            }
            other => Err(format!("{other:?} isn't understood")),
        }
    }

    /// Every combination, as rules of one alternative each.
    fn expand(self, n: usize) -> Result<Vec<MarkRule>, String> {
        let mark = self.mark.ok_or("a rule that marks nothing")?;
        let n = n as u32;
        let mut all = Vec::new();
        for &protocol in &self.protocols {
            for &source in &self.sources {
                for &destination in &self.destinations {
                    for &source_ports in &self.source_ports {
                        all.extend(self.destination_ports.iter().map(|&destination_ports| MarkRule {
                            mark,
                            priority: if self.last_word { n } else { LAST - n },
                            protocol,
                            source,
                            destination,
                            source_ports,
                            destination_ports,
                            port: None,
                        }));
                    }
                }
            }
        }
        Ok(all)
    }
}

/// A value, or a set of them.
fn values<'a>(words: &'a [&'a str]) -> Result<(Vec<&'a str>, &'a [&'a str]), String> {
    match words {
        ["{", rest @ ..] => {
            let end = rest.iter().position(|w| *w == "}").ok_or("a set has no end")?;
            Ok((rest[..end].iter().copied().filter(|w| *w != ",").collect(), &rest[end + 1..]))
        }
        ["!=" | "<" | ">" | "<=" | ">=", ..] => Err(format!("{} isn't understood", words[0])),
        [one, rest @ ..] => Ok((vec![one], rest)),
        [] => Err("a value is missing".into()),
    }
}

fn protocol(name: &str) -> Result<Protocol, String> {
    match name {
        "tcp" | "6" => Ok(Protocol::Tcp),
        "udp" | "17" => Ok(Protocol::Udp),
        "sctp" | "132" => Ok(Protocol::Sctp),
        _ => Err(format!("{name} is no protocol of services")),
    }
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |name: &str| match name {
        "http" => Ok(80),
        "https" => Ok(443),
        "domain" => Ok(53),
        "ssh" => Ok(22),
        "smtp" => Ok(25),
        "ftp" => Ok(21),
        _ => name.parse().map_err(|_| format!("{name} is no port")),
    };
    Ok((port(first)?, port(last)?))
}

/// An address, a network, or a range as the networks that make it up.
fn addresses(text: &str) -> Result<Vec<(IpAddr, u8)>, String> {
    let wrong = || format!("{text} is no address");
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| wrong());
    if let Some((network, bits)) = text.split_once('/') {
        return Ok(vec![(address(network)?, bits.parse().map_err(|_| wrong())?)]);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (address(first)?, address(last)?);
    let bits = |a: IpAddr| match a {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    };
    let width: u32 = if first.is_ipv4() { 32 } else { 128 };
    let (mut at, last) = (bits(first), bits(last));
    if at > last {
        return Err(wrong());
    }
    let mut networks = Vec::new();
    loop {
        let mut free = at.trailing_zeros().min(width);
        while free > 0 && (free == 128 || at + ((1u128 << free) - 1) > last) {
            free -= 1;
        }
        let network = if width == 32 { IpAddr::V4((at as u32).into()) } else { IpAddr::V6(at.into()) };
        networks.push((network, (width - free) as u8));
        let end = at + ((1u128 << free) - 1);
        if end >= last {
            return Ok(networks);
        }
        at = end + 1;
    }
}
