//! Whatever is configured, `weirctl -S | weirctl -R` and `weirctl export | weirctl apply` give it again.

mod fake;

use std::{ffi::OsString, net::IpAddr, path::Path};

use fake::FakePlane;
use proptest::prelude::*;
use weir::control::{
    rules::RulesFile,
    store::{ServiceDefaults, Store},
};
use weir_api::{
    ipvsadm::names::SystemNames,
    model::{
        Family, Forwarding, LocalAddress, MarkRule, Masquerade, Protocol, Server, Service, ServiceKey,
        Timeouts, Tunnel, TunnelChecksum, TunnelKind,
        snat::{DEFAULT_PORTS, Dependence, Kind, MAX_PORTS, MAX_TIMEOUT, Pooling, SnatRule, SnatTimeouts},
    },
    protocol::{Change, Refusal},
    rules::{client_address::WAYS, masquerade::MEANINGS},
};
use weirctl::{
    commands::{
        fetch::{self, Snapshot},
        file, file_rules, file_write,
        plan::plan,
    },
    ipvsadm::{Environment, ipvsadm},
};

fn call(store: &mut Store<FakePlane>, line: &str, stdin: &str) -> String {
    let args: Vec<OsString> =
        ["weirctl"].into_iter().chain(line.split_whitespace()).map(Into::into).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let environment = Environment { names: &SystemNames, own: true };
    let status = ipvsadm(&args, &mut stdin.as_bytes(), store, &mut out, &mut err, &environment);
    // Time-outs may be shorter than RFCs like, and services of a mark may have no rule that gives it.
    let expected = [" is shorter than ", "no rule sets mark"];
    let err = String::from_utf8(err).unwrap();
    let complaints: Vec<&str> =
        err.lines().filter(|line| expected.iter().all(|part| !line.contains(part))).collect();
    assert_eq!((status, complaints), (0, vec![]), "{line}\n{stdin}");
    String::from_utf8(out).unwrap()
}

/// The state with what has no order in an order.
fn state(store: &mut Store<FakePlane>) -> Vec<String> {
    let Snapshot { services, client_addresses, masquerade, marks, snat, timeouts, .. } =
        fetch::snapshot(store).unwrap();
    let mut all: Vec<String> = Vec::new();
    for (mut row, mut servers) in services {
        servers.sort_by_key(|s| (s.server.address, s.server.port));
        row.local_addresses.sort_by_key(|local| local.address);
        let servers: Vec<&Server> = servers.iter().map(|s| &s.server).collect();
        let told = client_addresses.get(&row.service.key);
        let means = masquerade.get(&row.service.key);
        all.push(format!("{:?} {:?} {told:?} {means:?} {servers:?}", row.service, row.local_addresses));
    }
    all.sort();
    all.extend(marks.iter().map(|rule| format!("{rule:?}")));
    all.extend(snat.iter().map(|rule| format!("{rule:?}")));
    all.push(format!("{timeouts:?}"));
    all
}

fn export(store: &mut Store<FakePlane>) -> String {
    file_write::write(&fetch::snapshot(store).unwrap()).unwrap().split_once('\n').unwrap().1.into()
}

/// What `weirctl apply` does; how many changes it took, or the refusal.
fn apply(store: &mut Store<FakePlane>, text: &str) -> Result<usize, Refusal> {
    let wanted = file::read(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let now = fetch::snapshot(store).unwrap();
    let plan = plan(&now, &wanted);
    let changes: Vec<Change> = plan.changes.into_iter().map(|(change, _)| change).collect();
    match changes.len() {
        0 => Ok(0),
        n => fetch::apply(store, &changes, Some(now.generation)).unwrap().map(|_| n),
    }
}

fn address(v6: bool, net: u8, n: u8) -> IpAddr {
    if v6 { format!("2001:db8:{net}::{n}").parse().unwrap() } else { [10, net, 0, n].into() }
}

fn key() -> impl Strategy<Value = ServiceKey> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    prop_oneof![
        (protocol, any::<bool>(), 1u8..5, 1u16..4).prop_map(|(protocol, v6, n, port)| ServiceKey::Address {
            protocol,
            address: address(v6, 1, n),
            port,
        }),
        (1u32.., any::<bool>()).prop_map(|(mark, v6)| {
            let family = if v6 { Family::V6 } else { Family::V4 };
            ServiceKey::Mark { mark, family }
        }),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    let scheduler = prop_oneof![Just("rr"), Just("wlc"), Just("sh"), Just("mh"), Just("lblcr")];
    let persistent = prop::option::of(1u32..100_000);
    let bits = prop::option::of(1u32..=32);
    (key(), scheduler, 0u8..8, (persistent, bits), any::<bool>(), any::<bool>()).prop_map(
        |(key, scheduler, scheduler_flags, (persistent, bits), one_packet, sip)| {
            let v6 = key.family() == Family::V6;
            let bits = bits.unwrap_or(32);
            let netmask = if v6 { bits * 4 } else { u32::MAX << (32 - bits) };
            let engine = sip.then(|| "sip".into());
            let connected = matches!(key, ServiceKey::Address { protocol, .. } if protocol != Protocol::Udp);
            let one_packet = one_packet && !connected;
            Service {
                key,
                scheduler: scheduler.into(),
                scheduler_flags,
                persistent,
                netmask,
                one_packet,
                engine,
            }
        },
    )
}

fn forwarding() -> impl Strategy<Value = Forwarding> {
    let checksum =
        prop_oneof![Just(TunnelChecksum::None), Just(TunnelChecksum::Full), Just(TunnelChecksum::Remote)];
    prop_oneof![
        Just(Forwarding::Route),
        Just(Forwarding::Nat),
        Just(Forwarding::FullNat),
        Just(Forwarding::Tunnel(Tunnel { kind: TunnelKind::Ipip, port: 0, checksum: TunnelChecksum::None })),
        any::<bool>().prop_map(|full| Forwarding::Tunnel(Tunnel {
            kind: TunnelKind::Gre,
            port: 0,
            checksum: if full { TunnelChecksum::Full } else { TunnelChecksum::None },
        })),
        (1u16.., checksum).prop_map(|(port, checksum)| Forwarding::Tunnel(Tunnel {
            kind: TunnelKind::Gue,
            port,
            checksum,
        })),
    ]
}

/// Number, port, method, weight, thresholds.
type AnyServer = (u8, u16, Forwarding, u32, u32, u32);

fn servers() -> impl Strategy<Value = Vec<AnyServer>> {
    let most = i32::MAX as u32;
    prop::collection::vec((1u8..9, 1u16..3, forwarding(), 0..=most, 0..=most, 0..=most), 0..5)
}

/// Service, servers, numbers of local addresses, how servers are told the client's address, what `-m` means.
type AnyService = (Service, Vec<AnyServer>, Vec<(u8, bool)>, usize, usize);

fn add(store: &mut Store<FakePlane>, (service, servers, locals, told, means): AnyService) {
    let key = service.key;
    // What can't be, or is there already, is refused, which is fine here.
    let mut apply = |change: Change| store.apply(&change.into()).is_ok();
    if !apply(Change::AddService(service)) {
        return;
    }
    let v6 = key.family() == Family::V6;
    for (n, mut port, forwarding, weight, upper, lower) in servers {
        // Direct routing and tunnels don't map ports.
        if let (Forwarding::Route | Forwarding::Tunnel(_), ServiceKey::Address { port: own, .. }) =
            (forwarding, key)
        {
            port = own;
        }
        let server = Server { address: address(v6, 1, n), port, forwarding, weight, upper, lower };
        apply(Change::AddServer { service: key, server });
    }
    for (n, at_port) in locals {
        let interface = at_port.then(|| "wan".into());
        let local = LocalAddress { address: address(v6, 1, n), interface };
        apply(Change::AddLocalAddress { service: key, local });
    }
    apply(Change::SetClientAddress { service: key, how: WAYS[told].1 });
    apply(Change::SetMasquerade { service: key, how: MEANINGS[means].1 });
}

/// A mark, its priority, what its protocol and network follow from, and its ports.
type AnyMark = (u32, u32, u8, Option<(u16, u16)>);

fn mark_rule((mark, priority, n, ports): AnyMark) -> MarkRule {
    MarkRule {
        mark,
        priority,
        protocol: (n % 2 == 0).then_some(Protocol::Udp),
        source: None,
        destination: Some((address(n % 3 == 0, 9, n), 32)),
        source_ports: None,
        destination_ports: ports.map(|(a, b)| (a.min(b), a.max(b))),
        port: (n % 5 == 0).then(|| "wan".into()),
    }
}

/// Number, flags, size of the pool, limits, time-outs.
type AnySnat = (u8, [bool; 6], u8, (u32, u32), [u32; 5]);

fn any_snat() -> impl Strategy<Value = AnySnat> {
    let limits = (prop_oneof![Just(DEFAULT_PORTS), 1u32..=MAX_PORTS], 0u32..9);
    let seconds = prop_oneof![Just(300u32), 1u32..=MAX_TIMEOUT];
    (
        1u8..6,
        any::<[bool; 6]>(),
        1u8..4,
        limits,
        [seconds.clone(), seconds.clone(), seconds.clone(), seconds.clone(), seconds],
    )
}

fn snat_rule(
    (n, flags, size, (max_ports, max_sessions), [udp, dns, established, transitory, icmp]): AnySnat,
) -> SnatRule {
    let dependence = |other| {
        if other { Dependence::AddressAndPortDependent } else { Dependence::EndpointIndependent }
    };
    let [icmp_only, mapping, filtering, arbitrary, v6, masquerade] = flags;
    let usual = SnatTimeouts::default();
    SnatRule {
        // The second is a word that -R drops elsewhere.
        name: if n == 2 { "ipvsadm".into() } else { format!("rule-{n}") },
        inside: (address(v6, 77, 0), 16 + n),
        port: "wan".into(),
        pool: match masquerade {
            true => Vec::new(),
            false => {
                vec![(address(v6, 1, n), address(v6, 1, n + size)), (address(v6, 2, n), address(v6, 2, n))]
            }
        },
        protocol: icmp_only.then_some(Kind::Icmp),
        except: (0..size % 3).map(|net| (address(v6, 60 + net, 0), 24)).collect(),
        mapping: dependence(mapping),
        filtering: dependence(filtering),
        pooling: if arbitrary { Pooling::Arbitrary } else { Pooling::Paired },
        max_ports,
        max_sessions,
        timeouts: if size == 1 {
            usual
        } else {
            SnatTimeouts { udp, dns, tcp_established: established, tcp_transitory: transitory, icmp }
        },
        masquerade,
    }
}

/// Everything that can be configured.
#[derive(Clone, Debug)]
struct Everything {
    services: Vec<AnyService>,
    marks: Vec<AnyMark>,
    snat: Vec<AnySnat>,
    timeouts: Option<[u32; 3]>,
    /// Whether the gateway's setting is that `-m` is FULLNAT.
    fullnat: bool,
}

/// A store with this setting.
fn empty(fullnat: bool) -> Store<FakePlane> {
    let masquerade = if fullnat { Masquerade::FullNat } else { Masquerade::Nat };
    let defaults = ServiceDefaults { masquerade, ..ServiceDefaults::default() };
    Store::new(FakePlane::default()).with_defaults(defaults)
}

fn everything() -> impl Strategy<Value = Everything> {
    let locals = prop::collection::vec((1u8..9, any::<bool>()), 0..3);
    let services =
        prop::collection::vec((service(), servers(), locals, 0..WAYS.len(), 0..MEANINGS.len()), 0..6);
    let marks = prop::collection::vec((1u32..5, 0u32..3, 1u8.., prop::option::of(any::<(u16, u16)>())), 0..4);
    let timeouts = prop::option::of([1u32..9999, 1u32..9999, 1u32..9999]);
    (services, marks, prop::collection::vec(any_snat(), 0..4), timeouts, any::<bool>()).prop_map(
        |(services, marks, snat, timeouts, fullnat)| Everything { services, marks, snat, timeouts, fullnat },
    )
}

/// A store in which all of it is configured that goes together.
fn store(all: Everything) -> Store<FakePlane> {
    let mut store = empty(all.fullnat);
    all.services.into_iter().for_each(|service| add(&mut store, service));
    let mut changes: Vec<Change> =
        all.marks.into_iter().map(|rule| Change::AddMark(mark_rule(rule))).collect();
    changes.extend(all.snat.into_iter().map(|rule| Change::AddSnat(snat_rule(rule))));
    changes
        .extend(all.timeouts.map(|[tcp, tcp_fin, udp]| Change::SetTimeouts(Timeouts { tcp, tcp_fin, udp })));
    for change in changes {
        let _ = store.apply(&change.into());
    }
    store
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn what_is_saved_is_what_there_was(all in everything()) {
        let fullnat = all.fullnat;
        let mut first = store(all);
        let rules = call(&mut first, "-S -n", "");
        let mut second = empty(fullnat);
        prop_assert_eq!(call(&mut second, "-R", &rules), "");
        prop_assert_eq!(state(&mut second), state(&mut first), "{}", rules);
        let mut other = empty(!fullnat);
        call(&mut other, "-R", &rules);
        // Where `-m` is NAT, so that ipvsadm takes the rules as well, another gateway's `-m` may be FULLNAT.
        let follows = rules.lines().any(|line| line.starts_with("-a ") && line.contains(" -m "));
        if fullnat || !follows {
            prop_assert_eq!(state(&mut other), state(&mut first), "{}", rules);
        }
        // What the gateway loads, and what `apply` makes of the same rules.
        let mut loaded = empty(!fullnat);
        let file = RulesFile::parse(Path::new("rules"), rules.as_bytes()).unwrap();
        prop_assert_eq!(file.apply(&mut loaded).map_err(|e| e.to_string()), Ok(()));
        prop_assert_eq!(state(&mut loaded), state(&mut other), "{}", rules);
        let setting = fetch::masquerade(&mut loaded).unwrap().default;
        let wanted = file_rules::read(&rules, setting).map_err(|e| e.to_string()).unwrap();
        prop_assert_eq!(plan(&fetch::snapshot(&mut loaded).unwrap(), &wanted).changes, vec![], "{}", rules);
    }

    /// Whatever there was before.
    #[test]
    fn what_is_exported_is_what_is_there_once_it_is_applied(all in everything(), other in everything()) {
        let mut first = store(all);
        let text = export(&mut first);
        let mut nothing = empty(other.fullnat);
        prop_assert!(apply(&mut nothing, &text).is_ok());
        prop_assert_eq!(export(&mut nothing), text.clone());
        let mut second = store(other);
        let before = export(&mut second);
        prop_assert_eq!(apply(&mut second, &text).map(drop), Ok(()), "{} onto {}", &text, &before);
        prop_assert_eq!(state(&mut second), state(&mut first), "{} onto {}", &text, &before);
        prop_assert_eq!(apply(&mut second, &text), Ok(0), "once is enough");
        prop_assert_eq!(apply(&mut first, &text), Ok(0), "nothing differs");
    }

    /// Whatever is wrong with it, and however much is right.
    #[test]
    fn a_file_that_is_refused_changes_nothing(all in everything(), other in everything(), wrong in 0..WRONG.len()) {
        let text = export(&mut store(all)).replace("service = []\n", "") + WRONG[wrong];
        let mut second = store(other);
        let (before, generation, told) = (export(&mut second), second.generation(), second.plane().applied);
        prop_assert!(apply(&mut second, &text).is_err(), "{}", &text);
        prop_assert_eq!(export(&mut second), before);
        prop_assert_eq!((second.generation(), second.plane().applied), (generation, told));
    }
}

/// What no gateway takes.
const WRONG: [&str; 4] = [
    "\n[[service]]\nmark = 4000000000\nscheduler = \"none-such\"\n",
    "\n[[service]]\nmark = 4000000000\nlocal_addresses = [\"127.0.0.1\"]\n",
    "\n[[mark]]\nmark = 4000000000\nport = \"none-such\"\n",
    "\n[[service]]\nmark = 4000000000\nlocal_addresses = [\"10.66.0.1\"]\n\
     [[service]]\nprotocol = \"tcp\"\naddress = \"10.66.0.1:80\"\n",
];

/// Files from before SNAT was in them.
#[test]
fn a_file_without_snat_rules_leaves_them_alone() {
    let rule = |n| Change::AddSnat(snat_rule((n, [false; 6], 1, (64, 0), [1; 5])));
    let mut store = Store::new(FakePlane::default());
    for change in [rule(1), rule(3)] {
        store.apply(&change.into()).unwrap();
    }
    let snat = |store: &mut Store<FakePlane>| fetch::snapshot(store).unwrap().snat.len();
    apply(&mut store, "[timeouts]\ntcp = 7\n").unwrap();
    assert_eq!(snat(&mut store), 2);
    apply(&mut store, "snat = []\n").unwrap();
    assert_eq!(snat(&mut store), 0);
}
