//! `weirctl ready`: whether the gateway forwards, for container health checks, load balancers and scripts.

use std::time::Duration;

use weir_api::{
    documents::{Body, status::Ready},
    model::status::{Status, WorkerStatus},
};

use super::{Failure, World, cli::ReadyArgs, fetch, json, style::clean};

/// How far apart looks are.
const SAMPLE: Duration = Duration::from_millis(200);
/// How often workers that didn't poll between two looks are looked at: the machine may be busy.
const LOOKS: u32 = 5;
/// A table as full as this, of a thousand, has no headroom for a burst.
const FULL: u64 = 950;

pub(super) fn run(args: &ReadyArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let first = fetch::status(world.transport)?;
    let (mut status, mut standing) = (first.clone(), Vec::new());
    for _ in 0..LOOKS {
        world.pace.wait(SAMPLE);
        status = fetch::status(world.transport)?;
        standing = idle(&first, &status);
        if standing.is_empty() {
            break;
        }
    }
    let needs = match args.rules && status.services == 0 {
        true => Needs::Rules { snat: fetch::snat(world.transport)?.len() },
        false => Needs::NoRules,
    };
    let reasons = reasons(&status, &standing, needs);
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
fn idle(first: &Status, now: &Status) -> Vec<usize> {
    let polled =
        |n: usize, worker: &WorkerStatus| first.workers.get(n).is_some_and(|w| w.polls != worker.polls);
    now.workers.iter().enumerate().filter(|(n, worker)| !polled(*n, worker)).map(|(n, _)| n).collect()
}

/// Whether a gateway that nobody has given rules is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// It is: it does all that it was told.
    NoRules,
    /// It isn't: what it was sent would be lost. It has virtual services, or so many SNAT rules.
    Rules {
        /// How many.
        snat: usize,
    },
}

/// What isn't alive: workers, `standing` by their numbers. That the process is, its answer shows.
#[must_use]
pub fn dead(status: &Status, standing: &[usize]) -> Vec<String> {
    let mut reasons: Vec<String> = standing.iter().map(|n| format!("worker {n} doesn't poll")).collect();
    if status.workers.is_empty() {
        reasons.push("the gateway has no workers yet".into());
    }
    reasons
}

/// Everything that keeps the gateway from taking traffic, for `weirctl ready` and `/readyz`.
#[must_use]
pub fn reasons(status: &Status, standing: &[usize], needs: Needs) -> Vec<String> {
    let mut reasons = Vec::new();
    for port in &status.ports {
        reasons.extend(port.faults.iter().map(|fault| format!("port {}: {fault}", port.name)));
        if !port.up && port.faults.is_empty() {
            reasons.push(format!("port {}: no link", port.name));
        }
    }
    reasons.extend(dead(status, standing));
    let full = status.workers.iter().enumerate().filter(|(_, worker)| is_full(worker));
    reasons.extend(full.map(|(n, worker)| {
        format!("worker {n} has {} of {} sessions", worker.sessions, worker.max_sessions)
    }));
    if status.services == 0 && needs == (Needs::Rules { snat: 0 }) {
        reasons.push("no rules are loaded: there is no virtual service and no SNAT rule".into());
    }
    reasons
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
        let port = PortStatus { name: "wan".into(), up: true, faults, ..PortStatus::default() };
        Status { ports: vec![port], workers: polls.iter().map(worker).collect(), ..Status::default() }
    }

    #[test]
    fn workers_that_poll_are_told_from_those_that_dont() {
        let first = status(&[5, 5], 0, None);
        assert_eq!(idle(&first, &status(&[6, 6], 0, None)), [0; 0]);
        assert_eq!(idle(&first, &status(&[6, 5], 0, None)), [1]);
        assert_eq!(idle(&first, &status(&[6, 6, 6], 0, None)), [2]);
    }

    #[test]
    fn what_keeps_it_from_traffic_is_named() {
        let told = |now: &Status, standing: &[usize]| reasons(now, standing, Needs::NoRules);
        assert_eq!(told(&status(&[6, 6], 949, None), &[]), [""; 0]);
        assert_eq!(told(&status(&[6, 5], 0, None), &[1]), ["worker 1 doesn't poll"]);
        assert_eq!(told(&status(&[], 0, None), &[]), ["the gateway has no workers yet"]);
        assert_eq!(
            told(&status(&[6, 6], 0, Some("the device is gone")), &[]),
            ["port wan: the device is gone"]
        );
        let mut down = status(&[6], 0, None);
        down.ports[0].up = false;
        assert_eq!(told(&down, &[]), ["port wan: no link"]);
        let full = told(&status(&[6, 6], 950, None), &[]);
        assert_eq!(full, ["worker 0 has 950 of 1000 sessions", "worker 1 has 950 of 1000 sessions"]);
    }

    #[test]
    fn a_gateway_without_rules_is_ready_for_whom_that_is_enough() {
        let mut status = status(&[6], 0, None);
        let mut told = |services, needs| {
            status.services = services;
            reasons(&status, &[], needs).join("")
        };
        assert!(told(0, Needs::Rules { snat: 0 }).starts_with("no rules are loaded"));
        for (services, needs) in
            [(0, Needs::NoRules), (0, Needs::Rules { snat: 1 }), (1, Needs::Rules { snat: 0 })]
        {
            assert_eq!(told(services, needs), "");
        }
    }

    #[test]
    fn what_is_ready_is_counted() {
        assert_eq!(summary(&status(&[1], 0, None)), "ready: 1 port, 1 worker, 0 services, 0 servers");
    }
}
