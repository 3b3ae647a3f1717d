//! What clients see: pages in the scheduler's order, names resolved, addresses that answer.

use std::{io::ErrorKind, path::Path, time::Duration};

use crate::scene::{Scene, Visitor, count, programs, with_one_and_two_workers};
use lab::{
    Namespace, clients,
    gateway::{Gateway, Port},
    process::{Process, wait_until},
    servers,
    topology::{self, DIRECT_VIP, Host, LIP, OWN, Options, VIP},
};

with_one_and_two_workers!(
    ten_curls_alternate_under_rr,
    curls_follow_4_3_2_under_wrr,
    servers_see_the_local_address,
    the_session_list_shows_both_sides,
    dig_asks_a_dns_server_behind_a_udp_service,
    a_page_survives_many_clients,
    ping_reaches_the_virtual_address,
    a_daemon_listens_on_a_twins_address,
    nat_walkthrough,
);

fn ten_curls_alternate_under_rr(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    let names = scene.answers(10);
    if workers == 1 {
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "not alternating: {names:?}");
    }
    let (one, two) = (count(&names, "RS1"), count(&names, "RS2"));
    assert!(one + two == 10 && one.abs_diff(two) <= usize::from(workers), "{one} and {two}: {names:?}");
    scene.gateway.stop();
}

fn curls_follow_4_3_2_under_wrr(workers: u16) {
    let scene = Scene::fullnat(&Options { servers: 3, ..Options::workers(workers) });
    scene.serve("-t", 80, "wrr", &[(0, 4), (1, 3), (2, 2)]);
    let names = scene.answers(18);
    if workers == 1 {
        // As IPVS schedules: two rounds of the recorded one.
        let round = ["RS3", "RS2", "RS1", "RS1", "RS2", "RS1", "RS3", "RS2", "RS1"];
        assert_eq!(names, [round, round].concat());
    }
    for (name, due) in [("RS1", 8), ("RS2", 6), ("RS3", 4)] {
        let got = count(&names, name);
        assert!(got.abs_diff(due) <= usize::from(workers), "{name} got {got}, due {due}: {names:?}");
    }
    scene.gateway.stop();
}

fn servers_see_the_local_address(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    assert_eq!(scene.answers(6).len(), 6);
    let seen: Vec<_> = scene.web.iter().flat_map(servers::Web::clients).collect();
    assert_eq!(seen, [LIP; 6]);
    scene.gateway.stop();
}

fn the_session_list_shows_both_sides(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let mut visitor = Visitor::connect(&scene);
    assert_eq!(visitor.ask().expect("an answer"), "RS1");
    let sessions = scene.sessions();
    let [session] = sessions.as_slice() else { panic!("one session, not {sessions:?}") };
    let client = scene.network.client_addresses[0].to_string();
    let server = format!("{}:80", scene.network.servers[0].address);
    for part in ["TCP", "ESTABLISHED", &client, &format!("{VIP}:80"), LIP, &server] {
        assert!(session.contains(part), "{part} is missing: {session}");
    }
    assert_eq!(scene.counts(scene.network.servers[0].at(80)), Some((1, 0)));
    scene.gateway.stop();
}

fn dig_asks_a_dns_server_behind_a_udp_service(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    let names = ["one.weir.test", "two.weir.test"];
    let _servers: Vec<Process> = scene
        .network
        .servers
        .iter()
        .map(|host| servers::dns(&scene.network.lab, host, "weir.test", "203.0.113.7"))
        .collect();
    scene.serve("-u", 53, "rr", &[(0, 1), (1, 1)]);
    for name in names.iter().cycle().take(10) {
        assert_eq!(clients::dig(&scene.network.client, VIP, name), "203.0.113.7");
    }
    let sessions = scene.sessions();
    assert_eq!(sessions.iter().filter(|line| line.starts_with("UDP")).count(), 10, "{sessions:?}");
    scene.gateway.stop();
}

fn a_page_survives_many_clients(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "wlc", &[(0, 1), (1, 1)]);
    let mut visitors: Vec<_> = (0..32).map(|_| Visitor::connect(&scene)).collect();
    for round in 0..20 {
        for (n, visitor) in visitors.iter_mut().enumerate() {
            visitor.ask().unwrap_or_else(|e| panic!("visitor {n} in round {round}: {e}"));
        }
    }
    assert_eq!(scene.sessions().len(), visitors.len());
    scene.gateway.stop();
}

fn ping_reaches_the_virtual_address(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    assert!(clients::ping(&scene.network.client, VIP, 10), "the virtual address answers no echo request");
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    assert!(clients::ping(&scene.network.client, VIP, 10), "a service silenced the virtual address");
    assert!(
        clients::ping(&scene.network.client, OWN, 3),
        "the gateway's own address answers no echo request"
    );
    scene.gateway.stop();
}

fn a_daemon_listens_on_a_twins_address(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let address = OWN.parse().expect("an address");
    let host = Host { name: "OWN".into(), address, namespace: scene.network.twins.clone() };
    let _daemon = servers::Web::start(&scene.network.lab, &host, 8080);
    for at in [OWN, VIP] {
        let page = clients::curl(&scene.network.client, &format!("http://{at}:8080/"));
        assert_eq!(page, format!("<h1>OWN:{OWN}</h1>\n"), "asked at {at}");
    }
    // And the other way round: what runs on the gateway reaches the servers by the twin.
    scene.network.twins.ip("route replace 10.20.0.0/24 via 10.10.0.1");
    let page = clients::curl(&scene.network.twins, &format!("http://{}/", scene.network.servers[0].address));
    assert!(page.starts_with("<h1>RS1"), "{page}");
    scene.gateway.stop();
}

/// The kernel spreads frames over the queues as it likes: with two workers many a packet arrives at the one
/// that doesn't own its session, and is handed over.
#[test]
fn frames_on_the_wrong_queue_are_handed_over() {
    let scene = Scene::fullnat(&Options::workers(2));
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    assert_eq!(scene.answers(20).len(), 20);
    assert!(scene.gateway.counter("handed-over") > 0, "{}", scene.gateway.ctl("stats"));
    assert_eq!(scene.gateway.counter("hand-over-full"), 0);
    scene.gateway.stop();
}

/// Where no server is left a client hears so at once, instead of waiting.
#[test]
fn a_service_without_servers_refuses_at_once() {
    let scene = Scene::fullnat(&Options::default());
    scene.serve("-t", 80, "rr", &[(0, 0)]);
    let refused = scene.connect(80, Duration::from_millis(900)).expect_err("there is no server");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    assert_eq!(scene.gateway.counter("no-server"), 1);
    scene.gateway.stop();
}

/// What the real `ipvsadm -Ln` prints of a walkthrough's service and servers, before there are connections.
fn listing(service: &str, servers: &[(&str, &str)]) -> String {
    let head = "IP Virtual Server version 1.2.1 (size=4096)\n\
        Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n";
    let rows = servers.iter().map(|(server, method)| {
        format!("  -> {server}             {method}   1      0          0         \n")
    });
    format!("{head}TCP  {service}\n{}", rows.collect::<String>())
}

/// The walkthrough of LVS's documentation, literally.
fn nat_walkthrough(workers: u16) {
    let scene = Scene::of(topology::nat(&Options::workers(workers)));
    for rule in [
        "-A -t 192.168.80.4:80 -s rr",
        "-a -t 192.168.80.4:80 -r 192.168.10.9 -m",
        "-a -t 192.168.80.4:80 -r 192.168.10.10 -m",
    ] {
        scene.gateway.ctl(rule);
    }
    let servers = [("192.168.10.9:80 ", "Masq "), ("192.168.10.10:80", "Masq ")];
    assert_eq!(scene.gateway.ctl("-Ln"), listing("192.168.80.4:80 rr", &servers));
    let url = "http://192.168.80.4/test1.html";
    let pages: Vec<_> = (0..10).map(|_| clients::curl(&scene.network.client, url)).collect();
    if workers == 1 {
        assert!(pages.windows(2).all(|pair| pair[0] != pair[1]), "not alternating: {pages:?}");
    }
    let first = pages.iter().filter(|page| *page == "<h1>RS1:192.168.10.9</h1>\n").count();
    assert!(first.abs_diff(5) <= usize::from(workers / 2), "{pages:?}");
    let client = scene.network.client_addresses[0].to_string();
    assert!(scene.web[0].clients().iter().all(|seen| *seen == client), "NAT keeps the client's address");
    scene.gateway.stop();
}

/// The other walkthrough, direct routing: no reply passes the gateway.
#[test]
fn direct_routing_walkthrough() {
    let scene = Scene::of(topology::direct_routing(&Options::default()));
    for rule in [
        "-A -t 192.168.10.8:80 -s rr",
        "-a -t 192.168.10.8:80 -r 192.168.80.20 -g",
        "-a -t 192.168.10.8:80 -r 192.168.80.22 -g",
    ] {
        scene.gateway.ctl(rule);
    }
    let servers = [("192.168.80.20:80", "Route"), ("192.168.80.22:80", "Route")];
    assert_eq!(scene.gateway.ctl("-Ln"), listing("192.168.10.8:80 rr", &servers));
    let url = format!("http://{DIRECT_VIP}/test1.html");
    let pages: Vec<_> = (0..10).map(|_| clients::curl(&scene.network.client, &url)).collect();
    assert!(pages.windows(2).all(|pair| pair[0] != pair[1]), "not alternating: {pages:?}");
    assert!(pages.iter().any(|page| page == "<h1>RS2:192.168.80.22</h1>\n"), "{pages:?}");
    // Listed counters are those of the last two-second tick.
    let (requests, replies) = wait_until("the requests to be counted", Duration::from_secs(5), || {
        let stats = scene.gateway.ctl("-L -n --stats");
        let row = stats.lines().find(|line| line.starts_with("TCP  192.168.10.8:80"))?;
        let counters: Vec<u64> =
            row.split_whitespace().skip(2).map(|n| n.parse().expect("a number")).collect();
        (counters[0] == 10).then_some((counters[1], counters[2]))
    });
    assert!(requests >= 40 && replies == 0, "{requests} packets in, {replies} out");
    scene.gateway.stop();
}

/// Twins in the namespace of the veths: the kernel sees every frame twice there, and must stay silent about
/// the copies that AF_PACKET leaves it.
#[test]
fn twins_beside_the_ports() {
    let mut network = topology::fullnat(&Options::default());
    network.config.host_namespace = network.gateway.path();
    network.twins = network.gateway.clone();
    let namespace: Namespace = network.gateway.clone();
    let scene = Scene::of(network);
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    let names = scene.answers(10);
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "not alternating: {names:?}");
    assert!(clients::ping(&scene.network.client, VIP, 5));
    scene.gateway.stop();
    assert_eq!(namespace.run("nft list ruleset"), "", "rules were left behind");
}

/// Rules by file, and a page on the first try as soon as the gateway says `ready`.
#[test]
fn ready_means_that_traffic_flows() {
    let mut network = topology::fullnat(&Options::default());
    network.config.rules = crate::scene::rules(&network, "-t", 80, "rr", &[(0, 1), (1, 1)]);
    let web: Vec<_> =
        network.servers.iter().map(|host| servers::Web::start(&network.lab, host, 80)).collect();
    let gateway = Gateway::start(&programs(), &network.lab, &network.gateway, &network.config);
    // A lost SYN would be repeated after a second: this one isn't lost.
    let first = network.client.connect(topology::vip(80), Duration::from_millis(900));
    assert!(first.is_ok(), "the first connection after `ready`: {first:?}");
    drop((first, gateway, web));
}

/// A gateway port whose interface isn't there says so instead of waiting.
#[test]
fn a_port_without_interface_is_refused() {
    let mut network = topology::fullnat(&Options::default());
    network.config.ports.push(Port {
        name: "spare".into(),
        device: "net_af_packet_spare,iface=nosuch0".into(),
        addresses: Vec::new(),
        vlan: None,
        mtu: None,
    });
    let file = network.config.write(network.lab.directory(), "bad");
    let mut command = network.gateway.command(Path::new(&programs().weir));
    let output = lab::process::output(command.arg("--config").arg(&file));
    let text = lab::process::text(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("nosuch0"), "{text}");
}
