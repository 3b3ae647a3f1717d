//! What becomes of sessions: control must not disturb them, ports must come back, and finished connections
//! must not stand in a new one's way.

mod rig;

use std::net::Ipv4Addr;

use rig::{
    LAN, LIP, Options, Rig, WAN,
    frames::{self, Endpoint, Tcp, read},
    key, server,
};
use weir::path::verdict::Reason;
use weir_api::{
    model::{Forwarding, Protocol, Server, SessionState},
    protocol::Change,
};

const VIP: [u8; 4] = [192, 0, 2, 10];
const METHODS: [Forwarding; 2] = [Forwarding::FullNat, Forwarding::Nat];

fn vip() -> Endpoint {
    (Ipv4Addr::from(VIP), 80)
}

fn client(n: u8) -> Endpoint {
    (Ipv4Addr::new(10, 1, 0, n), 40000)
}

fn flags(flags: &str) -> Tcp<'_> {
    Tcp { flags, seq: 1, ack: 1 }
}

fn rig(method: Forwarding, servers: u8, options: &Options) -> Rig {
    let mut rig = Rig::with(options);
    rig.add_service(Protocol::Tcp, VIP, 80, "rr", method == Forwarding::FullNat);
    for n in 1..=servers {
        rig.add_server(key(Protocol::Tcp, VIP, 80), server([10, 0, 0, n], 80, method, 1));
    }
    rig
}

/// Sends a segment of a client; the tuple with which it left towards the servers.
fn request(rig: &mut Rig, client: Endpoint, f: &str) -> Option<(Endpoint, Endpoint)> {
    let sent = rig.send(WAN, &frames::tcp(WAN, client, vip(), flags(f), &[]));
    sent.iter().find(|s| s.port == LAN).map(|s| {
        let out = read(&s.bytes);
        let (from, to, _) = out.tcp();
        (from, to)
    })
}

/// Sends a segment of a server; whether it reached the client.
fn reply(rig: &mut Rig, (local, server): (Endpoint, Endpoint), f: &str) -> bool {
    let sent = rig.send(LAN, &frames::tcp(LAN, server, local, flags(f), &[]));
    sent.iter().any(|s| s.port == WAN && read(&s.bytes).tcp().0 == vip())
}

/// A whole handshake.
fn establish(rig: &mut Rig, client: Endpoint) -> (Endpoint, Endpoint) {
    let way = request(rig, client, "S").expect("a server");
    assert!(reply(rig, way, "SA"));
    assert_eq!(request(rig, client, "A"), Some(way));
    way
}

fn edit(rig: &mut Rig, n: u8, method: Forwarding, weight: u32) {
    let server = server([10, 0, 0, n], 80, method, weight);
    rig.change(Change::EditServer { service: key(Protocol::Tcp, VIP, 80), server });
}

#[test]
fn sessions_survive_every_change_of_their_service() {
    for method in METHODS {
        let mut rig = rig(method, 3, &Options::default());
        let ways: Vec<_> = (1..=6).map(|n| (client(n), establish(&mut rig, client(n)))).collect();
        let service = key(Protocol::Tcp, VIP, 80);
        let edited = |scheduler: &str| weir_api::model::Service {
            key: service,
            scheduler: scheduler.into(),
            scheduler_flags: 0,
            persistent: None,
            netmask: u32::MAX,
            one_packet: false,
            engine: None,
        };
        let changes = [
            Change::EditService(edited("wlc")),
            Change::EditService(edited("mh")),
            Change::AddServer { service, server: server([10, 0, 0, 9], 80, method, 7) },
            Change::EditServer { service, server: server([10, 0, 0, 1], 80, method, 0) },
            Change::DeleteServer { service, address: Ipv4Addr::new(10, 0, 0, 9).into(), port: 80 },
            Change::Zero(None),
            Change::AddService(weir_api::model::Service { key: key(Protocol::Tcp, VIP, 81), ..edited("rr") }),
            Change::DeleteService(key(Protocol::Tcp, VIP, 81)),
        ];
        for change in changes {
            let what = format!("{change:?}");
            rig.change(change);
            for (client, way) in &ways {
                assert_eq!(request(&mut rig, *client, "PA"), Some(*way), "{method:?}: {what}");
                assert!(reply(&mut rig, *way, "A"), "{method:?}: {what}");
            }
        }
        assert_eq!(rig.session_count(), 6);
    }
}

/// A server that is added by masquerading where that is FULLNAT, on another port than the service's.
#[test]
fn default_local_addresses_serve_until_the_service_has_its_own() {
    use weir::control::store::ServiceDefaults;
    use weir_api::model::{LocalAddress, Masquerade};
    for workers in [1, 3] {
        let default = Ipv4Addr::new(10, 0, 0, 201);
        let local_addresses = [default.into()].into();
        let defaults = ServiceDefaults { masquerade: Masquerade::FullNat, local_addresses };
        let mut rig = Rig::with(&Options { workers, defaults, ..Options::default() });
        let service = key(Protocol::Tcp, VIP, 80);
        rig.add_service(Protocol::Tcp, VIP, 80, "rr", false);
        let by_m = Server { port: 8080, ..server([10, 0, 0, 1], 80, Forwarding::Nat, 1) };
        rig.change(Change::AddMasqueraded { service, server: by_m });
        let first = establish(&mut rig, client(1));
        assert_eq!((first.0.0, first.1), (default, (Ipv4Addr::new(10, 0, 0, 1), 8080)));
        let own = LIP;
        let local = LocalAddress { address: own.into(), interface: None };
        rig.change(Change::AddLocalAddress { service, local });
        assert_eq!(establish(&mut rig, client(2)).0.0, own, "{workers} workers");
        assert!(reply(&mut rig, first, "A") && request(&mut rig, client(1), "PA") == Some(first));
        rig.change(Change::DeleteLocalAddress { service, address: own.into() });
        assert_eq!(establish(&mut rig, client(3)).0.0, default);
        rig.change(Change::DeleteService(service));
        assert!(reply(&mut rig, first, "PA"), "its session outlives the service");
    }
}

#[test]
fn a_deleted_server_s_sessions_wait_for_it_and_the_others_do_not_notice() {
    for method in METHODS {
        let mut rig = rig(method, 2, &Options::default());
        let gone = establish(&mut rig, client(1));
        let stays = establish(&mut rig, client(2));
        assert_eq!(gone.1.0, Ipv4Addr::new(10, 0, 0, 2));
        let service = key(Protocol::Tcp, VIP, 80);
        rig.change(Change::DeleteServer { service, address: gone.1.0.into(), port: 80 });
        assert_eq!(request(&mut rig, client(1), "PA"), None);
        assert_eq!(rig.drops(Reason::ServerDeleted), 1);
        assert!(reply(&mut rig, gone, "A"), "what the server still says passes");
        assert_eq!(request(&mut rig, client(2), "PA"), Some(stays));
        assert_eq!(request(&mut rig, client(3), "S").unwrap().1, stays.1, "new ones go elsewhere");
        rig.add_server(service, server([10, 0, 0, 2], 80, method, 1));
        assert_eq!(request(&mut rig, client(1), "PA"), Some(gone), "it is there again");
    }
}

#[test]
fn weight_0_keeps_sessions_and_gets_no_new_ones() {
    let mut rig = rig(Forwarding::FullNat, 2, &Options::default());
    let old = establish(&mut rig, client(1));
    edit(&mut rig, 2, Forwarding::FullNat, 0);
    assert_eq!(request(&mut rig, client(1), "PA"), Some(old));
    for n in 2..8 {
        assert_eq!(establish(&mut rig, client(n)).1.0, Ipv4Addr::new(10, 0, 0, 1));
    }
}

/// Ten ports: the eleventh connection to a server gets no answer, the other server's go on, and ports that
/// become free come back.
#[test]
fn a_server_s_ports_may_run_out_and_come_back() {
    let options = Options { ports: (5000, 5009), ..Options::default() };
    let mut rig = rig(Forwarding::FullNat, 2, &options);
    edit(&mut rig, 1, Forwarding::FullNat, 0);
    for n in 1..=10 {
        establish(&mut rig, client(n));
    }
    assert_eq!(request(&mut rig, client(11), "S"), None);
    assert!(rig.take_punted().is_empty());
    assert_eq!(rig.drops(Reason::LocalPortsExhausted), 1);
    edit(&mut rig, 1, Forwarding::FullNat, 1);
    edit(&mut rig, 2, Forwarding::FullNat, 0);
    establish(&mut rig, client(12));
    edit(&mut rig, 2, Forwarding::FullNat, 1);
    edit(&mut rig, 1, Forwarding::FullNat, 0);
    assert_eq!(request(&mut rig, client(13), "S"), None);
    // One of them is reset and goes after 10 s; the retry of the eleventh gets its port.
    request(&mut rig, client(4), "R").unwrap();
    rig.advance(11.0);
    let way = request(&mut rig, client(11), "S").expect("a port that was freed");
    assert_eq!(way.0.0, LIP);
    assert_eq!(request(&mut rig, client(14), "S"), None, "no other port is free");
}

/// A pool of one port: the next client's SYN reaches the server by the port whose last connection the server
/// still holds in TIME_WAIT; its challenge ACK and the client's RST pass, and the next SYN is accepted.
#[test]
fn a_port_used_again_is_cleared_by_challenge_ack_and_reset() {
    let options = Options { ports: (5000, 5000), ..Options::default() };
    let mut rig = rig(Forwarding::FullNat, 1, &options);
    rig.set_settings(|s| s.timeouts.time_wait = 1);
    let way = establish(&mut rig, client(1));
    assert!(reply(&mut rig, way, "FA"));
    assert!(request(&mut rig, client(1), "FA").is_some());
    assert!(reply(&mut rig, way, "A"));
    rig.advance(2.0);
    assert_eq!(rig.session_count(), 0);
    assert_eq!(request(&mut rig, client(2), "S"), Some(way), "the only port there is");
    assert!(reply(&mut rig, way, "A"), "the challenge ACK reaches the client");
    assert_eq!(request(&mut rig, client(2), "R"), Some(way), "and its reset the server");
    assert_eq!(request(&mut rig, client(2), "S"), Some(way), "by the same port");
    assert_eq!(rig.sessions()[0].state, SessionState::SynRecv);
    assert!(reply(&mut rig, way, "SA"));
    assert_eq!(request(&mut rig, client(2), "A"), Some(way));
}

#[test]
fn a_syn_on_a_finished_session_takes_another_local_port() {
    let mut rig = rig(Forwarding::FullNat, 1, &Options::default());
    let first = establish(&mut rig, client(1));
    request(&mut rig, client(1), "FA");
    reply(&mut rig, first, "FA");
    request(&mut rig, client(1), "A");
    assert_eq!(rig.sessions()[0].state, SessionState::TimeWait);
    let second = request(&mut rig, client(1), "S").unwrap();
    assert_ne!(first.0, second.0);
    assert_eq!(rig.session_count(), 1);
}

#[test]
fn sessions_without_room_are_refused_and_counted() {
    let mut rig = rig(Forwarding::FullNat, 1, &Options { max_sessions: 3, ..Options::default() });
    for n in 1..=3 {
        establish(&mut rig, client(n));
    }
    assert_eq!(request(&mut rig, client(4), "S"), None);
    assert_eq!(rig.drops(Reason::SessionsFull), 1);
    request(&mut rig, client(1), "R");
    rig.advance(11.0);
    establish(&mut rig, client(4));
}

#[test]
fn a_service_without_local_address_says_so() {
    let mut rig = Rig::new();
    rig.add_service(Protocol::Tcp, VIP, 80, "rr", false);
    rig.add_server(key(Protocol::Tcp, VIP, 80), server([10, 0, 0, 1], 80, Forwarding::FullNat, 1));
    assert_eq!(request(&mut rig, client(1), "S"), None);
    assert_eq!(rig.drops(Reason::NoLocalAddress), 1);
}

/// Two workers on threads of their own, with more connections than the threshold in both receive queues.
#[test]
fn a_threshold_holds_however_fast_sessions_come() {
    for (upper, method) in [(5, Forwarding::Nat), (50, Forwarding::FullNat), (50, Forwarding::Route)] {
        for workers in [2, 4] {
            let mut rig = rig(method, 0, &Options { workers, ..Options::default() });
            let full = weir_api::model::Server { upper, ..server([10, 0, 0, 1], 80, method, 1) };
            rig.add_server(key(Protocol::Tcp, VIP, 80), full);
            for n in 0..800u16 {
                let client = (Ipv4Addr::new(10, 1, 1, (n % 200) as u8), 40_000 + n);
                let frame = frames::tcp(WAN, client, vip(), flags("S"), &[]);
                rig.receive(usize::from(n) % workers, WAN, &frame);
            }
            rig.run_on_threads();
            assert_eq!(rig.session_count(), upper as usize, "{method:?} {workers}");
            let (active, inactive, _) = rig.server_counts(key(Protocol::Tcp, VIP, 80), [10, 0, 0, 1]);
            assert_eq!(active + inactive, upper);
            assert_eq!(rig.drops(Reason::NoServer), 800 - u64::from(upper));
        }
    }
}

/// Sessions that find no room in the table give back what was taken for them: local port, place, and counts.
#[test]
fn a_session_without_room_leaves_nothing_behind() {
    let options = Options { max_sessions: 4, ports: (1024, 1033), ..Options::default() };
    let mut rig = rig(Forwarding::FullNat, 0, &options);
    let limited = weir_api::model::Server { upper: 6, ..server([10, 0, 0, 1], 80, Forwarding::FullNat, 1) };
    rig.add_server(key(Protocol::Tcp, VIP, 80), limited);
    for round in 0..4u64 {
        for n in 0..4 {
            assert!(request(&mut rig, client(n), "S").is_some(), "round {round}, {n}");
        }
        for n in 4..9 {
            assert!(request(&mut rig, client(n), "S").is_none());
        }
        assert_eq!(rig.drops(Reason::SessionsFull), 5 * (round + 1));
        let (active, inactive, _) = rig.server_counts(key(Protocol::Tcp, VIP, 80), [10, 0, 0, 1]);
        assert_eq!(active + inactive, 4);
        rig.advance(200.0);
        assert_eq!(rig.session_count(), 0);
    }
    assert_eq!(rig.drops(Reason::LocalPortsExhausted) + rig.drops(Reason::NoServer), 0);
}

/// The same where clients are kept: the template goes on, and is counted once.
#[test]
fn a_template_is_counted_once_even_if_its_sessions_end() {
    let mut rig = rig(Forwarding::FullNat, 0, &Options { max_sessions: 3, ..Options::default() });
    let service = key(Protocol::Tcp, VIP, 80);
    // One place more than there are sessions: any that isn't given back is missed two rounds later.
    let limited = weir_api::model::Server { upper: 3, ..server([10, 0, 0, 1], 80, Forwarding::FullNat, 1) };
    rig.add_server(service, limited);
    let plain = rig.service(service);
    rig.change(Change::EditService(weir_api::model::Service { persistent: Some(300), ..plain }));
    let from = |port| (Ipv4Addr::new(10, 1, 0, 1), port);
    for round in 1..5 {
        for port in [40_000, 40_001] {
            assert!(request(&mut rig, from(port), "S").is_some(), "round {round}");
        }
        assert!(request(&mut rig, from(40_002), "S").is_none());
        // Another client's template finds no room either.
        assert!(request(&mut rig, client(9), "S").is_none());
        assert_eq!(rig.server_counts(service, [10, 0, 0, 1]).2, 1);
        assert_eq!((rig.drops(Reason::SessionsFull), rig.drops(Reason::NoServer)), (2 * round, 0));
        rig.advance(400.0);
        assert_eq!((rig.session_count(), rig.server_counts(service, [10, 0, 0, 1])), (0, (0, 0, 0)));
    }
}
