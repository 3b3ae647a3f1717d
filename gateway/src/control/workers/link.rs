//! Control's end of the rings to one worker.
//!
//! The rings have their own lock, so that a thread that waits for a worker's answer holds nothing else; it is held
//! only while a ring is emptied.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    io::PortId,
    path::{ControlEnd, admin::update::Batch, flow::route::Resolve, verdict::PathCounters},
    table::pool::{LocalPool, PoolError, PoolUsage},
};

/// Batches a ring holds; what doesn't fit waits on control's side.
const RING: usize = 256;

/// Makes a pool.
pub type MakePool = Box<dyn FnOnce() -> Result<LocalPool<Ipv6Addr>, PoolError> + Send>;

/// Control's end of the rings to one worker.
pub struct WorkerLink {
    rings: Arc<Mutex<UpdateRings>>,
    /// Devices of which the worker gets another share and gives the one that it had back.
    pub(super) exchanges: Vec<(PortId, Ticket)>,
    resolve: rtrb::Consumer<Resolve>,
    /// The worker's counters.
    pub counters: Arc<PathCounters>,
    /// Its tables, as far as control knows of them.
    pub tables: WorkerTables,
    /// Makes its pool of local ports of IPv6 addresses, when there is a first one.
    pub make_pool_v6: Option<MakePool>,
}

/// What control knows of a worker's tables.
#[derive(Clone, Debug, Default)]
pub struct WorkerTables {
    /// Sessions it has room for; 0 if not known.
    pub max_sessions: u32,
    /// Use of its share of the local ports.
    pub pool: Option<Arc<PoolUsage<Ipv4Addr>>>,
    /// The same for IPv6, once there has been such a local address.
    pub pool_v6: Option<Arc<PoolUsage<Ipv6Addr>>>,
    /// Ports that a local address has towards each server, for all workers together.
    pub ports: u32,
}

/// Names a batch whose return somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::control) struct Ticket(u64);

/// Updates on their way to a worker and back. A worker gives batches back in the order in which it got them.
pub(in crate::control) struct UpdateRings {
    updates: rtrb::Producer<Batch>,
    retired: rtrb::Consumer<Batch>,
    /// Batches that had no room.
    backlog: VecDeque<(Ticket, Batch)>,
    /// Batches that the worker has, the oldest first.
    sent: VecDeque<Ticket>,
    /// The last batch's.
    last: Ticket,
    /// Batches whose return somebody waits for.
    awaited: HashSet<Ticket>,
    /// Those among them that are back and nobody has taken yet.
    back: HashMap<Ticket, Batch>,
}

/// The rings between control and a worker with these counters: both ends.
#[must_use]
pub fn connect(counters: Arc<PathCounters>) -> (WorkerLink, ControlEnd) {
    let (updates, worker_updates) = rtrb::RingBuffer::new(RING);
    let (worker_retired, retired) = rtrb::RingBuffer::new(RING);
    let (worker_resolve, resolve) = rtrb::RingBuffer::new(RING);
    let rings = UpdateRings {
        updates,
        retired,
        backlog: VecDeque::new(),
        sent: VecDeque::new(),
        last: Ticket(0),
        awaited: HashSet::new(),
        back: HashMap::new(),
    };
    let link = WorkerLink {
        rings: Arc::new(Mutex::new(rings)),
        exchanges: Vec::new(),
        resolve,
        counters,
        tables: WorkerTables::default(),
        make_pool_v6: None,
    };
    let end = ControlEnd { updates: worker_updates, retired: worker_retired, resolve: worker_resolve };
    (link, end)
}

impl WorkerLink {
    /// The rings, for threads that wait for answers.
    pub(in crate::control) fn rings(&self) -> Arc<Mutex<UpdateRings>> {
        Arc::clone(&self.rings)
    }

    /// Sends a batch, now or as soon as there is room.
    pub(in crate::control) fn send(&self, batch: Batch) {
        if !batch.is_empty() {
            self.rings.lock().send(batch);
        }
    }

    /// Drops what the worker gave back and sends what had no room.
    pub(in crate::control) fn service(&self) {
        // Dropped when the rings are free again: it may be a whole table.
        let back = self.rings.lock().turn();
        drop(back);
    }

    /// Sends a batch that is wanted back: [`Self::take`] gives it, answered or with what it replaced.
    pub(in crate::control) fn ask(&self, batch: Batch) -> Ticket {
        self.rings.lock().ask(batch)
    }

    /// The batch with this ticket, once it is back.
    pub(in crate::control) fn take(&self, ticket: Ticket) -> Option<Batch> {
        self.rings.lock().take(ticket)
    }

    /// Whether the batch with this ticket is back and nobody has taken it.
    pub(super) fn is_back(&self, ticket: Ticket) -> bool {
        self.rings.lock().back.contains_key(&ticket)
    }

    /// The neighbours that the worker wishes to be resolved.
    pub(in crate::control) fn wishes(&mut self) -> impl Iterator<Item = Resolve> {
        std::iter::from_fn(|| self.resolve.pop().ok())
    }
}

impl UpdateRings {
    fn send(&mut self, batch: Batch) -> Ticket {
        self.last = Ticket(self.last.0 + 1);
        self.backlog.push_back((self.last, batch));
        self.push_backlog();
        self.last
    }

    /// Sends a batch that is kept when it comes back, until it is taken.
    pub fn ask(&mut self, batch: Batch) -> Ticket {
        let ticket = self.send(batch);
        self.awaited.insert(ticket);
        ticket
    }

    /// Moves both rings on. What the worker gave back and nobody waits for is the caller's to drop.
    #[must_use]
    pub fn turn(&mut self) -> Vec<Batch> {
        let mut back = Vec::new();
        while let Ok(batch) = self.retired.pop() {
            match self.sent.pop_front().filter(|ticket| self.awaited.contains(ticket)) {
                Some(ticket) => drop(self.back.insert(ticket, batch)),
                None => back.push(batch),
            }
        }
        self.push_backlog();
        back
    }

    /// The batch with this ticket, if it is back.
    pub fn take(&mut self, ticket: Ticket) -> Option<Batch> {
        let batch = self.back.remove(&ticket)?;
        self.awaited.remove(&ticket);
        Some(batch)
    }

    /// Waits for this batch no longer, and takes it back if the worker hasn't got it yet.
    pub fn forget(&mut self, ticket: Ticket) {
        self.awaited.remove(&ticket);
        self.back.remove(&ticket);
        self.backlog.retain(|(waiting, _)| *waiting != ticket);
    }

    /// Whether the worker has ended.
    pub fn is_abandoned(&self) -> bool {
        self.updates.is_abandoned()
    }

    fn push_backlog(&mut self) {
        while let Some((ticket, batch)) = self.backlog.pop_front() {
            if let Err(rtrb::PushError::Full(batch)) = self.updates.push(batch) {
                self.backlog.push_front((ticket, batch));
                return;
            }
            self.sent.push_back(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{ServiceId, SlotId},
        path::admin::update::Update,
    };

    fn available(n: u32) -> Batch {
        vec![Update::Available(SlotId(n), true)]
    }

    fn number(batch: &Batch) -> Option<u32> {
        match batch.as_slice() {
            [Update::Available(id, _)] => Some(id.0),
            _ => None,
        }
    }

    #[test]
    fn each_batch_returns_to_its_sender() {
        let (link, mut worker) = connect(Arc::new(PathCounters::new().unwrap()));
        link.send(vec![Update::Service(ServiceId(0), None)]);
        let first = link.ask(available(1));
        link.send(vec![Update::Trace(None)]);
        let second = link.ask(available(2));
        assert!(link.take(second).is_none());
        while let Ok(batch) = worker.updates.pop() {
            worker.retired.push(batch).unwrap();
        }
        // The first to look finds both, and drops neither.
        link.service();
        assert!(link.is_back(first));
        assert_eq!(link.take(second).as_ref().and_then(number), Some(2));
        assert_eq!(link.take(first).as_ref().and_then(number), Some(1));
        assert!(link.take(first).is_none() && !link.is_back(first));
    }

    #[test]
    fn an_abandoned_question_is_withdrawn() {
        let (link, mut worker) = connect(Arc::new(PathCounters::new().unwrap()));
        let rings = link.rings();
        for _ in 0..RING {
            link.send(vec![Update::Trace(None)]);
        }
        let seventh = link.ask(available(7));
        let eighth = link.ask(available(8));
        rings.lock().forget(seventh);
        for _ in 0..RING {
            worker.retired.push(worker.updates.pop().unwrap()).unwrap();
        }
        link.service();
        // The one behind it is still known.
        worker.retired.push(worker.updates.pop().unwrap()).unwrap();
        assert!(worker.updates.is_empty());
        link.service();
        assert_eq!(link.take(eighth).as_ref().and_then(number), Some(8));
        // An answer that comes late is dropped.
        let ninth = link.ask(available(9));
        rings.lock().forget(ninth);
        worker.retired.push(worker.updates.pop().unwrap()).unwrap();
        link.service();
        assert!(rings.lock().back.is_empty());
    }
}
