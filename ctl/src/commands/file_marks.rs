//! The mark rules of the file that `apply` takes and `export` writes.
//!
//! ```toml
//! [[mark]]
//! mark = 7                           # or "0x7"
//! priority = 0
//! protocol = "tcp"                   # what is absent says nothing
//! source = "10.0.0.0/8"
//! destination = "192.0.2.10"
//! source_ports = "1024-65535"
//! destination_ports = 80             # or "80-90"
//! port = "wan"
//! ```

use toml::Spanned;
use weir_api::{
    documents::{
        configuration::{MarkEntry, MarkNumber, Ports},
        parts,
    },
    model::MarkRule,
    rules::mark,
};

use super::file_error::FileError;

/// A rule with its line.
pub type WantedMark = (usize, MarkRule);

/// The rules in the order in which the gateway tries them.
///
/// # Errors
/// What is wrong with one, or that it is there twice, and in which line.
pub(super) fn read(
    entries: Vec<Spanned<MarkEntry>>,
    line_at: &dyn Fn(usize) -> usize,
) -> Result<Vec<WantedMark>, FileError> {
    let mut rules = Vec::new();
    let mut seen = std::collections::HashMap::new();
    for entry in entries {
        let line = line_at(entry.span().start);
        let wrong = |message| FileError { line: Some(line), message };
        let rule = rule(entry.into_inner()).map_err(wrong)?;
        if let Some(first) = seen.insert(rule.clone(), line) {
            return Err(wrong(format!("this mark rule is already in line {first}")));
        }
        rules.push((line, rule));
    }
    rules.sort_by_key(|(_, rule)| rule.priority);
    Ok(rules)
}

fn rule(entry: MarkEntry) -> Result<MarkRule, String> {
    let mark = match &entry.mark {
        MarkNumber::Plain(mark) => *mark,
        MarkNumber::Written(text) => mark::number(text).ok_or_else(|| format!("{text:?} isn't a mark"))?,
    };
    if mark == 0 {
        return Err("mark = 0 marks nothing".into());
    }
    let network = |name, text: Option<String>| match text {
        None => Ok(None),
        Some(text) => match mark::network(&text) {
            None => Err(format!("{name} = {text:?} isn't a network: ADDRESS or ADDRESS/BITS")),
            network => Ok(network),
        },
    };
    let ports = |name, ports: Option<Ports>| match ports {
        None => Ok(None),
        Some(Ports::One(port)) => Ok(Some((port, port))),
        Some(Ports::Range(text)) => match mark::ports(&text) {
            None => Err(format!("{name} = {text:?} isn't a range of ports: PORT or FIRST-LAST")),
            ports => Ok(ports),
        },
    };
    Ok(MarkRule {
        mark,
        priority: entry.priority,
        protocol: entry.protocol,
        source: network("source", entry.source)?,
        destination: network("destination", entry.destination)?,
        source_ports: ports("source_ports", entry.source_ports)?,
        destination_ports: ports("destination_ports", entry.destination_ports)?,
        port: entry.port,
    })
}

/// A rule as a file has it.
pub(super) fn entry(rule: &MarkRule) -> MarkEntry {
    let ports = |(first, last)| {
        if first == last { Ports::One(first) } else { Ports::Range(format!("{first}-{last}")) }
    };
    MarkEntry {
        mark: MarkNumber::Plain(rule.mark),
        priority: rule.priority,
        protocol: rule.protocol,
        source: rule.source.map(parts::network),
        destination: rule.destination.map(parts::network),
        source_ports: rule.source_ports.map(ports),
        destination_ports: rule.destination_ports.map(ports),
        port: rule.port.clone(),
    }
}
