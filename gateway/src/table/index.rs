//! The session index: finds the slab record of a packet's tuple.
//!
//! ```text
//! bucket = one cache line:  | tags 12 x u8 | passed u8 | - | entries 12 x u32 |
//! ```
//!
//! The index uses open addressing over buckets. A lookup compares the twelve tags of a bucket at once. An entry with a
//! matching tag is only a candidate: the caller compares the record's tuple. `passed` counts the entries that found the
//! bucket full and went to a later one, so that a lookup stops at the first bucket that no entry passed (as in
//! Facebook's F14); the count saturates at 255. At the load the table is sized for (two thirds), nearly every lookup
//! ends in its first bucket.
//!
//! The key of the hash is random, so a client can't choose tuples that collide.

use cpu::{HugeTable, zeroed_table};
use zerocopy::FromBytes;

/// Entries in a bucket.
const WAYS: usize = 12;
/// Mask of the bits of a tag match that belong to entries.
const WAY_MASK: u32 = (1 << WAYS) - 1;
/// The byte of the tag block that counts passed entries.
const PASSED: usize = WAYS;

#[derive(Clone, Copy, FromBytes)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u8; 16],
    entries: [u32; WAYS],
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// The key of the hash, random at start or fixed by `[sessions] seed`.
#[derive(Clone, Copy, Debug)]
pub struct HashKey([u64; 4]);

impl HashKey {
    /// A key derived from `seed` (SplitMix64).
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut state = seed;
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) | 1
        }))
    }

    /// Hashes a tuple: both addresses as one word, both ports and the protocol as another.
    #[inline]
    #[must_use]
    pub fn hash(&self, addresses: u64, ports_protocol: u64) -> u64 {
        let [k0, k1, k2, k3] = self.0;
        fold(fold(addresses ^ k0, k2) ^ ports_protocol ^ k1, k3)
    }
}

impl HashKey {
    /// A digest of sixteen bytes, given as two words.
    #[inline]
    #[must_use]
    pub fn digest(&self, low: u64, high: u64) -> u32 {
        let [k0, k1, k2, k3] = self.0;
        let mixed = fold(low ^ k3, high ^ k1) ^ low.rotate_left(32) ^ k0;
        (fold(mixed, k2) >> 32) as u32
    }
}

/// XORs both halves of a 64 x 64 bit product.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let p = u128::from(a) * u128::from(b);
    (p as u64) ^ ((p >> 64) as u64)
}

/// The index. Entries are opaque 32-bit values; the same value may not be stored twice under one hash.
pub struct Index {
    buckets: HugeTable<Bucket>,
}

/// The sequence of buckets for a hash.
struct Probe {
    bucket: usize,
    step: usize,
    tag: u8,
}

impl Probe {
    #[inline]
    fn new(hash: u64) -> Self {
        let low = hash as u8;
        Self {
            bucket: (hash >> 24) as usize,
            step: ((hash >> 8) as usize & 0xffff) | 1,
            tag: low + u8::from(low == 0),
        }
    }

    #[inline]
    fn advance(&mut self) {
        self.bucket = self.bucket.wrapping_add(self.step);
    }
}

/// The number of buckets that leaves a third of the entries free.
const fn buckets_for(entries: usize) -> usize {
    (entries * 3 / 2).div_ceil(WAYS)
}

impl Index {
    /// An index for up to `entries` entries.
    ///
    /// # Errors
    /// The system's, if there is no memory to map.
    pub fn new(entries: usize) -> std::io::Result<Self> {
        Ok(Self { buckets: zeroed_table(buckets_for(entries))? })
    }

    /// The size in bytes of an index for this many entries.
    #[must_use]
    pub const fn bytes_for(entries: usize) -> usize {
        buckets_for(entries) * size_of::<Bucket>()
    }

    /// The size of the buckets' address space in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }

    /// Has the kernel provide the buckets' memory now.
    ///
    /// # Errors
    /// See [`HugeTable::populate`].
    pub fn populate(&mut self) -> std::io::Result<()> {
        self.buckets.populate(usize::MAX)
    }

    /// Starts loading the first bucket of `hash`.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        cpu::prefetch(self.buckets.at(Probe::new(hash).bucket));
    }

    /// The first candidate for `hash`, unconfirmed, for prefetching its record.
    #[inline]
    #[must_use]
    pub fn candidate(&self, hash: u64) -> Option<u32> {
        let probe = Probe::new(hash);
        let bucket = self.buckets.at(probe.bucket);
        // An extra hit beyond the entries ensures there is always one, so no branch is needed to stay off the bytes
        // behind the tags.
        let hits = u32::from(cpu::match16(&bucket.tags, probe.tag)) | 1 << WAYS;
        bucket.entries.get(hits.trailing_zeros() as usize).copied()
    }

    /// The entry of `hash` for which `confirm` holds.
    #[inline]
    pub fn find(&self, hash: u64, mut confirm: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut probe = Probe::new(hash);
        for _ in 0..self.buckets.len() {
            let bucket = self.buckets.at(probe.bucket);
            let mut hits = u32::from(cpu::match16(&bucket.tags, probe.tag)) & WAY_MASK;
            while hits != 0 {
                let way = hits.trailing_zeros() as usize;
                if let Some(&entry) = bucket.entries.get(way)
                    && confirm(entry)
                {
                    return Some(entry);
                }
                hits &= hits - 1;
            }
            if bucket.tags[PASSED] == 0 {
                return None;
            }
            probe.advance();
        }
        None
    }

    /// Stores `entry` under `hash`; false if every bucket is full.
    pub fn insert(&mut self, hash: u64, entry: u32) -> bool {
        let mut probe = Probe::new(hash);
        for passed in 0..self.buckets.len() {
            let bucket = self.buckets.at_mut(probe.bucket);
            let free = u32::from(cpu::match16(&bucket.tags, 0)) & WAY_MASK;
            if free != 0 {
                let way = free.trailing_zeros() as usize;
                bucket.tags[way] = probe.tag;
                bucket.entries[way] = entry;
                self.count_passers(hash, passed, |n| n.saturating_add(1));
                return true;
            }
            probe.advance();
        }
        false
    }

    /// Removes `entry`, stored under `hash`; false if it isn't there.
    pub fn remove(&mut self, hash: u64, entry: u32) -> bool {
        let mut probe = Probe::new(hash);
        for passed in 0..self.buckets.len() {
            let bucket = self.buckets.at_mut(probe.bucket);
            let mut hits = u32::from(cpu::match16(&bucket.tags, probe.tag)) & WAY_MASK;
            while hits != 0 {
                let way = hits.trailing_zeros() as usize;
                if bucket.entries[way] == entry {
                    bucket.tags[way] = 0;
                    bucket.entries[way] = 0;
                    self.count_passers(hash, passed, |n| if n == u8::MAX { n } else { n.saturating_sub(1) });
                    return true;
                }
                hits &= hits - 1;
            }
            if bucket.tags[PASSED] == 0 {
                return false;
            }
            probe.advance();
        }
        false
    }

    /// Replaces `entry`, stored under `hash`, with `new`; false if it isn't there.
    pub fn replace(&mut self, hash: u64, entry: u32, new: u32) -> bool {
        let mut probe = Probe::new(hash);
        for _ in 0..self.buckets.len() {
            let bucket = self.buckets.at_mut(probe.bucket);
            let hits = u32::from(cpu::match16(&bucket.tags, probe.tag)) & WAY_MASK;
            let mut ways = bucket.entries.iter_mut().enumerate();
            if let Some((_, place)) = ways.find(|(way, e)| hits & 1 << way != 0 && **e == entry) {
                *place = new;
                return true;
            }
            if bucket.tags[PASSED] == 0 {
                return false;
            }
            probe.advance();
        }
        false
    }

    /// Changes the passed counts of the first `passed` buckets in the sequence of `hash`.
    fn count_passers(&mut self, hash: u64, passed: usize, change: impl Fn(u8) -> u8) {
        let mut probe = Probe::new(hash);
        for _ in 0..passed {
            let count = &mut self.buckets.at_mut(probe.bucket).tags[PASSED];
            *count = change(*count);
            probe.advance();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_what_was_inserted_up_to_the_last_entry() {
        let mut index = Index::new(8).unwrap();
        let room = index.buckets.len() * WAYS;
        let key = HashKey::from_seed(7);
        for n in 0..room as u32 {
            assert!(index.insert(key.hash(u64::from(n), 6), n), "entry {n}");
        }
        assert!(!index.insert(1, 1), "full");
        for n in 0..room as u32 {
            assert_eq!(index.find(key.hash(u64::from(n), 6), |e| e == n), Some(n));
        }
        assert_eq!(index.find(key.hash(99_999, 6), |_| false), None);
    }

    #[test]
    fn colliding_hashes_are_resolved_by_the_caller() {
        let mut index = Index::new(100).unwrap();
        for n in 0..30 {
            assert!(index.insert(0x1234_5678_9abc, n));
        }
        assert_eq!(index.find(0x1234_5678_9abc, |e| e == 29), Some(29));
        assert!(index.remove(0x1234_5678_9abc, 3));
        assert_eq!(index.find(0x1234_5678_9abc, |e| e == 3), None);
        assert_eq!(index.find(0x1234_5678_9abc, |e| e == 29), Some(29));
    }

    #[test]
    fn keys_follow_from_their_seed_as_splitmix64_says() {
        let known =
            [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f, 0xf88b_b8a8_724c_81ec];
        assert_eq!(HashKey::from_seed(0).0, known.map(|word: u64| word | 1));
    }

    #[test]
    fn there_is_half_as_much_room_again_in_whole_buckets() {
        // 8 192 x 3 / 2 / 12 buckets is a power of two; one more entry takes twice as many.
        assert_eq!(Index::new(8192).unwrap().bytes(), 1024 * 64);
        assert_eq!(Index::new(8193).unwrap().bytes(), 2048 * 64);
    }

    #[test]
    fn a_bucket_that_very_many_passed_is_always_passed() {
        // More entries go beyond their first bucket than the count can hold.
        let mut index = Index::new(400).unwrap();
        let entries = 12 + 300;
        (0..entries).for_each(|n| assert!(index.insert(0, n)));
        let last = entries - 1;
        for n in 0..last {
            assert!(index.remove(0, n));
            assert_eq!(index.find(0, |e| e == last), Some(last), "without {n} and those before");
        }
        assert!(index.remove(0, last) && !index.remove(0, last));
    }

    #[test]
    fn a_bucket_without_overflow_ends_the_search() {
        let mut index = Index::new(100).unwrap();
        let probes = |index: &Index| {
            let mut asked = 0;
            index.find(9, |_| {
                asked += 1;
                false
            });
            asked
        };
        (0..20).for_each(|n| assert!(index.insert(9, n)));
        assert_eq!(probes(&index), 20);
        // Removes the second bucket's entries. No entry passes the first bucket then, and a search for a removed one
        // ends there.
        (12..20).for_each(|n| assert!(index.remove(9, n)));
        assert_eq!(index.buckets.at(0).tags[PASSED], 0);
        assert!(!index.remove(9, 12) && !index.replace(9, 12, 1));
        assert_eq!(probes(&index), 12);
    }

    #[test]
    fn an_entry_is_replaced_where_it_is() {
        let mut index = Index::new(100).unwrap();
        (0..30).for_each(|n| assert!(index.insert(5, n)));
        for n in 0..30 {
            assert!(index.replace(5, n, n + 100));
            assert_eq!(index.find(5, |e| e == n), None);
            assert_eq!(index.find(5, |e| e == n + 100), Some(n + 100));
        }
        assert!(!index.replace(5, 0, 1) && !index.replace(6, 100, 1));
    }

    #[test]
    fn a_candidate_is_the_first_entry_of_its_tag() {
        let mut index = Index::new(100).unwrap();
        assert_eq!(index.candidate(0), None);
        // A tag of 0 would mark a free entry: hashes whose tag byte is 0 or 1 both get tag 1.
        assert!(index.insert(0, 70) && index.insert(0, 71));
        assert_eq!((index.candidate(0), index.candidate(1), index.candidate(2)), (Some(70), Some(70), None));
        assert!(index.remove(0, 70));
        assert_eq!(index.candidate(0), Some(71));
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(ops in prop::collection::vec((any::<bool>(), 0u64..200), 1..2000)) {
            let mut index = Index::new(96).unwrap();
            let key = HashKey::from_seed(1);
            let room = index.buckets.len() * WAYS;
            let mut model = HashMap::new();
            for (add, k) in ops {
                // Few distinct hashes, so that buckets overflow.
                let hash = key.hash(k % 5, 17);
                if add && !model.contains_key(&k) && model.len() < room {
                    prop_assert!(index.insert(hash, k as u32));
                    model.insert(k, ());
                } else if !add {
                    prop_assert_eq!(index.remove(hash, k as u32), model.remove(&k).is_some());
                }
            }
            for k in 0..200u64 {
                let found = index.find(key.hash(k % 5, 17), |e| u64::from(e) == k).is_some();
                prop_assert_eq!(found, model.contains_key(&k));
            }
        }
    }
}
