//! Whether a packet is as a line expects.

use std::collections::HashSet;

use crate::{
    extension, message, tcp,
    words::{Names, is_flags, layers, name_len, substitute},
};

/// Attributes that a packet must not have unless they are named.
const TO_BE_MEANT: [&str; 5] = ["spoiled", "spoiled=ip", "vlan=", "broadcast", "multicast"];

/// Attributes whose value needn't be named.
const OF_ANY_VALUE: [&str; 3] = ["hop-by-hop", "destination-options", "atomic"];

/// Whether the packet `actual` is as `expected` says, which may leave attributes out. Names get to stand for what
/// they are met with first.
pub fn matches(expected: &[String], actual: &[Vec<String>], names: &mut Names) -> bool {
    let expected = layers(expected);
    let mut seen = names.clone();
    let all = expected.len() == actual.len()
        && expected.iter().zip(actual).all(|(expected, actual)| layer(expected, actual, &mut seen));
    if all {
        *names = seen;
    }
    all
}

fn layer(expected: &[String], actual: &[String], names: &mut Names) -> bool {
    let ([kind, source, destination, rest @ ..], [actual_kind, from, to, actual_rest @ ..]) =
        (expected, actual)
    else {
        return false;
    };
    let rest = plainly(kind, rest);
    let meant = |words: &[String]| -> HashSet<String> {
        let of =
            |word: &&String| TO_BE_MEANT.iter().any(|m| word == m || m.ends_with('=') && word.starts_with(m));
        words.iter().filter(of).cloned().collect()
    };
    same_kind(kind, actual_kind, from.contains(':'))
        && meant(&rest) == meant(actual_rest)
        && word(source, from, names)
        && word(destination, to, names)
        && rest.iter().all(|e| match e.strip_prefix('!') {
            Some(absent) => !actual_rest.iter().any(|a| is_of(a, absent)),
            None if OF_ANY_VALUE.contains(&e.as_str()) => actual_rest.iter().any(|a| is_of(a, e)),
            None => actual_rest.iter().any(|a| word(e, a, names)),
        })
}

/// A name of a message and its numbers are the same.
fn same_kind(expected: &str, actual: &str, v6: bool) -> bool {
    expected == actual
        || message::of_kind(expected, v6).is_ok_and(|kind| message::of_kind(actual, v6) == Ok(kind))
}

/// Attributes as they are read from a packet.
fn plainly(kind: &str, words: &[String]) -> Vec<String> {
    let mut plain = Vec::new();
    let mut held = String::new();
    for word in words {
        if let Some(digits) = word.strip_prefix("hex=") {
            held += &digits.to_ascii_lowercase();
        } else if is_flags(word) {
            plain.push(tcp::in_order(word));
        } else if word.strip_prefix("spoiled=").is_some_and(|what| what == kind || what == "icmp") {
            plain.push("spoiled".into());
        } else {
            plain.push(extension::padded(word).unwrap_or_else(|| word.clone()));
        }
    }
    if words.iter().any(|word| word.starts_with("hex=")) {
        plain.push(format!("hex={held}"));
    }
    plain
}

/// Whether an attribute is `name`, or one with that name and a value.
fn is_of(attribute: &str, name: &str) -> bool {
    attribute.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', ':']))
}

/// A word that may have names in it.
fn word(expected: &str, actual: &str, names: &mut Names) -> bool {
    let expected = substitute(expected, names);
    let Some((start, rest)) = expected.split_once('$') else { return expected == actual };
    let Some(actual) = actual.strip_prefix(start) else { return false };
    let (name, tail) = rest.split_at(name_len(rest));
    (1..=actual.len()).rev().filter(|end| actual.is_char_boundary(*end)).any(|end| {
        let mut seen = names.clone();
        seen.insert(name.to_owned(), actual[..end].to_owned());
        let fits = word(tail, &actual[end..], &mut seen);
        if fits {
            *names = seen;
        }
        fits
    })
}
