//! A local address towards one server: its lines, by what they have to offer.
//!
//! ```text
//! Free   lines with at least one port that has rested
//! Old    the other lines with ports freed in the epoch before
//! Young  the other lines with ports freed in this epoch
//! (none) lines whose ports are all in use
//! ```
//!
//! At a change of epoch the Old lines join the Free ones and the Young ones are the new Old: three moves of list
//! heads, however many lines there are.

use zerocopy::FromZeros;

use super::{
    line::{Line, MAX_LINES, Source},
    slab::{Linked, Slab},
};
use crate::table::share::Base;

/// The pair. Links are pair ids in the pool's list of idle pairs.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C, align(64))]
pub(super) struct Pair {
    /// Heads of the lists, by [`Source`].
    lists: [u32; 3],
    epoch: u32,
    prev: u32,
    next: u32,
    /// Epoch in which the last port in use was freed.
    pub idle_since: u32,
    /// Slot of the local address.
    pub address: u32,
    pub base: Base,
    /// Lines that exist.
    pub lines: u16,
    /// Lines never opened, or closed again.
    pub unopened: u16,
    /// Index of the share of ports.
    pub share: u32,
}

const _: () = assert!(size_of::<Pair>() == 64);

impl Linked for Pair {
    fn links(&self) -> (u32, u32) {
        (self.prev, self.next)
    }
    fn set_prev(&mut self, id: u32) {
        self.prev = id;
    }
    fn set_next(&mut self, id: u32) {
        self.next = id;
    }
}

impl Linked for Line {
    #[inline]
    fn links(&self) -> (u32, u32) {
        (self.prev, self.next)
    }
    #[inline]
    fn set_prev(&mut self, id: u32) {
        self.prev = id;
    }
    #[inline]
    fn set_next(&mut self, id: u32) {
        self.next = id;
    }
}

impl Pair {
    pub fn new(base: Base, share: u32, address: u32, lines: u32, epoch: u32) -> Self {
        Self {
            lists: [0; 3],
            epoch,
            prev: 0,
            next: 0,
            idle_since: epoch,
            address,
            base,
            lines: 0,
            unopened: lines as u16,
            share,
        }
    }

    /// Brings the lists to `epoch`.
    #[inline]
    pub fn age(&mut self, lines: &mut Slab<Line>, epoch: u32) {
        let passed = epoch.wrapping_sub(self.epoch);
        if passed == 0 {
            return;
        }
        self.epoch = epoch;
        let [free, old, young] = &mut self.lists;
        lines.append(free, *old);
        *old = *young;
        *young = 0;
        if passed > 1 {
            lines.append(free, *old);
            *old = 0;
        }
    }

    /// Takes a port from a line that offers `source`, and says from which line and which of its ports. The
    /// pair has been brought to its epoch; the line may be left behind in time.
    #[inline]
    pub fn take(&mut self, lines: &mut Slab<Line>, source: Source, random: u32) -> Option<Taken> {
        loop {
            let id = self.lists[source as usize];
            if id == 0 {
                return None;
            }
            let line = &mut lines[id];
            line.age(self.epoch);
            let bit = line.take(source, random);
            let more = line.has(source);
            if !more {
                self.move_down(lines, id, source);
            }
            if let Some(bit) = bit {
                return Some(Taken { line: id, bit, emptied: !more });
            }
        }
    }

    /// `id` offers nothing more of `source`: it goes to the list of what it still offers.
    fn move_down(&mut self, lines: &mut Slab<Line>, id: u32, source: Source) {
        lines.unlink(&mut self.lists[source as usize], id);
        let line = &lines[id];
        if line.has(Source::Old) {
            lines.push(&mut self.lists[Source::Old as usize], id);
        } else if line.has(Source::Young) {
            lines.push(&mut self.lists[Source::Young as usize], id);
        }
    }

    /// Port `bit` of line `id` is no longer used. False if it wasn't.
    #[inline]
    pub fn rest(&mut self, lines: &mut Slab<Line>, id: u32, bit: u32) -> bool {
        let line = &mut lines[id];
        line.age(self.epoch);
        let was_full = line.is_full();
        if !line.rest(bit) {
            return false;
        }
        if was_full {
            lines.push(&mut self.lists[Source::Young as usize], id);
        }
        true
    }

    /// Adds a line with free ports that wasn't open.
    pub fn open(&mut self, lines: &mut Slab<Line>, id: u32) {
        lines.push(&mut self.lists[Source::Free as usize], id);
        self.lines += 1;
        self.unopened -= 1;
    }

    /// Whether a port can be taken from `source`, once the pair has been brought to its epoch.
    #[inline]
    pub fn offers(&self, source: Source) -> bool {
        self.lists[source as usize] != 0
    }

    /// A line none of whose ports is in use, if one is at the head of a list: of the free ones only unless
    /// `any`.
    pub fn unused_line(&mut self, lines: &mut Slab<Line>, any: bool) -> Option<u32> {
        let lists = if any { &self.lists[..] } else { &self.lists[..1] };
        let id = *lists.iter().find(|&&id| id != 0)?;
        lines[id].age(self.epoch);
        (lines[id].used() == 0 && (any || lines[id].resting() == 0)).then_some(id)
    }

    /// Takes line `id`, the head of a list, out.
    pub fn close(&mut self, lines: &mut Slab<Line>, id: u32) {
        if let Some(list) = self.lists.iter_mut().find(|list| **list == id) {
            lines.unlink(list, id);
            self.lines -= 1;
            self.unopened += 1;
        }
    }
}

/// What [`Pair::take`] found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub line: u32,
    pub bit: u32,
    /// The line has no more of it.
    pub emptied: bool,
}

/// Which lines of a pair were opened: those that exist, and those found to have no port of the range.
#[derive(Clone, Copy, Debug, FromZeros)]
pub(super) struct Opened([u64; (MAX_LINES as usize).div_ceil(64)]);

impl Opened {
    pub const NONE: Self = Self([0; (MAX_LINES as usize).div_ceil(64)]);

    /// One of the first `lines` that isn't opened, by chance.
    pub fn choose(&self, lines: u32, random: u32) -> Option<u32> {
        let start = ((u64::from(random) * u64::from(lines)) >> 32) as u32;
        self.first_from(start, lines).or_else(|| self.first_from(0, lines))
    }

    fn first_from(&self, start: u32, lines: u32) -> Option<u32> {
        let first = start / 64;
        (first..lines.div_ceil(64)).find_map(|word| {
            let skip = if word == first { (1u64 << (start % 64)) - 1 } else { 0 };
            let line = word * 64 + (self.0[word as usize] | skip).trailing_ones();
            (line < lines && line < word * 64 + 64).then_some(line)
        })
    }

    pub fn set(&mut self, line: u32) {
        self.0[line as usize / 64] |= 1 << (line % 64);
    }

    pub fn clear(&mut self, line: u32) {
        self.0[line as usize / 64] &= !(1 << (line % 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_chosen_once() {
        for lines in [1, 63, 64, 65, 171, MAX_LINES] {
            let mut opened = Opened::NONE;
            let mut seen = std::collections::HashSet::new();
            let mut random = 1u32;
            while let Some(line) = opened.choose(lines, random) {
                assert!(line < lines && seen.insert(line));
                opened.set(line);
                random = random.wrapping_mul(0x9e37_79b1).wrapping_add(1);
            }
            assert_eq!(seen.len() as u32, lines);
            opened.clear(lines / 2);
            assert_eq!(opened.choose(lines, 7), Some(lines / 2));
        }
    }
}
