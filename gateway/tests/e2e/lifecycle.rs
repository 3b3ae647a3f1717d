//! The gateway as a process: it starts once, and leaves nothing behind.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::scene::{Scene, Visitor, programs};
use lab::{
    Namespace,
    gateway::Gateway,
    process::{output, text},
    topology::{self, LIP, Options, VIP},
};

/// Links of a namespace but loopback.
fn links(namespace: &Namespace) -> Vec<String> {
    let all = namespace.ip("-br link");
    all.lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|l| *l != "lo")
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_second_gateway_on_the_same_socket_is_refused() {
    let scene = Scene::fullnat(&Options::default());
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let mut visitor = Visitor::connect(&scene);
    let file = scene.network.lab.directory().join("weir.toml");
    let mut again = scene.network.gateway.command(programs().weir);
    let output = output(again.arg("--config").arg(file));
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("weir.sock"), "the socket isn't named: {text}");
    assert_eq!(visitor.ask().expect("the first one isn't disturbed"), "RS1");
    assert_eq!(links(&scene.network.twins), ["wan", "lan"]);
    scene.gateway.ctl("-Ln");
    scene.gateway.stop();
}

/// Twins, socket, addresses and routes go; the ports' veths stay as they were.
#[test]
fn sigterm_leaves_nothing_behind() {
    leaves_nothing_behind(Signal::SIGTERM);
}

#[test]
fn sigint_leaves_nothing_behind() {
    leaves_nothing_behind(Signal::SIGINT);
}

fn leaves_nothing_behind(signal: Signal) {
    let mut scene = Scene::fullnat(&Options::default());
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    let mut visitor = Visitor::connect(&scene);
    assert!(visitor.ask().is_ok());
    assert_eq!(links(&scene.network.twins), ["wan", "lan"]);
    let addresses = scene.network.twins.ip("-br address");
    for address in [VIP, LIP] {
        assert!(addresses.contains(&format!("{address}/32")), "{address} is missing: {addresses}");
    }
    let before = scene.network.gateway.ip("-br link");
    scene.gateway.process().signal(signal);
    let status = scene.gateway.process().wait(Duration::from_secs(10));
    assert!(status.success(), "{status}\n{}", scene.gateway.process().log());
    assert_eq!(links(&scene.network.twins), Vec::<String>::new());
    assert!(!scene.network.twins.ip("address").contains(VIP));
    assert_eq!(scene.network.gateway.ip("-br link"), before);
    assert!(!scene.network.config.socket.exists(), "the socket is still there");
}

/// A crash leaves a stale socket; the next start takes it over.
#[test]
fn it_starts_again_after_a_crash() {
    let mut scene = Scene::fullnat(&Options::default());
    scene.gateway.process().kill();
    assert!(scene.network.config.socket.exists(), "a crash has no time to tidy up");
    let network = &scene.network;
    scene.gateway = Gateway::start(&programs(), &network.lab, &network.gateway, &network.config);
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    assert_eq!(scene.answers(2), ["RS1", "RS1"]);
    scene.gateway.stop();
}

/// The session tables' memory is there once the gateway is ready, unless it's said otherwise: 80 MiB for 1 048 576 sessions.
#[test]
fn the_session_tables_memory_is_provided_at_start() {
    let resident = |extra: &str| {
        let mut network = topology::fullnat(&Options::default());
        assert_eq!(network.config.workers, 1);
        network.config.extra.push_str(extra);
        let mut gateway = Gateway::start(&programs(), &network.lab, &network.gateway, &network.config);
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process().id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a resident size");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        gateway.stop();
        kib / 1024
    };
    let (without, with) = (resident("[sessions]\nprefault = false\n"), resident(""));
    // 96 bytes for each of a million sessions.
    assert!((94..106).contains(&with.saturating_sub(without)), "{with} MiB beside {without}");
}

/// What `-S` prints, `rules` loads.
#[test]
fn saved_rules_start_the_next_gateway() {
    let mut network = topology::fullnat(&Options::default());
    let first = Gateway::start(&programs(), &network.lab, &network.gateway, &network.config);
    for rule in crate::scene::rules(&network, "-t", 80, "wrr", &[(0, 4), (1, 3)]) {
        first.ctl(&rule);
    }
    let (saved, table) = (first.ctl("-S -n"), first.ctl("-Ln"));
    first.stop();
    network.config.rules = saved.lines().map(str::to_owned).collect();
    let second = Gateway::start(&programs(), &network.lab, &network.gateway, &network.config);
    assert_eq!(second.ctl("-Ln"), table);
    assert_eq!(second.ctl("-S -n"), saved);
    second.stop();
}

/// Nobody can talk the gateway down: garbage, half a message and an idle peer on the socket.
#[test]
fn a_broken_peer_disturbs_nobody() {
    use std::{io::Write, os::unix::net::UnixStream};
    let scene = Scene::fullnat(&Options::default());
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let connect = || UnixStream::connect(&scene.network.config.socket).expect("the socket takes connections");
    let _idle = connect();
    for garbage in [&[0xff; 4096][..], b"GET / HTTP/1.1\r\n\r\n", &[0, 0, 0], &u32::MAX.to_le_bytes()] {
        let mut peer = connect();
        let _ = peer.write_all(garbage);
        scene.gateway.ctl("-Ln");
        assert_eq!(scene.answers(1), ["RS1"]);
    }
    scene.gateway.stop();
}
