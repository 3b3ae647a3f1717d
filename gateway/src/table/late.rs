//! Replies of new sessions, entered into the index at the end of their burst.
//!
//! The bucket of a FULLNAT session's reply is only known when its local port is chosen. Accessing it at once would cost
//! a cache miss for every new connection. But the server only answers packets that leave after the burst. The bucket is
//! therefore prefetched when the session is inserted, and the reply is entered when the burst is done.

use arrayvec::ArrayVec;

use super::{
    found::entry,
    session::{Direction, NewSession, SessionId},
    sessions::Sessions,
};
use crate::clock::{Tick, Ticks};

/// The most replies that may wait: those of a burst.
pub(super) const LATE: usize = 32;

/// A reply that is still to be entered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Late {
    hash: u64,
    id: u32,
}

impl Sessions {
    /// Like [`Self::insert_sought`], for a session whose reply can't arrive before [`Self::settle`]. Until then only
    /// the request's tuple is found.
    pub fn insert_early(&mut self, new: &NewSession, timeout: Ticks, now: Tick) -> Option<SessionId> {
        debug_assert!(!self.holds(new.request, new.protocol));
        let hashes = [self.hash(new.request, new.protocol), self.hash(new.reply, new.protocol)];
        self.prefetch_insertion(hashes, now.after(timeout));
        if self.late.is_full() {
            self.enter_replies();
        }
        let id = self.insert_found_by(hashes, false, new, [new.protocol; 2], timeout, now)?;
        self.late.push(Late { hash: hashes[1], id: id.0 });
        Some(id)
    }

    /// Whether [`Self::settle`] has something to do.
    #[inline]
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        !self.late.is_empty() || !self.clashes.is_empty()
    }

    /// Enters the replies of sessions that were inserted early. Returns the sessions whose reply belongs to another
    /// session or found no room: they must end.
    pub fn settle(&mut self) -> ArrayVec<SessionId, LATE> {
        self.enter_replies();
        self.clashes.drain(..).collect()
    }

    /// Enters the waiting replies, and forgets a clash of the session that is about to end.
    pub(super) fn settle_before_end_of(&mut self, id: SessionId) {
        self.enter_replies();
        self.clashes.retain(|clash| *clash != id);
    }

    fn enter_replies(&mut self) {
        // In order of insertion: the buckets of the first ones have been loaded by now.
        for n in 0..self.late.len() {
            let Some(&Late { hash, id }) = self.late.get(n) else { break };
            let Some(record) = self.get(SessionId(id)) else { continue };
            let (tuple, protocol) =
                (record.arriving(Direction::Reply), record.key_protocol(Direction::Reply));
            let free = self.find(hash, tuple, protocol).is_none();
            if !(free && self.index.insert(hash, entry(id, Direction::Reply))) {
                // The list is full only if a second burst clashes before the first is settled. The session then stays
                // without replies until it expires.
                let _ = self.clashes.try_push(SessionId(id));
            }
        }
        self.late.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::SlotId,
        table::{index::HashKey, session::Tuple},
    };

    fn tuple(n: u32) -> NewSession {
        NewSession {
            request: Tuple::new((n, 1), (0xc000_020a, 80)),
            reply: Tuple::new((0x0a00_0001, 80), (0x0a00_00fe, n as u16)),
            protocol: 6,
            slot: SlotId(0),
            flags: 0,
        }
    }

    fn table(max: usize) -> Sessions {
        Sessions::new(max, HashKey::from_seed(0), Tick(0)).unwrap()
    }

    #[test]
    fn a_reply_is_found_once_it_is_settled() {
        let mut s = table(80);
        let find = |s: &Sessions, t: Tuple| s.find(s.hash(t, 6), t, 6).map(|found| found.id);
        let a = s.insert_early(&tuple(1), Ticks(100), Tick(0)).unwrap();
        assert_eq!((find(&s, tuple(1).request), find(&s, tuple(1).reply)), (Some(a), None));
        assert!(s.is_unsettled());
        assert!(s.settle().is_empty() && !s.is_unsettled());
        assert_eq!(find(&s, tuple(1).reply), Some(a));
        // More than may wait, so the first ones are entered early.
        let many: Vec<_> = (2..60).map(|n| s.insert_early(&tuple(n), Ticks(100), Tick(0)).unwrap()).collect();
        assert!(s.settle().is_empty());
        assert!((2..60).zip(&many).all(|(n, id)| find(&s, tuple(n).reply) == Some(*id)));
    }

    #[test]
    fn a_reply_of_another_session_clashes() {
        let mut s = table(8);
        let theirs = s.insert(&tuple(1), Ticks(100), Tick(0)).unwrap();
        let new = NewSession { request: tuple(2).request, ..tuple(1) };
        let mine = s.insert_early(&new, Ticks(100), Tick(0)).unwrap();
        assert_eq!(s.settle().as_slice(), [mine]);
        s.remove(mine).unwrap();
        assert!(s.holds(tuple(1).reply, 6) && !s.holds(new.request, 6));
        // A session that ends before it is settled no longer clashes, and the next session in its record isn't
        // affected.
        let mine = s.insert_early(&new, Ticks(100), Tick(0)).unwrap();
        s.remove(mine).unwrap();
        assert_eq!(s.insert_early(&tuple(3), Ticks(100), Tick(0)), Some(mine));
        assert!(s.settle().is_empty());
        assert!(s.holds(tuple(3).reply, 6) && s.get(theirs).unwrap().in_use());
    }

    #[test]
    fn a_burst_s_replies_wait_and_one_more_has_them_entered() {
        let find = |s: &Sessions, n| s.find(s.hash(tuple(n).reply, 6), tuple(n).reply, 6).is_some();
        for (count, entered) in [(LATE as u32 - 1, 0), (LATE as u32, 0), (LATE as u32 + 1, LATE as u32)] {
            let mut s = table(80);
            for n in 0..count {
                assert!(s.insert_early(&tuple(n), Ticks(100), Tick(0)).is_some());
            }
            let found = (0..count).filter(|n| find(&s, *n)).count() as u32;
            assert_eq!((found, find(&s, count - 1)), (entered, false), "{count}");
            assert!(s.settle().is_empty() && (0..count).all(|n| find(&s, n)));
        }
    }

    #[test]
    fn every_clash_of_a_burst_is_told_once() {
        let mut s = table(80);
        s.insert(&tuple(0), Ticks(100), Tick(0)).unwrap();
        let clashing = |n| NewSession { request: tuple(n).request, ..tuple(0) };
        let ids: Vec<_> =
            (1..=LATE as u32).map(|n| s.insert_early(&clashing(n), Ticks(100), Tick(0)).unwrap()).collect();
        assert_eq!(s.settle().as_slice(), ids);
        assert!(!s.is_unsettled() && s.settle().is_empty());
        // A session that ends while its reply waits gives both its entries back, and so does one whose reply was
        // entered.
        let early = s.insert_early(&tuple(99), Ticks(100), Tick(0)).unwrap();
        s.remove(early).unwrap();
        assert!(!s.holds(tuple(99).request, 6) && !s.holds(tuple(99).reply, 6) && !s.is_unsettled());
    }
}
