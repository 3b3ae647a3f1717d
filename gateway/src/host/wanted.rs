//! Which neighbours the kernel should verify, and for how long.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::io::PortId;

/// Neighbours that haven't answered for this long are given up, this many at a time: a sender of forged packets asks
/// for many, and none of them answers.
const SILENT: Duration = Duration::from_secs(3);
const SILENT_AT_ONCE: usize = 256;
/// A neighbour that wasn't needed for this long isn't wanted any more: if it answers, and if it doesn't.
const UNUSED: Duration = Duration::from_secs(60);
const UNUSED_SILENT: Duration = Duration::from_secs(30);

/// When a neighbour was last needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Packets waited for it.
    pub asked: Instant,
    /// Packets went by it.
    pub used: Instant,
}

impl Wanted {
    /// Whether it has been of no use for long.
    pub fn is_over(&self, now: Instant, answers: bool) -> bool {
        self.asked.max(self.used) + if answers { UNUSED } else { UNUSED_SILENT } <= now
    }
}

/// Some of the wanted neighbours that haven't answered since they were asked for a while ago.
pub(super) fn silent(
    wanted: &HashMap<(PortId, IpAddr), Wanted>,
    now: Instant,
    answers: impl Fn((PortId, IpAddr)) -> bool,
) -> Vec<(PortId, IpAddr)> {
    let silent = wanted.iter().filter(|(key, wanted)| wanted.asked + SILENT <= now && !answers(**key));
    silent.map(|(key, _)| *key).take(SILENT_AT_ONCE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(at: Instant) -> Wanted {
        Wanted { asked: at, used: at }
    }

    #[test]
    fn those_that_do_not_answer_make_room() {
        let asked = Instant::now();
        let key = |n: u32| (PortId(0), std::net::Ipv4Addr::from_bits(n).into());
        let wanted: HashMap<_, _> = (0..1000).map(|n| (key(n), wanted(asked))).collect();
        let answers = |found: (PortId, IpAddr)| found.1 < key(900).1;
        assert!(silent(&wanted, asked, answers).is_empty(), "they may answer still");
        let later = silent(&wanted, asked + SILENT, answers);
        assert!(later.len() == 100 && later.iter().all(|key| !answers(*key)));
        assert_eq!(silent(&wanted, asked + SILENT, |_| false).len(), SILENT_AT_ONCE);
    }

    #[test]
    fn what_is_used_is_wanted() {
        let then = Instant::now();
        let once = wanted(then);
        assert!(!once.is_over(then + UNUSED_SILENT, true) && once.is_over(then + UNUSED_SILENT, false));
        assert!(once.is_over(then + UNUSED, true));
        let still = Wanted { used: then + UNUSED, ..once };
        assert!(!still.is_over(then + UNUSED, true) && !still.is_over(then + UNUSED, false));
    }
}
