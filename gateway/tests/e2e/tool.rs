//! `weirctl`'s own commands on a gateway that forwards.

use std::process::Command;

use lab::{
    process::{Process, must, wait_until},
    topology::{LIP, Options, VIP},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::scene::{Scene, Visitor, programs, with_one_and_two_workers};

with_one_and_two_workers!(
    status_shows_ports_workers_and_local_addresses,
    the_doctor_finds_what_is_wrong_until_it_is_mended,
    a_file_is_applied_without_disturbing_sessions,
    everything_is_saved_and_comes_back,
    drain_ends_the_sessions_that_are_left,
    explain_foretells_what_happens,
    a_trace_follows_real_packets_and_tshark_reads_it,
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

fn the_doctor_finds_what_is_wrong_until_it_is_mended(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    let twins = &scene.network.twins;
    let doctor = || {
        let mut command = twins.command(programs().weirctl);
        command.env("WEIR_SOCKET", &scene.network.config.socket).args(["doctor", "--json"]);
        let output = lab::process::output(&mut command);
        let document: Value = serde_json::from_slice(&output.stdout).expect("a document");
        (output.status.code(), document["findings"].as_array().expect("an array").clone())
    };
    let about = |topic: &str| -> Vec<String> {
        let of = doctor().1.into_iter().filter(|finding| finding["topic"] == topic);
        of.map(|finding| finding["what"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(about("gateway"), [""; 0]);
    assert_eq!(about("rp_filter"), [""; 0]);
    twins.sysctl("net.ipv4.conf.lan.rp_filter", 1);
    assert_eq!(about("rp_filter"), ["the kernel filters strictly by reverse path on the twin lan"]);
    twins.sysctl("net.ipv4.conf.lan.rp_filter", 0);
    assert_eq!(about("rp_filter"), [""; 0]);

    assert_eq!(about("timeouts"), [""; 0]);
    scene.gateway.ctl("--set 60 90 0");
    assert_eq!(
        about("timeouts"),
        ["TCP connections are kept 90 s while they close, and 60 s while they are open"]
    );
    scene.gateway.ctl("--set 900 120 0");
    assert_eq!(about("timeouts"), [""; 0]);

    // Device and twin are on no PCI bus, and the workers have their CPUs to themselves on no machine for tests.
    assert_eq!(about("iommu"), [""; 0]);
    scene.gateway.stop();
    let (status, findings) = doctor();
    let topics: Vec<_> = findings.iter().filter_map(|finding| finding["topic"].as_str()).collect();
    assert_eq!((status, topics), (Some(2), vec!["gateway"]));
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

/// `export | apply` and `-S | -R`, on a gateway that has lost all of it.
fn everything_is_saved_and_comes_back(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "wrr", &[(0, 3), (1, 1)]);
    let gateway = &scene.gateway;
    for line in [
        &format!("client-address tcp/{VIP}:80 toa"),
        "mark add 7 --protocol udp --destination 198.51.100.0/24 --port wan",
        "-A -f 7 -s sh -b sh-port -p 60 -M 255.255.255.0",
        "snat add office --inside 10.77.0.0/16 --port wan --pool 198.51.100.1-198.51.100.3 --timeout-udp 150",
        "snat add home --inside 10.78.0.0/16 --port wan --pool port",
        "--set 600 60 90",
    ] {
        gateway.ctl(line);
    }
    let lose = || {
        for line in ["-C", "mark clear", "snat clear", "--set 900 120 300"] {
            gateway.ctl(line);
        }
    };
    let without_generation = |text: String| text.split_once('\n').expect("lines").1.to_owned();
    let exported = without_generation(gateway.ctl("export"));
    let saved = gateway.ctl("-S -n");
    assert!(saved.contains("--set 600 60 90\n"), "{saved}");
    let file = scene.network.lab.directory().join("backup.toml");
    std::fs::write(&file, &exported).expect("a file");
    lose();
    gateway.ctl(&format!("apply {}", file.display()));
    assert_eq!(without_generation(gateway.ctl("export")), exported);
    assert_eq!(gateway.ctl("-S -n"), saved);
    lose();
    std::fs::write(&file, &saved).expect("a file");
    let rules = std::fs::File::open(&file).expect("the file");
    let restored = gateway.ctl_command("-R").stdin(rules).output().expect("weirctl runs");
    assert_eq!(String::from_utf8_lossy(&restored.stderr), "");
    assert_eq!(gateway.ctl("-S -n"), saved);
    assert!(Visitor::connect(&scene).ask().is_ok());
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

fn explain_foretells_what_happens(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let client = scene.network.client_addresses[0];
    let ahead = json(&scene, &format!("explain tcp {client}:50000 {VIP}:80 --json"));
    assert_eq!((&ahead["verdict"], &ahead["session"]), (&"forwarded".into(), &Value::Null), "{ahead}");
    let server = scene.network.servers[0].address.to_string();
    assert_eq!(ahead["server"]["address"], server, "{ahead}");
    let mut visitor = Visitor::connect(&scene);
    visitor.ask().expect("an answer");
    let port = json(&scene, "sessions --json")["sessions"][0]["client"]["port"].clone();
    let known = json(&scene, &format!("explain tcp {client}:{port} {VIP}:80 --ack --json"));
    assert_eq!(known["session"]["state"], "ESTABLISHED", "{known}");
    assert!(known["way"]["mac"].is_string(), "{known}");
    scene.gateway.ctl(&format!("-e -t {VIP}:80 -r {server}:80 --fullnat -w 0"));
    let refused = scene.gateway.ctl(&format!("explain tcp {client}:50000 {VIP}:80"));
    assert!(refused.contains("dropped as no-server") && refused.contains("weight 0"), "{refused}");
    scene.gateway.stop();
}

fn a_trace_follows_real_packets_and_tshark_reads_it(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    // The next hops are known from here on: no packet waits for them.
    assert_eq!(scene.answers(1), ["RS1"]);
    let file = scene.network.lab.directory().join("trace.pcapng");
    let limit = std::time::Duration::from_secs(20);
    let line = format!("trace --service-port 80 --json --pcap {}", file.display());
    let mut command = scene.gateway.ctl_command(&line);
    let mut tracing = Process::start("trace", &mut command, &scene.network.lab.directory().join("trace.log"));
    wait_until("the trace to begin", limit, || tracing.log().contains("tracing packets").then_some(()));
    assert_eq!(scene.answers(1), ["RS1"]);
    tracing.signal(Signal::SIGINT);
    let text = tracing.rest(limit);
    assert!(tracing.wait(limit).success());
    let packets: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a document a line")).collect();
    assert!(packets.len() >= 8, "{text}");
    // With two workers the one that receives a packet may hand it over to the one that forwards it.
    let opens = |p: &&Value| p["tcp_flags"] == "S" && p["verdict"] == "forwarded";
    let request = packets.iter().find(opens).expect("a SYN is among them");
    assert_eq!(request["before"]["destination"]["address"], VIP.to_string());
    assert_eq!(request["after"]["source"]["address"], LIP.to_string());
    let comments =
        must(Command::new("tshark").args(["-T", "fields", "-e", "frame.comment", "-r"]).arg(&file));
    assert!(comments.lines().count() >= 8 && comments.contains("forwarded"), "{comments}");
    scene.gateway.stop();
}

/// Who changed what is in the log, as the line of ipvsadm's that asks for it; what was refused isn't.
#[test]
fn changes_are_logged_with_who_made_them() {
    let mut scene = Scene::fullnat(&Options::default());
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    scene.gateway.ctl("-C");
    let changed = format!("changed: -A -t {VIP}:80 -s rr");
    let log = wait_until("the log", std::time::Duration::from_secs(5), || {
        let log = scene.gateway.process().log();
        log.contains("changed: -C").then_some(log)
    });
    let line = log.lines().find(|line| line.contains(&changed)).unwrap_or_else(|| panic!("{changed}: {log}"));
    assert!(line.contains("pid=") && line.contains("uid=0"), "{line}");
    assert!(log.contains(&format!("changed: -a -t {VIP}:80 -r ")), "{log}");
    scene.gateway.stop();
}
