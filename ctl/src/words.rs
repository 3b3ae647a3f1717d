//! Lines of rules that begin with a word: what ipvsadm's options can't say.
//!
//! ```text
//! mark add MARK [OPTION..]               crate::mark
//! client-address SERVICE none|toa        crate::client_address
//! snat add NAME OPTION..                 crate::snat
//! # a comment
//! ```

use crate::{client_address, mark, protocol::Change, snat};

/// A line that begins with a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// It begins with `#`.
    Comment,
    /// The change that it asks for.
    Change(Box<Change>),
}

/// What a line asks for, unless it is one of ipvsadm's.
///
/// # Errors
/// What is wrong with it.
pub fn parse(words: &[String]) -> Option<Result<Line, String>> {
    let (first, rest) = words.split_first()?;
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let change = match first.as_str() {
        "mark" => mark::parse(&rest),
        "client-address" => client_address::parse(&rest),
        "snat" => snat::parse(&rest),
        comment if comment.starts_with('#') => return Some(Ok(Line::Comment)),
        _ => return None,
    };
    Some(change.map(|change| Line::Change(Box::new(change))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Option<Result<Line, String>> {
        parse(&text.split(' ').map(Into::into).collect::<Vec<_>>())
    }

    #[test]
    fn words_are_told_from_options() {
        assert_eq!(line("# -C"), Some(Ok(Line::Comment)));
        assert_eq!(line("mark clear"), Some(Ok(Line::Change(Box::new(Change::ClearMarks)))));
        assert!(line("mark clean").unwrap().is_err() && line("client-address x toa").unwrap().is_err());
        assert_eq!(line("-C"), None);
        assert_eq!(line("marks clear"), None);
        assert_eq!(parse(&[]), None);
    }
}
