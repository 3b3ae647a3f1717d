//! IPv6, and sessions between the families, with the same programs as IPv4.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use crate::scene::{Scene, count, server_name, with_one_and_two_workers};
use lab::{
    clients, servers,
    topology::{self, DIRECT_VIP, LIP, Options, VIP, six},
};

with_one_and_two_workers!(
    fullnat_pages_and_files_pass,
    ipv6_clients_reach_ipv4_servers,
    ipv4_clients_reach_ipv6_servers,
    dns_is_answered,
    nat_walkthrough_over_ipv6,
    direct_routing_over_ipv6,
    large_packets_are_refused_on_the_way,
);

/// A FULLNAT service and its servers: whether each side is IPv6.
fn serve(scene: &Scene, (v6_service, v6_servers): (bool, bool), kind: &str, port: u16) {
    let of = |v4: &str, v6| if v6 { six(v4) } else { v4.to_owned() };
    let at = |v4: &str, v6| if v6 { format!("[{}]:{port}", six(v4)) } else { format!("{v4}:{port}") };
    let service = format!("{kind} {}", at(VIP, v6_service));
    scene.gateway.ctl(&format!("-A {service} -s rr"));
    scene.gateway.ctl(&format!("-P {service} -z {}", of(LIP, v6_servers)));
    for server in &scene.network.servers {
        let server = at(&server.address.to_string(), v6_servers);
        scene.gateway.ctl(&format!("-a {service} -r {server} --fullnat"));
    }
}

/// Pages from all servers, a file each way, and what the servers think of who asks.
fn pages_and_files(scene: &Scene, url: &str, seen_as: &str) {
    let client = &scene.network.client;
    let names: Vec<_> = (0..10).map(|_| server_name(&clients::curl(client, &format!("{url}/")))).collect();
    assert!(count(&names, "RS1").abs_diff(5) <= 1, "{names:?}");
    let (original, copy) =
        (scene.network.lab.directory().join("original"), scene.network.lab.directory().join("copy"));
    clients::random_file(&original, 6);
    for web in &scene.web {
        std::fs::copy(&original, web.page("big")).expect("the scratch directory has room");
    }
    clients::download(client, &format!("{url}/big"), &copy);
    assert_eq!(clients::sha256(&copy), clients::sha256(&original));
    clients::upload(client, &original, &format!("{url}/upload/up"));
    let uploaded: Vec<_> =
        scene.web.iter().map(|web| web.upload("up")).filter(|file| file.exists()).collect();
    assert_eq!(clients::sha256(&uploaded[0]), clients::sha256(&original));
    let seen: Vec<_> = scene.web.iter().flat_map(servers::Web::clients).collect();
    assert!(seen.len() == 12 && seen.iter().all(|who| who == seen_as), "{seen:?}");
}

fn fullnat_pages_and_files_pass(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers).and_ipv6());
    serve(&scene, (true, true), "-t", 80);
    pages_and_files(&scene, &format!("http://[{}]", six(VIP)), &canonical(LIP));
    assert!(
        clients::ping(&scene.network.client, &six(VIP), 5),
        "the virtual address answers no echo request"
    );
    let sessions = scene.sessions();
    let own = scene.network.client_addresses.iter().map(|a| format!("[{}]", canonical(&a.to_string())));
    assert!(own.into_iter().any(|client| sessions[0].contains(&client)), "{sessions:?}");
    for server in &scene.network.servers {
        let address: SocketAddr = (server.address_v6(), 80).into();
        scene.gateway.ctl(&format!("-e -t [{}]:80 -r {address} -w 0 --fullnat", six(VIP)));
    }
    let vip: SocketAddr = format!("[{}]:80", six(VIP)).parse().expect("an address");
    let refused =
        scene.network.client.connect(vip, Duration::from_millis(900)).expect_err("no server is left");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    scene.gateway.stop();
}

fn ipv6_clients_reach_ipv4_servers(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers).and_ipv6());
    serve(&scene, (true, false), "-t", 80);
    pages_and_files(&scene, &format!("http://[{}]", six(VIP)), LIP);
    scene.gateway.stop();
}

fn ipv4_clients_reach_ipv6_servers(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers).and_ipv6());
    serve(&scene, (false, true), "-t", 80);
    pages_and_files(&scene, &format!("http://{VIP}"), &canonical(LIP));
    scene.gateway.stop();
}

/// The IPv6 address beside an IPv4 one, as programs print it.
fn canonical(v4: &str) -> String {
    six(v4).parse::<std::net::Ipv6Addr>().expect("an address").to_string()
}

fn dns_is_answered(workers: u16) {
    for families in [(true, true), (true, false), (false, true)] {
        let scene = Scene::fullnat(&Options::workers(workers).and_ipv6());
        let _servers: Vec<_> = scene
            .network
            .servers
            .iter()
            .map(|host| servers::dns(&scene.network.lab, host, "weir.test", "203.0.113.7"))
            .collect();
        serve(&scene, families, "-u", 53);
        let vip = if families.0 { six(VIP) } else { VIP.to_owned() };
        for _ in 0..4 {
            assert_eq!(
                clients::dig(&scene.network.client, &vip, "a.weir.test"),
                "203.0.113.7",
                "{families:?}"
            );
        }
        scene.gateway.stop();
    }
}

fn nat_walkthrough_over_ipv6(workers: u16) {
    let scene = Scene::of(topology::nat(&Options::workers(workers).and_ipv6()));
    let vip = six(VIP);
    scene.gateway.ctl(&format!("-A -t [{vip}]:80 -s rr"));
    for server in &scene.network.servers {
        scene.gateway.ctl(&format!("-a -t [{vip}]:80 -r [{}]:80 -m", server.address_v6()));
    }
    let url = format!("http://[{vip}]/");
    let names: Vec<_> = (0..10).map(|_| server_name(&clients::curl(&scene.network.client, &url))).collect();
    assert!(count(&names, "RS1").abs_diff(5) <= 1, "{names:?}");
    let own: Vec<_> = scene.network.client_addresses.iter().map(|a| canonical(&a.to_string())).collect();
    let seen: Vec<_> = scene.web.iter().flat_map(servers::Web::clients).collect();
    assert!(seen.iter().all(|who| own.contains(who)), "NAT keeps the client's address: {seen:?}");
    scene.gateway.stop();
}

fn direct_routing_over_ipv6(workers: u16) {
    let scene = Scene::of(topology::direct_routing(&Options::workers(workers).and_ipv6()));
    let vip = six(DIRECT_VIP);
    scene.gateway.ctl(&format!("-A -t [{vip}]:80 -s rr"));
    for server in &scene.network.servers {
        scene.gateway.ctl(&format!("-a -t [{vip}]:80 -r [{}]:80 -g", server.address_v6()));
    }
    let url = format!("http://[{vip}]/");
    let names: Vec<_> = (0..10).map(|_| server_name(&clients::curl(&scene.network.client, &url))).collect();
    assert!(count(&names, "RS1").abs_diff(5) <= 1, "{names:?}");
    scene.gateway.stop();
}

/// A narrow link behind the gateway: its router tells the local address, the client must hear of it.
fn large_packets_are_refused_on_the_way(workers: u16) {
    for families in [(true, true), (true, false), (false, true)] {
        let scene = Scene::fullnat(&Options { far_mtu: Some(1400), ..Options::workers(workers).and_ipv6() });
        serve(&scene, families, "-t", 80);
        let original = scene.network.lab.directory().join("original");
        clients::random_file(&original, 2);
        let vip = if families.0 { format!("[{}]", six(VIP)) } else { VIP.to_owned() };
        clients::upload(&scene.network.client, &original, &format!("http://{vip}/upload/big"));
        let uploaded: Vec<_> = scene.web.iter().map(|web| web.upload("big")).filter(|f| f.exists()).collect();
        assert_eq!(clients::sha256(&uploaded[0]), clients::sha256(&original));
        assert!(families == (true, false) || scene.gateway.counter("icmp-translated") > 0, "{families:?}");
        scene.gateway.stop();
    }
}
