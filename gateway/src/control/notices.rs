//! Notices for subscribers. A subscriber sees only the latest: a slow one misses the others and delays nobody.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use weir_api::model::status::Notice;

/// The latest notice, and those who wait for it.
#[derive(Debug, Default)]
pub struct Notices {
    latest: Mutex<Notice>,
    told: Condvar,
}

impl Notices {
    /// Tells everybody.
    pub fn publish(&self, notice: Notice) {
        *self.latest.lock() = notice;
        self.told.notify_all();
    }

    /// Waits until the news are other than `known`, `patience` at most; the latest.
    #[must_use]
    pub fn wait(&self, known: Option<Notice>, patience: Duration) -> Notice {
        let mut latest = self.latest.lock();
        if known == Some(*latest) {
            self.told.wait_for(&mut latest, patience);
        }
        *latest
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn subscribers_are_notified() {
        let notices = Arc::new(Notices::default());
        let first = notices.wait(None, Duration::ZERO);
        assert_eq!(first, Notice::default());
        assert_eq!(notices.wait(Some(first), Duration::from_millis(1)), first);
        let waiter = thread::spawn({
            let notices = notices.clone();
            move || notices.wait(Some(first), Duration::from_secs(10))
        });
        let news = Notice { generation: 1, tick: 0 };
        notices.publish(news);
        assert_eq!(waiter.join().unwrap(), news);
    }
}
