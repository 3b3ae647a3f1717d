//! `explain` says what a packet would meet; then the packet comes and meets it.

mod rig;

use std::net::{IpAddr, Ipv4Addr};

use rig::{
    LAN, LIP, Options, Rig, WAN,
    frames::{self, Endpoint, Tcp, read},
    key, server,
};
use weir::{io::memory::MemoryFrame, path::verdict::Reason};
use weir_api::model::{NO_SCHEDULER, SCHEDULERS};
use weir_api::{
    client::Transport,
    model::{
        Forwarding, LocalAddress, MarkRule, Protocol, Server, Service, ServiceKey,
        explain::{Answer, Back, End, Explanation, Question, Skip, Standing},
    },
    protocol::{Change, Request, Response},
};

const VIP: [u8; 4] = [192, 0, 2, 10];

fn vip() -> Endpoint {
    (VIP.into(), 80)
}

fn client(n: u8) -> Endpoint {
    (Ipv4Addr::new(10, 1, n % 5, n), 40_000 + u16::from(n))
}

fn question(from: Endpoint, to: Endpoint, opens: bool) -> Question {
    Question {
        protocol: Protocol::Tcp,
        source: (from.0.into(), from.1),
        destination: (to.0.into(), to.1),
        port: None,
        opens,
    }
}

fn explain(rig: &mut Rig, question: Question) -> Explanation {
    match rig.call(Request::Explain(question)).unwrap() {
        Response::Explained(answer) => *answer,
        other => panic!("{other:?}"),
    }
}

fn dropped(e: &Explanation) -> (&str, Option<Answer>) {
    match &e.end {
        End::Dropped { reason, answer, .. } => (reason, *answer),
        other => panic!("{other:?}"),
    }
}

/// TCP 80 with servers of these weights; server n is 10.0.0.n.
fn rig(scheduler: &str, weights: &[u32], options: &Options) -> Rig {
    let mut rig = Rig::with(options);
    rig.add_service(Protocol::Tcp, VIP, 80, scheduler, true);
    for (n, &weight) in (1..).zip(weights) {
        rig.add_server(key(Protocol::Tcp, VIP, 80), server([10, 0, 0, n], 8080, Forwarding::FullNat, weight));
    }
    rig
}

/// Sends a SYN by way of a worker; the server that it left for.
fn open(rig: &mut Rig, worker: usize, from: Endpoint) -> Option<Endpoint> {
    let syn = Tcp { flags: "S", seq: 1, ack: 0 };
    let sent = rig.send_to(worker, WAN, MemoryFrame::new(&frames::tcp(WAN, from, vip(), syn, &[])));
    sent.iter().find(|s| s.port == LAN).map(|s| read(&s.bytes).tcp().1)
}

#[test]
fn what_is_predicted_happens_with_every_scheduler() {
    for workers in [1, 2] {
        for name in SCHEDULERS.into_iter().chain([NO_SCHEDULER]) {
            let mut rig = rig(name, &[3, 0, 1, 2], &Options { workers, ..Options::default() });
            for n in 0..60 {
                let first = explain(&mut rig, question(client(n), vip(), true));
                let again = explain(&mut rig, question(client(n), vip(), true));
                assert_eq!(first, again, "{name}: asking changes nothing");
                let happened = open(&mut rig, usize::from(n) % workers, client(n));
                let predicted = first.server.map(|(address, port, _)| (address, port));
                assert_eq!(predicted, happened.map(|(a, p)| (IpAddr::from(a), p)), "{name} {n}");
                match happened {
                    Some(_) => assert_eq!(first.end, End::Forwarded, "{name}"),
                    None => {
                        assert_eq!(dropped(&first), ("no-server", Some(Answer::PortUnreachable)), "{name}");
                    }
                }
                rig.advance(0.3);
            }
        }
    }
}

#[test]
fn persistent_clients_are_kept_where_explain_says() {
    for workers in [1, 2] {
        let mut rig = rig("rr", &[1, 1, 1], &Options { workers, ..Options::default() });
        let plain = rig.service(key(Protocol::Tcp, VIP, 80));
        let netmask = u32::from(Ipv4Addr::new(255, 255, 255, 0));
        rig.change(Change::EditService(Service { persistent: Some(100), netmask, ..plain }));
        for n in 0..40 {
            let e = explain(&mut rig, question(client(n), vip(), true));
            assert_eq!(e.template.is_some(), n >= 5, "five networks of clients");
            assert_eq!(e.scheduling.is_some(), n < 5);
            let happened = open(&mut rig, usize::from(n) % workers, client(n)).unwrap();
            assert_eq!(e.server.map(|s| s.0), Some(happened.0.into()), "{n}");
        }
    }
}

#[test]
fn the_scheduler_s_state_is_shown() {
    let mut rig = rig("wlc", &[3, 0, 1], &Options::default());
    let limited = weir_api::model::Server { upper: 1, ..server([10, 0, 0, 3], 8080, Forwarding::FullNat, 1) };
    rig.change(Change::EditServer { service: key(Protocol::Tcp, VIP, 80), server: limited });
    open(&mut rig, 0, client(1)).unwrap();
    let e = explain(&mut rig, question(client(2), vip(), true));
    let s = e.scheduling.unwrap();
    let facts: Vec<_> = s.servers.iter().map(|c| (c.weight, c.active, c.load, c.skip)).collect();
    let expected = [
        (1, 1, Some(256), Some(Skip::Threshold)),
        (0, 0, Some(0), Some(Skip::Quiesced)),
        (3, 0, Some(0), None),
    ];
    assert_eq!((facts.as_slice(), s.chosen, s.standing), (&expected[..], Some(2), Standing::Stateless));
    assert_eq!((e.local_addresses[0].used, e.local_addresses[0].ports), (0, 64_512));
    let way = e.way.unwrap();
    assert_eq!((way.port.as_str(), way.next_hop, way.mtu), ("lan", [10, 0, 0, 1].into(), 1500));
    assert_eq!(way.mac, None, "nobody has been there");
}

#[test]
fn sessions_are_found_in_both_directions() {
    for workers in [1, 2] {
        let mut rig = rig("rr", &[1], &Options { workers, ..Options::default() });
        let server = open(&mut rig, 0, client(7)).unwrap();
        let session = rig.sessions().remove(0);
        let request = explain(&mut rig, question(client(7), vip(), false));
        assert_eq!(request.session.as_ref().unwrap().session.local, session.local);
        assert_eq!((request.reply, &request.end), (false, &End::Forwarded));
        assert_eq!(request.workers.last(), Some(&session.worker));
        assert_eq!(request.way.unwrap().mac, Some(rig::SERVER_MAC));
        let IpAddr::V4(local) = session.local.0 else { panic!() };
        let reply = explain(&mut rig, question(server, (local, session.local.1), false));
        assert_eq!((reply.reply, reply.port.as_str()), (true, "lan"));
        assert_eq!(reply.way.unwrap().port, "wan");
        assert_eq!(reply.service, Some(key(Protocol::Tcp, VIP, 80)));
        let stray = explain(&mut rig, question(server, (LIP, session.local.1 ^ 1), false));
        assert_eq!(dropped(&stray), ("no-local-session", None));
    }
}

#[test]
fn drops_are_predicted_with_their_reason() {
    let options = Options { ports: (5000, 5001), ..Options::default() };
    let mut rig = rig("rr", &[1], &options);
    let middle = explain(&mut rig, question(client(1), vip(), false));
    assert_eq!(dropped(&middle), ("no-session", Some(Answer::Reset)));
    let martian = explain(&mut rig, question(([127, 0, 0, 1].into(), 9), vip(), true));
    assert_eq!(dropped(&martian), ("martian", None));
    let answering = open(&mut rig, 0, client(1)).unwrap();
    assert!(open(&mut rig, 0, client(2)).is_some());
    let full = explain(&mut rig, question(client(3), vip(), true));
    assert_eq!(dropped(&full), ("local-ports-exhausted", None));
    assert_eq!((full.local_addresses[0].used, full.local_addresses[0].ports), (2, 2));
    assert_eq!(open(&mut rig, 0, client(3)), None);
    assert_eq!(rig.drops(Reason::LocalPortsExhausted), 1, "asking was not counted");
    let far = explain(&mut rig, question(client(3), ([198, 51, 100, 1].into(), 80), true));
    assert_eq!((far.end, far.service), (End::Punted, None));
    rig.add_service(Protocol::Tcp, VIP, 81, "rr", false);
    rig.add_server(key(Protocol::Tcp, VIP, 81), server([172, 16, 0, 1], 80, Forwarding::Nat, 1));
    let lost = explain(&mut rig, question(client(3), (VIP.into(), 81), true));
    assert_eq!(dropped(&lost), ("no-route", None));
    rig.change(Change::DeleteServer {
        service: key(Protocol::Tcp, VIP, 80),
        address: [10, 0, 0, 1].into(),
        port: 8080,
    });
    let deleted = explain(&mut rig, question(client(1), vip(), false));
    assert_eq!(dropped(&deleted), ("server-deleted", None));
    // The server still answers; the client no longer gets through to it.
    let local = rig.sessions().into_iter().find(|s| s.client.0 == client(1).0).unwrap().local;
    let IpAddr::V4(address) = local.0 else { panic!() };
    let reply = explain(&mut rig, question(answering, (address, local.1), false));
    let Some(Back::Here(back)) = &reply.back else { panic!("{reply:?}") };
    let refused = back.refused.as_ref().map(|(reason, _)| reason.as_str());
    assert_eq!((reply.end, refused), (End::Forwarded, Some("server-deleted")));
}

#[test]
fn the_rule_that_marks_is_named_and_nonsense_refused() {
    let mut rig = rig("rr", &[1], &Options::default());
    let rule = MarkRule {
        mark: 7,
        priority: 0,
        protocol: None,
        source: None,
        destination: Some((VIP.into(), 32)),
        source_ports: None,
        destination_ports: None,
        port: Some("lan".into()),
    };
    rig.change(Change::AddMark(rule.clone()));
    let of = |port: &str| Question { port: Some(port.into()), ..question(client(1), vip(), true) };
    assert_eq!(explain(&mut rig, of("lan")).mark, Some(rule));
    assert_eq!(explain(&mut rig, of("wan")).mark, None);
    for (wrong, why) in [
        (of("dmz"), "no such port: dmz"),
        (
            Question { destination: ("2001:db8::1".parse().unwrap(), 80), ..of("wan") },
            "invalid operation: the two addresses are of different families",
        ),
    ] {
        match rig.call(Request::Explain(wrong)).unwrap() {
            Response::Refused(refusal) => assert_eq!(refusal.to_string(), why),
            other => panic!("{other:?}"),
        }
    }
}

/// An IPv6 service with servers of both families.
#[test]
fn the_other_family_is_explained_as_well() {
    for workers in [1, 3] {
        let mut rig = Rig::with(&Options { workers, ..Options::default() });
        let v6 = |n: u16| IpAddr::from([0x2001, 0xdb8, 0xc, 0, 0, 0, 0, n]);
        let service = ServiceKey::Address { protocol: Protocol::Tcp, address: v6(0x10), port: 80 };
        let plain = Service {
            key: service,
            scheduler: "rr".into(),
            scheduler_flags: 0,
            persistent: None,
            netmask: 128,
            one_packet: false,
            engine: None,
        };
        rig.change(Change::AddService(plain));
        for address in [LIP.into(), rig::LIP_V6.into()] {
            rig.change(Change::AddLocalAddress { service, local: LocalAddress { address, interface: None } });
        }
        for address in [IpAddr::from([10, 0, 0, 1]), IpAddr::from([0x2001, 0xdb8, 1, 0, 0, 0, 0, 1])] {
            let server = Server { address, ..server([10, 0, 0, 1], 8080, Forwarding::FullNat, 1) };
            rig.change(Change::AddServer { service, server });
        }
        let ask = |rig: &mut Rig, source, destination, opens| {
            let protocol = Protocol::Tcp;
            explain(rig, Question { protocol, source, destination, port: None, opens })
        };
        for n in 1..=12 {
            let from = (v6(0x100 + n), 40_000 + n);
            let first = ask(&mut rig, from, (v6(0x10), 80), true);
            let syn = Tcp { flags: "S", seq: 1, ack: 0 };
            let frame = frames::tcp(WAN, from, (v6(0x10), 80), syn, &[]);
            rig.send_to(usize::from(n) % workers, WAN, MemoryFrame::new(&frame));
            let session = rig.sessions().into_iter().find(|s| s.client == from).unwrap();
            assert_eq!(first.server.map(|s| (s.0, s.1)), Some(session.server));
            assert_eq!((first.end, first.workers.last()), (End::Forwarded, Some(&session.worker)));
            let local = first.local_addresses[0].address;
            assert_eq!(
                (first.local_addresses.len(), local),
                (1, session.local.0),
                "those of the server's family"
            );
            let reply = ask(&mut rig, session.server, session.local, false);
            assert_eq!((reply.reply, reply.session.map(|s| s.session)), (true, Some(session)));
            assert_eq!(reply.way.unwrap().next_hop, from.0);
        }
    }
}

#[test]
fn associations_are_explained_too() {
    let mut rig = Rig::new();
    rig.add_service(Protocol::Sctp, VIP, 3868, "rr", false);
    rig.add_server(key(Protocol::Sctp, VIP, 3868), server([10, 0, 0, 1], 3868, Forwarding::Nat, 1));
    let of = |opens| Question {
        protocol: Protocol::Sctp,
        destination: (VIP.into(), 3868),
        ..question(client(1), vip(), opens)
    };
    let opening = explain(&mut rig, of(true));
    assert_eq!((opening.server.map(|s| s.0), opening.end), (Some([10, 0, 0, 1].into()), End::Forwarded));
    assert_eq!(explain(&mut rig, of(false)).end, End::Punted, "in the middle of nothing");
}

#[test]
fn a_server_on_the_gateway_gets_packets_and_keeps_its_configured_name() {
    let own = Ipv4Addr::new(10, 0, 0, 254);
    for (forwarding, address) in [
        (Forwarding::FullNat, own),
        (Forwarding::Nat, own),
        (Forwarding::Nat, Ipv4Addr::LOCALHOST),
        (Forwarding::FullNat, Ipv4Addr::LOCALHOST),
        (Forwarding::Route, own),
        (Forwarding::Route, Ipv4Addr::LOCALHOST),
    ] {
        let mut rig = Rig::with(&Options { workers: 2, ..Options::default() });
        rig.add_service(Protocol::Tcp, VIP, 80, "rr", false);
        rig.add_server(key(Protocol::Tcp, VIP, 80), server(address.octets(), 80, forwarding, 1));
        let e = explain(&mut rig, question(client(1), vip(), true));
        assert_eq!((&e.end, e.server), (&End::Delivered, Some((address.into(), 80, forwarding))));
        assert_eq!(e.scheduling.unwrap().servers[0].address, IpAddr::from(address));
        open(&mut rig, 0, client(1));
        assert_eq!(rig.take_punted().len(), 1, "{forwarding:?} {address}");
        let e = explain(&mut rig, question(client(1), vip(), false));
        assert_eq!((&e.end, e.session.is_some()), (&End::Delivered, true));
        let listed = rig.sessions();
        assert_eq!(listed[0].server, (address.into(), 80), "{forwarding:?} {address}");
    }
    // Without a kernel beside it there is nobody to deliver it.
    let mut rig = Rig::with(&Options { host: false, ..Options::default() });
    rig.add_service(Protocol::Tcp, VIP, 80, "rr", false);
    rig.add_server(key(Protocol::Tcp, VIP, 80), server(own.octets(), 80, Forwarding::Nat, 1));
    assert_eq!(dropped(&explain(&mut rig, question(client(1), vip(), true))).0, "no-host");
    open(&mut rig, 0, client(1));
    assert_eq!(rig.drops(Reason::NoHost), 1);
}
