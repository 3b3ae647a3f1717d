//! `drain` and `undrain` on workers in virtual time.

use std::time::Duration;

use weirctl::modern::Wake;

use crate::{
    questions::busy,
    world::{Outcome, Script, Shared, run},
};

const SERVER: &str = "tcp/192.0.2.10:80 10.0.0.1:8080";
const UNDO: &str = "undo: weirctl undrain tcp/192.0.2.10:80 10.0.0.1:8080\n";

fn drain(shared: &Shared, pace: &mut Script, options: &str) -> Outcome {
    run(&mut shared.clone(), pace, &format!("drain {SERVER} {options}"), "")
}

fn weight(shared: &Shared) -> u64 {
    let json = shared.run("stats --json").json();
    let servers = json["services"][0]["servers"].as_array().unwrap();
    servers.iter().find(|s| s["address"] == "10.0.0.1").unwrap()["weight"].as_u64().unwrap()
}

/// Sessions in SYN_RECV end after a minute.
pub fn a_server_empties() {
    let shared = Shared::new(busy(10));
    let mut pace = shared.pace();
    let outcome = drain(&shared, &mut pace, "");
    assert_eq!((outcome.status, weight(&shared)), (0, 0), "{outcome:?}");
    assert!(outcome.out.starts_with("10.0.0.1:8080 of tcp/192.0.2.10:80 is empty after 1m"), "{outcome:?}");
    assert!(outcome.out.ends_with(UNDO));
    assert!(outcome.err.contains("5 sessions left, 0.0/s, ETA unknown\n"), "{outcome:?}");
    // The other server was left alone.
    assert_eq!(shared.run("sessions --count=server --server 10.0.0.2").status, 0);
}

pub fn what_is_left_is_killed() {
    let shared = Shared::new(busy(10));
    let mut pace = shared.pace();
    let outcome = drain(&shared, &mut pace, "--kill-after 5s --json");
    assert_eq!(outcome.status, 0, "{outcome:?}");
    let last: serde_json::Value = serde_json::from_str(outcome.out.lines().last().unwrap()).unwrap();
    assert_eq!((last["state"].clone(), last["killed"].clone()), ("drained".into(), 5.into()));
    assert!(pace.now >= Duration::from_secs(5) && pace.now < Duration::from_secs(7), "{:?}", pace.now);
    assert_eq!(shared.0.borrow().session_count(), 5, "the other server's");
}

pub fn an_interrupt_leaves_it_drained() {
    let shared = Shared::new(busy(10));
    let mut pace = shared.pace();
    pace.wakes.extend([Wake::Time, Wake::Interrupt]);
    let outcome = drain(&shared, &mut pace, "");
    assert_eq!((outcome.status, weight(&shared)), (4, 0));
    let message = format!(
        "interrupted: 10.0.0.1:8080 of tcp/192.0.2.10:80 stays drained (weight 0) with 5 sessions left; {UNDO}"
    );
    assert!(outcome.err.ends_with(&message), "{outcome:?}");
}

pub fn time_may_be_up() {
    let shared = Shared::new(busy(10));
    let mut pace = shared.pace();
    let outcome = drain(&shared, &mut pace, "--timeout 3s");
    assert_eq!((outcome.status, pace.now), (4, Duration::from_secs(3)));
    assert!(
        outcome.err.contains("time is up: 10.0.0.1:8080 of tcp/192.0.2.10:80 stays drained"),
        "{outcome:?}"
    );
}

pub fn undraining_restores_the_weight() {
    let shared = Shared::new(busy(0));
    assert_eq!(drain(&shared, &mut shared.pace(), "").status, 0);
    let json = shared.run(&format!("undrain --json {SERVER}")).json();
    assert_eq!((json["weight"].clone(), weight(&shared)), (5.into(), 5));
    assert_eq!(shared.run(&format!("undrain {SERVER}")).status, 1, "it isn't drained any more");
    let given = shared.run(&format!("undrain -w 9 {SERVER}"));
    assert_eq!(given.out, "10.0.0.1:8080 of tcp/192.0.2.10:80 has weight 9\n");
}
