//! Lines of rules that begin with a word: for what ipvsadm's options can't express.
//!
//! ```text
//! mark add MARK [OPTION..]
//! client-address SERVICE none|toa
//! masquerade SERVICE nat|fullnat|default
//! snat add NAME OPTION..
//! # a comment
//! ```
//!
//! What follows each of the words is read by [`mark`], [`client_address`], [`masquerade`] and [`snat`].
//!
//! The last line of what `weirctl -S` prints is such a comment, `# end of 12 rules`: a truncated file lacks it.

pub mod client_address;
pub mod mark;
pub mod masquerade;
pub mod snat;

use crate::protocol::Change;

/// The words that such lines begin with, but for comments.
pub const FIRST: [&str; 4] = ["mark", "client-address", "masquerade", "snat"];

/// A line that begins with a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleLine {
    /// It begins with `#`.
    Comment,
    /// The change that it asks for.
    Change(Box<Change>),
}

/// What a line asks for, unless it is one of ipvsadm's.
///
/// # Errors
/// What is wrong with it.
pub fn parse(words: &[String]) -> Option<Result<RuleLine, String>> {
    let (first, rest) = words.split_first()?;
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let change = match first.as_str() {
        "mark" => mark::parse(&rest),
        "client-address" => client_address::parse(&rest),
        "masquerade" => masquerade::parse(&rest),
        "snat" => snat::parse(&rest),
        comment if comment.starts_with('#') => return Some(Ok(RuleLine::Comment)),
        _ => return None,
    };
    Some(change.map(|change| RuleLine::Change(Box::new(change))))
}

/// How many rules a text holds: lines that are neither blank nor comments.
#[must_use]
pub fn count(text: &str) -> usize {
    text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#')).count()
}

/// The comment that closes `count` rules.
#[must_use]
pub fn closing(count: usize) -> String {
    format!("# end of {count} rule{}", if count == 1 { "" } else { "s" })
}

/// Notices rules that were cut off, while their lines go by.
#[derive(Clone, Debug, Default)]
pub struct Completeness {
    rules: usize,
    closed: Option<String>,
}

impl Completeness {
    /// A line that has words.
    pub fn line(&mut self, words: &[String]) {
        let comment = words.first().is_some_and(|word| word.starts_with('#'));
        self.rules += usize::from(!comment);
        let text = words.join(" ");
        if comment && text.starts_with("# end of ") {
            self.closed = Some(text);
        } else if !comment {
            self.closed = None;
        }
    }

    /// What is wrong with the end, for people.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let expected = closing(self.rules);
        match &self.closed {
            Some(closed) if *closed == expected => None,
            Some(closed) => Some(format!("the rules end with `{closed}', but there are {}", self.rules)),
            None if self.rules == 0 => Some(format!(
                "there are no rules and no line `{expected}': if weirctl saved them, the file was truncated"
            )),
            None => Some(format!(
                "the rules don't end with `{expected}': if weirctl saved them, the file was truncated"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_were_cut_are_noticed() {
        let complaint = |text: &str| {
            let mut complete = Completeness::default();
            let lines = text.lines().map(|l| l.split_whitespace().map(Into::into).collect::<Vec<String>>());
            lines.filter(|words| !words.is_empty()).for_each(|words| complete.line(&words));
            complete.complaint()
        };
        assert_eq!(complaint("-A -f 1\n-A -f 2\n# end of 2 rules\n"), None);
        assert_eq!(complaint("# mine\n-A -f 1\n# end of 1 rule"), None);
        assert_eq!(complaint("# end of 0 rules\n"), None);
        for cut in
            ["", "# mine\n", "-A -f 1\n-A -f 2\n", "-A -f 1\n# end of 1 rule\n-A -f 2\n", "-A -f 1\n# end o"]
        {
            assert!(complaint(cut).unwrap().contains("truncated"), "{cut}");
        }
        assert!(complaint("-A -f 1\n# end of 2 rules").unwrap().contains("there are 1"));
        assert_eq!((count("a\n # b\n\n c\n"), closing(1)), (2, "# end of 1 rule".into()));
    }

    fn line(text: &str) -> Option<Result<RuleLine, String>> {
        parse(&text.split(' ').map(Into::into).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_distinguished_from_options() {
        assert_eq!(line("# -C"), Some(Ok(RuleLine::Comment)));
        assert_eq!(line("mark clear"), Some(Ok(RuleLine::Change(Box::new(Change::ClearMarks)))));
        assert!(line("mark clean").unwrap().is_err() && line("client-address x toa").unwrap().is_err());
        assert_eq!(line("-C"), None);
        assert_eq!(line("marks clear"), None);
        assert!(
            line("masquerade mark/7 nat").unwrap().is_ok() && line("masquerade mark/7").unwrap().is_err()
        );
        assert_eq!(parse(&[]), None);
    }
}
