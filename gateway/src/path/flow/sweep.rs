//! Walks through all sessions, a bounded number of records per poll: ends those of deleted servers, and clears next
//! hops of old generations before their number is used again.

use super::Flows;
use crate::{id::SlotId, table::session::SessionId};

/// Session records that one poll looks at while a deleted server's sessions are ended.
const SWEEP_STRIDE: u32 = 4096;

/// A deleted server whose sessions are being ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sweep {
    whose: Whose,
    next: u32,
}

/// Whose sessions end.
#[derive(Clone, Copy, Debug)]
enum Whose {
    /// A deleted server's, or SNAT rule's.
    Slot(SlotId),
    /// Those of SNAT with an external address that no rule has any more.
    Withdrawn,
    /// Nobody's: sessions forget next hops of generations before this one.
    Remembered(u16),
}

impl Flows {
    /// Ends the sessions of a deleted server or SNAT rule. Where too many are being ended already, these end one by one, when a packet
    /// comes.
    pub(crate) fn end_sessions_of(&mut self, slot: SlotId) {
        let _ = self.sweeps.try_push(Sweep { whose: Whose::Slot(slot), next: 0 });
    }

    /// Ends SNAT's sessions with external addresses that no rule has any more. Where too many are being ended already, these
    /// end when their time is over.
    pub(crate) fn end_withdrawn(&mut self) {
        let _ = self.sweeps.try_push(Sweep { whose: Whose::Withdrawn, next: 0 });
    }

    /// Sees to it that no session remembers next hops of a generation when its number comes again.
    pub(crate) fn forget_old_hops(&mut self) {
        if let Some(begun) = self.routing.sweep_due() {
            if self.sweeps.try_push(Sweep { whose: Whose::Remembered(begun), next: 0 }).is_err() {
                // Full: there are more updates before the number comes again.
                self.routing.not_swept();
            }
        } else if self.routing.sweep_is_late() {
            let late = self.sweeps.iter().position(|sweep| matches!(sweep.whose, Whose::Remembered(_)));
            if let Some(late) = late.map(|at| self.sweeps.remove(at)) {
                self.sweep_on(late, u32::MAX);
            }
        }
    }

    /// Ends sessions of deleted servers and the like, a bounded number of records a poll.
    pub(crate) fn sweep(&mut self) {
        if let Some(sweep) = self.sweeps.pop() {
            self.sweep_on(sweep, SWEEP_STRIDE);
        }
    }

    fn sweep_on(&mut self, mut sweep: Sweep, stride: u32) {
        let end = self.sessions.high_water();
        let stop = sweep.next.saturating_add(stride).min(end);
        for at in sweep.next..stop {
            let id = SessionId(at);
            let ends = match sweep.whose {
                Whose::Slot(slot) => self.sessions.get(id).is_some_and(|s| s.in_use() && s.slot() == slot),
                Whose::Withdrawn => self.is_withdrawn(id),
                Whose::Remembered(_) => {
                    let generation = self.routing.generation;
                    if let Some(session) =
                        self.sessions.get_mut(id).filter(|s| s.hops_generation != generation)
                    {
                        session.hops_generation = 0;
                    }
                    false
                }
            };
            if ends {
                self.end_session(id);
            }
        }
        sweep.next = stop;
        if stop < end {
            self.sweeps.push(sweep);
        } else if let Whose::Remembered(begun) = sweep.whose {
            self.routing.swept(begun);
        }
    }
}
