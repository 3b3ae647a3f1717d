//! The mirror: what is done with `ip` in the twins' namespace arrives, soon and rightly.

mod host_support;

use std::time::Duration;

use host_support::{Bench, Namespace, port};
use weir::{
    host::{KernelRoute, NetState, NextHop, Reachability, RouteAction, Table},
    io::PortId,
};

const WAN: PortId = PortId(0);
const LAN: PortId = PortId(1);
/// A change is to be seen within this time.
const SOON: Duration = Duration::from_millis(100);

fn two_ports(ns: &Namespace) -> Bench {
    Bench::start(
        ns,
        vec![
            port("wan", &["192.168.80.4/24", "2001:db8::4/64"]),
            port("lan", &["10.0.0.1/24", "2001:db8:1::1/64"]),
        ],
    )
}

fn route<'a>(state: &'a NetState, to: &str) -> Option<&'a KernelRoute> {
    state.routes.get(&to.parse().unwrap())
}

fn hop(port: PortId, gateway: &str, weight: u16) -> NextHop {
    NextHop { port, gateway: Some(gateway.parse().unwrap()), weight }
}

#[test]
fn routes_come_and_go_at_once() {
    let ns = Namespace::new();
    let bench = two_ports(&ns);
    let on_link = bench.host.state();
    let lan = NextHop { port: LAN, gateway: None, weight: 1 };
    assert_eq!(route(&on_link, "10.0.0.0/24").unwrap().action, RouteAction::Forward([lan].into()));
    assert!(route(&on_link, "0.0.0.0/0").is_none());

    ns.run("ip route add default via 192.168.80.1 mtu 1300");
    let (state, _) = bench.state(|s| route(s, "0.0.0.0/0").is_some());
    let default = route(&state, "0.0.0.0/0").unwrap();
    assert_eq!(default.action, RouteAction::Forward([hop(WAN, "192.168.80.1", 1)].into()));
    assert_eq!(default.mtu, Some(1300));

    ns.run("ip route replace default via 10.0.0.9");
    let via_lan = RouteAction::Forward([hop(LAN, "10.0.0.9", 1)].into());
    bench.state(|s| route(s, "0.0.0.0/0").is_some_and(|r| r.action == via_lan));
    ns.run("ip route del default");
    bench.state(|s| route(s, "0.0.0.0/0").is_none());

    ns.run("ip -6 route add 2001:db8:f::/48 via fe80::1 dev wan");
    let (state, _) = bench.state(|s| route(s, "2001:db8:f::/48").is_some());
    let action = &route(&state, "2001:db8:f::/48").unwrap().action;
    assert_eq!(*action, RouteAction::Forward([hop(WAN, "fe80::1", 1)].into()));

    // How soon: the better half of several, as other tests may keep the machine busy.
    let mut took = Vec::new();
    for _ in 0..6 {
        ns.run("ip route add default via 192.168.80.1");
        took.push(bench.state(|s| route(s, "0.0.0.0/0").is_some()).1);
        ns.run("ip route del default");
        took.push(bench.state(|s| route(s, "0.0.0.0/0").is_none()).1);
    }
    took.sort();
    assert!(took[took.len() / 2] < SOON, "{took:?}");
}

#[test]
fn equal_cost_routes_have_all_their_next_hops() {
    let ns = Namespace::new();
    let bench = two_ports(&ns);
    ns.run("ip route add 10.1.0.0/16 nexthop via 10.0.0.2 weight 3 nexthop via 192.168.80.1");
    let (state, _) = bench.state(|s| route(s, "10.1.0.0/16").is_some());
    let both = vec![hop(LAN, "10.0.0.2", 3), hop(WAN, "192.168.80.1", 1)];
    assert_eq!(route(&state, "10.1.0.0/16").unwrap().action, RouteAction::Forward(both.into()));

    // IPv6 grows a multipath route hop by hop, and loses one in the same way.
    ns.run("ip -6 route add 2001:db8:f::/48 via 2001:db8::1 dev wan");
    ns.run("ip -6 route append 2001:db8:f::/48 via 2001:db8:1::2 dev lan");
    let hops = |s: &NetState| match route(s, "2001:db8:f::/48").map(|r| r.action.clone()) {
        Some(RouteAction::Forward(hops)) => hops.len(),
        _ => 0,
    };
    bench.state(|s| hops(s) == 2);
    ns.run("ip -6 route del 2001:db8:f::/48 via 2001:db8::1 dev wan");
    let (state, _) = bench.state(|s| hops(s) == 1);
    let left = RouteAction::Forward([hop(LAN, "2001:db8:1::2", 1)].into());
    assert_eq!(route(&state, "2001:db8:f::/48").unwrap().action, left);

    ns.run("ip nexthop add id 1 via 10.0.0.2 dev lan");
    ns.run("ip nexthop add id 2 via 192.168.80.1 dev wan");
    ns.run("ip nexthop add id 3 group 1/2");
    ns.run("ip route add 10.2.0.0/16 nhid 3");
    let (state, _) = bench.state(|s| route(s, "10.2.0.0/16").is_some());
    let both = vec![hop(LAN, "10.0.0.2", 1), hop(WAN, "192.168.80.1", 1)];
    assert_eq!(route(&state, "10.2.0.0/16").unwrap().action, RouteAction::Forward(both.into()));
}

#[test]
fn metrics_other_tables_and_blackholes() {
    let ns = Namespace::new();
    let bench = two_ports(&ns);
    ns.run("ip route add 10.1.0.0/16 via 10.0.0.2 metric 20");
    ns.run("ip route add 10.1.0.0/16 via 192.168.80.1 metric 10");
    ns.run("ip route add 10.2.0.0/16 via 10.0.0.2 table 100");
    ns.run("ip route add blackhole 10.3.0.0/16");
    ns.run("ip link add other type veth peer name other2");
    ns.run("ip link set other up");
    ns.run("ip route add 10.4.0.0/16 dev other");
    ns.run("ip route add unreachable 10.5.0.0/16");
    let (state, _) = bench.state(|s| route(s, "10.5.0.0/16").is_some());
    assert_eq!(route(&state, "10.1.0.0/16").unwrap().metric, 10);
    assert!(route(&state, "10.2.0.0/16").is_none());
    assert!(matches!(route(&state, "10.4.0.0/16").unwrap().action, RouteAction::Elsewhere(_)));
    assert_eq!(route(&state, "10.3.0.0/16").unwrap().action, RouteAction::Blackhole);
    assert_eq!(route(&state, "10.5.0.0/16").unwrap().action, RouteAction::Unreachable);
    ns.run("ip route del 10.1.0.0/16 metric 10");
    bench.state(|s| route(s, "10.1.0.0/16").is_some_and(|r| r.metric == 20));
}

/// The twin's half of what the kernel knows isn't what it decides by.
#[test]
fn routes_over_other_interfaces_take_the_place_of_the_twins() {
    let ns = Namespace::new();
    let bench = two_ports(&ns);
    ns.run("ip link add other type veth peer name other2");
    ns.run("ip link set other2 up");
    ns.run("ip link set other up");
    ns.run("ip addr add 198.51.100.1/24 dev other");
    let is_elsewhere =
        |s: &NetState, to: &str| route(s, to).is_some_and(|r| matches!(r.action, RouteAction::Elsewhere(_)));
    let is_by = |s: &NetState, to: &str, port| {
        route(s, to).is_some_and(|r| matches!(&r.action, RouteAction::Forward(hops) if hops[0].port == port))
    };
    for (ip, to, near, far) in [
        ("ip", "10.1.0.0/16", "10.0.0.2", "198.51.100.9"),
        ("ip -6", "2001:db8:f::/48", "2001:db8:1::2", "fe80::9"),
    ] {
        ns.run(&format!("{ip} route add {to} via {near} metric 50"));
        bench.state(|s| is_by(s, to, LAN));
        // Another interface, a better metric there, and back.
        ns.run(&format!("{ip} route replace {to} via {far} dev other metric 50"));
        bench.state(|s| is_elsewhere(s, to));
        ns.run(&format!("{ip} route del {to}"));
        bench.state(|s| route(s, to).is_none());
        ns.run(&format!("{ip} route add {to} via {near} metric 50"));
        ns.run(&format!("{ip} route add {to} via {far} dev other metric 10"));
        bench.state(|s| is_elsewhere(s, to));
        ns.run(&format!("{ip} route del {to} metric 10"));
        bench.state(|s| is_by(s, to, LAN));
        ns.run(&format!("{ip} route add {to} via {far} dev other metric 10"));
        bench.state(|s| is_elsewhere(s, to));
        // The kernel doesn't say that IPv4 routes went with their link.
        ns.run("ip link set other down");
        bench.state(|s| is_by(s, to, LAN));
        ns.run("ip link set other up");
    }
    ns.run("ip route add 10.7.0.0/16 via 10.0.0.2 table default");
    ns.run("ip route add local 203.0.113.0/24 dev other");
    let at = |table, to: &str| (table, to.parse().unwrap());
    bench.state(|s| {
        let local = s.other_routes.get(&at(Table::Local, "203.0.113.0/24"));
        s.other_routes.get(&at(Table::Default, "10.7.0.0/16")).is_some()
            && local.is_some_and(|r| matches!(r.action, RouteAction::Elsewhere(_)))
    });
    ns.run("ip link del other");
    bench.state(|s| s.other_routes.get(&at(Table::Local, "203.0.113.0/24")).is_none());
}

#[test]
fn routes_that_go_with_their_link_are_missed() {
    let ns = Namespace::new();
    let bench = two_ports(&ns);
    ns.run("ip route add 10.1.0.0/16 via 10.0.0.2");
    bench.state(|s| route(s, "10.1.0.0/16").is_some());
    // The kernel doesn't notify these IPv4 routes' deletion.
    ns.run("ip link set lan down");
    bench.state(|s| route(s, "10.1.0.0/16").is_none() && route(s, "10.0.0.0/24").is_none());
    ns.run("ip link set lan up");
    bench.state(|s| route(s, "10.0.0.0/24").is_some());
    ns.run("ip addr del 10.0.0.1/24 dev lan");
    bench.state(|s| route(s, "10.0.0.0/24").is_none());
}

/// Has `ip` add or delete `count` routes.
fn many_routes(ns: &Namespace, verb: &str, count: u32) {
    let file = std::env::temp_dir().join(format!("weir-{}-{verb}", ns.name));
    let line = |n: u32| format!("route {verb} 20.{}.{}.0/24 via 192.168.80.1\n", n >> 8, n & 255);
    std::fs::write(&file, (0..count).map(line).collect::<String>()).unwrap();
    ns.run(&format!("ip -batch {}", file.display()));
    let _ = std::fs::remove_file(&file);
}

#[test]
fn a_full_routing_table_is_mirrored() {
    let ns = Namespace::new();
    let bench = two_ports(&ns);
    let before = bench.host.state().routes.len();
    many_routes(&ns, "add", 20_000);
    bench.state(|s| s.routes.len() == before + 20_000);
    many_routes(&ns, "del", 20_000);
    bench.state(|s| s.routes.len() == before);
}

#[test]
fn lost_notifications_are_made_up_for() {
    let ns = Namespace::new();
    let bench = two_ports(&ns);
    let before = bench.host.state().routes.len();
    let gate = bench.gate.lock().unwrap();
    ns.run("ip route add 10.1.0.0/16 via 10.0.0.2");
    // The thread is stuck publishing that one while the kernel has more to say than the socket holds.
    many_routes(&ns, "add", 40_000);
    assert!(bench.host.state().routes.len() < before + 40_000);
    drop(gate);
    bench.state(|s| s.routes.len() == before + 40_001);
}

#[test]
fn neighbours_by_hand() {
    let ns = Namespace::new();
    let bench = two_ports(&ns);
    let address = "10.0.0.2".parse().unwrap();
    ns.run("ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:09 nud permanent dev lan");
    let (state, _) = bench.state(|s| s.neighbour(LAN, address).is_some());
    assert_eq!(state.neighbour(LAN, address).unwrap().mac().unwrap().to_string(), "02:00:00:00:00:09");
    // Resolving it must not undo what the administrator said.
    bench.host.resolve(LAN, address);
    bench.host.set_mtu(LAN, 1400).unwrap();
    assert!(ns.run("ip neigh show dev lan").contains("PERMANENT"));
    ns.run("ip neigh del 10.0.0.2 dev lan");
    bench.state(|s| s.neighbour(LAN, address).is_none());

    // Nobody answers: the entry fails.
    bench.host.resolve(WAN, "192.168.80.77".parse().unwrap());
    let failed = Some(Reachability::Failed);
    bench.state(|s| s.neighbour(WAN, "192.168.80.77".parse().unwrap()).map(|n| n.reachability) == failed);
}

#[test]
fn local_addresses_are_counted_and_only_ours_are_taken_off() {
    let ns = Namespace::new();
    let bench = two_ports(&ns);
    let (ours, theirs) = ("10.0.0.100".parse().unwrap(), "10.0.0.1".parse().unwrap());
    let shown = |what: &str| ns.run("ip -o addr show dev lan").contains(what);

    assert!(bench.host.add_local(LAN, ours).unwrap());
    assert!(shown("10.0.0.100/32"));
    bench.state(|s| s.is_local(ours));
    assert!(!bench.host.add_local(WAN, ours).unwrap(), "a second service uses it, on another port");
    assert!(!bench.host.remove_local(WAN, ours).unwrap());
    assert!(shown("10.0.0.100/32"));
    assert!(bench.host.remove_local(LAN, ours).unwrap());
    assert!(!shown("10.0.0.100/32"));
    assert!(!bench.host.remove_local(LAN, ours).unwrap(), "once too often does no harm");

    assert!(!bench.host.add_local(LAN, theirs).unwrap(), "configuration put it there");
    assert!(!bench.host.remove_local(LAN, theirs).unwrap());
    assert!(shown("10.0.0.1/24"));

    let v6 = "2001:db8:1::100".parse().unwrap();
    assert!(bench.host.add_local(LAN, v6).unwrap());
    assert!(shown("2001:db8:1::100/128") && !shown("tentative scope global"));
    assert!(bench.host.remove_local(LAN, v6).unwrap());
}
