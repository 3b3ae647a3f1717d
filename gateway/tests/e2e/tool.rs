//! The modern words of `weirctl` on a gateway that forwards.

use lab::topology::{LIP, Options, VIP};
use serde_json::Value;

use crate::scene::{Scene, Visitor, with_one_and_two_workers};

with_one_and_two_workers!(
    status_shows_ports_workers_and_local_addresses,
    a_file_is_applied_without_disturbing_sessions,
    drain_ends_the_sessions_that_are_left,
);

fn json(scene: &Scene, line: &str) -> Value {
    let text = scene.gateway.ctl(line);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|e| panic!("{line}: {e}: {text}"))
}

fn status_shows_ports_workers_and_local_addresses(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    let mut visitors: Vec<Visitor> = (0..4).map(|_| Visitor::connect(&scene)).collect();
    visitors.iter_mut().for_each(|visitor| drop(visitor.ask().expect("an answer")));
    // Ports are looked at twice a second; each of these calls takes a fifth of one.
    let has_counted = |status: &Value| {
        let ports = status["ports"].as_array().expect("an array");
        ports.iter().all(|port| port["rx_packets"].as_u64() > Some(0))
    };
    let status =
        (0..10).map(|_| json(&scene, "status --json")).find(has_counted).expect("frames are counted");
    let array = |key: &str| status[key].as_array().expect("an array");
    assert!(!array("ports").is_empty());
    for port in array("ports") {
        assert_eq!(port["up"], true, "{port}");
        assert!(port["mtu"].as_u64() >= Some(1280), "{port}");
        assert!(port["buffers_used"].as_u64() <= port["buffers"].as_u64(), "{port}");
    }
    assert_eq!(array("workers").len(), usize::from(workers));
    let sessions: u64 = array("workers").iter().filter_map(|w| w["sessions"].as_u64()).sum();
    assert_eq!(sessions, 4);
    assert_eq!(array("local_addresses")[0]["address"], LIP.to_string());
    assert_eq!(array("local_addresses")[0]["used"], 4);
    let sessions = json(&scene, "sessions --json --state ESTABLISHED");
    assert_eq!(sessions["count"], 4, "{sessions}");
    assert_eq!(sessions["sessions"][0]["local"]["address"], LIP.to_string());
    assert!(scene.gateway.ctl("status").contains(" sessions"));
    scene.gateway.stop();
}

fn a_file_is_applied_without_disturbing_sessions(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    let mut visitor = Visitor::connect(&scene);
    let name = visitor.ask().expect("an answer");
    let file = scene.network.lab.directory().join("rules.toml");
    let export = scene.gateway.ctl("export");
    std::fs::write(&file, export.replace("scheduler = \"rr\"", "scheduler = \"wlc\"")).expect("a file");
    let path = file.display();
    assert!(scene.gateway.ctl(&format!("diff {path}")).contains("scheduler rr -> wlc"));
    let applied = json(&scene, &format!("apply --json {path}"));
    assert_eq!(applied["changed"], true);
    assert!(scene.gateway.ctl("-Ln").contains(&format!("{VIP}:80 wlc")));
    assert_eq!(visitor.ask().expect("the connection goes on"), name);
    scene.gateway.stop();
}

fn drain_ends_the_sessions_that_are_left(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let mut visitor = Visitor::connect(&scene);
    visitor.ask().expect("an answer");
    let server = scene.network.servers[0].at(80);
    let drained = json(&scene, &format!("drain tcp/{VIP}:80 {server} --kill-after 1s --json"));
    assert_eq!((&drained["state"], &drained["killed"]), (&"drained".into(), &1.into()), "{drained}");
    assert!(visitor.ask().is_err(), "a killed session goes on");
    assert!(scene.gateway.ctl(&format!("undrain tcp/{VIP}:80 {server}")).contains("has weight 1"));
    assert_eq!(scene.answers(1), ["RS1"]);
    scene.gateway.stop();
}
