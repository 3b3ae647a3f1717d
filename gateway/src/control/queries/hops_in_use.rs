//! Which next hops sessions use: the kernel is to verify them, as it would those of its own connections.
//!
//! Each worker is asked every few seconds. A question goes back and forth until the worker has looked through all of its
//! sessions; answers are collected as they come, and nobody waits for them.

use crate::{
    clock::{Tick, Ticks},
    control::workers::{Ticket, WorkerLink, Workers},
    path::{
        admin::{
            hops_in_use::HopsInUse,
            update::{Batch, Update},
        },
        flow::route::Resolve,
    },
};

/// How often each worker is asked.
const PERIOD: Ticks = Ticks::seconds(5);

/// The question to each worker.
#[derive(Default)]
pub(super) struct Inquiries(Vec<HopsInquiry>);

/// The question to one worker.
#[derive(Default)]
struct HopsInquiry {
    /// The question, unless the worker has it.
    question: Option<Box<HopsInUse>>,
    /// The worker has it.
    sent: Option<Ticket>,
    /// When it was last put from the start.
    asked: Option<Tick>,
    answer: Vec<Resolve>,
}

impl HopsInquiry {
    /// Takes the question back, answered in part or whole, if the worker has had it.
    fn take_back(&mut self, link: &WorkerLink) {
        let Some(back) = self.sent.and_then(|ticket| link.take(ticket)) else { return };
        self.sent = None;
        for update in back {
            if let Update::HopsInUse(mut question) = update {
                if question.done {
                    self.answer.append(&mut question.hops);
                }
                self.question = Some(question);
            }
        }
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
        let Inquiries(each) = &mut self.kept.hops_in_use;
        each.resize_with(self.links.len(), HopsInquiry::default);
        let mut hops = Vec::new();
        for (link, inquiry) in self.links.iter().zip(each) {
            inquiry.take_back(link);
            hops.append(&mut inquiry.answer);
            if let Some(batch) = inquiry.next(now) {
                inquiry.sent = Some(link.ask(batch));
            }
        }
        hops
    }
}
