//! The timer wheel of a worker's sessions.
//!
//! ```text
//! heads   4 096 slots of a quarter of a second: the first session of each
//! links   by session: the next and the previous one of its slot, and the slot
//! ```
//!
//! Links are kept apart from the records: every packet needs a record's line, but a link is only needed when a session
//! begins, ends or moves. The link of an unused record leads to the next unused one.

use cpu::{HugeTable, zeroed_table};
use zerocopy::FromBytes;

use crate::clock::{Tick, Ticks};

/// The time that a slot covers.
const SLOT_TIME: Ticks = Ticks(25);
/// The number of slots, 1 024 s in all. Later deadlines wait in the last slot and are checked again.
const SLOTS: u32 = 4096;
/// Marks a session that is in no slot.
const NO_SLOT: u32 = u32::MAX;
/// End of a list.
pub(super) const NIL: u32 = u32::MAX;

/// A session's place on the wheel.
#[derive(Clone, Copy, Debug, FromBytes)]
#[repr(C, align(16))]
struct WheelLink {
    next: u32,
    previous: u32,
    slot: u32,
    unused: u32,
}

/// The wheel.
pub(super) struct Wheel {
    links: HugeTable<WheelLink>,
    heads: Box<[u32]>,
    /// The slot to be emptied next, and the start of the time it covers.
    cursor: u32,
    begins: Tick,
}

impl Wheel {
    /// A wheel for `max` sessions, starting at `now`.
    ///
    /// # Errors
    /// The system's, if there is no memory to map.
    pub fn new(max: usize, now: Tick) -> std::io::Result<Self> {
        let heads = vec![NIL; SLOTS as usize].into_boxed_slice();
        Ok(Self { links: zeroed_table(max)?, heads, cursor: 0, begins: now })
    }

    /// The number of bytes that [`Self::populate`] takes for `max` sessions.
    pub const fn bytes(max: usize) -> usize {
        max * size_of::<WheelLink>()
    }

    /// Has the kernel provide the links of `max` sessions now.
    ///
    /// # Errors
    /// See [`HugeTable::populate`].
    pub fn populate(&mut self, max: usize) -> std::io::Result<()> {
        self.links.populate(max)
    }

    /// The slot in which a session with this deadline is checked: that of the deadline, or the last one.
    #[inline]
    fn slot_of(&self, deadline: Tick) -> u32 {
        let ahead = (deadline.since(self.begins) / SLOT_TIME).min(SLOTS - 1);
        (self.cursor + ahead) % SLOTS
    }

    #[inline]
    fn head(&mut self, slot: u32) -> Option<&mut u32> {
        self.heads.get_mut(slot as usize)
    }

    #[inline]
    fn link(&mut self, id: u32) -> &mut WheelLink {
        self.links.at_mut(id as usize)
    }

    /// Starts loading what [`Self::arm`] touches.
    #[inline]
    pub fn prefetch_arming(&self, id: u32, deadline: Tick) {
        self.prefetch(id);
        if let Some(&neighbour) = self.heads.get(self.slot_of(deadline) as usize) {
            self.prefetch(neighbour);
        }
    }

    /// Starts loading what [`Self::disarm`] touches in addition to the session's own link.
    #[inline]
    pub fn prefetch_disarming(&self, id: u32) {
        let &WheelLink { next, previous, .. } = self.links.at(id as usize);
        self.prefetch(next);
        self.prefetch(previous);
    }

    /// Starts loading a link.
    #[inline]
    pub fn prefetch(&self, id: u32) {
        cpu::prefetch(self.links.at(id as usize));
    }

    /// Puts a session that is in no slot into that of its deadline.
    #[inline]
    pub fn arm(&mut self, id: u32, deadline: Tick) {
        let slot = self.slot_of(deadline);
        let Some(head) = self.head(slot) else { return };
        let next = std::mem::replace(head, id);
        *self.link(id) = WheelLink { next, previous: NIL, slot, unused: 0 };
        if next != NIL {
            self.link(next).previous = id;
        }
    }

    /// Takes a session out of its slot.
    #[inline]
    pub fn disarm(&mut self, id: u32) {
        let WheelLink { next, previous, slot, .. } = *self.link(id);
        if previous != NIL {
            self.link(previous).next = next;
        } else if let Some(head) = self.head(slot) {
            *head = next;
        } else {
            return;
        }
        if next != NIL {
            self.link(next).previous = previous;
        }
        *self.link(id) = WheelLink { next: NIL, previous: NIL, slot: NO_SLOT, unused: 0 };
    }

    /// The first session of a slot that is due by `now`; moves past empty slots.
    #[inline]
    pub fn due(&mut self, now: Tick) -> Option<u32> {
        while now.reached(self.begins.after(SLOT_TIME)) {
            if let Some(&id) = self.heads.get(self.cursor as usize)
                && id != NIL
            {
                return Some(id);
            }
            self.cursor = (self.cursor + 1) % SLOTS;
            self.begins = self.begins.after(SLOT_TIME);
        }
        None
    }

    /// The next session in the slot, or the next unused record.
    #[inline]
    pub fn next(&self, id: u32) -> u32 {
        self.links.at(id as usize).next
    }

    /// Puts an unused record before another one.
    #[inline]
    pub fn chain(&mut self, id: u32, next_free: u32) {
        *self.link(id) = WheelLink { next: next_free, previous: NIL, slot: NO_SLOT, unused: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the sessions out of the slots up to `now`, in order.
    fn due(wheel: &mut Wheel, now: u32) -> Vec<u32> {
        std::iter::from_fn(|| {
            let id = wheel.due(Tick(now))?;
            wheel.disarm(id);
            Some(id)
        })
        .collect()
    }

    #[test]
    fn sessions_come_due_by_slots_and_leave_from_any_place() {
        let mut wheel = Wheel::new(8, Tick(0)).unwrap();
        for (id, deadline) in [(0, 100), (1, 101), (2, 102), (3, 124), (4, 125), (5, 9_999_999)] {
            wheel.arm(id, Tick(deadline));
        }
        // The middle, the head and the tail of one list. A session that was taken out can't be taken out again.
        wheel.disarm(1);
        wheel.disarm(3);
        wheel.disarm(0);
        wheel.disarm(0);
        assert_eq!(due(&mut wheel, 124), [0; 0]);
        assert_eq!(due(&mut wheel, 125), [2]);
        wheel.arm(3, Tick(20));
        assert_eq!(due(&mut wheel, 149), [0; 0], "what is late already waits for the next slot");
        assert_eq!(due(&mut wheel, 150), [3, 4]);
        assert_eq!(due(&mut wheel, SLOTS * SLOT_TIME.0 - 1), [0; 0]);
        assert_eq!(due(&mut wheel, SLOTS * SLOT_TIME.0), [5], "looked at in the last slot");
    }

    #[test]
    fn records_without_session_are_a_chain() {
        let mut wheel = Wheel::new(4, Tick(0)).unwrap();
        wheel.chain(2, NIL);
        wheel.chain(0, 2);
        assert_eq!((wheel.next(0), wheel.next(2)), (2, NIL));
    }
}
