//! Tells workers each other's session counts: schedulers that weigh connections need those of all workers.

use super::Workers;
use crate::{clock::Tick, id::SlotId, table::counters::ServerSlot};

/// Servers' counters that are looked at in one turn of [`Workers::publish_loads`], over all workers: half a millisecond.
const SLOTS_A_TURN: usize = 8_192;

/// Whose turn it is to have its sessions told to the workers.
#[derive(Default)]
pub(super) struct SharingTurn {
    next: SlotId,
    /// When the first server had its last one.
    begun: Option<Tick>,
    loads: Vec<[u32; 2]>,
}

impl Workers {
    /// Tells each worker how many sessions the others have at each server: what schedulers that weigh
    /// connections go by. To be called often; each time some servers have their turn, and all of them every 10 ms unless
    /// they are very many. Nothing to do with one worker.
    pub fn publish_loads(&mut self, now: Tick) {
        let SharingTurn { next, begun, loads } = &mut self.turn;
        if self.links.len() < 2 || (*next == SlotId(0) && *begun == Some(now)) {
            return;
        }
        if *next == SlotId(0) {
            *begun = Some(now);
        }
        let at_once = SLOTS_A_TURN / self.links.len();
        let mut last = None;
        for (id, slots) in self.slots.range(*next..).take(at_once) {
            publish(slots, loads);
            last = Some(*id);
        }
        let more = last.filter(|last| self.slots.range(SlotId(last.0 + 1)..).next().is_some());
        *next = more.map_or(SlotId(0), |last| SlotId(last.0 + 1));
    }
}

/// Tells each worker what the others count in a slot; `loads` is room to work in. A line whose numbers are what they were stays
/// where it is, in the caches of those who read it.
fn publish(slots: &[ServerSlot], loads: &mut Vec<[u32; 2]>) {
    loads.clear();
    loads.extend(slots.iter().map(|slot| [slot.counters.active.get(), slot.counters.inactive.get()]));
    let [active, inactive] = [0, 1].map(|n| loads.iter().fold(0u32, |sum, of| sum.wrapping_add(of[n])));
    for (slot, own) in slots.iter().zip(loads) {
        slot.others.active.renew(active.wrapping_sub(own[0]));
        slot.others.inactive.renew(inactive.wrapping_sub(own[1]));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        control::{
            change::AddressKind,
            workers::{WorkerLink, connect},
        },
        path::verdict::PathCounters,
        table::counters::ServerCountersRef,
    };

    #[test]
    fn all_servers_have_their_turn_and_those_of_before_not_again_at_once() {
        let (mut links, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (link, end) = connect(Arc::new(PathCounters::new().unwrap()));
            links.push(link);
            ends.push(end);
        }
        let mut workers = Workers::new(links, Vec::new(), Box::new(|| ()), Box::new(|_| AddressKind::Other));
        let count = SLOTS_A_TURN as u32; // for two workers, two turns
        for n in 0..count {
            let slot = |link: &WorkerLink| ServerSlot {
                counters: ServerCountersRef::of(&link.counters.servers, SlotId(n)).unwrap(),
                others: Arc::default(),
                limit: None,
                expected: 0,
            };
            let slots: Vec<_> = workers.links.iter().map(slot).collect();
            slots[0].counters.active.set(n);
            slots[1].counters.inactive.set(7);
            workers.slots.insert(SlotId(n), slots);
        }
        let told = |workers: &Workers, n: u32| {
            let slots = &workers.slots[&SlotId(n)];
            [0, 1].map(|w| [slots[w].others.active.get(), slots[w].others.inactive.get()])
        };
        workers.publish_loads(Tick(1));
        assert_eq!(told(&workers, 5), [[0, 7], [5, 0]]);
        assert_eq!(told(&workers, count - 1), [[0, 0], [0, 0]], "one turn was enough for all");
        workers.publish_loads(Tick(1));
        assert_eq!(told(&workers, count - 1), [[0, 7], [count - 1, 0]]);
        workers.slots[&SlotId(5)][0].counters.active.set(9);
        workers.publish_loads(Tick(1));
        assert_eq!(told(&workers, 5), [[0, 7], [5, 0]], "a second turn in the same hundredth of a second");
        workers.publish_loads(Tick(2));
        assert_eq!(told(&workers, 5), [[0, 7], [9, 0]]);
    }
}
