//! Counters with one writer.
//!
//! A worker adds with a relaxed load and store (two plain moves, no locked instruction); control reads
//! whenever it likes. One server's figures on one worker share a cache line, so that an established packet
//! touches one line of counters. A service's figures are the sum over its servers.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// A 64-bit figure with one writing thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    /// The figure now.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A gauge with one writing thread.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU32);

impl Gauge {
    /// One more; only the owning worker may call this.
    #[inline]
    pub fn inc(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_add(1), Relaxed);
    }
    /// One less; only the owning worker may call this.
    #[inline]
    pub fn dec(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(1), Relaxed);
    }
    /// Sets the gauge; only the owning thread may call this.
    #[inline]
    pub fn set(&self, n: u32) {
        self.0.store(n, Relaxed);
    }
    /// The figure now.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

/// One server's figures on one worker: one cache line. Bytes are IP total lengths.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct ServerCounters {
    /// Sessions counted active (IPVS's ActiveConn).
    pub active: Gauge,
    /// Sessions counted inactive (InActConn).
    pub inactive: Gauge,
    /// Persistence templates.
    pub persistent: Gauge,
    /// 1 while the server is configured, 0 once it is deleted.
    pub available: Gauge,
    /// Sessions ever scheduled to the server.
    pub connections: Counter,
    /// Packets from clients.
    pub in_packets: Counter,
    /// Bytes from clients.
    pub in_bytes: Counter,
    /// Packets from the server.
    pub out_packets: Counter,
    /// Bytes from the server.
    pub out_bytes: Counter,
}

const _: () = assert!(size_of::<ServerCounters>() == 64);

/// The other workers' session counts of one server, written by control every 10 ms for the schedulers of
/// one worker that weigh connections; zero with one worker.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct OtherWorkers {
    /// Active sessions on the other workers.
    pub active: Gauge,
    /// Inactive sessions on the other workers.
    pub inactive: Gauge,
    /// 1 while the server is above its upper threshold (`-x`) and not yet below the lower (`-y`).
    pub overloaded: Gauge,
}
