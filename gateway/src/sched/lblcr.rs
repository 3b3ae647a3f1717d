//! Locality-based least connection with replication. It is like lblc, but a destination has a *set* of servers. The set
//! grows by one when its least loaded server is crowded, and loses its most loaded one when it hasn't changed for the
//! expiration time.
//!
//! Details of IPVS: the newest member of a set comes first and wins ties; members above their threshold are skipped; a
//! session that finds its set due for shrinking still goes to the server found before. There is one difference: deleted
//! members are dropped from a set first, where IPVS continues to compare the load that they had.

use std::any::Any;

use super::{
    Flow, Scheduler, Server, Standing, lblc, least,
    locality::{CAPACITY, LocalityTable, NIL, Places, ServerPlace},
};
use crate::clock::{Tick, Ticks};

/// The most members of all sets together; a set that finds no room doesn't grow.
const MEMBERS: usize = 4 * CAPACITY;

/// A destination's servers: a chain through [`Members`].
#[derive(Clone, Copy)]
struct Set {
    first: u32,
    len: u32,
    changed: Tick,
}

struct Member {
    place: ServerPlace,
    hint: u32,
    next: u32,
}

/// The members of all sets.
struct Members {
    all: Vec<Member>,
    free: u32,
}

/// The destinations' sets.
pub struct ReplicatedLocality {
    table: LocalityTable<Set>,
    members: Members,
    places: Places,
    expiration: Ticks,
}

impl ReplicatedLocality {
    /// `expiration` is in seconds.
    pub fn new(servers: &[Server], expiration: u32) -> Self {
        Self {
            table: LocalityTable::new(),
            members: Members { all: Vec::with_capacity(MEMBERS), free: NIL },
            places: Places::new(servers),
            expiration: Ticks::seconds(expiration),
        }
    }
}

impl Members {
    /// Adds a server to the front of the set, unless it is already in it or there is no room.
    fn insert(&mut self, set: &mut Set, server: &Server, hint: usize, now: Tick) {
        let place = ServerPlace::of(server);
        let mut at = set.first;
        while let Some(member) = self.all.get(at as usize) {
            if member.place == place {
                return;
            }
            at = member.next;
        }
        let member = Member { place, hint: hint as u32, next: set.first };
        let at = if self.free != NIL {
            let at = self.free as usize;
            self.free = std::mem::replace(&mut self.all[at], member).next;
            at
        } else if self.all.len() < MEMBERS {
            self.all.push(member);
            self.all.len() - 1
        } else {
            return;
        };
        *set = Set { first: at as u32, len: set.len + 1, changed: now };
    }

    /// Frees every member of the set.
    fn release(&mut self, set: &Set) {
        let mut at = set.first;
        while let Some(member) = self.all.get_mut(at as usize) {
            let next = std::mem::replace(&mut member.next, self.free);
            self.free = at;
            at = next;
        }
    }

    /// The available member with the least load in proportion to its weight.
    fn least(&mut self, set: &Set, places: &Places, servers: &[Server]) -> Option<usize> {
        let mut best: Option<(usize, u64)> = None;
        let mut at = set.first;
        while let Some(member) = self.all.get_mut(at as usize) {
            at = member.next;
            let Some(index) = places.find(servers, member.place, member.hint) else { continue };
            member.hint = index as u32;
            let server = &servers[index];
            if !server.eligible() {
                continue;
            }
            let load = server.overhead();
            let lighter = |(best, lowest): (usize, u64)| {
                least::heavier(lowest, servers[best].weight, load, server.weight)
            };
            if best.is_none_or(lighter) {
                best = Some((index, load));
            }
        }
        best.map(|(index, _)| index)
    }

    /// Removes one member: a deleted one if there is one, else the one with the most load in proportion to its weight,
    /// apart from quiesced ones.
    fn shrink(&mut self, set: &mut Set, places: &Places, servers: &[Server], now: Tick) {
        let mut most: Option<(u32, u32, usize)> = None;
        let (mut before, mut at) = (NIL, set.first);
        while let Some(member) = self.all.get(at as usize) {
            let Some(index) = places.find(servers, member.place, member.hint) else {
                most = Some((before, at, 0));
                break;
            };
            let server = &servers[index];
            let heavier = |(_, _, most): (u32, u32, usize)| {
                let most = &servers[most];
                least::heavier(server.overhead(), server.weight, most.overhead(), most.weight)
            };
            if server.weight > 0 && most.is_none_or(heavier) {
                most = Some((before, at, index));
            }
            (before, at) = (at, member.next);
        }
        let Some((before, at, _)) = most else { return };
        let next = std::mem::replace(&mut self.all[at as usize].next, self.free);
        self.free = at;
        match self.all.get_mut(before as usize) {
            Some(before) => before.next = next,
            None => set.first = next,
        }
        set.len -= 1;
        set.changed = now;
    }
}

impl Scheduler for ReplicatedLocality {
    fn name(&self) -> &'static str {
        "lblcr"
    }

    fn inherit(&mut self, old: &mut dyn Scheduler, _: &[Server], _: &[Server]) {
        if let Some(old) = (old as &mut dyn Any).downcast_mut::<Self>() {
            std::mem::swap(&mut self.table, &mut old.table);
            std::mem::swap(&mut self.members, &mut old.members);
        }
    }

    fn schedule(&mut self, servers: &[Server], flow: &Flow) -> Option<usize> {
        let Self { table, members, places, expiration } = self;
        let now = flow.now;
        table.maintain(now, *expiration, |set| members.release(set));
        if let Some(set) = table.get(flow.destination, now, *expiration) {
            let least = members.least(set, places, servers);
            if set.len > 1 && now.since(set.changed) > *expiration {
                members.shrink(set, places, servers, now);
            }
            if least.is_some_and(|index| !lblc::crowded(servers, &servers[index])) {
                return least;
            }
            let index = least::weighted(servers, Server::overhead)?;
            members.insert(set, &servers[index], index, now);
            return Some(index);
        }
        let index = least::weighted(servers, Server::overhead)?;
        let mut set = Set { first: NIL, len: 0, changed: now };
        members.insert(&mut set, &servers[index], index, now);
        if let Some(lost) = table.set(flow.destination, now, set) {
            members.release(&lost);
        }
        Some(index)
    }

    fn preview(&mut self, servers: &[Server], flow: &Flow) -> Option<usize> {
        let set = self.table.peek(flow.destination, flow.now, self.expiration).copied();
        let least = set.and_then(|set| self.members.least(&set, &self.places, servers));
        least
            .filter(|&n| !lblc::crowded(servers, &servers[n]))
            .or_else(|| least::weighted(servers, Server::overhead))
    }

    fn standing(&self, servers: &[Server], flow: &Flow) -> Standing {
        let Some(set) = self.table.peek(flow.destination, flow.now, self.expiration) else {
            return Standing::Unknown;
        };
        let newest = self.members.all.get(set.first as usize);
        let first = newest.and_then(|m| self.places.find(servers, m.place, m.hint));
        Standing::Remembered { servers: set.len, first: first.map(|n| n as u32) }
    }

    fn load(&self, server: &Server) -> Option<u64> {
        Some(server.overhead())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::testing::*;

    fn at(scheduler: &mut ReplicatedLocality, servers: &[Server], destination: u8, seconds: u32) -> u32 {
        let index = scheduler.schedule(servers, &flow(1, destination, seconds)).unwrap();
        servers[index].counters.active.inc();
        servers[index].id.0
    }

    /// The number of members in use, according to the free list.
    fn used(lblcr: &ReplicatedLocality) -> usize {
        let mut free = 0;
        let mut at = lblcr.members.free;
        while let Some(member) = lblcr.members.all.get(at as usize) {
            free += 1;
            at = member.next;
        }
        lblcr.members.all.len() - free
    }

    #[test]
    fn the_set_grows_when_crowded_and_shrinks_when_unchanged() {
        let list = weights(&[4, 2, 2]);
        let mut lblcr = ReplicatedLocality::new(&list, 100);
        let chosen: Vec<_> = (0..8).map(|_| at(&mut lblcr, &list, 1, 0)).collect();
        assert_eq!(chosen, [3, 3, 3, 3, 3, 2, 2, 2]);
        assert_eq!(used(&lblcr), 2);
        list.iter().for_each(|s| s.counters.active.set(0));
        list[1].counters.active.set(1);
        // The set is due for shrinking: the least loaded server is used, the most loaded one is removed.
        assert_eq!(at(&mut lblcr, &list, 1, 101), 3);
        assert_eq!(used(&lblcr), 1);
        list[0].counters.active.set(4);
        list[1].counters.active.set(0);
        assert_eq!(at(&mut lblcr, &list, 1, 102), 3);
    }

    #[test]
    fn the_newest_member_wins_ties() {
        let list = weights(&[1, 1]);
        let mut lblcr = ReplicatedLocality::new(&list, 100);
        assert_eq!((0..3).map(|_| at(&mut lblcr, &list, 1, 0)).collect::<Vec<_>>(), [2, 2, 1]);
        list.iter().for_each(|s| s.counters.active.set(1));
        assert_eq!(at(&mut lblcr, &list, 1, 0), 1);
    }

    #[test]
    fn deleted_members_are_passed_over_and_dropped_first() {
        let list = weights(&[1, 1]);
        let mut old = ReplicatedLocality::new(&list, 100);
        assert_eq!((0..3).map(|_| at(&mut old, &list, 1, 0)).max(), Some(2));
        let less = &list[1..];
        let mut new = ReplicatedLocality::new(less, 100);
        new.inherit(&mut old, &list, less);
        assert_eq!(used(&new), 2);
        assert_eq!(at(&mut new, less, 1, 50), 1);
        assert_eq!(at(&mut new, less, 1, 150), 1);
        assert_eq!(used(&new), 1);
        assert_eq!(at(&mut new, less, 1, 300), 1);
        assert_eq!(used(&new), 1);
    }

    #[test]
    fn forgotten_sets_give_their_members_back() {
        let list = weights(&[9, 9]);
        let mut lblcr = ReplicatedLocality::new(&list, 60);
        for destination in 0..100 {
            lblcr.schedule(&list, &flow(1, destination, 0));
        }
        assert_eq!(used(&lblcr), 100);
        for _ in 0..1024 {
            lblcr.schedule(&list, &flow(1, 200, 1800));
        }
        assert_eq!(used(&lblcr), 1);
    }

    #[test]
    fn a_threshold_moves_the_session() {
        let mut list = weights(&[5, 5]);
        let mut lblcr = ReplicatedLocality::new(&list, 60);
        assert_eq!(at(&mut lblcr, &list, 1, 0), 2);
        list[0] = overload(list[0].clone(), true);
        assert_eq!(at(&mut lblcr, &list, 1, 0), 1);
    }

    #[test]
    fn a_quiesced_member_is_no_one_s_to_take_out() {
        let mut list = weights(&[1, 1]);
        let mut lblcr = ReplicatedLocality::new(&list, 100);
        assert_eq!((0..3).map(|_| at(&mut lblcr, &list, 1, 0)).collect::<Vec<_>>(), [2, 2, 1]);
        let told = lblcr.standing(&list, &flow(1, 1, 0));
        assert!(matches!(told, Standing::Remembered { servers: 2, first: Some(1) }), "{told:?}");
        list[0].weight = 0;
        assert_eq!(at(&mut lblcr, &list, 1, 101), 1);
        let told = lblcr.standing(&list, &flow(1, 1, 101));
        assert!(matches!(told, Standing::Remembered { servers: 1, first: Some(0) }), "{told:?}");
        assert_eq!(used(&lblcr), 1);
    }
}
