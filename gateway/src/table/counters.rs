//! Counters with one writer.
//!
//! A worker adds with a relaxed load and store (two plain moves, no locked instruction); control reads at any time. One
//! server's counters (or one SNAT rule's) on one worker share a cache line, so that an established packet touches one line of counters. A
//! service's counters are the sum over its servers.
//!
//! A worker's lines form a table, indexed by the slot's number, on huge pages: even with 100 000 servers a packet
//! finds its line from the session's record alone, and can prefetch it.

use std::{
    io,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use cpu::{HugeTable, zeroed_table};
use zerocopy::FromZeros;

use super::{limit::Limit, path_mtu::PathMtu, session::Direction};
use crate::id::SlotId;

/// A 64-bit counter with one writing thread.
#[derive(Debug, Default, FromZeros)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    /// The current value.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A gauge with one writing thread.
#[derive(Debug, Default, FromZeros)]
pub struct Gauge(AtomicU32);

impl Gauge {
    /// Increments the gauge; only the owning worker may call this.
    #[inline]
    pub fn inc(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_add(1), Relaxed);
    }
    /// Decrements the gauge; only the owning worker may call this.
    #[inline]
    pub fn dec(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(1), Relaxed);
    }
    /// Sets the gauge if its value differs; only the owning thread may call this.
    #[inline]
    pub fn renew(&self, n: u32) {
        if self.get() != n {
            self.set(n);
        }
    }
    /// Sets the gauge; only the owning thread may call this.
    #[inline]
    pub fn set(&self, n: u32) {
        self.0.store(n, Relaxed);
    }
    /// Sets some bits; any thread may call this.
    pub fn raise(&self, bits: u32) {
        self.0.fetch_or(bits, Relaxed);
    }
    /// Clears some bits; any thread may call this.
    pub fn lower(&self, bits: u32) {
        self.0.fetch_and(!bits, Relaxed);
    }
    /// The current value.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

/// One server's counters on one worker: one cache line. Bytes are IP total lengths.
#[derive(Debug, Default, FromZeros)]
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
    /// Resets all counters for another server. No worker knows the previous server any more.
    pub fn reset(&self) {
        [&self.active, &self.inactive, &self.persistent, &self.available]
            .iter()
            .for_each(|gauge| gauge.set(0));
        let counters =
            [&self.connections, &self.in_packets, &self.in_bytes, &self.out_packets, &self.out_bytes];
        counters.iter().for_each(|counter| counter.0.store(0, Relaxed));
    }

    /// Counts a packet of this many bytes; only the owning worker may call this.
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

/// One worker's counters of all servers, indexed by server number. It is aligned to a cache line of its own, away from
/// the reference count: control changes the count with every server, and the worker reads this with every packet.
#[derive(Debug)]
#[repr(align(64))]
pub struct ServerTable(HugeTable<ServerCounters>);

impl ServerTable {
    /// Counters at zero for this many servers, rounded up to a power of two. Memory is only taken when used.
    ///
    /// # Errors
    /// The system's, if there is no room to map.
    pub fn new(servers: usize) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self(zeroed_table(servers)?)))
    }

    /// The counters of a slot.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, id: SlotId) -> Option<&ServerCounters> {
        self.0.get(id.0 as usize)
    }

    /// The counters of a session's slot. The number must be within the table: any other leads to another slot's
    /// counters.
    #[inline(always)]
    #[must_use]
    pub fn of_session(&self, id: SlotId) -> &ServerCounters {
        self.0.at(id.0 as usize)
    }

    /// Prefetches a slot's counters.
    #[inline(always)]
    pub fn prefetch(&self, id: SlotId) {
        cpu::prefetch(self.of_session(id));
    }
}

/// A reference to one server's counters in a worker's table, for reading or writing them.
#[derive(Clone, Debug)]
pub struct ServerCountersRef {
    table: Arc<ServerTable>,
    /// Index in the table.
    at: usize,
}

impl ServerCountersRef {
    /// The counters of a slot; none if its number is beyond the table.
    #[must_use]
    pub fn of(table: &Arc<ServerTable>, id: SlotId) -> Option<Self> {
        table.get(id).map(|_| Self { table: Arc::clone(table), at: id.0 as usize })
    }

    /// Counters of a server that isn't in any worker's table.
    ///
    /// # Errors
    /// See [`ServerTable::new`].
    pub fn alone() -> io::Result<Self> {
        Ok(Self { table: ServerTable::new(1)?, at: 0 })
    }
}

impl Deref for ServerCountersRef {
    type Target = ServerCounters;

    #[inline(always)]
    fn deref(&self) -> &ServerCounters {
        self.table.0.at(self.at)
    }
}

/// The other workers' session counts of one server, for the schedulers of one worker that weigh connections. Control
/// writes them every 10 ms; they are zero with one worker.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct OtherWorkers {
    /// Active sessions on the other workers.
    pub active: Gauge,
    /// Inactive sessions on the other workers.
    pub inactive: Gauge,
    /// The tunnel to the server, packed by the path. Control writes it; workers set a mark in it.
    pub tunnel: Gauge,
    /// 1 while the server's weight is 0; written by control.
    pub quiesced: Gauge,
    /// The path MTU of the tunnel; written by any worker that learns of it.
    pub path: PathMtu,
}

/// A worker's view of a server.
#[derive(Clone, Debug)]
pub struct ServerSlot {
    /// Its own counters.
    pub counters: ServerCountersRef,
    /// The other workers' counts.
    pub others: Arc<OtherWorkers>,
    /// The server's threshold, if it has one; shared by all workers.
    pub limit: Option<Arc<Limit>>,
    /// The worker's own sessions, as the threshold counts them until the worker has joined.
    pub expected: u32,
}

impl ServerSlot {
    /// Counts the worker's own sessions towards the threshold from now on, unless `before` already did.
    pub fn join(&self, before: Option<&Self>) {
        let Some(limit) = &self.limit else { return };
        let known = before.and_then(|slot| slot.limit.as_ref());
        if known.is_none_or(|known| !Arc::ptr_eq(known, limit)) {
            limit.join(self.expected, self.counters.active.get().wrapping_add(self.counters.inactive.get()));
        }
    }

    /// Gives back the place of a session under the threshold: it has ended, or wasn't opened.
    #[inline]
    pub fn release(&self) {
        if let Some(limit) = &self.limit {
            limit.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_in_the_table_and_can_be_reset() {
        let table = ServerTable::new(4).unwrap();
        let held = ServerCountersRef::of(&table, SlotId(2)).unwrap();
        held.active.inc();
        held.count(Direction::Reply, 60);
        let counters = table.get(SlotId(2)).unwrap();
        assert_eq!((counters.active.get(), counters.out_packets.get(), counters.out_bytes.get()), (1, 1, 60));
        assert_eq!(table.get(SlotId(1)).unwrap().active.get(), 0);
        counters.reset();
        assert_eq!((held.active.get(), held.out_bytes.get()), (0, 0));
        assert!(table.get(SlotId(4)).is_none() && ServerCountersRef::of(&table, SlotId(4)).is_none());
    }
}
