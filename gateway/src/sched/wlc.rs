//! Weighted least connection, IPVS's default: the available server with the fewest sessions in proportion to its
//! weight, or the first of equals. An active session counts as much as 256 inactive ones.

use super::{Flow, Scheduler, Server, least};

/// The scheduler, which has no state.
pub struct WeightedLeastConnection;

impl Scheduler for WeightedLeastConnection {
    fn name(&self) -> &'static str {
        "wlc"
    }

    fn inherit(&mut self, _: &mut dyn Scheduler, _: &[Server], _: &[Server]) {}

    fn schedule(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        least::weighted(servers, Server::overhead)
    }

    fn load(&self, server: &Server) -> Option<u64> {
        Some(server.overhead())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::testing::*;

    #[test]
    fn shares_by_weight() {
        let list = weights(&[1, 3, 5]);
        let chosen = open(&mut WeightedLeastConnection, &list, 9);
        assert_eq!(chosen, [3, 2, 1, 1, 2, 1, 1, 2, 1]);
    }

    #[test]
    fn inactive_sessions_count_a_little() {
        let list = servers(&[(1, 1, 1), (1, 1, 0)]);
        assert_eq!(choose(&mut WeightedLeastConnection, &list, 1), [1]);
    }
}
