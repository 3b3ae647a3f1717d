//! `weirctl mark`: rules that mark packets for firewall-mark services, in words.
//!
//! ```text
//! weirctl mark add MARK [OPTION..]        weirctl mark list [--json]
//! weirctl mark delete MARK [OPTION..]     weirctl mark clear
//!
//! --priority N   --protocol tcp|udp|sctp   --source NET   --destination NET
//! --source-ports A[-B]   --destination-ports A[-B]   --port NAME
//! ```
//!
//! `list` prints what a rules file takes: `mark add ..`, one rule a line.

use std::{
    fmt::Write as _,
    io::{self, Write},
    net::IpAddr,
};

use crate::{
    client::{ClientError, Transport},
    model::{MarkRule, Protocol},
    protocol::{Change, Refusal, Request, Response},
};

/// Why a `mark` command wasn't carried out.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// The gateway can't be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The gateway refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The gateway answered something else.
    #[error("the gateway didn't answer with its mark rules")]
    Unexpected,
    /// The rules can't be written.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

fn usage<T>(message: impl Into<String>) -> Result<T, MarkError> {
    Err(MarkError::Usage(message.into()))
}

/// Carries out the words after `weirctl mark`.
///
/// # Errors
/// Any [`MarkError`].
pub fn mark(words: &[&str], gateway: &mut dyn Transport, out: &mut dyn Write) -> Result<(), MarkError> {
    match words {
        ["list"] => list(gateway, out, |rule, out| writeln!(out, "{}", to_words(rule))),
        ["list", "--json"] => {
            let mut first = true;
            write!(out, "[")?;
            list(gateway, out, |rule, out| {
                let comma = if std::mem::take(&mut first) { "" } else { "," };
                write!(out, "{comma}\n  {}", to_json(rule))
            })?;
            Ok(writeln!(out, "\n]")?)
        }
        _ => match gateway.call(Request::Apply(parse(words)?.into()))? {
            Response::Done { .. } => Ok(()),
            Response::Refused(refusal) => Err(refusal.into()),
            _ => Err(MarkError::Unexpected),
        },
    }
}

fn list(
    gateway: &mut dyn Transport,
    out: &mut dyn Write,
    mut line: impl FnMut(&MarkRule, &mut dyn Write) -> io::Result<()>,
) -> Result<(), MarkError> {
    match gateway.call(Request::Marks)? {
        Response::Marks(rules) => Ok(rules.iter().try_for_each(|rule| line(rule, out))?),
        Response::Refused(refusal) => Err(refusal.into()),
        _ => Err(MarkError::Unexpected),
    }
}

/// The change that the words after `mark` ask for.
///
/// # Errors
/// [`MarkError::Usage`].
pub fn parse(words: &[&str]) -> Result<Change, MarkError> {
    match words {
        ["add", rule @ ..] => Ok(Change::AddMark(parse_rule(rule)?)),
        ["delete", rule @ ..] => Ok(Change::DeleteMark(parse_rule(rule)?)),
        ["clear"] => Ok(Change::ClearMarks),
        _ => usage("mark takes `add', `delete', `list' or `clear'"),
    }
}

fn parse_rule(words: &[&str]) -> Result<MarkRule, MarkError> {
    let Some((mark, options)) = words.split_first() else { return usage("which mark?") };
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
        let Some(&value) = options.next() else { return usage(format!("{option} needs a value")) };
        let bad = || wrong(option, value);
        match option {
            "--priority" => rule.priority = number(value).ok_or_else(bad)?,
            "--protocol" => rule.protocol = Some(protocol(value).ok_or_else(bad)?),
            "--source" => rule.source = Some(network(value).ok_or_else(bad)?),
            "--destination" => rule.destination = Some(network(value).ok_or_else(bad)?),
            "--source-ports" => rule.source_ports = Some(ports(value).ok_or_else(bad)?),
            "--destination-ports" => rule.destination_ports = Some(ports(value).ok_or_else(bad)?),
            "--port" => rule.port = Some(value.to_owned()),
            _ => return usage(format!("mark knows no option `{option}'")),
        }
    }
    Ok(rule)
}

fn wrong(what: &str, value: &str) -> MarkError {
    MarkError::Usage(format!("`{value}' is no value for {what}"))
}

/// Decimal, or hexadecimal as marks are often written.
fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn protocol(text: &str) -> Option<Protocol> {
    Some(match text {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    })
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let all = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(all);
    (bits <= all).then_some((address, bits))
}

fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// What a rule says: option and value.
fn facts(rule: &MarkRule) -> Vec<(&'static str, String)> {
    let network = |(address, bits): (IpAddr, u8)| format!("{address}/{bits}");
    let ports = |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    let all = [
        ("protocol", rule.protocol.map(|p| protocol_name(p).to_owned())),
        ("source", rule.source.map(network)),
        ("destination", rule.destination.map(network)),
        ("source-ports", rule.source_ports.map(ports)),
        ("destination-ports", rule.destination_ports.map(ports)),
        ("port", rule.port.clone()),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// A rule as `mark add` takes it.
fn to_words(rule: &MarkRule) -> String {
    let mut line = format!("mark add {}", rule.mark);
    if rule.priority != 0 {
        let _ = write!(line, " --priority {}", rule.priority);
    }
    for (name, value) in facts(rule) {
        let _ = write!(line, " --{name} {value}");
    }
    line
}

fn to_json(rule: &MarkRule) -> String {
    let mut object = format!("{{\"mark\": {}, \"priority\": {}", rule.mark, rule.priority);
    for (name, value) in facts(rule) {
        let _ = write!(object, ", \"{}\": \"", name.replace('-', "_"));
        for c in value.chars() {
            match c {
                '"' | '\\' => object.extend(['\\', c]),
                c if c.is_control() => {
                    let _ = write!(object, "\\u{:04x}", u32::from(c));
                }
                c => object.push(c),
            }
        }
        object.push('"');
    }
    object.push('}');
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gateway(Vec<MarkRule>);

    impl Transport for Gateway {
        fn call(&mut self, request: Request) -> Result<Response, ClientError> {
            if let Request::Apply(batch) = &request {
                let [Change::AddMark(rule)] = batch.changes.as_slice() else { panic!("{batch:?}") };
                self.0.push(rule.clone());
                return Ok(Response::Done { generation: 1 });
            }
            assert_eq!(request, Request::Marks);
            Ok(Response::Marks(self.0.clone()))
        }
    }

    fn run(gateway: &mut Gateway, line: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split(' ').collect();
        let mut out = Vec::new();
        mark(&words, gateway, &mut out).map_err(|e| e.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_is_listed_can_be_added() {
        let mut gateway = Gateway(vec![]);
        let lines = [
            "mark add 3 --destination 198.51.100.0/24",
            "mark add 4294967295 --priority 7 --protocol udp --source 10.0.0.0/8 --destination 192.0.2.10/32 \
             --source-ports 1024-65535 --destination-ports 53 --port wan",
            "mark add 1 --destination 2001:db8::/32",
        ];
        for line in lines {
            run(&mut gateway, line.strip_prefix("mark ").unwrap()).unwrap();
        }
        assert_eq!(run(&mut gateway, "list").unwrap(), lines.map(|l| format!("{l}\n")).concat());
    }

    #[test]
    fn json() {
        let mut gateway = Gateway(vec![]);
        assert_eq!(run(&mut gateway, "list --json").unwrap(), "[\n]\n");
        run(&mut gateway, "add 0x10 --source-ports 1-2 --port a\"b").unwrap();
        run(&mut gateway, "add 2").unwrap();
        let expected = "[\n  {\"mark\": 16, \"priority\": 0, \"source_ports\": \"1-2\", \"port\": \"a\\\"b\"},\n  \
                        {\"mark\": 2, \"priority\": 0}\n]\n";
        assert_eq!(run(&mut gateway, "list --json").unwrap(), expected);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, message) in [
            ("add", "which mark?"),
            ("add 0", "`0' is no value for mark"),
            ("add 1 --source", "--source needs a value"),
            ("add 1 --source 10.0.0.0/33", "`10.0.0.0/33' is no value for --source"),
            ("add 1 --source-ports 9-8", "`9-8' is no value for --source-ports"),
            ("add 1 --protocol icmp", "`icmp' is no value for --protocol"),
            ("add 1 --colour red", "mark knows no option `--colour'"),
            ("remove 1", "mark takes `add', `delete', `list' or `clear'"),
        ] {
            assert_eq!(run(&mut Gateway(vec![]), line), Err(message.into()), "{line}");
        }
    }
}
