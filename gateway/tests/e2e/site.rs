//! nginx as people have it behind LVS, through every method.

use std::net::SocketAddr;

use crate::scene::{programs, with_one_and_two_workers};
use lab::{
    clients,
    gateway::Gateway,
    servers::Site,
    topology::{self, DIRECT_VIP, LIP, Network, Options, VIP, six},
};

with_one_and_two_workers!(by_fullnat, by_nat, by_direct_routing, by_tunnel, over_vlans);

/// A site on `vip` and what visitors find there: by IPv4 and by IPv6.
fn visited(network: &Network, vip: &str, local: Option<&str>, method: &str) {
    let sites: Vec<_> = network.servers.iter().map(|host| Site::start(&network.lab, host)).collect();
    let gateway = Gateway::start(&programs(), &network.lab, &network.gateway, &network.config);
    for v6 in [false, true] {
        let of = |v4: &str| if v6 { six(v4) } else { v4.to_owned() };
        let at = |v4: &str, port| SocketAddr::new(of(v4).parse().expect("an address"), port);
        for (port, persistent) in [(80, ""), (443, " -p 300")] {
            let service = format!("-t {}", at(vip, port));
            gateway.ctl(&format!("-A {service} -s wlc{persistent}"));
            if let Some(local) = local {
                gateway.ctl(&format!("-P {service} -z {}", of(local)));
            }
            for server in &network.servers {
                gateway.ctl(&format!("-a {service} -r {} {method}", at(&server.address.to_string(), port)));
            }
        }
        let (http, https) = (format!("http://{}", at(vip, 80)), format!("https://{}", at(vip, 443)));
        let visit = |options: &str| clients::visit(&network.client, options);
        let (status, page) = visit(&format!("{http}/status"));
        assert!(status == 200 && page.starts_with("Active connections:"), "{status} {page}");
        assert_eq!(visit(&format!("{http}/private/")).0, 401);
        assert_eq!(visit(&format!("--user member:wrong {http}/private/")).0, 401);
        let (status, page) = visit(&format!("--user member:secret {http}/private/"));
        assert!(status == 200 && page.starts_with("<h1>RS"), "{status} {page}");
        assert_eq!(visit(&format!("--referer http://elsewhere.test/ {http}/pictures/one.html")).0, 403);
        let own = format!("--referer http://www.weir.test/ {http}/pictures/one.html");
        assert_eq!(visit(&own).0, 200);
        // One program, two connections: the second takes up the first's TLS session, at the same server.
        let twice = format!("--insecure --tls-max 1.2 --header Connection:close {https}/ {https}/");
        let (status, pages) = visit(&twice);
        assert!(status == 200 && pages.matches("<h1>RS").count() == 2, "{status} {pages}");
    }
    let visits: Vec<_> = sites.iter().flat_map(Site::visits).collect();
    let resumed = visits.iter().filter(|line| line.ends_with(" 200 r")).count();
    assert_eq!(resumed, 2, "one by IPv4, one by IPv6: {visits:#?}");
    gateway.stop();
}

fn by_fullnat(workers: u16) {
    visited(&topology::fullnat(&Options::workers(workers).and_ipv6()), VIP, Some(LIP), "--fullnat");
}

fn by_nat(workers: u16) {
    visited(&topology::nat(&Options::workers(workers).and_ipv6()), VIP, None, "-m");
}

fn by_direct_routing(workers: u16) {
    visited(&topology::direct_routing(&Options::workers(workers).and_ipv6()), DIRECT_VIP, None, "-g");
}

fn by_tunnel(workers: u16) {
    let kinds = ["-i", "-i --tun-type gre --tun-csum", "-i --tun-type gue --tun-port 6080"];
    for method in kinds {
        let options = Options { tunnels: true, ..Options::workers(workers).and_ipv6() };
        let network = topology::direct_routing(&options);
        visited(&network, DIRECT_VIP, None, method);
        assert!(network.tunnels.iter().all(|end| end.unwrapped() > 0), "{method}");
    }
}

fn over_vlans(workers: u16) {
    let options = Options { vlans: true, ..Options::workers(workers).and_ipv6() };
    visited(&topology::fullnat(&options), VIP, Some(LIP), "--fullnat");
}
