//! Packet in, packet out: NAT with several workers, whose replies no RSS brings home. Every packet arrives on the
//! worker that suits it least.

mod rig;

use std::net::Ipv4Addr;

use etherparse::{Icmpv4Type, icmpv4::DestUnreachableHeader};
use rig::{
    LAN, Options, Rig, WAN,
    frames::{self, Endpoint, Tcp, read},
    key, server,
};
use weir::{
    io::memory::MemoryFrame,
    path::verdict::{Reason, Verdict},
};
use weir_api::{
    client::Transport,
    model::{
        Forwarding, Protocol, Service,
        explain::{End, Question},
    },
    protocol::{Change, Request, Response},
};

const VIP: [u8; 4] = [192, 0, 2, 10];
const TCP: Tcp<'static> = Tcp { flags: "S", seq: 1, ack: 0 };
/// Servers of the service.
const SERVERS: usize = 2;

fn vip(port: u16) -> Endpoint {
    (VIP.into(), port)
}

fn client(n: u16) -> Endpoint {
    (Ipv4Addr::new(10, 1, 0, (n % 7) as u8), 40_000 + n)
}

/// TCP 80 and UDP 53, rr, with servers of these methods.
fn rig(workers: usize, methods: [Forwarding; SERVERS]) -> Rig {
    let mut rig = Rig::with(&Options { workers, ..Options::default() });
    for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
        rig.add_service(protocol, VIP, port, "rr", methods.contains(&Forwarding::FullNat));
        for (n, method) in (1..).zip(methods) {
            rig.add_server(key(protocol, VIP, port), server([10, 0, 0, n], 8000 + port, method, 1));
        }
    }
    rig
}

fn send(rig: &mut Rig, worker: usize, from: Endpoint, flags: &str) -> Option<(Endpoint, Endpoint)> {
    let frame = frames::tcp(WAN, from, vip(80), Tcp { flags, ..TCP }, b"");
    let sent = rig.send_to(worker, WAN, MemoryFrame::new(&frame));
    sent.first().map(|sent| {
        let read = read(&sent.bytes);
        let (source, destination, _) = read.tcp();
        (source, destination)
    })
}

/// Lets a server answer what reached it; what reaches the client.
fn answer(
    rig: &mut Rig,
    worker: usize,
    way: (Endpoint, Endpoint),
    flags: &str,
) -> Option<(Endpoint, Endpoint)> {
    let frame = frames::tcp(LAN, way.1, way.0, Tcp { flags, ..TCP }, b"");
    let sent = rig.send_to(worker, LAN, MemoryFrame::new(&frame));
    sent.first().map(|sent| {
        assert_eq!(sent.port, WAN);
        let read = read(&sent.bytes);
        let (source, destination, _) = read.tcp();
        (source, destination)
    })
}

#[test]
fn requests_and_replies_find_the_session_from_any_queue() {
    for workers in [1, 2, 3] {
        let mut rig = rig(workers, [Forwarding::Nat; SERVERS]);
        for n in 0..30 {
            let way = send(&mut rig, usize::from(n) % workers, client(n), "S").unwrap();
            assert_eq!(way.0, client(n), "NAT keeps the client's address");
            for worker in 0..workers {
                assert_eq!(answer(&mut rig, worker, way, "SA"), Some((vip(80), client(n))));
                assert_eq!(send(&mut rig, worker, client(n), "A"), Some(way));
            }
        }
        assert_eq!(rig.session_count(), 30);
        assert!(rig.counters.iter().all(|c| c.get(Verdict::Forwarded) > 0), "every worker has work");
        assert_eq!(rig.count(Verdict::HandedOver) > 0, workers > 1);
        assert_eq!(rig.count(Verdict::Punted), 0);
    }
}

#[test]
fn datagrams_find_theirs() {
    let mut rig = rig(3, [Forwarding::Nat; SERVERS]);
    for n in 0..30 {
        let query = frames::udp(WAN, client(n), vip(53), b"query");
        let sent = rig.send_to(usize::from(n) % 3, WAN, MemoryFrame::new(&query));
        let (from, to) = read(&sent[0].bytes).udp();
        for worker in 0..3 {
            let reply = frames::udp(LAN, to, from, b"reply");
            let sent = rig.send_to(worker, LAN, MemoryFrame::new(&reply));
            assert_eq!(read(&sent[0].bytes).udp(), (vip(53), client(n)));
        }
    }
    assert_eq!(rig.session_count(), 30);
}

#[test]
fn full_nat_servers_of_the_same_service_are_reached_as_well() {
    let mut rig = rig(3, [Forwarding::Nat, Forwarding::FullNat]);
    let mut kept = 0;
    for n in 0..30 {
        let way = send(&mut rig, usize::from(n) % 3, client(n), "S").unwrap();
        kept += usize::from(way.0 == client(n));
        for worker in 0..3 {
            assert_eq!(answer(&mut rig, worker, way, "SA"), Some((vip(80), client(n))));
            assert_eq!(send(&mut rig, worker, client(n), "A"), Some(way));
        }
    }
    assert!((10..=20).contains(&kept), "{kept} of 30 by NAT");
    assert_eq!(rig.session_count(), 30);
}

#[test]
fn kept_clients_belong_to_the_worker_of_their_template() {
    let mut rig = rig(3, [Forwarding::Nat; SERVERS]);
    let plain = rig.service(key(Protocol::Tcp, VIP, 80));
    rig.change(Change::EditService(Service { persistent: Some(100), netmask: u32::MAX, ..plain }));
    let mut servers = std::collections::BTreeMap::new();
    for n in 0..28 {
        let way = send(&mut rig, usize::from(n) % 3, client(n), "S").unwrap();
        assert_eq!(*servers.entry(client(n).0).or_insert(way.1), way.1, "a client stays at its server");
        for worker in 0..3 {
            assert_eq!(answer(&mut rig, worker, way, "SA"), Some((vip(80), client(n))));
        }
    }
    assert_eq!(rig.session_count(), 28 + 7, "and seven templates");
}

/// Two services use one server, one keeping clients: a reply may belong to the worker of either.
#[test]
fn a_server_of_two_services_is_asked_for_at_both_owners() {
    let mut rig = rig(3, [Forwarding::Nat; SERVERS]);
    let other = key(Protocol::Tcp, [192, 0, 2, 11], 80);
    rig.add_service(Protocol::Tcp, [192, 0, 2, 11], 80, "rr", false);
    let plain = rig.service(other);
    rig.change(Change::EditService(Service { persistent: Some(100), ..plain }));
    rig.add_server(other, server([10, 0, 0, 1], 8080, Forwarding::Nat, 1));
    let mut ways = Vec::new();
    for n in 0..30u16 {
        let to = if n % 2 == 0 { vip(80) } else { (Ipv4Addr::new(192, 0, 2, 11), 80) };
        let frame = frames::tcp(WAN, client(n), to, TCP, b"");
        let sent = rig.send_to(usize::from(n) % 3, WAN, MemoryFrame::new(&frame));
        let read = read(&sent[0].bytes);
        let (source, destination, _) = read.tcp();
        ways.push((to, (source, destination)));
    }
    for (to, way) in ways {
        for worker in 0..3 {
            assert_eq!(answer(&mut rig, worker, way, "SA"), Some((to, way.0)));
        }
    }
}

#[test]
fn sessions_of_deleted_and_converted_servers_go_on() {
    let mut rig = rig(2, [Forwarding::Nat; SERVERS]);
    let service = key(Protocol::Tcp, VIP, 80);
    let ways: Vec<_> = (0..10).map(|n| send(&mut rig, 0, client(n), "S").unwrap()).collect();
    rig.change(Change::EditServer { service, server: server([10, 0, 0, 1], 8080, Forwarding::Route, 1) });
    rig.change(Change::DeleteServer { service, address: [10, 0, 0, 2].into(), port: 8080 });
    for (way, worker) in ways.iter().flat_map(|way| [(way, 0), (way, 1)]) {
        assert_eq!(answer(&mut rig, worker, *way, "SA"), Some((vip(80), way.0)), "its replies still come");
        let expected = (way.1.0 == Ipv4Addr::new(10, 0, 0, 1)).then_some(*way);
        assert_eq!(send(&mut rig, worker, way.0, "A"), expected);
    }
    assert_eq!(rig.drops(Reason::ServerDeleted), 10);
}

#[test]
fn errors_about_sessions_find_them() {
    let mut rig = rig(3, [Forwarding::Nat; SERVERS]);
    for n in 0..20 {
        let way = send(&mut rig, usize::from(n) % 3, client(n), "S").unwrap();
        answer(&mut rig, 0, way, "SA").unwrap();
        for worker in 0..3 {
            let about = frames::tcp(LAN, way.0, way.1, Tcp { flags: "A", ..TCP }, b"");
            let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
            let error = frames::icmp(LAN, way.1.0, way.0.0, kind.clone(), &about[14..]);
            let sent = rig.send_to(worker, LAN, MemoryFrame::new(&error));
            assert_eq!(sent.len(), 1);
            assert_eq!((sent[0].port, read(&sent[0].bytes).source), (WAN, VIP.into()));
            let about = frames::tcp(WAN, vip(80), client(n), Tcp { flags: "A", ..TCP }, b"");
            let error = frames::icmp(WAN, client(n).0, VIP.into(), kind, &about[14..]);
            let sent = rig.send_to(worker, WAN, MemoryFrame::new(&error));
            assert_eq!(sent.len(), 1);
            assert_eq!((sent[0].port, read(&sent[0].bytes).destination), (LAN, way.1.0));
        }
    }
}

/// What the owner has no session for either ends there: nothing goes round and round.
#[test]
fn what_a_server_sends_of_itself_is_the_kernel_s() {
    let mut rig = rig(3, [Forwarding::Nat; SERVERS]);
    for n in 0..12 {
        let way = (client(n), (Ipv4Addr::new(10, 0, 0, 1), 8080));
        assert_eq!(answer(&mut rig, usize::from(n) % 3, way, "SA"), None);
    }
    assert_eq!(rig.take_punted().len(), 12);
    let other_port = (client(1), (Ipv4Addr::new(10, 0, 0, 1), 9999));
    let handed = rig.count(Verdict::HandedOver);
    assert_eq!(answer(&mut rig, 0, other_port, "SA"), None);
    assert_eq!((rig.take_punted().len(), rig.count(Verdict::HandedOver)), (1, handed));
}

#[test]
fn explain_knows_the_owner() {
    let mut rig = rig(3, [Forwarding::Nat; SERVERS]);
    let ask = |rig: &mut Rig, from: Endpoint, to: Endpoint, opens| {
        let (source, destination) = ((from.0.into(), from.1), (to.0.into(), to.1));
        let question = Question { protocol: Protocol::Tcp, source, destination, port: None, opens };
        match rig.call(Request::Explain(question)).unwrap() {
            Response::Explained(answer) => *answer,
            other => panic!("{other:?}"),
        }
    };
    for n in 0..20 {
        let foretold = ask(&mut rig, client(n), vip(80), true);
        let way = send(&mut rig, 0, client(n), "S").unwrap();
        assert_eq!(foretold.server.map(|s| (s.0, s.1)), Some((way.1.0.into(), way.1.1)));
        let reply = ask(&mut rig, way.1, way.0, false);
        assert_eq!((reply.workers.last(), &reply.end), (foretold.workers.last(), &End::Forwarded));
    }
}
