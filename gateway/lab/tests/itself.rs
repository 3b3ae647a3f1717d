//! The laboratory without the gateway, so that a failure elsewhere is the gateway's.

use std::{path::PathBuf, time::Duration};

use lab::{
    Lab, clients,
    servers::{self, Web},
    topology::{self, Options, VIP},
};

/// What the FULLNAT network is for: the servers answer their neighbours, and have no way to the client.
#[test]
fn servers_know_no_way_to_the_client() {
    let network = topology::fullnat(&Options { far_mtu: Some(1300), ..Options::default() });
    let web: Vec<_> = network.servers.iter().map(|host| Web::start(&network.lab, host, 80)).collect();
    // In the gateway's place, for once, the kernel.
    network.gateway.address("lan0", "10.10.0.3/24");
    network.gateway.ip("route add 10.20.0.0/24 via 10.10.0.1");
    for (host, web) in network.servers.iter().zip(&web) {
        let page = clients::curl(&network.gateway, &format!("http://{}/", host.address));
        assert_eq!(page, format!("<h1>{}:{}</h1>\n", host.name, host.address));
        assert_eq!(web.clients(), ["10.10.0.3"]);
        let client = network.client_addresses[0].to_string();
        assert!(!clients::ping(&host.namespace, &client, 1), "a server reaches the client");
    }
    assert!(!clients::ping(&network.client, VIP, 1), "somebody answers in the gateway's place");
}

#[test]
fn dns_and_iperf_servers_answer() {
    let network = topology::nat(&Options::default());
    let (one, two) = (&network.servers[0], &network.servers[1]);
    let _dns = servers::dns(&network.lab, one, "weir.test", "203.0.113.7");
    let _iperf = servers::iperf(&network.lab, one);
    let at = one.address.to_string();
    assert_eq!(clients::dig(&two.namespace, &at, "x.weir.test"), "203.0.113.7");
    assert!(clients::iperf(&two.namespace, &at, "", 1).bits > 1e6);
    assert!(clients::iperf(&two.namespace, &at, "--udp --bitrate 10M --reverse", 1).bits > 1e6);
}

#[test]
fn the_narrow_link_before_the_gateway_is_narrow() {
    let network = topology::fullnat(&Options { near_mtu: Some(1300), ..Options::default() });
    network.gateway.address("wan0", "192.168.80.3/24");
    network.gateway.ip("route add 192.168.70.0/24 via 192.168.80.1");
    let client = network.client_addresses[0];
    let big =
        network.gateway.command("ping").args(["-c1", "-W2", "-Mdo", "-s1400", &client.to_string()]).output();
    assert!(!big.expect("ping runs").status.success());
    assert!(network.gateway.ip(&format!("route get {client}")).contains("mtu 1300"));
}

/// Two labs side by side have the same addresses and don't meet; dropped, they are gone, processes too.
#[test]
fn labs_stand_side_by_side_and_leave_nothing() {
    let networks = [(); 2].map(|()| topology::fullnat(&Options::default()));
    let mut web: Vec<_> = networks.iter().map(|n| Web::start(&n.lab, &n.servers[0], 80)).collect();
    for network in &networks {
        let page =
            clients::curl(&network.servers[1].namespace, &format!("http://{}/", network.servers[0].address));
        assert!(page.starts_with("<h1>RS1"), "{page}");
    }
    let id = web[0].process.id();
    let traces: Vec<PathBuf> =
        networks.iter().flat_map(|n| [n.twins.path(), n.lab.directory().into()]).collect();
    assert!(traces.iter().all(|path| path.exists()));
    web.clear();
    drop(networks);
    assert_eq!(traces.iter().find(|path| path.exists()), None);
    assert!(!PathBuf::from(format!("/proc/{id}")).exists(), "a server outlived its lab");
}

#[test]
fn a_process_that_ends_early_says_why() {
    let mut lab = Lab::new();
    let namespace = lab.namespace("one");
    let mut command = namespace.command("sh");
    command.args(["-c", "echo not yet; exit 3"]);
    let log = lab.directory().join("log");
    let mut process = lab::process::Process::start("sh", &mut command, &log);
    let reason = process.wait_for_line("ready", Duration::from_secs(10)).expect_err("it never was ready");
    assert!(reason.contains("exit status: 3") && reason.contains("not yet"), "{reason}");
}
