//! `/v1/...`: the documents that the tool's words print with `--json`, written by the same functions.

use std::{
    io::{self, Write},
    path::Path,
    time::Duration,
};

use clap::Parser;
use weir_api::client::Transport;

use super::{asker::Unanswered, query};
use crate::commands::{
    self, Failure, RealPace, Style, World,
    cli::{Cli, Command},
};

/// Longest document in bytes.
const LONGEST: usize = 64 << 20;
/// Servers above which documents that have all of them aren't written: each takes kilobytes on the way.
pub(super) const MAX_SERVERS: u32 = 20_000;
/// Sessions that `sessions` shows, and events that `events` does, if not told how many.
const SESSIONS: &str = "1000";
/// Sessions that it shows at most.
const MOST_SESSIONS: u64 = 10_000;

/// A document: its name below `/v1/`, the words that print it, and the parameters that it takes.
pub(super) struct Document {
    pub name: &'static str,
    pub words: &'static [&'static str],
    pub parameters: &'static [&'static str],
    /// It has all servers, unless a parameter says of which service.
    whole: bool,
}

const fn document(
    name: &'static str,
    words: &'static [&'static str],
    parameters: &'static [&'static str],
    whole: bool,
) -> Document {
    Document { name, words, parameters, whole }
}

const SESSION_FILTERS: &[&str] = &[
    "client",
    "client-port",
    "service",
    "server",
    "protocol",
    "state",
    "min-age",
    "max-age",
    "min-idle",
    "worker",
    "count",
    "limit",
];

/// All of them. None changes anything.
pub(super) const DOCUMENTS: [Document; 11] = [
    document("status", &["status"], &[], false),
    document("stats", &["stats"], &["service"], true),
    document("sessions", &["sessions"], SESSION_FILTERS, false),
    document("events", &["events"], &["from", "limit"], false),
    document("export", &["export"], &[], true),
    document("top", &["top"], &[], true),
    document("mark", &["mark", "list"], &[], false),
    document("snat", &["snat", "list"], &[], false),
    document("client-address", &["client-address"], &[], false),
    document("masquerade", &["masquerade"], &[], false),
    document("local-address", &["local-address", "list"], &[], false),
];

/// The names of all documents.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    DOCUMENTS.iter().map(|document| document.name)
}

/// The command that writes the document called `name`; whether it has all servers. None if there is no such document.
pub(super) fn command(name: &str, query: &str) -> Option<Result<(Command, bool), Unanswered>> {
    let document = DOCUMENTS.iter().find(|document| document.name == name)?;
    Some(words(document, query).and_then(|(words, whole)| {
        let wrong = |error: clap::Error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            Unanswered::Wrong(first.trim_start_matches("error: ").to_owned())
        };
        Ok((Cli::try_parse_from(words).map_err(wrong)?.command, whole))
    }))
}

fn words(document: &Document, query: &str) -> Result<(Vec<String>, bool), Unanswered> {
    let mut words: Vec<String> = vec!["weirctl".into()];
    words.extend(document.words.iter().map(|word| (*word).to_owned()));
    words.push("--json".into());
    let (mut whole, mut limited) = (document.whole, false);
    let mut last = None;
    for (name, value) in query::parse(query).map_err(Unanswered::Wrong)? {
        if !document.parameters.contains(&name.as_str()) {
            let known = match document.parameters {
                [] => "it takes none".to_owned(),
                some => format!("there are {}", some.join(", ")),
            };
            return Err(Unanswered::Wrong(format!("no parameter `{name}': {known}")));
        }
        match name.as_str() {
            "service" if document.name == "stats" => {
                whole = false;
                last = Some(value);
                continue;
            }
            "limit" if value.parse::<u64>().is_ok_and(|n| n > MOST_SESSIONS) => {
                return Err(Unanswered::Wrong(format!("limit: {MOST_SESSIONS} at most")));
            }
            "limit" | "count" => limited = true,
            _ => {}
        }
        words.push(format!("--{name}={value}"));
    }
    if document.parameters.contains(&"limit") && !limited {
        words.push(format!("--limit={SESSIONS}"));
    }
    // A value is a value, whatever it begins with.
    words.extend(last.into_iter().flat_map(|value| ["--".to_owned(), value]));
    Ok((words, whole))
}

/// Carries `command` out; what it writes.
///
/// # Errors
/// Its own, or the document is too long.
pub(super) fn write(
    command: &Command,
    transport: &mut dyn Transport,
    socket: &Path,
    patience: Duration,
) -> Result<String, Failure> {
    let mut out = Limited(Vec::new());
    let mut world = World {
        transport,
        out: &mut out,
        err: &mut io::sink(),
        style: Style::default(),
        progress: false,
        pace: &mut RealPace::new(socket, patience),
        input: &mut io::empty(),
    };
    commands::run(command, &mut world)?;
    String::from_utf8(out.0).map_err(|_| Failure::Refused("the document isn't text".into()))
}

struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST {
            return Err(io::Error::other(format!("the document is longer than {LONGEST} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, query: &str) -> Result<String, Unanswered> {
        let document = DOCUMENTS.iter().find(|document| document.name == name).unwrap();
        words(document, query).map(|(words, _)| words.join(" "))
    }

    #[test]
    fn every_document_is_a_command() {
        for name in names() {
            assert!(command(name, "").unwrap().is_ok(), "{name}");
        }
        for none in ["", "drain", "apply", "status/", "../status", "Status"] {
            assert!(command(none, "").is_none(), "{none}");
        }
    }

    #[test]
    fn parameters_become_options_and_nothing_else() {
        let said = line("sessions", "service=tcp/192.0.2.10:80&limit=5").unwrap();
        assert_eq!(said, "weirctl sessions --json --service=tcp/192.0.2.10:80 --limit=5");
        assert_eq!(line("sessions", "").unwrap(), "weirctl sessions --json --limit=1000");
        assert_eq!(line("events", "from=7").unwrap(), "weirctl events --json --from=7 --limit=1000");
        assert_eq!(line("stats", "service=--all").unwrap(), "weirctl stats --json -- --all");
        for (name, query) in [
            ("sessions", "kill=1"),
            ("sessions", "limit=10001"),
            ("sessions", "all="),
            ("status", "socket=/etc/passwd"),
            ("stats", "watch="),
            ("stats", "service=%"),
        ] {
            assert!(matches!(line(name, query), Err(Unanswered::Wrong(_))), "{name}?{query}");
        }
        let Some(Err(Unanswered::Wrong(why))) = command("stats", "service=tpc/192.0.2.1:80") else {
            panic!()
        };
        assert!(why.contains("did you mean tcp?"), "{why}");
    }
}
