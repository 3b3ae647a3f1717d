//! Control's end of the rings to one worker.
//!
//! The rings have a lock of their own, so that whoever waits for a worker's answer holds nothing else; it is held for as
//! long as a ring takes to be emptied.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{
    control::queries::Inquiry,
    io::{Hand, PortId},
    path::{
        ControlEnd,
        admin::{
            census::Census,
            update::{Batch, Update},
        },
        flow::route::Resolve,
        verdict::PathCounters,
    },
    table::pool::{LocalPool, PoolError, PoolUsage},
};

/// Batches a ring holds; what doesn't fit waits on control's side.
const RING: usize = 256;

/// Makes a pool.
pub type MakePool = Box<dyn FnOnce() -> Result<LocalPool<Ipv6Addr>, PoolError> + Send>;

/// Control's end of the rings to one worker.
pub struct WorkerLink {
    rings: Arc<Mutex<Rings>>,
    pub(in crate::control) in_use: Inquiry,
    /// Shares of devices that the worker gave back.
    pub(in crate::control) hands: Vec<(PortId, Hand)>,
    resolve: rtrb::Consumer<Resolve>,
    /// The worker's counters.
    pub counters: Arc<PathCounters>,
    /// What kinds of sessions it has seen.
    pub(in crate::control) census: Arc<Census>,
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

/// Updates on their way to a worker and back.
pub(in crate::control) struct Rings {
    updates: rtrb::Producer<Batch>,
    retired: rtrb::Consumer<Batch>,
    backlog: VecDeque<Batch>,
    /// Tickets of questions whose answers somebody waits for.
    awaited: HashSet<u64>,
    /// Answers that have come and nobody has taken yet.
    answers: HashMap<u64, Update>,
    /// What has come back for whoever sent it.
    kept: Vec<Update>,
}

/// The rings between control and a worker with these counters: both ends.
#[must_use]
pub fn connect(counters: Arc<PathCounters>) -> (WorkerLink, ControlEnd) {
    let (updates, worker_updates) = rtrb::RingBuffer::new(RING);
    let (worker_retired, retired) = rtrb::RingBuffer::new(RING);
    let (worker_resolve, resolve) = rtrb::RingBuffer::new(RING);
    let rings = Rings {
        updates,
        retired,
        backlog: VecDeque::new(),
        awaited: HashSet::new(),
        answers: HashMap::new(),
        kept: Vec::new(),
    };
    let link = WorkerLink {
        rings: Arc::new(Mutex::new(rings)),
        in_use: Inquiry::default(),
        hands: Vec::new(),
        resolve,
        counters,
        census: Arc::default(),
        tables: WorkerTables::default(),
        make_pool_v6: None,
    };
    let end = ControlEnd { updates: worker_updates, retired: worker_retired, resolve: worker_resolve };
    (link, end)
}

impl WorkerLink {
    /// The rings, for whoever waits for answers.
    pub(in crate::control) fn rings(&self) -> Arc<Mutex<Rings>> {
        Arc::clone(&self.rings)
    }

    /// Sends a batch, now or as soon as there is room.
    pub(in crate::control) fn send(&self, batch: Batch) {
        self.rings.lock().send(batch);
    }

    /// Drops what the worker gave back and sends what had no room.
    pub(in crate::control) fn service(&self) {
        // Dropped when the rings are free again: it may be a whole table.
        let back = self.rings.lock().turn();
        drop(back);
    }

    /// What has come back for its sender, of the kind that `wanted` says.
    pub(in crate::control) fn take_back(&self, wanted: impl Fn(&Update) -> bool) -> Vec<Update> {
        let mut rings = self.rings.lock();
        let (taken, kept) = std::mem::take(&mut rings.kept).into_iter().partition(wanted);
        rings.kept = kept;
        taken
    }

    /// The neighbours that the worker wishes to be resolved.
    pub(in crate::control) fn wishes(&mut self) -> impl Iterator<Item = Resolve> {
        std::iter::from_fn(|| self.resolve.pop().ok())
    }
}

impl Rings {
    pub fn send(&mut self, batch: Batch) {
        if !batch.is_empty() {
            self.backlog.push_back(batch);
        }
        self.push_backlog();
    }

    /// Sends questions, the one with this `ticket` among them; its answer is kept until it is taken.
    pub fn ask(&mut self, ticket: u64, questions: Batch) {
        self.awaited.insert(ticket);
        self.send(questions);
    }

    /// Moves both rings on. What the worker gave back and nobody waits for is the caller's to drop.
    #[must_use]
    pub fn turn(&mut self) -> Vec<Batch> {
        let mut back = Vec::new();
        while let Ok(mut batch) = self.retired.pop() {
            // Such are sent alone.
            if batch.len() == 1 && batch.first().is_some_and(returns) {
                self.kept.append(&mut batch);
                continue;
            }
            back.push(if self.awaited.is_empty() { batch } else { self.keep_answers(batch) });
        }
        self.push_backlog();
        back
    }

    /// The answer to the question with this ticket, if it has come.
    pub fn take(&mut self, ticket: u64) -> Option<Update> {
        let answer = self.answers.remove(&ticket)?;
        self.awaited.remove(&ticket);
        Some(answer)
    }

    /// Waits for this answer no longer, and takes the question back if the worker hasn't got it yet.
    pub fn forget(&mut self, ticket: u64) {
        self.awaited.remove(&ticket);
        self.answers.remove(&ticket);
        self.backlog.retain(|batch| batch.iter().all(|update| ticket_of(update) != Some(ticket)));
    }

    /// Whether the worker has ended.
    pub fn is_abandoned(&self) -> bool {
        self.updates.is_abandoned()
    }

    /// The rest of a batch without the answers in it that somebody waits for.
    fn keep_answers(&mut self, batch: Batch) -> Batch {
        let mut rest = Batch::new();
        for update in batch {
            match ticket_of(&update).filter(|ticket| self.awaited.contains(ticket)) {
                Some(ticket) => drop(self.answers.insert(ticket, update)),
                None => rest.push(update),
            }
        }
        rest
    }

    fn push_backlog(&mut self) {
        while let Some(batch) = self.backlog.pop_front() {
            if let Err(rtrb::PushError::Full(batch)) = self.updates.push(batch) {
                self.backlog.push_front(batch);
                return;
            }
        }
    }
}

/// Whether whoever sent an update wants it back.
fn returns(update: &Update) -> bool {
    matches!(update, Update::HopsInUse(_) | Update::Device(..))
}

fn ticket_of(update: &Update) -> Option<u64> {
    match update {
        Update::List(listing) => Some(listing.ticket),
        Update::Select(search) => Some(search.ticket),
        Update::Explain(question) => Some(question.ticket),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::admin::update::Listing;

    fn question(ticket: u64) -> Update {
        Update::List(Listing { ticket, from: 0, sessions: Vec::new(), calls: Vec::new(), next: None })
    }

    #[test]
    fn each_answer_waits_for_whoever_asked() {
        let (link, mut worker) = connect(Arc::new(PathCounters::new().unwrap()));
        let rings = link.rings();
        rings.lock().ask(1, vec![question(1)]);
        rings.lock().ask(2, vec![Update::Trace(None), question(2)]);
        assert!(rings.lock().take(2).is_none());
        while let Ok(batch) = worker.updates.pop() {
            worker.retired.push(batch).unwrap();
        }
        // Whoever looks first finds both answers, and drops neither.
        link.service();
        assert!(matches!(rings.lock().take(2), Some(Update::List(listing)) if listing.ticket == 2));
        assert!(rings.lock().take(1).is_some() && rings.lock().take(1).is_none());
    }

    #[test]
    fn a_question_that_nobody_waits_for_is_taken_back() {
        let (link, mut worker) = connect(Arc::new(PathCounters::new().unwrap()));
        let rings = link.rings();
        for _ in 0..RING {
            link.send(vec![Update::Trace(None)]);
        }
        rings.lock().ask(7, vec![question(7)]);
        rings.lock().forget(7);
        while worker.updates.pop().is_ok() {}
        link.service();
        assert!(worker.updates.is_empty());
        // An answer that comes late is dropped.
        rings.lock().ask(8, vec![question(8)]);
        rings.lock().forget(8);
        worker.retired.push(worker.updates.pop().unwrap()).unwrap();
        link.service();
        assert!(rings.lock().answers.is_empty());
    }
}
