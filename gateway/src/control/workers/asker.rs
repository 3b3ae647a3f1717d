//! Questions that only workers can answer, with a limit to how long one may take.
//!
//! Nothing is locked while an answer is awaited: a worker that hangs must keep nobody from the configuration, nor from
//! the other workers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use weir_api::{
    model::{EngineData, explain::MAX_EXPLAINED},
    protocol::SessionCursor,
};

use super::link::{Rings, WorkerLink};
use crate::{
    control::{
        error::{Gone, PlaneError, Unsupported},
        plane::{Ask, Explained, Selected, Selection, SessionPage},
    },
    id::WorkerId,
    path::admin::{
        explain::question::{At, Explain, Packet},
        search::Search,
        trace::Tracer,
        update::{Batch, Listing, Update},
    },
};

/// How long a worker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests to workers that one search makes at most: a bounded time for an answer.
const SEARCH_STEPS: usize = 16;

/// What is done while a worker's answer is awaited: sleep a little, or, in virtual time, run the worker.
pub type Wait = Box<dyn Fn() + Send + Sync>;

/// Asks the workers.
pub(super) struct Asker {
    rings: Vec<Arc<Mutex<Rings>>>,
    wait: Wait,
    tickets: AtomicU64,
    /// Whether sessions may have Call-IDs.
    by_call: AtomicBool,
    patience: Duration,
}

impl Asker {
    /// Asks the workers behind `links`.
    pub fn new(links: &[WorkerLink], wait: Wait) -> Self {
        Self {
            rings: links.iter().map(WorkerLink::rings).collect(),
            wait,
            tickets: AtomicU64::new(0),
            by_call: AtomicBool::new(false),
            patience: PATIENCE,
        }
    }

    /// Gives workers another time to answer in.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// From now on sessions may have Call-IDs.
    pub fn expect_calls(&self) {
        self.by_call.store(true, Relaxed);
    }

    /// A number that no other question has.
    pub fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Relaxed) + 1
    }

    fn rings(&self, worker: usize) -> Result<&Mutex<Rings>, PlaneError> {
        let rings = self.rings.get(worker).map(AsRef::as_ref);
        let last = self.rings.len().max(1) - 1;
        rings.ok_or(Gone::NoWorker { worker: worker as u16, last: last as u16 }.into())
    }

    /// Sends one worker questions and waits for the answer to the one with this ticket.
    fn ask(&self, worker: usize, ticket: u64, questions: Batch) -> Result<Update, PlaneError> {
        self.rings(worker)?.lock().ask(ticket, questions);
        self.answer(worker, ticket, Instant::now())
    }

    fn answer(&self, worker: usize, ticket: u64, asked: Instant) -> Result<Update, PlaneError> {
        let rings = self.rings(worker)?;
        loop {
            (self.wait)();
            let late = asked.elapsed() >= self.patience;
            let (answer, ended, back) = {
                let mut rings = rings.lock();
                let ended = rings.is_abandoned();
                let back = rings.turn();
                (rings.take(ticket), ended, back)
            };
            drop(back);
            if let Some(answer) = answer {
                return Ok(answer);
            }
            if ended || late {
                rings.lock().forget(ticket);
                let error = if ended {
                    Gone::Worker(worker as u16).into()
                } else {
                    PlaneError::TimedOut { worker: worker as u16, patience: self.patience }
                };
                tracing::error!("{error}");
                return Err(error);
            }
        }
    }

    /// Sessions in one worker's records from `from` on.
    fn list(&self, worker: usize, from: u32, max: usize) -> Result<Listing, PlaneError> {
        let ticket = self.ticket();
        let calls = Vec::with_capacity(if self.by_call.load(Relaxed) { max } else { 0 });
        let listing = Listing { ticket, from, sessions: Vec::with_capacity(max), calls, next: None };
        let Update::List(mut page) = self.ask(worker, ticket, vec![Update::List(listing)])? else {
            return Err(Unsupported::OtherAnswer(worker as u16).into());
        };
        for (at, call) in page.calls.drain(..) {
            if let Some(session) = page.sessions.get_mut(at as usize) {
                let data = String::from_utf8_lossy(call.as_bytes()).into_owned();
                session.engine = Some(EngineData { name: "sip".into(), data });
            }
        }
        Ok(page)
    }

    /// Certain sessions in one worker's records from `from` on.
    fn search(
        &self,
        worker: usize,
        selection: &Selection,
        from: u32,
        max: usize,
    ) -> Result<Search, PlaneError> {
        let ticket = self.ticket();
        let selection = selection.clone();
        let sessions = Vec::with_capacity(max.max(1));
        let search = Search { ticket, selection, from, sessions, killed: 0, next: None };
        match self.ask(worker, ticket, vec![Update::Select(search)])? {
            Update::Select(search) => Ok(search),
            _ => Err(Unsupported::OtherAnswer(worker as u16).into()),
        }
    }

    fn explain_at(&self, worker: WorkerId, question: Explain) -> Result<Box<Explain>, PlaneError> {
        let ticket = self.ticket();
        let question = Update::Explain(Box::new(question.again(ticket)));
        match self.ask(worker.0.into(), ticket, vec![question])? {
            Update::Explain(answer) => Ok(answer),
            _ => Err(Unsupported::OtherAnswer(worker.0).into()),
        }
    }
}

/// A packet is on its way to a queue, in the queue, handed over, perhaps to several owners of NAT's replies, and may turn
/// back once.
const MOST_STOPS: usize = 16;

/// Where to go on after a worker's page.
fn after(at: SessionCursor, next: Option<u32>) -> SessionCursor {
    match next {
        Some(slot) => SessionCursor { worker: at.worker, slot },
        None => SessionCursor { worker: at.worker + 1, slot: 0 },
    }
}

impl Ask for Asker {
    fn sessions(&self, from: SessionCursor, max: usize) -> Result<SessionPage, PlaneError> {
        let mut sessions = Vec::new();
        let mut at = from;
        let inside = |at: &SessionCursor| usize::from(at.worker) < self.rings.len();
        while inside(&at) && sessions.len() < max {
            let page = match self.list(at.worker.into(), at.slot, max - sessions.len()) {
                Ok(page) => page,
                // What there is first; whoever goes on is told why there is no more.
                Err(_) if !sessions.is_empty() => break,
                Err(error) => return Err(error),
            };
            sessions.extend(page.sessions);
            at = after(at, page.next);
        }
        Ok((sessions, Some(at).filter(inside)))
    }

    fn select(&self, selection: &Selection, from: SessionCursor, max: usize) -> Result<Selected, PlaneError> {
        let wanted = selection.filter.worker;
        wanted.map_or(Ok(()), |worker| self.rings(worker.into()).map(drop))?;
        let first = wanted.unwrap_or(0);
        let end = wanted.map_or(self.rings.len(), |worker| usize::from(worker) + 1);
        let inside = |at: &SessionCursor| usize::from(at.worker) < end;
        let from = if from.worker < first { SessionCursor { worker: first, slot: 0 } } else { from };
        let mut all = Selected { next: Some(from).filter(inside), ..Selected::default() };
        for _ in 0..SEARCH_STEPS {
            let Some(at) = all.next.filter(|_| all.sessions.len() < max) else { break };
            let room = max - all.sessions.len();
            let page = match self.search(at.worker.into(), selection, at.slot, room) {
                Ok(page) => page,
                Err(_) if all.killed > 0 || !all.sessions.is_empty() => break,
                Err(error) => return Err(error),
            };
            all.killed += page.killed;
            all.sessions.extend(page.sessions);
            all.next = Some(after(at, page.next)).filter(inside);
        }
        Ok(all)
    }

    fn explain(&self, packet: Packet) -> Result<Explained, PlaneError> {
        let (mut worker, mut workers) = (WorkerId(0), Vec::new());
        let mut question = Explain::new(0, packet, At::Port, MAX_EXPLAINED);
        for _ in 0..MOST_STOPS {
            let answer = self.explain_at(worker, question)?;
            let has_it = answer.elsewhere.is_none() || answer.at == At::Handed;
            if has_it && workers.last() != Some(&worker.0) {
                workers.push(worker.0);
            }
            match answer.elsewhere {
                Some(other) => (question, worker) = (*answer, other),
                None => return Ok(Explained { answer, workers }),
            }
        }
        Err(Unsupported::NoOwner.into())
    }

    fn follow(&self, tracers: Vec<Tracer>) -> Result<(), PlaneError> {
        let asked = Instant::now();
        let mut tickets = Vec::new();
        for (worker, tracer) in tracers.into_iter().enumerate() {
            let ticket = self.ticket();
            // Batches are taken whole: when this has come back, the tracer is there.
            let nothing = Listing { ticket, from: 0, sessions: Vec::new(), calls: Vec::new(), next: None };
            let batch = vec![Update::Trace(Some(Box::new(tracer))), Update::List(nothing)];
            self.rings(worker)?.lock().ask(ticket, batch);
            tickets.push(ticket);
        }
        // All are waited for, so that no answer is left behind; the first error is told.
        let each: Vec<_> = (0..).zip(tickets).map(|(n, ticket)| self.answer(n, ticket, asked)).collect();
        each.into_iter().try_for_each(|answer| answer.map(drop))
    }
}
