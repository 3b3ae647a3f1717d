//! Persistent services: a client stays at its server, whatever worker its packets arrive on.

mod rig;

use std::net::Ipv4Addr;

use rig::{
    LAN, Options, Rig, WAN,
    frames::{self, Endpoint, Tcp, read},
    key, server,
};
use weir::{io::memory::MemoryFrame, path::verdict::Reason};
use weir_api::{
    model::{Family, Forwarding, LocalAddress, MarkRule, Protocol, Service, ServiceKey, SessionState},
    protocol::Change,
};

const VIP: [u8; 4] = [192, 0, 2, 10];

fn client(n: u8, port: u16) -> Endpoint {
    (Ipv4Addr::new(10, 1, 0, n), port)
}

fn service(port: u16) -> ServiceKey {
    key(Protocol::Tcp, VIP, port)
}

/// A TCP service on `port` (0: all), persistent for 100 s, with three servers.
fn rig(method: Forwarding, port: u16, workers: usize) -> Rig {
    let mut rig = Rig::with(&Options { workers, ..Options::default() });
    rig.add_service(Protocol::Tcp, VIP, port, "rr", method == Forwarding::FullNat);
    let plain = rig.service(service(port));
    rig.change(Change::EditService(Service { persistent: Some(100), ..plain }));
    for n in [1, 2, 3] {
        rig.add_server(service(port), server([10, 0, 0, n], port, method, 1));
    }
    rig
}

/// Sends a segment by way of a worker; the (local, server) addresses with which it left.
fn send(
    rig: &mut Rig,
    worker: usize,
    from: Endpoint,
    port: u16,
    flags: &str,
) -> Option<(Endpoint, Endpoint)> {
    let tcp = Tcp { flags, seq: 1, ack: 1 };
    let frame = frames::tcp(WAN, from, (Ipv4Addr::from(VIP), port), tcp, &[]);
    let sent = rig.send_to(worker, WAN, MemoryFrame::new(&frame));
    sent.iter().find(|s| s.port == LAN).map(|s| {
        let out = read(&s.bytes);
        let (from, to, _) = out.tcp();
        (from, to)
    })
}

fn reply(rig: &mut Rig, worker: usize, (local, server): (Endpoint, Endpoint), flags: &str) -> bool {
    let frame = frames::tcp(LAN, server, local, Tcp { flags, seq: 1, ack: 1 }, &[]);
    rig.send_to(worker, LAN, MemoryFrame::new(&frame)).iter().any(|s| s.port == WAN)
}

#[test]
fn a_client_has_one_server_on_all_workers() {
    let mut rig = rig(Forwarding::FullNat, 80, 4);
    for n in 1..=20 {
        let mut servers = Vec::new();
        for k in 0..8 {
            let from = client(n, 20000 + k);
            let worker = usize::from(k) % 4;
            let way = send(&mut rig, worker, from, 80, "S").unwrap();
            // Replies and what follows may arrive anywhere.
            assert!(reply(&mut rig, (worker + 1) % 4, way, "SA"));
            assert_eq!(send(&mut rig, (worker + 2) % 4, from, 80, "A"), Some(way));
            servers.push(way.1.0);
        }
        assert!(servers.iter().all(|s| *s == servers[0]), "{servers:?}");
    }
    let sessions = rig.sessions();
    let templates = sessions.iter().filter(|s| s.client.1 == 0).count();
    assert_eq!((sessions.len(), templates), (180, 20));
    let persistent: u32 = (1..=3).map(|n| rig.server_counts(service(80), [10, 0, 0, n]).2).sum();
    assert_eq!(persistent, 20);
}

#[test]
fn a_template_outlives_its_sessions_by_its_time_out() {
    let mut rig = rig(Forwarding::Nat, 80, 1);
    let way = send(&mut rig, 0, client(1, 1000), 80, "S").unwrap();
    let template = |rig: &mut Rig| rig.sessions().into_iter().find(|s| s.client.1 == 0);
    assert_eq!(template(&mut rig).unwrap().state, SessionState::None);
    assert!(reply(&mut rig, 0, way, "SA"));
    send(&mut rig, 0, client(1, 1000), 80, "A");
    assert_eq!(template(&mut rig).unwrap().state, SessionState::Assured);
    rig.advance(250.0);
    assert_eq!(template(&mut rig).unwrap().state, SessionState::Assured, "60 s more, and again");
    send(&mut rig, 0, client(1, 1000), 80, "R");
    rig.advance(71.0);
    assert!(template(&mut rig).is_none());
    assert_eq!(rig.session_count(), 0);
    assert_eq!(rig.server_counts(service(80), way.1.0.octets()), (0, 0, 0));
}

#[test]
fn clients_leave_a_deleted_server_and_stay_at_a_quiesced_one() {
    let mut rig = rig(Forwarding::Route, 80, 1);
    let mut next = 1000;
    let mut connect = |rig: &mut Rig, n| {
        next += 1;
        let frame =
            frames::tcp(WAN, client(n, next), (VIP.into(), 80), Tcp { flags: "S", seq: 1, ack: 0 }, &[]);
        assert_eq!(rig.send(WAN, &frame).len(), 1);
        rig.sessions().into_iter().find(|s| s.client.1 == next).unwrap().server.0
    };
    let first = connect(&mut rig, 1);
    let std::net::IpAddr::V4(address) = first else { panic!("IPv4") };
    let quiesced = server(address.octets(), 80, Forwarding::Route, 0);
    rig.change(Change::EditServer { service: service(80), server: quiesced });
    for _ in 0..4 {
        assert_eq!(connect(&mut rig, 1), first);
    }
    rig.change(Change::DeleteServer { service: service(80), address: first, port: 80 });
    let second = connect(&mut rig, 1);
    assert_ne!(second, first);
    for _ in 0..4 {
        assert_eq!(connect(&mut rig, 1), second);
    }
    rig.set_settings(|s| s.expire_quiescent_template = true);
    let std::net::IpAddr::V4(address) = second else { panic!("IPv4") };
    let quiesced = server(address.octets(), 80, Forwarding::Route, 0);
    rig.change(Change::EditServer { service: service(80), server: quiesced });
    assert_ne!(connect(&mut rig, 1), second);
}

/// Ending every session with one of a deleted server's templates among them leaves no counts behind.
#[test]
fn templates_and_their_sessions_may_be_ended_in_any_order() {
    let mut rig = rig(Forwarding::FullNat, 80, 1);
    rig.set_settings(|s| s.expire_nodest_conn = true);
    for n in 1..=6 {
        for k in 0..3 {
            send(&mut rig, 0, client(n, 1000 + k), 80, "S").unwrap();
        }
    }
    for n in 1..=3 {
        let address = [10, 0, 0, n].into();
        rig.change(Change::DeleteServer { service: service(80), address, port: 80 });
    }
    rig.run();
    rig.advance(1.0);
    assert!(rig.sessions().iter().all(|s| s.client.1 == 0), "sessions are gone, templates may wait");
    rig.advance(101.0);
    assert_eq!(rig.session_count(), 0);
    for n in 1..=3 {
        rig.add_server(service(80), server([10, 0, 0, n], 80, Forwarding::FullNat, 1));
        assert_eq!(rig.server_counts(service(80), [10, 0, 0, n]), (0, 0, 0));
    }
}

fn mark_rule(mark: u32) -> MarkRule {
    MarkRule {
        mark,
        priority: 0,
        protocol: None,
        source: None,
        destination: None,
        source_ports: None,
        destination_ports: None,
        port: None,
    }
}

/// One mark for HTTP and HTTPS of a whole network: a client has one server for both.
#[test]
fn a_mark_joins_addresses_and_ports_into_one_service() {
    for (method, workers) in
        [(Forwarding::Nat, 1), (Forwarding::Nat, 3), (Forwarding::FullNat, 3), (Forwarding::Route, 3)]
    {
        let mut rig = Rig::with(&Options { workers, ..Options::default() });
        let service = ServiceKey::Mark { mark: 7, family: Family::V4 };
        rig.change(Change::AddService(Service {
            key: service,
            scheduler: "rr".into(),
            scheduler_flags: 0,
            persistent: Some(300),
            netmask: 0xffff_ff00,
            one_packet: false,
            engine: None,
        }));
        let local = LocalAddress { address: rig::LIP.into(), interface: None };
        rig.change(Change::AddLocalAddress { service, local });
        for n in [1, 2, 3] {
            rig.add_server(service, server([10, 0, 0, n], 0, method, 1));
        }
        for ports in [(80, 80), (443, 443)] {
            let destination = Some(([192, 0, 2, 0].into(), 24));
            let protocol = Some(Protocol::Tcp);
            let rule = MarkRule { destination, destination_ports: Some(ports), protocol, ..mark_rule(7) };
            rig.change(Change::AddMark(rule));
        }
        let mut servers = Vec::new();
        for (worker, (n, port)) in [(1, 80), (2, 443), (3, 80), (4, 443), (5, 80)].into_iter().enumerate() {
            let way = send(&mut rig, worker % workers, client(n, 1000), port, "S").unwrap();
            if method == Forwarding::Route {
                assert_eq!(way, (client(n, 1000), (VIP.into(), port)));
                continue;
            }
            assert_eq!(way.1.1, port, "the server's port 0 is the client's choice");
            servers.push(way.1.0);
            assert!(reply(&mut rig, (worker + 1) % workers, way, "SA"));
        }
        assert!(servers.iter().all(|s| *s == servers[0]), "{servers:?}");
        let templates: Vec<_> = rig.sessions().into_iter().filter(|s| s.client.1 == 0).collect();
        assert_eq!(templates.len(), 1);
        assert_eq!((templates[0].protocol, templates[0].virtual_), (0, ([0, 0, 0, 7].into(), 0)));
        assert_eq!(send(&mut rig, 0, client(9, 1000), 8080, "S"), None, "not marked");
        assert_eq!(rig.take_punted().len(), 1);
        rig.change(Change::ClearMarks);
        assert_eq!(send(&mut rig, 0, client(9, 1000), 80, "S"), None);
        assert_eq!(rig.take_punted().len(), 1);
    }
}

/// As in IPVS the service of a packet's mark comes before the one of its address.
#[test]
fn marks_come_before_addresses() {
    let mut rig = rig(Forwarding::Nat, 80, 1);
    let marked = ServiceKey::Mark { mark: 1, family: Family::V4 };
    let plain = rig.service(service(80));
    rig.change(Change::AddService(Service { key: marked, persistent: None, ..plain }));
    rig.add_server(marked, server([10, 0, 0, 9], 8080, Forwarding::Nat, 1));
    let source = Some(([10, 1, 0, 4].into(), 31));
    rig.change(Change::AddMark(MarkRule { source, port: Some("wan".into()), ..mark_rule(1) }));
    rig.change(Change::AddMark(MarkRule { priority: 1, ..mark_rule(2) }));
    let to = |rig: &mut Rig, n| send(rig, 0, client(n, 1000), 80, "S").unwrap().1;
    assert_eq!(to(&mut rig, 4), (Ipv4Addr::new(10, 0, 0, 9), 8080));
    assert_eq!(to(&mut rig, 5), (Ipv4Addr::new(10, 0, 0, 9), 8080));
    assert_ne!(to(&mut rig, 6).0, Ipv4Addr::new(10, 0, 0, 9), "mark 2 has no service");
}

/// FTP: data connections, to whatever port the server told, follow the control connection.
#[test]
fn passive_ftp_data_connections_follow_the_control_connection() {
    let mut rig = rig(Forwarding::Nat, 21, 1);
    for n in 1..=3 {
        let control = send(&mut rig, 0, client(n, 1000), 21, "S").unwrap().1;
        let data = send(&mut rig, 0, client(n, 1001), 50_000, "S").unwrap().1;
        assert_eq!(data, (control.0, 50_000));
        assert_eq!(control.1, 21);
    }
    assert_eq!(
        send(&mut rig, 0, client(1, 1002), 80, "S"),
        None,
        "a port below 1024 is no data connection's"
    );
    let templates = rig.sessions().into_iter().filter(|s| s.client.1 == 0);
    assert!(templates.into_iter().all(|s| s.virtual_.1 == 0));
}

#[test]
fn a_call_stays_at_its_server_and_what_has_no_call_id_is_dropped() {
    for workers in [1, 3] {
        let mut rig = Rig::with(&Options { workers, ..Options::default() });
        let service = key(Protocol::Udp, VIP, 5060);
        rig.add_service(Protocol::Udp, VIP, 5060, "rr", true);
        let plain = rig.service(service);
        rig.change(Change::EditService(Service {
            persistent: Some(60),
            engine: Some("sip".into()),
            one_packet: true,
            ..plain
        }));
        for n in [1, 2, 3] {
            rig.add_server(service, server([10, 0, 0, n], 5060, Forwarding::FullNat, 1));
        }
        let send = |rig: &mut Rig, worker: usize, port: u16, message: String| {
            let frame = frames::udp(WAN, client(1, port), (VIP.into(), 5060), message.as_bytes());
            let sent = rig.send_to(worker % workers, WAN, MemoryFrame::new(&frame));
            sent.first().map(|s| read(&s.bytes).udp().1.0)
        };
        let message = |call: usize| format!("INVITE sip:b SIP/2.0\r\nCall-ID: {call}@host\r\n\r\n");
        let first: Vec<_> = (0..6).map(|call| send(&mut rig, call, 5060, message(call)).unwrap()).collect();
        assert!(first.iter().any(|s| *s != first[0]), "each call is scheduled: {first:?}");
        for (call, server) in first.iter().enumerate() {
            for worker in 0..workers {
                assert_eq!(send(&mut rig, worker, 6000 + worker as u16, message(call)), Some(*server));
            }
        }
        assert_eq!(send(&mut rig, 0, 5060, "OPTIONS sip:b SIP/2.0\r\n\r\n".into()), None);
        assert_eq!(rig.drops(Reason::NoCallId), 1);
        let mut calls: Vec<_> = rig.sessions().into_iter().filter_map(|s| s.engine).map(|e| e.data).collect();
        calls.sort();
        assert_eq!(calls, (0..6).map(|call| format!("{call}@host")).collect::<Vec<_>>());
        rig.advance(400.0);
        assert_eq!(rig.session_count(), 0);
        assert!(send(&mut rig, 0, 5060, message(1)).is_some());
    }
}
