//! From hash to number: the index of pairs and of lines.
//!
//! It uses linear hashing in memory reserved beforehand: the table grows one bucket at a time as entries are added, so
//! no insertion costs more than one bucket's redistribution, and unused memory stays untouched. A bucket is a cache
//! line of seven hashes and seven numbers; further entries go to a chained bucket. There are three entries per bucket
//! on average, so that nearly every search ends in the first line.

use zerocopy::FromZeros;

/// Entries per bucket.
const WIDTH: usize = 7;

/// The average number of entries per bucket that the table aims at.
const LOAD: usize = 3;

/// The initial number of buckets.
const START: usize = 16;

/// One cache line. A number of 0 marks a free entry.
#[derive(Clone, Copy, Debug, FromZeros)]
#[repr(C, align(64))]
struct Bucket {
    hash: [u32; WIDTH],
    number: [u32; WIDTH],
    /// The chained bucket's number plus 1.
    next: u32,
    _pad: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);
const EMPTY: Bucket = Bucket { hash: [0; WIDTH], number: [0; WIDTH], next: 0, _pad: 0 };

/// The index.
#[derive(Debug)]
pub(super) struct PairIndex {
    /// Addressed buckets, of which `buckets[..in_use]` are used.
    buckets: Vec<Bucket>,
    in_use: usize,
    /// Chained buckets.
    chained: Vec<Bucket>,
    /// The first chained bucket that was never used, and the list of those given back.
    chained_top: usize,
    chained_free: u32,
    len: usize,
}

/// There is no memory for the index.
#[derive(Debug)]
pub(super) struct NoMemory;

impl PairIndex {
    /// An index for up to `capacity` entries.
    pub fn new(capacity: usize) -> Result<Self, NoMemory> {
        let buckets = (capacity / LOAD + 1).max(START);
        let vec = |n| Bucket::new_vec_zeroed(n).map_err(|_| NoMemory);
        // This would suffice even if every entry were chained.
        let chained = vec(capacity.div_ceil(WIDTH) + buckets / 2)?;
        Ok(Self { buckets: vec(buckets)?, in_use: START, chained, chained_top: 0, chained_free: 0, len: 0 })
    }

    #[inline]
    fn address(&self, hash: u32) -> usize {
        let small = 1 << self.in_use.ilog2();
        let v6 = hash as usize & (2 * small - 1);
        if v6 < self.in_use { v6 } else { hash as usize & (small - 1) }
    }

    /// The number stored under `hash` for which `is_it` holds. Numbers are those that were inserted.
    #[inline]
    pub fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut bucket = self.buckets.get(self.address(hash))?;
        loop {
            for i in 0..WIDTH {
                if bucket.hash[i] == hash && bucket.number[i] != 0 && is_it(bucket.number[i] - 1) {
                    return Some(bucket.number[i] - 1);
                }
            }
            if bucket.next == 0 {
                return None;
            }
            bucket = self.chained.get(bucket.next as usize - 1)?;
        }
    }

    /// Adds `number` (below 2^32 - 1) under `hash`; false if there is no room left.
    pub fn insert(&mut self, hash: u32, number: u32) -> bool {
        if self.len >= self.in_use * LOAD && self.in_use < self.buckets.len() {
            self.grow();
        }
        let added = self.put(hash, number + 1);
        self.len += usize::from(added);
        added
    }

    /// Removes `number`, stored under `hash`.
    pub fn remove(&mut self, hash: u32, number: u32) -> bool {
        let home = self.address(hash);
        let mut previous = None;
        let mut at = None;
        loop {
            let bucket = self.bucket_mut(home, at);
            let next = bucket.next;
            for i in 0..WIDTH {
                if bucket.hash[i] == hash && bucket.number[i] == number + 1 {
                    bucket.number[i] = 0;
                    let now_empty = bucket.number == [0; WIDTH];
                    self.len -= 1;
                    if let (true, Some(chained)) = (now_empty, at) {
                        self.bucket_mut(home, previous).next = next;
                        self.give_back(chained);
                    }
                    return true;
                }
            }
            if next == 0 {
                return false;
            }
            (previous, at) = (at, Some(next));
        }
    }

    /// The chained bucket `at`, or the addressed bucket `home`.
    #[inline]
    fn bucket_mut(&mut self, home: usize, at: Option<u32>) -> &mut Bucket {
        match at {
            Some(chained) => &mut self.chained[chained as usize - 1],
            None => &mut self.buckets[home],
        }
    }

    /// Stores `number` (already plus 1) in the first free place.
    fn put(&mut self, hash: u32, number: u32) -> bool {
        let home = self.address(hash);
        let mut at = None;
        loop {
            let bucket = self.bucket_mut(home, at);
            if let Some(i) = bucket.number.iter().position(|&n| n == 0) {
                bucket.hash[i] = hash;
                bucket.number[i] = number;
                return true;
            }
            if bucket.next != 0 {
                at = Some(bucket.next);
                continue;
            }
            let Some(fresh) = self.take_chained() else { return false };
            self.bucket_mut(home, at).next = fresh;
            at = Some(fresh);
        }
    }

    /// Adds a bucket and redistributes the entries of the bucket that it is split from.
    fn grow(&mut self) {
        let small = 1 << self.in_use.ilog2();
        let split = self.in_use - small;
        let mut bucket = std::mem::replace(&mut self.buckets[split], EMPTY);
        self.buckets[self.in_use] = EMPTY;
        self.in_use += 1;
        loop {
            let next = bucket.next;
            for i in (0..WIDTH).filter(|&i| bucket.number[i] != 0) {
                // This can't fail: a chained bucket was given back for each one that might be needed.
                self.put(bucket.hash[i], bucket.number[i]);
            }
            if next == 0 {
                return;
            }
            bucket = self.chained[next as usize - 1];
            self.give_back(next);
        }
    }

    fn take_chained(&mut self) -> Option<u32> {
        if self.chained_free != 0 {
            let at = self.chained_free;
            let bucket = &mut self.chained[at as usize - 1];
            self.chained_free = bucket.next;
            *bucket = EMPTY;
            return Some(at);
        }
        if self.chained_top == self.chained.len() {
            return None;
        }
        self.chained_top += 1;
        Some(self.chained_top as u32)
    }

    fn give_back(&mut self, at: u32) {
        self.chained[at as usize - 1].next = self.chained_free;
        self.chained_free = at;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Few distinct hashes, so that chains grow long.
        #[test]
        fn behaves_as_a_map(ops in prop::collection::vec((any::<bool>(), 0u32..400), 0..3000), spread in 1u32..64) {
            let mut index = PairIndex::new(400).unwrap();
            let mut model = HashMap::new();
            let hash = |n: u32| (n % spread).wrapping_mul(0x9e37_79b1);
            for (add, n) in ops {
                if add && !model.contains_key(&n) {
                    prop_assert!(index.insert(hash(n), n));
                    model.insert(n, ());
                } else if !add {
                    prop_assert_eq!(index.remove(hash(n), n), model.remove(&n).is_some());
                }
            }
            prop_assert_eq!(index.len, model.len());
            for n in 0..400 {
                prop_assert_eq!(index.find(hash(n), |m| m == n).is_some(), model.contains_key(&n));
            }
        }
    }

    #[test]
    fn holds_what_it_was_made_for_and_grows_on_the_way() {
        let mut index = PairIndex::new(100_000).unwrap();
        let hash = |n: u32| n.wrapping_mul(0x9e37_79b1) ^ n >> 7;
        for n in 0..100_000 {
            assert!(index.insert(hash(n), n));
        }
        assert!(index.in_use > 30_000);
        assert!((0..100_000).all(|n| index.find(hash(n), |m| m == n) == Some(n)));
        assert!((0..100_000).all(|n| index.remove(hash(n), n)));
        assert_eq!(index.len, 0);
    }
}
