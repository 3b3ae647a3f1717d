//! Round robin: the next available server after the last one chosen, regardless of weights.
//!
//! Details of IPVS: the rotation's position is a *server*, so servers added to the front don't move it, and when its
//! server is deleted it steps back to the one before. Worker i starts at offset i, so that workers don't all give their
//! first session to the same server.

use std::any::Any;

use super::{Flow, Scheduler, Server, Standing, lists};
use crate::id::WorkerId;

/// The rotation.
pub struct RoundRobin {
    /// Where to start if the rotation is at the head of the list.
    start: usize,
    /// Index of the last server chosen; `None` is the head of the list.
    current: Option<usize>,
}

impl RoundRobin {
    pub fn new(worker: WorkerId) -> Self {
        Self { start: usize::from(worker.0), current: None }
    }
}

impl Scheduler for RoundRobin {
    fn name(&self) -> &'static str {
        "rr"
    }

    fn inherit(&mut self, old: &mut dyn Scheduler, old_servers: &[Server], servers: &[Server]) {
        if let Some(old) = (old as &dyn Any).downcast_ref::<Self>() {
            self.current = old.current.and_then(|at| lists::successor(old_servers, servers, at));
        }
    }

    fn schedule(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        let next = match self.current {
            Some(current) => current + 1,
            None => self.start.checked_rem(servers.len())?,
        };
        let chosen =
            (next..servers.len()).chain(0..next.min(servers.len())).find(|&i| servers[i].eligible())?;
        self.current = Some(chosen);
        Some(chosen)
    }

    fn preview(&mut self, servers: &[Server], flow: &Flow) -> Option<usize> {
        let current = self.current;
        let chosen = self.schedule(servers, flow);
        self.current = current;
        chosen
    }

    fn standing(&self, _: &[Server], _: &Flow) -> Standing {
        Standing::Behind(self.current.map(|n| n as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::testing::*;

    #[test]
    fn goes_round_and_ignores_weights() {
        let list = weights(&[1, 5, 1]);
        assert_eq!(choose(&mut RoundRobin::new(WorkerId(0)), &list, 7), [3, 2, 1, 3, 2, 1, 3]);
        assert_eq!(choose(&mut RoundRobin::new(WorkerId(1)), &list, 4), [2, 1, 3, 2]);
        assert_eq!(choose(&mut RoundRobin::new(WorkerId(5)), &list, 4), [1, 3, 2, 1]);
    }

    #[test]
    fn passes_over_quiesced_and_overloaded() {
        let mut list = weights(&[1, 0, 1, 1]);
        list[2] = overload(list[2].clone(), true);
        let mut rr = RoundRobin::new(WorkerId(0));
        assert_eq!(choose(&mut rr, &list, 4), [4, 1, 4, 1]);
        list[2].limit = None;
        assert_eq!(choose(&mut rr, &list, 3), [4, 2, 1]);
    }

    #[test]
    fn stays_at_a_lonely_server() {
        let list = weights(&[1, 0]);
        assert_eq!(choose(&mut RoundRobin::new(WorkerId(0)), &list, 3), [2, 2, 2]);
    }

    #[test]
    fn position_outlives_changes_of_the_list() {
        let three = weights(&[1, 1, 1]);
        let mut old = RoundRobin::new(WorkerId(0));
        assert_eq!(choose(&mut old, &three, 2), [3, 2]);
        // A server is added to the front: its turn is after the last one.
        let four = weights(&[1, 1, 1, 1]);
        let mut new = RoundRobin::new(WorkerId(0));
        new.inherit(&mut old, &three, &four);
        assert_eq!(choose(&mut new, &four, 3), [1, 4, 3]);
        // The server at the rotation's position is deleted.
        let less: Vec<_> = four.iter().filter(|s| s.id.0 != 3).cloned().collect();
        let mut last = RoundRobin::new(WorkerId(0));
        last.inherit(&mut new, &four, &less);
        assert_eq!(choose(&mut last, &less, 3), [2, 1, 4]);
    }

    #[test]
    fn another_scheduler_between_resets() {
        let list = weights(&[1, 1, 1]);
        let mut new = RoundRobin::new(WorkerId(0));
        new.inherit(&mut super::super::lc::LeastConnection, &list, &list);
        assert_eq!(choose(&mut new, &list, 2), [3, 2]);
    }
}
