//! Whatever is configured and whatever comes: `explain` says of a packet what the path does with it.

mod rig;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;
use rig::{
    LAN, Options, Rig, Sent, WAN,
    frames::{self, Tcp},
};
use weir::io::{PortId, memory::MemoryFrame};
use weir_api::{
    client::Transport,
    model::{
        Family, Forwarding, LocalAddress, MarkRule, NO_SCHEDULER, Protocol, SCHEDULERS, Server, Service,
        ServiceKey, Tunnel, TunnelChecksum, TunnelKind, Tuple,
        explain::{Back, End, Explanation, Question},
    },
    protocol::{Batch, Change, Request, Response},
    rules::{client_address::WAYS, snat},
};

type Endpoint = (IpAddr, u16);

/// Addresses of each family: clients, servers, local, virtual, external, inside and nobody's.
fn address(v6: bool, kind: Kind, n: u8) -> IpAddr {
    let n = n % 4;
    let v4 = match kind {
        Kind::Client => [10, 1, 0, 1 + n],
        Kind::Server => [10, 0, 0, 1 + n],
        Kind::Local => [10, 0, 0, 240 + n],
        Kind::Virtual => [192, 0, 2, 10 + n % 2],
        Kind::External => [192, 0, 2, 100 + n],
        Kind::Inside => [10, 0, 0, 9 + n],
        // The port's own, a loopback address, what no route leads to, and what only a default route does.
        Kind::Odd => [[10, 1, 255, 254], [127, 0, 0, 1], [172, 16, 0, 1], [198, 51, 100, 7]][usize::from(n)],
    };
    if !v6 {
        return Ipv4Addr::from(v4).into();
    }
    let [_, net, _, host] = v4;
    let (net, host) = match kind {
        Kind::Client => (0xc, u16::from(host)),
        Kind::Virtual | Kind::External => (0, u16::from(host)),
        Kind::Odd if n == 0 => (0xc, 0xfe),
        Kind::Odd if n == 1 => return Ipv6Addr::LOCALHOST.into(),
        Kind::Odd => (0x77, u16::from(n)),
        _ => (1 + u16::from(net), u16::from(host)),
    };
    Ipv6Addr::new(0x2001, 0xdb8, net, 0, 0, 0, 0, host).into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Client,
    Server,
    Local,
    Virtual,
    External,
    Inside,
    Odd,
}

const KINDS: [Kind; 7] =
    [Kind::Client, Kind::Server, Kind::Local, Kind::Virtual, Kind::External, Kind::Inside, Kind::Odd];

const METHODS: [Forwarding; 6] = [
    Forwarding::FullNat,
    Forwarding::FullNat,
    Forwarding::Nat,
    Forwarding::Route,
    Forwarding::Tunnel(Tunnel { kind: TunnelKind::Ipip, port: 0, checksum: TunnelChecksum::None }),
    Forwarding::Tunnel(Tunnel { kind: TunnelKind::Gre, port: 0, checksum: TunnelChecksum::Full }),
];

const SNAT: [&str; 6] = [
    "",
    "--max-ports 1",
    "--max-sessions 1",
    "--filtering address-and-port-dependent",
    "--mapping address-and-port-dependent",
    "--pooling arbitrary --max-ports 2",
];

/// Number, place (of another family, where nobody is), method, weight, upper threshold.
type AnyServer = (u8, u8, usize, u32, u32);

#[derive(Clone, Debug)]
struct AnyService {
    key: (u8, bool, u8, bool),
    scheduler: usize,
    persistent: bool,
    once: bool,
    locals: u8,
    how: usize,
    servers: Vec<AnyServer>,
}

#[derive(Clone, Debug)]
struct Setup {
    workers: usize,
    sessions: usize,
    ports: u16,
    default_route: bool,
    services: Vec<AnyService>,
    snat: Option<(usize, u8)>,
    own: bool,
    settings: [bool; 3],
}

fn service() -> impl Strategy<Value = AnyService> {
    let server = (0u8..4, 0u8..12, 0..METHODS.len(), 0u32..3, prop_oneof![3 => Just(0u32), 1 => 1u32..3]);
    let key = (0u8..3, prop::bool::weighted(0.3), 0u8..3, any::<bool>());
    let flags = (prop::bool::weighted(0.3), prop::bool::weighted(0.3), 0u8..4);
    (key, 0..=SCHEDULERS.len(), flags, 0..WAYS.len(), prop::collection::vec(server, 0..4)).prop_map(
        |(key, scheduler, (persistent, once, locals), how, servers)| AnyService {
            key,
            scheduler,
            persistent,
            once,
            locals,
            how,
            servers,
        },
    )
}

fn setup() -> impl Strategy<Value = Setup> {
    let table = (1usize..4, prop_oneof![Just(6usize), Just(12), Just(4096)]);
    let ports = prop_oneof![Just(7u16), Just(31), Just(4000)];
    let snat = prop::option::of((0..SNAT.len(), 1u8..4));
    let services = prop::collection::vec(service(), 0..4);
    (table, ports, any::<bool>(), services, snat, any::<bool>(), any::<[bool; 3]>()).prop_map(
        |((workers, sessions), ports, default_route, services, snat, own, settings)| Setup {
            workers,
            sessions,
            ports,
            default_route,
            services,
            snat,
            own,
            settings,
        },
    )
}

fn key_of(service: &AnyService) -> ServiceKey {
    let (protocol, v6, n, mark) = service.key;
    let family = if v6 { Family::V6 } else { Family::V4 };
    if mark && n == 2 {
        return ServiceKey::Mark { mark: 7, family };
    }
    let protocol = if protocol == 0 { Protocol::Udp } else { Protocol::Tcp };
    ServiceKey::Address { protocol, address: address(v6, Kind::Virtual, n), port: 80 }
}

fn rig(setup: &Setup) -> Rig {
    let first = 5000;
    let mut rig = Rig::with(&Options {
        workers: setup.workers,
        max_sessions: setup.sessions,
        ports: (first, first + setup.ports),
        default_route: setup.default_route,
        ..Options::default()
    });
    let names = ["expire_nodest_conn", "sloppy_tcp", "expire_quiescent_template"];
    for (name, on) in names.into_iter().zip(setup.settings) {
        rig.store.set_sysctl(name, if on { "1" } else { "0" }).unwrap();
    }
    // What a stream with PROXY that was joined in its middle makes of a packet depends on numbers, which nobody explains.
    let ways = if setup.settings[1] { 2 } else { WAYS.len() };
    setup.services.iter().for_each(|service| add(&mut rig, service, ways));
    let rule = MarkRule {
        mark: 7,
        priority: 0,
        protocol: Some(Protocol::Udp),
        source: None,
        destination: None,
        source_ports: None,
        destination_ports: Some((81, 81)),
        port: Some("wan".into()),
    };
    try_change(&mut rig, Change::AddMark(rule));
    if let Some((options, size)) = setup.snat {
        for v6 in [false, true] {
            let (inside, first, last) = match v6 {
                true => {
                    ("2001:db8:1::/64", address(v6, Kind::External, 0), address(v6, Kind::External, size - 1))
                }
                false => {
                    ("10.0.0.0/24", address(v6, Kind::External, 0), address(v6, Kind::External, size - 1))
                }
            };
            let pool = if setup.own { "port".into() } else { format!("{first}-{last}") };
            let line = format!("add s{v6} --inside {inside} --port wan --pool {pool} {}", SNAT[options]);
            let words: Vec<&str> = line.split_whitespace().collect();
            try_change(&mut rig, snat::parse(&words).unwrap());
        }
    }
    rig.run();
    rig
}

/// What can't be is refused, which is fine here.
fn try_change(rig: &mut Rig, change: Change) {
    let batch = Batch { changes: vec![change], expect_generation: None };
    rig.call(Request::Apply(batch)).unwrap();
}

fn add(rig: &mut Rig, service: &AnyService, ways: usize) {
    let (key, v6) = (key_of(service), service.key.1);
    try_change(
        rig,
        Change::AddService(Service {
            key,
            scheduler: SCHEDULERS.get(service.scheduler).unwrap_or(&NO_SCHEDULER).to_string(),
            scheduler_flags: service.locals % 3,
            persistent: service.persistent.then_some(60),
            netmask: if v6 { 120 } else { 0xffff_fffe },
            one_packet: service.once,
            engine: None,
        }),
    );
    for v6 in [false, true] {
        for n in 0..service.locals {
            let local = LocalAddress { address: address(v6, Kind::Local, n), interface: None };
            try_change(rig, Change::AddLocalAddress { service: key, local });
        }
    }
    try_change(rig, Change::SetClientAddress { service: key, how: WAYS[service.how % ways].1 });
    for &(n, place, method, weight, upper) in &service.servers {
        let address = match place {
            0 => address(!v6, Kind::Server, n),
            1 => address(v6, Kind::Odd, 2),
            _ => address(v6, Kind::Server, n),
        };
        let forwarding = METHODS[method];
        let port = match forwarding {
            Forwarding::Nat | Forwarding::FullNat => 8080,
            _ => 80,
        };
        let server = Server { address, port, forwarding, weight, upper, lower: 0 };
        try_change(rig, Change::AddServer { service: key, server });
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// From a client to a service, or to a port that only a mark takes.
    Visit {
        service: usize,
        client: u8,
        port: u8,
        marked: bool,
    },
    /// Of a session that there is.
    Known {
        session: usize,
        reply: bool,
        other_port: bool,
    },
    /// From inside to somewhere.
    Out {
        v6: bool,
        host: u8,
        port: u8,
        to: usize,
        n: u8,
    },
    /// From anywhere to anywhere.
    Any {
        v6: bool,
        from: (usize, u8, u8),
        to: (usize, u8, u8),
    },
    Wait(u32),
    /// A server gets another weight, or goes.
    Server {
        service: usize,
        n: usize,
        weight: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let end = (0..KINDS.len(), 0u8..4, 0u8..4);
    prop_oneof![
        6 => (0usize..4, 0u8..4, 0u8..2, prop::bool::weighted(0.1))
            .prop_map(|(service, client, port, marked)| Step::Visit { service, client, port, marked }),
        5 => (any::<usize>(), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(session, reply, other_port)| Step::Known { session, reply, other_port }),
        4 => (prop::bool::weighted(0.3), 0u8..3, 0u8..3, 0..KINDS.len(), 0u8..4)
            .prop_map(|(v6, host, port, to, n)| Step::Out { v6, host, port, to, n }),
        3 => (prop::bool::weighted(0.3), end.clone(), end).prop_map(|(v6, from, to)| Step::Any { v6, from, to }),
        2 => (1u32..9).prop_map(|n| Step::Wait(n * n * 2)),
        1 => (0usize..4, 0usize..4, 0u32..3).prop_map(|(service, n, weight)| Step::Server { service, n, weight }),
    ]
}

fn port_number(n: u8) -> u16 {
    [80, 8080, 5000, 5003][usize::from(n % 4)]
}

/// The packet of a step: protocol, ends, and the port that it arrives by.
fn packet(
    rig: &mut Rig,
    setup: &Setup,
    step: &Step,
    udp: bool,
) -> Option<(Protocol, Endpoint, Endpoint, PortId)> {
    let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
    Some(match *step {
        Step::Visit { service, client, port, marked } => {
            let service = setup.services.get(service % setup.services.len().max(1))?;
            let v6 = service.key.1;
            let from = (address(v6, Kind::Client, client), 40_000 + u16::from(port));
            match key_of(service) {
                ServiceKey::Address { protocol, address, port } if !marked => {
                    (protocol, from, (address, port), WAN)
                }
                _ => (Protocol::Udp, from, (address(v6, Kind::Virtual, 0), 81), WAN),
            }
        }
        Step::Known { session, reply, other_port } => {
            let mut sessions = rig.sessions();
            sessions.retain(|s| (s.protocol == 6 || s.protocol == 17) && s.client.1 != 0);
            let s = sessions.get(session % sessions.len().max(1))?;
            let protocol = if s.protocol == 17 { Protocol::Udp } else { Protocol::Tcp };
            let (from, to) = if reply { (s.server, s.local) } else { (s.client, s.virtual_) };
            if from.0.is_ipv6() != to.0.is_ipv6() {
                return None;
            }
            let inside = matches!(from.0.to_string().as_str(), a if a.starts_with("10.0.0.") || a.starts_with("2001:db8:1:"));
            (protocol, from, to, if inside != other_port { LAN } else { WAN })
        }
        Step::Out { v6, host, port, to, n } => {
            let from = (address(v6, Kind::Inside, host), 6000 + u16::from(port));
            (protocol, from, (address(v6, KINDS[to], n), port_number(port)), LAN)
        }
        Step::Any { v6, from, to } => {
            let end = |(kind, n, port): (usize, u8, u8)| (address(v6, KINDS[kind], n), port_number(port));
            (protocol, end(from), end(to), if to.1 % 2 == 0 { WAN } else { LAN })
        }
        Step::Wait(_) | Step::Server { .. } => return None,
    })
}

fn explain(rig: &mut Rig, question: &Question) -> Explanation {
    match rig.call(Request::Explain(question.clone())).unwrap() {
        Response::Explained(answer) => *answer,
        other => panic!("{other:?}"),
    }
}

/// How often packets have ended in each way, but for having been handed over.
fn endpoints(rig: &Rig) -> BTreeMap<&'static str, u64> {
    let all = rig.counters.iter().flat_map(|c| c.all());
    let verdicts =
        all.filter(|(name, advice, _)| advice.is_some() || matches!(*name, "forwarded" | "punted"));
    let mut ends = BTreeMap::new();
    verdicts.for_each(|(name, _, n)| *ends.entry(name).or_default() += n);
    ends
}

/// What a frame is between: of a tunnel's packet what it carries, and where the tunnel leads.
fn between(frame: &[u8]) -> (Option<IpAddr>, Tuple) {
    fn ip(packet: &[u8]) -> (IpAddr, IpAddr, u8, &[u8]) {
        if packet[0] >> 4 == 4 {
            let at = |n: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[n..n + 4]).unwrap());
            return (at(12), at(16), packet[9], &packet[usize::from(packet[0] & 15) * 4..]);
        }
        let at = |n: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[n..n + 16]).unwrap());
        (at(8), at(24), packet[6], &packet[40..])
    }
    let (mut tunnel, mut packet) = (None, &frame[14..]);
    loop {
        let (from, to, protocol, rest) = ip(packet);
        match protocol {
            4 | 41 => (tunnel, packet) = (Some(to), rest),
            47 => (tunnel, packet) = (Some(to), &rest[if rest[0] & 0x80 == 0 { 4 } else { 8 }..]),
            _ => {
                let port = |n: usize| rest.get(n..n + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
                return (tunnel, ((from, port(0)), (to, port(2))));
            }
        }
    }
}

/// Whether two are the same, but for ports that weren't known.
fn alike(told: &Tuple, seen: &Tuple) -> bool {
    let same = |told: Endpoint, seen: Endpoint| told.0 == seen.0 && (told.1 == 0 || told.1 == seen.1);
    same(told.0, seen.0) && same(told.1, seen.1)
}

fn frame(protocol: Protocol, port: PortId, from: Endpoint, to: Endpoint, opens: bool) -> Vec<u8> {
    let tcp = if opens { Tcp { flags: "S", seq: 1, ack: 0 } } else { Tcp { flags: "A", seq: 2, ack: 2 } };
    match protocol {
        Protocol::Udp => frames::udp(port, from, to, &[]),
        _ => frames::tcp(port, from, to, tcp, &[]),
    }
}

/// Asks, sends, and compares. The explanation and what left.
fn compare(
    rig: &mut Rig,
    (protocol, from, to, port): (Protocol, Endpoint, Endpoint, PortId),
    opens: bool,
) -> Result<(Explanation, Option<Tuple>), TestCaseError> {
    let name = if port == WAN { "wan" } else { "lan" };
    let question = Question { protocol, source: from, destination: to, port: Some(name.into()), opens };
    let told = explain(rig, &question);
    prop_assert_eq!(&told, &explain(rig, &question), "asking changes nothing: {:?}", &question);
    let before = endpoints(rig);
    let worker = usize::from(told.workers[0]);
    let sent = rig.send_to(worker, port, MemoryFrame::new(&frame(protocol, port, from, to, opens)));
    let punted = rig.take_punted();
    let after = endpoints(rig);
    let happened: Vec<&str> =
        after.iter().filter(|(name, n)| before[*name] != **n).map(|(name, _)| *name).collect();
    let expected = match &told.end {
        End::Forwarded => "forwarded",
        End::Punted | End::Delivered => "punted",
        End::Dropped { reason, .. } => reason,
    };
    prop_assert_eq!(&happened, &vec![expected], "{:?}\n{:?}\n{:?}", &question, &told, &sent);
    prop_assert_eq!(punted.len(), usize::from(expected == "punted"));
    let seen = if told.end == End::Forwarded { Some(left(&question, &told, &sent)?) } else { None };
    if let End::Dropped { answer, .. } = &told.end {
        prop_assert_eq!(answer.is_some(), !sent.is_empty(), "{:?}\n{:?}\n{:?}", &question, &told, &sent);
    }
    Ok((told, seen))
}

/// The frame that left, as it was told: by the port, between the endpoints, in the way of the server's method.
fn left(question: &Question, told: &Explanation, sent: &[Sent]) -> Result<Tuple, TestCaseError> {
    let (leaves, way) = (told.leaves.as_ref().expect("ends"), told.way.as_ref().expect("a way"));
    let port = if way.port == "wan" { WAN } else { LAN };
    let frames = sent.iter().filter(|s| s.port == port).map(|s| between(&s.bytes));
    let found = frames.into_iter().find(|(_, seen)| alike(leaves, seen));
    prop_assert!(
        found.is_some(),
        "{:?}\n{:?}\nleft {:?}",
        question,
        told,
        sent.iter().map(|s| (s.port, between(&s.bytes))).collect::<Vec<_>>()
    );
    let (tunnel, seen) = found.unwrap();
    let asked = (question.source, question.destination);
    match told.server {
        Some((server, _, Forwarding::Tunnel(_))) if !told.reply => {
            prop_assert_eq!((tunnel, &seen), (Some(server), &asked));
        }
        Some((_, _, Forwarding::Route)) if !told.reply => prop_assert_eq!((tunnel, &seen), (None, &asked)),
        Some((server, port, method)) if !told.reply => {
            prop_assert_eq!((tunnel, seen.1), (None, (server, port)));
            let kept = seen.0 == asked.0;
            prop_assert_eq!(kept, method == Forwarding::Nat, "{:?}", told);
        }
        _ => prop_assert_eq!(tunnel, None),
    }
    Ok(seen)
}

/// The answer comes as it was told, and goes as it was told.
fn answer(rig: &mut Rig, protocol: Protocol, told: &Explanation, seen: &Tuple) -> Result<(), TestCaseError> {
    let Some(Back::Here(back)) = &told.back else { return Ok(()) };
    let comes = (seen.1, seen.0);
    prop_assert!(alike(&back.comes, &comes), "{:?}, not {:?}", &back.comes, &comes);
    let Some(port) = &back.port else { return Ok(()) };
    let port = if port == "wan" { WAN } else { LAN };
    let (then, _) = compare(rig, (protocol, comes.0, comes.1, port), false)?;
    match (&then.end, &back.refused) {
        (End::Forwarded, None) => {
            prop_assert!(alike(&back.leaves, then.leaves.as_ref().unwrap()), "{:?}\n{:?}", told, then);
            prop_assert_eq!(
                back.way.as_ref().map(|w| (&w.port, w.next_hop)),
                then.way.as_ref().map(|w| (&w.port, w.next_hop))
            );
        }
        (End::Dropped { reason, .. }, Some((refused, _))) => prop_assert_eq!(reason, refused),
        other => prop_assert!(false, "{:?}\n{:?}\n{:?}", other, told, then),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_explained_happens(
        setup in setup(),
        events in prop::collection::vec((step(), (any::<bool>(), any::<bool>(), prop::bool::weighted(0.3))), 1..30),
    ) {
        let mut rig = rig(&setup);
        for (step, (udp, opens, answered)) in &events {
            // Answers have limits of so many a second.
            rig.advance(0.25);
            match step {
                Step::Wait(quarters) => rig.advance(f64::from(*quarters) / 4.0),
                Step::Server { service, n, weight } => change(&mut rig, &setup, (*service, *n), *weight),
                _ => {}
            }
            let Some(packet) = packet(&mut rig, &setup, step, *udp) else { continue };
            let (told, seen) = compare(&mut rig, packet, *opens || matches!(step, Step::Visit { .. }) && *udp)?;
            if let (true, Some(seen)) = (*answered, seen) {
                answer(&mut rig, packet.0, &told, &seen)?;
            }
        }
    }
}

fn change(rig: &mut Rig, setup: &Setup, (service, n): (usize, usize), weight: u32) {
    let Some(of) = setup.services.get(service) else { return };
    let key = key_of(of);
    let Some(&(host, place, method, _, upper)) = of.servers.get(n) else { return };
    let v6 = of.key.1;
    let address = match place {
        0 => address(!v6, Kind::Server, host),
        1 => address(v6, Kind::Odd, 2),
        _ => address(v6, Kind::Server, host),
    };
    let forwarding = METHODS[method];
    let port = if matches!(forwarding, Forwarding::Nat | Forwarding::FullNat) { 8080 } else { 80 };
    let change = match weight {
        2 => Change::DeleteServer { service: key, address, port },
        _ => Change::EditServer {
            service: key,
            server: Server { address, port, forwarding, weight, upper, lower: 0 },
        },
    };
    try_change(rig, change);
}
