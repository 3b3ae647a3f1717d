//! A slot with one writer, read without a lock while it may change: readers notice that it did.
//!
//! The generation is even while the slot's key is valid, odd while there is none, different each time, and 0 before the
//! first use. `tests/share_nothing.rs` includes this file unchanged and runs it through every memory ordering that a
//! processor may choose.

use super::sync::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

/// Reads a slot; none if it is unused or changes meanwhile.
pub(super) fn consistent<T>(generation: &AtomicU32, read: impl FnOnce() -> T) -> Option<T> {
    let before = generation.load(Acquire);
    if before == 0 || before % 2 == 1 {
        return None;
    }
    let value = read();
    fence(Acquire);
    (generation.load(Relaxed) == before).then_some(value)
}

/// Gives a slot another key.
pub(super) fn change(generation: &AtomicU32, write: impl FnOnce()) {
    let odd = generation.load(Relaxed) | 1;
    generation.store(odd, Relaxed);
    fence(Release);
    write();
    // 0 is for slots never used.
    generation.store(if odd == u32::MAX { 2 } else { odd + 1 }, Release);
}

/// Marks a slot unused.
pub(super) fn close(generation: &AtomicU32) {
    generation.store(generation.load(Relaxed) | 1, Release);
}
