//! TAP twins: that they appear as they should, and that frames go both ways through them.

mod host_support;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, Icmpv6Type, NetSlice, PacketBuilder,
    SlicedPacket, TransportSlice, icmpv6::NeighborAdvertisementHeader,
};
use host_support::{Bench, Namespace, PATIENCE, PEER_MAC, PORT_MAC, port};
use weir::{
    host::{HostError, HostPort, Reachability, StaticRoute, TwinState},
    io::PortId,
    mac::Mac,
};

const WAN: PortId = PortId(0);
const TWIN: Ipv4Addr = Ipv4Addr::new(192, 168, 80, 4);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 168, 80, 9);

fn arp(operation: ArpOperation, destination: [u8; 6], target_mac: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    let ethernet = Ethernet2Header { source: PEER_MAC.0, destination, ether_type: EtherType::ARP };
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &PEER_MAC.0,
        &PEER.octets(),
        &target_mac,
        &target.octets(),
    );
    let mut frame = ethernet.to_bytes().to_vec();
    packet.unwrap().write(&mut frame).unwrap();
    frame
}

/// What an ARP frame says: operation, sender's hardware and IP address, target's IP address.
fn as_arp(frame: &[u8]) -> Option<(ArpOperation, Vec<u8>, IpAddr, IpAddr)> {
    let NetSlice::Arp(arp) = SlicedPacket::from_ethernet(frame).ok()?.net? else { return None };
    let ip = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    let sender = arp.sender_hw_addr().to_vec();
    Some((arp.operation(), sender, ip(arp.sender_protocol_addr())?, ip(arp.target_protocol_addr())?))
}

#[test]
fn a_twin_has_the_ports_properties() {
    let ns = Namespace::new();
    let bench = Bench::start(&ns, vec![port("wan", &["192.168.80.4/24", "2001:db8::4/64"])]);
    let link = ns.run("ip -o link show dev wan");
    assert!(link.contains(&PORT_MAC.to_string()), "{link}");
    assert!(link.contains("mtu 1400") && link.contains("LOWER_UP"), "{link}");
    let addresses = ns.run("ip -o addr show dev wan");
    assert!(addresses.contains("192.168.80.4/24") && addresses.contains("2001:db8::4/64"), "{addresses}");
    assert!(!addresses.contains("tentative") || !addresses.contains("2001:db8::4/64 scope global tentative"));

    let has = |s: &weir::host::NetState, a: &str| s.addresses.iter().any(|x| x.prefix == a.parse().unwrap());
    bench.state(|s| has(s, "192.168.80.4/24") && has(s, "2001:db8::4/64"));

    bench.host.set_mtu(WAN, 1300).unwrap();
    bench.host.set_carrier(WAN, false).unwrap();
    let link = ns.run("ip -o link show dev wan");
    assert!(link.contains("mtu 1300") && link.contains("NO-CARRIER"), "{link}");
    bench.host.set_carrier(WAN, true).unwrap();
    assert!(ns.run("ip -o link show dev wan").contains("LOWER_UP"));
    assert!(matches!(bench.host.set_carrier(PortId(7), true), Err(HostError::NoPort(PortId(7)))));

    drop(bench);
    assert!(!ns.try_run("ip link show dev wan").status.success(), "the twin goes with the host");
}

#[test]
fn the_kernel_answers_pings_through_its_twin() {
    let ns = Namespace::new();
    let bench = Bench::start(&ns, vec![port("wan", &["192.168.80.4/24"])]);

    bench.receive(WAN, arp(ArpOperation::REQUEST, [0xff; 6], [0; 6], TWIN));
    let reply = bench.sent(|p, f| as_arp(f).filter(|a| p == WAN && a.0 == ArpOperation::REPLY));
    assert_eq!(reply, (ArpOperation::REPLY, PORT_MAC.0.to_vec(), TWIN.into(), PEER.into()));

    let mut echo = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC.0, PORT_MAC.0)
        .ipv4(PEER.octets(), TWIN.octets(), 64)
        .icmpv4_echo_request(7, 1)
        .write(&mut echo, b"weir")
        .unwrap();
    bench.receive(WAN, echo);
    bench.sent(|_, frame| {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let Some(TransportSlice::Icmpv4(icmp)) = packet.transport else { return None };
        (icmp.type_u8() == 0 && icmp.payload() == b"weir").then_some(())
    });

    bench.receive(WAN, vec![0; 5]);
    bench.receive(PortId(9), vec![0; 60]);
    bench.receive(WAN, arp(ArpOperation::REQUEST, [0xff; 6], [0; 6], TWIN));
    bench.sent(|_, f| as_arp(f).filter(|a| a.0 == ArpOperation::REPLY));
    let counters = &bench.host.counters()[0];
    assert_eq!(counters.to_kernel_dropped.get(), 1, "too short for a frame");
    // The last frame may not be counted yet when it has been seen.
    assert!(counters.to_kernel.get() >= 2 && counters.from_kernel.get() >= 2);
}

#[test]
fn a_neighbour_is_resolved_by_the_kernel() {
    let ns = Namespace::new();
    let bench = Bench::start(&ns, vec![port("wan", &["192.168.80.4/24"])]);
    bench.host.resolve(WAN, PEER.into());
    let asked = bench.sent(|_, f| as_arp(f).filter(|a| a.0 == ArpOperation::REQUEST));
    assert_eq!((asked.2, asked.3), (TWIN.into(), PEER.into()));

    bench.receive(WAN, arp(ArpOperation::REPLY, PORT_MAC.0, PORT_MAC.0, TWIN));
    let (state, _) = bench.state(|s| s.neighbour(WAN, PEER.into()).is_some_and(|n| n.mac().is_some()));
    assert_eq!(state.neighbour(WAN, PEER.into()).unwrap().mac(), Some(PEER_MAC));
    assert!(ns.run("ip neigh show dev wan").contains("managed"));

    bench.host.forget(WAN, PEER.into());
    bench.host.set_mtu(WAN, 1400).unwrap();
    assert!(!ns.run("ip neigh show dev wan").contains("managed"));
}

/// A neighbour that asked first is in the kernel's table as STALE: nobody would ever ask it.
#[test]
fn a_neighbour_that_introduced_itself_is_verified_once_packets_go_there() {
    let ns = Namespace::new();
    let bench = Bench::start(&ns, vec![port("wan", &["192.168.80.4/24"])]);
    ns.run("sysctl -qw net.ipv4.neigh.wan.delay_first_probe_time=1");
    ns.run("sysctl -qw net.ipv4.neigh.wan.retrans_time_ms=100");
    ns.run("sysctl -qw net.ipv4.neigh.wan.base_reachable_time_ms=1000");
    bench.receive(WAN, arp(ArpOperation::REQUEST, [0xff; 6], [0; 6], TWIN));
    bench.state(|s| s.neighbour(WAN, PEER.into()).is_some_and(|n| n.mac() == Some(PEER_MAC)));
    let unknown = Ipv4Addr::new(192, 168, 80, 77);
    let show = || ns.run("ip neigh show dev wan");
    bench.host.set_mtu(WAN, 1400).unwrap();
    assert!(!show().contains("managed"), "{}", show());

    bench.host.in_use(vec![(WAN, PEER.into()), (WAN, unknown.into())]);
    let asked = bench.sent(|_, f| as_arp(f).filter(|a| a.0 == ArpOperation::REQUEST));
    assert_eq!(asked.3, IpAddr::from(PEER), "what the kernel knows nothing of isn't asked for");
    assert!(show().contains("managed"), "{}", show());
    bench.receive(WAN, arp(ArpOperation::REPLY, PORT_MAC.0, PORT_MAC.0, TWIN));
    wait_for_neighbour(&ns, "REACHABLE");
    // It falls silent.
    bench.state(|s| s.neighbour(WAN, PEER.into()).is_some_and(|n| n.reachability == Reachability::Failed));
}

/// Waits until the neighbour on the twin is in this state of the kernel's.
fn wait_for_neighbour(ns: &Namespace, state: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !ns.run("ip neigh show dev wan").contains(state) {
        assert!(Instant::now() < deadline, "{}", ns.run("ip neigh show dev wan"));
    }
}

#[test]
fn an_ipv6_neighbour_is_resolved_by_the_kernel() {
    let ns = Namespace::new();
    let bench = Bench::start(&ns, vec![port("wan", &["2001:db8::4/64"])]);
    let (twin, peer): (Ipv6Addr, Ipv6Addr) = ("2001:db8::4".parse().unwrap(), "2001:db8::9".parse().unwrap());
    bench.host.resolve(WAN, peer.into());
    let asker = bench.sent(|_, frame| {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) = (packet.net, packet.transport)
        else {
            return None;
        };
        let target = icmp.payload().get(..16)? == peer.octets();
        (icmp.icmp_type() == Icmpv6Type::NeighborSolicitation && target).then(|| ip.header().source_addr())
    });
    let answer = NeighborAdvertisementHeader { router: false, solicited: true, r#override: true };
    let options = [&[2, 1], &PEER_MAC.0[..]].concat();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER_MAC.0, PORT_MAC.0)
        .ipv6(peer.octets(), asker.octets(), 255)
        .icmpv6(Icmpv6Type::NeighborAdvertisement(answer))
        .write(&mut frame, &[&peer.octets()[..], &options].concat())
        .unwrap();
    bench.receive(WAN, frame);
    let (state, _) = bench.state(|s| s.neighbour(WAN, peer.into()).is_some_and(|n| n.mac().is_some()));
    assert_eq!(state.neighbour(WAN, peer.into()).unwrap().mac(), Some(PEER_MAC));
    assert!(state.is_local(twin.into()));
}

#[test]
fn a_name_that_is_taken_is_refused() {
    let ns = Namespace::new();
    ns.run("ip link add wan type veth peer name other");
    let error = Bench::try_start(Some(ns.path()), vec![port("lan", &[]), port("wan", &[])]).err().unwrap();
    assert!(matches!(&error, HostError::NameTaken(name) if name == "wan"), "{error}");
    assert!(!ns.try_run("ip link show dev lan").status.success(), "nothing is left behind");

    let error = Bench::try_start(Some("/nonexistent".into()), vec![]).err().unwrap();
    assert!(error.to_string().starts_with("network namespace `/nonexistent`: "), "{error}");
}

#[test]
fn addresses_work_where_ipv6_is_off_by_default() {
    let ns = Namespace::new();
    ns.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
    let bench = Bench::start(&ns, vec![port("wan", &["2001:db8::4/64"]), port("lan", &[])]);
    assert!(ns.run("ip -o addr show dev wan").contains("2001:db8::4/64"));
    assert!(bench.host.add_local(PortId(1), "2001:db8:1::1".parse().unwrap()).unwrap());
    assert!(ns.run("ip -o addr show dev lan").contains("2001:db8:1::1/128"));
}

#[test]
fn a_changed_hardware_address_is_set_back() {
    let ns = Namespace::new();
    let bench = Bench::start(&ns, vec![port("wan", &["192.168.80.4/24"])]);
    ns.run("ip link set wan address 02:00:00:00:00:77");
    let deadline = Instant::now() + PATIENCE;
    while !ns.run("ip -o link show dev wan").contains(&PORT_MAC.to_string()) {
        assert!(Instant::now() < deadline);
    }
    drop(bench);
}

/// Waits until a state shows this of the first twin, however short.
fn wait_for_twin(bench: &Bench, wanted: &TwinState) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let state = bench.states.recv_timeout(left).unwrap_or_else(|_| panic!("in vain for {wanted:?}"));
        if state.twins[0] == *wanted {
            return;
        }
    }
}

#[test]
fn a_deleted_twin_is_created_again() {
    let ns = Namespace::new();
    let bench = Bench::start(&ns, vec![port("wan", &["192.168.80.4/24"]), port("lan", &["10.0.0.1/24"])]);
    let local = "192.168.80.9".parse().unwrap();
    assert!(bench.host.add_local(PortId(0), local).unwrap());
    ns.run("ip link del wan");
    wait_for_twin(&bench, &TwinState { present: false, ..TwinState::GOOD });
    wait_for_twin(&bench, &TwinState::GOOD);
    bench.state(|s| s.is_local("192.168.80.4".parse().unwrap()) && s.is_local(local));
    assert!(ns.run("ip -o link show dev wan").contains(&PORT_MAC.to_string()));
    ns.run("ip route add 10.9.0.0/16 via 192.168.80.7");
    bench.state(|s| s.routes.get(&"10.9.0.0/16".parse().unwrap()).is_some());
    // What the kernel sends out of the new twin is taken from it.
    let _ = ns.command("ping -c 1 -W 1 -q 192.168.80.7").output();
    bench.sent(|port, frame| (port == PortId(0) && as_arp(frame).is_some()).then_some(()));
}

/// The kernel has the configured routes as long as there is a twin, behind whatever others there are.
#[test]
fn configured_routes_are_the_kernel_s_too() {
    let ns = Namespace::new();
    let to = |to: &str, via: Option<&str>, mtu| StaticRoute {
        to: to.parse().unwrap(),
        via: via.map(|via| via.parse().unwrap()),
        mtu,
    };
    let routes = vec![
        to("0.0.0.0/0", Some("192.168.80.1"), Some(1300)),
        to("10.9.0.0/16", None, None),
        // No address of the twin's is in its network.
        to("2001:db8:9::/48", Some("2001:db8:ffff::1"), Some(1290)),
    ];
    let wan = HostPort { routes, ..port("wan", &["192.168.80.4/24"]) };
    let bench = Bench::start(&ns, vec![wan]);
    let asked = |line: &str| ns.run(line).split_whitespace().collect::<Vec<_>>().join(" ");
    let all = |family: &str| asked(&format!("ip {family} route show proto 87"));
    let check = || {
        let v4 = all("-4");
        assert!(v4.contains("default via 192.168.80.1 dev wan metric 1048576 onlink mtu 1300"), "{v4}");
        assert!(v4.contains("10.9.0.0/16 dev wan scope link metric 1048576"), "{v4}");
        let v6 = all("-6");
        assert!(
            v6.contains("2001:db8:9::/48 via 2001:db8:ffff::1 dev wan metric 1048576 onlink mtu 1290"),
            "{v6}"
        );
    };
    check();
    assert!(asked("ip route get 8.8.8.8").contains("via 192.168.80.1 dev wan"));
    // Somebody else's counts, and stays.
    ns.run("ip route add default via 192.168.80.9 metric 100");
    assert!(asked("ip route get 8.8.8.8").contains("via 192.168.80.9 dev wan"));
    ns.run("ip link set wan down");
    wait_for_twin(&bench, &TwinState { up: false, ..TwinState::GOOD });
    ns.run("ip link set wan up");
    wait_for_twin(&bench, &TwinState::GOOD);
    check();
    ns.run("ip link add other type veth peer name other2");
    ns.run("ip addr add 198.51.100.1/24 dev other");
    ns.run("ip link set other up");
    ns.run("ip route add 10.9.0.0/16 dev other");
    drop(bench);
    assert_eq!((all("-4"), all("-6")), (String::new(), String::new()));
    assert!(asked("ip route show 10.9.0.0/16").contains("dev other"), "not ours to take away");
}

#[test]
fn a_twin_that_was_set_down_comes_back_with_its_addresses() {
    let ns = Namespace::new();
    let bench = Bench::start(&ns, vec![port("wan", &["192.168.80.4/24", "2001:db8::4/64"])]);
    ns.run("ip link set wan down");
    wait_for_twin(&bench, &TwinState { up: false, ..TwinState::GOOD });
    bench.state(|s| !s.is_local("2001:db8::4".parse().unwrap()));
    ns.run("ip link set wan up");
    wait_for_twin(&bench, &TwinState::GOOD);
    bench.state(|s| s.is_local("2001:db8::4".parse().unwrap()));
    bench.state(|s| s.routes.get(&"192.168.80.0/24".parse().unwrap()).is_some());
}

#[test]
fn a_renamed_twin_works_and_is_reported() {
    let ns = Namespace::new();
    let bench = Bench::start(&ns, vec![port("wan", &["192.168.80.4/24"])]);
    ns.run("ip link set wan name uplink");
    wait_for_twin(&bench, &TwinState { renamed: Some("uplink".to_owned()), ..TwinState::GOOD });
    assert!(bench.host.add_local(PortId(0), "192.168.80.9".parse().unwrap()).unwrap());
    assert!(ns.run("ip -o addr show dev uplink").contains("192.168.80.9/32"));
    ns.run("ip link set uplink name wan");
    wait_for_twin(&bench, &TwinState::GOOD);
}

/// VRRP's virtual router on a macvlan: its MAC address and addresses are the port's as long as it is there and up.
#[test]
fn a_macvlan_over_a_twin_is_the_ports() {
    const VIRTUAL: Mac = Mac([0, 0, 0x5e, 0, 1, 0x33]);
    let ns = Namespace::new();
    let bench = Bench::start(&ns, vec![port("wan", &["192.168.80.4/24"]), port("lan", &["10.0.0.1/24"])]);
    ns.run("sysctl -qw net.ipv4.conf.wan.arp_ignore=1");
    let virtual_ip = Ipv4Addr::new(192, 168, 80, 50);
    let local = |s: &weir::host::NetState| s.is_local(virtual_ip.into());
    ns.run("ip link add vrrp.51 link wan address 00:00:5e:00:01:33 type macvlan mode private");
    ns.run("ip addr add 192.168.80.50/24 dev vrrp.51");
    ns.run("ip link set vrrp.51 up");
    bench.state(|s| *s.stations == [(WAN, VIRTUAL)] && local(s));
    ns.run("ip route add 10.9.0.0/16 via 192.168.80.7 dev vrrp.51");
    bench.state(|s| s.routes.get(&"10.9.0.0/16".parse().unwrap()).is_some());

    // The kernel answers with the virtual address, to everybody and to whoever asks it alone.
    for to in [[0xff; 6], VIRTUAL.0] {
        bench.receive(WAN, arp(ArpOperation::REQUEST, to, [0; 6], virtual_ip));
        let reply = bench.sent(|p, f| as_arp(f).filter(|a| p == WAN && a.0 == ArpOperation::REPLY));
        assert_eq!((reply.1, reply.2), (VIRTUAL.0.to_vec(), virtual_ip.into()));
    }
    ns.run("ip link set vrrp.51 down");
    bench.state(|s| s.stations.is_empty());
    ns.run("ip link set vrrp.51 address 00:00:5e:00:01:34");
    ns.run("ip link set vrrp.51 up");
    bench.state(|s| *s.stations == [(WAN, Mac([0, 0, 0x5e, 0, 1, 0x34]))]);
    ns.run("ip link del vrrp.51");
    bench.state(|s| s.stations.is_empty() && !local(s));

    // One that is there before a twin is made anew goes with the old one; one over the new twin counts again.
    ns.run("ip link del wan");
    bench.state(|s| !s.twins[0].present);
    bench.state(|s| s.twins[0].present);
    ns.run("ip link add vrrp.51 link wan address 00:00:5e:00:01:33 type macvlan");
    ns.run("ip link set vrrp.51 up");
    bench.state(|s| *s.stations == [(WAN, VIRTUAL)]);
}
