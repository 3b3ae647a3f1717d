//! A local address towards one server, with its lines sorted by what they offer.
//!
//! ```text
//! Free   lines with at least one port that has rested
//! Old    the other lines with ports freed in the epoch before
//! Young  the other lines with ports freed in this epoch
//! (none) lines whose ports are all in use
//! ```
//!
//! When the epoch changes, the Old lines join the Free ones and the Young ones become Old: this moves three queues,
//! however many lines there are. All work is done at the head of a queue.

use zerocopy::FromZeros;

use super::{
    line::{Line, MAX_LINES, PORTS, Source},
    slab::{Linked, Queued, Slab, SlotQueue},
};
use crate::table::share::Base;

/// The number of lines that need no directory.
pub(super) const FIRST_LINES: usize = 2;

/// The pair. Its links are pair numbers in the pool's list of idle pairs.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C, align(64))]
pub(super) struct PortPair {
    /// Lines by [`Source`].
    queues: [SlotQueue; 3],
    /// The epoch of the queues. In an idle pair, the epoch in which it became idle.
    epoch: u32,
    prev: u32,
    next: u32,
    /// The slot of the local address.
    pub address: u32,
    /// The numbers of the lines that come first; 0 = not open.
    first_lines: [u32; FIRST_LINES],
    /// Where the numbers of all other lines are; 0 = none.
    pub directory: u32,
    pub base: Base,
    /// The number of open lines.
    pub lines: u16,
    /// The number of lines never opened, or closed again.
    pub closed: u16,
    /// Line 0 has the ports of this window, line 1 those of the next one, and so on, wrapping around.
    pub turn: u16,
}

const _: () = assert!(size_of::<PortPair>() == 64);

impl Linked for PortPair {
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

impl Queued for Line {
    #[inline]
    fn next(&self) -> u32 {
        self.next
    }
    #[inline]
    fn set_next(&mut self, id: u32) {
        self.next = id;
    }
}

impl PortPair {
    /// A pair that can have `lines` lines, at most [`MAX_LINES`].
    pub fn new(base: Base, address: u32, lines: u32, turn: u32, epoch: u32) -> Self {
        Self { base, address, closed: lines as u16, turn: turn as u16, epoch, ..Self::new_zeroed() }
    }

    /// The epoch that the pair was last brought up to.
    #[inline]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Brings the queues up to `epoch`.
    #[inline]
    pub fn age(&mut self, lines: &mut Slab<Line>, epoch: u32) {
        let passed = epoch.wrapping_sub(self.epoch);
        if passed == 0 {
            return;
        }
        self.epoch = epoch;
        let [free, old, young] = &mut self.queues;
        free.append(lines, *old);
        *old = std::mem::take(young);
        if passed > 1 {
            free.append(lines, std::mem::take(old));
        }
    }

    /// Whether a port can be taken from `source`, once the pair has been brought up to its epoch.
    #[inline]
    pub fn offers(&self, source: Source) -> bool {
        self.queues[source as usize].head() != 0
    }

    /// The best source once the pair is brought up to `epoch`.
    #[must_use]
    pub fn best_at(&self, epoch: u32) -> Option<Source> {
        let passed = epoch.wrapping_sub(self.epoch) as usize;
        let has = |n: usize| self.queues.get(n).is_some_and(|queue| queue.head() != 0);
        let age = |n: usize| n.saturating_sub(passed);
        [Source::Free, Source::Old, Source::Young]
            .into_iter()
            .find(|source| (0..self.queues.len()).any(|n| has(n) && age(n) == *source as usize))
    }

    /// Takes a port from a line with `source`, which must be available.
    #[inline]
    pub fn take(&mut self, lines: &mut Slab<Line>, source: Source, random: u32) -> Option<Taken> {
        let id = self.queues[source as usize].head();
        let line = &mut lines[id];
        line.age(self.epoch);
        let number = line.number;
        let taken = line.take(source, random);
        if taken.is_none_or(|(_, last)| last) {
            self.move_down(lines, id, source);
        }
        taken.map(|(bit, emptied)| Taken { number, bit, emptied })
    }

    /// Moves the first line of `source`, which has no more of it, to the queue of what it still has.
    #[cold]
    fn move_down(&mut self, lines: &mut Slab<Line>, id: u32, source: Source) {
        self.queues[source as usize].pop(lines);
        for worse in [Source::Old, Source::Young] {
            if lines[id].has(worse) {
                self.queues[worse as usize].push(lines, id);
                return;
            }
        }
    }

    /// Releases port `bit` of line `id`. False if it wasn't in use.
    #[inline]
    pub fn rest(&mut self, lines: &mut Slab<Line>, id: u32, bit: u32) -> bool {
        let line = &mut lines[id];
        line.age(self.epoch);
        let was_full = line.is_full();
        if !line.rest(bit) {
            return false;
        }
        if was_full {
            self.queues[Source::Young as usize].push(lines, id);
        }
        true
    }

    /// Adds a line with free ports.
    pub fn open(&mut self, lines: &mut Slab<Line>, id: u32) {
        self.queues[Source::Free as usize].push(lines, id);
        self.lines += 1;
        self.closed -= 1;
    }

    /// A line without ports in use, if it is at the head of a queue. Unless `any`, only the Free queue is considered,
    /// and only a line without resting ports.
    pub fn unused_line(&mut self, lines: &mut Slab<Line>, any: bool) -> Option<u32> {
        let queues = if any { &self.queues[..] } else { &self.queues[..1] };
        let id = queues.iter().map(SlotQueue::head).find(|&id| id != 0)?;
        lines[id].age(self.epoch);
        (lines[id].used() == 0 && (any || lines[id].resting() == 0)).then_some(id)
    }

    /// Removes line `id`, the head of a queue.
    pub fn close(&mut self, lines: &Slab<Line>, id: u32) {
        if let Some(queue) = self.queues.iter_mut().find(|queue| queue.head() == id) {
            queue.pop(lines);
            self.lines -= 1;
            self.closed += 1;
        }
    }

    /// The window of 192 slots that a line has, out of `slots` in all.
    #[inline]
    pub fn window(&self, number: u32, slots: u32) -> u32 {
        let window = number + u32::from(self.turn);
        let windows = slots.div_ceil(PORTS);
        if window < windows { window } else { window - windows }
    }

    /// The line that has a window of 192 slots.
    #[inline]
    pub fn number(&self, window: u32, slots: u32) -> u32 {
        let turn = u32::from(self.turn);
        if window >= turn { window - turn } else { window + slots.div_ceil(PORTS) - turn }
    }

    /// The id of a line by its number; 0 if it isn't open.
    #[inline]
    pub fn line(&self, directories: &Directories, number: u32) -> u32 {
        match self.first_lines.get(number as usize) {
            Some(&id) => id,
            None => directories.get(self.directory, number),
        }
    }

    /// Stores the id of a line. False if there is no room for it.
    pub fn set_line(&mut self, directories: &mut Directories, number: u32, id: u32) -> bool {
        if let Some(line) = self.first_lines.get_mut(number as usize) {
            *line = id;
            return true;
        }
        if self.directory == 0 {
            match directories.insert() {
                Some(directory) => self.directory = directory,
                None => return false,
            }
        }
        directories.set(self.directory, number, id);
        true
    }
}

/// The result of [`PortPair::take`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// Number of the line.
    pub number: u32,
    pub bit: u32,
    /// The line has no more ports of this source.
    pub emptied: bool,
}

/// The ids of the lines, by number, of pairs that have more than [`FIRST_LINES`].
#[derive(Debug)]
pub(super) struct Directories {
    ids: Vec<u32>,
    /// Entries in one directory.
    width: usize,
    slots: Slab<u8>,
}

impl Directories {
    /// Room for `capacity` directories of `lines` lines.
    pub fn new(capacity: usize, lines: u32) -> Result<Self, super::NoMemory> {
        let width = (lines as usize).saturating_sub(FIRST_LINES).max(1);
        let ids = u32::new_vec_zeroed((capacity + 1) * width).map_err(|_| super::NoMemory)?;
        Ok(Self { ids, width, slots: Slab::new(capacity)? })
    }

    #[inline]
    fn at(&self, directory: u32, number: u32) -> usize {
        directory as usize * self.width + number as usize - FIRST_LINES
    }

    /// Directory 0 always stays empty.
    #[inline]
    fn get(&self, directory: u32, number: u32) -> u32 {
        self.ids[self.at(directory, number)]
    }

    fn set(&mut self, directory: u32, number: u32, id: u32) {
        let at = self.at(directory, number);
        self.ids[at] = id;
    }

    /// Allocates an empty directory.
    fn insert(&mut self) -> Option<u32> {
        self.slots.insert(0)
    }

    /// Gives back an empty directory.
    pub fn remove(&mut self, directory: u32) {
        if directory != 0 {
            self.slots.remove(directory);
        }
    }
}

/// The lines of a pair that were opened: existing ones, and those found to have no port of the range.
#[derive(Clone, Copy, Debug, FromZeros)]
pub(super) struct Opened([u64; (MAX_LINES as usize).div_ceil(64)]);

impl Opened {
    pub const NONE: Self = Self([0; (MAX_LINES as usize).div_ceil(64)]);

    /// The first of `lines` that hasn't been opened.
    pub fn first_closed(&self, lines: u32) -> Option<u32> {
        let word = self.0.iter().position(|&w| w != u64::MAX)?;
        let line = word as u32 * 64 + self.0[word].trailing_ones();
        (line < lines).then_some(line)
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
    fn every_line_is_opened_once() {
        for lines in [1, 63, 64, 65, 171, MAX_LINES] {
            let mut opened = Opened::NONE;
            for expected in 0..lines {
                assert_eq!(opened.first_closed(lines), Some(expected));
                opened.set(expected);
            }
            assert_eq!(opened.first_closed(lines), None);
            opened.clear(lines / 2);
            assert_eq!(opened.first_closed(lines), Some(lines / 2));
        }
    }

    #[test]
    fn line_ids_by_number() {
        let mut directories = Directories::new(1, 9).unwrap();
        let (mut a, mut b) = (PortPair::new_zeroed(), PortPair::new_zeroed());
        for number in 0..9 {
            assert_eq!(a.line(&directories, number), 0);
            assert!(a.set_line(&mut directories, number, 100 + number));
        }
        assert!((0..9).all(|n| a.line(&directories, n) == 100 + n && b.line(&directories, n) == 0));
        assert!(b.set_line(&mut directories, 1, 7) && !b.set_line(&mut directories, 2, 7));
        (0..9).for_each(|n| assert!(a.set_line(&mut directories, n, 0)));
        directories.remove(a.directory);
        assert!(b.set_line(&mut directories, 2, 7));
        assert_eq!(b.line(&directories, 2), 7);
    }
}
