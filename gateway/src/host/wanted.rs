//! Which neighbours the kernel is asked for, where packets ask for more than there is room for.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::io::PortId;

/// Those go that haven't answered for so long, so many at a time: whoever makes packets up asks for many, and none of them
/// answers.
const SILENT: Duration = Duration::from_secs(3);
const SILENT_AT_ONCE: usize = 256;

/// Some of the wanted neighbours that haven't answered since they were asked for a while ago.
pub(super) fn silent(
    wanted: &HashMap<(PortId, IpAddr), Instant>,
    now: Instant,
    answers: impl Fn((PortId, IpAddr)) -> bool,
) -> Vec<(PortId, IpAddr)> {
    let silent = wanted.iter().filter(|(key, last)| **last + SILENT <= now && !answers(**key));
    silent.map(|(key, _)| *key).take(SILENT_AT_ONCE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_do_not_answer_make_room() {
        let asked = Instant::now();
        let key = |n: u32| (PortId(0), std::net::Ipv4Addr::from_bits(n).into());
        let wanted: HashMap<_, _> = (0..1000).map(|n| (key(n), asked)).collect();
        let answers = |found: (PortId, IpAddr)| found.1 < key(900).1;
        assert!(silent(&wanted, asked, answers).is_empty(), "they may answer still");
        let later = silent(&wanted, asked + SILENT, answers);
        assert!(later.len() == 100 && later.iter().all(|key| !answers(*key)));
        assert_eq!(silent(&wanted, asked + SILENT, |_| false).len(), SILENT_AT_ONCE);
    }
}
