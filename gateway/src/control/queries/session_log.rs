//! Keeps the session log for those who read it, as long as somebody does: `weirctl log sessions`.
//!
//! ```text
//! worker --ring--> collect, every few ms --> kept records, by position --> page of each reader
//! ```
//!
//! Each worker gets a log with a ring to here. Whatever was recorded is kept until there is no room, so that everybody
//! who reads gets everything. A record has a position, and so has one that was lost: where positions are missing, so
//! many records were lost. Positions go on while nobody reads, by the workers' counters. Readers that have gone away
//! are noticed by their silence, and the workers' logs are taken back.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use weir_api::{
    model::{
        SessionFilter,
        session_log::{LoggedSession, SessionLogEntry, SessionLogPage, SessionMethod},
    },
    protocol::{MAX_PAGE, Refusal, Response},
};

use super::{Configuration, Query, QueryStep, asks, response};
use crate::{
    control::{
        error::{Gone, PlaneError},
        workers::{Ask, Workers},
    },
    id::SnatRuleId,
    path::admin::{
        session_log::{SessionLog, SessionRecord},
        update::Update,
    },
};

/// Records that a worker's ring holds.
const RING: usize = 8192;
/// Records that are taken from a worker's ring at a time.
const TURN: usize = 4096;
/// Records that are kept.
const KEPT: usize = 65_536;
/// Records that are looked at for a page.
const STRIDE: usize = 8192;
/// When nobody has asked for this long, nobody reads.
const SILENCE: Duration = Duration::from_secs(5);

/// Which part of the log is wanted.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub filter: SessionFilter,
    pub from: Option<u64>,
    pub max: u32,
}

/// The log, while there is one.
#[derive(Default)]
pub(super) struct SessionLogs {
    current: Option<Logging>,
}

/// A log that is kept.
struct Logging {
    /// When somebody asked last; none while the workers are being told.
    asked: Option<Instant>,
    workers: Vec<FromWorker>,
    /// Records by position.
    kept: VecDeque<(u64, Kept)>,
    /// Position of the next record.
    next: u64,
    /// Names of SNAT rules, also of those deleted since: their sessions end afterwards.
    rules: BTreeMap<SnatRuleId, Arc<str>>,
}

struct FromWorker {
    ring: rtrb::Consumer<SessionRecord>,
    /// How many records it had lost when that was looked at last.
    lost: u64,
}

struct Kept {
    /// Nanoseconds since 1970.
    time: u64,
    /// Name of its SNAT rule.
    rule: Option<Arc<str>>,
    record: SessionRecord,
}

/// Has each worker log its sessions, and gives the first page.
pub(super) struct BeginSessionLog {
    wanted: Wanted,
    logs: Vec<SessionLog>,
}

impl Query for BeginSessionLog {
    type Request = Wanted;
    type Answer = ();

    fn prepare(wanted: Wanted, held: &mut dyn Configuration) -> Result<Self, Refusal> {
        Ok(Self { wanted, logs: held.plane_mut().workers_mut()?.prepare_session_log() })
    }

    fn ask(&mut self, workers: &dyn Ask) -> Result<(), PlaneError> {
        let logs = self.logs.drain(..);
        workers.tell(logs.map(|log| Update::SessionLog(Some(Box::new(log)))).collect())
    }

    fn respond(
        self,
        answer: Result<(), PlaneError>,
        held: &mut dyn Configuration,
    ) -> Result<Response, PlaneError> {
        held.plane_mut().workers_mut()?.session_log_begun(answer.is_ok());
        answer.and_then(|()| page(&self.wanted, held))
    }
}

/// Gives a page of the log, and begins one if nobody reads it yet.
pub(super) fn read(wanted: Wanted, held: &mut dyn Configuration) -> QueryStep {
    let kept = held.plane().workers().is_ok_and(|workers| workers.kept.session_log.current.is_some());
    if kept {
        return QueryStep::Answered(response(page(&wanted, held)));
    }
    asks::<BeginSessionLog>(wanted, held)
}

fn page(wanted: &Wanted, held: &mut dyn Configuration) -> Result<Response, PlaneError> {
    let workers = held.plane_mut().workers_mut()?;
    workers.collect_session_log();
    let mut logging = workers.kept.session_log.current.take().ok_or(Gone::SessionLog)?;
    logging.asked = logging.asked.map(|_| Instant::now());
    let page = logging.page(wanted, held);
    held.plane_mut().workers_mut()?.kept.session_log.current = Some(logging);
    Ok(Response::SessionLog(page))
}

impl Logging {
    fn page(&self, wanted: &Wanted, held: &dyn Configuration) -> SessionLogPage {
        let max = wanted.max.clamp(1, MAX_PAGE) as usize;
        // What is beyond the end is another gateway's.
        let mut next = wanted.from.unwrap_or(self.next).min(self.next);
        let begin = self.kept.partition_point(|(position, _)| *position < next);
        let mut entries = Vec::new();
        for (position, kept) in self.kept.range(begin..).take(STRIDE) {
            let lost = (*position > next).then(|| SessionLogEntry::Lost(position - next));
            let chosen = Self::entry(kept, &wanted.filter, held).map(SessionLogEntry::Session);
            for (entry, then) in [(lost, *position), (chosen, position + 1)] {
                if entry.is_some() && entries.len() == max {
                    return SessionLogPage { entries, next, more: true };
                }
                entries.extend(entry);
                next = then;
            }
        }
        let last = self.kept.back().map_or(0, |(position, _)| position + 1);
        if next < last || entries.len() == max {
            return SessionLogPage { entries, next, more: next < self.next };
        }
        if self.next > next {
            entries.push(SessionLogEntry::Lost(self.next - next));
        }
        SessionLogPage { entries, next: self.next, more: false }
    }

    /// A record as the filter wants it.
    fn entry(
        Kept { time, rule, record }: &Kept,
        filter: &SessionFilter,
        held: &dyn Configuration,
    ) -> Option<Box<LoggedSession>> {
        if !filter.matches(&record.found) {
            return None;
        }
        let SessionRecord { event, method, slot, .. } = *record;
        let snat = method == SessionMethod::Snat;
        let service = if snat { None } else { held.service_of(slot.server()) };
        if filter.service.is_some() && service != filter.service {
            return None;
        }
        let (rule, found) = (rule.as_ref().map(ToString::to_string), record.found.clone());
        Some(Box::new(LoggedSession { time: *time, event, method, service, rule, found }))
    }

    /// Notes the names of the rules in force.
    fn name_rules<'a>(&mut self, rules: impl Iterator<Item = (SnatRuleId, &'a str)>) {
        for (id, name) in rules {
            if self.rules.get(&id).is_none_or(|known| **known != *name) {
                self.rules.insert(id, name.into());
            }
        }
    }

    /// Takes what workers have recorded, a bounded number; `lost` is how much each of them has lost.
    fn collect(&mut self, lost: impl Iterator<Item = u64>) {
        // What arrives meanwhile waits for the next turn, so that the records of several workers are in their order.
        let (until, wall) = (cpu::tsc(), wall_clock());
        let mut taken = Vec::new();
        for worker in &mut self.workers {
            let end = taken.len() + TURN;
            while taken.len() < end
                && worker.ring.peek().is_ok_and(|record| record.tsc <= until)
                && let Ok(record) = worker.ring.pop()
            {
                taken.push(record);
            }
        }
        taken.sort_by_key(|record| record.tsc);
        for record in taken {
            if self.kept.len() >= KEPT {
                self.kept.pop_front();
            }
            let time = wall.saturating_sub(nanoseconds(until.saturating_sub(record.tsc)));
            let snat = record.method == SessionMethod::Snat;
            let rule = snat.then(|| self.rules.get(&record.slot.snat_rule()).cloned()).flatten();
            self.kept.push_back((self.next, Kept { time, rule, record }));
            self.next += 1;
        }
        for (worker, lost) in self.workers.iter_mut().zip(lost) {
            self.next += lost - worker.lost;
            worker.lost = lost;
        }
    }
}

/// A ring in pages that have been touched: a worker waits for none.
fn ring() -> (rtrb::Producer<SessionRecord>, rtrb::Consumer<SessionRecord>) {
    let (mut to_control, mut ring) = rtrb::RingBuffer::new(RING);
    while to_control.push(SessionRecord::blank()).is_ok() {}
    while ring.pop().is_ok() {}
    (to_control, ring)
}

/// Nanoseconds since 1970.
fn wall_clock() -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX)
}

/// What so many cycles of the time-stamp counter take.
fn nanoseconds(cycles: u64) -> u64 {
    let ns = u128::from(cycles) * 1_000_000_000 / u128::from(cpu::tsc_hz().max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

impl Workers {
    /// Logs for workers, one each.
    fn prepare_session_log(&mut self) -> Vec<SessionLog> {
        let (mut logs, mut workers, mut next) = (Vec::new(), Vec::new(), 0);
        for link in self.links() {
            let (to_control, ring) = ring();
            let events = &link.counters.events;
            logs.push(SessionLog::new(to_control));
            workers.push(FromWorker { ring, lost: events.session_log_lost.get() });
            next += events.sessions_opened.get() + events.sessions_ended.get();
        }
        let kept = VecDeque::with_capacity(KEPT);
        let logging = Logging { asked: None, workers, kept, next, rules: BTreeMap::new() };
        self.kept.session_log.current = Some(logging);
        logs
    }

    /// Every worker logs its sessions now, or not every one: then none is to.
    fn session_log_begun(&mut self, by_all: bool) {
        let current = &mut self.kept.session_log.current;
        let Some(logging) = current else { return };
        logging.asked = Some(Instant::now());
        if !by_all {
            *current = None;
            self.stop_session_log();
        }
    }

    /// Takes what workers have recorded, and ends a log that nobody reads any more.
    pub(in crate::control) fn tend_session_log(&mut self) {
        let silent = |log: &mut Logging| log.asked.is_some_and(|at| at.elapsed() > SILENCE);
        if self.kept.session_log.current.take_if(silent).is_some() {
            tracing::info!("the session log ended: nobody reads it");
            self.stop_session_log();
        }
        self.collect_session_log();
    }

    fn collect_session_log(&mut self) {
        let Some(mut logging) = self.kept.session_log.current.take() else { return };
        // Rules come and go only after what was recorded before has been taken.
        logging.name_rules(self.snat_names());
        logging.collect(self.links.iter().map(|link| link.counters.events.session_log_lost.get()));
        self.kept.session_log.current = Some(logging);
    }

    fn stop_session_log(&mut self) {
        self.send_all(|_| vec![Update::SessionLog(None)]);
    }
}
