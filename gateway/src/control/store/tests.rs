//! The store against a plane that only notes what it is told.

mod service_settings;

use std::{collections::HashMap, net::IpAddr};

use weir_api::{
    model::{Forwarding, LocalAddress, Protocol, Server, Service, ServiceKey, Stats, Timeouts},
    protocol::{Access, Batch, Change, ErrorCode, ListQuery, Request, Response, Row, ServerRow, ServiceRow},
};

use super::Store;
use crate::{
    clock::{Tick, Ticks},
    control::plane::{self, AddressKind, Plane, ServiceState, SlotTotals},
    id::{ServerId, ServiceId, SlotId, SnatRuleId},
};

#[derive(Debug, Default)]
struct Fake {
    told: Vec<plane::PlaneChange>,
    totals: HashMap<SlotId, SlotTotals>,
}

impl Plane for Fake {
    fn apply(&mut self, changes: Vec<plane::PlaneChange>) {
        self.told.extend(changes);
    }
    fn totals(&self, id: SlotId) -> SlotTotals {
        self.totals.get(&id).copied().unwrap_or_default()
    }
    fn address_kind(&self, address: IpAddr) -> AddressKind {
        match address.to_string().as_str() {
            "192.0.2.255" => AddressKind::Broadcast,
            "fe80::1" | "10.0.0.8" => AddressKind::Own,
            "10.0.0.254" => AddressKind::Port,
            "2001:db8::" => AddressKind::RouterAnycast,
            _ => AddressKind::Other,
        }
    }
    fn has_port(&self, name: &str) -> bool {
        name == "wan"
    }
}

const VIP: ServiceKey = ServiceKey::Address {
    protocol: Protocol::Tcp,
    address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10)),
    port: 80,
};

fn service(scheduler: &str) -> Service {
    Service {
        key: VIP,
        scheduler: scheduler.into(),
        scheduler_flags: 0,
        persistent: None,
        netmask: u32::MAX,
        one_packet: false,
        engine: None,
    }
}

fn server(address: &str, weight: u32) -> Server {
    let address = address.parse().unwrap();
    Server { address, port: 80, forwarding: Forwarding::Nat, weight, upper: 0, lower: 0 }
}

fn add(address: &str) -> Change {
    Change::AddServer { service: VIP, server: server(address, 1) }
}

fn delete(address: &str) -> Change {
    Change::DeleteServer { service: VIP, address: address.parse().unwrap(), port: 80 }
}

/// A store with one service and servers 10.0.0.1 (id 0) and 10.0.0.2 (id 1).
fn two_servers() -> Store<Fake> {
    let mut store = Store::new(Fake::default());
    for change in [Change::AddService(service("rr")), add("10.0.0.1"), add("10.0.0.2")] {
        assert_eq!(apply(&mut store, [change]), Ok(()));
    }
    store.plane.told.clear();
    store
}

fn apply(store: &mut Store<Fake>, changes: impl IntoIterator<Item = Change>) -> Result<(), (ErrorCode, u32)> {
    let batch = Batch { changes: changes.into_iter().collect(), expect_generation: None };
    store.apply(&batch).map(drop).map_err(|r| (r.code, r.change.unwrap()))
}

fn rows(store: &mut Store<Fake>, max: u32) -> Vec<Row> {
    let mut all = Vec::new();
    let mut from = None;
    loop {
        let query = ListQuery { service: None, from, max };
        let Response::Rows { rows, next } = store.handle(Request::List(query), Access::ReadOnly) else {
            panic!("no rows")
        };
        assert!(rows.len() <= max as usize);
        all.extend(rows);
        from = next;
        if from.is_none() {
            return all;
        }
    }
}

fn service_rows(store: &mut Store<Fake>) -> Vec<ServiceRow> {
    rows(store, 1000)
        .into_iter()
        .filter_map(|r| if let Row::Service(s) = r { Some(s) } else { None })
        .collect()
}

fn server_rows(store: &mut Store<Fake>) -> Vec<ServerRow> {
    rows(store, 1000)
        .into_iter()
        .filter_map(|r| if let Row::Server(s) = r { Some(s) } else { None })
        .collect()
}

fn last_state(store: &Store<Fake>) -> &ServiceState {
    let Some(plane::PlaneChange::SetService(state)) = store.plane.told.last() else {
        panic!("no service told")
    };
    state
}

#[test]
fn the_plane_sees_the_newest_server_first() {
    let mut store = two_servers();
    apply(&mut store, [add("10.0.0.3")]).unwrap();
    let order: Vec<_> =
        last_state(&store).servers.iter().map(|(id, s)| (id.0, s.address.to_string())).collect();
    assert_eq!(order, [(2, "10.0.0.3".into()), (1, "10.0.0.2".into()), (0, "10.0.0.1".into())]);
}

#[test]
fn refusals_are_the_kernels() {
    let mut store = two_servers();
    let other = ServiceKey::Mark { mark: 9, family: weir_api::model::Family::V4 };
    let with = |f: fn(&mut Server)| {
        let mut s = server("10.0.0.9", 1);
        f(&mut s);
        Change::AddServer { service: VIP, server: s }
    };
    let cases = [
        (Change::AddService(service("nosuch")), ErrorCode::ServiceExists),
        (Change::EditService(service("nosuch")), ErrorCode::UnknownScheduler),
        (Change::EditService(Service { key: other, ..service("rr") }), ErrorCode::NoSuchService),
        (Change::DeleteService(other), ErrorCode::NoSuchService),
        (Change::Zero(Some(other)), ErrorCode::NoSuchService),
        (add("10.0.0.1"), ErrorCode::ServerExists),
        (add("224.0.0.5"), ErrorCode::InvalidOperation),
        (add("192.0.2.255"), ErrorCode::InvalidOperation),
        (with(|s| s.lower = 5), ErrorCode::OutOfRange),
        (with(|s| s.weight = 1 << 31), ErrorCode::OutOfRange),
        (with(|s| s.address = "2001:db8::1".parse().unwrap()), ErrorCode::InvalidOperation),
        (Change::EditServer { service: VIP, server: server("10.0.0.9", 1) }, ErrorCode::NoSuchServer),
        (delete("10.0.0.9"), ErrorCode::NoSuchServer),
        (
            Change::DeleteServer { service: other, address: [10, 0, 0, 1].into(), port: 80 },
            ErrorCode::NoSuchService,
        ),
        (
            Change::AddLocalAddress {
                service: VIP,
                local: LocalAddress { address: [10, 0, 0, 8].into(), interface: Some("lan".into()) },
            },
            ErrorCode::NoSuchPort,
        ),
        (
            Change::DeleteLocalAddress { service: VIP, address: [10, 0, 0, 8].into() },
            ErrorCode::NoSuchLocalAddress,
        ),
    ];
    let generation = store.generation();
    for (change, code) in cases {
        assert_eq!(apply(&mut store, [change.clone()]), Err((code, 0)), "{change:?}");
    }
    assert_eq!(store.generation(), generation);
    assert!(store.plane.told.is_empty(), "the plane hears of no refused change");
}

fn local(address: &str) -> Change {
    let local = LocalAddress { address: address.parse().unwrap(), interface: None };
    Change::AddLocalAddress { service: VIP, local }
}

#[test]
fn a_local_address_has_no_other_use() {
    let mut store = two_servers();
    let rule = "add lan --inside 10.9.0.0/16 --port wan --pool 198.51.100.1-198.51.100.9";
    let rule: Vec<&str> = rule.split(' ').collect();
    apply(&mut store, [weir_api::rules::snat::parse(&rule).unwrap()]).unwrap();
    for (taken, why) in [
        ("192.0.2.10", "virtual service's"),
        ("10.0.0.1", "real server's"),
        ("10.0.0.254", "port's own"),
        ("127.0.0.1", "loopback"),
        ("2001:db8::", "subnet-router anycast"),
        ("198.51.100.5", "SNAT rule lan"),
    ] {
        let batch = Batch { changes: vec![local(taken)], expect_generation: None };
        let refusal = store.apply(&batch).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::InvalidOperation, "{taken}");
        assert!(refusal.detail.contains(why), "{taken}: {}", refusal.detail);
    }
    // One that a twin has without a network was put there to be one.
    apply(&mut store, [local("10.0.0.8")]).unwrap();
    let other = ServiceKey::Address { protocol: Protocol::Udp, address: [10, 0, 0, 8].into(), port: 53 };
    let at_local = Change::AddService(Service { key: other, ..service("rr") });
    assert_eq!(apply(&mut store, [at_local]), Err((ErrorCode::InvalidOperation, 0)));
    assert_eq!(apply(&mut store, [add("10.0.0.8")]), Err((ErrorCode::InvalidOperation, 0)));
    apply(&mut store, [Change::DeleteLocalAddress { service: VIP, address: [10, 0, 0, 8].into() }]).unwrap();
    apply(&mut store, [add("10.0.0.8")]).unwrap();
}

#[test]
fn a_refused_batch_leaves_no_trace() {
    let mut store = two_servers();
    let before = rows(&mut store, 10);
    let batch = [
        add("10.0.0.3"),
        delete("10.0.0.1"),
        Change::EditServer { service: VIP, server: server("10.0.0.2", 9) },
        Change::AddLocalAddress {
            service: VIP,
            local: LocalAddress { address: [10, 0, 0, 8].into(), interface: Some("wan".into()) },
        },
        Change::EditService(service("wlc")),
        Change::Flush,
        Change::AddService(service("sh")),
        add("10.0.0.1"),
        add("10.0.0.7"),
        Change::SetTimeouts(Timeouts { tcp: 1, tcp_fin: 2, udp: 3 }),
        add("10.0.0.7"),
    ];
    assert_eq!(apply(&mut store, batch), Err((ErrorCode::ServerExists, 10)));
    assert_eq!(rows(&mut store, 10), before);
    assert!(store.plane.told.is_empty());
    assert_eq!(store.settings().timeouts.established, 900);
    apply(&mut store, [add("10.0.0.3")]).unwrap();
    assert_eq!(last_state(&store).id, ServiceId(0));
    assert_eq!(last_state(&store).servers[0].0, ServerId(2), "numbers drawn meanwhile are given back");
}

#[test]
fn a_stale_generation_is_refused() {
    let mut store = two_servers();
    let now = store.generation();
    let batch = |expect| Batch { changes: vec![Change::Flush], expect_generation: Some(expect) };
    assert_eq!(store.apply(&batch(now - 1)).unwrap_err().code, ErrorCode::StaleGeneration);
    assert_eq!(store.apply(&batch(now)), Ok(now + 1));
}

#[test]
fn readers_may_not_change_anything() {
    let mut store = two_servers();
    let refused = store.handle(Request::Apply(Change::Flush.into()), Access::ReadOnly);
    assert_eq!(refused, Response::Refused(ErrorCode::ReadOnly.into()));
    assert_eq!(rows(&mut store, 10).len(), 3);
}

#[test]
fn a_deleted_server_comes_back_with_its_number_and_counters() {
    let mut store = two_servers();
    let totals =
        SlotTotals { active: 1, connections: 3, in_packets: 10, in_bytes: 400, ..Default::default() };
    store.plane.totals.insert(SlotId(1), totals);
    store.tick(Tick(0));
    store.tick(Tick(200));
    apply(&mut store, [delete("10.0.0.2")]).unwrap();
    store.tick(Tick(400));
    let expected = Stats { connections: 3, in_packets: 10, in_bytes: 400, ..Stats::default() };
    assert_eq!(service_rows(&mut store)[0].stats, expected, "the service keeps what it counted");
    apply(&mut store, [add("10.0.0.2")]).unwrap();
    assert_eq!(last_state(&store).servers[0].0, ServerId(1));
    store.tick(Tick(600));
    assert_eq!(service_rows(&mut store)[0].stats, expected, "and counts it once");
    let row = &server_rows(&mut store)[0];
    assert_eq!((row.active, row.stats), (1, expected));
}

#[test]
fn a_server_revived_by_another_service_of_the_same_key_counts_from_zero() {
    let mut store = two_servers();
    let totals = SlotTotals { active: 2, connections: 3, ..Default::default() };
    store.plane.totals.insert(SlotId(1), totals);
    store.tick(Tick(0));
    store.tick(Tick(200));
    apply(&mut store, [Change::DeleteService(VIP)]).unwrap();
    apply(&mut store, [Change::AddService(service("rr")), add("10.0.0.2")]).unwrap();
    let state = last_state(&store);
    assert_eq!(state.servers[0].0, ServerId(1));
    assert_ne!(state.id, ServiceId(0), "its old number is in use while the trash names it");
    store.tick(Tick(400));
    let row = &server_rows(&mut store)[0];
    assert_eq!((row.active, row.stats), (2, Stats::default()));
    assert_eq!(service_rows(&mut store)[0].stats, Stats::default());
}

#[test]
fn numbers_are_used_again_once_forgotten() {
    let mut store = two_servers();
    store.plane.totals.insert(SlotId(0), SlotTotals { inactive: 1, ..Default::default() });
    apply(&mut store, [Change::Flush]).unwrap();
    store.plane.told.clear();
    for s in [0, 60, 120] {
        store.tick(Tick::at(Ticks::seconds(s)));
    }
    assert!(store.plane.told.is_empty(), "seen idle at 60 s, for less than two minutes");
    store.tick(Tick::at(Ticks::seconds(180)));
    assert!(
        matches!(store.plane.told[..], [plane::PlaneChange::Forget(SlotId(1))]),
        "{:?}",
        store.plane.told
    );
    store.plane.totals.clear();
    for s in [240, 300, 360] {
        store.tick(Tick::at(Ticks::seconds(s)));
    }
    assert!(matches!(store.plane.told[1..], [plane::PlaneChange::Forget(SlotId(0))]));
    apply(&mut store, [Change::AddService(service("rr")), add("10.0.0.9")]).unwrap();
    assert_eq!((last_state(&store).id, last_state(&store).servers[0].0), (ServiceId(0), ServerId(0)));
}

#[test]
fn a_deleted_snat_rule_s_number_is_used_again_when_its_last_session_has_ended() {
    let mut store = two_servers();
    let parse = |text: &str| weir_api::rules::snat::parse(&text.split(' ').collect::<Vec<_>>()).unwrap();
    let add = |name| parse(&format!("add {name} --inside 10.9.0.0/16 --port wan --pool 198.51.100.1"));
    let number = |store: &Store<Fake>| match store.plane.told.last() {
        Some(plane::PlaneChange::Snat(rules)) => rules[0].0,
        other => panic!("{other:?}"),
    };
    for (active, inactive) in [(1, 0), (0, 1)] {
        apply(&mut store, [add("office")]).unwrap();
        assert_eq!(number(&store), SnatRuleId(2));
        store.plane.totals.insert(SlotId(2), SlotTotals { active, inactive, ..Default::default() });
        apply(&mut store, [parse("delete office")]).unwrap();
        store.plane.told.clear();
        store.tick(Tick(0));
        assert!(store.plane.told.is_empty(), "it has sessions");
        apply(&mut store, [add("other")]).unwrap();
        assert_eq!(number(&store), SnatRuleId(3));
        apply(&mut store, [parse("delete other")]).unwrap();
        store.plane.totals.clear();
        store.plane.told.clear();
        store.tick(Tick(0));
        let [plane::PlaneChange::Forget(a), plane::PlaneChange::Forget(b)] = store.plane.told[..] else {
            panic!("{:?}", store.plane.told)
        };
        assert_eq!((a, b), (SlotId(2), SlotId(3)));
    }
}

#[test]
fn zeroing_a_service_zeroes_its_servers() {
    let mut store = two_servers();
    store.plane.totals.insert(SlotId(0), SlotTotals { connections: 5, ..Default::default() });
    store.tick(Tick(0));
    store.tick(Tick(200));
    assert_eq!(service_rows(&mut store)[0].stats.connections, 5);
    let generation = store.generation();
    apply(&mut store, [Change::Zero(Some(VIP))]).unwrap();
    assert_eq!(store.generation(), generation);
    assert_eq!(service_rows(&mut store)[0].stats.connections, 0);
    assert_eq!(server_rows(&mut store)[1].stats.connections, 0);
    assert_eq!(service_rows(&mut store)[0].rates.connections, 0);
}

#[test]
fn pages_cover_everything_once_at_any_size() {
    let mut store = two_servers();
    for port in 81..90 {
        let key = ServiceKey::Address { protocol: Protocol::Udp, address: [192, 0, 2, 10].into(), port };
        let mut changes = vec![Change::AddService(Service { key, ..service("wlc") })];
        let servers = (1..port - 80).map(|n| server(&format!("10.0.0.{n}"), 1));
        changes.extend(servers.map(|server| Change::AddServer { service: key, server }));
        apply(&mut store, changes).unwrap();
    }
    let whole = rows(&mut store, 1000);
    assert_eq!(whole.len(), 10 + 2 + 36);
    for size in [1, 2, 3, 7, 47] {
        assert_eq!(rows(&mut store, size), whole, "pages of {size}");
    }
}

#[test]
fn timeouts_of_zero_are_kept() {
    let mut store = two_servers();
    apply(&mut store, [Change::SetTimeouts(Timeouts { tcp: 0, tcp_fin: 50, udp: 0 })]).unwrap();
    let answer = store.handle(Request::Timeouts, Access::ReadOnly);
    assert_eq!(answer, Response::Timeouts(Timeouts { tcp: 900, tcp_fin: 50, udp: 300 }));
    assert!(matches!(store.plane.told[..], [plane::PlaneChange::Settings(_)]));
}

#[test]
fn pages_fit_into_frames_however_many_local_addresses_there_are() {
    let mut store = Store::new(Fake::default());
    for port in 1..=40 {
        let key = ServiceKey::Address { protocol: Protocol::Udp, address: [192, 0, 2, 10].into(), port };
        let locals = (0..1000u16).map(|n| Change::AddLocalAddress {
            service: key,
            local: LocalAddress {
                address: std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xffff, n).into(),
                interface: Some("wan".into()),
            },
        });
        let service = Change::AddService(Service { key, ..service("wlc") });
        apply(&mut store, std::iter::once(service).chain(locals)).unwrap();
    }
    let mut from = None;
    let mut services = 0;
    loop {
        let query = ListQuery { service: None, from, max: u32::MAX };
        let response = store.handle(Request::List(query), Access::ReadOnly);
        assert!(weir_api::protocol::frame::encode(&response).is_ok());
        let Response::Rows { rows, next } = response else { panic!("no rows") };
        services += rows.len();
        from = next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(services, 40);
}

fn rule(mark: u32, priority: u32) -> weir_api::model::MarkRule {
    weir_api::model::MarkRule {
        mark,
        priority,
        protocol: None,
        source: None,
        destination: None,
        source_ports: None,
        destination_ports: None,
        port: None,
    }
}

#[test]
fn mark_rules_keep_their_order_and_go_out_whole() {
    let mut store = Store::new(Fake::default());
    let apply = |store: &mut Store<Fake>, changes: Vec<Change>| {
        store.apply(&Batch { changes, expect_generation: None }).map(drop)
    };
    let add = |mark, priority| Change::AddMark(rule(mark, priority));
    apply(&mut store, vec![add(1, 5), add(2, 0), add(3, 5), add(4, 1)]).unwrap();
    let listed = |store: &mut Store<Fake>| match store.handle(Request::Marks, Access::ReadOnly) {
        Response::Marks(rules) => rules.into_iter().map(|r| r.mark).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(listed(&mut store), [2, 4, 1, 3]);
    let told = store.plane().told.iter().rev().find_map(|c| match c {
        plane::PlaneChange::Marks(rules) => Some(rules.iter().map(|r| r.mark).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(told, Some(vec![2, 4, 1, 3]));
    for refused in [
        vec![Change::DeleteMark(rule(2, 0)), add(1, 5)],
        vec![Change::ClearMarks, add(0, 0)],
        vec![Change::DeleteMark(rule(2, 1))],
        vec![Change::AddMark(weir_api::model::MarkRule { port: Some("dmz".into()), ..rule(9, 0) })],
    ] {
        assert!(apply(&mut store, refused).is_err());
        assert_eq!(listed(&mut store), [2, 4, 1, 3], "nothing has changed");
    }
    apply(&mut store, vec![Change::DeleteMark(rule(4, 1)), Change::Flush]).unwrap();
    assert_eq!(listed(&mut store), [2, 1, 3], "-C leaves them alone, as it does netfilter's");
    apply(&mut store, vec![Change::ClearMarks]).unwrap();
    assert!(listed(&mut store).is_empty());
}

#[test]
fn concurrent_changes_are_sent_together_and_answered_one_by_one() {
    let mut store = two_servers();
    let generation = store.generation();
    let requests = [add("10.0.0.3"), add("10.0.0.1"), add("10.0.0.4"), delete("10.0.0.3")];
    let mut requests: Vec<Request> = requests.map(|change| Request::Apply(change.into())).into();
    // A batch that fails at its end takes back its own beginning and nothing of the batches before it.
    let changes = vec![Change::DeleteService(VIP), Change::AddService(service("nonsense"))];
    requests.push(Request::Apply(Batch { changes, expect_generation: None }));
    let timeouts = Change::SetTimeouts(Timeouts { tcp: 77, tcp_fin: 0, udp: 0 });
    let changes = vec![timeouts, delete("10.0.0.9")];
    requests.push(Request::Apply(Batch { changes, expect_generation: Some(generation + 3) }));
    let answers = store.handle_all(requests, Access::ReadWrite);
    let code = |answer: &Response| match answer {
        Response::Refused(refusal) => Err(refusal.code),
        Response::Done { generation: now } => Ok(now - generation),
        other => panic!("{other:?}"),
    };
    let codes: Vec<_> = answers.iter().map(code).collect();
    let (exists, unknown) = (ErrorCode::ServerExists, ErrorCode::NoSuchServer);
    assert_eq!(codes[..4], [Ok(1), Err(exists), Ok(2), Ok(3)]);
    assert!(codes[4].is_err());
    assert_eq!(codes[5], Err(unknown));
    let [plane::PlaneChange::SetService(state)] = &store.plane.told[..] else {
        panic!("{:?}", store.plane.told)
    };
    let places: Vec<String> = state.servers.iter().map(|(_, s)| s.address.to_string()).collect();
    assert_eq!(places, ["10.0.0.4", "10.0.0.2", "10.0.0.1"]);
    assert_ne!(store.settings().timeouts.established, 77);
}

#[test]
fn a_question_among_changes_sees_those_before_it() {
    let mut store = two_servers();
    let list = Request::List(ListQuery { service: None, from: None, max: 100 });
    let requests = vec![
        Request::Apply(add("10.0.0.3").into()),
        list.clone(),
        Request::Apply(Change::Flush.into()),
        list,
    ];
    let answers = store.handle_all(requests, Access::ReadWrite);
    let rows = |answer: &Response| match answer {
        Response::Rows { rows, .. } => rows.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!((rows(&answers[1]), rows(&answers[3])), (4, 0));
}

/// Beside batches that are accepted, one that is refused at its end is as if it had never been.
#[test]
fn a_refused_batch_among_others_leaves_no_trace() {
    let udp = ServiceKey::Address { protocol: Protocol::Udp, address: [192, 0, 2, 10].into(), port: 53 };
    let snat = |name: &str, inside: &str| {
        let rule = format!("add {name} --inside {inside} --port wan --pool 198.51.100.{}", name.len());
        weir_api::rules::snat::parse(&rule.split(' ').collect::<Vec<_>>()).unwrap()
    };
    let of_udp = |address: &str| Change::AddServer { service: udp, server: server(address, 1) };
    let before = vec![add("10.0.0.3"), snat("one", "10.8.0.0/16"), Change::AddMark(rule(7, 1))];
    let refused = vec![
        Change::AddService(Service { key: udp, ..service("rr") }),
        of_udp("10.0.0.9"),
        add("10.0.0.4"),
        delete("10.0.0.2"),
        local("10.0.0.77"),
        Change::AddMark(rule(8, 2)),
        snat("second", "10.9.0.0/16"),
        Change::Zero(Some(VIP)),
        delete("10.0.0.99"),
    ];
    // It uses again what the refused one drew, and begins what that one began.
    let after = vec![
        add("10.0.0.5"),
        Change::AddService(Service { key: udp, ..service("wlc") }),
        of_udp("10.0.0.9"),
        of_udp("10.0.0.77"),
        snat("second", "10.7.0.0/16"),
    ];
    let run = |batches: &[&Vec<Change>]| {
        let mut store = two_servers();
        let batch = |&changes: &&Vec<Change>| {
            Request::Apply(Batch { changes: changes.clone(), expect_generation: None })
        };
        let answers = store.handle_all(batches.iter().map(batch).collect(), Access::ReadWrite);
        let refused: Vec<_> = answers.into_iter().filter(|a| matches!(a, Response::Refused(_))).collect();
        let told = format!("{:#?}", store.plane.told);
        (
            refused,
            store.generation(),
            told,
            rows(&mut store, 100),
            store.handle(Request::Marks, Access::ReadOnly),
        )
    };
    for batches in
        [&[&before, &refused, &after][..], &[&refused, &before, &after], &[&before, &after, &refused]]
    {
        let without: Vec<_> = batches.iter().copied().filter(|b| !std::ptr::eq(*b, &refused)).collect();
        let (with, without) = (run(batches), run(&without));
        assert_eq!((with.0.len(), without.0.len()), (1, 0), "{:?} {:?}", with.0, without.0);
        assert_eq!((with.1, &with.2, &with.3), (without.1, &without.2, &without.3));
        assert_eq!(format!("{:?}", with.4), format!("{:?}", without.4));
    }
    let (_, generation, told, ..) = run(&[&refused]);
    assert_eq!((generation, &told[..]), (two_servers().generation(), "[]"));
}
