//! What happens to the gateway beside its configuration, as events: links, neighbours, and what runs out.

use std::{
    collections::BTreeSet,
    fmt::Display,
    net::IpAddr,
    time::{Duration, Instant},
};

use weir_api::model::{
    event::EventKind,
    status::{PortStatus, WorkerStatus},
};

use super::SharedStore;
use crate::control::{
    events::EventLog,
    workers::warnings::{is_nearly_full, nearly_full_addresses},
};

/// How often neighbours, tables and pools are looked at.
const ROUND: Duration = Duration::from_secs(1);
/// Looks in a row that something has to be seen in: a neighbour that is being asked for isn't lost.
const HOLD: u32 = 3;
/// A worker that hasn't polled for so long stands.
const STANDS: Duration = Duration::from_secs(3);
/// Events of one kind that one look makes.
const EACH: usize = 64;

/// What was seen last.
#[derive(Default)]
pub(super) struct Happenings {
    ports: Vec<Port>,
    looked: Option<Instant>,
    silent: Tracked<(String, IpAddr)>,
    low: Tracked<IpAddr>,
    full: Tracked<usize>,
    /// Each worker's polls, when they were last seen to grow, and whether it stands.
    polls: Vec<(u64, Instant, bool)>,
}

/// A port as events tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    up: bool,
    /// While there is a link: without one there is always a fault.
    faults: Vec<String>,
}

impl Happenings {
    /// The gateway forwards, with these ports.
    pub fn ready(&mut self, ports: &[PortStatus], events: &EventLog) {
        let up = ports.iter().filter(|port| port.up).count();
        let text = format!("ready: {up} of {} ports have a link", ports.len());
        events.tell(EventKind::GatewayReady, &[("ports", &ports.len()), ("up", &up)], text);
        self.ports = ports.iter().map(|_| Port { up: true, faults: Vec::new() }).collect();
    }

    /// Tells what is new of the ports since then.
    pub fn look_at_ports(&mut self, ports: &[PortStatus], events: &EventLog) {
        for (before, status) in self.ports.iter_mut().zip(ports) {
            let faults = if status.up { status.faults.clone() } else { Vec::new() };
            let now = Port { up: status.up, faults };
            tell_port(&status.name, before, &now, &status.faults.join("; "), events);
            *before = now;
        }
    }

    /// Tells what is new of everything else, once a second.
    pub fn look_around(&mut self, store: &SharedStore, events: &EventLog) {
        if self.looked.is_some_and(|looked| looked.elapsed() < ROUND) {
            return;
        }
        self.looked = Some(Instant::now());
        let mut held = store.lock();
        let plane = held.plane_mut();
        let silent = plane.silent_hops();
        let workers = plane.workers.loads();
        let low = nearly_full_addresses(plane.workers.links());
        drop(held);
        self.look_at_workers(&workers, Instant::now(), events);
        let (lost, found) = self.silent.look(silent);
        tell_each(events, EventKind::NeighbourLost, &lost, |(port, hop)| {
            format!("{hop} on {port} doesn't answer ARP or discovery, and servers need it")
        });
        tell_each(events, EventKind::NeighbourFound, &found, |(port, hop)| {
            format!("{hop} on {port} answers, or isn't needed any more")
        });
        let (begun, ended) = self.low.look(low);
        tell_addresses(
            events,
            EventKind::PortsLow,
            &begun,
            "more than 80 % of its ports are in use towards one server",
        );
        tell_addresses(events, EventKind::PortsEnough, &ended, "its ports suffice");
    }

    fn look_at_workers(&mut self, workers: &[WorkerStatus], now: Instant, events: &EventLog) {
        self.polls.resize(workers.len(), (u64::MAX, now, false));
        for (n, (worker, (polls, seen, stands))) in workers.iter().zip(&mut self.polls).enumerate() {
            if *polls != worker.polls {
                (*polls, *seen) = (worker.polls, now);
            }
            let still = now.saturating_duration_since(*seen) >= STANDS;
            if std::mem::replace(stands, still) != still {
                let (kind, what) = match still {
                    true => (EventKind::WorkerStands, "doesn't poll"),
                    false => (EventKind::WorkerPolls, "polls again"),
                };
                events.tell(kind, &[("worker", &n)], format!("worker {n} {what}"));
            }
        }
        let full = workers.iter().enumerate();
        let full = full.filter(|(_, w)| is_nearly_full(w.sessions.into(), w.max_sessions.into()));
        let (begun, ended) = self.full.look(full.map(|(n, _)| n).collect());
        for (kind, workers_of) in [(EventKind::SessionsHigh, begun), (EventKind::SessionsEnough, ended)] {
            for n in workers_of {
                let Some(WorkerStatus { sessions, max_sessions, .. }) = workers.get(n) else { continue };
                events.tell(
                    kind,
                    &[("worker", &n), ("sessions", sessions), ("limit", max_sessions)],
                    format!("worker {n} has {sessions} of {max_sessions} sessions"),
                );
            }
        }
    }
}

fn tell_port(name: &str, before: &Port, now: &Port, faults: &str, events: &EventLog) {
    match (before.up, now.up) {
        (false, true) => {
            events.tell(EventKind::LinkUp, &[("port", &name)], format!("port {name}: the link is up"));
        }
        (true, false) => {
            let why = if faults.is_empty() { "the link is down" } else { faults };
            events.tell(
                EventKind::LinkDown,
                &[("port", &name), ("fault", &why)],
                format!("port {name}: {why}"),
            );
        }
        _ => {}
    }
    let new = |these: &Port, those: &Port| {
        these.faults.iter().filter(|fault| !those.faults.contains(fault)).cloned().collect::<Vec<_>>()
    };
    for fault in new(now, before) {
        let text = format!("port {name}: {fault}");
        events.tell(EventKind::PortFault, &[("port", &name), ("fault", &fault)], text);
    }
    // Those of a port without a link are told with that.
    for fault in new(before, now).iter().filter(|_| now.up) {
        let text = format!("port {name}: no longer: {fault}");
        events.tell(EventKind::PortRecovered, &[("port", &name), ("fault", fault)], text);
    }
}

fn tell_each(
    events: &EventLog,
    kind: EventKind,
    hops: &[(String, IpAddr)],
    text: impl Fn(&(String, IpAddr)) -> String,
) {
    for hop in hops.iter().take(EACH) {
        events.tell(kind, &[("port", &hop.0), ("neighbour", &hop.1)], text(hop));
    }
    if let Some(more) = hops.len().checked_sub(EACH).filter(|more| *more > 0) {
        events.tell(kind, &[("more", &more)], format!("{more} more neighbours"));
    }
}

fn tell_addresses(events: &EventLog, kind: EventKind, addresses: &[IpAddr], what: impl Display) {
    for address in addresses.iter().take(EACH) {
        events.tell(kind, &[("address", address)], format!("local address {address}: {what}"));
    }
}

/// Things that begin and end, told once they have been so for [`HOLD`] looks.
struct Tracked<K> {
    told: BTreeSet<K>,
    /// Those that are otherwise now than was told, and for how many looks.
    changing: Vec<(K, u32)>,
}

impl<K> Default for Tracked<K> {
    fn default() -> Self {
        Self { told: BTreeSet::new(), changing: Vec::new() }
    }
}

impl<K: Ord + Clone> Tracked<K> {
    /// What has begun and what has ended, as far as it is to be told now.
    fn look(&mut self, now: BTreeSet<K>) -> (Vec<K>, Vec<K>) {
        let before = std::mem::take(&mut self.changing);
        let looks = |key: &K| {
            let at = before.binary_search_by(|(other, _)| other.cmp(key)).ok();
            at.and_then(|at| before.get(at)).map_or(0, |(_, looks)| *looks) + 1
        };
        let differing = now.symmetric_difference(&self.told).map(|key| (key.clone(), looks(key)));
        let (ripe, changing): (Vec<_>, Vec<_>) = differing.partition(|(_, looks)| *looks >= HOLD);
        self.changing = changing;
        let (begun, ended): (Vec<K>, Vec<K>) =
            ripe.into_iter().map(|(key, _)| key).partition(|key| now.contains(key));
        self.told.extend(begun.iter().cloned());
        ended.iter().for_each(|key| _ = self.told.remove(key));
        (begun, ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, up: bool, faults: &[&str]) -> PortStatus {
        let faults = faults.iter().map(|fault| (*fault).to_owned()).collect();
        PortStatus { name: name.into(), up, faults, ..PortStatus::default() }
    }

    fn kinds(events: &EventLog, from: u64) -> String {
        let page = events.page(from, usize::MAX);
        page.events.iter().map(|event| format!("{}: {}\n", event.kind, event.text)).collect()
    }

    #[test]
    fn links_and_faults_are_told_when_they_change() {
        let (events, mut seen) = (EventLog::default(), Happenings::default());
        // Before it is ready nothing has been lost.
        seen.look_at_ports(&[port("wan", false, &["the link is down"])], &events);
        let mut look = |up, faults: &[&str]| {
            let from = events.page(0, usize::MAX).next;
            let ports = [port("wan", up, faults)];
            if from == 1 {
                seen.ready(&ports, &events);
            }
            seen.look_at_ports(&ports, &events);
            kinds(&events, from)
        };
        let first = look(false, &["the link is down"]);
        assert_eq!(
            first,
            "gateway-ready: ready: 0 of 1 ports have a link\nlink-down: port wan: the link is down\n"
        );
        assert_eq!(look(false, &["the link is down"]), "");
        assert_eq!(
            look(true, &["no twin"]),
            "link-up: port wan: the link is up\nport-fault: port wan: no twin\n"
        );
        assert_eq!(look(true, &[]), "port-recovered: port wan: no longer: no twin\n");
        assert_eq!(look(false, &[]), "link-down: port wan: the link is down\n");
    }

    #[test]
    fn what_passes_at_once_is_not_told() {
        let mut tracked = Tracked::default();
        let mut look = |now: &[u8]| tracked.look(now.iter().copied().collect());
        assert_eq!(look(&[1, 2]), (vec![], vec![]));
        assert_eq!(look(&[2]), (vec![], vec![]));
        assert_eq!(look(&[1, 2]), (vec![2], vec![]));
        assert_eq!(look(&[1]), (vec![], vec![]));
        assert_eq!(look(&[1, 2]), (vec![1], vec![]));
        assert_eq!(look(&[]), (vec![], vec![]));
        assert_eq!(look(&[]), (vec![], vec![]));
        assert_eq!(look(&[]), (vec![], vec![1, 2]));
    }

    #[test]
    fn workers_that_stand_or_are_full_are_told() {
        let (events, mut seen, start) = (EventLog::default(), Happenings::default(), Instant::now());
        let mut look = |seconds, polls, sessions| {
            let from = events.page(0, usize::MAX).next;
            let worker = WorkerStatus { polls, sessions, max_sessions: 100, ..WorkerStatus::default() };
            seen.look_at_workers(&[worker], start + Duration::from_secs(seconds), &events);
            kinds(&events, from)
        };
        assert_eq!(look(0, 5, 81), "");
        assert_eq!(look(2, 5, 81), "");
        assert_eq!(
            look(3, 5, 81),
            "worker-stands: worker 0 doesn't poll\nsessions-high: worker 0 has 81 of 100 sessions\n"
        );
        assert_eq!(look(4, 6, 80), "worker-polls: worker 0 polls again\n");
        assert_eq!(look(5, 7, 80), "");
        assert_eq!(look(6, 8, 80), "sessions-enough: worker 0 has 80 of 100 sessions\n");
    }
}
