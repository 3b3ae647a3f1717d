//! VRRP's virtual routers, as keepalived's `use_vmac` makes them: macvlans over the twins with MAC addresses of their own.

use std::time::Duration;

use lab::{
    process::wait_until,
    topology::{self, LIP, Options, VIP},
};

use crate::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(20);
const WAN_MAC: &str = "00:00:5e:00:01:33";
const LAN_MAC: &str = "00:00:5e:00:01:34";

/// The virtual address and the local one are on macvlans, which answer ARP with their own MAC addresses.
fn served_by_virtual_routers(options: &Options) {
    let mut network = topology::fullnat(options);
    network.config.ports[0].addresses.retain(|address| !address.starts_with(VIP));
    let mut scene = Scene::of(network);
    let twins = &scene.network.twins;
    for (port, mac, address) in [("wan", WAN_MAC, VIP), ("lan", LAN_MAC, LIP)] {
        twins.sysctl(&format!("net.ipv4.conf.{port}.arp_ignore"), 1);
        twins.ip(&format!("link add vrrp.{port} link {port} address {mac} type macvlan mode private"));
        twins.ip(&format!("addr add {address}/32 dev vrrp.{port}"));
        twins.ip(&format!("link set vrrp.{port} up"));
    }
    let ready = ["another MAC address", WAN_MAC, LAN_MAC];
    wait_until("the ports to receive for both", PATIENCE, || {
        let log = scene.gateway.process().log();
        ready.iter().all(|word| log.contains(word)).then_some(())
    });
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    assert_eq!(scene.answers(2).len(), 2);
    let seen = scene.network.client.ip(&format!("neigh show {VIP}"));
    assert!(seen.contains(WAN_MAC), "{seen}");
    let seen = scene.network.beyond.ip(&format!("neigh show {LIP}"));
    assert!(seen.contains(LAN_MAC), "{seen}");
    scene.network.client.run(&format!("ping -c 1 -W 5 -q {VIP}"));
    assert_eq!(scene.gateway.counter("not-our-mac"), 0);

    // Another router is the master now: its frames are none of ours.
    scene.network.twins.ip("link del vrrp.wan");
    wait_until("the MAC address to be given up", PATIENCE, || {
        scene.gateway.process().log().contains("the MAC address is gone").then_some(())
    });
    assert!(scene.connect(80, Duration::from_millis(300)).is_err());
    assert!(scene.gateway.counter("not-our-mac") > 0);
    scene.gateway.stop();
}

#[test]
fn virtual_routers_on_macvlans_serve() {
    served_by_virtual_routers(&Options::default());
}

#[test]
fn virtual_routers_on_vlans_serve() {
    served_by_virtual_routers(&Options { vlans: true, ..Options::workers(2) });
}
