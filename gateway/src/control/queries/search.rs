//! Finds sessions with their times, or ends them: `weirctl sessions`.

use weir_api::{
    model::{FoundSession, SessionFilter},
    protocol::{MAX_PAGE, Refusal, Response, SessionCursor},
};

use super::{Configuration, Query, WorkerQuestion, pages::Walk, put};
use crate::{
    control::{
        error::{Gone, PlaneError},
        workers::Ask,
    },
    path::admin::{
        search::{Search, Selection},
        update::Update,
    },
};

/// Requests to workers that one search makes at most: a bounded time for an answer.
const STEPS: usize = 16;

/// What was found so far.
#[derive(Default)]
pub(super) struct SearchPage {
    /// The sessions; none if they were to be ended.
    sessions: Vec<FoundSession>,
    /// Sessions ended.
    killed: u32,
    /// Where to go on; none: that was all.
    next: Option<SessionCursor>,
}

/// Finds up to `max` sessions; a bounded number is looked at, so there may be none before the end.
pub(super) struct FindSessions(Select);

/// Ends sessions, as many as are found at once.
pub(super) struct KillSessions(Select);

struct Select {
    selection: Selection,
    from: SessionCursor,
    max: usize,
}

impl Query for FindSessions {
    type Request = (SessionFilter, Option<SessionCursor>, u32);
    type Answer = SearchPage;

    fn prepare((filter, from, max): Self::Request, held: &mut dyn Configuration) -> Result<Self, Refusal> {
        let selection = selection(filter, false, held)?;
        let max = max.clamp(1, MAX_PAGE) as usize;
        Ok(Self(Select { selection, from: from.unwrap_or_default(), max }))
    }

    fn ask(&mut self, workers: &dyn Ask) -> Result<SearchPage, PlaneError> {
        self.0.search(workers)
    }

    fn respond(
        self,
        answer: Result<SearchPage, PlaneError>,
        _: &mut dyn Configuration,
    ) -> Result<Response, PlaneError> {
        answer.map(|SearchPage { sessions, next, .. }| Response::Found { sessions, next })
    }
}

impl Query for KillSessions {
    type Request = (SessionFilter, Option<SessionCursor>);
    type Answer = SearchPage;

    fn prepare((filter, from): Self::Request, held: &mut dyn Configuration) -> Result<Self, Refusal> {
        let selection = selection(filter, true, held)?;
        Ok(Self(Select { selection, from: from.unwrap_or_default(), max: 1 }))
    }

    fn ask(&mut self, workers: &dyn Ask) -> Result<SearchPage, PlaneError> {
        self.0.search(workers)
    }

    fn respond(
        self,
        answer: Result<SearchPage, PlaneError>,
        _: &mut dyn Configuration,
    ) -> Result<Response, PlaneError> {
        answer.map(|SearchPage { killed, next, .. }| Response::Killed { sessions: killed, next })
    }
}

/// What workers are to look for.
fn selection(filter: SessionFilter, kill: bool, held: &dyn Configuration) -> Result<Selection, Refusal> {
    let servers = filter.service.as_ref().map(|service| held.servers_of(service)).transpose()?;
    Ok(Selection { filter, servers, kill })
}

impl Select {
    fn search(&self, workers: &dyn Ask) -> Result<SearchPage, PlaneError> {
        let all = workers.workers();
        let wanted = match self.selection.filter.worker {
            Some(worker) if worker < all => worker..worker + 1,
            Some(worker) => return Err(Gone::NoWorker { worker, last: all.saturating_sub(1) }.into()),
            None => 0..all,
        };
        let mut walk = Walk::new(wanted, self.from);
        let mut found = SearchPage::default();
        for _ in 0..STEPS {
            let Some(at) = walk.at().filter(|_| found.sessions.len() < self.max) else { break };
            match self.page(workers, at, self.max - found.sessions.len()) {
                Ok(page) => {
                    found.killed += page.killed;
                    found.sessions.extend(page.sessions);
                    walk.turn(page.next);
                }
                // First what was found; the next request gets the error.
                Err(_) if found.killed > 0 || !found.sessions.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        found.next = walk.at();
        Ok(found)
    }

    /// Certain sessions in one worker's records.
    fn page(&self, workers: &dyn Ask, at: SessionCursor, max: usize) -> Result<Search, PlaneError> {
        let (selection, sessions) = (self.selection.clone(), Vec::with_capacity(max.max(1)));
        let search = Search { selection, from: at.slot, sessions, killed: 0, next: None };
        put(workers, at.worker, search)
    }
}

impl WorkerQuestion for Search {
    fn update(self) -> Update {
        Update::Select(self)
    }

    fn answered(update: Update) -> Option<Self> {
        match update {
            Update::Select(search) => Some(search),
            _ => None,
        }
    }
}
