//! 192 local ports of one server and local address, in one cache line.
//!
//! There are two bits per port, in two bitmaps that swap roles with every rest period ("epoch"): `young` has the ports
//! freed in this epoch, `old` those freed in the previous one.
//!
//! ```text
//! young old
//!   0    0   in use (or no usable port)
//!   1    0   freed in this epoch
//!   0    1   freed in the epoch before
//!   1    1   free
//! ```
//!
//! At the end of an epoch, old ports become free: `young |= old`, and the two swap. So a port rests for one to two
//! epochs. A line does this when it is next touched; nothing sweeps the lines.

use zerocopy::FromZeros;

/// Ports in a line.
pub(super) const PORTS: u32 = 192;

/// The most lines of one pair: 342.
pub(super) const MAX_LINES: u32 = 65_536_u32.div_ceil(PORTS);

/// The mask of the epoch in a line: 24 bits, 31 years of minutes.
const EPOCH_MASK: u32 = 0xff_ffff;

/// The sources of a port, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// Ports that have rested.
    Free,
    /// Ports that have rested past the end of at least one epoch.
    Old,
    /// Ports freed in this epoch.
    Young,
}

/// The line.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C, align(64))]
pub(super) struct Line {
    bits: [[u64; 2]; 3],
    /// The next line in the pair's queue.
    pub next: u32,
    /// The line's number in the pair.
    pub number: u32,
    /// Epoch << 8 | ports in use.
    state: u32,
    _pad: u32,
}

const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    /// A line without usable ports; [`Line::add`] gives it some.
    pub fn new(number: u32, epoch: u32) -> Self {
        Self { bits: [[0; 2]; 3], next: 0, number, state: epoch << 8, _pad: 0 }
    }

    /// Makes port `bit` usable and free.
    pub fn add(&mut self, bit: u32) {
        self.bits[bit as usize / 64].iter_mut().for_each(|b| *b |= 1 << (bit % 64));
    }

    /// Makes the first `ports` usable and free.
    pub fn add_first(&mut self, ports: u32) {
        for (word, bits) in self.bits.iter_mut().enumerate() {
            let n = ports.saturating_sub(word as u32 * 64).min(64);
            *bits = [1u64.checked_shl(n).map_or(u64::MAX, |above| above - 1); 2];
        }
    }

    /// The number of ports in use.
    #[inline]
    pub fn used(&self) -> u32 {
        self.state & 0xff
    }

    /// Brings the line up to `epoch`.
    #[inline]
    pub fn age(&mut self, epoch: u32) {
        let passed = epoch.wrapping_sub(self.state >> 8) & EPOCH_MASK;
        if passed == 0 {
            return;
        }
        let young = self.young();
        for b in &mut self.bits {
            b[young] |= b[young ^ 1];
            if passed > 1 {
                b[young ^ 1] = b[young];
            }
        }
        self.state = epoch << 8 | self.used();
    }

    /// The bitmap that is currently the young one.
    #[inline]
    fn young(&self) -> usize {
        (self.state >> 8 & 1) as usize
    }

    #[inline]
    fn words(&self, source: Source) -> [u64; 3] {
        let [a, b, c] = &self.bits;
        let (y, o) = (self.young(), self.young() ^ 1);
        match source {
            Source::Free => [a[0] & a[1], b[0] & b[1], c[0] & c[1]],
            Source::Old => [a[o] & !a[y], b[o] & !b[y], c[o] & !c[y]],
            Source::Young => [a[y] & !a[o], b[y] & !b[o], c[y] & !c[o]],
        }
    }

    /// Whether a port can be taken from `source`.
    #[inline]
    pub fn has(&self, source: Source) -> bool {
        let [a, b, c] = self.words(source);
        a | b | c != 0
    }

    /// Whether all usable ports are in use.
    #[inline]
    pub fn is_full(&self) -> bool {
        let [a, b, c] = &self.bits;
        a[0] | a[1] | b[0] | b[1] | c[0] | c[1] == 0
    }

    /// The number of resting ports.
    pub fn resting(&self) -> u32 {
        self.bits.iter().map(|b| (b[0] ^ b[1]).count_ones()).sum()
    }

    /// Takes a port from `source`, chosen by `random`. Returns its bit, and whether it was the last one there.
    #[inline]
    pub fn take(&mut self, source: Source, random: u32) -> Option<(u32, bool)> {
        let mut words = self.words(source);
        // The first word that has a port, starting from a random one; written without branches.
        let first = (((random >> 16) * 3) >> 16) as usize;
        let second = if first == 2 { 0 } else { first + 1 };
        let at = if words[second] != 0 { second } else { 3 - first - second };
        let at = if words[first] != 0 { first } else { at };
        if words[at] == 0 {
            return None;
        }
        let turn = random & 63;
        let bit = (words[at].rotate_right(turn).trailing_zeros() + turn) & 63;
        let mask = !(1 << bit);
        words[at] &= mask;
        self.bits[at][0] &= mask;
        self.bits[at][1] &= mask;
        self.state += 1;
        Some((at as u32 * 64 + bit, words[0] | words[1] | words[2] == 0))
    }

    /// Releases port `bit`, which rests from now on. False if it wasn't in use. (The caller must know that it is a
    /// usable port.)
    #[inline]
    pub fn rest(&mut self, bit: u32) -> bool {
        let young = self.young();
        let word = &mut self.bits[bit as usize / 64];
        let mask = 1u64 << (bit % 64);
        if (word[0] | word[1]) & mask != 0 || self.state & 0xff == 0 {
            return false;
        }
        word[young] |= mask;
        self.state -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_of_free() -> Line {
        let mut line = Line::new(3, 10);
        (0..PORTS).for_each(|b| line.add(b));
        line
    }

    #[test]
    fn adding_many_is_adding_each() {
        for ports in [1, 63, 64, 65, 127, 128, 150, 191, PORTS] {
            let (mut one, mut all) = (Line::new(0, 0), Line::new(0, 0));
            (0..ports).for_each(|b| one.add(b));
            all.add_first(ports);
            assert_eq!(one.bits, all.bits);
        }
    }

    #[test]
    fn every_port_is_taken_once() {
        let mut line = full_of_free();
        let mut seen = [false; PORTS as usize];
        for n in 0..PORTS {
            let (bit, last) = line.take(Source::Free, n.wrapping_mul(0x9e37_79b1)).unwrap();
            assert_eq!(last, n == PORTS - 1);
            assert!(!std::mem::replace(&mut seen[bit as usize], true));
        }
        assert!(line.is_full());
        assert_eq!((line.used(), line.take(Source::Free, 1)), (PORTS, None));
    }

    #[test]
    fn a_freed_port_rests_until_the_second_change_of_epoch() {
        let mut line = full_of_free();
        let (bit, _) = line.take(Source::Free, 5).unwrap();
        assert!(line.rest(bit));
        assert!(!line.rest(bit), "not twice");
        assert_eq!((line.used(), line.resting()), (0, 1));
        let has = |l: &Line| [l.has(Source::Old), l.has(Source::Young)];
        assert_eq!(has(&line), [false, true]);
        line.age(11);
        assert_eq!(has(&line), [true, false]);
        line.age(12);
        assert_eq!((has(&line), line.resting()), ([false, false], 0));
    }

    #[test]
    fn ages_over_several_epochs_and_their_wrap() {
        for (freed, later) in [(10, 12), (10, 999), (EPOCH_MASK, EPOCH_MASK + 2), (EPOCH_MASK - 1, 5)] {
            let mut line = full_of_free();
            line.age(freed);
            let (kept, _) = line.take(Source::Free, 0).unwrap();
            let (bit, _) = line.take(Source::Free, 0).unwrap();
            line.rest(bit);
            line.age(later);
            assert_eq!((line.resting(), line.used()), (0, 1));
            let taken: Vec<u32> =
                std::iter::from_fn(|| line.take(Source::Free, 3)).map(|(bit, _)| bit).collect();
            assert!(taken.contains(&bit) && !taken.contains(&kept) && taken.len() == 191);
        }
    }
}
