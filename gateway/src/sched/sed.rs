//! Shortest expected delay: the available server with the least work for a new session in proportion to its weight,
//! (active + 1) / weight, or the first of equals. Inactive sessions don't count.

use super::{Flow, Scheduler, Server, least};

/// The scheduler, which has no state.
pub struct ShortestExpectedDelay;

/// The number of active sessions, including the new one.
#[inline]
pub fn expected(server: &Server) -> u64 {
    u64::from(server.active()) + 1
}

impl Scheduler for ShortestExpectedDelay {
    fn name(&self) -> &'static str {
        "sed"
    }

    fn inherit(&mut self, _: &mut dyn Scheduler, _: &[Server], _: &[Server]) {}

    fn schedule(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        least::weighted(servers, expected)
    }

    fn load(&self, server: &Server) -> Option<u64> {
        Some(expected(server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::testing::*;

    #[test]
    fn the_fast_server_gets_the_first_ones() {
        let list = weights(&[1, 3]);
        assert_eq!(open(&mut ShortestExpectedDelay, &list, 5), [1, 1, 2, 1, 1]);
    }

    #[test]
    fn inactive_sessions_dont_count() {
        let list = servers(&[(1, 0, 900), (1, 0, 0)]);
        assert_eq!(choose(&mut ShortestExpectedDelay, &list, 1), [2]);
    }
}
