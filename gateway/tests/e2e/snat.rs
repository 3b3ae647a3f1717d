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
    a_resolver_asks_more_than_it_once_had_ports_for,
    masquerading_leaves_the_gateway_its_own_connections,
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

/// A resolver inside, dnsmasq, takes another port for each question.
fn a_resolver_asks_more_than_it_once_had_ports_for(workers: u16) {
    let network = topology::nat(&Options::workers(workers));
    let outside = outside(&network);
    let _dns = servers::dns(&network.lab, &outside, "weir.test", "192.0.2.7");
    let gateway = start(&network);
    gateway.ctl("snat add office --inside 192.168.10.0/24 --port wan --pool 192.168.80.50");
    let (resolver, asker) = (&network.servers[0], &network.servers[1].namespace);
    let directory = network.lab.subdirectory("resolver");
    let mut command = resolver.namespace.command("dnsmasq");
    command
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"])
        .args([
            "--pid-file",
            "--bind-interfaces",
            "--log-facility=-",
            "--cache-size=0",
            "--dns-forward-max=1000",
        ])
        .arg(format!("--listen-address={}", resolver.address))
        .arg(format!("--server={}", outside.address));
    let _resolver = lab::process::Process::start("the resolver", &mut command, &directory.join("log"));
    resolver.namespace.wait_for_udp(53);
    const QUESTIONS: usize = 1500;
    let names: String = (0..QUESTIONS).map(|n| format!("n{n}.weir.test\n")).collect();
    let file = directory.join("names");
    std::fs::write(&file, names).expect("a file");
    let mut dig = asker.command("dig");
    dig.args([&format!("@{}", resolver.address), "+short", "+tries=1", "+time=5", "-f"]).arg(&file);
    let answers = text(&output(&mut dig));
    assert_eq!(answers.lines().filter(|line| *line == "192.0.2.7").count(), QUESTIONS);
    assert_eq!((gateway.counter("snat-port-limit"), gateway.counter("snat-ports-exhausted")), (0, 0));
    assert!(gateway.counter("snat-mappings-opened") > 1024, "{}", gateway.ctl("stats"));
    gateway.stop();
}

/// Inside hosts and the gateway itself have the port's address.
fn masquerading_leaves_the_gateway_its_own_connections(workers: u16) {
    let network = topology::nat(&Options::workers(workers));
    let outside = outside(&network);
    let web = Web::start(&network.lab, &outside, 80);
    let gateway = start(&network);
    let own = topology::vip(80).ip();
    let refused = gateway.try_ctl(&format!("snat add home --inside 192.168.10.0/24 --port wan --pool {own}"));
    assert!(text(&refused).contains("--pool port"), "{}", text(&refused));
    gateway.ctl("snat add home --inside 192.168.10.0/24 --port wan --pool port");
    let listener = Host {
        name: "OWN".into(),
        address: own.to_string().parse().expect("an address"),
        namespace: network.twins.clone(),
    };
    let _daemon = Web::start(&network.lab, &listener, 8080);
    let url = format!("http://{}/", outside.address);
    let page = format!("<h1>OUT:{}</h1>\n", outside.address);
    // Until SNAT knows that somebody listens, an inside host is taken to mean another one.
    let daemon = format!("http://{own}:8080/");
    assert!((0..30).any(|_| clients::reaches(&network.servers[0].namespace, &daemon, 1)));
    for _ in 0..3 {
        for host in &network.servers {
            assert_eq!(clients::curl(&host.namespace, &url), page);
            assert!(clients::ping(&host.namespace, &outside.address.to_string(), 1));
        }
        assert_eq!(clients::curl(&network.twins, &url), page, "the gateway's own");
        assert!(clients::ping(&network.twins, &outside.address.to_string(), 1));
        for from in [&network.client, &network.servers[0].namespace] {
            assert!(
                clients::curl(from, &format!("http://{own}:8080/")).contains("OWN"),
                "the gateway's daemon"
            );
        }
    }
    let seen: HashSet<String> = web.clients().into_iter().collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [own.to_string()]);
    assert!(gateway.ctl("snat list").contains("--pool port"));
    // Another address, as DHCP gives one.
    network.twins.ip(&format!("address delete {own}/24 dev wan"));
    network.twins.ip("address add 192.168.80.77/24 dev wan");
    let moved = || {
        clients::reaches(&network.servers[0].namespace, &url, 1)
            && web.clients().last().is_some_and(|c| c == "192.168.80.77")
    };
    assert!((0..30).any(|_| moved()), "{:?}", web.clients().last());
    gateway.stop();
}
