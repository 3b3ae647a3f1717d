//! Requests that only workers can answer, in three steps, so that the store isn't locked while they think:
//!
//! ```text
//!  Store::begin  --Asks-->  Inquiry::ask  --Told-->  Store::finish  -->  Response
//! ```

use std::sync::Arc;

use weir_api::protocol::{Refusal, Response, SessionCursor};

use super::Store;
use crate::{
    control::plane::{Ask, Explained, Plane, PlaneError, Selection},
    path::admin::{explain::question::Packet, trace::Tracer},
};

/// How a request goes on.
pub enum Step {
    /// It is answered.
    Answered(Response),
    /// Workers have to be asked.
    Asks(Inquiry),
}

/// A question to workers, to be asked while nothing is locked.
pub struct Inquiry {
    pub(super) asker: Arc<dyn Ask>,
    pub(super) what: What,
}

/// What is asked.
pub(super) enum What {
    /// A page of sessions.
    Sessions { from: SessionCursor, max: usize },
    /// A page of certain sessions.
    Find { selection: Selection, from: SessionCursor, max: usize },
    /// Certain sessions are to end.
    Kill { selection: Selection, from: SessionCursor },
    /// What would happen to a packet?
    Explain(Packet),
    /// Follow packets.
    Follow { trace: u64, tracers: Vec<Tracer> },
}

/// What workers said; [`Store::finish`] makes a response of it.
pub struct Told(Said);

enum Said {
    Response(Response),
    Explained(Explained),
    Follow { trace: u64, done: Result<(), PlaneError> },
}

impl Inquiry {
    /// Waits for the workers' answers.
    #[must_use]
    pub fn ask(self) -> Told {
        let asker = &*self.asker;
        let said = match self.what {
            What::Sessions { from, max } => {
                let page = asker.sessions(from, max);
                page.map(|(sessions, next)| Said::Response(Response::Sessions { sessions, next }))
            }
            What::Find { selection, from, max } => asker
                .select(&selection, from, max)
                .map(|found| Said::Response(Response::Found { sessions: found.sessions, next: found.next })),
            What::Kill { selection, from } => asker
                .select(&selection, from, 1)
                .map(|found| Said::Response(Response::Killed { sessions: found.killed, next: found.next })),
            What::Explain(packet) => asker.explain(packet).map(Said::Explained),
            What::Follow { trace, tracers } => Ok(Said::Follow { trace, done: asker.follow(tracers) }),
        };
        Told(said.unwrap_or_else(|error| Said::Response(refused(error))))
    }
}

impl<P: Plane> Store<P> {
    /// The response to the request that `told` comes of.
    pub fn finish(&mut self, told: Told) -> Response {
        match told.0 {
            Said::Response(response) => response,
            Said::Explained(answer) => match self.plane.explained(answer) {
                Ok(explanation) => Response::Explained(Box::new(explanation)),
                Err(error) => refused(error),
            },
            Said::Follow { trace, done } => {
                self.plane.trace_begun(trace, done.is_ok());
                done.map_or_else(refused, |()| Response::Tracing { trace })
            }
        }
    }

    /// A question to the workers.
    pub(super) fn inquire(&self, what: What) -> Step {
        Step::Asks(Inquiry { asker: self.plane.asker(), what })
    }
}

/// The response to a request that the plane can't answer.
pub(super) fn refused(error: PlaneError) -> Response {
    Response::Refused(Refusal::from(error))
}
