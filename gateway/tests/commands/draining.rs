//! `drain` and `undrain` on workers in virtual time.

use std::time::Duration;

use weir_api::{
    model::{Forwarding, Protocol, Service},
    protocol::Change,
};
use weirctl::commands::Wake;

use crate::{
    questions::busy,
    rig::{
        Options, Rig, WAN,
        frames::{self, Tcp},
    },
    world::{Outcome, Script, Shared, VIP, run, server, tcp},
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

/// Sends a segment of client `n`; the last byte of the server's address that it was sent to.
fn segment(rig: &mut Rig, n: u8, port: u16, flags: &str) -> Option<u8> {
    let segment = Tcp { flags, seq: 1, ack: 1 };
    let sent = rig.send(WAN, &frames::tcp(WAN, ([10, 1, 0, n], port), (VIP, 80), segment, &[]));
    sent.first().map(|sent| sent.bytes[33])
}

/// Ten clients, five at each server, whose sessions were opened and reset.
fn reset() -> Rig {
    let mut rig = Rig::with(&Options::default());
    rig.add_service(Protocol::Tcp, VIP, 80, "rr", false);
    for n in [1, 2] {
        rig.add_server(tcp(80), weir_api::model::Server { forwarding: Forwarding::Route, ..server(n, 5) });
    }
    for n in 0..10 {
        assert!(["S", "A", "R"].into_iter().all(|flags| segment(&mut rig, n, 40_000, flags).is_some()));
    }
    rig
}

/// Sessions in CLOSE last ten seconds.
pub fn sessions_that_only_wait_to_expire_are_not_waited_for() {
    let shared = Shared::new(reset());
    let mut pace = shared.pace();
    let outcome = drain(&shared, &mut pace, "");
    assert_eq!((outcome.status, pace.now), (0, Duration::ZERO), "{outcome:?}");
    let said = "carries no more data after 0s, 5 more only wait to expire; undo: ";
    assert!(outcome.out.contains(said), "{outcome:?}");
    let last = drain(&shared, &mut shared.pace(), "--json").json();
    assert_eq!((&last["sessions"], &last["closing"]), (&0.into(), &5.into()));
    let mut pace = shared.pace();
    let outcome = drain(&shared, &mut pace, "--all-sessions");
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert!(pace.now >= Duration::from_secs(9) && outcome.out.contains("is empty after"), "{outcome:?}");
    // One that may carry data still is waited for, whatever the others do.
    let shared = Shared::new(reset());
    shared.0.borrow_mut().change(Change::DeleteServer {
        service: tcp(80),
        address: [10, 0, 0, 2].into(),
        port: 8080,
    });
    segment(&mut shared.0.borrow_mut(), 77, 40_000, "S");
    let outcome = drain(&shared, &mut shared.pace(), "--timeout 3s");
    assert_eq!(outcome.status, 4);
    let said = "with 1 sessions left, 5 more only wait to expire; undo: ";
    assert!(outcome.err.contains(said), "{outcome:?}");
}

/// A service that keeps its clients, with a session of each of twelve.
fn keeping() -> Rig {
    let mut rig = Rig::with(&Options { workers: 3, ..Options::default() });
    rig.add_service(Protocol::Tcp, VIP, 80, "rr", true);
    for n in [1, 2] {
        rig.add_server(tcp(80), server(n, 5));
    }
    let plain = rig.service(tcp(80));
    rig.change(Change::EditService(Service { persistent: Some(1000), ..plain }));
    for n in 0..12 {
        segment(&mut rig, n, 40_000, "S");
    }
    rig
}

/// The clients whose next session is opened at the first server.
fn kept(rig: &mut Rig, port: u16) -> usize {
    (0..12).filter(|n| segment(rig, *n, port, "S") == Some(1)).count()
}

pub fn templates_are_reported_and_ended() {
    let shared = Shared::new(keeping());
    let outcome = drain(&shared, &mut shared.pace(), "--timeout 2s");
    assert_eq!(outcome.status, 4, "{outcome:?}");
    let before = kept(&mut shared.0.borrow_mut(), 41_000);
    assert!(before >= 4, "templates lead {before} clients there still");
    let told = format!("{before} persistence templates lead clients to it (--templates ends them); undo: ");
    assert!(outcome.err.contains(&told), "{outcome:?}");
    let outcome = drain(&shared, &mut shared.pace(), "--timeout 3m");
    assert!(outcome.status == 0 && outcome.out.contains(&told), "{outcome:?}");

    let shared = Shared::new(keeping());
    let outcome = drain(&shared, &mut shared.pace(), "--templates --json --timeout 1s");
    let last: serde_json::Value = serde_json::from_str(outcome.out.lines().last().unwrap()).unwrap();
    assert_eq!((&last["templates_ended"], &last["templates"]), (&before.into(), &0.into()), "{last}");
    assert_eq!(last["sessions"], before, "they go on");
    assert_eq!(kept(&mut shared.0.borrow_mut(), 41_000), 0, "on every worker");
    assert_eq!(drain(&shared, &mut shared.pace(), "").status, 0);
    assert!(shared.0.borrow_mut().server_counts(tcp(80), [10, 0, 0, 2]).2 >= 12, "all are kept by the other");
}

pub fn killing_ends_templates_too() {
    let shared = Shared::new(keeping());
    let outcome = drain(&shared, &mut shared.pace(), "--kill-after 0s");
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert!(outcome.out.contains(" sessions were ended, ") && outcome.out.contains(" templates were ended"));
    assert_eq!(kept(&mut shared.0.borrow_mut(), 41_000), 0);
}

/// Whatever weight somebody gives meanwhile is left alone, and its sessions are.
pub fn a_weight_given_meanwhile_stays() {
    let shared = Shared::new(busy(10));
    let mut given = false;
    let outcome = shared.run_while(&format!("drain {SERVER} --kill-after 2s"), move |rig| {
        if !std::mem::replace(&mut given, true) {
            rig.change(Change::EditServer { service: tcp(80), server: server(1, 3) });
        }
    });
    assert_eq!((outcome.status, weight(&shared)), (1, 3), "{outcome:?}");
    assert!(outcome.err.contains("weight 3 meanwhile: it isn't drained any more"), "{outcome:?}");
    assert_eq!(shared.0.borrow().session_count(), 10, "nothing was ended");
    // What drain had remembered is forgotten with it.
    assert_eq!((shared.run(&format!("undrain {SERVER}")).status, weight(&shared)), (1, 3));
}

pub fn draining_twice_remembers_the_weight() {
    let shared = Shared::new(busy(0));
    for _ in 0..2 {
        assert_eq!(drain(&shared, &mut shared.pace(), "").status, 0);
    }
    assert_eq!((shared.run(&format!("undrain {SERVER}")).status, weight(&shared)), (0, 5));
    // One that has weight 0 by somebody's hand has none to remember.
    shared.0.borrow_mut().change(Change::EditServer { service: tcp(80), server: server(1, 0) });
    assert_eq!(drain(&shared, &mut shared.pace(), "").status, 0);
    assert_eq!((shared.run(&format!("undrain {SERVER}")).status, weight(&shared)), (1, 0));
}
