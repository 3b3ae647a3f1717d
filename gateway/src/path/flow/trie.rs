//! Longest-prefix match: a trie with four address bits per node. It omits nodes without branches, and its
//! versions share their common parts.
//!
//! ```text
//! node   first    the first address that it covers
//!        shift    the position of its four bits
//!        entries  16: a leaf, or a node of shorter networks
//!        outside  the leaf of addresses that arrive here and that it doesn't cover
//! ```
//!
//! A leaf holds the value of the most specific network around it, so a look-up ends at the first leaf: after
//! a few nodes with a full routing table, one or two with a handful of routes. A change copies the nodes on
//! its path and those whose leaves it changes.

use std::{array, hash::Hash, sync::Arc};

/// Entries of a node.
const FAN: usize = 16;
/// Address bits that select an entry.
const BITS: u8 = 4;

/// An address as a number.
pub(crate) trait TrieKey: Copy + Eq + Hash {
    /// The number of bits in an address.
    const WIDTH: u8;
    /// The distance of the address from `first`, in units of `1 << shift`; too large if it lies before.
    fn offset(self, first: Self, shift: u8) -> usize;
    /// The address without its last `bits` bits.
    fn above(self, bits: u8) -> Self;
    /// The highest bit in which two addresses differ.
    fn difference(self, other: Self) -> Option<u8>;
}

macro_rules! number {
    ($type:ty) => {
        impl TrieKey for $type {
            const WIDTH: u8 = <$type>::BITS as u8;
            #[inline]
            fn offset(self, first: Self, shift: u8) -> usize {
                usize::try_from((self ^ first).unbounded_shr(shift.into())).unwrap_or(usize::MAX)
            }
            fn above(self, bits: u8) -> Self {
                self & Self::MAX.unbounded_shl(bits.into())
            }
            fn difference(self, other: Self) -> Option<u8> {
                (self ^ other).checked_ilog2().map(|bit| bit as u8)
            }
        }
    };
}
number!(u32);
number!(u128);

/// A version of a trie with leaves of type `L`.
#[derive(Clone)]
pub(crate) struct Trie<A, L> {
    root: Entry<A, L>,
}

#[derive(Clone)]
enum Entry<A, L> {
    Leaf(L),
    Node(Arc<Node<A, L>>),
}

#[derive(Clone)]
struct Node<A, L> {
    first: A,
    shift: u8,
    outside: L,
    entries: [Entry<A, L>; FAN],
}

impl<A: TrieKey, L: Clone + Eq> Node<A, L> {
    /// The node around a network, with the same leaf everywhere.
    fn around(network: A, shift: u8, leaf: &L) -> Self {
        let entries = array::from_fn(|_| Entry::Leaf(leaf.clone()));
        Self { first: network.above(shift + BITS), shift, outside: leaf.clone(), entries }
    }

    /// Whether the node covers a network.
    fn holds(&self, network: A, free: u8) -> bool {
        free < self.shift + BITS && network.above(self.shift + BITS) == self.first
    }
}

impl<A: TrieKey, L: Clone + Eq> Trie<A, L> {
    /// A trie that gives all addresses this leaf.
    pub fn new(leaf: L) -> Self {
        Self { root: Entry::Leaf(leaf) }
    }

    /// The leaf of an address.
    #[inline]
    pub fn get(&self, address: A) -> &L {
        let mut entry = &self.root;
        loop {
            match entry {
                Entry::Leaf(leaf) => return leaf,
                Entry::Node(node) => match node.entries.get(address.offset(node.first, node.shift)) {
                    Some(inside) => entry = inside,
                    None => return &node.outside,
                },
            }
        }
    }

    /// Changes the leaves of a network: `change` returns a leaf's new value, or none to keep it.
    pub fn change(&mut self, network: A, prefix: u8, change: &impl Fn(&L) -> Option<L>) {
        let free = A::WIDTH - prefix.min(A::WIDTH);
        self.root.change(A::WIDTH, network.above(free), free, change);
    }
}

impl<A: TrieKey, L: Clone + Eq> Entry<A, L> {
    /// Changes the leaves of the network with `free` host bits. The entry covers `height` bits.
    fn change(&mut self, height: u8, network: A, free: u8, change: &impl Fn(&L) -> Option<L>) {
        if free >= height {
            if let Some(changed) = self.changed(height, change) {
                *self = changed;
            }
            return;
        }
        match self {
            Self::Leaf(leaf) if change(leaf).is_none() => return,
            Self::Leaf(leaf) => *self = Self::Node(Arc::new(Node::around(network, free & !(BITS - 1), leaf))),
            Self::Node(node) if !node.holds(network, free) => {
                let branch = node.first.above(free).difference(network).unwrap_or(free);
                let mut parent = Node::around(network, branch & !(BITS - 1), &node.outside);
                let place = node.first.offset(parent.first, parent.shift);
                if let Some(entry) = parent.entries.get_mut(place) {
                    *entry = Self::Node(Arc::clone(node));
                }
                *self = Self::Node(Arc::new(parent));
            }
            Self::Node(_) => {}
        }
        if let Self::Node(node) = self {
            let node = Arc::make_mut(node);
            let (at, shift) = (network.offset(node.first, node.shift), node.shift);
            let count = 1 << free.saturating_sub(shift);
            for entry in node.entries.iter_mut().skip(at).take(count) {
                entry.change(shift, network, free, change);
            }
        }
        self.tidy(height);
    }

    /// The new value of the whole entry, or none if it stays.
    fn changed(&self, height: u8, change: &impl Fn(&L) -> Option<L>) -> Option<Self> {
        let node = match self {
            Self::Leaf(leaf) => return change(leaf).map(Self::Leaf),
            Self::Node(node) => node,
        };
        let mut copy: Option<Node<A, L>> = None;
        for (n, entry) in node.entries.iter().enumerate() {
            if let Some(changed) = entry.changed(node.shift, change) {
                copy.get_or_insert_with(|| Node::clone(node)).entries[n] = changed;
            }
        }
        if let Some(outside) = change(&node.outside) {
            copy.get_or_insert_with(|| Node::clone(node)).outside = outside;
        }
        let mut changed = Self::Node(Arc::new(copy?));
        changed.tidy(height);
        Some(changed)
    }

    /// Removes a node that doesn't branch.
    fn tidy(&mut self, height: u8) {
        let Self::Node(node) = self else { return };
        let mut inner = node.entries.iter().filter(|entry| matches!(entry, Self::Node(_)));
        let (one, more) = (inner.next(), inner.next().is_some());
        let leaf = match (one, node.entries.first()) {
            _ if more => return,
            (Some(Self::Node(only)), _) => &only.outside,
            (_, Some(Self::Leaf(leaf))) => leaf,
            _ => return,
        };
        let others = node.entries.iter().all(|entry| match entry {
            Self::Leaf(other) => other == leaf,
            Self::Node(_) => true,
        });
        // No address is outside a node that covers the whole address space.
        if others && (node.outside == *leaf || node.shift + BITS == height) {
            *self = one.cloned().unwrap_or_else(|| Self::Leaf(leaf.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A leaf: the prefix length of its network, and a value.
    type Leaf = (u8, u16);

    fn set<A: TrieKey>(trie: &mut Trie<A, Leaf>, network: A, prefix: u8, value: u16) {
        trie.change(network, prefix, &|leaf: &Leaf| (leaf.0 <= prefix).then_some((prefix, value)));
    }

    fn nodes<A, L>(entry: &Entry<A, L>) -> usize {
        match entry {
            Entry::Leaf(_) => 0,
            Entry::Node(node) => 1 + node.entries.iter().map(nodes).sum::<usize>(),
        }
    }

    fn network(prefix: u8, bits: u32) -> (u32, u8) {
        // A few different values, spread over the lengths.
        let spread = (bits & 7) << 29 | (bits >> 3 & 7) << 14 | bits >> 6 & 7;
        (spread.above(32 - prefix), prefix)
    }

    proptest! {
        /// Each version agrees with a look-up through all networks.
        #[test]
        fn the_longest_network_counts(
            steps in prop::collection::vec((0..=32u8, 0..512u32, prop::option::of(1..9u16)), 1..60),
            asked in prop::collection::vec(0..512u32, 20),
        ) {
            let (mut trie, mut model) = (Trie::<u32, Leaf>::new((0, 0)), BTreeMap::new());
            let mut versions = Vec::new();
            for (prefix, bits, value) in steps {
                let (network, prefix) = network(prefix, bits);
                match value {
                    Some(value) => {
                        model.insert((network, prefix), value);
                        set(&mut trie, network, prefix, value);
                    }
                    None if model.remove(&(network, prefix)).is_some() => {
                        let around = (0..prefix).rev().find_map(|p| {
                            Some((p, *model.get(&(network.above(32 - p), p))?))
                        });
                        let around = around.unwrap_or((0, 0));
                        trie.change(network, prefix, &|leaf: &Leaf| (leaf.0 == prefix).then_some(around));
                    }
                    None => {}
                }
                versions.push((trie.clone(), model.clone()));
            }
            for (trie, model) in versions {
                for bits in &asked {
                    let (address, _) = network(32, *bits);
                    let due = (0..=32u8).rev().find_map(|p| Some((p, *model.get(&(address.above(32 - p), p))?)));
                    prop_assert_eq!(*trie.get(address), due.unwrap_or((0, 0)), "{:x} of {:x?}", address, model);
                }
            }
        }
    }

    #[test]
    fn nodes_without_branches_are_left_out_and_go_with_their_networks() {
        let mut trie = Trie::<u128, Leaf>::new((0, 0));
        let network = |n: u128| (0x2001_0db8 << 96) | n << 80;
        set(&mut trie, network(7), 48, 1);
        assert_eq!(nodes(&trie.root), 1);
        assert_eq!(
            (*trie.get(network(7) + 9), *trie.get(network(8)), *trie.get(1)),
            ((48, 1), (0, 0), (0, 0))
        );
        set(&mut trie, network(7) + 5, 128, 2);
        assert_eq!((*trie.get(network(7) + 5), *trie.get(network(7) + 4)), ((128, 2), (48, 1)));
        assert_eq!(nodes(&trie.root), 2);
        let before = trie.clone();
        set(&mut trie, 0, 0, 3);
        assert_eq!((*trie.get(network(8)), *before.get(network(8))), ((0, 3), (0, 0)));
        trie.change(0, 0, &|_| Some((0, 0)));
        assert_eq!((nodes(&trie.root), nodes(&before.root)), (0, 2));
    }

    #[test]
    fn a_change_copies_its_way() {
        let mut trie = Trie::<u32, Leaf>::new((0, 0));
        (0..65_536u32).for_each(|n| set(&mut trie, n << 8, 24, 1));
        let before = trie.clone();
        set(&mut trie, 7 << 8, 24, 2);
        let (Entry::Node(new), Entry::Node(old)) = (&trie.root, &before.root) else { panic!("leaves") };
        let pairs = new.entries.iter().zip(&old.entries);
        let shared = pairs.filter(|(a, b)| match (a, b) {
            (Entry::Node(a), Entry::Node(b)) => Arc::ptr_eq(a, b),
            _ => false,
        });
        assert_eq!((shared.count(), *before.get(7 << 8), *trie.get(7 << 8)), (FAN - 1, (24, 1), (24, 2)));
    }
}
