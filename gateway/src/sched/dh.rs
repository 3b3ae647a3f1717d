//! Destination hashing: sessions to the same virtual address always go to the same server, for caches behind a service
//! that covers many addresses.
//!
//! 256 buckets are dealt to the servers in list order, regardless of weights. If the bucket's server is quiesced or
//! overloaded, the session is refused.

use super::{Flow, Scheduler, Server, Standing, hash};

/// The index of each bucket's server.
pub struct DestinationHash([u32; 256]);

impl DestinationHash {
    pub fn new(servers: &[Server]) -> Self {
        let mut buckets = [u32::MAX; 256];
        let dealt = (0..servers.len() as u32).cycle();
        buckets.iter_mut().zip(dealt).for_each(|(bucket, server)| *bucket = server);
        Self(buckets)
    }
}

fn slot(flow: &Flow) -> usize {
    hash::multiplicative_8(hash::fold(flow.destination))
}

impl Scheduler for DestinationHash {
    fn name(&self) -> &'static str {
        "dh"
    }

    fn inherit(&mut self, _: &mut dyn Scheduler, _: &[Server], _: &[Server]) {}

    fn schedule(&mut self, servers: &[Server], flow: &Flow) -> Option<usize> {
        let server = self.0[slot(flow)] as usize;
        servers.get(server)?.eligible().then_some(server)
    }

    fn standing(&self, servers: &[Server], flow: &Flow) -> Standing {
        let server = Some(self.0[slot(flow)]).filter(|&n| (n as usize) < servers.len());
        Standing::Slot { slot: slot(flow) as u32, slots: 256, server, fallback: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::testing::*;

    #[test]
    fn destination_decides() {
        let list = weights(&[1, 9, 1]);
        let mut dh = DestinationHash::new(&list);
        let mut used = [0; 3];
        for destination in 0..200 {
            let chosen = dh.schedule(&list, &flow(1, destination, 0)).unwrap();
            assert_eq!(dh.schedule(&list, &flow(99, destination, 7)), Some(chosen));
            used[chosen] += 1;
        }
        assert!(used.iter().all(|&n| n > 30), "{used:?}");
    }

    #[test]
    fn a_quiesced_server_refuses_its_destinations_only() {
        let mut list = weights(&[1, 1]);
        let mut dh = DestinationHash::new(&list);
        let before: Vec<_> = (0..50).map(|d| dh.schedule(&list, &flow(1, d, 0))).collect();
        list[0].weight = 0;
        let after: Vec<_> = (0..50).map(|d| dh.schedule(&list, &flow(1, d, 0))).collect();
        for (before, after) in before.into_iter().zip(after) {
            assert_eq!(after, before.filter(|&i| i == 1));
        }
    }
}
