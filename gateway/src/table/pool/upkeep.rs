//! What a pool does once in a while: making pairs and lines, and giving them back.

use super::{
    Address, LineKey, LocalPool, NoMemory, Offer, Opened, PORTS, Pair, PairKey, SPARE_PORTS, Source,
    line::Line, pair_hash,
};
use crate::table::steering::kind_number;

impl<A: Address> LocalPool<A> {
    /// A pair without ports in use yet.
    #[cold]
    pub(super) fn new_pair(&mut self, key: &PairKey<A>, hash: u32) -> Result<u32, Offer> {
        let share_number = kind_number(key.protocol);
        let share = &self.shares[share_number];
        let base = share.base(self.steering.index(key.rip, key.rport, key.lip, 0, key.protocol));
        let lines = share.slots(base).div_ceil(PORTS);
        if lines == 0 {
            return Err(Offer::NotHome);
        }
        if self.pairs.is_exhausted() {
            return Err(Offer::NoMemory);
        }
        let address = self.address_of(key.lip).ok_or(Offer::NoMemory)?;
        let pair = Pair::new(base, share_number as u32, address, lines, self.epoch);
        let id = self.pairs.insert(pair).ok_or(Offer::NoMemory)?;
        if !self.pair_index.insert(hash, id) {
            self.pairs.remove(id);
            return Err(Offer::NoMemory);
        }
        self.addresses[address] += 1;
        match self.opened.get_mut(id as usize) {
            Some(opened) => *opened = Opened::NONE,
            // Within what was reserved.
            None => self.opened.push(Opened::NONE),
        }
        self.usage.set_pair(id, key);
        self.pairs.push(&mut self.idle, id);
        Ok(id)
    }

    /// The slot of a local address.
    fn address_of(&mut self, lip: A) -> Option<u32> {
        let hash = (lip.mix(self.seed) >> 32) as u32;
        if let Some(id) = self.address_index.find(hash, |id| self.usage.is_address(id, lip)) {
            return Some(id);
        }
        let id = self.addresses.insert(0)?;
        if !self.address_index.insert(hash, id) {
            self.addresses.remove(id);
            return None;
        }
        self.usage.set_address(id, lip);
        Some(id)
    }

    /// Opens a line of the pair that has usable ports, if there is one left.
    #[cold]
    pub(super) fn open_line(&mut self, id: u32, random: u32) -> Result<(), NoMemory> {
        if self.lines.is_exhausted() {
            return Err(NoMemory);
        }
        let pair = &mut self.pairs[id];
        let opened = &mut self.opened[id as usize];
        let share = &self.shares[pair.share as usize];
        let slots = share.slots(pair.base);
        while let Some(number) = opened.choose(slots.div_ceil(PORTS), random) {
            let mut line = Line::new(LineKey::new(id, number), self.epoch);
            let start = number * PORTS;
            (start..slots.min(start + PORTS))
                .filter(|&slot| share.range().contains(share.port(pair.base, slot)))
                .for_each(|slot| line.add(slot - start));
            if line.has(Source::Free) {
                let key = line.key;
                let line = self.lines.insert(line).ok_or(NoMemory)?;
                if !self.line_index.insert(key.hash(), line) {
                    self.lines.remove(line);
                    return Err(NoMemory);
                }
                opened.set(number);
                pair.open(&mut self.lines, line);
                return Ok(());
            }
            // Nothing of the range in there: it counts as opened, so that nobody looks again.
            opened.set(number);
            pair.unopened -= 1;
        }
        Ok(())
    }

    /// Gives back an unused line of a pair that has many more ports than it needs.
    pub(super) fn give_back_spare(&mut self, id: u32, used: u32) {
        let pair = &mut self.pairs[id];
        if u32::from(pair.lines) * PORTS <= 2 * used + SPARE_PORTS {
            return;
        }
        if let Some(line) = pair.unused_line(&mut self.lines, false) {
            self.close_line(id, line);
        }
    }

    fn close_line(&mut self, id: u32, line: u32) {
        let key = self.lines[line].key;
        self.pairs[id].close(&mut self.lines, line);
        self.line_index.remove(key.hash(), line);
        self.lines.remove(line);
        self.opened[id as usize].clear(key.number());
    }

    /// Gives back one line of the pair that has been idle longest, or the pair when it has none.
    #[cold]
    pub(super) fn shrink_idle(&mut self) {
        let id = self.idle;
        let pair = &mut self.pairs[id];
        pair.age(&mut self.lines, self.epoch);
        if let Some(line) = pair.unused_line(&mut self.lines, true) {
            // Whoever comes here before the rest is over does so for want of memory.
            self.usage.count_early_reuse(self.lines[line].resting());
            self.close_line(id, line);
            return;
        }
        let address = pair.address;
        let key = self.usage.pair_key(id);
        let hash = pair_hash(&key, self.server_hash(key.rip, key.rport, key.protocol));
        self.pair_index.remove(hash, id);
        self.pairs.unlink(&mut self.idle, id);
        self.pairs.remove(id);
        self.usage.clear_pair(id);
        self.addresses[address] -= 1;
        if self.addresses[address] == 0 {
            let lip = self.usage.address(address);
            self.address_index.remove((lip.mix(self.seed) >> 32) as u32, address);
            self.addresses.remove(address);
            self.usage.clear_address(address);
        }
    }

    /// Takes memory from idle pairs whose ports still rest. False if there is none to be had.
    #[cold]
    pub(super) fn make_room(&mut self) -> bool {
        for _ in 0..8 {
            if self.idle == 0 {
                return false;
            }
            self.shrink_idle();
            if !self.lines.is_exhausted() && !self.pairs.is_exhausted() {
                return true;
            }
        }
        false
    }
}
