//! A server's limit of sessions (upper and lower threshold, `-x` and `-y`), counted over all workers.
//!
//! It is one word in its own cache line: the server's sessions, and whether it is overloaded, like IPVS's flag (set at
//! the upper threshold, cleared below the lower one). A worker takes a place when it schedules a session and gives it
//! back when the session ends. However many workers open sessions at once, no more than the threshold are admitted.
//! Servers without a threshold have no limit object. `tests/share_nothing.rs` includes this file unchanged and runs it
//! through every memory ordering that a processor may choose.

use super::sync::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The flag for overload, above the session count.
const OVERLOADED: u64 = 1 << 32;

/// A server's thresholds, and the state they are compared to.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Limit {
    word: AtomicU64,
    upper: AtomicU32,
    lower: AtomicU32,
}

fn sessions(word: u64) -> u32 {
    word as u32
}

fn word(sessions: u32, overloaded: bool) -> u64 {
    u64::from(sessions) | if overloaded { OVERLOADED } else { 0 }
}

impl Limit {
    /// The thresholds (`-x`, and `-y` or 0 for three quarters of it) of a server that has this many sessions.
    #[must_use]
    pub fn new(upper: u32, lower: u32, sessions: u32) -> Self {
        let word = word(sessions, upper != 0 && sessions >= upper);
        Self { word: AtomicU64::new(word), upper: AtomicU32::new(upper), lower: AtomicU32::new(lower) }
    }

    /// Changes the thresholds. As in Linux, raising one ends the overload at once, and one that is already reached
    /// begins it.
    pub fn edit(&self, upper: u32, lower: u32) {
        let raised = upper > self.upper.load(Relaxed);
        self.lower.store(lower, Relaxed);
        self.upper.store(upper, Relaxed);
        self.change(|now| {
            let overloaded = now & OVERLOADED != 0 && !raised || sessions(now) >= upper;
            Some(word(sessions(now), overloaded))
        });
    }

    /// Whether no session may be scheduled to the server.
    #[inline]
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        self.word.load(Relaxed) & OVERLOADED != 0
    }

    /// Its sessions on all workers, active and inactive.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        sessions(self.word.load(Relaxed))
    }

    /// Takes a place for a session; false if the server is overloaded.
    #[must_use]
    pub fn reserve(&self) -> bool {
        self.change(|now| (now & OVERLOADED == 0).then(|| self.opened(now, 1)))
    }

    /// Takes a place regardless of the thresholds, for a session that IPVS doesn't check: a template's.
    pub fn exceed(&self) {
        self.change(|now| Some(self.opened(now, 1)));
    }

    /// Gives a place back: the session has ended, or wasn't opened.
    pub fn release(&self) {
        self.change(|now| Some(self.closed(now, 1)));
    }

    /// Notes that a persistence template was created or has ended. It isn't a session, but IPVS checks the thresholds
    /// then, too.
    pub fn look(&self, came: bool) {
        self.change(|now| Some(if came { self.opened(now, 0) } else { self.closed(now, 0) }));
    }

    /// Counts a worker's `own` sessions from now on, in place of the `expected` ones assumed so far.
    pub fn join(&self, expected: u32, own: u32) {
        self.change(|now| Some(self.opened(now, own.wrapping_sub(expected))));
    }

    /// The state after a session begins, as `ip_vs_bind_dest` computes it.
    fn opened(&self, now: u64, more: u32) -> u64 {
        let (sessions, upper) = (sessions(now).wrapping_add(more), self.upper.load(Relaxed));
        word(sessions, now & OVERLOADED != 0 || (upper != 0 && sessions >= upper))
    }

    /// The state after a session ends, as `ip_vs_unbind_dest` computes it.
    fn closed(&self, now: u64, less: u32) -> u64 {
        let (sessions, upper) = (sessions(now).saturating_sub(less), self.upper.load(Relaxed));
        let stays = match self.lower.load(Relaxed) {
            0 => u64::from(sessions) * 4 >= u64::from(upper) * 3,
            lower => sessions >= lower,
        };
        word(sessions, now & OVERLOADED != 0 && stays)
    }

    fn change(&self, to: impl FnMut(u64) -> Option<u64>) -> bool {
        self.word.fetch_update(Relaxed, Relaxed, to).is_ok()
    }
}
