//! Rules files: what `weirctl -S` prints and `weirctl -R` reads, loaded before the first packet.
//!
//! A file is taken as a whole or not at all, and what is wrong is said with file, line and reason. Blank
//! lines and lines that begin with `#` are skipped.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    net::IpAddr,
    path::{Path, PathBuf},
};

use weirctl::{
    ipvsadm::{Action, Lines, names::SystemNames, parse_line},
    model::Session,
    protocol::{Batch, Change, SessionCursor},
    words,
};

use super::{
    plane::{self, AddressKind, Plane, ServerTotals},
    store::Store,
};
use crate::id::ServerId;

/// What is wrong with a rules file.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// It can't be read.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is wrong.
    #[error("{}:{line}: {reason}", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// The rules of a file, with the numbers of their lines.
#[derive(Clone, Debug)]
pub struct Rules {
    file: PathBuf,
    lines: Vec<usize>,
    changes: Vec<Change>,
}

impl Rules {
    /// Reads a file.
    ///
    /// # Errors
    /// [`RulesError`]: unreadable, or a line that isn't a rule.
    pub fn read(file: &Path) -> Result<Self, RulesError> {
        let failed = |source| RulesError::Io { file: file.into(), source };
        Self::parse(file, BufReader::new(File::open(file).map_err(failed)?))
    }

    /// Reads the contents of `file` from somewhere else.
    ///
    /// # Errors
    /// As [`Rules::read`].
    pub fn parse(file: &Path, contents: impl BufRead) -> Result<Self, RulesError> {
        let failed = |source| RulesError::Io { file: file.into(), source };
        let mut lines = Lines::new(contents);
        let mut rules = Self { file: file.into(), lines: Vec::new(), changes: Vec::new() };
        while let Some((line, words)) = lines.next_line().map_err(failed)? {
            if let Some(parsed) = words::parse(&words) {
                match parsed.map_err(|reason| RulesError::Line { file: file.into(), line, reason })? {
                    words::Line::Comment => {}
                    words::Line::Change(change) => {
                        rules.lines.push(line);
                        rules.changes.push(*change);
                    }
                }
                continue;
            }
            let reason = match parse_line("weirctl", &words, &SystemNames) {
                Ok(Action::Change(change)) => {
                    rules.lines.push(line);
                    rules.changes.push(change);
                    continue;
                }
                Ok(_) => format!("{} isn't a rule", words[0]),
                Err(_) if !words[0].starts_with('-') => format!("{} isn't a rule", words[0]),
                Err(halt) => halt.message.trim_end().into(),
            };
            return Err(RulesError::Line { file: file.into(), line, reason });
        }
        Ok(rules)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Applies all of them as one batch.
    ///
    /// # Errors
    /// The line that the store refuses, and why; nothing has changed then.
    pub fn apply<P: Plane>(&self, store: &mut Store<P>) -> Result<(), RulesError> {
        let batch = Batch { changes: self.changes.clone(), expect_generation: None };
        let refused = |refusal: weirctl::protocol::Refusal| RulesError::Line {
            file: self.file.clone(),
            line: refusal.change.and_then(|i| self.lines.get(i as usize).copied()).unwrap_or(0),
            reason: refusal.to_string(),
        };
        store.apply(&batch).map(drop).map_err(refused)
    }

    /// Applies them to a configuration that leads nowhere, for `weir --check`; `ports` are the names that
    /// `-F` may have.
    ///
    /// # Errors
    /// As [`Rules::apply`].
    pub fn check(&self, ports: &[String]) -> Result<(), RulesError> {
        self.apply(&mut Store::new(Nowhere { ports }))
    }
}

/// A plane without packets.
struct Nowhere<'a> {
    ports: &'a [String],
}

impl Plane for Nowhere<'_> {
    fn apply(&mut self, _: Vec<plane::Change>) {}

    fn server_totals(&self, _: ServerId) -> ServerTotals {
        ServerTotals::default()
    }

    fn address_kind(&self, _: IpAddr) -> AddressKind {
        AddressKind::Other
    }

    fn has_port(&self, name: &str) -> bool {
        self.ports.iter().any(|p| p == name)
    }

    fn sessions(&mut self, _: SessionCursor, _: usize) -> (Vec<Session>, Option<SessionCursor>) {
        (Vec::new(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<usize, String> {
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("weir-rules-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, text).unwrap();
        let checked = Rules::read(&file).and_then(|rules| {
            rules.check(&["wan".into()])?;
            Ok(rules.len())
        });
        std::fs::remove_file(&file).unwrap();
        checked.map_err(|e| e.to_string().replace(&file.display().to_string(), "FILE"))
    }

    #[test]
    fn what_save_prints_is_taken() {
        let rules = "# the shop\n-A -t 192.0.2.10:80 -s wlc -p 360\n\
                     -P -t 192.0.2.10:80 -z 10.0.0.4 -F wan\n\n\
                     -a -t 192.0.2.10:80 -r 10.0.0.1:80 -b -w 5\n\
                     --set 900 120 300\n";
        assert_eq!(check(rules), Ok(4));
        assert_eq!(check(""), Ok(0));
        assert_eq!(check("-A -t 192.0.2.10:80\nclient-address tcp/192.0.2.10:80 toa\n"), Ok(2));
        assert_eq!(check("mark add 3 --destination 192.0.2.0/24 --port wan\n-A -f 3\n"), Ok(2));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, expected) in [
            ("-A -t bogus\n", "FILE:1: illegal virtual server address[:port] specified"),
            ("\n-A -t 192.0.2.10:80\n-A -t 192.0.2.10:80\n", "FILE:3: service already exists"),
            ("-a -t 192.0.2.10:80 -r 10.0.0.1 -m\n", "FILE:1: no such service"),
            (
                "-A -t 192.0.2.10:80 -s twos",
                "FILE:1: scheduler or persistence engine not found: scheduler \"twos\"",
            ),
            ("-A -t 192.0.2.10:80 -Q", "FILE:1: -Q: unknown option"),
            ("-L -n\n", "FILE:1: -L isn't a rule"),
            ("mark add 3 --colour red\n", "FILE:1: mark knows no option `--colour'"),
            ("mark add 3\nmark add 4 --port dmz\n", "FILE:2: no such port: dmz"),
            (
                "-A -u 192.0.2.10:53\nclient-address udp/192.0.2.10:53 toa\n",
                "FILE:2: invalid operation: TOA is a TCP option: the service must be of TCP or of a mark",
            ),
            ("client-address tcp/192.0.2.10:80 toa\n", "FILE:1: no such service"),
            (
                "client-address tcp/192.0.2.10:80 proxy-v3\n",
                "FILE:1: `proxy-v3' is no way to tell the client's address: none, toa, proxy-v1 or proxy-v2",
            ),
            ("foo\n", "FILE:1: foo isn't a rule"),
        ] {
            assert_eq!(check(text), Err(expected.into()), "{text}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Rules::read(Path::new("/nonexistent/rules")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/rules: "));
    }
}
