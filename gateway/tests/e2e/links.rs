//! What the gateway's links may be like: VLANs, one for everything, next hops that change, tunnels to servers.

use std::time::Duration;

use crate::scene::{Scene, Visitor, count, server_name, with_one_and_two_workers};
use lab::{
    clients,
    process::wait_until,
    topology::{self, DIRECT_VIP, LIP, Options, VIP, six},
};

with_one_and_two_workers!(
    a_next_hop_changes_its_address,
    one_armed_in_the_servers_subnet,
    a_server_is_its_own_client,
    tunnels_between_the_families,
    large_uploads_fit_into_tunnels,
    large_uploads_fit_through_a_hop_behind_tunnels,
);

/// A router is replaced, or fails over to its twin: the address stays, the hardware is another.
fn a_next_hop_changes_its_address(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let mut visitor = Visitor::connect(&scene);
    assert_eq!(visitor.ask().expect("an answer"), "RS1");
    let router = &scene.network.beyond;
    router.sysctl("net.ipv4.conf.up0.arp_notify", 1);
    router.ip("link set up0 address 02:00:00:00:77:01");
    assert_eq!(visitor.ask().expect("the connection goes on"), "RS1");
    let twins = scene.network.twins.ip("neigh show 10.10.0.1");
    assert!(twins.contains("02:00:00:00:77:01"), "{twins}");
    assert_eq!(scene.answers(2), ["RS1", "RS1"]);
    scene.gateway.stop();
}

/// Clients, gateway and servers on one wire and in one subnet: the gateway has a single port.
fn one_armed_in_the_servers_subnet(workers: u16) {
    let scene = Scene::of(topology::direct_routing(&Options::workers(workers).and_ipv6()));
    let local = "192.168.80.50";
    for v6 in [false, true] {
        let of = |v4: &str| if v6 { format!("[{}]", six(v4)) } else { v4.to_owned() };
        let service = format!("-t {}:80", of(VIP));
        scene.gateway.ctl(&format!("-A {service} -s rr"));
        scene.gateway.ctl(&format!("-P {service} -z {}", of(local).trim_matches(['[', ']'])));
        for server in &scene.network.servers {
            scene.gateway.ctl(&format!("-a {service} -r {}:80 --fullnat", of(&server.address.to_string())));
        }
        let url = format!("http://{}/", of(VIP));
        let names: Vec<_> =
            (0..8).map(|_| server_name(&clients::curl(&scene.network.client, &url))).collect();
        assert!(count(&names, "RS1").abs_diff(4) <= 1, "{names:?}");
    }
    assert!(scene.web[0].clients().iter().any(|seen| seen == local), "{:?}", scene.web[0].clients());
    scene.gateway.stop();
}

/// A server that asks for the service it belongs to, and may get to itself.
fn a_server_is_its_own_client(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    scene.network.beyond.ip("route add 192.168.80.0/24 via 10.10.0.3");
    let server = &scene.network.servers[0].namespace;
    let url = format!("http://{VIP}/");
    let names: Vec<_> = (0..8).map(|_| server_name(&clients::curl(server, &url))).collect();
    assert!(count(&names, "RS1").abs_diff(4) <= 1, "{names:?}");
    assert!(scene.web[0].clients().iter().all(|seen| seen == LIP));
    scene.gateway.stop();
}

/// Packets of one family through tunnels of the other.
fn tunnels_between_the_families(workers: u16) {
    let scene = Scene::of(topology::direct_routing(&Options {
        tunnels: true,
        ..Options::workers(workers).and_ipv6()
    }));
    let server = &scene.network.servers[0];
    let vip = six(DIRECT_VIP);
    for (service, address, url) in [
        (format!("[{vip}]:80"), server.address.to_string(), format!("http://[{vip}]/")),
        (
            format!("{DIRECT_VIP}:80"),
            format!("[{}]:80", server.address_v6()),
            format!("http://{DIRECT_VIP}/"),
        ),
    ] {
        scene.gateway.ctl(&format!("-A -t {service} -s rr"));
        for kind in ["", "--tun-type gre", "--tun-type gue --tun-port 6080 --tun-csum"] {
            scene.gateway.ctl(&format!("-a -t {service} -r {address} -i {kind}"));
            let before = scene.network.tunnels[0].unwrapped();
            assert_eq!(server_name(&clients::curl(&scene.network.client, &url)), "RS1");
            assert!(scene.network.tunnels[0].unwrapped() > before, "{service} {kind}");
            scene.gateway.ctl(&format!("-d -t {service} -r {address}"));
        }
    }
    scene.gateway.stop();
}

/// A router on the way to a tunnel's server tells of its MTU: the client learns it less the tunnel's headers, and its upload
/// arrives.
fn large_uploads_fit_through_a_hop_behind_tunnels(workers: u16) {
    for ipv6 in [false, true] {
        for (kind, headers) in [("", 0), ("--tun-type gre", 4), ("--tun-type gue --tun-port 6080", 12)] {
            upload_through_a_narrow_hop(workers, ipv6, (kind, headers));
        }
    }
}

fn upload_through_a_narrow_hop(workers: u16, ipv6: bool, (kind, headers): (&str, u32)) {
    let options = Options { tunnels: true, ..Options::workers(workers).and_ipv6() };
    let scene = Scene::of(topology::direct_routing(&options));
    scene.network.tunnels.iter().for_each(|end| end.narrow(1400));
    let server = &scene.network.servers[0];
    let (vip, url, address, outer) = if ipv6 {
        let vip = six(DIRECT_VIP);
        (format!("[{vip}]:80"), format!("[{vip}]"), format!("[{}]:80", server.address_v6()), 40)
    } else {
        (format!("{DIRECT_VIP}:80"), DIRECT_VIP.to_owned(), server.address.to_string(), 20)
    };
    scene.gateway.ctl(&format!("-A -t {vip} -s rr"));
    scene.gateway.ctl(&format!("-a -t {vip} -r {address} -i {kind}"));
    let original = scene.network.lab.directory().join("original");
    clients::random_file(&original, 2);
    clients::upload(&scene.network.client, &original, &format!("http://{url}/upload/big"));
    assert_eq!(clients::sha256(&scene.web[0].upload("big")), clients::sha256(&original), "{vip} {kind}");
    assert!(scene.gateway.counter("path-mtus-learned") > 0, "{vip} {kind}");
    let learnt = format!("mtu {}", 1400 - outer - headers);
    wait_until("the client to have learnt the MTU", Duration::from_secs(5), || {
        let to = url.trim_matches(['[', ']']);
        scene.network.client.ip(&format!("route get {to}")).contains(&learnt).then_some(())
    });
    scene.gateway.stop();
}

/// A tunnel takes some of the MTU: clients that may not be fragmented are told.
fn large_uploads_fit_into_tunnels(workers: u16) {
    let scene = Scene::of(topology::direct_routing(&Options { tunnels: true, ..Options::workers(workers) }));
    let server = &scene.network.servers[0];
    scene.gateway.ctl(&format!("-A -t {DIRECT_VIP}:80 -s rr"));
    scene.gateway.ctl(&format!("-a -t {DIRECT_VIP}:80 -r {} -i", server.address));
    let original = scene.network.lab.directory().join("original");
    clients::random_file(&original, 4);
    clients::upload(&scene.network.client, &original, &format!("http://{DIRECT_VIP}/upload/big"));
    assert_eq!(clients::sha256(&scene.web[0].upload("big")), clients::sha256(&original));
    assert!(scene.gateway.counter("too-big") > 0);
    wait_until("the client to have learnt the MTU", Duration::from_secs(5), || {
        scene.network.client.ip(&format!("route get {DIRECT_VIP}")).contains("mtu 1480").then_some(())
    });
    scene.gateway.stop();
}
