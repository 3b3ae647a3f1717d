//! Next hops: strangers, silent or not, leave room for servers, and nobody's packets go to a neighbour of before.

mod rig;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use rig::{
    CLIENT_MAC, LAN, LAN_MAC, LIP_V6, Options, Rig, SERVER_MAC, WAN, WAN_MAC,
    frames::{self, Endpoint, Tcp},
    key, server,
};
use weir::{
    io::PortId,
    net::ethernet::Mac,
    path::{
        flow::route::{Neighbour, PortFacts, Route, RouteTable, Routes, Via},
        verdict::Reason,
    },
};
use weir_api::{
    model::{Forwarding, LocalAddress, Protocol, Server, Service, ServiceKey},
    protocol::Change,
};

const VIP: [u8; 4] = [192, 0, 2, 10];
const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x10);

fn vip() -> Endpoint {
    (VIP.into(), 80)
}

fn flags(flags: &str) -> Tcp<'_> {
    Tcp { flags, seq: 1, ack: 1 }
}

fn rig(method: Forwarding) -> Rig {
    let mut rig = Rig::with(&Options { max_sessions: 65_536, ..Options::default() });
    rig.add_service(Protocol::Tcp, VIP, 80, "rr", method == Forwarding::FullNat);
    rig.add_server(key(Protocol::Tcp, VIP, 80), server([10, 0, 0, 1], 80, method, 1));
    rig
}

/// A stranger attached to the clients' port.
fn stranger(n: u32) -> Endpoint {
    (Ipv4Addr::from_bits(0x0a01_0001 + n), 40_000)
}

/// Whether a server that nobody has asked for yet gets its first session.
fn a_new_server_works(rig: &mut Rig, n: u8) -> bool {
    let old = Change::DeleteServer {
        service: key(Protocol::Tcp, VIP, 80),
        address: [10, 0, 0, n - 1].into(),
        port: 80,
    };
    rig.add_server(key(Protocol::Tcp, VIP, 80), server([10, 0, 0, n], 80, Forwarding::Nat, 1));
    rig.change(old);
    let client = (Ipv4Addr::new(10, 1, 250, n), 50_000);
    let sent = rig.send(WAN, &frames::tcp(WAN, client, vip(), flags("S"), &[]));
    sent.iter().any(|s| s.port == LAN && s.bytes[..6] == SERVER_MAC && s.bytes[30..34] == [10, 0, 0, n])
}

#[test]
fn answers_to_strangers_take_no_next_hop() {
    let mut rig = rig(Forwarding::Nat);
    rig.answers = |address| IpAddr::from([10, 1, 0, 0]) > address || IpAddr::from([10, 1, 240, 0]) < address;
    for n in 0..17_000 {
        let sent = rig.send(WAN, &frames::tcp(WAN, stranger(n), vip(), flags("A"), &[]));
        if n < 1000 {
            assert_eq!((sent.len(), sent[0].port), (1, WAN), "{n}: a reset");
            assert_eq!(sent[0].bytes[..12], [CLIENT_MAC, WAN_MAC].concat());
        }
    }
    assert!(a_new_server_works(&mut rig, 2));
    assert_eq!(rig.drops(Reason::NextHopsFull) + rig.drops(Reason::NeighbourQueueFull), 0);
}

#[test]
fn neighbours_that_come_leave_room_for_servers() {
    for stays in [false, true] {
        let mut rig = rig(Forwarding::Nat);
        for n in 0..20_000 {
            let neighbour = |mac| Neighbour { port: WAN, address: stranger(n).0.into(), mac: Some(Mac(mac)) };
            rig.store.plane_mut().set_neighbours(&[neighbour(CLIENT_MAC)]);
            if !stays {
                let gone = Neighbour { mac: None, ..neighbour(CLIENT_MAC) };
                rig.store.plane_mut().set_neighbours(&[gone]);
            }
            rig.run();
            rig.store.plane_mut().service_rings();
        }
        assert!(a_new_server_works(&mut rig, 2));
    }
}

/// Clients of a network that is attached each take a hop for their replies.
#[test]
fn clients_of_attached_networks_leave_room_for_servers() {
    let mut rig = rig(Forwarding::Nat);
    let mut served = 0;
    for n in 0..20_000 {
        rig.send(WAN, &frames::tcp(WAN, stranger(n), vip(), flags("S"), &[]));
        let reply = frames::tcp(LAN, (Ipv4Addr::new(10, 0, 0, 1), 80), stranger(n), flags("SA"), &[]);
        served += rig.send(LAN, &reply).len();
        rig.store.plane_mut().service_rings();
    }
    assert_eq!(served, 20_000, "every one had its reply");
    assert!(a_new_server_works(&mut rig, 2));
    // Each one's next packets find the right way still.
    for n in (0..20_000).step_by(997) {
        let reply = frames::tcp(LAN, (Ipv4Addr::new(10, 0, 0, 1), 80), stranger(n), flags("A"), &[]);
        let sent = rig.send(LAN, &reply);
        assert_eq!((sent.len(), sent[0].port), (1, WAN), "{n}");
        assert_eq!(sent[0].bytes[30..34], stranger(n).0.octets());
    }
}

fn v6_service(rig: &mut Rig) -> ServiceKey {
    let key = ServiceKey::Address { protocol: Protocol::Tcp, address: VIP_V6.into(), port: 80 };
    rig.change(Change::AddService(Service {
        key,
        scheduler: "rr".into(),
        scheduler_flags: 0,
        persistent: None,
        netmask: 128,
        one_packet: false,
        engine: None,
    }));
    let local = LocalAddress { address: LIP_V6.into(), interface: None };
    rig.change(Change::AddLocalAddress { service: key, local });
    key
}

/// A /64 full of sources that don't exist: none of them answers neighbour solicitation.
#[test]
fn a_network_of_fake_sources_does_not_use_up_next_hops() {
    let mut rig = Rig::with(&Options { max_sessions: 65_536, ..Options::default() });
    rig.answers = |address| match address {
        IpAddr::V6(a) => a.segments()[4] == 0,
        IpAddr::V4(_) => true,
    };
    let key = v6_service(&mut rig);
    let real = |n: u16| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, n));
    let (forwarding, weight) = (Forwarding::FullNat, 1);
    let server = |n| Server { address: real(n), port: 80, forwarding, weight, upper: 0, lower: 0 };
    rig.add_server(key, server(1));
    let client = |a: u16, b: u16| (Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, a, 0, 0, b), 40_000);
    for n in 0..20_000u16 {
        let sent = rig.send(WAN, &frames::tcp(WAN, client(1, n), (VIP_V6, 80), flags("S"), &[]));
        assert_eq!(sent.len(), 1, "{n}");
        // Its SYN-ACK waits in vain.
        let (mut local, bytes) = ([0; 16], &sent[0].bytes);
        local.copy_from_slice(&bytes[22..38]);
        let port = u16::from_be_bytes([bytes[54], bytes[55]]);
        let (from, to) =
            ((Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1), 80), (Ipv6Addr::from(local), port));
        rig.send(LAN, &frames::tcp(LAN, from, to, flags("SA"), &[]));
    }
    rig.change(Change::AddServer { service: key, server: server(2) });
    for n in 0..4 {
        let sent = rig.send(WAN, &frames::tcp(WAN, client(0, 100 + n), (VIP_V6, 80), flags("S"), &[]));
        assert_eq!(sent.len(), 1, "old and new servers take sessions");
    }
    assert_eq!(rig.drops(Reason::NextHopsFull), 0);
}

fn route(network: &str, prefix: u8, port: PortId, gateway: Option<[u8; 4]>) -> Route {
    Route {
        network: network.parse().unwrap(),
        prefix,
        via: [Via { port, gateway: gateway.map(IpAddr::from), weight: 1 }].into(),
        metric: 0,
        mtu: None,
    }
}

fn ports() -> Vec<PortFacts> {
    let facts = |mac| PortFacts { mac: Mac(mac), mtu: 1500, address: None, address_v6: None };
    vec![facts(WAN_MAC), facts(LAN_MAC)]
}

/// Generations of the routes have numbers of 16 bits.
#[test]
fn a_session_that_slept_until_a_generation_s_number_came_again_follows_the_routes() {
    let mut rig = rig(Forwarding::FullNat);
    let to_lan = |last| route("10.0.0.0", 24, LAN, Some([10, 0, 0, last]));
    let mut routes = Routes::new(&[route("10.1.0.0", 16, WAN, None), to_lan(97)]);
    routes.set_ports(ports(), [], []);
    let neighbour = |last| Neighbour {
        port: LAN,
        address: [10, 0, 0, last].into(),
        mac: Some(Mac([2, 0, 0, 0, 9, last])),
    };
    rig.store.plane_mut().set_neighbours(&[neighbour(97), neighbour(98)]);
    rig.store.plane_mut().set_routes(&routes.publish());
    rig.run();
    let client = (Ipv4Addr::new(10, 1, 0, 1), 40_000);
    for f in ["S", "A", "A"] {
        let sent = rig.send(WAN, &frames::tcp(WAN, client, vip(), flags(f), &[]));
        assert_eq!(sent[0].bytes[5], 97);
    }
    routes.set([10, 0, 0, 0].into(), 24, Some(&to_lan(98)));
    for n in 0..0xffff_u32 {
        routes.set([172, 16, 0, 0].into(), 16, (n % 2 == 0).then_some(&route("172.16.0.0", 16, WAN, None)));
        rig.store.plane_mut().set_routes(&routes.publish());
        rig.run();
        rig.store.plane_mut().service_rings();
    }
    let sent = rig.send(WAN, &frames::tcp(WAN, client, vip(), flags("A"), &[]));
    assert_eq!(sent[0].bytes[5], 98, "the router of now");
}

#[test]
fn an_established_session_follows_the_routes() {
    for method in [Forwarding::FullNat, Forwarding::Nat, Forwarding::Route] {
        let mut rig = rig(method);
        let client = (Ipv4Addr::new(10, 1, 0, 1), 40_000);
        let request = |rig: &mut Rig, f| {
            let sent = rig.send(WAN, &frames::tcp(WAN, client, vip(), flags(f), &[]));
            (sent[0].port, sent[0].bytes.first_chunk::<12>().copied().unwrap())
        };
        for f in ["S", "A", "A"] {
            assert_eq!(request(&mut rig, f).0, LAN);
        }
        for (gateway, port) in [([10, 1, 0, 99], WAN), ([10, 0, 0, 98], LAN), ([10, 0, 0, 97], LAN)] {
            let table = [
                route("10.1.0.0", 16, WAN, None),
                route("10.0.0.0", 24, port, Some(gateway)),
                route("192.0.2.0", 24, WAN, None),
            ];
            rig.store.plane_mut().set_routes(&Arc::new(RouteTable::new(&table, ports())));
            let mac = [2, 0, 0, 0, 9, gateway[3]];
            let neighbour = Neighbour { port, address: gateway.into(), mac: Some(Mac(mac)) };
            rig.store.plane_mut().set_neighbours(&[neighbour]);
            rig.run();
            for _ in 0..3 {
                let (out, macs) = request(&mut rig, "A");
                assert_eq!((out, macs[..6].to_vec()), (port, mac.to_vec()), "by the router of now");
            }
        }
    }
}

/// Ports with other MAC addresses and MTUs.
#[test]
fn a_port_that_changed_is_known_to_hops_of_before() {
    let mut rig = rig(Forwarding::FullNat);
    let client = (Ipv4Addr::new(10, 1, 0, 1), 40_000);
    let data =
        |rig: &mut Rig, f, len| rig.send(WAN, &frames::tcp(WAN, client, vip(), flags(f), &vec![7; len]));
    for f in ["S", "A", "A"] {
        assert_eq!(data(&mut rig, f, 0)[0].bytes[6..12], LAN_MAC);
    }
    let networks =
        ["10.1.0.0", "10.0.0.0", "192.0.2.0"].map(|n| (n, if n == "10.0.0.0" { LAN } else { WAN }));
    let table = networks.map(|(n, port)| route(n, if port == LAN { 24 } else { 16 }, port, None));
    let mut facts = ports();
    facts[LAN.index()] = PortFacts { mac: Mac([2, 0, 0, 0, 7, 7]), mtu: 1000, ..facts[LAN.index()] };
    rig.store.plane_mut().set_routes(&Arc::new(RouteTable::new(&table, facts)));
    rig.run();
    for len in [0, 960, 0] {
        let sent = data(&mut rig, "A", len);
        assert_eq!(
            (sent.len(), sent[0].port, &sent[0].bytes[6..12]),
            (1, LAN, &[2, 0, 0, 0, 7, 7][..]),
            "{len}"
        );
    }
    assert_eq!(
        (data(&mut rig, "A", 961)[0].port, rig.drops(Reason::TooBig)),
        (WAN, 1),
        "may not be fragmented"
    );
}

/// As an operator changes one route: the others stay as they are, and sessions that begin then go the new way.
#[test]
fn a_new_session_follows_a_route_that_changed_alone() {
    for moved in [[10, 0, 0, 0], [10, 1, 0, 0]] {
        let mut rig = rig(Forwarding::FullNat);
        let by = |network: &str, prefix, port, last| {
            let gateway = if port == LAN { [10, 0, 0, last] } else { [10, 1, 0, last] };
            route(network, prefix, port, Some(gateway))
        };
        let mut routes = Routes::new(&[by("10.1.0.0", 16, WAN, 97), by("10.0.0.0", 24, LAN, 97)]);
        routes.set_ports(ports(), [], []);
        let neighbours = [(LAN, 97), (LAN, 98), (WAN, 97), (WAN, 98)].map(|(port, last)| Neighbour {
            port,
            address: if port == LAN { [10, 0, 0, last] } else { [10, 1, 0, last] }.into(),
            mac: Some(Mac([2, 0, 0, 0, 9, last])),
        });
        rig.store.plane_mut().set_neighbours(&neighbours);
        rig.store.plane_mut().set_routes(&routes.publish());
        rig.run();
        let both_ways = |rig: &mut Rig, port, last: [u8; 2]| {
            let client = (Ipv4Addr::new(10, 1, 0, 1), port);
            for f in ["S", "A", "A"] {
                let sent = rig.send(WAN, &frames::tcp(WAN, client, vip(), flags(f), &[]));
                assert_eq!((sent[0].port, sent[0].bytes[5]), (LAN, last[0]), "{f} from {port}");
                let out = frames::read(&sent[0].bytes);
                let (local, server, _) = out.tcp();
                let answer = if f == "S" { "SA" } else { "A" };
                let answer = Tcp { flags: answer, seq: 1, ack: 2 };
                let sent = rig.send(LAN, &frames::tcp(LAN, server, local, answer, &[]));
                assert_eq!((sent[0].port, sent[0].bytes[5]), (WAN, last[1]), "answer to {f} from {port}");
            }
        };
        both_ways(&mut rig, 40_000, [97, 97]);
        let of_lan = moved == [10, 0, 0, 0];
        let (network, prefix, port) = if of_lan { ("10.0.0.0", 24, LAN) } else { ("10.1.0.0", 16, WAN) };
        routes.set(moved.into(), prefix, Some(&by(network, prefix, port, 98)));
        rig.store.plane_mut().set_routes(&routes.publish());
        rig.run();
        let now = if of_lan { [98, 97] } else { [97, 98] };
        both_ways(&mut rig, 40_001, now);
        let client = (Ipv4Addr::new(10, 1, 0, 1), 40_000);
        let sent = rig.send(WAN, &frames::tcp(WAN, client, vip(), flags("A"), &[]));
        let out = frames::read(&sent[0].bytes);
        let (local, server, _) = out.tcp();
        assert_eq!(sent[0].bytes[5], now[0], "one of before, too");
        let sent = rig.send(LAN, &frames::tcp(LAN, server, local, Tcp { flags: "A", seq: 2, ack: 2 }, &[]));
        assert_eq!(sent[0].bytes[5], now[1]);
    }
}

/// A server that goes and comes back with another MAC address.
#[test]
fn nothing_leaves_for_a_neighbour_that_is_gone() {
    for method in [Forwarding::FullNat, Forwarding::Nat, Forwarding::Route] {
        let mut rig = rig(method);
        let client = (Ipv4Addr::new(10, 1, 0, 1), 40_000);
        let request = |rig: &mut Rig, f| rig.send(WAN, &frames::tcp(WAN, client, vip(), flags(f), &[]));
        for f in ["S", "A", "A"] {
            assert_eq!(request(&mut rig, f)[0].bytes[..6], SERVER_MAC);
        }
        let server = |mac| Neighbour { port: LAN, address: [10, 0, 0, 1].into(), mac };
        rig.answers = |_| false;
        rig.store.plane_mut().set_neighbours(&[server(None)]);
        rig.run();
        assert_eq!(request(&mut rig, "A"), [], "{method:?}");
        rig.advance(5.0);
        assert_eq!(rig.drops(Reason::NeighbourUnresolved), 1);
        rig.store.plane_mut().set_neighbours(&[server(Some(Mac([2, 0, 0, 0, 9, 9])))]);
        rig.run();
        assert_eq!(request(&mut rig, "A")[0].bytes[..6], [2, 0, 0, 0, 9, 9]);
    }
}

/// Packets for a server whose MAC address isn't known yet: so many wait, and no more.
#[test]
fn packets_that_find_no_room_to_wait_are_counted() {
    let mut rig = rig(Forwarding::Nat);
    rig.answers = |_| false;
    let wait = |rig: &mut Rig, n: u16| {
        let client = (Ipv4Addr::new(10, 1, 0, 1), 40_000 + n);
        assert!(rig.send(WAN, &frames::tcp(WAN, client, vip(), flags("S"), &[])).is_empty());
    };
    let mut waiting = 0;
    while rig.drops(Reason::NeighbourQueueFull) == 0 {
        wait(&mut rig, waiting);
        waiting += 1;
    }
    for n in 1..=5 {
        assert_eq!(rig.drops(Reason::NeighbourQueueFull), n);
        wait(&mut rig, waiting + n as u16);
    }
    rig.advance(5.0);
    assert_eq!(rig.drops(Reason::NeighbourUnresolved), u64::from(waiting - 1), "each that waited");
    assert_eq!(rig.total(), u64::from(waiting) + 5, "and nothing is counted twice");
}

/// The neighbours that the kernel is to verify, once the workers have been asked.
fn in_use(rig: &mut Rig) -> Vec<IpAddr> {
    rig.advance(5.0);
    let mut hops = Vec::new();
    for _ in 0..80 {
        let now = rig.now();
        hops.extend(rig.store.plane_mut().hops_in_use(now).into_iter().map(|hop| hop.address));
        rig.run();
        rig.store.plane_mut().service_rings();
    }
    hops.sort();
    hops.dedup();
    hops
}

#[test]
fn next_hops_of_sessions_are_in_use_and_strangers_are_not() {
    let (client, real) = ((Ipv4Addr::new(10, 1, 0, 1), 40_000), (Ipv4Addr::new(10, 0, 0, 1), 80));
    for method in [Forwarding::FullNat, Forwarding::Nat, Forwarding::Route] {
        let mut rig = rig(method);
        let other = Neighbour { port: WAN, address: stranger(7).0.into(), mac: Some(Mac(CLIENT_MAC)) };
        rig.store.plane_mut().set_neighbours(&[other]);
        // A stranger's packet is answered.
        rig.send(WAN, &frames::tcp(WAN, stranger(7), vip(), flags("A"), &[]));
        assert_eq!(in_use(&mut rig), [] as [IpAddr; 0], "{method:?}");
        rig.send(WAN, &frames::tcp(WAN, client, vip(), flags("S"), &[]));
        let sent = rig.send(WAN, &frames::tcp(WAN, client, vip(), flags("S"), &[]));
        if method == Forwarding::Route {
            assert_eq!(in_use(&mut rig), [IpAddr::from(real.0)]);
            continue;
        }
        let (mut local, bytes) = ([0; 4], &sent[0].bytes);
        local.copy_from_slice(&bytes[26..30]);
        let to = (Ipv4Addr::from(local), u16::from_be_bytes([bytes[34], bytes[35]]));
        for _ in 0..2 {
            rig.send(LAN, &frames::tcp(LAN, real, to, flags("SA"), &[]));
        }
        assert_eq!(in_use(&mut rig), [IpAddr::from(real.0), client.0.into()], "{method:?}");
        rig.advance(61.0);
        assert_eq!(in_use(&mut rig), [] as [IpAddr; 0], "{method:?}: no packet for a minute");
    }
}

#[test]
fn every_one_of_many_sessions_over_ipv6_is_looked_at() {
    let mut rig = Rig::with(&Options { max_sessions: 65_536, ..Options::default() });
    let key = v6_service(&mut rig);
    let real = |n: u16| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, n));
    let (forwarding, weight) = (Forwarding::FullNat, 1);
    for n in 1..=3 {
        let server = Server { address: real(n), port: 80, forwarding, weight, upper: 0, lower: 0 };
        rig.add_server(key, server);
    }
    for n in 0..6000u16 {
        let client = (Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x1000 + n), 40_000);
        rig.send(WAN, &frames::tcp(WAN, client, (VIP_V6, 80), flags("S"), &[]));
    }
    assert_eq!(in_use(&mut rig), [real(1), real(2), real(3)]);
    // With other routes sessions ask anew; nothing is known of them until then.
    rig.new_routes(1400);
    assert_eq!(in_use(&mut rig), [] as [IpAddr; 0]);
}
