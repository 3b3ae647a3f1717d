//! `weirctl ready`: whether the gateway forwards, for container health checks, load balancers and scripts.

use std::time::Duration;

use weir_api::{
    documents::{Body, status::Ready},
    model::status::{Status, WorkerStatus},
};

use super::{Failure, World, cli::JsonArgs, fetch, json, style::clean};

/// How far apart looks are.
const SAMPLE: Duration = Duration::from_millis(200);
/// How often workers that didn't poll between two looks are looked at: the machine may be busy.
const LOOKS: u32 = 5;
/// A table as full as this, of a thousand, has no headroom for a burst.
const FULL: u64 = 950;

pub(super) fn run(args: &JsonArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let first = fetch::status(world.transport)?;
    let mut status = first.clone();
    for _ in 0..LOOKS {
        world.pace.wait(SAMPLE);
        status = fetch::status(world.transport)?;
        if standing(&first, &status).next().is_none() {
            break;
        }
    }
    let reasons = reasons(&first, &status);
    if args.json {
        json::write(world.out, Body::Ready(Ready { ready: reasons.is_empty(), reasons: reasons.clone() }))?;
    } else if reasons.is_empty() {
        writeln!(world.out, "{}", summary(&status))?;
    }
    if reasons.is_empty() {
        Ok(())
    } else {
        Err(Failure::Unfinished(clean(&format!("not ready: {}", reasons.join("; ")))))
    }
}

/// Numbers of the workers that haven't polled between two looks.
fn standing<'a>(first: &'a Status, now: &'a Status) -> impl Iterator<Item = usize> + use<'a> {
    let polled =
        |n: usize, worker: &WorkerStatus| first.workers.get(n).is_some_and(|w| w.polls != worker.polls);
    now.workers.iter().enumerate().filter(move |(n, worker)| !polled(*n, worker)).map(|(n, _)| n)
}

/// Everything that keeps the gateway from taking traffic.
fn reasons(first: &Status, now: &Status) -> Vec<String> {
    let ports = now
        .ports
        .iter()
        .flat_map(|port| port.faults.iter().map(|fault| format!("port {}: {fault}", port.name)));
    let standing = standing(first, now).map(|n| format!("worker {n} doesn't poll"));
    let full =
        now.workers.iter().enumerate().filter(|(_, worker)| is_full(worker)).map(|(n, worker)| {
            format!("worker {n} has {} of {} sessions", worker.sessions, worker.max_sessions)
        });
    ports.chain(standing).chain(full).collect()
}

fn is_full(worker: &WorkerStatus) -> bool {
    worker.max_sessions > 0 && u64::from(worker.sessions) * 1000 >= u64::from(worker.max_sessions) * FULL
}

fn summary(status: &Status) -> String {
    let count = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    format!(
        "ready: {}, {}, {}, {}",
        count(status.ports.len() as u64, "port"),
        count(status.workers.len() as u64, "worker"),
        count(status.services.into(), "service"),
        count(status.servers.into(), "server")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_api::model::status::PortStatus;

    fn status(polls: &[u64], sessions: u32, fault: Option<&str>) -> Status {
        let worker = |polls: &u64| WorkerStatus {
            polls: *polls,
            sessions,
            max_sessions: 1000,
            ..WorkerStatus::default()
        };
        let faults = fault.map(str::to_owned).into_iter().collect();
        let port = PortStatus { name: "wan".into(), faults, ..PortStatus::default() };
        Status { ports: vec![port], workers: polls.iter().map(worker).collect(), ..Status::default() }
    }

    #[test]
    fn what_keeps_it_from_traffic_is_named() {
        let told = |now: &Status| reasons(&status(&[5, 5], 0, None), now);
        assert_eq!(told(&status(&[6, 6], 949, None)), [""; 0]);
        assert_eq!(told(&status(&[6, 5], 0, None)), ["worker 1 doesn't poll"]);
        assert_eq!(told(&status(&[6, 6], 0, Some("no link"))), ["port wan: no link"]);
        let full = told(&status(&[6, 6], 950, None));
        assert_eq!(full, ["worker 0 has 950 of 1000 sessions", "worker 1 has 950 of 1000 sessions"]);
    }

    #[test]
    fn what_is_ready_is_counted() {
        assert_eq!(summary(&status(&[1], 0, None)), "ready: 1 port, 1 worker, 0 services, 0 servers");
    }
}
