//! The pool's occasional work: creating pairs and lines, and freeing them.

use weir_api::model::Protocol;

use super::{
    Address, LocalPool, NoMemory, Opened, PORTS, PairKey, PortPair, SPARE_PORTS, Source, line::Line,
    pair_hash, search::Offer,
};
use crate::{
    clock::{Tick, Ticks},
    table::steering::kind_number,
};

impl<A: Address> LocalPool<A> {
    /// Ends the epoch, `passed` after its start.
    #[cold]
    pub(super) fn new_epoch(&mut self, now: Tick, passed: Ticks) {
        if passed > Ticks(i32::MAX as u32) {
            // The pool wasn't used for 248 days, or time went backwards: resting ports rest a little longer.
            self.epoch_start = now;
            return;
        }
        self.epoch = self.epoch.wrapping_add(passed / self.rest);
        self.epoch_start = now.before(passed % self.rest);
    }

    /// Creates a pair without ports in use.
    #[cold]
    pub(super) fn new_pair(&mut self, key: &PairKey<A>, hash: u32, random: u32) -> Result<u32, Offer> {
        let share = &self.shares[kind_number(key.protocol)];
        let base = share.base(self.steering.index(key.rip, key.rport, key.lip, 0, key.protocol));
        let lines = share.slots(base).div_ceil(PORTS);
        if lines == 0 {
            return Err(Offer::NotHome);
        }
        if self.pairs.is_exhausted() {
            return Err(Offer::NoMemory);
        }
        let address = self.address_of(key.lip).ok_or(Offer::NoMemory)?;
        let turn = (u64::from(random) * u64::from(lines)) >> 32;
        let pair = PortPair::new(base, address, lines, turn as u32, self.epoch);
        let id = self.pairs.insert(pair).ok_or(Offer::NoMemory)?;
        self.addresses[address] += 1;
        self.usage.set_pair(id, key);
        match self.opened.get_mut(id as usize) {
            Some(opened) => *opened = Opened::NONE,
            // This is within the reserved memory.
            None => self.opened.push(Opened::NONE),
        }
        if !self.pair_index.insert(hash, id) {
            self.forget_pair(id, address);
            return Err(Offer::NoMemory);
        }
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
    pub(super) fn open_line(&mut self, id: u32, protocol: Protocol) -> Result<(), NoMemory> {
        if self.lines.is_exhausted() {
            return Err(NoMemory);
        }
        let pair = &mut self.pairs[id];
        let opened = &mut self.opened[id as usize];
        let share = &self.shares[kind_number(protocol)];
        let slots = share.slots(pair.base);
        while let Some(number) = opened.first_closed(slots.div_ceil(PORTS)) {
            let mut line = Line::new(number, self.epoch);
            let start = pair.window(number, slots) * PORTS;
            let end = slots.min(start + PORTS);
            if share.all_in_range(start, end) {
                line.add_first(end - start);
            } else {
                (start..end)
                    .filter(|&slot| share.range().contains(share.port(pair.base, slot)))
                    .for_each(|slot| line.add(slot - start));
            }
            if line.has(Source::Free) {
                let line = self.lines.insert(line).ok_or(NoMemory)?;
                if !pair.set_line(&mut self.directories, number, line) {
                    self.lines.remove(line);
                    return Err(NoMemory);
                }
                opened.set(number);
                pair.open(&mut self.lines, line);
                return Ok(());
            }
            // The line has no port of the range: it counts as opened, so that it isn't searched again.
            opened.set(number);
            pair.closed -= 1;
        }
        Ok(())
    }

    /// Frees an unused line of a pair that has many more ports than it needs.
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
        let number = self.lines[line].number;
        let pair = &mut self.pairs[id];
        pair.close(&self.lines, line);
        // The line existed, so its place in the directory does, too.
        pair.set_line(&mut self.directories, number, 0);
        self.lines.remove(line);
        self.opened[id as usize].clear(number);
    }

    /// Frees one line of the pair that has been idle longest, or the pair if it has no lines.
    #[cold]
    pub(super) fn shrink_idle(&mut self) {
        let id = self.idle;
        let pair = &mut self.pairs[id];
        if let Some(line) = pair.unused_line(&mut self.lines, true) {
            // The line has rested, unless memory is short.
            self.lines[line].age(self.epoch);
            self.usage.count_early_reuse(self.lines[line].resting());
            self.close_line(id, line);
            return;
        }
        let address = pair.address;
        let key = self.usage.pair_key(id);
        self.pair_index.remove(pair_hash(&key, self.server_hash(key.rip, key.rport, key.protocol)), id);
        self.pairs.unlink(&mut self.idle, id);
        self.forget_pair(id, address);
    }

    /// Frees the pair's number, and that of its address if this was the address's last pair.
    fn forget_pair(&mut self, id: u32, address: u32) {
        self.directories.remove(self.pairs[id].directory);
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

    /// Takes memory from idle pairs whose ports still rest. False if there is none to take.
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
