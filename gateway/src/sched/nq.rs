//! Never queue: the first available server without an active session; if there is none, the choice of shortest expected
//! delay.

use super::{Flow, Scheduler, Server, least, sed};

/// The scheduler, which has no state.
pub struct NeverQueue;

impl Scheduler for NeverQueue {
    fn name(&self) -> &'static str {
        "nq"
    }

    fn inherit(&mut self, _: &mut dyn Scheduler, _: &[Server], _: &[Server]) {}

    fn schedule(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        let idle = servers.iter().position(|s| s.eligible() && s.active() == 0);
        idle.or_else(|| least::weighted(servers, sed::expected))
    }

    fn load(&self, server: &Server) -> Option<u64> {
        Some(sed::expected(server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::testing::*;

    #[test]
    fn idle_ones_first_then_the_shortest_delay() {
        let list = weights(&[1, 3, 5]);
        assert_eq!(open(&mut NeverQueue, &list, 6), [3, 2, 1, 1, 1, 2]);
        list[1].counters.active.set(0);
        assert_eq!(open(&mut NeverQueue, &list, 1), [2]);
    }
}
