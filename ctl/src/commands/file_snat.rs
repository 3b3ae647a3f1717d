//! The SNAT rules of the file that `apply` takes and `export` writes.
//!
//! ```toml
//! [[snat]]
//! name = "office"
//! inside = "10.0.0.0/8"
//! port = "wan"
//! pool = ["192.0.2.1-192.0.2.8", "192.0.2.20"]     # or "port"
//! protocol = "tcp"                   # what is absent is as with `snat add`
//! except = ["172.16.0.0/12"]
//! mapping = "endpoint-independent"
//! filtering = "address-and-port-dependent"
//! pooling = "paired"
//! max_ports = 4096
//! max_sessions = 0
//! timeouts = { udp = 300, dns = 15, tcp_established = 7440, tcp_transitory = 240, icmp = 60 }
//! ```

use std::collections::HashMap;

use toml::Spanned;
use weir_api::{
    documents::{
        configuration::{SnatEntry, SnatPool, SnatTimeoutsEntry},
        parts::network,
    },
    model::snat::{DEFAULT_PORTS, Dependence, Pooling, SnatRule, SnatTimeouts},
    rules::snat::{self, OWN, dependence_name, kind_name, pooling_name},
};

use super::file_error::FileError;

/// A rule with its line.
pub type WantedSnat = (usize, SnatRule);

/// The rules in the file's order.
///
/// # Errors
/// What is wrong with one, or that its name is there twice, and in which line.
pub(super) fn read(
    entries: Vec<Spanned<SnatEntry>>,
    line_at: &dyn Fn(usize) -> usize,
) -> Result<Vec<WantedSnat>, FileError> {
    let mut seen = HashMap::new();
    let mut rules = Vec::new();
    for entry in entries {
        let line = line_at(entry.span().start);
        let wrong = |message| FileError { line: Some(line), message };
        let rule = rule(entry.into_inner()).map_err(wrong)?;
        if let Some(first) = seen.insert(rule.name.clone(), line) {
            return Err(wrong(format!("SNAT rule {} is already in line {first}", rule.name)));
        }
        rules.push((line, rule));
    }
    Ok(rules)
}

fn rule(entry: SnatEntry) -> Result<SnatRule, String> {
    fn named<T: Default>(
        text: Option<String>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, String> {
        text.map_or_else(|| Ok(T::default()), |text| parse(&text))
    }
    let ranges = match &entry.pool {
        SnatPool::One(text) if text == OWN => &[],
        SnatPool::One(text) => std::slice::from_ref(text),
        SnatPool::Several(texts) => texts.as_slice(),
    };
    let pool: Result<Vec<_>, String> = ranges.iter().map(|text| snat::pool(text)).collect();
    let t = entry.timeouts.unwrap_or_default();
    let usual = SnatTimeouts::default();
    let rule = SnatRule {
        name: entry.name,
        inside: snat::network(&entry.inside)?,
        port: entry.port,
        pool: pool?.concat(),
        protocol: entry.protocol.map(|name| snat::kind(&name)).transpose()?,
        except: entry.except.iter().map(|text| snat::network(text)).collect::<Result<_, _>>()?,
        mapping: named(entry.mapping, snat::dependence)?,
        filtering: named(entry.filtering, snat::dependence)?,
        pooling: named(entry.pooling, snat::pooling)?,
        max_ports: entry.max_ports.unwrap_or(DEFAULT_PORTS),
        max_sessions: entry.max_sessions.unwrap_or(0),
        timeouts: SnatTimeouts {
            udp: t.udp.unwrap_or(usual.udp),
            dns: t.dns.unwrap_or(usual.dns),
            tcp_established: t.tcp_established.unwrap_or(usual.tcp_established),
            tcp_transitory: t.tcp_transitory.unwrap_or(usual.tcp_transitory),
            icmp: t.icmp.unwrap_or(usual.icmp),
        },
        masquerade: matches!(&entry.pool, SnatPool::One(text) if text == OWN),
    };
    rule.check().map(|()| rule)
}

/// A rule as a file has it.
pub(super) fn entry(rule: &SnatRule) -> SnatEntry {
    fn unusual<T: PartialEq + Copy>(value: T, usual: T) -> Option<T> {
        (value != usual).then_some(value)
    }
    let dependence = |d| unusual(d, Dependence::default()).map(|d| dependence_name(d).to_owned());
    let pool = match snat::pool_text(rule) {
        text if rule.masquerade => SnatPool::One(text),
        text => SnatPool::Several(text.split(',').map(str::to_owned).collect()),
    };
    let (t, usual) = (rule.timeouts, SnatTimeouts::default());
    SnatEntry {
        name: rule.name.clone(),
        inside: network(rule.inside),
        port: rule.port.clone(),
        pool,
        protocol: rule.protocol.map(|kind| kind_name(kind).to_owned()),
        except: rule.except.iter().copied().map(network).collect(),
        mapping: dependence(rule.mapping),
        filtering: dependence(rule.filtering),
        pooling: unusual(rule.pooling, Pooling::default()).map(|p| pooling_name(p).to_owned()),
        max_ports: unusual(rule.max_ports, DEFAULT_PORTS),
        max_sessions: unusual(rule.max_sessions, 0),
        timeouts: (t != usual).then(|| SnatTimeoutsEntry {
            udp: unusual(t.udp, usual.udp),
            dns: unusual(t.dns, usual.dns),
            tcp_established: unusual(t.tcp_established, usual.tcp_established),
            tcp_transitory: unusual(t.tcp_transitory, usual.tcp_transitory),
            icmp: unusual(t.icmp, usual.icmp),
        }),
    }
}
