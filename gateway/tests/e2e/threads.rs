//! A thread that the gateway can't do without ends: so does the process, with the reason.

use std::{os::unix::net::UnixStream, time::Duration};

use crate::scene::{Scene, programs};
use lab::{
    gateway::Gateway,
    process::wait_until,
    topology::{self, Options},
};

const THREADS: [&str; 5] = ["control", "netlink", "punt", "socket", "worker"];

/// Has `thread` end in a running gateway, by a panic or otherwise.
fn ends(thread: &str, how: &str) {
    let network = topology::fullnat(&Options::workers(2));
    let trigger = network.lab.directory().join("fault");
    let mut command = network.gateway.command(programs().weir);
    command.env("WEIR_FAULT", format!("{thread}:{how}:{}", trigger.display()));
    let gateway = Gateway::start_as(&programs(), &network.lab, &network.config, command, None);
    let mut scene = Scene { gateway, web: Vec::new(), network };
    std::fs::write(&trigger, "").expect("a file in the lab");
    // What wakes the threads that sleep.
    let _peer = UnixStream::connect(&scene.network.config.socket);
    let mut twin = scene.network.twins.command("ip");
    let _ = twin.args(["address", "add", "192.0.2.77/32", "dev", "wan"]).output();
    let status = scene.gateway.process().wait(Duration::from_secs(10));
    let log = scene.gateway.process().log();
    assert_eq!(status.code(), Some(1), "{thread} {how}: {status}\n{log}");
    let named = log.lines().filter(|line| line.contains(&format!("the thread `{thread}"))).count();
    assert_eq!(named, 1, "{thread} {how}: not one line that says which\n{log}");
    let why = if how == "panic" { "a fault for a test" } else { "ended" };
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with("weir: the thread `") && last.contains(why), "{thread} {how}: {last}");
    wait_until("the twins to go", Duration::from_secs(5), || {
        (!scene.network.twins.ip("-br link").contains("wan")).then_some(())
    });
}

#[test]
fn by_a_panic() {
    for thread in THREADS.iter().chain(&["control-peer"]) {
        ends(thread, "panic");
    }
}

#[test]
fn by_itself() {
    THREADS.iter().for_each(|thread| ends(thread, "end"));
}
