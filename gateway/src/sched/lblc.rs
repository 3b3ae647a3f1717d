//! Locality-based least connection, for caches: a destination keeps its server until that server is loaded beyond its
//! weight while another is less than half loaded. Then, and for new destinations, weighted least connection decides.
//!
//! Details of IPVS: a destination keeps its server even above the upper threshold, and gets it back when the server is
//! deleted and added again. Only active sessions count as load.

use std::any::Any;

use super::{
    Flow, Scheduler, Server, Standing, least,
    locality::{LocalityTable, Places, ServerPlace},
};
use crate::clock::Ticks;

/// A destination's server, and where it last was in the list.
#[derive(Clone, Copy)]
struct Cached {
    place: ServerPlace,
    hint: u32,
}

/// The destinations' servers.
pub struct Locality {
    table: LocalityTable<Cached>,
    places: Places,
    expiration: Ticks,
}

impl Locality {
    /// `expiration` is in seconds.
    pub fn new(servers: &[Server], expiration: u32) -> Self {
        Self {
            table: LocalityTable::new(),
            places: Places::new(servers),
            expiration: Ticks::seconds(expiration),
        }
    }
}

impl Locality {
    /// The destination's server, if it is remembered and still exists.
    fn known(&self, servers: &[Server], flow: &Flow) -> Option<usize> {
        let cached = self.table.peek(flow.destination, flow.now, self.expiration)?;
        self.places.find(servers, cached.place, cached.hint)
    }
}

/// Whether the server is loaded beyond its weight while another one is less than half loaded.
pub fn crowded(servers: &[Server], server: &Server) -> bool {
    let (active, weight) = (|s: &Server| u64::from(s.active()), |s: &Server| u64::from(s.weight));
    active(server) > weight(server) && servers.iter().any(|s| active(s) * 2 < weight(s))
}

impl Scheduler for Locality {
    fn name(&self) -> &'static str {
        "lblc"
    }

    fn inherit(&mut self, old: &mut dyn Scheduler, _: &[Server], _: &[Server]) {
        if let Some(old) = (old as &mut dyn Any).downcast_mut::<Self>() {
            std::mem::swap(&mut self.table, &mut old.table);
        }
    }

    fn heeds_thresholds(&self) -> bool {
        false
    }

    fn schedule(&mut self, servers: &[Server], flow: &Flow) -> Option<usize> {
        self.table.maintain(flow.now, self.expiration, |_| {});
        if let Some(cached) = self.table.get(flow.destination, flow.now, self.expiration)
            && let Some(index) = self.places.find(servers, cached.place, cached.hint)
        {
            cached.hint = index as u32;
            if servers[index].weight > 0 && !crowded(servers, &servers[index]) {
                return Some(index);
            }
        }
        let index = least::weighted(servers, Server::overhead)?;
        let cached = Cached { place: ServerPlace::of(&servers[index]), hint: index as u32 };
        self.table.set(flow.destination, flow.now, cached);
        Some(index)
    }

    fn preview(&mut self, servers: &[Server], flow: &Flow) -> Option<usize> {
        let kept = self.known(servers, flow).filter(|&n| servers[n].weight > 0);
        kept.filter(|&n| !crowded(servers, &servers[n]))
            .or_else(|| least::weighted(servers, Server::overhead))
    }

    fn standing(&self, servers: &[Server], flow: &Flow) -> Standing {
        match self.table.peek(flow.destination, flow.now, self.expiration) {
            Some(_) => {
                Standing::Remembered { servers: 1, first: self.known(servers, flow).map(|n| n as u32) }
            }
            None => Standing::Unknown,
        }
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
    fn crowded_is_above_the_weight_while_another_is_below_half_of_its_own() {
        for (active, other, is) in [(4, 1, true), (3, 1, false), (4, 2, false), (4, 0, true), (0, 0, false)] {
            let list = servers(&[(3, active, 9), (4, other, 9)]);
            assert_eq!(crowded(&list, &list[0]), is, "{active} of 3, {other} of 4");
        }
        // Maximal weights don't overflow.
        let list = servers(&[(1, u32::MAX, 0), (u32::MAX, u32::MAX / 2, 0)]);
        assert!(crowded(&list, &list[0]));
    }

    fn at(scheduler: &mut Locality, servers: &[Server], destination: u8, seconds: u32) -> u32 {
        let index = scheduler.schedule(servers, &flow(1, destination, seconds)).unwrap();
        servers[index].counters.active.inc();
        servers[index].id.0
    }

    #[test]
    fn sticks_until_crowded_and_another_is_idle() {
        let list = weights(&[4, 2, 2]);
        let mut lblc = Locality::new(&list, 60);
        let chosen: Vec<_> = (0..10).map(|_| at(&mut lblc, &list, 1, 0)).collect();
        assert_eq!(chosen, [3, 3, 3, 3, 3, 2, 2, 2, 1, 1]);
        list[1].counters.active.set(2);
        list[2].counters.active.set(9);
        // The server is overloaded, but no other one is less than half loaded: the destination stays.
        assert_eq!(at(&mut lblc, &list, 1, 0), 1);
    }

    #[test]
    fn threshold_doesnt_move_a_destination_and_weight_0_does() {
        let mut list = weights(&[5, 5]);
        let mut lblc = Locality::new(&list, 60);
        assert_eq!(at(&mut lblc, &list, 1, 0), 2);
        list[0] = overload(list[0].clone(), true);
        assert_eq!(at(&mut lblc, &list, 1, 0), 2);
        assert_eq!(at(&mut lblc, &list, 2, 0), 1);
        list[0].weight = 0;
        assert_eq!(at(&mut lblc, &list, 1, 0), 1);
    }

    #[test]
    fn a_server_that_comes_back_gets_its_destinations_back() {
        let list = weights(&[5, 5]);
        let mut old = Locality::new(&list, 60);
        assert_eq!(at(&mut old, &list, 1, 0), 2);
        let less = &list[1..];
        let mut gone = Locality::new(less, 60);
        gone.inherit(&mut old, &list, less);
        // Nothing is scheduled for the destination meanwhile.
        let back = [server(1, 5, 0, 0), server(2, 5, 3, 0)];
        let mut new = Locality::new(&back, 60);
        new.inherit(&mut gone, less, &back);
        assert_eq!(at(&mut new, &back, 1, 0), 2);
        assert_eq!(at(&mut new, &back, 7, 0), 1);
    }

    #[test]
    fn forgets_unused_destinations() {
        let list = weights(&[5, 5]);
        let mut lblc = Locality::new(&list, 60);
        assert_eq!(at(&mut lblc, &list, 1, 0), 2);
        assert_eq!(at(&mut lblc, &list, 1, 1700), 2);
        assert_eq!(at(&mut lblc, &list, 1, 1750), 2);
        assert_eq!(at(&mut lblc, &list, 1, 3700), 1);
    }

    #[test]
    fn the_preview_shows_the_next_choice_and_the_state() {
        let mut list = weights(&[5, 5]);
        let mut lblc = Locality::new(&list, 60);
        assert!(matches!(lblc.standing(&list, &flow(1, 1, 0)), Standing::Unknown));
        assert_eq!(at(&mut lblc, &list, 1, 0), 2);
        let told = lblc.standing(&list, &flow(1, 1, 0));
        assert!(matches!(told, Standing::Remembered { servers: 1, first: Some(0) }), "{told:?}");
        assert_eq!(lblc.preview(&list, &flow(1, 1, 0)), Some(0), "though the other has less to do");
        list[0].weight = 0;
        assert_eq!(lblc.preview(&list, &flow(1, 1, 0)), Some(1));
        assert_eq!(at(&mut lblc, &list, 1, 0), 1);
    }
}
