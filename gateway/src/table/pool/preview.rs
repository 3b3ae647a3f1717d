//! What the next session would get, without taking it.

use weir_api::model::Protocol;

use super::{Address, LocalPool, PairKey, line::Source, pair_hash, xorshift};
use crate::clock::Tick;

impl<A: Address> LocalPool<A> {
    /// The local address of which [`LocalPool::allocate`] would take a port now; none if there is no port. The limits
    /// of memory are ignored.
    #[must_use]
    pub fn preview(&self, lips: &[A], rip: A, rport: u16, protocol: Protocol, now: Tick) -> Option<A> {
        let epoch = self.epoch_at(now);
        let server = self.server_hash(rip, rport, protocol);
        let (_, random) = xorshift(self.random);
        let list = || lips.iter().fold(server, |h, lip| lip.mix(h));
        let turn = self.rotation.look(server, epoch, lips.len(), (random >> 32) as u32, list)?;
        let best = |lip: A| self.best_of(&PairKey { lip, rip, rport, protocol }, server, epoch);
        let in_turn = || lips.iter().cycle().skip(turn.start).take(lips.len()).copied();
        let worst = [Source::Free, Source::Old, Source::Young].into_iter().filter(|s| *s >= turn.source);
        worst.into_iter().find_map(|worst| in_turn().find(|lip| best(*lip).is_some_and(|s| s <= worst)))
    }

    /// The best source that a local address has towards a server.
    fn best_of(&self, key: &PairKey<A>, server: u64, epoch: u32) -> Option<Source> {
        let (used, ports) = self.room(key.lip, key.rip, key.rport, key.protocol);
        if used >= ports {
            return None;
        }
        let Some(id) = self.find_pair(key, pair_hash(key, server)) else { return Some(Source::Free) };
        let pair = &self.pairs[id];
        if pair.closed > 0 {
            return Some(Source::Free);
        }
        pair.best_at(epoch)
    }

    /// The epoch at this time.
    fn epoch_at(&self, now: Tick) -> u32 {
        self.epoch.wrapping_add(now.since(self.epoch_start) / self.rest)
    }
}
