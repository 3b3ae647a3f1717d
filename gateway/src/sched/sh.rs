//! Source hashing: sessions of the same client always go to the same server.
//!
//! 256 buckets are dealt to the servers in list order; each server gets as many in a row as its weight (one for weight
//! 0). If the bucket's server is quiesced or overloaded, the session is refused; with `sh-fallback` other buckets are
//! tried, in an order that depends on the client. With `sh-port` the source port is hashed too.

use super::{FLAG_FALLBACK, FLAG_PORT, Flow, Scheduler, Server, Standing, hash};

const BUCKETS: usize = 256;

/// The index of each bucket's server.
pub struct SourceHash {
    fallback: bool,
    port: bool,
    buckets: [u32; BUCKETS],
}

impl SourceHash {
    pub fn new(flags: u8, servers: &[Server]) -> Self {
        let mut buckets = [u32::MAX; BUCKETS];
        let dealt = (0..servers.len()).cycle().flat_map(|i| {
            let times = servers[i].weight.clamp(1, BUCKETS as u32) as usize;
            std::iter::repeat_n(i as u32, times)
        });
        buckets.iter_mut().zip(dealt).for_each(|(bucket, server)| *bucket = server);
        Self { fallback: flags & FLAG_FALLBACK != 0, port: flags & FLAG_PORT != 0, buckets }
    }

    /// The client's own bucket.
    fn slot(&self, flow: &Flow) -> usize {
        let port = if self.port { u32::from(flow.source_port) } else { 0 };
        hash::multiplicative_8(hash::fold(flow.source).wrapping_add(port))
    }
}

impl Scheduler for SourceHash {
    fn name(&self) -> &'static str {
        "sh"
    }

    fn inherit(&mut self, _: &mut dyn Scheduler, _: &[Server], _: &[Server]) {}

    fn schedule(&mut self, servers: &[Server], flow: &Flow) -> Option<usize> {
        let first = self.slot(flow);
        let available = |bucket: usize| {
            let server = self.buckets[bucket % BUCKETS] as usize;
            servers.get(server)?.eligible().then_some(server)
        };
        let found = available(first);
        if found.is_some() || !self.fallback {
            return found;
        }
        // Further tries start at twice the hash, because IPVS adds the bucket's number to the hash.
        (0..BUCKETS).find_map(|offset| available(first + first + offset))
    }

    fn standing(&self, servers: &[Server], flow: &Flow) -> Standing {
        let slot = self.slot(flow);
        let server = Some(self.buckets[slot]).filter(|&n| (n as usize) < servers.len());
        Standing::Slot { slot: slot as u32, slots: BUCKETS as u32, server, fallback: self.fallback }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::testing::*;

    #[test]
    fn client_decides_and_weights_share() {
        let list = weights(&[1, 3]);
        let mut sh = SourceHash::new(0, &list);
        assert_eq!(sh.buckets[..9], [0, 1, 1, 1, 0, 1, 1, 1, 0]);
        for client in 0..50 {
            let chosen = sh.schedule(&list, &flow(client, 1, 0));
            let mut other_port = flow(client, 9, 5);
            other_port.source_port = 7;
            assert_eq!(sh.schedule(&list, &other_port), chosen);
        }
    }

    #[test]
    fn quiesced_servers_keep_a_bucket() {
        let list = weights(&[0, 2]);
        assert_eq!(SourceHash::new(0, &list).buckets[..6], [0, 1, 1, 0, 1, 1]);
        let heavy = weights(&[i32::MAX as u32, 1]);
        assert_eq!(SourceHash::new(0, &heavy).buckets, [0; 256]);
    }

    #[test]
    fn fallback_leaves_others_alone() {
        let mut list = weights(&[1, 1, 1]);
        let mut plain = SourceHash::new(0, &list);
        let mut falling = SourceHash::new(FLAG_FALLBACK, &list);
        let before: Vec<_> = (0..90).map(|c| falling.schedule(&list, &flow(c, 1, 0)).unwrap()).collect();
        list[1].weight = 0;
        for (client, &before) in before.iter().enumerate() {
            let flow = flow(client as u8, 1, 0);
            assert_eq!(plain.schedule(&list, &flow), (before != 1).then_some(before));
            let after = falling.schedule(&list, &flow).unwrap();
            assert!(after != 1 && (before == 1 || after == before));
        }
    }

    #[test]
    fn port_counts_when_asked() {
        let list = weights(&[1, 1]);
        let mut sh = SourceHash::new(FLAG_PORT, &list);
        let chosen: Vec<_> = (0..64)
            .map(|port| {
                let mut flow = flow(1, 1, 0);
                flow.source_port = port;
                sh.schedule(&list, &flow).unwrap()
            })
            .collect();
        assert!(chosen.contains(&0) && chosen.contains(&1));
    }
}
