//! A map whose versions share what they have in common: a copy costs little, and a change copies the part that it is in.
//!
//! The entries are in 4096 buckets, 64 groups of 64, by their keys' hashes. A version is a set of pointers to groups; one
//! that is changed gets a bucket and a group of its own. What differs between two versions is found by looking at the
//! buckets that they don't share.

use std::{
    array,
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hash},
    sync::Arc,
};

use foldhash::fast::RandomState;

/// Groups of a map, and buckets of a group.
const FAN: usize = 64;

type Bucket<K, V> = Arc<HashMap<K, V, RandomState>>;
type Group<K, V> = Arc<[Bucket<K, V>; FAN]>;

/// A version of a map.
pub struct Map<K, V> {
    groups: Groups<K, V>,
    hasher: RandomState,
    len: usize,
}

type Groups<K, V> = Arc<[Group<K, V>; FAN]>;

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self { groups: Arc::clone(&self.groups), hasher: self.hasher.clone(), len: self.len }
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        let bucket = Bucket::default();
        let group = Arc::new(array::from_fn(|_| Arc::clone(&bucket)));
        let groups = Arc::new(array::from_fn(|_| Arc::clone(&group)));
        Self { groups, hasher: RandomState::default(), len: 0 }
    }
}

impl<K: Copy + Eq + Hash, V: Clone + PartialEq> Map<K, V> {
    /// The key's group, and bucket there.
    fn place(&self, key: &K) -> (usize, usize) {
        // A bucket's own table goes by bits at both endpoints of such a hash.
        let hash = self.hasher.hash_one(key) >> 32;
        (hash as usize % FAN, hash as usize / FAN % FAN)
    }

    fn bucket(&self, key: &K) -> Option<&Bucket<K, V>> {
        let (group, bucket) = self.place(key);
        self.groups.get(group)?.get(bucket)
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.bucket(key)?.get(key)
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.groups.iter().flat_map(|group| group.iter().flat_map(|bucket| bucket.iter()))
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Whether nothing has been changed between the two versions.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.groups, &other.groups)
    }

    /// The bucket of `key`, this version's own.
    fn own_bucket(&mut self, key: &K) -> Option<&mut HashMap<K, V, RandomState>> {
        let (group, bucket) = self.place(key);
        let group = Arc::make_mut(&mut self.groups).get_mut(group)?;
        Arc::make_mut(group).get_mut(bucket).map(Arc::make_mut)
    }

    /// Sets the value of `key`, or with none removes it. False, and nothing is copied, if it is that already.
    pub fn set(&mut self, key: K, value: Option<V>) -> bool {
        let before = self.get(&key);
        if before == value.as_ref() {
            return false;
        }
        let had = before.is_some();
        let Some(bucket) = self.own_bucket(&key) else { return false };
        match value {
            Some(value) => {
                bucket.insert(key, value);
                self.len += usize::from(!had);
            }
            None => {
                bucket.remove(&key);
                self.len -= 1;
            }
        }
        true
    }

    /// Tells `each` of every key whose value isn't what it was in `old`, an earlier version, with the value it has now.
    pub fn changes(&self, old: &Self, mut each: impl FnMut(&K, Option<&V>)) {
        for (new, old) in
            self.groups.iter().zip(old.groups.iter()).filter(|(new, old)| !Arc::ptr_eq(new, old))
        {
            for (new, old) in new.iter().zip(old.iter()).filter(|(new, old)| !Arc::ptr_eq(new, old)) {
                new.iter()
                    .filter(|(key, value)| old.get(key) != Some(value))
                    .for_each(|(k, v)| each(k, Some(v)));
                old.keys().filter(|key| !new.contains_key(key)).for_each(|key| each(key, None));
            }
        }
    }
}

impl<K: Copy + Eq + Hash, V: Clone + PartialEq> PartialEq for Map<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other)
            || self.len == other.len && self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl<K: Copy + Eq + Hash, V: Clone + Eq> Eq for Map<K, V> {}

impl<K: Copy + Eq + Hash + fmt::Debug, V: Clone + PartialEq + fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As an ordinary map, and every version stays what it was.
        #[test]
        fn versions_are_maps(steps in prop::collection::vec((0..200u32, prop::option::of(0..4u8), prop::bool::weighted(0.05)), 0..300)) {
            let (mut map, mut model) = (Map::default(), BTreeMap::new());
            let mut versions = vec![(map.clone(), model.clone())];
            for (key, value, keep) in steps {
                let changes = model.get(&key) != value.as_ref();
                prop_assert_eq!(map.set(key, value), changes);
                match value {
                    Some(value) => drop(model.insert(key, value)),
                    None => drop(model.remove(&key)),
                }
                if keep {
                    versions.push((map.clone(), model.clone()));
                }
            }
            versions.push((map, model));
            let (last, now) = versions.last().unwrap();
            for (map, model) in &versions {
                prop_assert_eq!(map.len(), model.len());
                prop_assert_eq!(&map.iter().map(|(k, v)| (*k, *v)).collect::<BTreeMap<_, _>>(), model);
                let mut told = BTreeSet::new();
                last.changes(map, |key, value| {
                    assert_eq!(value, now.get(key));
                    assert!(told.insert(*key));
                });
                let differ = |key: &u32| now.get(key) != model.get(key);
                prop_assert_eq!(told, (0..200).filter(differ).collect::<BTreeSet<_>>());
                prop_assert_eq!(map == last, model == now);
            }
        }
    }

    #[test]
    fn a_change_copies_one_bucket() {
        let mut map = Map::default();
        (0..100_000u32).for_each(|n| _ = map.set(n, Some(n)));
        let before = map.clone();
        assert!(!map.set(7, Some(7)) && map.is_same(&before));
        assert!(map.set(7, None));
        let shared = |a: &Map<u32, u32>, b: &Map<u32, u32>| {
            let pairs = a.groups.iter().flat_map(|g| g.iter()).zip(b.groups.iter().flat_map(|g| g.iter()));
            pairs.filter(|(a, b)| Arc::ptr_eq(a, b)).count()
        };
        assert_eq!(shared(&map, &before), FAN * FAN - 1);
        assert_eq!((map.len(), before.len()), (99_999, 100_000));
    }
}
