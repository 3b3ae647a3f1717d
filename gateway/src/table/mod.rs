//! What a worker remembers: sessions, timers, local addresses, counters.

pub mod counters;
pub mod index;
pub mod pool;
pub mod steering;
pub mod session;
pub mod sessions;
