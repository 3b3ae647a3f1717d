//! Weighted round robin: sessions in proportion to weights, interleaved.
//!
//! IPVS makes passes over the list, each giving a session to every server whose weight is at least the pass's level.
//! Levels go down from about the largest weight to 1 in steps of the weights' greatest common divisor, then start over:
//! 4, 3, 2 gives passes {4}, {4,3}, {4,3,2}, {4,3,2}.
//!
//! Details of IPVS: the top level is max - (gcd - 1), so that the last one is 1. Any change of a server moves the
//! rotation to the head of the list and keeps the level if it is still on the scale, so a server list built up one by
//! one may start at a lower level than the same list taken over from another scheduler. Worker i starts i sessions
//! further on, also after such a change.

use std::any::Any;

use super::{Flow, Scheduler, Server, Standing, lists};
use crate::id::WorkerId;

/// The rotation.
#[derive(Clone)]
pub struct WeightedRoundRobin {
    /// The index of the next server to consider; 0 is the head of the list, its length is past the end.
    next: usize,
    /// The level of this pass.
    level: i64,
    /// The level of the first pass; 0 if every weight is 0.
    top: i64,
    /// The difference between passes.
    step: i64,
    /// The number of choices to skip before the next one.
    skip: u16,
    /// The worker's offset.
    offset: u16,
    /// Changes of the server list so far.
    changes: u64,
}

/// The greatest common divisor and the maximum of the weights so far.
#[derive(Clone, Copy, Default)]
struct Scale {
    divisor: i64,
    max: i64,
}

impl Scale {
    fn with(self, weight: u32) -> Self {
        let (mut a, mut b) = (self.divisor, i64::from(weight));
        while b != 0 {
            (a, b) = (b, a % b);
        }
        Self { divisor: a, max: self.max.max(i64::from(weight)) }
    }

    fn of(servers: &[Server]) -> Self {
        servers.iter().fold(Self::default(), |scale, server| scale.with(server.weight))
    }
}

impl WeightedRoundRobin {
    /// For a service whose servers were added one by one.
    pub fn new(servers: &[Server], worker: WorkerId, changes: u64) -> Self {
        let mut new = Self { next: 0, level: 0, top: 0, step: 1, skip: 0, offset: worker.0, changes };
        new.grow(servers, servers.len());
        new
    }

    /// Handles the addition of the first `added` servers of the list, the last of them first.
    fn grow(&mut self, servers: &[Server], added: usize) {
        let mut scale = Scale::of(&servers[added..]);
        for server in servers[..added].iter().rev() {
            scale = scale.with(server.weight);
            self.rescale(scale);
        }
    }

    /// Handles a change of a server.
    fn rescale(&mut self, scale: Scale) {
        self.restart(scale);
        if self.level > self.top || self.level == 0 {
            self.level = self.top;
        } else if self.step > 1 {
            self.level = self.level / self.step * self.step + 1;
        }
    }

    fn restart(&mut self, scale: Scale) {
        self.next = 0;
        self.skip = self.offset;
        self.step = scale.divisor.max(1);
        self.top = scale.max - (self.step - 1);
    }

    /// The next choice. Considers each server at most a handful of times, whatever the weights: levels that no
    /// available server reaches are skipped at once.
    fn pick(&mut self, servers: &[Server]) -> Option<usize> {
        if self.top == 0 {
            return None;
        }
        let start = self.next.min(servers.len());
        if let Some(chosen) = self.pass(servers, start, servers.len()) {
            return Some(chosen);
        }
        let weights = servers.iter().filter(|s| s.eligible()).map(|s| i64::from(s.weight));
        let reachable = weights.max().unwrap_or(1);
        let (mut bottom, mut restarted) = (false, false);
        loop {
            self.level -= self.step;
            if self.level <= 0 {
                self.level = self.top;
                if bottom || start == 0 {
                    // All servers have been considered at the lowest level.
                    self.next = 0;
                    return None;
                }
                restarted = true;
            }
            let above = (self.level - reachable).max(0);
            self.level -= (above + self.step - 1) / self.step * self.step;
            bottom = self.level <= self.step;
            // This is the second pass at the lowest level: only the servers before the start are left.
            let end = if bottom && restarted { start } else { servers.len() };
            if let Some(chosen) = self.pass(servers, 0, end) {
                return Some(chosen);
            }
            if bottom && restarted {
                self.next = end;
                return None;
            }
        }
    }

    /// Looks for a server that reaches this level, from index `from` up to `to`.
    fn pass(&mut self, servers: &[Server], from: usize, to: usize) -> Option<usize> {
        let level = self.level;
        let found = servers[from..to].iter().position(|s| i64::from(s.weight) >= level && s.eligible())?;
        self.next = from + found + 1;
        Some(from + found)
    }
}

impl Scheduler for WeightedRoundRobin {
    fn name(&self) -> &'static str {
        "wrr"
    }

    fn inherit(&mut self, old: &mut dyn Scheduler, old_servers: &[Server], servers: &[Server]) {
        let Some(old) = (old as &dyn Any).downcast_ref::<Self>() else {
            self.restart(Scale::of(servers));
            self.level = self.top;
            return;
        };
        self.level = old.level;
        if self.changes == old.changes && lists::same(old_servers, servers) {
            (self.next, self.skip) = (old.next, old.skip);
            return;
        }
        let (mut kept, mut added) = (0, servers.len());
        lists::survivors(old_servers, servers, |i, j| {
            kept += usize::from(old_servers[i].weight == servers[j].weight);
            added = j;
        });
        if added == 0 || kept < old_servers.len() {
            self.rescale(Scale::of(&servers[added..]));
        }
        self.grow(servers, added);
    }

    fn schedule(&mut self, servers: &[Server], _: &Flow) -> Option<usize> {
        for _ in 0..std::mem::take(&mut self.skip) {
            self.pick(servers);
        }
        self.pick(servers)
    }

    fn preview(&mut self, servers: &[Server], flow: &Flow) -> Option<usize> {
        self.clone().schedule(servers, flow)
    }

    fn standing(&self, _: &[Server], _: &Flow) -> Standing {
        let number = |n: i64| u32::try_from(n.max(0)).unwrap_or(u32::MAX);
        Standing::Level {
            level: number(self.level),
            top: number(self.top),
            step: number(self.step),
            next: self.next as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sched::testing::*;

    fn wrr(servers: &[Server]) -> WeightedRoundRobin {
        WeightedRoundRobin::new(servers, WorkerId(0), 0)
    }

    fn with_weight(servers: &[Server], id: u32, weight: u32) -> Vec<Server> {
        let mut list = servers.to_vec();
        list.iter_mut().filter(|s| s.id.0 == id).for_each(|s| s.weight = weight);
        list
    }

    #[test]
    fn interleaves_by_weight() {
        // Newest first: weights 4, 3, 2 belong to servers 1, 2, 3. While only the first server existed, the only level
        // was 1, and it is still 1.
        let list = weights(&[2, 3, 4]);
        let cycle = [3, 2, 1, 1, 2, 1, 3, 2, 1];
        assert_eq!(choose(&mut wrr(&list), &list, 9), cycle);
        let mut third = WeightedRoundRobin::new(&list, WorkerId(2), 0);
        assert_eq!(choose(&mut third, &list, 7), cycle[2..]);
    }

    #[test]
    fn steps_by_the_common_divisor() {
        let list = weights(&[200, 400]);
        assert_eq!(choose(&mut wrr(&list), &list, 6), [2, 1, 1, 2, 1, 1]);
        let mut taken_over = wrr(&list);
        taken_over.inherit(&mut super::super::lc::LeastConnection, &list, &list);
        assert_eq!(choose(&mut taken_over, &list, 6), [1, 2, 1, 1, 2, 1]);
    }

    #[test]
    fn editing_the_service_keeps_the_place_and_editing_a_server_doesnt() {
        let list = weights(&[1, 1, 1]);
        let mut old = wrr(&list);
        assert_eq!(choose(&mut old, &list, 1), [3]);
        let mut new = wrr(&list);
        new.inherit(&mut old, &list, &list);
        assert_eq!(choose(&mut new, &list, 1), [2]);
        let mut edited = WeightedRoundRobin::new(&list, WorkerId(0), 1);
        edited.inherit(&mut new, &list, &list);
        assert_eq!(choose(&mut edited, &list, 1), [3]);
    }

    #[test]
    fn emptied_and_filled_again() {
        let list = weights(&[2, 1]);
        let mut old = wrr(&list);
        choose(&mut old, &list, 2);
        let mut empty = wrr(&[]);
        empty.inherit(&mut old, &list, &[]);
        assert_eq!(choose(&mut empty, &[], 2), [0, 0]);
        let mut new = wrr(&list);
        new.inherit(&mut empty, &[], &list);
        assert_eq!(choose(&mut new, &list, 3), [2, 1, 2]);
    }

    #[test]
    fn huge_weights_cost_nothing() {
        let mut list = weights(&[1, i32::MAX as u32, 2]);
        list[1] = overload(list[1].clone(), true);
        assert_eq!(choose(&mut wrr(&list), &list, 4), [3, 1, 1, 3]);
        list[0].weight = 0;
        list[2].weight = 0;
        assert_eq!(choose(&mut wrr(&list), &list, 4), [0; 4]);
    }

    #[test]
    fn after_no_choice_the_first_server_is_tried_first() {
        let list = weights(&[1, 1]);
        let over: Vec<_> = list.iter().map(|s| overload(s.clone(), true)).collect();
        let mut wrr = wrr(&list);
        assert_eq!(choose(&mut wrr, &over, 2), [0, 0]);
        assert_eq!(choose(&mut wrr, &list, 3), [2, 1, 2]);
    }

    /// The rotation without skipping levels.
    fn slow_pick(state: &mut WeightedRoundRobin, servers: &[Server]) -> Option<usize> {
        let (mut asked_low, mut at) = (0, state.next);
        while state.top != 0 {
            while at < servers.len() {
                if servers[at].eligible() && i64::from(servers[at].weight) >= state.level {
                    state.next = at + 1;
                    return Some(at);
                }
                asked_low += usize::from(state.level <= state.step);
                at += 1;
                if asked_low >= servers.len() && at < servers.len() {
                    state.next = at;
                    return None;
                }
            }
            state.level -= state.step;
            if state.level <= 0 {
                state.level = state.top;
                if asked_low >= servers.len() {
                    state.next = 0;
                    return None;
                }
            }
            at = 0;
        }
        None
    }

    proptest! {
        #[test]
        fn passing_over_levels_changes_no_choice(
            numbers in proptest::collection::vec((0u32..9, prop::bool::weighted(0.3)), 1..6),
            unit in 1u32..4,
            flips in proptest::collection::vec((0usize..6, any::<bool>()), 40),
        ) {
            let mut list = weights(&numbers.iter().map(|f| f.0 * unit).collect::<Vec<_>>());
            for (server, &(_, over)) in list.iter_mut().zip(&numbers) {
                *server = overload(server.clone(), over);
            }
            let (mut fast, mut slow) = (wrr(&list), wrr(&list));
            for (index, over) in flips {
                if let Some(server) = list.get_mut(index) {
                    *server = overload(server.clone(), over);
                }
                prop_assert_eq!(fast.pick(&list), slow_pick(&mut slow, &list));
            }
        }

        #[test]
        fn a_cycle_gives_each_its_weight(numbers in proptest::collection::vec(0u32..20, 1..8)) {
            let list = weights(&numbers);
            let mut taken_over = wrr(&list);
            taken_over.inherit(&mut super::super::lc::LeastConnection, &list, &list);
            let divisor = Scale::of(&list).divisor.max(1) as u32;
            let cycle = numbers.iter().sum::<u32>() / divisor;
            let chosen = choose(&mut taken_over, &list, cycle as usize);
            for server in &list {
                let count = chosen.iter().filter(|&&id| id == server.id.0).count();
                prop_assert_eq!(count as u32, server.weight / divisor);
            }
        }

        #[test]
        fn weights_change_under_way(
            numbers in proptest::collection::vec(1u32..9, 1..5), edits in proptest::collection::vec((1u32..5, 0u32..9), 8),
        ) {
            let mut list = weights(&numbers);
            let mut wrr_now = wrr(&list);
            for (id, weight) in edits {
                choose(&mut wrr_now, &list, 3);
                let next = with_weight(&list, id, weight);
                let mut new = wrr(&next);
                new.inherit(&mut wrr_now, &list, &next);
                prop_assert!(new.level <= new.top && (new.level - 1) % new.step == 0 || new.top == 0);
                (wrr_now, list) = (new, next);
            }
        }
    }
}
