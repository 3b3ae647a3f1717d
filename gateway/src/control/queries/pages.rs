//! Lists over all workers: one worker after the other, a page at a time.

use std::ops::Range;

use weir_api::protocol::SessionCursor;

/// Where a list is.
pub(super) struct Walk {
    at: SessionCursor,
    /// Behind the last worker.
    end: u16,
}

impl Walk {
    /// Through these workers' records from `from` on.
    pub fn new(workers: Range<u16>, from: SessionCursor) -> Self {
        let at =
            if from.worker < workers.start { SessionCursor { worker: workers.start, slot: 0 } } else { from };
        Self { at, end: workers.end }
    }

    /// Where to go on; none at the end.
    pub fn at(&self) -> Option<SessionCursor> {
        Some(self.at).filter(|at| at.worker < self.end)
    }

    /// Goes on behind a page, with this record or, if that was the worker's last, the next worker.
    pub fn turn(&mut self, next: Option<u32>) {
        self.at = match next {
            Some(slot) => SessionCursor { slot, ..self.at },
            None => SessionCursor { worker: self.at.worker + 1, slot: 0 },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(worker: u16, slot: u32) -> SessionCursor {
        SessionCursor { worker, slot }
    }

    #[test]
    fn a_list_goes_through_the_workers_wanted_and_ends() {
        let mut walk = Walk::new(0..2, SessionCursor::default());
        assert_eq!(walk.at(), Some(at(0, 0)));
        walk.turn(Some(7));
        assert_eq!(walk.at(), Some(at(0, 7)));
        walk.turn(None);
        assert_eq!(walk.at(), Some(at(1, 0)));
        walk.turn(None);
        assert_eq!(walk.at(), None);
        // One worker only, from its beginning or from where the list was.
        assert_eq!(Walk::new(1..2, at(0, 9)).at(), Some(at(1, 0)));
        assert_eq!(Walk::new(1..2, at(1, 9)).at(), Some(at(1, 9)));
        assert_eq!(Walk::new(0..0, at(0, 0)).at(), None);
        // A cursor that somebody made up.
        assert_eq!(Walk::new(0..2, at(u16::MAX, 0)).at(), None);
    }
}
