//! Weighted fail-over: everything goes to the available server of the largest weight, or the first of equals.

use super::{Flow, Scheduler, Server};

/// The scheduler, which has no state.
pub struct FailOver;

impl Scheduler for FailOver {
    fn name(&self) -> &'static str {
        "fo"
    }

    fn inherit(&mut self, _: &mut dyn Scheduler, _: &[Server], _: &[Server]) {}

    fn schedule(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        heaviest(servers, Server::eligible)
    }
}

/// The first server of the largest weight among the available ones.
#[inline]
pub fn heaviest(servers: &[Server], qualifies: impl Fn(&Server) -> bool) -> Option<usize> {
    let mut best = None;
    for (i, server) in servers.iter().enumerate() {
        if best.is_none_or(|(_, weight)| server.weight > weight) && qualifies(server) {
            best = Some((i, server.weight));
        }
    }
    best.map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::testing::*;

    #[test]
    fn largest_weight_until_it_fails() {
        let mut list = weights(&[1, 5, 5, 3]);
        assert_eq!(choose(&mut FailOver, &list, 2), [3, 3]);
        list[1] = overload(list[1].clone(), true);
        assert_eq!(choose(&mut FailOver, &list, 1), [2]);
        list[2].weight = 0;
        assert_eq!(choose(&mut FailOver, &list, 1), [1]);
    }
}
