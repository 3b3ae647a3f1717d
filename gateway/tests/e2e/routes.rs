//! Routes: the kernel's decision counts, and the configured ones are the kernel's.

use std::time::Duration;

use lab::{
    clients,
    process::wait_until,
    topology::{Options, VIP},
};

use crate::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that the kernel reaches over an interface that is no port isn't reached by the port that it was behind; and
/// is, once that is over.
#[test]
fn a_better_route_over_another_interface_counts() {
    let scene = Scene::fullnat(&Options::default());
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    assert_eq!(scene.answers(2), ["RS1", "RS1"]);
    let (twins, server) = (&scene.network.twins, scene.network.servers[0].address);
    twins.ip("link add other type veth peer name other2");
    twins.ip("link set other2 up");
    twins.ip("link set other up");
    twins.ip(&format!("route add {server}/32 dev other"));
    wait_until("packets that lead elsewhere", PATIENCE, || {
        let refused = scene.connect(80, Duration::from_millis(200)).is_err();
        (refused && scene.gateway.counter("route-elsewhere") > 0).then_some(())
    });
    twins.ip("link set other down");
    wait_until("the port's route", PATIENCE, || scene.connect(80, Duration::from_millis(200)).ok().map(drop));
    assert_eq!(scene.answers(2), ["RS1", "RS1"]);
    scene.gateway.stop();
}

/// What asks from the twins, as health checks do, reaches servers by the routes of weir.toml.
#[test]
fn a_check_from_the_twins_goes_by_the_configured_routes() {
    let scene = Scene::fullnat(&Options::default());
    let (twins, server) = (&scene.network.twins, scene.network.servers[0].address);
    assert!(clients::curl(twins, &format!("http://{server}/")).starts_with("<h1>RS1"));
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    assert!(clients::curl(&scene.network.client, &format!("http://{VIP}/")).starts_with("<h1>RS1"));
    scene.gateway.stop();
    assert!(!scene.network.twins.ip("route show").contains("proto 87"));
}
