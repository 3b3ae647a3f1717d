//! Neighbours that introduced themselves and then change or go: the kernel verifies those that packets go by.

use std::time::Duration;

use lab::{process::wait_until, topology::Options};

use crate::scene::Scene;

/// The kernel's probing: half a second of trust, a second of delay, three tries, and some seconds between its rounds.
const PROBING: Duration = Duration::from_secs(40);

/// The router's hardware address on the gateway's link.
const NEW: &str = "02:00:00:00:07:77";

#[test]
fn a_neighbour_that_asked_first_and_changes_its_mac_silently_is_found_again() {
    let scene = Scene::fullnat(&Options::default());
    let (router, twins) = (&scene.network.beyond, &scene.network.twins);
    let state = || twins.ip("neigh show 10.10.0.1 dev lan");
    for (setting, value) in
        [("delay_first_probe_time", 1), ("retrans_time_ms", 200), ("base_reachable_time_ms", 500)]
    {
        twins.sysctl(&format!("net.ipv4.neigh.lan.{setting}"), value);
    }
    router.run("busybox arping -c 1 -w 5 -I up0 10.10.0.3");
    wait_until("the neighbour to be stale", PROBING, || state().contains("STALE").then_some(()));

    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    assert_eq!(scene.answers(2).len(), 2);
    // It doesn't ask for the gateway's address with its new one.
    let gateway = twins.run("cat /sys/class/net/lan/address");
    let known = ["10.10.0.3", "10.10.0.200"]
        .map(|ip| format!("ip neigh replace {ip} lladdr {} nud permanent dev up0", gateway.trim()));
    let script = format!("ip link set up0 address {NEW} && {} && {}", known[0], known[1]);
    lab::process::must(router.command("sh").args(["-c", &script]));
    wait_until("traffic to resume", PROBING, || scene.connect(80, Duration::from_millis(300)).ok());
    assert!(state().contains(NEW), "{}", state());
    assert_eq!(scene.answers(2).len(), 2);
    scene.gateway.stop();
}

#[test]
fn a_neighbour_that_asked_first_and_dies_is_noticed() {
    let scene = Scene::fullnat(&Options::default());
    let (client, twins) = (&scene.network.client, &scene.network.twins);
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    for (setting, value) in
        [("delay_first_probe_time", 1), ("retrans_time_ms", 200), ("base_reachable_time_ms", 500)]
    {
        twins.sysctl(&format!("net.ipv4.neigh.wan.{setting}"), value);
    }
    // A ping would do for another reason: the kernel answers it, and verifies whom it has sent something itself.
    client.run("busybox arping -c 1 -w 5 -I eth0 192.168.80.3");
    let state = || twins.ip("neigh show 192.168.80.100 dev wan");
    wait_until("the client to be stale", PROBING, || state().contains("STALE").then_some(()));
    assert_eq!(scene.answers(1), ["RS1"]);
    client.ip("link set eth0 arp off");
    client.ip("link set eth0 address 02:00:00:00:07:78");
    wait_until("the client to be given up", PROBING, || {
        (state().contains("FAILED") || state().contains("INCOMPLETE")).then_some(())
    });
    scene.gateway.stop();
}
