//! Rules files: what `weirctl -S` prints and `weirctl -R` reads, loaded before the first packet.
//!
//! A file is applied as a whole or not at all; every error is reported with file, line and reason. Blank lines and
//! lines that begin with `#` are skipped.

use std::{
    collections::HashMap,
    io::{self, BufRead},
    net::IpAddr,
    path::{Path, PathBuf},
};

use weir_api::{
    ipvsadm::{Action, Lines, names::SystemNames, parse_own_line},
    protocol::{Batch, Change},
    rules,
};

use super::{
    plane::{self, AddressKind, Plane, SlotTotals},
    store::{ServiceDefaults, Store},
};
use crate::{config::text, id::SlotId};

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
    /// Lines are wrong: the number of each, from 1, and why.
    #[error("{}", told(file, lines))]
    Lines {
        /// The file.
        file: PathBuf,
        /// The lines in their order.
        lines: Vec<(usize, String)>,
    },
}

/// The maximum number of wrong lines that are reported one by one.
const MAX_TOLD: usize = 100;

fn told(file: &Path, lines: &[(usize, String)]) -> String {
    let mut all: Vec<String> = lines
        .iter()
        .take(MAX_TOLD)
        .map(|(line, reason)| format!("{}:{line}: {reason}", file.display()))
        .collect();
    if lines.len() > MAX_TOLD {
        all.push(format!("{}: {} more lines have errors", file.display(), lines.len() - MAX_TOLD));
    }
    all.join("\n")
}

/// The rules of a file, with the numbers of their lines.
#[derive(Clone, Debug)]
pub struct RulesFile {
    file: PathBuf,
    lines: Vec<usize>,
    changes: Vec<Change>,
    complete: rules::Completeness,
}

impl RulesFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`RulesError`]: unreadable, or a line that isn't a rule.
    pub fn read(file: &Path) -> Result<Self, RulesError> {
        let failed = |source| RulesError::Io { file: file.into(), source };
        Self::parse(file, text::read(file).map_err(failed)?.as_bytes())
    }

    /// Reads the contents of `file` from somewhere else.
    ///
    /// # Errors
    /// As [`RulesFile::read`].
    pub fn parse(file: &Path, contents: impl BufRead) -> Result<Self, RulesError> {
        let failed = |source| RulesError::Io { file: file.into(), source };
        let mut lines = Lines::new(contents);
        let mut wrong = Vec::new();
        let mut rules = Self {
            file: file.into(),
            lines: Vec::new(),
            changes: Vec::new(),
            complete: rules::Completeness::default(),
        };
        while let Some((line, words)) = lines.next_line().map_err(failed)? {
            rules.complete.line(&words);
            match change(&words) {
                Ok(None) => {}
                Ok(Some(change)) => {
                    rules.lines.push(line);
                    rules.changes.push(change);
                }
                Err(reason) => wrong.push((line, reason)),
            }
        }
        if wrong.is_empty() { Ok(rules) } else { Err(RulesError::Lines { file: file.into(), lines: wrong }) }
    }

    /// What is suspicious about the file's end, for people: it may have been cut off.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        self.complete.complaint().map(|complaint| format!("{}: {complaint}", self.file.display()))
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
        let Err(first) = store.apply(&batch) else { return Ok(()) };
        // The batch ended with the first line that is wrong. Played to a configuration that leads nowhere, each line by
        // itself, the others show, too.
        let nowhere = Nowhere::like(store.plane(), &self.changes);
        let defaults = store.defaults().clone();
        let mut wrong = self.refused_by(&mut Store::new(nowhere).with_defaults(defaults));
        if wrong.is_empty() {
            let line = first.change.and_then(|i| self.lines.get(i as usize).copied()).unwrap_or(0);
            wrong.push((line, first.to_string()));
        }
        Err(RulesError::Lines { file: self.file.clone(), lines: wrong })
    }

    /// Applies them one by one; the lines that were refused, and why.
    fn refused_by<P: Plane>(&self, store: &mut Store<P>) -> Vec<(usize, String)> {
        let refused = self.changes.iter().zip(&self.lines).filter_map(|(change, line)| {
            let refusal = store.apply(&change.clone().into()).err()?;
            Some((*line, refusal.to_string()))
        });
        refused.collect()
    }

    /// Applies them to a configuration that leads nowhere, for `weir --check`; `ports` are the names that `-F` may
    /// have, `kinds` what addresses are, `defaults` what services have that say nothing of their own.
    ///
    /// # Errors
    /// As [`RulesFile::apply`].
    pub fn check(
        &self,
        ports: &[String],
        kinds: impl IntoIterator<Item = (IpAddr, AddressKind)>,
        defaults: ServiceDefaults,
    ) -> Result<(), RulesError> {
        let nowhere = Nowhere { ports: ports.to_vec(), kinds: kinds.into_iter().collect() };
        self.apply(&mut Store::new(nowhere).with_defaults(defaults))
    }
}

/// The change that a line asks for; none if it is a comment.
fn change(words: &[String]) -> Result<Option<Change>, String> {
    if let Some(parsed) = rules::parse(words) {
        return parsed.map(|line| match line {
            rules::RuleLine::Comment => None,
            rules::RuleLine::Change(change) => Some(*change),
        });
    }
    let first = words.first().map_or("", String::as_str);
    match parse_own_line("weirctl", words, &SystemNames) {
        Ok(Action::Change(change)) => Ok(Some(change)),
        Ok(_) => Err(format!("{first} isn't a rule")),
        Err(_) if !first.starts_with('-') => Err(format!("{first} isn't a rule")),
        Err(halt) => Err(halt.message.trim_end().into()),
    }
}

/// A plane without packets.
struct Nowhere {
    ports: Vec<String>,
    kinds: HashMap<IpAddr, AddressKind>,
}

impl Nowhere {
    /// One that says of the ports and addresses in `changes` what `plane` says.
    fn like(plane: &impl Plane, changes: &[Change]) -> Self {
        let (mut ports, mut kinds) = (Vec::new(), HashMap::new());
        for change in changes {
            let (port, address) = match change {
                Change::AddServer { server, .. } | Change::AddMasqueraded { server, .. } => {
                    (None, Some(server.address))
                }
                Change::AddLocalAddress { local, .. } => (local.interface.clone(), Some(local.address)),
                Change::AddMark(rule) => (rule.port.clone(), None),
                Change::AddSnat(rule) => (Some(rule.port.clone()), None),
                _ => (None, None),
            };
            if let Change::AddSnat(rule) | Change::EditSnat(rule) = change {
                kinds.extend(rule.addresses().map(|address| (address, kind_for_snat(plane, address))));
            }
            ports.extend(port.filter(|port| plane.has_port(port)));
            kinds.extend(address.map(|address| (address, plane.address_kind(address))));
        }
        Self { ports, kinds }
    }
}

/// What an address is, apart from having been put on a twin for SNAT.
fn kind_for_snat(plane: &impl Plane, address: IpAddr) -> AddressKind {
    match plane.address_kind(address) {
        AddressKind::Own | AddressKind::Port if !plane.is_ports_own(address) => AddressKind::Other,
        kind => kind,
    }
}

impl Plane for Nowhere {
    fn apply(&mut self, _: Vec<plane::PlaneChange>) {}

    fn totals(&self, _: SlotId) -> SlotTotals {
        SlotTotals::default()
    }

    fn address_kind(&self, address: IpAddr) -> AddressKind {
        self.kinds.get(&address).copied().unwrap_or(AddressKind::Other)
    }

    fn has_port(&self, name: &str) -> bool {
        self.ports.iter().any(|p| p == name)
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
        let checked = RulesFile::read(&file).and_then(|rules| {
            let kinds = [([10, 0, 0, 254].into(), AddressKind::Port)];
            let defaults = ServiceDefaults {
                local_addresses: [[10, 0, 0, 200].into()].into(),
                ..ServiceDefaults::default()
            };
            rules.check(&["wan".into()], kinds, defaults)?;
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
    fn errors_name_their_line() {
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
            ("mark add 3 --colour red\n", "FILE:1: mark has no option `--colour'"),
            ("mark add 3\nmark add 4 --port dmz\n", "FILE:2: no such port: dmz"),
            (
                "-A -u 192.0.2.10:53\nclient-address udp/192.0.2.10:53 toa\n",
                "FILE:2: invalid operation: TOA is a TCP option: it needs a TCP service or a mark",
            ),
            ("client-address tcp/192.0.2.10:80 toa\n", "FILE:1: no such service"),
            (
                "client-address tcp/192.0.2.10:80 proxy-v3\n",
                "FILE:1: `proxy-v3' isn't none, toa, proxy-v1 or proxy-v2",
            ),
            ("foo\n", "FILE:1: foo isn't a rule"),
            (
                "-A -f 1\n-P -f 1 -z 10.0.0.254\n",
                "FILE:2: invalid operation: 10.0.0.254 is a port's own address: the gateway's own connections need it",
            ),
            ("-A -t 10.0.0.200:80\n", "FILE:1: invalid operation: 10.0.0.200 is a default local address"),
            (
                "foo\n-A -f 1\n-A -t bogus\n",
                "FILE:1: foo isn't a rule\nFILE:3: illegal virtual server address[:port] specified",
            ),
            (
                "-A -f 1\n-A -f 1\n-a -f 1 -r 10.0.0.1 -m\n-D -f 2\n",
                "FILE:2: service already exists\nFILE:4: no such service",
            ),
        ] {
            assert_eq!(check(text), Err(expected.into()), "{text}");
        }
    }

    #[test]
    fn a_file_that_was_cut_off_is_noticed() {
        let complaint = |text: &str| RulesFile::parse(Path::new("f"), text.as_bytes()).unwrap().complaint();
        assert_eq!(complaint("-A -f 1\n# end of 1 rule\n"), None);
        assert_eq!(complaint("# end of 0 rules\n"), None);
        assert!(complaint("").unwrap().contains("truncated"), "a crash may leave an empty file");
        assert!(complaint("-A -f 1\n").unwrap().starts_with("f: the rules don't end"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = RulesFile::read(Path::new("/nonexistent/rules")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/rules: "));
    }
}
