//! Which next hops sessions use: the kernel is to verify them, as it would those of its own connections.
//!
//! Each worker is asked every few seconds. A question goes back and forth until the worker has looked through all of its
//! sessions; answers are collected as they come, and nobody waits for them.

use crate::{
    clock::{Tick, seconds},
    control::workers::Workers,
    path::{
        admin::{
            hops_in_use::HopsInUse,
            update::{Batch, Update},
        },
        flow::route::Resolve,
    },
};

/// How often each worker is asked.
const PERIOD: u32 = seconds(5);

/// What is asked of one worker.
#[derive(Default)]
pub(in crate::control) struct Inquiry {
    /// The question, unless the worker has it.
    question: Option<Box<HopsInUse>>,
    /// When it was last put from the start.
    asked: Option<Tick>,
    answer: Vec<Resolve>,
}

impl Inquiry {
    /// Takes the question back, answered in part or whole.
    fn take_back(&mut self, mut question: Box<HopsInUse>) {
        if question.done {
            self.answer.append(&mut question.hops);
        }
        self.question = Some(question);
    }

    /// What is to be sent to the worker now.
    fn next(&mut self, now: Tick) -> Option<Batch> {
        let due = self.asked.is_none_or(|asked| now.since(asked) >= PERIOD);
        let question = match self.question.take() {
            Some(question) if !question.done => question,
            Some(mut question) if due => {
                self.asked = Some(now);
                question.begin();
                question
            }
            None if self.asked.is_none() => {
                self.asked = Some(now);
                HopsInUse::new()
            }
            kept => {
                self.question = kept;
                return None;
            }
        };
        Some(vec![Update::HopsInUse(question)])
    }
}

impl Workers {
    /// Next hops that sessions of the last minute go by, as far as workers have told since the last call. To be called
    /// every few milliseconds.
    pub fn hops_in_use(&mut self, now: Tick) -> Vec<Resolve> {
        let mut hops = Vec::new();
        for link in &mut self.links {
            for back in link.take_back(|update| matches!(update, Update::HopsInUse(_))) {
                if let Update::HopsInUse(question) = back {
                    link.in_use.take_back(question);
                }
            }
            hops.append(&mut link.in_use.answer);
            if let Some(batch) = link.in_use.next(now) {
                link.send(batch);
            }
        }
        hops
    }
}
