//! A thread that the gateway can't do without ends: so does the process, with the reason.

use std::{
    os::unix::net::{UnixDatagram, UnixStream},
    time::Duration,
};

use crate::scene::{Scene, programs};
use lab::{
    gateway::Gateway,
    process::wait_until,
    topology::{self, Options},
};

const THREADS: [&str; 5] = ["control", "netlink", "punt", "socket", "worker"];

/// Has `thread` end in a running gateway, by a panic or otherwise.
fn endpoints(thread: &str, how: &str) {
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
        endpoints(thread, "panic");
    }
}

#[test]
fn by_itself() {
    THREADS.iter().for_each(|thread| endpoints(thread, "end"));
}

/// Starts a gateway under a service manager's watchdog; returns what that hears.
fn watched(patience: Duration) -> (Scene, UnixDatagram, std::path::PathBuf) {
    let network = topology::fullnat(&Options::workers(2));
    let (trigger, path) = (network.lab.directory().join("fault"), network.lab.directory().join("notify"));
    let manager = UnixDatagram::bind(&path).expect("a socket in the lab");
    manager.set_read_timeout(Some(patience)).expect("an own socket");
    let mut command = network.gateway.command(programs().weir);
    command.env("WEIR_FAULT", format!("worker:hang:{}", trigger.display()));
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", patience.as_micros().to_string());
    let gateway = Gateway::start_as(&programs(), &network.lab, &network.config, command, None);
    (Scene { gateway, web: Vec::new(), network }, manager, trigger)
}

/// Whether the manager hears of the watchdog before its patience ends.
fn lives(manager: &UnixDatagram) -> bool {
    let mut message = [0; 512];
    while let Ok(length) = manager.recv(&mut message) {
        if message[..length].starts_with(b"WATCHDOG=1") {
            return true;
        }
    }
    false
}

/// The gateway tells that it lives while its workers poll, and only then.
#[test]
fn the_watchdog_hears_nothing_of_a_worker_that_hangs() {
    let (scene, manager, trigger) = watched(Duration::from_secs(4));
    assert!((0..4).all(|_| lives(&manager)), "nothing while all is well");
    std::fs::write(&trigger, "").expect("a file in the lab");
    assert!((0..4).any(|_| !lives(&manager)), "a worker hangs, and the watchdog is told that all is well");
    let said = scene.gateway.try_ctl("ready");
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!((said.status.code(), text.contains("doesn't poll")), (Some(4), true), "{text}");
    std::fs::remove_file(&trigger).expect("an own file");
    assert!(lives(&manager), "all is well again");
    assert!(scene.gateway.ctl("ready").starts_with("ready: 2 ports, 2 workers, "));
    scene.gateway.stop();
}
