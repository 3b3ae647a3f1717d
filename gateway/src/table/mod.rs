//! What a worker remembers: sessions, timers, local addresses, counters.

pub mod classes;
pub mod counters;
pub mod rss;
pub mod steering;
