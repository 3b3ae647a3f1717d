//! What a worker remembers: sessions, timers, local addresses, counters.

pub mod classes;
pub mod counters;
pub mod pool;
pub mod rss;
mod share;
pub mod steering;
pub mod index;
pub mod session;
pub mod sessions;
