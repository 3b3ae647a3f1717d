//! What a worker remembers: sessions, timers, local addresses, counters.

pub mod counters;
