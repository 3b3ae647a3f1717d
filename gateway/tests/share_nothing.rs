//! What threads of the gateway say to each other, in every order that a processor may choose (loom).
//!
//! Workers share nothing on the established path (`weir-bench lines` shows that no cache line of it is two workers').
//! What is left are rings, one writer and one reader each, and counters with one writer:
//!
//! - [`Ring`] is a model of the rings between workers (`path/egress/handover.rs`) and between control and a worker
//!   (`path/admin/update.rs`), with the loads and stores of rtrb 0.4: both ends keep what they last saw of the other.
//! - A configuration travels to the worker in a batch and back in another ring, and only then control may drop it.
//! - Counters of local addresses are read by control while the worker changes what slots stand for; that is the
//!   gateway's own file.
//!
//! The thread that writes is the one that loom runs first: a load has all stores before it to choose from, while those
//! that come later it would not see.
#![forbid(unsafe_code)]

use loom::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::*},
    },
    thread,
};

mod sync {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}
#[path = "../src/table/pool/generation.rs"]
mod generation;
#[path = "../src/table/limit.rs"]
#[expect(dead_code, reason = "a part of it is modelled")]
mod limit;

/// What a slot of a ring or a configuration holds. Loom sees every access and fails if two may meet.
#[derive(Default)]
struct Place {
    access: UnsafeCell<()>,
    value: AtomicUsize,
}

impl Place {
    fn write(&self, value: usize) {
        self.access.with_mut(|_| self.value.store(value, Relaxed));
    }
    fn read(&self) -> usize {
        self.access.with(|_| self.value.load(Relaxed))
    }
}

/// A ring with room for `slots.len()` values.
struct Ring {
    head: AtomicUsize,
    tail: AtomicUsize,
    slots: Vec<Place>,
}

/// The writing end: where it is, and where it last saw the reader.
struct Sender(Arc<Ring>, usize, usize);
/// The reading end: where it is, and where it last saw the writer.
struct Receiver(Arc<Ring>, usize, usize);

fn ring(room: usize) -> (Sender, Receiver) {
    let slots = (0..room).map(|_| Place::default()).collect();
    let ring = Arc::new(Ring { head: AtomicUsize::new(0), tail: AtomicUsize::new(0), slots });
    (Sender(Arc::clone(&ring), 0, 0), Receiver(ring, 0, 0))
}

impl Sender {
    /// Whether there was room.
    fn push(&mut self, value: usize) -> bool {
        let Self(ring, tail, seen) = self;
        if *tail - *seen == ring.slots.len() {
            *seen = ring.head.load(Acquire);
            if *tail - *seen == ring.slots.len() {
                return false;
            }
        }
        ring.slots[*tail % ring.slots.len()].write(value);
        *tail += 1;
        ring.tail.store(*tail, Release);
        true
    }
}

impl Receiver {
    fn pop(&mut self) -> Option<usize> {
        let Self(ring, head, seen) = self;
        if *head == *seen {
            *seen = ring.tail.load(Acquire);
            if *head == *seen {
                return None;
            }
        }
        let value = ring.slots[*head % ring.slots.len()].read();
        *head += 1;
        ring.head.store(*head, Release);
        Some(value)
    }
}

/// Frames reach their owner once and in order; those without room are the sender's to count.
#[test]
fn frames_are_handed_over_once_or_counted_as_dropped() {
    loom::model(|| {
        let (mut sender, mut receiver) = ring(2);
        let owner = thread::spawn(move || {
            let got: Vec<_> = (0..3).filter_map(|_| receiver.pop()).collect();
            (got, receiver)
        });
        let dropped: Vec<_> = (1..=3).filter(|&frame| !sender.push(frame)).collect();
        let (mut got, mut receiver) = owner.join().unwrap();
        got.extend(std::iter::from_fn(|| receiver.pop()));
        assert!(got.is_sorted(), "{got:?}");
        let mut all = [got, dropped].concat();
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3]);
    });
}

/// Control drops a configuration only when the worker that read it has given it back, and the worker never reads one
/// that is half made.
#[test]
fn no_worker_reads_a_configuration_that_control_makes_or_drops() {
    loom::model(|| {
        let configurations = Arc::new([Place::default(), Place::default(), Place::default()]);
        configurations[0].write(100);
        let (mut updates, mut taken) = ring(1);
        let (mut give_back, mut retired) = ring(1);
        let worker = {
            let configurations = Arc::clone(&configurations);
            thread::spawn(move || {
                let mut current = 0;
                for _ in 0..2 {
                    // A burst, then what control has sent.
                    assert_eq!(configurations[current].read(), 100 + current);
                    if let Some(new) = taken.pop() {
                        let old = std::mem::replace(&mut current, new);
                        // Room was looked for before: nobody else fills this ring.
                        assert!(give_back.push(old));
                    }
                }
                assert_eq!(configurations[current].read(), 100 + current);
                current
            })
        };
        configurations[1].write(101);
        assert!(updates.push(1));
        let mut dropped = Vec::new();
        for _ in 0..2 {
            if let Some(old) = retired.pop() {
                configurations[old].write(0); // dropped, and its memory used again
                dropped.push(old);
            }
        }
        let current = worker.join().unwrap();
        assert!(!dropped.contains(&current), "{current} is in use and dropped");
    });
}

/// Control reads a slot's key and counter while the worker gives the slot to another key: never a mixture.
#[test]
fn the_counter_of_a_slot_belongs_to_its_key() {
    loom::model(|| {
        let slot = Arc::new((sync::AtomicU32::new(0), AtomicUsize::new(0), AtomicUsize::new(0)));
        let control = {
            let slot = Arc::clone(&slot);
            thread::spawn(move || {
                let read = || (slot.1.load(Relaxed), slot.2.load(Relaxed));
                if let Some((key, counter)) = generation::consistent(&slot.0, read) {
                    assert_eq!(counter, 10 * key);
                    assert_ne!(key, 0, "a slot that was never used");
                }
            })
        };
        for key in 1..=2 {
            generation::change(&slot.0, || {
                slot.1.store(key, Relaxed);
                slot.2.store(10 * key, Relaxed);
            });
        }
        generation::close(&slot.0);
        control.join().unwrap();
        assert_eq!(generation::consistent(&slot.0, || ()), None, "it is closed");
    });
}

/// A counter has one writer, which adds by a load and a store; what control reads never goes back, and the sum is right.
#[test]
fn counters_with_one_writer_lose_nothing() {
    loom::model(|| {
        let counter = Arc::new(AtomicU64::new(0));
        let control = {
            let counter = Arc::clone(&counter);
            thread::spawn(move || {
                let (first, second) = (counter.load(Relaxed), counter.load(Relaxed));
                assert!(first <= second);
            })
        };
        (0..3).for_each(|_| counter.store(counter.load(Relaxed) + 1, Relaxed));
        control.join().unwrap();
        assert_eq!(counter.load(Relaxed), 3);
    });
}

/// Two workers and one place: one of them gets it, and gives it back while the other asks.
#[test]
fn the_last_place_at_a_server_is_one_worker_s() {
    loom::model(|| {
        let limit = Arc::new(limit::Limit::new(2, 0, 1));
        let other = Arc::clone(&limit);
        let second = thread::spawn(move || other.reserve());
        let first = limit.reserve();
        assert!(limit.is_overloaded() || !first);
        let second = second.join().unwrap();
        assert!(first != second, "one and only one");
        assert_eq!((limit.sessions(), limit.is_overloaded()), (2, true));
    });
    loom::model(|| {
        let limit = Arc::new(limit::Limit::new(1, 0, 1));
        let other = Arc::clone(&limit);
        let opens = thread::spawn(move || other.reserve());
        limit.release();
        let opened = opens.join().unwrap();
        assert_eq!((limit.sessions(), limit.is_overloaded()), (u32::from(opened), opened));
    });
}
