//! The session log says which sessions are opened and closed. That it says so of every session once is what
//! `path_tables` looks at; here is what it says, how sessions end, and how records are lost.

mod rig;

use std::{
    io::Cursor,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use etherparse::{IcmpEchoHeader, Icmpv4Type};
use rig::{
    LAN, Options, Rig, WAN,
    frames::{self, Tcp},
};
use weir::io::PortId;
use weir_api::{
    client::Transport,
    ipvsadm::names::SystemNames,
    model::{
        Network, Protocol, SessionFilter, SessionState,
        session_log::{LoggedSession, SessionEvent, SessionLogEntry, SessionLogPage, SessionMethod},
    },
    protocol::{Access, Change, MAX_PAGE, Request, Response},
};
use weirctl::ipvsadm::{Environment, ipvsadm};

type Place = (IpAddr, u16);

const CLIENT: Place = (IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)), 40_000);
const VIP: Place = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)), 80);
const SERVER: Place = (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 80);
const OUTSIDE: Place = (IpAddr::V4(Ipv4Addr::new(10, 1, 0, 9)), 53);
const CLIENT_V6: Place = (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0xc1)), 40_000);
const VIP_V6: Place = (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x10)), 80);
const SERVER_V6: Place = (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)), 80);
const OUTSIDE_V6: Place = (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 9)), 53);
const LIP: &str = "10.0.0.240";
const LIP_V6: &str = "2001:db8:1::f0";
const ALL: SessionFilter = SessionFilter {
    service: None,
    client: None,
    client_port: None,
    server: None,
    server_port: None,
    protocol: None,
    state: None,
    min_age: None,
    max_age: None,
    min_idle: None,
    worker: None,
};

/// A gateway with these rules.
fn gateway(options: &Options, rules: &str) -> Rig {
    let mut rig = Rig::with(options);
    command(&mut rig, rules);
    rig
}

/// Lines as `-R` reads them.
fn command(rig: &mut Rig, rules: &str) {
    let args = ["weirctl", "-R"].map(Into::into);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let environment = Environment { names: &SystemNames, own: true };
    let mut input = Cursor::new(rules.replace("; ", "\n") + "\n");
    let status = ipvsadm(&args, &mut input, rig, &mut out, &mut err, &environment);
    assert_eq!(status, 0, "{rules}: {}", String::from_utf8_lossy(&err));
    rig.run();
}

fn page(rig: &mut Rig, filter: SessionFilter, from: Option<u64>, max: u32) -> SessionLogPage {
    match rig.store.handle(Request::SessionLog { filter, from, max }, Access::ReadOnly) {
        Response::SessionLog(page) => page,
        other => panic!("{other:?}"),
    }
}

/// Somebody who reads the log.
struct Reader {
    filter: SessionFilter,
    from: u64,
}

impl Reader {
    fn new(rig: &mut Rig, filter: SessionFilter) -> Self {
        let first = page(rig, filter, None, MAX_PAGE);
        assert!(first.entries.is_empty(), "{first:?}");
        Self { filter, from: first.next }
    }

    /// What there is, and how many records were lost.
    fn read(&mut self, rig: &mut Rig) -> (Vec<LoggedSession>, u64) {
        let (mut sessions, mut lost) = (Vec::new(), 0);
        loop {
            let page = page(rig, self.filter, Some(self.from), MAX_PAGE);
            self.from = page.next;
            for entry in page.entries {
                match entry {
                    SessionLogEntry::Session(session) => sessions.push(*session),
                    SessionLogEntry::Lost(n) => lost += n,
                }
            }
            if !page.more {
                return (sessions, lost);
            }
        }
    }

    /// What there is: nothing was lost.
    fn all(&mut self, rig: &mut Rig) -> Vec<LoggedSession> {
        let (sessions, lost) = self.read(rig);
        assert_eq!(lost, 0);
        sessions
    }
}

fn tcp(port: PortId, from: Place, to: Place, flags: &str) -> Vec<u8> {
    frames::tcp(port, from, to, Tcp { flags, seq: 1, ack: 1 }, &[])
}

fn syn() -> Vec<u8> {
    tcp(WAN, CLIENT, VIP, "S")
}

fn udp_from(n: u32) -> Vec<u8> {
    let client = Ipv4Addr::from_bits(0x0a01_0000 + (n >> 8));
    frames::udp(WAN, (client, 1000 + (n & 0xff) as u16), (Ipv4Addr::new(192, 0, 2, 10), 53), b"?")
}

fn init(from: Place, to: Place) -> Vec<u8> {
    let mut packet = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    packet.extend([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20]);
    packet.resize(32, 5);
    let sum = crc32c::crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    frames::other(WAN, from.0, to.0, 132, &packet)
}

fn echo() -> Vec<u8> {
    let (IpAddr::V4(inside), IpAddr::V4(outside)) = (SERVER.0, OUTSIDE.0) else { unreachable!() };
    frames::icmp(LAN, inside, outside, Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 7, seq: 1 }), b"?")
}

/// A packet that opens a session, and what the log says of that.
struct Kind {
    rules: String,
    port: PortId,
    frame: Vec<u8>,
    method: SessionMethod,
    protocol: u8,
    ends: [Place; 3],
    /// Address of the local or external end.
    local: Option<IpAddr>,
}

fn service(letter: &str, vip: Place, server: Place, how: &str, local: Option<&str>) -> String {
    let place = |(address, port): Place| std::net::SocketAddr::from((address, port)).to_string();
    let (vip, server) = (place(vip), place(server));
    let lip = local.map(|lip| format!("-P {letter} {vip} -z {lip}; ")).unwrap_or_default();
    format!("-A {letter} {vip} -s rr; {lip}-a {letter} {vip} -r {server} {how}")
}

fn balanced(
    letter: &str,
    (client, vip, server): (Place, Place, Place),
    how: &str,
    local: Option<&str>,
) -> Kind {
    use SessionMethod as M;
    let method = match how {
        "-b" => M::FullNat,
        "-m" => M::Nat,
        "-g" => M::Route,
        _ => M::Tunnel,
    };
    let (frame, protocol) = match letter {
        "-t" => (tcp(WAN, client, vip, "S"), 6),
        "-u" => (frames::udp(WAN, client, vip, b"?"), 17),
        _ => (init(client, vip), 132),
    };
    Kind {
        rules: service(letter, vip, server, how, local),
        port: WAN,
        frame,
        method,
        protocol,
        ends: [client, vip, server],
        local: local.map(|lip| lip.parse().unwrap()),
    }
}

fn inside(frame: Vec<u8>, protocol: u8, (client, server): (Place, Place)) -> Kind {
    let v6 = client.0.is_ipv6();
    let (inside, external) =
        if v6 { ("2001:db8:1::/64", "2001:db8::100") } else { ("10.0.0.0/24", "192.0.2.100") };
    Kind {
        rules: format!("snat add office --inside {inside} --port wan --pool {external}"),
        port: LAN,
        frame,
        method: SessionMethod::Snat,
        protocol,
        ends: [client, server, server],
        local: Some(external.parse().unwrap()),
    }
}

fn kinds() -> Vec<Kind> {
    let (v4, v6) = ((CLIENT, VIP, SERVER), (CLIENT_V6, VIP_V6, SERVER_V6));
    let mut kinds = Vec::new();
    for letter in ["-t", "-u", "--sctp-service"] {
        for how in ["-m", "-g", "-i"] {
            kinds.push(balanced(letter, v4, how, None));
            kinds.push(balanced(letter, v6, how, None));
        }
        kinds.push(balanced(letter, v4, "-b", Some(LIP)));
        kinds.push(balanced(letter, v6, "-b", Some(LIP_V6)));
        kinds.push(balanced(letter, (CLIENT_V6, VIP_V6, SERVER), "-b", Some(LIP)));
        kinds.push(balanced(letter, (CLIENT, VIP, SERVER_V6), "-b", Some(LIP_V6)));
        kinds.push(balanced(letter, (CLIENT_V6, VIP_V6, SERVER), "-i", None));
        kinds.push(balanced(letter, (CLIENT, VIP, SERVER_V6), "-i", None));
    }
    kinds.push(inside(frames::udp(LAN, SERVER, OUTSIDE, b"?"), 17, (SERVER, OUTSIDE)));
    kinds.push(inside(tcp(LAN, SERVER, OUTSIDE, "S"), 6, (SERVER, OUTSIDE)));
    kinds.push(inside(frames::udp(LAN, SERVER_V6, OUTSIDE_V6, b"?"), 17, (SERVER_V6, OUTSIDE_V6)));
    kinds.push(inside(echo(), 1, ((SERVER.0, 7), (OUTSIDE.0, 0))));
    kinds
}

#[test]
fn every_kind_of_session_is_opened_once_and_closed_once() {
    for workers in [1, 2] {
        for kind in kinds() {
            let mut rig = gateway(&Options { workers, ..Options::default() }, &kind.rules);
            let mut reader = Reader::new(&mut rig, ALL);
            let name = format!("{} {}", kind.protocol, kind.rules);
            rig.send(kind.port, &kind.frame);
            assert_eq!(rig.session_count(), 1, "{name}");
            let opened = reader.all(&mut rig);
            assert_eq!(opened.len(), 1, "{name}: {opened:?}");
            let (first, session) = (&opened[0], &opened[0].found.session);
            assert_eq!((first.event, first.method), (SessionEvent::Opened, kind.method), "{name}");
            let ends = [session.client, session.virtual_, session.server];
            assert_eq!((session.protocol, ends), (kind.protocol, kind.ends), "{name}: {first:?}");
            let local = kind.local.is_none_or(|local| local == session.local.0);
            assert!(local && usize::from(session.worker) < workers, "{name}: {first:?}");
            assert_eq!(first.rule.as_deref(), (kind.port == LAN).then_some("office"), "{name}");
            let named = first.service.map(|service| service.to_string()).unwrap_or_default();
            assert_eq!(named.is_empty(), kind.port == LAN, "{name}: {named}");
            rig.advance(1000.0);
            assert_eq!(rig.session_count(), 0, "{name}");
            let closed = reader.all(&mut rig);
            assert_eq!(closed.len(), 1, "{name}: {closed:?}");
            let found = &closed[0].found;
            assert_eq!(closed[0].event, SessionEvent::Closed, "{name}");
            let ends = [session.client, session.virtual_, session.local, session.server];
            let last = &found.session;
            assert_eq!([last.client, last.virtual_, last.local, last.server], ends, "{name}");
            assert_eq!((closed[0].service, &closed[0].rule), (first.service, &first.rule), "{name}");
            assert!(found.age >= 100 && found.age == found.idle, "{name}: {found:?}");
            assert!(closed[0].time >= first.time, "{name}");
        }
    }
}

#[test]
fn a_datagram_scheduled_alone_is_a_session_only_with_fullnat() {
    for (how, local, sessions) in [("-m", None, 0), ("-g", None, 0), ("-i", None, 0), ("-b", Some(LIP), 1)] {
        let place = (VIP.0, 53);
        let rules = service("-u", place, SERVER, how, local).replace("-s rr", "-s rr -o");
        let mut rig = gateway(&Options::default(), &rules);
        let mut reader = Reader::new(&mut rig, ALL);
        rig.send(WAN, &udp_from(0));
        let opened = reader.all(&mut rig);
        rig.advance(400.0);
        assert_eq!((opened.len(), reader.all(&mut rig).len()), (sessions, sessions), "{how}");
    }
}

#[test]
fn templates_are_no_sessions() {
    let rules = service("-t", VIP, SERVER, "-m", None).replace("-s rr", "-s rr -p 300");
    let mut rig = gateway(&Options::default(), &rules);
    let mut reader = Reader::new(&mut rig, ALL);
    rig.send(WAN, &syn());
    assert_eq!(rig.session_count(), 2);
    rig.advance(1000.0);
    assert_eq!((rig.session_count(), reader.all(&mut rig).len()), (0, 2));
}

#[test]
fn mark_services_are_named() {
    let mark = "mark add 7 --destination 192.0.2.10 --protocol tcp";
    let mut rig = gateway(&Options::default(), &format!("-A -f 7 -s rr; -a -f 7 -r 10.0.0.1 -m; {mark}"));
    let mut reader = Reader::new(&mut rig, ALL);
    rig.send(WAN, &syn());
    let opened = reader.all(&mut rig);
    assert_eq!(opened[0].service.unwrap().to_string(), "mark/7");
}

/// A session ends in some way; the states in which it was closed.
fn closed_by(rules: &str, end: impl Fn(&mut Rig)) -> Vec<SessionState> {
    let mut rig = gateway(&Options::default(), rules);
    let mut reader = Reader::new(&mut rig, ALL);
    rig.send(WAN, &syn());
    assert_eq!(reader.all(&mut rig).len(), 1);
    end(&mut rig);
    let said = reader.all(&mut rig);
    let closed = said.iter().filter(|logged| logged.event == SessionEvent::Closed);
    let states = closed.map(|logged| logged.found.session.state).collect();
    assert_eq!(rig.event("sessions-opened") - 1, said.len() as u64 - rig.event("sessions-ended"));
    states
}

#[test]
fn sessions_end_in_many_ways() {
    for (how, local) in [("-m", None), ("-b", Some(LIP))] {
        let rules = service("-t", VIP, SERVER, how, local);
        let reset = |rig: &mut Rig| {
            rig.send(WAN, &tcp(WAN, CLIENT, VIP, "A"));
            rig.send(WAN, &tcp(WAN, CLIENT, VIP, "R"));
            rig.advance(1000.0);
        };
        assert_eq!(closed_by(&rules, reset).len(), 1, "{how}: reset");
        let expires = |rig: &mut Rig| rig.advance(1000.0);
        assert_eq!(closed_by(&rules, expires), [SessionState::SynRecv], "{how}: expiry");
        let deleted = |rig: &mut Rig| {
            rig.set_settings(|settings| settings.expire_nodest_conn = true);
            command(rig, "-d -t 192.0.2.10:80 -r 10.0.0.1:80");
            rig.advance(1.0);
            rig.send(WAN, &syn());
        };
        assert_eq!(closed_by(&rules, deleted).len(), 1, "{how}: deletion");
        let flushed = |rig: &mut Rig| {
            rig.change(Change::Flush);
            rig.advance(1000.0);
        };
        assert_eq!(closed_by(&rules, flushed).len(), 1, "{how}: flush");
        let killed = |rig: &mut Rig| {
            let request = Request::KillSessions { filter: ALL, from: None };
            assert!(matches!(rig.call(request), Ok(Response::Killed { sessions: 1, .. })));
        };
        assert_eq!(closed_by(&rules, killed), [SessionState::SynRecv], "{how}: kill");
    }
    // A session that is opened again is another one.
    let reopened = |rig: &mut Rig| {
        for flags in ["A", "FA"] {
            rig.send(WAN, &tcp(WAN, CLIENT, VIP, flags));
        }
        rig.set_settings(|settings| settings.conn_reuse_mode = 3);
        rig.send(WAN, &syn());
    };
    assert_eq!(closed_by(&service("-t", VIP, SERVER, "-g", None), reopened), [SessionState::FinWait]);
}

#[test]
fn a_deleted_service_and_rule_are_still_named() {
    let office = "snat add office --inside 10.0.0.0/24 --port wan --pool 192.0.2.100";
    let rules = format!("{}; {office}", service("-t", VIP, SERVER, "-m", None));
    let mut rig = gateway(&Options::default(), &rules);
    let mut reader = Reader::new(&mut rig, ALL);
    let of_service = SessionFilter {
        service: Some(rig::key(Protocol::Tcp, [192, 0, 2, 10], 80)),
        ..SessionFilter::default()
    };
    let mut filtered = Reader::new(&mut rig, of_service);
    rig.send(WAN, &syn());
    rig.send(LAN, &frames::udp(LAN, (IpAddr::from([10, 0, 0, 5]), 5000), (OUTSIDE.0, 99), b"?"));
    assert_eq!(reader.all(&mut rig).len(), 2);
    rig.change(Change::DeleteSnat("office".into()));
    rig.advance(0.5);
    let again = office.replace("office", "home");
    command(&mut rig, &again);
    rig.send(LAN, &frames::udp(LAN, (IpAddr::from([10, 0, 0, 5]), 5000), (OUTSIDE.0, 99), b"?"));
    rig.change(Change::Flush);
    rig.advance(90.0);
    let said: Vec<_> = reader.all(&mut rig);
    let names: Vec<_> = said
        .iter()
        .map(|logged| (logged.event, logged.rule.clone().or(logged.service.map(|key| key.to_string()))))
        .collect();
    let name = |event, name: &str| (event, Some(name.to_owned()));
    let expected = [
        name(SessionEvent::Closed, "office"),
        name(SessionEvent::Opened, "home"),
        name(SessionEvent::Closed, "tcp/192.0.2.10:80"),
    ];
    assert_eq!(names, expected);
    assert_eq!(filtered.all(&mut rig).len(), 2);
}

#[test]
fn everybody_who_reads_gets_what_the_own_filter_says() {
    let rules = format!(
        "{}; {}",
        service("-t", VIP, SERVER, "-m", None),
        service("-u", (VIP.0, 53), SERVER, "-b", Some(LIP))
    );
    let mut rig = gateway(&Options { workers: 2, ..Options::default() }, &rules);
    let network = Network { address: [10, 1, 0, 1].into(), bits: 32 };
    let udp = Some(rig::key(Protocol::Udp, [192, 0, 2, 10], 53));
    let filters = [
        (ALL, 41),
        (SessionFilter { client: Some(network), ..ALL }, 1),
        (SessionFilter { protocol: Some(Protocol::Tcp), ..ALL }, 1),
        (SessionFilter { service: udp, ..ALL }, 40),
        (SessionFilter { server: Some(SERVER.0), client_port: Some(1003), ..ALL }, 1),
    ];
    let mut readers: Vec<_> =
        filters.iter().map(|(filter, due)| (Reader::new(&mut rig, *filter), *due)).collect();
    rig.send(WAN, &syn());
    (0..40).for_each(|n| drop(rig.send(WAN, &udp_from(n))));
    for (reader, due) in &mut readers {
        let said = reader.all(&mut rig);
        assert_eq!(said.len(), *due, "{:?}", reader.filter);
        assert!(said.windows(2).all(|pair| pair[0].time <= pair[1].time));
    }
    let of_worker: usize = [0, 1]
        .map(|worker| {
            let filter = SessionFilter { worker: Some(worker), ..ALL };
            page(&mut rig, filter, Some(0), MAX_PAGE).entries.len()
        })
        .iter()
        .sum();
    assert_eq!(of_worker, 41);
}

fn dns(max_sessions: usize) -> Rig {
    let options = Options { max_sessions, ..Options::default() };
    gateway(&options, &service("-u", (VIP.0, 53), SERVER, "-m", None))
}

#[test]
fn what_a_ring_has_no_room_for_is_lost_and_counted() {
    let mut rig = dns(16_384);
    let mut reader = Reader::new(&mut rig, ALL);
    for n in 0..9000 {
        rig.receive(0, WAN, &udp_from(n));
    }
    rig.run();
    rig.take_sent();
    assert_eq!((rig.session_count(), rig.event("session-log-lost")), (9000, 9000 - 8192));
    let (sessions, lost) = reader.read(&mut rig);
    assert_eq!((sessions.len(), lost), (8192, 9000 - 8192), "counted and forwarded all the same");
    // What comes afterwards isn't lost.
    rig.send(WAN, &udp_from(9001));
    assert_eq!(reader.all(&mut rig).len(), 1);
    // Entries are counted by the page, too.
    let first = page(&mut rig, ALL, Some(0), 3);
    assert_eq!((first.entries.len(), first.more), (3, true));
}

#[test]
fn a_reader_who_is_late_loses_the_oldest_and_nobody_else_does() {
    let mut rig = dns(131_072);
    let (mut late, mut other) = (Reader::new(&mut rig, ALL), Reader::new(&mut rig, ALL));
    for round in 0..18 {
        for n in 0..4000 {
            rig.receive(0, WAN, &udp_from(round * 4000 + n));
        }
        rig.run();
        rig.take_sent();
        assert_eq!(other.all(&mut rig).len(), 4000);
    }
    let (sessions, lost) = late.read(&mut rig);
    assert_eq!((sessions.len(), lost), (65_536, 72_000 - 65_536));
    assert!(late.all(&mut rig).is_empty());
}

#[test]
fn sessions_that_were_open_before_are_closed_in_the_log() {
    let mut rig = dns(100);
    rig.send(WAN, &udp_from(1));
    let mut reader = Reader::new(&mut rig, ALL);
    rig.advance(400.0);
    let said = reader.all(&mut rig);
    assert!(said.len() == 1 && said[0].event == SessionEvent::Closed, "{said:?}");
}

#[test]
fn a_worker_that_hangs_gets_no_log() {
    let patience = std::time::Duration::from_millis(100);
    let options = Options { workers: 2, patience, ..Options::default() };
    let mut rig = gateway(&options, &service("-u", (VIP.0, 53), SERVER, "-m", None));
    rig.hang(1);
    let request = Request::SessionLog { filter: ALL, from: None, max: 1 };
    let refused = rig.store.handle(request.clone(), Access::ReadOnly);
    assert!(matches!(refused, Response::Refused(_)), "{refused:?}");
    rig.hang(usize::MAX);
    rig.run();
    let mut reader = Reader::new(&mut rig, ALL);
    rig.send(WAN, &udp_from(1));
    assert_eq!(reader.all(&mut rig).len(), 1);
}
