//! Lists all sessions: `weirctl -Lc`.

use weir_api::{
    model::{EngineData, Session},
    protocol::{MAX_PAGE, Refusal, Response, SessionCursor},
};

use super::{Configuration, Query, WorkerQuestion, pages::Walk, put};
use crate::{
    control::{
        error::PlaneError,
        workers::{Ask, Workers},
    },
    path::admin::update::{Listing, Update},
};

/// A page of sessions. Sessions that come and go meanwhile may be missed or listed once; the others are listed exactly
/// once, from the first page to the last.
pub(super) struct ListSessions {
    from: SessionCursor,
    max: usize,
    /// Whether sessions may have Call-IDs.
    calls: bool,
}

/// Sessions and where to go on; none: that was all.
type Page = (Vec<Session>, Option<SessionCursor>);

impl Query for ListSessions {
    type Request = (Option<SessionCursor>, u32);
    type Answer = Page;

    fn prepare((from, max): Self::Request, held: &mut dyn Configuration) -> Result<Self, Refusal> {
        let calls = held.plane().workers().is_ok_and(Workers::has_call_ids);
        Ok(Self { from: from.unwrap_or_default(), max: max.clamp(1, MAX_PAGE) as usize, calls })
    }

    fn ask(&mut self, workers: &dyn Ask) -> Result<Page, PlaneError> {
        let mut walk = Walk::new(0..workers.workers(), self.from);
        let mut sessions = Vec::new();
        while let Some(at) = walk.at().filter(|_| sessions.len() < self.max) {
            match self.page(workers, at, self.max - sessions.len()) {
                Ok(page) => {
                    sessions.extend(page.sessions);
                    walk.turn(page.next);
                }
                // First what was found; the next request gets the error.
                Err(_) if !sessions.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok((sessions, walk.at()))
    }

    fn respond(
        self,
        answer: Result<Page, PlaneError>,
        _: &mut dyn Configuration,
    ) -> Result<Response, PlaneError> {
        answer.map(|(sessions, next)| Response::Sessions { sessions, next })
    }
}

impl ListSessions {
    /// Sessions in one worker's records.
    fn page(&self, workers: &dyn Ask, at: SessionCursor, max: usize) -> Result<Listing, PlaneError> {
        let calls = Vec::with_capacity(if self.calls { max } else { 0 });
        let listing = Listing { from: at.slot, sessions: Vec::with_capacity(max), calls, next: None };
        let mut page = put(workers, at.worker, listing)?;
        for (n, call) in page.calls.drain(..) {
            if let Some(session) = page.sessions.get_mut(n as usize) {
                let data = String::from_utf8_lossy(call.as_bytes()).into_owned();
                session.engine = Some(EngineData { name: "sip".into(), data });
            }
        }
        Ok(page)
    }
}

impl WorkerQuestion for Listing {
    fn update(self) -> Update {
        Update::List(self)
    }

    fn answered(update: Update) -> Option<Self> {
        match update {
            Update::List(listing) => Some(listing),
            _ => None,
        }
    }
}
