//! What is asked of the gateway again and again, as it was at one moment.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use weir_api::{
    client::Transport,
    model::{
        PathCounter, ServiceKey, Stats, event::EventPage, snat::SnatRow, status::Status, status::WorkerStatus,
    },
    protocol::{ListQuery, MAX_PAGE, Request, Response, Row},
};

use crate::commands::{
    Failure,
    fetch::{self, Listed},
};

/// Most servers, and most services, of which single figures are kept: more would take more memory than a server
/// of metrics may have. Those beyond are counted.
pub(super) const MAX_ROWS: usize = 100_000;
/// A worker that hasn't polled for so long hangs: polling takes microseconds, being scheduled on a busy machine more.
const HANGS: Duration = Duration::from_secs(3);
/// What workers did is seen over this time at least.
const SAMPLE: Duration = Duration::from_secs(1);
/// The first time it has to be shorter.
const FIRST_SAMPLE: Duration = Duration::from_millis(200);

/// Events that are kept here: the latest. All that the gateway keeps is at `/v1/events`.
const EVENTS: usize = 100;

/// How the gateway is.
#[derive(Clone, Debug, Default)]
pub(super) struct Brief {
    pub status: Status,
    pub counters: Vec<PathCounter>,
    pub snat: Vec<SnatRow>,
    /// What each worker did a moment ago.
    pub loads: Vec<Load>,
    /// Workers that poll no more, by their numbers.
    pub hanging: Vec<usize>,
    /// The latest events.
    pub events: EventPage,
    /// How long the gateway took to tell all of it.
    pub took: Duration,
}

impl Brief {
    /// Over all workers; 0 of a counter that this gateway hasn't.
    pub(super) fn counter(&self, name: &str) -> u64 {
        self.counters.iter().find(|c| c.name == name).map_or(0, total)
    }
}

/// A counter over all workers.
pub(super) fn total(counter: &PathCounter) -> u64 {
    counter.workers.iter().fold(0, |sum, n| sum.wrapping_add(*n))
}

/// With all services and servers.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub brief: Arc<Brief>,
    /// [`MAX_ROWS`] services and servers at most.
    pub services: Vec<Listed>,
    /// What all services have counted since the gateway started or this program did: it never decreases while both run.
    pub totals: Stats,
}

impl Look {
    /// Servers that aren't among the services.
    pub(super) fn left_out(&self) -> u64 {
        let kept: usize = self.services.iter().map(|(_, servers)| servers.len()).sum();
        u64::from(self.brief.status.servers).saturating_sub(kept as u64)
    }
}

/// A worker's load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    /// Share of the polls that found frames.
    pub busy: f64,
    /// Frames that such a poll found.
    pub frames: f64,
    /// Frames a second.
    pub rate: f64,
}

impl Load {
    fn between(before: &WorkerStatus, now: &WorkerStatus, time: Duration) -> Self {
        let since = |now: u64, before: u64| now.saturating_sub(before) as f64;
        let polls = since(now.polls, before.polls);
        let busy = since(now.busy_polls, before.busy_polls);
        let received = since(now.received, before.received);
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        // The counters are read one after the other.
        Self {
            busy: share(busy, polls).min(1.0),
            frames: share(received, busy),
            rate: share(received, time.as_secs_f64()),
        }
    }
}

/// Looks at the gateway, and remembers from look to look what it takes to tell how things go.
#[derive(Debug, Default)]
pub(super) struct Watcher {
    base: Option<(Instant, Vec<WorkerStatus>)>,
    loads: Vec<Load>,
    /// Each worker's polls, and when they were last seen to grow.
    polled: Vec<(u64, Instant)>,
    uptime: u64,
    events: EventPage,
    counted: HashMap<ServiceKey, Stats>,
    totals: Stats,
}

impl Watcher {
    /// How the gateway is.
    pub(super) fn brief(&mut self, transport: &mut dyn Transport) -> Result<Brief, Failure> {
        let start = Instant::now();
        let mut status = fetch::status(transport)?;
        self.follow(&status, Instant::now());
        if self.loads.len() != status.workers.len() {
            std::thread::sleep(FIRST_SAMPLE);
            status = fetch::status(transport)?;
            self.follow(&status, Instant::now());
        }
        self.recall(transport)?;
        let counters = fetch::counters(transport)?;
        let snat = fetch::snat(transport)?;
        let hanging = self.hanging(Instant::now());
        let (loads, events) = (self.loads.clone(), self.events.clone());
        Ok(Brief { status, counters, snat, loads, hanging, events, took: start.elapsed() })
    }

    /// Takes note of what has happened since the look before. A gateway that is older tells nothing.
    fn recall(&mut self, transport: &mut dyn Transport) -> Result<(), Failure> {
        let mut since = |from| match fetch::events(transport, from) {
            Err(Failure::Refused(_)) => Ok(EventPage::default()),
            other => other,
        };
        let mut page = since(self.events.next)?;
        if page.started != self.events.started {
            self.events = EventPage::default();
            page = since(0)?;
        }
        self.events.events.extend(page.events);
        let old = self.events.events.len().saturating_sub(EVENTS);
        self.events.events.drain(..old);
        (self.events.started, self.events.next) = (page.started, page.next);
        Ok(())
    }

    /// How the gateway is, with all services and servers.
    pub(super) fn look(&mut self, transport: &mut dyn Transport) -> Result<Look, Failure> {
        let start = Instant::now();
        let mut brief = self.brief(transport)?;
        let services = services(transport)?;
        self.count(&services);
        brief.took = start.elapsed();
        Ok(Look { brief: Arc::new(brief), services, totals: self.totals })
    }

    /// Takes note of what the workers have done by `now`.
    fn follow(&mut self, status: &Status, now: Instant) {
        // A gateway that has started again counts from zero.
        if status.uptime < self.uptime || self.polled.len() != status.workers.len() {
            *self = Self::default();
            self.polled = status.workers.iter().map(|w| (w.polls, now)).collect();
        }
        self.uptime = status.uptime;
        for ((polls, seen), worker) in self.polled.iter_mut().zip(&status.workers) {
            if *polls != worker.polls {
                (*polls, *seen) = (worker.polls, now);
            }
        }
        let Some((at, before)) = &self.base else {
            self.base = Some((now, status.workers.clone()));
            return;
        };
        let time = now.saturating_duration_since(*at);
        let first = self.loads.len() != status.workers.len();
        if time >= SAMPLE || first {
            self.loads = before.iter().zip(&status.workers).map(|(b, w)| Load::between(b, w, time)).collect();
            self.base = Some((now, status.workers.clone()));
        }
    }

    fn hanging(&self, now: Instant) -> Vec<usize> {
        let hangs = |seen: &Instant| now.saturating_duration_since(*seen) >= HANGS;
        self.polled.iter().enumerate().filter(|(_, (_, seen))| hangs(seen)).map(|(n, _)| n).collect()
    }

    /// Adds what services have counted since the last look. A sum over the services there are would decrease whenever
    /// one is deleted or zeroed, which would look like a restart.
    fn count(&mut self, services: &[Listed]) {
        let mut counted = HashMap::with_capacity(services.len());
        for (row, _) in services {
            let (key, now) = (row.service.key, row.stats);
            let before = self.counted.get(&key).copied().unwrap_or_default();
            add(&mut self.totals, &now, &before);
            counted.insert(key, now);
        }
        self.counted = counted;
    }
}

fn add(totals: &mut Stats, now: &Stats, before: &Stats) {
    let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
    totals.connections += since(now.connections, before.connections);
    totals.in_packets += since(now.in_packets, before.in_packets);
    totals.out_packets += since(now.out_packets, before.out_packets);
    totals.in_bytes += since(now.in_bytes, before.in_bytes);
    totals.out_bytes += since(now.out_bytes, before.out_bytes);
}

/// Services with their servers, the newest first, [`MAX_ROWS`] of each at most.
fn services(transport: &mut dyn Transport) -> Result<Vec<Listed>, Failure> {
    let (mut all, mut servers, mut from): (Vec<Listed>, usize, _) = (Vec::new(), 0, None);
    loop {
        let query = ListQuery { service: None, from, max: MAX_PAGE };
        let (rows, next) = match transport.call(Request::List(query))? {
            Response::Rows { rows, next } => (rows, next),
            Response::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(Failure::Refused("the gateway gave an answer to another question".into())),
        };
        for row in rows {
            match row {
                Row::Service(_) if all.len() >= MAX_ROWS => return Ok(all),
                Row::Service(service) => all.push((service, Vec::new())),
                Row::Server(_) if servers >= MAX_ROWS => return Ok(all),
                Row::Server(server) => {
                    servers += 1;
                    if let Some((_, of)) = all.last_mut() {
                        of.push(server);
                    }
                }
            }
        }
        from = next;
        if from.is_none() {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::metrics::samples;

    fn at(polls: u64, busy_polls: u64, received: u64) -> WorkerStatus {
        WorkerStatus { polls, busy_polls, received, ..WorkerStatus::default() }
    }

    fn status(uptime: u64, workers: &[WorkerStatus]) -> Status {
        Status { uptime, workers: workers.to_vec(), ..Status::default() }
    }

    #[test]
    fn load_is_what_happened_between_two_looks() {
        let load = Load::between(&at(1000, 10, 20), &at(2000, 260, 1020), Duration::from_millis(500));
        assert_eq!(load, Load { busy: 0.25, frames: 4.0, rate: 2000.0 });
        assert_eq!(Load::between(&at(0, 0, 0), &at(0, 0, 0), Duration::ZERO), Load::default());
    }

    #[test]
    fn a_worker_that_polls_no_more_hangs_after_a_while() {
        let (mut watcher, start) = (Watcher::default(), Instant::now());
        let later = |ms| start + Duration::from_millis(ms);
        watcher.follow(&status(1, &[at(5, 0, 0), at(5, 0, 0)]), start);
        assert_eq!(watcher.hanging(later(2999)), [0; 0]);
        watcher.follow(&status(2000, &[at(6, 0, 0), at(5, 0, 0)]), later(2000));
        assert_eq!(watcher.hanging(later(3000)), [1]);
        watcher.follow(&status(3000, &[at(7, 0, 0), at(9, 0, 0)]), later(3000));
        assert_eq!(watcher.hanging(later(3000)), [0; 0]);
        // Started again: what it counted before means nothing.
        watcher.follow(&status(10, &[at(7, 0, 0), at(9, 0, 0)]), later(9000));
        assert_eq!(watcher.hanging(later(9000)), [0; 0]);
        assert!(watcher.loads.is_empty());
    }

    #[test]
    fn totals_never_decrease() {
        let counted = |n| Stats { connections: n, in_bytes: 2 * n, ..Stats::default() };
        let mut watcher = Watcher::default();
        let services = |counts: &[u64]| {
            let rows = samples::services(counts.len());
            let rows = rows.into_iter().zip(counts);
            rows.map(|((mut row, servers), n)| {
                row.stats = counted(*n);
                (row, servers)
            })
            .collect::<Vec<Listed>>()
        };
        watcher.count(&services(&[10, 5]));
        assert_eq!(watcher.totals, counted(15));
        // The second is deleted, then comes back and counts from zero; the first is zeroed.
        watcher.count(&services(&[12]));
        assert_eq!(watcher.totals, counted(17));
        watcher.count(&services(&[1, 3]));
        assert_eq!(watcher.totals, counted(21));
    }
}
