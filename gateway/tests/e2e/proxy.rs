//! PROXY protocol: nginx behind FULLNAT logs its real clients, losses and all.

use crate::scene::{Scene, with_one_and_two_workers};
use lab::{
    clients,
    topology::{LIP, Options, VIP, six},
};

with_one_and_two_workers!(nginx_logs_its_clients, nothing_is_lost_where_the_network_loses);

/// A service on port 80 whose servers want PROXY headers on port 81.
fn serve(scene: &Scene, version: &str, v6_client: bool) -> String {
    let vip = if v6_client { format!("[{}]", six(VIP)) } else { VIP.to_owned() };
    scene.gateway.ctl(&format!("-A -t {vip}:80 -s rr"));
    scene.gateway.ctl(&format!("-P -t {vip}:80 -z {LIP}"));
    for server in &scene.network.servers {
        scene.gateway.ctl(&format!("-a -t {vip}:80 -r {}:81 --fullnat", server.address));
    }
    scene.gateway.ctl(&format!("client-address tcp/{vip}:80 {version}"));
    format!("http://{vip}")
}

fn nginx_logs_its_clients(workers: u16) {
    for (version, v6_client) in
        [("proxy-v1", false), ("proxy-v2", false), ("proxy-v1", true), ("proxy-v2", true)]
    {
        let scene = Scene::fullnat(&Options::workers(workers).and_ipv6());
        let url = serve(&scene, version, v6_client);
        for _ in 0..6 {
            assert!(clients::curl(&scene.network.client, &format!("{url}/")).starts_with("<h1>RS"));
        }
        let told: Vec<_> = scene.web.iter().flat_map(lab::servers::Web::told_clients).collect();
        let own: Vec<String> = scene.network.client_addresses.iter().map(ToString::to_string).collect();
        let own_v6: Vec<String> = own.iter().map(|a| six(a)).collect();
        let own = if v6_client { own_v6 } else { own };
        assert!(
            told.len() == 6 && told.iter().all(|who| own.contains(who)),
            "{version}: {told:?}, not {own:?}"
        );
        scene.gateway.stop();
    }
}

/// One packet in twenty is lost between gateway and servers, each way: the header may be, and what comes after it.
fn nothing_is_lost_where_the_network_loses(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    let url = serve(&scene, "proxy-v2", false);
    for rule in [
        "add table ip loss",
        "add chain ip loss forward { type filter hook forward priority 0 ; }",
        "add rule ip loss forward numgen random mod 20 == 0 counter drop",
    ] {
        scene.network.beyond.run(&format!("nft {rule}"));
    }
    let directory = scene.network.lab.directory();
    let (original, copy) = (directory.join("original"), directory.join("copy"));
    clients::random_file(&original, 3);
    for web in &scene.web {
        std::fs::copy(&original, web.page("big")).expect("the scratch directory has room");
    }
    for n in 0..6 {
        clients::download(&scene.network.client, &format!("{url}/big"), &copy);
        assert_eq!(clients::sha256(&copy), clients::sha256(&original));
        clients::upload(&scene.network.client, &original, &format!("{url}/upload/{n}"));
        let up: Vec<_> = scene.web.iter().map(|w| w.upload(&n.to_string())).filter(|f| f.exists()).collect();
        assert_eq!(clients::sha256(&up[0]), clients::sha256(&original));
    }
    let told: Vec<_> = scene.web.iter().flat_map(lab::servers::Web::told_clients).collect();
    let client = scene.network.client_addresses[0].to_string();
    assert!(told.len() == 12 && told.iter().all(|who| *who == client), "{told:?}");
    let lost = scene.network.beyond.run("nft list ruleset");
    assert!(
        lost.contains("counter packets") && !lost.contains("counter packets 0 "),
        "nothing was lost: {lost}"
    );
    scene.gateway.stop();
}
