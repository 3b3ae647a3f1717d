//! Maglev hashing: sessions of the same client go to the same server, on every director with the same servers, and few
//! of them move when a server is added or removed.
//!
//! The servers fill a table of 4093 slots in turns. In its turn a server takes the next free slots of its own
//! permutation of the table (start and stride are hashes of its address and port), as many as its weight allows. If two
//! servers want a slot, the one whose turn is first gets it, so the table depends slightly on list order. Source:
//! Eisenbud and others, "Maglev: A Fast and Reliable Software Network Load Balancer", 3.4.
//!
//! Details of IPVS: a quiesced server keeps its slots, with the last weight it had, and its sessions are refused (with
//! `mh-fallback`, further slots are tried, in an order that depends on the client). The number of slots per turn is
//! weight / gcd, shifted right so that at most 6 bits are left. With `mh-port` the source port is hashed too.

use std::any::Any;

use super::{FLAG_FALLBACK, FLAG_PORT, Flow, Scheduler, Server, Standing, hash, lists};

/// The number of slots, a prime.
const SLOTS: u32 = 4093;
/// The number of bits left of the largest weight.
const WEIGHT_BITS: u32 = 6;
/// The key of the permutations' starts and of lookups.
const KEY: u64 = 2_654_435_761;
/// The key of the permutations' strides.
const STRIDE_KEY: u64 = 2_654_446_892;
/// A slot without a server.
const EMPTY: u32 = u32::MAX;

/// The table, and the data it was made from.
pub struct Maglev {
    fallback: bool,
    port: bool,
    /// The index of each slot's server.
    table: Vec<u32>,
    /// The last weight above 0 that each server had, 0 if none.
    last_weights: Vec<u32>,
    /// Scratch memory for filling the table.
    turns: Vec<Permutation>,
}

/// A server's position in its permutation.
#[derive(Clone, Copy, Default)]
struct Permutation {
    at: u32,
    stride: u32,
    /// The number of slots taken per turn.
    slots: u32,
}

fn hashed(server: &Server, key: u64) -> u32 {
    hash::sip_1_3(hash::fold(server.address).wrapping_add(u32::from(server.port)), key)
}

impl Maglev {
    pub fn new(flags: u8, servers: &[Server]) -> Self {
        let mut new = Self {
            fallback: flags & FLAG_FALLBACK != 0,
            port: flags & FLAG_PORT != 0,
            table: vec![EMPTY; SLOTS as usize],
            last_weights: servers.iter().map(|s| s.weight).collect(),
            turns: vec![Permutation::default(); servers.len()],
        };
        new.fill(servers);
        new
    }

    /// The slot of a client, after `offset` further tries.
    fn slot(&self, flow: &Flow, offset: u32) -> u32 {
        let port = if self.port { u32::from(flow.source_port) } else { 0 };
        let client = hash::fold(flow.source).wrapping_add(port);
        hash::sip_1_3(client.wrapping_add(offset), KEY) % SLOTS
    }

    /// Refills the table from `last_weights`, without allocation.
    fn fill(&mut self, servers: &[Server]) {
        self.table.fill(EMPTY);
        let divisor = self.last_weights.iter().fold(0, |a, &b| gcd(a, b));
        if divisor == 0 {
            return;
        }
        let largest = self.last_weights.iter().max().map_or(0, |max| max / divisor);
        let shift = (u32::BITS - largest.leading_zeros()).saturating_sub(WEIGHT_BITS);
        for ((turn, server), &weight) in self.turns.iter_mut().zip(servers).zip(&self.last_weights) {
            turn.at = hashed(server, KEY) % SLOTS;
            turn.stride = hashed(server, STRIDE_KEY) % (SLOTS - 1) + 1;
            turn.slots = ((weight / divisor) >> shift).max(u32::from(weight != 0));
        }
        let mut free = SLOTS;
        while free > 0 {
            for (index, turn) in self.turns.iter_mut().enumerate() {
                for _ in 0..turn.slots.min(free) {
                    while self.table[turn.at as usize] != EMPTY {
                        turn.at = (turn.at + turn.stride) % SLOTS;
                    }
                    self.table[turn.at as usize] = index as u32;
                    free -= 1;
                }
            }
        }
    }
}

fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Scheduler for Maglev {
    fn name(&self) -> &'static str {
        "mh"
    }

    fn inherit(&mut self, old: &mut dyn Scheduler, old_servers: &[Server], servers: &[Server]) {
        let Some(old) = (old as &mut dyn Any).downcast_mut::<Self>() else { return };
        let mut carried = false;
        let mut matched = 0;
        lists::survivors(old_servers, servers, |i, j| {
            matched += 1;
            if servers[j].weight == 0 && old.last_weights[i] != 0 {
                self.last_weights[j] = old.last_weights[i];
                carried = true;
            }
        });
        if !carried {
            return;
        }
        // Quiescing, by far the most common change, leaves the table unchanged.
        let unchanged = matched == servers.len() && self.last_weights == old.last_weights;
        if unchanged {
            std::mem::swap(&mut self.table, &mut old.table);
        } else {
            self.fill(servers);
        }
    }

    fn schedule(&mut self, servers: &[Server], flow: &Flow) -> Option<usize> {
        let slot = |offset: u32| self.slot(flow, offset);
        let first = slot(0);
        let server = self.table[first as usize] as usize;
        if servers.get(server)?.eligible() {
            return Some(server);
        }
        if !self.fallback || !servers.iter().any(Server::eligible) {
            return None;
        }
        (0..SLOTS)
            .map(|offset| self.table[slot((first + offset) % SLOTS) as usize] as usize)
            .find(|&server| servers.get(server).is_some_and(Server::eligible))
    }

    fn standing(&self, servers: &[Server], flow: &Flow) -> Standing {
        let slot = self.slot(flow, 0);
        let server = Some(self.table[slot as usize]).filter(|&n| (n as usize) < servers.len());
        Standing::Slot { slot, slots: SLOTS, server, fallback: self.fallback }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::testing::*;

    fn slots(mh: &Maglev, servers: &[Server], id: u32) -> usize {
        mh.table.iter().filter(|&&i| servers[i as usize].id.0 == id).count()
    }

    #[test]
    fn slots_follow_weights() {
        let list = weights(&[1, 2, 4]);
        let mh = Maglev::new(0, &list);
        let shares: Vec<_> = [3, 2, 1].iter().map(|&id| slots(&mh, &list, id)).collect();
        assert_eq!(shares, [585, 1170, 2338]);
        let equal = weights(&[500, 500]);
        let mh = Maglev::new(0, &equal);
        assert_eq!((slots(&mh, &equal, 2), slots(&mh, &equal, 1)), (2047, 2046));
    }

    #[test]
    fn few_clients_move_when_a_server_goes() {
        let before = weights(&[1, 1, 1, 1]);
        let after: Vec<_> = before.iter().filter(|s| s.id.0 != 2).cloned().collect();
        let (mh_before, mh_after) = (Maglev::new(0, &before), Maglev::new(0, &after));
        let moved = (0..SLOTS as usize)
            .filter(|&slot| {
                let old = before[mh_before.table[slot] as usize].id.0;
                old != 2 && old != after[mh_after.table[slot] as usize].id.0
            })
            .count();
        assert!(moved < SLOTS as usize / 10, "{moved}");
    }

    #[test]
    fn a_quiesced_server_keeps_its_slots() {
        let list = weights(&[3, 2]);
        let mut old = Maglev::new(0, &list);
        let table = old.table.clone();
        let mut quiesced = list.clone();
        quiesced[0].weight = 0;
        let mut new = Maglev::new(0, &quiesced);
        assert_ne!(new.table, table);
        new.inherit(&mut old, &list, &quiesced);
        assert_eq!(new.table, table);
        // The same holds after a further change, which refills the table.
        let mut more = quiesced.clone();
        more.insert(0, server(9, 1, 0, 0));
        let mut last = Maglev::new(0, &more);
        last.inherit(&mut new, &quiesced, &more);
        assert_eq!(last.last_weights, [1, 3, 2]);
        assert!(slots(&last, &more, 2) > slots(&last, &more, 1));
    }

    #[test]
    fn a_new_server_of_weight_0_has_no_slots() {
        let list = weights(&[0, 1]);
        let mh = Maglev::new(0, &list);
        assert_eq!(slots(&mh, &list, 2), 0);
        assert!(Maglev::new(0, &weights(&[0])).table.iter().all(|&slot| slot == EMPTY));
    }

    #[test]
    fn more_servers_than_slots() {
        let list = weights(&vec![1; 5000]);
        let mh = Maglev::new(0, &list);
        assert!(mh.table.iter().all(|&i| i < SLOTS));
    }

    #[test]
    fn fallback_leaves_others_alone() {
        let list = weights(&[1, 1, 1]);
        let mut mh = Maglev::new(FLAG_FALLBACK, &list);
        let before: Vec<_> = (0..90).map(|c| mh.schedule(&list, &flow(c, 1, 0)).unwrap()).collect();
        let mut quiesced = list.clone();
        quiesced[2].weight = 0;
        for (client, &before) in before.iter().enumerate() {
            let after = mh.schedule(&quiesced, &flow(client as u8, 1, 0)).unwrap();
            assert!(after != 2 && (before == 2 || after == before));
        }
    }
}
