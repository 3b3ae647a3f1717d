//! Least connection: the available server with the fewest sessions, or the first of equals. An active session counts as
//! much as 256 inactive ones. Only a weight of zero matters.

use super::{Flow, Scheduler, Server};

/// The scheduler, which has no state.
pub struct LeastConnection;

impl Scheduler for LeastConnection {
    fn name(&self) -> &'static str {
        "lc"
    }

    fn inherit(&mut self, _: &mut dyn Scheduler, _: &[Server], _: &[Server]) {}

    fn schedule(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        let mut least = None;
        for (i, server) in servers.iter().enumerate() {
            if !server.eligible() {
                continue;
            }
            let load = server.overhead();
            if least.is_none_or(|(_, lowest)| load < lowest) {
                least = Some((i, load));
            }
        }
        least.map(|(i, _)| i)
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
    fn fewest_first_and_ties_in_list_order() {
        let list = servers(&[(1, 1, 0), (10, 0, 0), (1, 0, 0)]);
        assert_eq!(open(&mut LeastConnection, &list, 5), [2, 1, 3, 2, 1]);
    }

    #[test]
    fn an_active_session_outweighs_255_inactive() {
        let table = [((0, 255), 2), ((0, 256), 2), ((0, 257), 1)];
        for ((active, inactive), expected) in table {
            let list = servers(&[(1, active, inactive), (1, 1, 0)]);
            assert_eq!(choose(&mut LeastConnection, &list, 1), [expected], "{inactive}");
        }
    }

    #[test]
    fn counts_the_other_workers_sessions() {
        let list = servers(&[(1, 1, 0), (1, 0, 0)]);
        list[1].others.active.set(2);
        assert_eq!(choose(&mut LeastConnection, &list, 1), [2]);
    }
}
