//! Counters with one writer.
//!
//! A worker adds with a relaxed load and store (two plain moves, no locked instruction); control reads
//! whenever it likes. One server's figures on one worker share a cache line, so that an established packet
//! touches one line of counters. A service's figures are the sum over its servers.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use super::session::Direction;

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

impl ServerCounters {
    /// One more packet, of so many bytes; only the owning worker may call this.
    #[inline(always)]
    pub fn count(&self, direction: Direction, bytes: u16) {
        let (packets, of) = match direction {
            Direction::Request => (&self.in_packets, &self.in_bytes),
            Direction::Reply => (&self.out_packets, &self.out_bytes),
        };
        packets.add(1);
        of.add(u64::from(bytes));
    }
}

/// The other workers' session counts of one server, written by control every 10 ms for the schedulers of
/// one worker that weigh connections; zero with one worker.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct OtherWorkers {
    /// Active sessions on the other workers.
    pub active: Gauge,
    /// Inactive sessions on the other workers.
    pub inactive: Gauge,
    /// Upper threshold (`-x`), 0 = none.
    pub upper: Gauge,
    /// Lower threshold (`-y`), 0 = three quarters of the upper one.
    pub lower: Gauge,
    /// 1 while the server is at its upper threshold or was, and not yet below the lower. Written by the
    /// worker: see [`ServerSlot::recount`].
    pub overloaded: Gauge,
    /// The tunnel to the server, packed as the path does it; written by control.
    pub tunnel: Gauge,
}

/// What a worker keeps of a server.
#[derive(Clone, Debug)]
pub struct ServerSlot {
    /// Its own figures.
    pub counters: Arc<ServerCounters>,
    /// The other workers', and the thresholds.
    pub others: Arc<OtherWorkers>,
}

impl ServerSlot {
    /// Sees whether the server is overloaded after a session came (`opened`) or went, as IPVS's
    /// `ip_vs_bind_dest` and `ip_vs_unbind_dest` do.
    #[inline]
    pub fn recount(&self, opened: bool) {
        let (upper, lower) = (self.others.upper.get(), self.others.lower.get());
        if upper == 0 && lower == 0 && self.others.overloaded.get() == 0 {
            return;
        }
        let (c, o) = (&self.counters, &self.others);
        let sessions =
            [&c.active, &c.inactive, &o.active, &o.inactive].iter().map(|g| u64::from(g.get())).sum::<u64>();
        if opened {
            if upper != 0 && sessions >= u64::from(upper) {
                o.overloaded.set(1);
            }
        } else if lower != 0 {
            if sessions < u64::from(lower) {
                o.overloaded.set(0);
            }
        } else if upper == 0 || sessions * 4 < u64::from(upper) * 3 {
            o.overloaded.set(0);
        }
    }
}
