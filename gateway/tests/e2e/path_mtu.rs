//! A hop with a smaller MTU, before the gateway and behind it: the ICMP error about a translated packet must
//! reach who sent it, in the sender's own terms.

use std::path::PathBuf;

use crate::scene::{Scene, with_one_and_two_workers};
use lab::{
    Namespace, clients,
    topology::{self, LIP, Options, VIP},
};

with_one_and_two_workers!(
    uploads_fit_through_a_hop_behind_the_gateway,
    downloads_fit_through_a_hop_before_the_gateway
);

/// MTU of the narrow link.
const MTU: u32 = 1300;

/// The router behind the gateway tells LIP; the client must be told about VIP.
fn uploads_fit_through_a_hop_behind_the_gateway(workers: u16) {
    let scene = Scene::fullnat(&Options { far_mtu: Some(MTU), ..Options::workers(workers) });
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let original = file(&scene);
    clients::upload(&scene.network.client, &original, &format!("http://{VIP}/upload/big"));
    assert_eq!(clients::sha256(&scene.web[0].upload("big")), clients::sha256(&original));
    assert_learnt(&scene.network.client, VIP);
    assert!(scene.gateway.counter("icmp-translated") > 0);
    scene.gateway.stop();
}

/// The router before the gateway tells VIP; the server must be told about LIP.
fn downloads_fit_through_a_hop_before_the_gateway(workers: u16) {
    let scene = Scene::fullnat(&Options { near_mtu: Some(MTU), ..Options::workers(workers) });
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let (original, copy) = (file(&scene), scene.network.lab.directory().join("copy"));
    std::fs::copy(&original, scene.web[0].page("big")).expect("the scratch directory has room");
    clients::download(&scene.network.client, &format!("http://{VIP}/big"), &copy);
    assert_eq!(clients::sha256(&copy), clients::sha256(&original));
    assert_learnt(&scene.network.servers[0].namespace, LIP);
    assert!(scene.gateway.counter("icmp-translated") > 0);
    scene.gateway.stop();
}

/// The gateway's own port is the narrow one: it tells the client itself, and its twin says the same.
#[test]
fn a_narrow_port_of_the_gateway_tells_the_client() {
    let mut network = topology::fullnat(&Options::default());
    network.config.ports[1].mtu = Some(MTU as u16);
    network.beyond.ip(&format!("link set up0 mtu {MTU}"));
    let scene = Scene::of(network);
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let original = file(&scene);
    clients::upload(&scene.network.client, &original, &format!("http://{VIP}/upload/big"));
    assert_eq!(clients::sha256(&scene.web[0].upload("big")), clients::sha256(&original));
    assert_learnt(&scene.network.client, VIP);
    assert!(scene.gateway.counter("too-big") > 0);
    assert!(scene.network.twins.ip("link show lan").contains(&format!("mtu {MTU}")));
    scene.gateway.stop();
}

fn file(scene: &Scene) -> PathBuf {
    let original = scene.network.lab.directory().join("original");
    clients::random_file(&original, 10);
    original
}

/// The kernel of `host` knows the narrow link's MTU for the path to `address`.
fn assert_learnt(host: &Namespace, address: &str) {
    let route = host.ip(&format!("route get {address}"));
    assert!(
        route.contains(&format!("mtu {MTU}")),
        "no fragmentation-needed reached {}: {route}",
        host.name()
    );
}
