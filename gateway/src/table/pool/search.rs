//! The slow search for a port: one local address after the other, from the best ports to the worst.

use weir_api::model::Protocol;

use super::{Address, Exhausted, LocalPool, PairKey, line::Source, pair_hash, rotation::RotationTurn};
use crate::table::steering::kind_number;

/// What one local address offers.
pub(super) enum Offer {
    Port(u16, Source),
    /// Nothing of the wanted sources.
    InUse,
    NoMemory,
    NotHome,
}

impl<A: Address> LocalPool<A> {
    /// How many ports of `lip` this worker uses towards the server (`rip`, `rport`), and how many it has.
    #[must_use]
    pub fn room(&self, lip: A, rip: A, rport: u16, protocol: Protocol) -> (u32, u32) {
        let share = &self.shares[kind_number(protocol)];
        let base = share.base(self.steering.index(rip, rport, lip, 0, protocol));
        let key = PairKey { lip, rip, rport, protocol };
        let pair = self.find_pair(&key, pair_hash(&key, self.server_hash(rip, rport, protocol)));
        (pair.map_or(0, |id| self.usage.used_of(id)), share.ports(base))
    }

    /// Takes a port of the first of `lips`, in turn, that has the best available source.
    #[inline(never)]
    pub(super) fn search(
        &mut self,
        lips: &[A],
        rip: A,
        rport: u16,
        protocol: Protocol,
        turn: RotationTurn,
        random: u64,
    ) -> Result<(A, u16), Exhausted> {
        let server = self.server_hash(rip, rport, protocol);
        let mut source = turn.source;
        let mut made_room = false;
        loop {
            let mut failed = Exhausted::Home;
            for skipped in 0..lips.len() {
                let at = turn.start + skipped;
                let lip = lips[if at < lips.len() { at } else { at - lips.len() }];
                let key = PairKey { lip, rip, rport, protocol };
                match self.ask(&key, server, source, random) {
                    Offer::Port(port, source) => {
                        self.rotation.found(server, lips.len(), turn, skipped, source);
                        return Ok((lip, port));
                    }
                    Offer::InUse if failed == Exhausted::Home => failed = Exhausted::Ports,
                    Offer::InUse | Offer::NotHome => (),
                    Offer::NoMemory => failed = Exhausted::Memory,
                }
            }
            source = match (source, failed) {
                (_, Exhausted::Home) => return Err(Exhausted::Home),
                (Source::Free, _) => Source::Old,
                (Source::Old, _) => Source::Young,
                (Source::Young, Exhausted::Memory) => {
                    if made_room || !self.make_room() {
                        return Err(Exhausted::Memory);
                    }
                    made_room = true;
                    Source::Free
                }
                (Source::Young, _) => {
                    let list = lips.iter().fold(server, |h, lip| lip.mix(h));
                    self.rotation.exhaust(server, list);
                    return Err(Exhausted::Ports);
                }
            };
        }
    }

    /// Asks one local address for a port from `worst` or better.
    fn ask(&mut self, key: &PairKey<A>, server: u64, worst: Source, random: u64) -> Offer {
        let hash = pair_hash(key, server);
        let id = match self.find_pair(key, hash) {
            Some(id) => id,
            None => match self.new_pair(key, hash, random as u32) {
                Ok(id) => id,
                Err(offer) => return offer,
            },
        };
        self.pairs[id].age(&mut self.lines, self.epoch);
        let mut no_memory = false;
        if !self.pairs[id].offers(Source::Free) && self.pairs[id].closed > 0 {
            no_memory = self.open_line(id, key.protocol).is_err();
        }
        for source in [Source::Free, Source::Old, Source::Young] {
            if source <= worst
                && self.pairs[id].offers(source)
                && let Some(port) = self.take(id, key.protocol, source, random)
            {
                self.usage.count_early_reuse(u32::from(source != Source::Free));
                return Offer::Port(port, source);
            }
        }
        if no_memory { Offer::NoMemory } else { Offer::InUse }
    }
}
