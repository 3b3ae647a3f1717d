//! 192 local ports of one server and local address: one cache line.
//!
//! Two bits a port, in two bitmaps that swap roles with every rest period ("epoch"): `young` takes what is
//! freed in this epoch, `old` has what was freed in the one before.
//!
//! ```text
//! young old
//!   0    0   in use (or no usable port)
//!   1    0   freed in this epoch
//!   0    1   freed in the epoch before
//!   1    1   free
//! ```
//!
//! At the end of an epoch what is old becomes free: `young |= old`, and the two swap. So a port rests for one to
//! two epochs. A line does this when it is next touched; nobody walks over lines.

use zerocopy::FromZeros;

/// Ports in a line.
pub(super) const PORTS: u32 = 192;

/// A line's number in its pair takes this many bits: 65 536 / 192 rounded up is 342.
pub(super) const NUMBER_BITS: u32 = 9;

/// The lines of one pair at most.
pub(super) const MAX_LINES: u32 = 65_536_u32.div_ceil(PORTS);
const _: () = assert!(MAX_LINES <= 1 << NUMBER_BITS);

/// How epochs are kept in a line: 24 bits, 31 years of minutes.
const EPOCH_MASK: u32 = 0xff_ffff;

/// What a port may be taken from, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// Ports that have rested.
    Free,
    /// Ports that have rested for at least one epoch's end.
    Old,
    /// Ports freed in this epoch.
    Young,
}

/// The line. Links are line ids in the pair's lists.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C, align(64))]
pub(super) struct Line {
    bits: [[u64; 2]; 3],
    pub prev: u32,
    pub next: u32,
    /// Pair and line number.
    pub key: LineKey,
    /// Epoch << 8 | ports in use.
    state: u32,
}

const _: () = assert!(size_of::<Line>() == 64);

/// A pair's id and the number of one of its lines: names a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromZeros)]
#[repr(transparent)]
pub(super) struct LineKey(u32);

impl LineKey {
    pub fn new(pair: u32, number: u32) -> Self {
        Self(pair << NUMBER_BITS | number)
    }
    pub fn number(self) -> u32 {
        self.0 & ((1 << NUMBER_BITS) - 1)
    }
    /// One to one, every bit of the key in the low bits of the hash.
    #[inline]
    pub fn hash(self) -> u32 {
        let h = (self.0 ^ self.0 >> 15).wrapping_mul(0x2c1b_3c6d);
        let h = (h ^ h >> 12).wrapping_mul(0x297a_2d39);
        h ^ h >> 15
    }
}

impl Line {
    /// A line without usable ports; [`Line::add`] gives it some.
    pub fn new(key: LineKey, epoch: u32) -> Self {
        Self { bits: [[0; 2]; 3], prev: 0, next: 0, key, state: epoch << 8 }
    }

    /// Makes port `bit` usable and free.
    pub fn add(&mut self, bit: u32) {
        self.bits[bit as usize / 64].iter_mut().for_each(|b| *b |= 1 << (bit % 64));
    }

    /// Ports in use.
    #[inline]
    pub fn used(&self) -> u32 {
        self.state & 0xff
    }

    /// Brings the line to `epoch`.
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

    /// Which bitmap is the young one.
    #[inline]
    fn young(&self) -> usize {
        (self.state >> 8 & 1) as usize
    }

    #[inline]
    fn words(&self, source: Source) -> [u64; 3] {
        let y = self.young();
        self.bits.map(|b| match source {
            Source::Free => b[0] & b[1],
            Source::Old => b[y ^ 1] & !b[y],
            Source::Young => b[y] & !b[y ^ 1],
        })
    }

    /// Whether a port can be taken from `source`.
    #[inline]
    pub fn has(&self, source: Source) -> bool {
        self.words(source) != [0; 3]
    }

    /// Whether all usable ports are in use.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.bits == [[0; 2]; 3]
    }

    /// Ports that rest.
    pub fn resting(&self) -> u32 {
        self.bits.iter().map(|b| (b[0] ^ b[1]).count_ones()).sum()
    }

    /// Takes a port from `source`, any of them by chance (`random`), and returns its bit.
    #[inline]
    pub fn take(&mut self, source: Source, random: u32) -> Option<u32> {
        let words = self.words(source);
        let start = (random >> 8) as usize % 3;
        let at = (start..start + 3).map(|i| if i < 3 { i } else { i - 3 }).find(|&i| words[i] != 0)?;
        let turn = random & 63;
        let bit = (words[at].rotate_right(turn).trailing_zeros() + turn) & 63;
        self.bits[at].iter_mut().for_each(|b| *b &= !(1 << bit));
        self.state += 1;
        Some(at as u32 * 64 + bit)
    }

    /// Port `bit` is no longer used and rests. False if it wasn't in use. (That it is a usable port is for
    /// the caller to know.)
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
        let mut line = Line::new(LineKey::new(7, 3), 10);
        (0..PORTS).for_each(|b| line.add(b));
        line
    }

    #[test]
    fn every_port_is_taken_once() {
        let mut line = full_of_free();
        let mut seen = [false; PORTS as usize];
        for n in 0..PORTS {
            let bit = line.take(Source::Free, n.wrapping_mul(0x9e37_79b1)).unwrap();
            assert!(!std::mem::replace(&mut seen[bit as usize], true));
        }
        assert!(line.is_full());
        assert_eq!((line.used(), line.take(Source::Free, 1)), (PORTS, None));
    }

    #[test]
    fn a_freed_port_rests_until_the_second_change_of_epoch() {
        let mut line = full_of_free();
        let bit = line.take(Source::Free, 5).unwrap();
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
            let kept = line.take(Source::Free, 0).unwrap();
            let bit = line.take(Source::Free, 0).unwrap();
            line.rest(bit);
            line.age(later);
            assert_eq!((line.resting(), line.used()), (0, 1));
            let taken: Vec<u32> = std::iter::from_fn(|| line.take(Source::Free, 3)).collect();
            assert!(taken.contains(&bit) && !taken.contains(&kept) && taken.len() == 191);
        }
    }

    #[test]
    fn keys_name_pair_and_number() {
        assert_eq!(LineKey::new(123_456, 341).number(), 341);
        assert_ne!(LineKey::new(123_456, 341).hash(), LineKey::new(123_457, 341).hash());
    }
}
