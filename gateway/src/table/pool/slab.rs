//! Records in memory reserved beforehand, handed out by number.

use zerocopy::FromZeros;

use super::index::NoMemory;

/// The slab. Number 0 is never handed out, so it can mean "none". Memory that was never handed out is never touched: a
/// large slab only costs address space.
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

    /// Stores a record and returns its number.
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

    /// Whether the slab is full.
    #[inline]
    pub fn is_exhausted(&self) -> bool {
        self.free.is_empty() && self.top as usize >= self.items.len()
    }

    /// The number of records in use.
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

    #[inline]
    fn join(&mut self, a: u32, b: u32) {
        self[a].set_next(b);
        self[b].set_prev(a);
    }
}

/// A record in a queue.
pub(super) trait Queued {
    fn next(&self) -> u32;
    fn set_next(&mut self, id: u32);
}

/// A queue of records, linked by numbers. Adding a record touches only the last one; removing one touches no other.
#[derive(Clone, Copy, Debug, Default, FromZeros)]
pub(super) struct SlotQueue {
    head: u32,
    tail: u32,
}

impl SlotQueue {
    /// The first record; 0 if there is none.
    #[inline]
    pub fn head(&self) -> u32 {
        self.head
    }

    /// Adds `id` at the end.
    #[inline]
    pub fn push<T: FromZeros + Queued>(&mut self, slab: &mut Slab<T>, id: u32) {
        slab[id].set_next(0);
        self.append(slab, Self { head: id, tail: id });
    }

    /// Takes the first record out.
    #[inline]
    pub fn pop<T: FromZeros + Queued>(&mut self, slab: &Slab<T>) {
        if self.head != 0 {
            self.head = slab[self.head].next();
        }
    }

    /// Adds another queue at the end.
    #[inline]
    pub fn append<T: FromZeros + Queued>(&mut self, slab: &mut Slab<T>, other: Self) {
        match (self.head, other.head) {
            (_, 0) => (),
            (0, _) => *self = other,
            _ => {
                slab[self.tail].set_next(other.head);
                self.tail = other.tail;
            }
        }
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

    impl Queued for Node {
        fn next(&self) -> u32 {
            self.1
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
        assert_eq!((list(&slab, a), list(&slab, b)), (vec![3, 5], vec![2, 4]));
        slab.unlink(&mut a, 5);
        slab.unlink(&mut a, 3);
        assert_eq!(a, 0);
    }

    #[test]
    fn queues() {
        let mut slab = Slab::new(8).unwrap();
        let mut queues = [SlotQueue::default(), SlotQueue::default(), SlotQueue::default()];
        for n in 0..6 {
            let id = slab.insert(Node(0, 0)).unwrap();
            queues[n % 2].push(&mut slab, id);
        }
        let [mut a, b, mut none] = queues;
        a.pop(&slab);
        a.append(&mut slab, b);
        a.append(&mut slab, none);
        none.append(&mut slab, a);
        let mut seen = Vec::new();
        while none.head() != 0 {
            seen.push(none.head());
            none.pop(&slab);
        }
        assert_eq!(seen, [3, 5, 2, 4, 6]);
        none.pop(&slab);
        none.push(&mut slab, 1);
        assert_eq!(none.head(), 1);
    }
}
