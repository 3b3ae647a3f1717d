//! Servers of the gateway itself, as the sorry servers of keepalived and ldirectord are: real daemons beside the twins.

use std::{net::SocketAddr, time::Duration};

use crate::scene::{Scene, with_one_and_two_workers};
use lab::{
    clients,
    process::wait_until,
    servers,
    topology::{Host, LIP, OWN, Options, VIP, six},
};

with_one_and_two_workers!(
    every_method_reaches_a_web_server,
    a_dns_server_answers,
    an_address_comes_and_goes,
    local_addresses_stay_with_the_other_servers,
);

/// A daemon's place on the gateway.
fn gateway(scene: &Scene) -> Host {
    let address = OWN.parse().expect("an address");
    Host { name: "OWN".into(), address, namespace: scene.network.twins.clone() }
}

fn at(v4: &str, v6: bool, port: u16) -> SocketAddr {
    let address = if v6 { six(v4) } else { v4.to_owned() };
    SocketAddr::new(address.parse().expect("an address"), port)
}

fn every_method_reaches_a_web_server(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers).and_ipv6());
    let host = gateway(&scene);
    let daemons = [80, 8080].map(|port| servers::Web::start(&scene.network.lab, &host, port));
    let big = scene.network.lab.directory().join("big");
    clients::random_file(&big, 1);
    for daemon in &daemons {
        std::fs::copy(&big, daemon.page("big")).expect("the scratch directory has room");
    }
    let copy = scene.network.lab.directory().join("copy");
    // Which of the ports the daemon is asked at: DR and tunnels don't translate any.
    for (method, port) in [("-g", 80), ("-i", 80), ("-m", 8080), ("--fullnat", 8080), ("-m", 80)] {
        for v6 in [false, true] {
            for address in if v6 { ["::1".to_owned(), six(OWN)] } else { ["127.0.0.1".into(), OWN.into()] } {
                let what = format!("{method} {address}");
                let vip = at(VIP, v6, 80);
                scene.gateway.ctl(&format!("-A -t {vip} -s rr"));
                if method == "--fullnat" {
                    let lip = if v6 { six(LIP) } else { LIP.to_owned() };
                    scene.gateway.ctl(&format!("-P -t {vip} -z {lip}"));
                }
                let server = SocketAddr::new(address.parse().expect("an address"), port);
                scene.gateway.ctl(&format!("-a -t {vip} -r {server} {method}"));
                let client = if v6 { "[2001:db8:192:168:80::100]:1024" } else { "192.168.80.100:1024" };
                let words = scene.gateway.ctl(&format!("explain tcp {client} {vip}"));
                assert!(
                    words.contains("delivered: the server runs on the gateway itself"),
                    "{what}: {words}"
                );
                for _ in 0..2 {
                    let page = clients::curl(&scene.network.client, &format!("http://{vip}/"));
                    assert!(page.starts_with("<h1>OWN"), "{what}: {page}");
                }
                clients::download(&scene.network.client, &format!("http://{vip}/big"), &copy);
                assert_eq!(clients::sha256(&copy), clients::sha256(&big), "{what}");
                clients::upload(&scene.network.client, &big, &format!("http://{vip}/upload/up"));
                let listed = scene.sessions();
                let lines = listed.iter().filter(|line| line.contains(&server.to_string())).count();
                assert!(lines >= 4, "{what}: {listed:#?}");
                if address == OWN {
                    counted(&scene, &server.to_string(), matches!(method, "-m" | "--fullnat"));
                }
                scene.gateway.ctl(&format!("-D -t {vip}"));
            }
        }
    }
    let seen: Vec<_> = daemons.iter().flat_map(servers::Web::clients).collect();
    let ours = |who: &String| who.starts_with("192.168.80.1") || who.starts_with("2001:db8:192:168:80::1");
    assert!(!seen.is_empty() && seen.iter().all(ours), "daemons see the clients themselves: {seen:?}");
    scene.gateway.stop();
}

/// Statistics come to have a server's sessions and packets, and the answers' if these are translated.
fn counted(scene: &Scene, server: &str, answers: bool) {
    let counts = wait_until("the statistics", Duration::from_secs(10), || {
        let table = scene.gateway.ctl("-L -n --stats");
        let row = table.lines().find(|line| line.contains(&format!("-> {server}"))).expect("a row");
        let counts: Vec<String> = row.split_whitespace().skip(2).map(str::to_owned).collect();
        counts.iter().take(2).all(|count| count != "0").then_some(counts)
    });
    assert_eq!(counts[2] != "0", answers, "{server}: {counts:?}");
}

fn a_dns_server_answers(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    let virtual_ = Host { name: "VIP".into(), address: VIP.parse().expect("an address"), ..gateway(&scene) };
    let _daemons = [gateway(&scene), virtual_]
        .map(|at| servers::dns(&scene.network.lab, &at, "weir.test", "203.0.113.7"));
    let ask = |name: &str| clients::dig(&scene.network.client, VIP, name);
    for (method, server) in
        [("-g", "127.0.0.1"), ("-m", OWN), ("-m", "127.0.0.1"), ("-i", OWN), ("--fullnat", OWN)]
    {
        for once in ["", " -o"] {
            scene.gateway.ctl(&format!("-A -u {VIP}:53 -s rr{once}"));
            scene.gateway.ctl(&format!("-a -u {VIP}:53 -r {server}:53 {method}"));
            if once.is_empty() || !(method == "-m" && server == OWN) {
                for name in ["one.weir.test", "two.weir.test"] {
                    assert_eq!(ask(name), "203.0.113.7", "{method} {server}{once}");
                }
            }
            scene.gateway.ctl(&format!("-D -u {VIP}:53"));
        }
    }
    scene.gateway.stop();
}

/// A server's address that the gateway takes over, and gives back.
fn an_address_comes_and_goes(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    let daemon = servers::Web::start(&scene.network.lab, &gateway(&scene), 80);
    let floating = "10.10.0.77";
    scene.network.beyond.ip(&format!("address add {floating}/32 dev up0"));
    let there = Host { name: "FAR".into(), namespace: scene.network.beyond.clone(), ..gateway(&scene) };
    let _far = servers::Web::start(&scene.network.lab, &there, 80);
    scene.gateway.ctl(&format!("-A -t {VIP}:80 -s rr"));
    scene.gateway.ctl(&format!("-P -t {VIP}:80 -z {LIP}"));
    scene.gateway.ctl(&format!("-a -t {VIP}:80 -r {floating}:80 --fullnat"));
    assert_eq!(scene.answers(2), ["FAR", "FAR"]);
    scene.network.beyond.ip(&format!("address delete {floating}/32 dev up0"));
    scene.network.twins.ip(&format!("address add {floating}/32 dev lan"));
    let question = format!("explain tcp 192.168.80.100:1024 {VIP}:80");
    wait_until("the address to be the gateway's", Duration::from_secs(10), || {
        scene.gateway.ctl(&question).contains("delivered").then_some(())
    });
    assert_eq!(scene.answers(2), ["OWN", "OWN"]);
    assert_eq!(daemon.clients(), ["192.168.80.100", "192.168.80.100"]);
    scene.gateway.stop();
}

/// A sorry server beside FULLNAT servers needs no local address, and doesn't take those of the others along: they would ask
/// for them by a port where a kernel with `arp_ignore` doesn't answer.
fn local_addresses_stay_with_the_other_servers(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    let twin = || scene.network.twins.ip("-o address show to 10.10.0.200");
    scene.gateway.ctl(&format!("-A -t {VIP}:81 -s rr"));
    scene.gateway.ctl(&format!("-P -t {VIP}:81 -z 10.10.0.200"));
    scene.gateway.ctl(&format!("-a -t {VIP}:81 -r 10.20.0.11:80 --fullnat"));
    assert!(twin().contains(" lan "), "{}", twin());
    for sorry in [VIP, "192.168.80.3", "127.0.0.1"] {
        scene.gateway.ctl(&format!("-a -t {VIP}:81 -r {sorry}:82 --fullnat -w 0"));
        assert!(twin().contains(" lan "), "after {sorry}: {}", twin());
    }
    // Nor does a server of another method.
    scene.gateway.ctl(&format!("-a -t {VIP}:81 -r 192.168.80.100:80 -m -w 0"));
    assert!(twin().contains(" lan "), "{}", twin());
    scene.gateway.stop();
}
