//! The service manager's watchdog: it is notified only while every worker polls.
//!
//! A thread that ends takes the process with it ([`crate::threads`]); one that hangs doesn't. If a worker stops polling, or
//! the control loop itself stops, the service manager hears nothing for the unit's `WatchdogSec` and starts the gateway
//! again.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::{error, info};

use super::ready::notify;

/// Tells the service manager that the gateway lives.
pub(super) struct Watchdog {
    /// How often, if the service manager wants to hear it: four times in the time that it waits.
    every: Option<Duration>,
    told: Instant,
    /// Each worker's polls when that was told last.
    polls: Vec<u64>,
    /// Whether the log says that a worker stands.
    complained: bool,
}

impl Watchdog {
    /// What the environment asks for (`WATCHDOG_USEC`, `WATCHDOG_PID`).
    pub fn from_environment() -> Self {
        Self::new(sd_notify::watchdog_enabled(), Instant::now())
    }

    fn new(patience: Option<Duration>, now: Instant) -> Self {
        let every = patience.map(|patience| patience / 4);
        Self { every, told: now, polls: Vec::new(), complained: false }
    }

    /// Whether it is time to look again.
    pub fn is_due(&self) -> bool {
        self.every.is_some_and(|every| self.told.elapsed() >= every)
    }

    /// Tells that the gateway lives if every worker has polled since that was told last; `polls` of each so far.
    pub fn look(&mut self, polls: Vec<u64>) {
        if let Some(standing) = self.standing(&polls) {
            if !self.complained && self.every.is_some_and(|every| self.told.elapsed() >= every * 2) {
                error!(
                    worker = standing,
                    "a worker doesn't poll: the service manager's watchdog gets no signal until it does"
                );
                self.complained = true;
            }
            return;
        }
        if std::mem::take(&mut self.complained) {
            info!("all workers poll again");
        }
        self.polls = polls;
        self.told = Instant::now();
        notify(NotifyState::Watchdog);
    }

    /// The first worker that hasn't polled since.
    fn standing(&self, polls: &[u64]) -> Option<usize> {
        polls.iter().zip(&self.polls).position(|(now, before)| now == before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_has_to_poll() {
        let mut dog = Watchdog::new(Some(Duration::from_secs(4)), Instant::now());
        assert_eq!((dog.every, dog.is_due()), (Some(Duration::from_secs(1)), false));
        assert_eq!(dog.standing(&[0, 0]), None, "nothing was told yet");
        dog.look(vec![7, 7]);
        assert_eq!(dog.standing(&[8, 9]), None);
        assert_eq!(dog.standing(&[8, 7]), Some(1));
        dog.look(vec![9, 7]);
        assert_eq!(dog.polls, [7, 7], "nothing was told");
        dog.look(vec![9, 8]);
        assert_eq!(dog.polls, [9, 8]);
        assert!(!Watchdog::new(None, Instant::now()).is_due());
    }

    #[test]
    fn it_is_due_four_times_in_the_time() {
        let long_ago = Instant::now().checked_sub(Duration::from_secs(3)).expect("a machine that is up");
        assert!(Watchdog::new(Some(Duration::from_secs(10)), long_ago).is_due());
        assert!(!Watchdog::new(Some(Duration::from_secs(20)), long_ago).is_due());
    }
}
