//! Records in memory reserved beforehand, handed out by number.

use zerocopy::FromZeros;

use super::index::NoMemory;

/// The slab. Number 0 is never handed out, so that it can mean "none". Memory that was never handed out is
/// never touched: a large slab costs address space only.
#[derive(Debug)]
pub(super) struct Slab<T> {
    items: Vec<T>,
    /// The first number that was never handed out.
    top: u32,
    free: Vec<u32>,
}

impl<T: FromZeros> Slab<T> {
    /// Room for `capacity` records.
    pub fn new(capacity: usize) -> Result<Self, NoMemory> {
        let items = T::new_vec_zeroed(capacity + 1).map_err(|_| NoMemory)?;
        let mut free = Vec::new();
        free.try_reserve_exact(capacity).map_err(|_| NoMemory)?;
        Ok(Self { items, top: 1, free })
    }

    /// Puts a record somewhere.
    #[inline]
    pub fn insert(&mut self, item: T) -> Option<u32> {
        let id = match self.free.pop() {
            Some(id) => id,
            None if (self.top as usize) < self.items.len() => {
                self.top += 1;
                self.top - 1
            }
            None => return None,
        };
        self.items[id as usize] = item;
        Some(id)
    }

    /// Gives back a number that was handed out.
    #[inline]
    pub fn remove(&mut self, id: u32) {
        self.free.push(id);
    }

    /// Whether nothing is left.
    #[inline]
    pub fn is_exhausted(&self) -> bool {
        self.free.is_empty() && self.top as usize >= self.items.len()
    }

    /// Records handed out now.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.top as usize - 1 - self.free.len()
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;
    #[inline]
    fn index(&self, id: u32) -> &T {
        &self.items[id as usize]
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut T {
        &mut self.items[id as usize]
    }
}

/// A record in a circular list, linked by numbers.
pub(super) trait Linked {
    fn links(&self) -> (u32, u32);
    fn set_prev(&mut self, id: u32);
    fn set_next(&mut self, id: u32);
}

impl<T: FromZeros + Linked> Slab<T> {
    /// Adds `id` at the end of the list that begins at `head` (0 = empty).
    #[inline]
    pub fn push(&mut self, head: &mut u32, id: u32) {
        if *head == 0 {
            *head = id;
            self[id].set_prev(id);
            self[id].set_next(id);
            return;
        }
        let last = self[*head].links().0;
        self.join(last, id);
        self.join(id, *head);
    }

    /// Takes `id` out of the list that begins at `head`.
    #[inline]
    pub fn unlink(&mut self, head: &mut u32, id: u32) {
        let (prev, next) = self[id].links();
        if next == id {
            *head = 0;
            return;
        }
        self.join(prev, next);
        if *head == id {
            *head = next;
        }
    }

    /// Moves the list that begins at `from` to the end of the one that begins at `head`.
    #[inline]
    pub fn append(&mut self, head: &mut u32, from: u32) {
        if from == 0 {
            return;
        }
        if *head == 0 {
            *head = from;
            return;
        }
        let (last, from_last) = (self[*head].links().0, self[from].links().0);
        self.join(last, from);
        self.join(from_last, *head);
    }

    #[inline]
    fn join(&mut self, a: u32, b: u32) {
        self[a].set_next(b);
        self[b].set_prev(a);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(FromZeros)]
    struct Node(u32, u32);

    impl Linked for Node {
        fn links(&self) -> (u32, u32) {
            (self.0, self.1)
        }
        fn set_prev(&mut self, id: u32) {
            self.0 = id;
        }
        fn set_next(&mut self, id: u32) {
            self.1 = id;
        }
    }

    fn list(slab: &Slab<Node>, head: u32) -> Vec<u32> {
        let mut out = Vec::new();
        let mut at = head;
        while at != 0 {
            out.push(at);
            assert_eq!(slab[slab[at].1].0, at);
            at = if slab[at].1 == head { 0 } else { slab[at].1 };
        }
        out
    }

    #[test]
    fn numbers_are_reused_and_end() {
        let mut slab = Slab::new(3).unwrap();
        let ids: Vec<u32> = std::iter::from_fn(|| slab.insert(Node(0, 0))).collect();
        assert_eq!((ids, slab.is_exhausted(), slab.len()), (vec![1, 2, 3], true, 3));
        slab.remove(2);
        assert_eq!((slab.is_exhausted(), slab.insert(Node(0, 0))), (false, Some(2)));
    }

    #[test]
    fn lists() {
        let mut slab = Slab::new(8).unwrap();
        let (mut a, mut b) = (0, 0);
        for n in 0..6 {
            let id = slab.insert(Node(0, 0)).unwrap();
            slab.push(if n % 2 == 0 { &mut a } else { &mut b }, id);
        }
        assert_eq!((list(&slab, a), list(&slab, b)), (vec![1, 3, 5], vec![2, 4, 6]));
        slab.unlink(&mut a, 1);
        slab.unlink(&mut b, 6);
        slab.append(&mut a, b);
        assert_eq!(list(&slab, a), [3, 5, 2, 4]);
        let mut none = 0;
        slab.append(&mut none, a);
        slab.append(&mut none, 0);
        assert_eq!(list(&slab, none), [3, 5, 2, 4]);
        for id in [5, 3, 4, 2] {
            slab.unlink(&mut none, id);
        }
        assert_eq!(none, 0);
    }
}
