//! Finds the first of many rules that applies to a packet, with bit vectors after Lakshman and Stiliadis ("High-speed
//! policy-based packet forwarding", SIGCOMM 1998).
//!
//! ```text
//! field    0 ........ 10 ........ 20 ........ 30     each rule is a range of it
//! starts   0          10          20          30     between two starts nothing changes:
//! rows     0000       0101        0100        1100   one bit a rule, the first rule lowest
//! ```
//!
//! The value of each field is looked up among its starts. The bitwise AND of the rows of all fields has the bits of the
//! rules that apply. The first word of a row tells which of its other words aren't zero, so that most are never read
//! (Baboescu and Varghese, "Scalable packet classification", SIGCOMM 2001). Time grows with the logarithm of the number
//! of rules, memory with its square: a quarter of a megabyte per field for 1000 rules, 4 MB for 4096.

/// One field of all rules.
#[derive(Clone, Debug)]
pub struct Field<T> {
    /// The values at which rows begin, ascending; the first is the least value.
    starts: Box<[T]>,
    /// As many rows as starts, each of `words` words; the first word summarises the others.
    rows: Box<[u64]>,
    words: usize,
}

/// A number that can be a field's value.
pub trait ClassifierKey: Copy + Ord {
    /// The least value.
    const ZERO: Self;
    /// The next value, if there is one.
    fn next(self) -> Option<Self>;
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl ClassifierKey for $t {
            const ZERO: Self = 0;
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    )*};
}

numbers!(u8, u16, u32, u128);

impl<T: ClassifierKey> Field<T> {
    /// Builds the field from the first and the last value of each rule.
    #[must_use]
    pub fn new(ranges: &[(T, T)]) -> Self {
        let words = 1 + ranges.len().div_ceil(64);
        // Where rules begin, and where they have ended.
        let begins = ranges.iter().enumerate().map(|(n, r)| (r.0, n));
        let ends = ranges.iter().enumerate().filter_map(|(n, r)| Some((r.1.next()?, n)));
        let mut changes: Vec<(T, usize)> = begins.chain(ends).collect();
        changes.sort_unstable();
        let (mut starts, mut rows) = (vec![T::ZERO], Vec::new());
        let mut row = vec![0u64; words];
        for (at, n) in changes {
            if starts.last().is_some_and(|last| *last < at) {
                rows.extend_from_slice(summed_up(&mut row));
                starts.push(at);
            }
            row[1 + n / 64] ^= 1 << (n % 64);
        }
        rows.extend_from_slice(summed_up(&mut row));
        Self { starts: starts.into(), rows: rows.into(), words }
    }

    /// The row of rules that a value lies in.
    #[inline]
    #[must_use]
    pub fn row(&self, value: T) -> &[u64] {
        let n = self.starts.partition_point(|start| *start <= value).saturating_sub(1);
        self.rows.get(n * self.words..(n + 1) * self.words).unwrap_or_default()
    }
}

/// The number of words that one bit of a row's first word stands for.
fn group(words: usize) -> usize {
    (words - 1).div_ceil(64).max(1)
}

/// Fills in the first word of a row.
fn summed_up(row: &mut [u64]) -> &[u64] {
    let group = group(row.len());
    let some = |words: &[u64]| words.iter().any(|word| *word != 0);
    let bits = row[1..].chunks(group).enumerate().map(|(n, words)| u64::from(some(words)) << n);
    row[0] = bits.fold(0, |all, bit| all | bit);
    row
}

/// The first rule in all rows. The rows must be of fields of the same rules.
#[inline]
#[must_use]
pub fn first<const N: usize>(rows: [&[u64]; N]) -> Option<usize> {
    let word = |at: usize| rows.iter().fold(u64::MAX, |all, row| all & row.get(at).copied().unwrap_or(0));
    let mut groups = word(0);
    let group = group(rows.first()?.len().max(1));
    while groups != 0 {
        let from = groups.trailing_zeros() as usize * group;
        for at in from..from + group {
            let all = word(1 + at);
            if all != 0 {
                return Some(at * 64 + all.trailing_zeros() as usize);
            }
        }
        groups &= groups - 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_rule_applies_to_anything() {
        let field = Field::<u16>::new(&[]);
        assert_eq!(first([field.row(0), field.row(u16::MAX)]), None);
    }

    #[test]
    fn rules_beyond_the_first_words_are_found_too() {
        let ranges: Vec<(u16, u16)> = (0..10_000).map(|n| (n, n)).collect();
        let field = Field::new(&ranges);
        for n in [0, 63, 64, 4095, 4096, 8191, 9999] {
            assert_eq!(first([field.row(n), field.row(n)]), Some(usize::from(n)));
        }
        assert_eq!((first([field.row(10_000)]), first([field.row(3), field.row(4)])), (None, None));
    }

    proptest! {
        #[test]
        fn as_one_would_find_it_by_looking_at_each(
            rules in proptest::collection::vec((any::<(u8, u8)>(), any::<(u8, u8)>()), 0..300),
            packets in proptest::collection::vec(any::<(u8, u8)>(), 50),
        ) {
            let ordered = |(a, b): (u8, u8)| (a.min(b), a.max(b));
            let a: Vec<_> = rules.iter().map(|r| ordered(r.0)).collect();
            let b: Vec<_> = rules.iter().map(|r| ordered(r.1)).collect();
            let (fa, fb) = (Field::new(&a), Field::new(&b));
            for (x, y) in packets.into_iter().chain([(0, 0), (255, 255), (0, 255)]) {
                let within = |range: &(u8, u8), v| range.0 <= v && v <= range.1;
                let due = a.iter().zip(&b).position(|(a, b)| within(a, x) && within(b, y));
                prop_assert_eq!(first([fa.row(x), fb.row(y)]), due);
            }
        }
    }
}
