//! The servers' network as an inside network: its hosts reach the clients' side under other addresses.

use std::collections::HashSet;

use lab::{
    clients,
    gateway::Gateway,
    process::{output, text},
    servers::{self, Web},
    topology::{self, Host, Network, Options, six},
};

use crate::scene::{programs, with_one_and_two_workers};

with_one_and_two_workers!(
    pages_are_fetched_under_external_addresses,
    pings_and_datagrams_come_back,
    rules_outlive_a_restart,
    ipv6_goes_the_same_way,
);

/// What stands outside: the client's namespace, with a web server.
fn outside(network: &Network) -> Host {
    let address = network.client_addresses[0];
    Host { name: "OUT".into(), address, namespace: network.client.clone() }
}

fn start(network: &Network) -> Gateway {
    Gateway::start(&programs(), &network.lab, &network.gateway, &network.config)
}

const RULE: &str =
    "snat add office --inside 192.168.10.0/24 --port wan --pool 192.168.80.50-192.168.80.53 --max-ports 512";

fn pages_are_fetched_under_external_addresses(workers: u16) {
    let network = topology::nat(&Options::workers(workers));
    let outside = outside(&network);
    let web = Web::start(&network.lab, &outside, 80);
    let gateway = start(&network);
    let url = format!("http://{}/", outside.address);
    assert!(!clients::reaches(&network.servers[0].namespace, &url, 1), "without a rule nothing leaves");
    gateway.ctl(RULE);
    for host in &network.servers {
        let before = web.clients().len();
        for _ in 0..5 {
            assert_eq!(clients::curl(&host.namespace, &url), format!("<h1>OUT:{}</h1>\n", outside.address));
        }
        let seen: HashSet<String> = web.clients().into_iter().skip(before).collect();
        let seen: Vec<&String> = seen.iter().collect();
        assert!(seen.len() == 1 && seen[0].starts_with("192.168.80.5"), "pooling is paired: {seen:?}");
    }
    let rules: serde_json::Value = serde_json::from_str(&gateway.ctl("snat list --json")).expect("JSON");
    assert_eq!(rules["rules"][0]["sessions_opened"], 10, "{rules}");
    assert!(rules["rules"][0]["bytes_in"].as_u64() > Some(1000), "{rules}");
    let listed = gateway.ctl("sessions");
    assert!(listed.contains("192.168.10.9:") && listed.contains("192.168.80.5"), "{listed}");
    gateway.stop();
}

fn pings_and_datagrams_come_back(workers: u16) {
    let network = topology::nat(&Options::workers(workers));
    let outside = outside(&network);
    let dns = servers::dns(&network.lab, &outside, "one.weir.test", "192.0.2.7");
    let mut gateway = start(&network);
    gateway.ctl(RULE);
    let server = outside.address.to_string();
    for host in &network.servers {
        assert!(clients::ping(&host.namespace, &server, 5));
        assert_eq!(clients::dig(&host.namespace, &server, "one.weir.test"), "192.0.2.7");
    }
    // A closed port answers with an ICMP error, which finds its way to who asked.
    let mut command = network.servers[0].namespace.command("dig");
    let refused = output(command.args([&format!("@{server}"), "-p", "54", "+tries=1", "+time=5", "x"]));
    assert!(text(&refused).contains("connection refused"), "{}", text(&refused));
    assert!(gateway.counter("icmp-translated") > 0);
    let log = gateway.process().log();
    let blocks = log.lines().filter(|line| line.contains("snat port block")).count();
    assert!((2..=4).contains(&blocks), "a line a block, not a session: {log}");
    drop(dns);
    gateway.stop();
}

fn rules_outlive_a_restart(workers: u16) {
    let mut network = topology::nat(&Options::workers(workers));
    let gateway = start(&network);
    gateway.ctl(RULE);
    let saved = gateway.ctl("-S -n");
    gateway.stop();
    network.config.rules = saved.lines().map(str::to_owned).collect();
    let gateway = start(&network);
    assert_eq!(gateway.ctl("snat list"), format!("{RULE}\n"));
    assert!(clients::ping(&network.servers[0].namespace, &network.client_addresses[0].to_string(), 2));
    gateway.stop();
}

fn ipv6_goes_the_same_way(workers: u16) {
    let network = topology::nat(&Options::workers(workers).and_ipv6());
    let outside = outside(&network);
    let web = Web::start(&network.lab, &outside, 80);
    let _dns = servers::dns(&network.lab, &outside, "one.weir.test", "192.0.2.7");
    let gateway = start(&network);
    let server = outside.address_v6().to_string();
    let (first, last) = (six("192.168.80.50"), six("192.168.80.53"));
    let inside = six("192.168.10.0/24");
    gateway.ctl(&format!("snat add office6 --inside {inside} --port wan --pool {first}-{last}"));
    let pool: Vec<String> = (50..=53).map(|n| six(&format!("192.168.80.{n}"))).collect();
    for host in &network.servers {
        let before = web.clients().len();
        for _ in 0..5 {
            let page = clients::curl(&host.namespace, &format!("http://[{server}]/"));
            assert_eq!(page, format!("<h1>OUT:{}</h1>\n", outside.address));
        }
        let seen: HashSet<String> = web.clients().into_iter().skip(before).collect();
        assert!(seen.len() == 1 && seen.iter().all(|who| pool.contains(who)), "{seen:?}, of {pool:?}");
        assert!(clients::ping(&host.namespace, &server, 5));
        assert!(clients::ping(&host.namespace, &pool[0], 2), "an external address answers by itself");
        assert_eq!(clients::dig(&host.namespace, &server, "one.weir.test"), "192.0.2.7");
    }
    let mut command = network.servers[0].namespace.command("dig");
    let refused = output(command.args([&format!("@{server}"), "-p", "54", "+tries=1", "+time=5", "x"]));
    assert!(text(&refused).contains("connection refused"), "{}", text(&refused));
    gateway.stop();
}
