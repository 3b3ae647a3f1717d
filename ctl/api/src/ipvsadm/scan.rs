//! Reads a command line as popt does, which is how ipvsadm 1.31 reads it.
//!
//! What scripts rely on: no abbreviations; short options may be bundled, the last with its argument attached, after
//! one `=` or none (`-Ln`, `-w4`, `-w=4`; `-w==4` is `=4`); a mandatory argument takes the next word whatever it
//! looks like, an optional one only if it doesn't begin with a dash; words that aren't options are put aside and
//! reported last; errors name the word as it was written.

use super::options::{
    Argument, LOCAL_SPELLINGS, OWN_SERVER_SPELLINGS, SERVER_SPELLINGS, SPELLINGS, Spelling, Tag,
};

/// Which options there are besides ipvsadm's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// None.
    Ipvsadm,
    /// On a line that adds or edits a server.
    Server,
    /// On such a line, under weirctl's own name.
    OwnServer,
    /// On a line about local addresses.
    Local,
}

/// What popt complains of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScanError {
    /// The word.
    pub word: String,
    /// popt's message.
    pub message: &'static str,
}

const UNKNOWN: &str = "unknown option";
const MISSING: &str = "missing argument";
const UNWANTED: &str = "option does not take an argument";

/// A scanner over the words after the program's name.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    words: &'a [String],
    next: usize,
    /// Rest of a bundle of short options.
    bundle: Option<&'a str>,
    /// After `--`.
    only_words: bool,
    /// Words that aren't options.
    pub leftovers: Vec<&'a str>,
    /// May be changed once the command is known.
    pub dialect: Dialect,
}

impl<'a> Scanner<'a> {
    pub fn new(words: &'a [String]) -> Self {
        let dialect = if local_line(words) { Dialect::Local } else { Dialect::Ipvsadm };
        Self { words, next: 0, bundle: None, only_words: false, leftovers: Vec::new(), dialect }
    }

    /// The next option and its argument; `None` at the end.
    pub fn option(&mut self) -> Result<Option<(Tag, Option<&'a str>)>, ScanError> {
        loop {
            if let Some(bundle) = self.bundle.take() {
                return self.short(bundle).map(Some);
            }
            let Some(word) = self.words.get(self.next) else { return Ok(None) };
            self.next += 1;
            if self.only_words || word == "-" || !word.starts_with('-') {
                self.leftovers.push(word);
            } else if word == "--" {
                self.only_words = true;
            } else if let Some(long) = word.strip_prefix("--") {
                return self.long(long).map(Some);
            } else {
                self.bundle = Some(&word[1..]);
            }
        }
    }

    /// The word that was read last.
    pub fn word(&self) -> &'a str {
        self.next.checked_sub(1).and_then(|i| self.words.get(i)).map_or("", String::as_str)
    }

    fn long(&mut self, text: &'a str) -> Result<(Tag, Option<&'a str>), ScanError> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let found = self.spellings().find(|s| s.long == name);
        self.argument(found.ok_or_else(|| self.error(UNKNOWN))?, value)
    }

    fn short(&mut self, bundle: &'a str) -> Result<(Tag, Option<&'a str>), ScanError> {
        let mut rest = bundle.chars();
        let letter = rest.next();
        let rest = rest.as_str();
        if letter == Some('b') && rest.is_empty() && self.is_server() && !self.word_follows() {
            return Ok((Tag::FullNat, None));
        }
        let found = self.spellings().find(|s| s.short.is_some() && s.short == letter);
        let found = found.ok_or_else(|| self.error(UNKNOWN))?;
        if found.argument == Argument::None {
            if !rest.is_empty() {
                self.bundle = Some(rest);
            }
            // An argument for an option that takes none: popt refuses it before it says the option.
            let value = rest.strip_prefix('=');
            return self.argument(found, value);
        }
        self.argument(
            found,
            if rest.is_empty() { None } else { Some(rest.strip_prefix('=').unwrap_or(rest)) },
        )
    }

    fn argument(
        &mut self,
        spelling: Spelling,
        value: Option<&'a str>,
    ) -> Result<(Tag, Option<&'a str>), ScanError> {
        if spelling.argument == Argument::None {
            return if value.is_some() { Err(self.error(UNWANTED)) } else { Ok((spelling.tag, None)) };
        }
        if value.is_some() {
            return Ok((spelling.tag, value));
        }
        let optional = spelling.argument == Argument::Optional;
        if optional && !self.word_follows() {
            return Ok((spelling.tag, None));
        }
        let Some(word) = self.words.get(self.next) else { return Err(self.error(MISSING)) };
        self.next += 1;
        Ok((spelling.tag, Some(word)))
    }

    fn is_server(&self) -> bool {
        matches!(self.dialect, Dialect::Server | Dialect::OwnServer)
    }

    /// Whether a word follows that doesn't begin with a dash.
    fn word_follows(&self) -> bool {
        self.words.get(self.next).is_some_and(|w| !w.starts_with('-'))
    }

    fn spellings(&self) -> impl Iterator<Item = Spelling> + use<> {
        let more = match self.dialect {
            Dialect::Ipvsadm => &[],
            Dialect::Server => SERVER_SPELLINGS,
            Dialect::OwnServer => OWN_SERVER_SPELLINGS,
            Dialect::Local => LOCAL_SPELLINGS,
        };
        SPELLINGS.iter().chain(more).copied()
    }

    fn error(&self, message: &'static str) -> ScanError {
        ScanError { word: self.word().into(), message }
    }
}

/// Whether a line is about local addresses: one of the commands comes first and a service follows. Anything
/// else is what it is to ipvsadm 1.31, an error.
fn local_line(words: &[String]) -> bool {
    let commands = ["-P", "-Q", "-G", "--add-laddr", "--del-laddr", "--get-laddr"];
    let services = ["--tcp-service", "--udp-service", "--sctp-service", "--fwmark-service"];
    let service = |w: &String| {
        w.starts_with("-t")
            || w.starts_with("-u")
            || w.starts_with("-f")
            || services.iter().any(|s| w.starts_with(s))
    };
    words
        .split_first()
        .is_some_and(|(first, rest)| commands.contains(&first.as_str()) && rest.iter().any(service))
}

#[cfg(test)]
mod tests {
    use super::{super::options::Opt, *};

    fn scan(line: &str, dialect: Option<Dialect>) -> Result<Vec<(Tag, Option<String>)>, ScanError> {
        let words: Vec<String> = line.split(' ').map(Into::into).collect();
        let mut scanner = Scanner::new(&words);
        scanner.dialect = dialect.unwrap_or(scanner.dialect);
        let mut all = Vec::new();
        while let Some((tag, value)) = scanner.option()? {
            all.push((tag, value.map(Into::into)));
        }
        all.extend(scanner.leftovers.iter().map(|w| (Tag::Sort, Some((*w).into()))));
        Ok(all)
    }

    fn error(line: &str) -> String {
        let e = scan(line, None).unwrap_err();
        format!("{}: {}", e.word, e.message)
    }

    #[test]
    fn arguments_attach_in_every_way() {
        let weight = |v: &str| (Tag::Plain(Opt::Weight), Some(v.into()));
        for line in ["-w 4", "-w4", "-w=4", "--weight 4", "--weight=4"] {
            assert_eq!(scan(line, None).unwrap(), [weight("4")], "{line}");
        }
        for line in ["-w==4", "--weight==4"] {
            assert_eq!(scan(line, None).unwrap(), [weight("=4")], "{line}");
        }
        for line in ["-w=", "--weight="] {
            assert_eq!(scan(line, None).unwrap(), [weight("")], "{line}");
        }
        assert_eq!(scan("-w -1", None).unwrap(), [weight("-1")]);
    }

    #[test]
    fn an_optional_argument_leaves_dashes_alone() {
        let persistent = |v: Option<&str>| (Tag::Plain(Opt::Persistent), v.map(Into::into));
        assert_eq!(scan("-p 60", None).unwrap(), [persistent(Some("60"))]);
        assert_eq!(scan("-p600", None).unwrap(), [persistent(Some("600"))]);
        assert_eq!(scan("-p -o", None).unwrap(), [persistent(None), (Tag::Plain(Opt::Ops), None)]);
        assert_eq!(error("-p -1"), "-1: unknown option");
    }

    #[test]
    fn errors_name_the_whole_word() {
        assert_eq!(error("-LQ"), "-LQ: unknown option");
        assert_eq!(error("--num"), "--num: unknown option");
        assert_eq!(error("-A -s"), "-s: missing argument");
        assert_eq!(error("--list=foo"), "--list=foo: option does not take an argument");
        for line in ["-L=", "-L=n", "-L==n", "-L=n=", "-n=1", "-Ln=w=3", "-n=="] {
            assert_eq!(error(line), format!("{line}: option does not take an argument"), "{line}");
        }
        assert_eq!(error("-=n"), "-=n: unknown option");
        assert_eq!(error("--=x"), "--=x: unknown option");
    }

    #[test]
    fn other_words_are_put_aside() {
        let word = |w: &str| (Tag::Sort, Some(w.into()));
        assert_eq!(scan("foo -n - -- -n", None).unwrap()[1..], [word("foo"), word("-"), word("-n")]);
    }

    #[test]
    fn a_lone_b_is_fullnat_on_server_lines() {
        let fullnat = (Tag::FullNat, None);
        let flags = |v: &str| (Tag::Plain(Opt::SchedFlags), Some(v.into()));
        let server = Some(Dialect::Server);
        assert_eq!(scan("-b", server).unwrap()[..], [(Tag::FullNat, None)]);
        assert_eq!(scan("-b -n", server).unwrap()[0], fullnat);
        assert_eq!(scan("--fullnat", server).unwrap(), [fullnat]);
        assert_eq!(scan("-b sh-port", server).unwrap(), [flags("sh-port")]);
        assert_eq!(scan("-b -n", None).unwrap(), [flags("-n")]);
    }

    #[test]
    fn local_addresses_need_a_service() {
        assert!(scan("-P -t 192.0.2.1:80 -z 10.0.0.4", None).is_ok());
        assert!(scan("-Q -z 10.0.0.4 -t 192.0.2.1:80 -F wan", None).is_ok());
        assert_eq!(error("-P -z 10.0.0.4"), "-P: unknown option");
        assert_eq!(error("-Q"), "-Q: unknown option");
        assert_eq!(error("-A -t 192.0.2.1:80 -Q"), "-Q: unknown option");
    }
}
