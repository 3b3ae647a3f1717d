//! ldirectord, unmodified, with weirctl as its ipvsadm: every method, both ways of taking a server out, the gateway itself as
//! the last resort, nginx stopped and started under it.

use std::time::Duration;

use lab::{
    clients,
    ldirectord::Ldirectord,
    process::wait_until,
    servers::Web,
    topology::{self, DIRECT_VIP, Host, LIP, Network, Options, VIP},
};
use nix::sys::signal::Signal;

use crate::scene::{Scene, programs, server_name};

/// ldirectord looks every second, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// How servers are reached.
#[derive(Clone, Copy)]
struct Method {
    /// The virtual address.
    vip: &'static str,
    /// ldirectord's word.
    word: &'static str,
    /// What weirctl lists.
    listed: &'static str,
    /// The server of last resort, and the port that its daemon has on the gateway.
    fallback: (&'static str, u16),
}

const FULLNAT: Method =
    Method { vip: VIP, word: "masq", listed: "FullNat", fallback: ("127.0.0.1:8080", 8080) };
const NAT: Method = Method { listed: "Masq", ..FULLNAT };
const DIRECT: Method =
    Method { vip: DIRECT_VIP, word: "gate", listed: "Route", fallback: ("127.0.0.1:80", 80) };
const TUNNEL: Method = Method { word: "ipip", listed: "Tunnel", ..DIRECT };

/// A gateway for which `-m` is FULLNAT, with default local addresses.
fn fullnat(options: &Options) -> Network {
    let mut network = topology::fullnat(options);
    network.config.extra =
        format!("[ipvs]\nmasquerade = \"fullnat\"\n[local_addresses]\ndefault = [\"{LIP}-10.10.0.201\"]\n");
    network
}

/// A gateway, its servers and ldirectord. The fields are dropped in this order.
struct Site {
    ldirectord: Ldirectord,
    _fallback: Web,
    scene: Scene,
    method: Method,
}

impl Site {
    fn start(network: Network, method: Method, quiescent: bool) -> Self {
        let scene = Scene::of(network);
        let (address, twins) = (topology::OWN.parse().expect("an address"), scene.network.twins.clone());
        let own = Host { name: "OWN".into(), address, namespace: twins.clone() };
        let fallback = Web::start(&scene.network.lab, &own, method.fallback.1);
        let socket = &scene.network.config.socket;
        let text = text(&scene.network, method, [3, 1], quiescent);
        let weirctl = programs().weirctl;
        let ldirectord = Ldirectord::start(&scene.network.lab, &twins, &weirctl, socket, &text);
        Self { ldirectord, _fallback: fallback, scene, method }
    }

    /// The rows of servers: address and port, method, weight.
    fn listed(&self) -> Vec<String> {
        let table = self.scene.gateway.ctl("-L -n");
        let rows = table.lines().filter_map(|line| line.trim().strip_prefix("-> "));
        let mut rows: Vec<String> = rows
            .filter(|row| !row.starts_with("Remote"))
            .map(|row| row.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
            .collect();
        rows.sort();
        rows
    }

    fn row(&self, server: usize, weight: u32) -> String {
        format!("{} {} {weight}", self.scene.network.servers[server].at(80), self.method.listed)
    }

    /// Waits until these servers are listed, and no others.
    fn wait_for(&self, what: &str, mut wanted: Vec<String>) {
        wanted.sort();
        wait_until(&format!("{what}: {wanted:?}"), PATIENCE, || (self.listed() == wanted).then_some(()));
    }

    /// Who answers `times` requests, each name once.
    fn answers(&self, times: usize) -> Vec<String> {
        let url = format!("http://{}/", self.method.vip);
        let page = || server_name(&clients::curl(&self.scene.network.client, &url));
        let mut names: Vec<String> = (0..times).map(|_| page()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn stop_nginx(&mut self, server: usize) {
        let process = &mut self.scene.web[server].process;
        process.signal(Signal::SIGTERM);
        process.wait(PATIENCE);
    }

    fn start_nginx(&mut self, server: usize) {
        let network = &self.scene.network;
        self.scene.web[server] = Web::start(&network.lab, &network.servers[server], 80);
    }
}

/// A service of ldirectord with both servers.
fn text(network: &Network, method: Method, weights: [u32; 2], quiescent: bool) -> String {
    let Method { vip, word, fallback: (fallback, _), .. } = method;
    let real = |(host, weight): (&Host, u32)| format!("    real = {} {word} {weight}\n", host.at(80));
    let reals: String = network.servers.iter().zip(weights).map(real).collect();
    let quiescent = if quiescent { "yes" } else { "no" };
    format!(
        "virtual = {vip}:80\n{reals}    fallback = {fallback} {word}\n    service = http\n    scheduler = wrr\n    \
         protocol = tcp\n    checktype = negotiate\n    request = \"index.html\"\n    receive = \"h1\"\n    \
         quiescent = {quiescent}\n"
    )
}

/// Every call of ipvsadm had the exit status 0.
fn satisfied(log: &str) {
    let log: Vec<&str> = log.lines().filter(|line| !line.starts_with("Use of uninitialized")).collect();
    assert!(log.iter().any(|line| line.contains("server: ")), "{log:#?}");
    assert!(log.iter().all(|line| !line.contains("failed")), "{log:#?}");
}

/// The whole life of a service.
fn a_service_lives(network: Network, method: Method, quiescent: bool) {
    let mut site = Site::start(network, method, quiescent);
    // A server that is out keeps its place with weight 0, or goes.
    let out = |site: &Site, server| quiescent.then(|| site.row(server, 0)).into_iter().collect::<Vec<_>>();
    site.wait_for("both servers", vec![site.row(0, 3), site.row(1, 1)]);
    assert_eq!(site.answers(8), ["RS1", "RS2"]);

    // nginx stops on one, and comes back.
    site.stop_nginx(0);
    site.wait_for("RS1 out", [out(&site, 0), vec![site.row(1, 1)]].concat());
    assert_eq!(site.answers(4), ["RS2"]);
    site.start_nginx(0);
    site.wait_for("RS1 back", vec![site.row(0, 3), site.row(1, 1)]);
    assert_eq!(site.answers(8), ["RS1", "RS2"]);

    // On both: the gateway itself answers.
    site.stop_nginx(0);
    site.stop_nginx(1);
    let (last, _) = method.fallback;
    let fallback = format!("{last} {} 1", method.listed);
    site.wait_for("the fallback", [out(&site, 0), out(&site, 1), vec![fallback]].concat());
    assert_eq!(site.answers(4), ["OWN"]);
    site.start_nginx(1);
    site.wait_for("RS2 back", [out(&site, 0), vec![site.row(1, 1)]].concat());
    assert_eq!(site.answers(4), ["RS2"]);
    site.start_nginx(0);
    site.wait_for("both back", vec![site.row(0, 3), site.row(1, 1)]);

    // Other weights, by a reload.
    site.ldirectord.reload(&text(&site.scene.network, method, [2, 5], quiescent));
    site.wait_for("other weights", vec![site.row(0, 2), site.row(1, 5)]);
    assert_eq!(site.answers(14), ["RS1", "RS2"]);

    let Site { ldirectord, scene, .. } = site;
    satisfied(&ldirectord.stop());
    wait_until("the service to be gone", PATIENCE, || {
        (scene.gateway.ctl("-S -n") == "# end of 0 rules\n").then_some(())
    });
    scene.gateway.stop();
}

#[test]
fn masquerading_by_fullnat_quiescent() {
    a_service_lives(fullnat(&Options::default()), FULLNAT, true);
}

#[test]
fn masquerading_by_fullnat_removing() {
    a_service_lives(fullnat(&Options::workers(2)), FULLNAT, false);
}

#[test]
fn masquerading_by_nat() {
    a_service_lives(topology::nat(&Options::default()), NAT, true);
}

#[test]
fn direct_routing() {
    a_service_lives(topology::direct_routing(&Options::default()), DIRECT, false);
}

#[test]
fn tunnels() {
    let options = Options { tunnels: true, ..Options::default() };
    a_service_lives(topology::direct_routing(&options), TUNNEL, true);
}

/// A service that was set to FULLNAT on a gateway where `-m` is NAT, and a server that was added as NAT on one where it is
/// FULLNAT: ldirectord's weights change neither.
#[test]
fn weights_change_no_method() {
    for (network, method, set) in [
        (topology::fullnat(&Options::default()), FULLNAT, Some("fullnat")),
        (fullnat(&Options::default()), NAT, None),
    ] {
        let scene = Scene::of(network);
        let vip = format!("{VIP}:80");
        scene.gateway.ctl(&format!("-A -t {vip} -s wrr"));
        if let Some(meaning) = set {
            scene.gateway.ctl(&format!("masquerade tcp/{vip} {meaning}"));
            scene.gateway.ctl(&format!("-P -t {vip} -z {LIP}"));
        }
        // Before ldirectord, with other weights than it wants.
        let option = if method.listed == "FullNat" { "--fullnat" } else { "--nat" };
        for host in &scene.network.servers {
            scene.gateway.ctl(&format!("-a -t {vip} -r {} {option} -w 9", host.at(80)));
        }
        let text = text(&scene.network, method, [3, 1], true);
        let (lab, twins) = (&scene.network.lab, &scene.network.twins);
        let socket = &scene.network.config.socket;
        let ldirectord = Ldirectord::start(lab, twins, &programs().weirctl, socket, &text);
        wait_until("ldirectord's weights", PATIENCE, || {
            let table = scene.gateway.ctl("-L -n");
            let row = |n: usize, weight| {
                let wanted = format!("{} {} {weight}", scene.network.servers[n].at(80), method.listed);
                table.lines().any(|line| {
                    line.split_whitespace().skip(1).take(3).collect::<Vec<_>>().join(" ") == wanted
                })
            };
            (row(0, 3) && row(1, 1)).then_some(())
        });
        satisfied(&ldirectord.stop());
        scene.gateway.stop();
    }
}
