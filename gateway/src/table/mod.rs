//! A worker's tables: sessions, timers, local addresses, counters.

pub mod call_ids;
pub mod classes;
pub mod classifier;
pub mod counters;
pub mod displaced;
pub mod endpoints;
mod found;
pub mod fragments;
pub mod index;
mod late;
pub mod limit;
#[cfg(test)]
mod limit_tests;
pub mod path_mtu;
pub mod pool;
pub mod rss;
pub mod session;
pub mod sessions;
mod share;
pub mod snat;
pub mod steering;
mod templates;
mod tuple;
pub mod v6_record;
mod wheel;

/// Models replace this module.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
}
