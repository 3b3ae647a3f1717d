//! Questions that only workers can answer, each with a time limit.
//!
//! Nothing is locked while waiting for an answer: a worker that hangs must block neither the configuration nor the
//! other workers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::link::{Ticket, UpdateRings, WorkerLink};
use crate::{
    control::error::{Gone, PlaneError, Unsupported},
    path::admin::update::{Batch, Update},
};

/// How long a worker may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is done while a worker's answer is awaited: sleep a little, or, in virtual time, run the worker.
pub type Wait = Box<dyn Fn() + Send + Sync>;

/// Whom to ask what only workers know. They are asked without a hold on the plane, because one may take its time, or
/// hang. The questions are in [`queries`](crate::control::queries).
pub trait Ask: Send + Sync {
    /// How many workers there are.
    fn workers(&self) -> u16;

    /// Gives a worker a question and waits until it comes back answered.
    ///
    /// # Errors
    /// The worker doesn't answer, or there is none of this number.
    fn ask(&self, worker: u16, question: Update) -> Result<Update, PlaneError>;

    /// Gives each worker an update, the first one the first, and waits until all have taken theirs.
    ///
    /// # Errors
    /// A worker doesn't answer; others may have taken theirs.
    fn tell(&self, each: Vec<Update>) -> Result<(), PlaneError>;
}

/// Those of a plane that only knows a configuration.
pub(in crate::control) struct Nobody;

impl Ask for Nobody {
    fn workers(&self) -> u16 {
        0
    }

    fn ask(&self, _: u16, _: Update) -> Result<Update, PlaneError> {
        Err(Unsupported::NoPackets.into())
    }

    fn tell(&self, _: Vec<Update>) -> Result<(), PlaneError> {
        Err(Unsupported::NoPackets.into())
    }
}

/// Asks the workers.
pub(super) struct Asker {
    rings: Vec<Arc<Mutex<UpdateRings>>>,
    wait: Wait,
    patience: Duration,
}

impl Asker {
    /// Asks the workers behind `links`.
    pub fn new(links: &[WorkerLink], wait: Wait) -> Self {
        Self { rings: links.iter().map(WorkerLink::rings).collect(), wait, patience: PATIENCE }
    }

    /// Gives workers another time to answer in.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    fn rings(&self, worker: u16) -> Result<&Mutex<UpdateRings>, PlaneError> {
        let rings = self.rings.get(usize::from(worker)).map(AsRef::as_ref);
        rings.ok_or(Gone::NoWorker { worker, last: self.workers().saturating_sub(1) }.into())
    }

    fn answer(&self, worker: u16, ticket: Ticket, asked: Instant) -> Result<Batch, PlaneError> {
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
                    Gone::Worker(worker).into()
                } else {
                    PlaneError::TimedOut { worker, patience: self.patience }
                };
                tracing::error!("{error}");
                return Err(error);
            }
        }
    }
}

impl Ask for Asker {
    fn workers(&self) -> u16 {
        u16::try_from(self.rings.len()).unwrap_or(u16::MAX)
    }

    fn ask(&self, worker: u16, question: Update) -> Result<Update, PlaneError> {
        let ticket = self.rings(worker)?.lock().ask(vec![question]);
        let mut answer = self.answer(worker, ticket, Instant::now())?;
        answer.pop().ok_or_else(|| Unsupported::OtherAnswer(worker).into())
    }

    fn tell(&self, each: Vec<Update>) -> Result<(), PlaneError> {
        let asked = Instant::now();
        let mut tickets = Vec::with_capacity(each.len());
        for (worker, update) in (0..).zip(each) {
            tickets.push((worker, self.rings(worker)?.lock().ask(vec![update])));
        }
        // Waits for all, so that no answer is left behind; returns the first error.
        let answers = tickets.into_iter().map(|(worker, ticket)| self.answer(worker, ticket, asked));
        let answers: Vec<_> = answers.collect();
        answers.into_iter().try_for_each(|answer| answer.map(drop))
    }
}
