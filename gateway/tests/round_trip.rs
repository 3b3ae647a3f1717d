//! Whatever is configured, `weirctl -S | weirctl -R` gives it again.

mod fake;

use std::{ffi::OsString, net::IpAddr};

use fake::FakePlane;
use proptest::prelude::*;
use weir::control::store::Store;
use weirctl::{
    ipvsadm::{Environment, ipvsadm, names::SystemNames},
    model::{
        ClientAddress, Family, Forwarding, LocalAddress, MarkRule, Protocol, Server, Service, ServiceKey,
        Tunnel, TunnelChecksum, TunnelKind,
    },
    modern::fetch::{self, Snapshot},
    protocol::Change,
    snat::{Dependence, Kind, Pooling, SnatRule, SnatTimeouts},
};

fn call(store: &mut Store<FakePlane>, line: &str, stdin: &str) -> String {
    let args: Vec<OsString> =
        ["weirctl"].into_iter().chain(line.split_whitespace()).map(Into::into).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let environment = Environment { names: &SystemNames, own: true };
    let status = ipvsadm(&args, &mut stdin.as_bytes(), store, &mut out, &mut err, &environment);
    assert_eq!((status, String::from_utf8_lossy(&err).as_ref()), (0, ""), "{line}\n{stdin}");
    String::from_utf8(out).unwrap()
}

/// The state with what has no order in an order.
fn state(store: &mut Store<FakePlane>) -> Vec<String> {
    let Snapshot { services, client_addresses, marks, .. } = fetch::snapshot(store).unwrap();
    let mut all: Vec<String> = Vec::new();
    for (row, mut servers) in services {
        servers.sort_by_key(|s| (s.server.address, s.server.port));
        let servers: Vec<&Server> = servers.iter().map(|s| &s.server).collect();
        let told = client_addresses.get(&row.service.key);
        all.push(format!("{:?} {:?} {told:?} {servers:?}", row.service, row.local_addresses));
    }
    all.sort();
    all.extend(marks.iter().map(|rule| format!("{rule:?}")));
    all
}

fn address(v6: bool, net: u8, n: u8) -> IpAddr {
    if v6 { format!("2001:db8:{net}::{n}").parse().unwrap() } else { [10, net, 0, n].into() }
}

fn key() -> impl Strategy<Value = ServiceKey> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    prop_oneof![
        (protocol, any::<bool>(), 1u8..5, 1u16..4).prop_map(|(protocol, v6, n, port)| ServiceKey::Address {
            protocol,
            address: address(v6, 9, n),
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
    let persistent = prop::option::of((1u32..100_000, 1u32..=32));
    (key(), scheduler, 0u8..8, persistent, any::<bool>(), any::<bool>()).prop_map(
        |(key, scheduler, scheduler_flags, persistent, one_packet, sip)| {
            let v6 = key.family() == Family::V6;
            let bits = persistent.map_or(32, |p| p.1);
            let netmask = match v6 {
                true => persistent.map_or(128, |p| p.1 * 4),
                false => u32::MAX << (32 - bits),
            };
            let engine = (sip && persistent.is_some()).then(|| "sip".into());
            let persistent = persistent.map(|p| p.0);
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

/// Service, servers, numbers of local addresses, whether servers are told the client's address.
type AnyService = (Service, Vec<AnyServer>, Vec<(u8, bool)>, bool);

fn add(store: &mut Store<FakePlane>, (service, servers, locals, told): AnyService) {
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
        let local = LocalAddress { address: address(v6, 2, n), interface };
        apply(Change::AddLocalAddress { service: key, local });
    }
    if told {
        apply(Change::SetClientAddress { service: key, how: ClientAddress::Toa });
    }
}

fn mark_rule((mark, priority, n, ports): (u32, u32, u8, Option<(u16, u16)>)) -> MarkRule {
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

fn snat_rule(n: u8, (flags, size, max_ports, max_sessions): ([bool; 4], u8, u32, u32)) -> SnatRule {
    let dependence = |other| {
        if other { Dependence::AddressAndPortDependent } else { Dependence::EndpointIndependent }
    };
    SnatRule {
        name: format!("rule-{n}"),
        inside: ([10, n, 0, 0].into(), 16),
        port: "wan".into(),
        pool: vec![
            ([192, 0, n, 9].into(), [192, 0, n, 9 + size].into()),
            ([192, 0, n, 1].into(), [192, 0, n, 1].into()),
        ],
        protocol: flags[0].then_some(Kind::Icmp),
        except: (0..size % 3).map(|net| ([172, net, 0, 0].into(), 16)).collect(),
        mapping: dependence(flags[1]),
        filtering: dependence(flags[2]),
        pooling: if flags[3] { Pooling::Arbitrary } else { Pooling::Paired },
        max_ports,
        max_sessions,
        timeouts: SnatTimeouts {
            udp: 120 + max_ports,
            dns: u32::from(n) + 1,
            icmp: u32::from(size) + 60,
            ..SnatTimeouts::default()
        },
        masquerade: false,
    }
}

fn snat(store: &mut Store<FakePlane>) -> Vec<SnatRule> {
    fetch::snat(store).unwrap().into_iter().map(|row| row.rule).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn what_is_saved_is_what_there_was(
        services in prop::collection::vec(
            (service(), servers(), prop::collection::vec((1u8..5, any::<bool>()), 0..3), any::<bool>()),
            0..6,
        ),
        marks in prop::collection::vec((1u32.., 0u32..3, 1u8.., prop::option::of(any::<(u16, u16)>())), 0..4),
        outward in prop::collection::vec((any::<[bool; 4]>(), 1u8..9, 1u32..=1024, 0u32..9), 0..3),
    ) {
        let mut first = Store::new(FakePlane::default());
        services.into_iter().for_each(|service| add(&mut first, service));
        for rule in marks.into_iter().map(mark_rule) {
            let _ = first.apply(&Change::AddMark(rule).into());
        }
        for (n, rule) in outward.into_iter().enumerate() {
            first.apply(&Change::AddSnat(snat_rule(n as u8, rule)).into()).unwrap();
        }
        let rules = call(&mut first, "-S -n", "");
        let mut second = Store::new(FakePlane::default());
        prop_assert_eq!(call(&mut second, "-R", &rules), "");
        prop_assert_eq!(snat(&mut second), snat(&mut first), "{}", rules);
        prop_assert_eq!(state(&mut second), state(&mut first), "{}", rules);
    }
}
