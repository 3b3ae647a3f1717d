//! `weirctl log sessions` beside a gateway that forwards.

use std::{collections::HashMap, time::Duration};

use lab::{
    process::{Process, wait_until},
    topology::{LIP, Options, VIP},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::scene::{Scene, with_one_and_two_workers};

with_one_and_two_workers!(
    sessions_are_logged_as_they_come_and_go,
    a_reader_that_stops_loses_records_and_one_that_is_killed_ends_the_log,
);

const LIMIT: Duration = Duration::from_secs(30);
/// What the gateway says when nobody has read for a while.
const ENDED: &str = "the session log ended";

fn reader(scene: &Scene, name: &str, options: &str) -> Process {
    let mut command = scene.gateway.ctl_command(&format!("log sessions {options}"));
    let reader = Process::start(name, &mut command, &scene.network.lab.directory().join(name));
    wait_until("the log to begin", LIMIT, || reader.log().contains("logging sessions").then_some(()));
    reader
}

/// Waits until the log has ended for want of readers, for the `times`th time.
fn wait_for_end(scene: &mut Scene, times: usize) {
    wait_until("the log to end", LIMIT, || {
        let log = scene.gateway.process().log();
        (log.matches(ENDED).count() == times).then_some(())
    });
}

/// The next records of a kind.
fn records(reader: &mut Process, event: &str, times: usize) -> Vec<Value> {
    let mut next = || {
        let wanted = |line: &str| {
            let record: Value = serde_json::from_str(line).expect("a document a line");
            (record["event"] == event).then_some(record)
        };
        reader.wait_for(event, LIMIT, wanted).unwrap_or_else(|log| panic!("no {event}: {log}"))
    };
    (0..times).map(|_| next()).collect()
}

fn sessions_are_logged_as_they_come_and_go(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    assert_eq!(scene.answers(1).len(), 1);
    let mut all = reader(&scene, "all", "");
    let mut of_other = reader(&scene, "of-other", "--client 203.0.113.0/24 --timeout 2s");
    assert_eq!(scene.answers(12).len(), 12);
    let opened = records(&mut all, "opened", 12);
    let mut open = HashMap::new();
    for record in &opened {
        assert_eq!((&record["method"], &record["protocol"]), (&"fullnat".into(), &"tcp".into()), "{record}");
        assert_eq!(record["service"], format!("tcp/{VIP}:80"), "{record}");
        assert_eq!(record["local"]["address"], LIP.to_string(), "{record}");
        let server = record["server"]["address"].as_str().unwrap_or_default().to_owned();
        assert!(scene.network.servers.iter().any(|host| host.address.to_string() == server), "{record}");
        assert!(record["worker"].as_u64() < Some(workers.into()), "{record}");
        open.insert(record["client"]["port"].clone(), record.clone());
    }
    assert_eq!(open.len(), 12, "each has a port of its own");
    let of_workers = (0..u64::from(workers)).filter(|n| opened.iter().any(|r| r["worker"] == *n));
    assert_eq!(of_workers.count(), usize::from(workers), "{opened:?}");
    scene.gateway.ctl("sessions --kill --all");
    // The one that was open before has an end, too.
    let closed = records(&mut all, "closed", 13);
    for record in &closed {
        let Some(first) = open.remove(&record["client"]["port"]) else { continue };
        for key in ["client", "virtual", "local", "server", "worker", "service"] {
            assert_eq!(record[key], first[key], "{record}");
        }
        let at = |record: &Value| record["time_us"].as_u64().expect("a time") / 1000;
        let (lasted, said) = (at(record) - at(&first), record["duration_ms"].as_u64().expect("a duration"));
        assert!(lasted.abs_diff(said) <= 200, "{record} {first}");
    }
    assert!(open.is_empty(), "{open:?}");
    all.signal(Signal::SIGINT);
    assert!(all.wait(LIMIT).success());
    assert!(of_other.wait(LIMIT).success());
    assert_eq!(of_other.rest(LIMIT), "");
    scene.gateway.stop();
}

fn a_reader_that_stops_loses_records_and_one_that_is_killed_ends_the_log(workers: u16) {
    let mut scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    assert_eq!(scene.answers(1), ["RS1"]);
    let mut reader = reader(&scene, "reader", "");
    assert_eq!(scene.answers(1), ["RS1"]);
    records(&mut reader, "opened", 1);
    reader.signal(Signal::SIGSTOP);
    wait_for_end(&mut scene, 1);
    assert_eq!(scene.answers(3), ["RS1"; 3]);
    reader.signal(Signal::SIGCONT);
    let lost = records(&mut reader, "lost", 1);
    assert_eq!(lost[0]["count"], 3);
    assert_eq!(scene.answers(1), ["RS1"]);
    records(&mut reader, "opened", 1);
    reader.kill();
    wait_for_end(&mut scene, 2);
    assert_eq!(scene.answers(1), ["RS1"]);
    assert_eq!(scene.gateway.counter("session-log-lost"), 0);
    scene.gateway.stop();
}
