//! A hop with a smaller MTU, before the gateway and behind it: the ICMP error about a translated packet must
//! reach who sent it, in the sender's own terms.

use std::path::PathBuf;

use crate::scene::{Scene, with_one_and_two_workers};
use lab::{
    Namespace, clients, servers,
    topology::{self, LIP, Options, VIP},
};

with_one_and_two_workers!(
    uploads_fit_through_a_hop_behind_the_gateway,
    uploads_with_toa_fit_through_a_hop_behind_the_gateway,
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
    assert_learnt(&scene.network.client, VIP, MTU);
    assert!(scene.gateway.counter("icmp-translated") > 0);
    scene.gateway.stop();
}

/// Of an upload every segment has the option, until the server says something: the client has to leave room for it.
fn uploads_with_toa_fit_through_a_hop_behind_the_gateway(workers: u16) {
    let scene = Scene::fullnat(&Options { far_mtu: Some(MTU), ..Options::workers(workers) });
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    scene.gateway.ctl(&format!("client-address tcp/{VIP}:80 toa"));
    let original = file(&scene);
    clients::upload(&scene.network.client, &original, &format!("http://{VIP}/upload/big"));
    assert_eq!(clients::sha256(&scene.web[0].upload("big")), clients::sha256(&original));
    assert_learnt(&scene.network.client, VIP, MTU - 8);
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
    assert_learnt(&scene.network.servers[0].namespace, LIP, MTU);
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
    assert_learnt(&scene.network.client, VIP, MTU);
    assert!(scene.gateway.counter("too-big") > 0);
    assert!(scene.network.twins.ip("link show lan").contains(&format!("mtu {MTU}")));
    scene.gateway.stop();
}

fn file(scene: &Scene) -> PathBuf {
    let original = scene.network.lab.directory().join("original");
    clients::random_file(&original, 10);
    original
}

/// The kernel of `host` knows this MTU for the path to `address`.
fn assert_learnt(host: &Namespace, address: &str, mtu: u32) {
    let route = host.ip(&format!("route get {address}"));
    assert!(
        route.contains(&format!("mtu {mtu}")),
        "no fragmentation-needed reached {}: {route}",
        host.name()
    );
}

/// Datagrams larger than any link takes come in fragments, both ways, and leave so. With several queues AF_PACKET joins
/// them itself and has no room for the whole, so this is for one worker.
#[test]
fn fragmented_datagrams_pass() {
    for ipv6 in [false, true] {
        let scene = Scene::fullnat(&Options { ipv6, ..Options::default() });
        let of = |v4: &str| if ipv6 { topology::six(v4) } else { v4.to_owned() };
        let at = |v4: &str, port| if ipv6 { format!("[{}]:{port}", of(v4)) } else { format!("{v4}:{port}") };
        let server = &scene.network.servers[0];
        let _iperf = servers::iperf(&scene.network.lab, server);
        for kind in ["-t", "-u"] {
            let service = format!("{kind} {}", at(VIP, 5201));
            scene.gateway.ctl(&format!("-A {service} -s rr"));
            scene.gateway.ctl(&format!("-P {service} -z {}", of(LIP)));
            let server = at(&server.address.to_string(), 5201);
            scene.gateway.ctl(&format!("-a {service} -r {server} --fullnat"));
        }
        for reverse in ["", "--reverse"] {
            let options = format!("--udp --length 4000 --bitrate 20M {reverse}");
            let seen = clients::iperf(&scene.network.client, &of(VIP), &options, 1);
            assert!(
                seen.bits > 1e6 && seen.lost < 5.0,
                "{options}: {seen:?}\n{}",
                scene.gateway.ctl("stats")
            );
        }
        scene.gateway.stop();
    }
}
