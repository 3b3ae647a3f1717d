//! What `-m` means to a service, in words.
//!
//! ```text
//! masquerade SERVICE nat|fullnat|default        SERVICE: tcp/ADDRESS:PORT, udp/.., mark/N, mark6/N
//! ```
//!
//! So `weirctl` takes it, `weirctl masquerade` prints it, and a rules file holds it.

use super::client_address::service;
use crate::{model::Masquerade, protocol::Change};

/// What it can mean, by name. The last is what the gateway's configuration says.
pub const MEANINGS: [(&str, Option<Masquerade>); 3] =
    [("nat", Some(Masquerade::Nat)), ("fullnat", Some(Masquerade::FullNat)), ("default", None)];

/// The change that the words after `masquerade` ask for.
///
/// # Errors
/// What is wrong with them.
pub fn parse(words: &[&str]) -> Result<Change, String> {
    match words {
        [of, how] => Ok(Change::SetMasquerade { service: service(of)?, how: meaning(how)? }),
        _ => Err("masquerade takes a service and nat, fullnat or default".into()),
    }
}

/// A meaning by its name.
///
/// # Errors
/// That there is none of this name.
pub fn meaning(name: &str) -> Result<Option<Masquerade>, String> {
    MEANINGS
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, how)| *how)
        .ok_or_else(|| format!("`{name}' isn't nat, fullnat or default"))
}

/// The name of a meaning.
#[must_use]
pub fn name(how: Option<Masquerade>) -> &'static str {
    match how {
        Some(Masquerade::Nat) => "nat",
        Some(Masquerade::FullNat) => "fullnat",
        None => "default",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_and_errors_reported() {
        let key = service("tcp/192.0.2.10:80").unwrap();
        for (text, how) in MEANINGS {
            let change = parse(&["tcp/192.0.2.10:80", text]);
            assert_eq!(change, Ok(Change::SetMasquerade { service: key, how }));
            assert_eq!(name(how), text);
        }
        for words in [&["tcp/192.0.2.10", "nat"][..], &["mark/0", "nat"], &["mark/1", "masq"], &["mark/1"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
