//! `apply`, `diff` and `export`.

use proptest::{prelude::*, test_runner::TestRunner};
use weir::control::store::Store;
use weir_api::{
    model::{
        ClientAddress, Family, Forwarding, LocalAddress, Protocol, Server, Service, ServiceKey, Tunnel,
        TunnelChecksum, TunnelKind,
    },
    protocol::{Batch, Change},
};

use crate::{
    fake::FakePlane,
    world::{on, server, service, shop, store, tcp},
};

fn export(store: &mut Store<FakePlane>) -> String {
    let outcome = on(store, "export", "");
    assert_eq!((outcome.status, outcome.err.as_str()), (0, ""));
    outcome.out.split_once('\n').unwrap().1.to_owned()
}

fn assert_same_elsewhere(store: &mut Store<FakePlane>) {
    let file = export(store);
    let mut other = self::store();
    let applied = on(&mut other, "apply -", &file);
    assert_eq!((applied.status, applied.err.as_str()), (0, ""), "{file}");
    assert_eq!(export(&mut other), file);
    assert!(on(&mut other, "diff -", &file).out.starts_with("no difference"));

    // Saved rules are such a file, too.
    let rules = on(store, "save", "").out;
    let same = on(store, "diff -", &rules);
    assert!(same.out.starts_with("no difference"), "{same:?}\n{rules}");
    let mut other = self::store();
    let applied = on(&mut other, "apply -", &rules);
    assert_eq!((applied.status, applied.err.as_str()), (0, ""), "{rules}");
    assert_eq!(on(&mut other, "save", "").out, rules);
}

pub fn an_export_applied_elsewhere_gives_the_same() {
    let mut store = store();
    shop(&mut store);
    let gue = Tunnel { kind: TunnelKind::Gue, port: 6080, checksum: TunnelChecksum::Remote };
    let v6 =
        ServiceKey::Address { protocol: Protocol::Udp, address: "2001:db8::1".parse().unwrap(), port: 0 };
    let mark = ServiceKey::Mark { mark: 7, family: Family::V4 };
    let local = |n, interface: Option<&str>| LocalAddress {
        address: [10, 0, 0, n].into(),
        interface: interface.map(Into::into),
    };
    for change in [
        Change::AddLocalAddress { service: tcp(80), local: local(4, None) },
        Change::AddLocalAddress { service: tcp(80), local: local(5, Some("wan")) },
        Change::AddService(Service { persistent: Some(60), netmask: 64, one_packet: true, ..service(v6) }),
        Change::AddService(Service {
            persistent: Some(60),
            netmask: 0xffff_ff00,
            scheduler: "sh".into(),
            scheduler_flags: 5,
            ..service(mark)
        }),
        Change::AddServer {
            service: mark,
            server: Server { forwarding: Forwarding::Tunnel(gue), upper: 9, lower: 3, ..server(3, 0) },
        },
        Change::SetTimeouts(weir_api::model::Timeouts { tcp: 77, tcp_fin: 0, udp: 88 }),
    ] {
        store.apply(&change.into()).unwrap();
    }
    assert_same_elsewhere(&mut store);
    let json = on(&mut store, "export --json", "").json();
    assert_eq!((json["version"].clone(), json["command"].clone()), (1.into(), "export".into()));
    assert_eq!(json["service"].as_array().unwrap().len(), 3);
}

/// Number, weight, upper threshold, method.
type AnyServer = (u8, u32, u32, Forwarding);
/// Port, persistence, scheduler flags, servers.
type AnyService = (u16, Option<u32>, u8, Vec<AnyServer>);

pub fn any_export_applied_elsewhere_gives_the_same() {
    let method = prop_oneof![
        Just(Forwarding::Route),
        Just(Forwarding::Nat),
        Just(Forwarding::FullNat),
        (0u16..2, 1u16..9).prop_map(|(gue, port)| Forwarding::Tunnel(Tunnel {
            kind: if gue == 1 { TunnelKind::Gue } else { TunnelKind::Gre },
            port: gue * port,
            checksum: TunnelChecksum::Full,
        })),
    ];
    let one = (1u8..6, 0u32..9, 0u32..9, method);
    let servers = prop::collection::vec(one, 0..6);
    let strategy = prop::collection::vec((1u16..9, prop::option::of(1u32..999), 0u8..8, servers), 0..6);
    let run = |services: Vec<AnyService>| {
        let mut store = store();
        for (port, persistent, scheduler_flags, servers) in services {
            let new = Service { persistent, scheduler_flags, ..service(tcp(port)) };
            // What exists already is refused, which is fine here.
            let _ = store.apply(&Change::AddService(new).into());
            if port % 2 == 1 {
                let told = Change::SetClientAddress { service: tcp(port), how: ClientAddress::Toa };
                store.apply(&told.into()).unwrap();
            }
            for (n, weight, upper, forwarding) in servers {
                let mut server = Server { upper, forwarding, ..server(n, weight) };
                if matches!(forwarding, Forwarding::Route | Forwarding::Tunnel(_)) {
                    server.port = port;
                }
                let _ = store.apply(&Change::AddServer { service: tcp(port), server }.into());
            }
        }
        assert_same_elsewhere(&mut store);
        Ok(())
    };
    TestRunner::new(ProptestConfig::with_cases(64)).run(&strategy, run).unwrap();
}

const WANTED: &str = r#"
[[service]]
protocol = "tcp"
address = "192.0.2.10:80"
scheduler = "wlc"
local_addresses = ["10.0.0.4"]

  [[service.server]]
  address = "10.0.0.1:8080"
  method = "fullnat"
  weight = 6

  [[service.server]]
  address = "10.0.0.3:8080"
  method = "nat"

[[service]]
mark = 7
persistent = 360
"#;

pub fn a_difference_is_read_by_people() {
    let mut store = store();
    shop(&mut store);
    store.apply(&Change::AddService(service(tcp(81))).into()).unwrap();
    let generation = store.generation();
    let expected = format!(
        "\
- tcp/192.0.2.10:81  scheduler rr, with 0 servers
~ tcp/192.0.2.10:80  scheduler rr -> wlc
+   10.0.0.4  local address
~   10.0.0.1:8080  weight 5 -> 6
+   10.0.0.3:8080  method nat weight 1
-   10.0.0.2:8080  method fullnat weight 7
+ mark/7  scheduler wlc persistent 360
7 changes to apply to generation {generation}
"
    );
    let shown = on(&mut store, "diff -", WANTED);
    assert_eq!((shown.status, shown.out.as_str()), (0, expected.as_str()));
    assert_eq!(on(&mut store, "diff --exit-code -", WANTED).status, 4);
    let json = on(&mut store, "diff --json -", WANTED).json();
    assert_eq!(json["different"], true);
    assert_eq!(json["changes"][3]["part"], "10.0.0.1:8080");
    assert_eq!(store.generation(), generation, "diff changes nothing");
    let applied = on(&mut store, "apply -", WANTED);
    assert!(
        applied.out.ends_with(&format!("7 changes applied, generation {}\n", generation + 1)),
        "{applied:?}"
    );
    let again = on(&mut store, "apply -", WANTED);
    assert_eq!(again.out, format!("nothing to change, generation {}\n", generation + 1));
    assert_eq!(on(&mut store, "diff --exit-code -", WANTED).status, 0);
}

pub fn apply_is_all_or_nothing_and_says_where() {
    let mut store = store();
    shop(&mut store);
    let before = export(&mut store);
    for (old, new, status, why) in [
        (
            "\"wlc\"",
            "\"wcl\"",
            1,
            "-:2: tcp/192.0.2.10:80: scheduler or persistence engine not found: scheduler \"wcl\": did you mean wlc?; nothing was changed\n",
        ),
        (
            "\"10.0.0.4\"",
            "{ address = \"10.0.0.4\", port = \"wna\" }",
            1,
            "-:2: tcp/192.0.2.10:80: local address 10.0.0.4: no such port",
        ),
        ("\"nat\"", "\"natt\"", 2, "-:15: unknown variant `natt`"),
        ("mark = 7", "mark = 0", 2, "-:17: mark = 0 marks nothing\n"),
    ] {
        let outcome = on(&mut store, "apply -", &WANTED.replace(old, new));
        assert_eq!(outcome.status, status, "{outcome:?}");
        assert!(outcome.err.starts_with(why), "{outcome:?}");
        assert_eq!(export(&mut store), before);
    }
    let missing = on(&mut store, "apply /nonexistent/file", "");
    assert_eq!((missing.status, missing.err.starts_with("/nonexistent/file: ")), (2, true));
}

pub fn generations_guard() {
    let mut store = store();
    shop(&mut store);
    let generation = store.generation();
    let stale = on(&mut store, "apply --expect-generation 1 -", WANTED);
    let message = format!("the configuration has generation {generation}, not 1: nothing was changed\n");
    assert_eq!((stale.status, stale.err), (1, message));
    let json = on(&mut store, &format!("apply --json --expect-generation {generation} -"), WANTED).json();
    assert_eq!((json["changed"].clone(), json["generation"].clone()), (true.into(), (generation + 1).into()));
}

/// A server that stays keeps its number, and with it its sessions and counters.
pub fn what_stays_is_not_touched() {
    let mut store = store();
    shop(&mut store);
    let applied = store.plane().applied;
    let same = on(&mut store, "export", "").out;
    assert_eq!(on(&mut store, "apply -", &same).status, 0);
    assert_eq!(store.plane().applied, applied, "nothing reaches the workers");
}

/// Rules of a file, each with its mark and the rest of its entry.
pub fn an_endless_configuration_is_refused() {
    let refused = on(&mut store(), "apply /dev/zero", "");
    assert_eq!((refused.status, refused.err.as_str()), (2, "/dev/zero: it is longer than 67108864 bytes\n"));
}

fn marks(rules: &[(u32, &str)]) -> String {
    rules.iter().map(|(mark, rest)| format!("[[mark]]\nmark = {mark}\n{rest}\n")).collect()
}

pub fn mark_rules_come_go_and_keep_their_order() {
    let mut store = store();
    let web = "protocol = \"tcp\"\ndestination = \"192.0.2.0/24\"\ndestination_ports = 80";
    let wan = "source_ports = \"1024-65535\"\nport = \"wan\"\npriority = 3";
    let lines = |file: &str, store: &mut Store<FakePlane>| {
        let diff = on(store, "diff -", file).out;
        let applied = on(store, "apply -", file);
        assert_eq!((applied.status, applied.err.as_str()), (0, ""), "{file}");
        assert!(on(store, "diff -", file).out.starts_with("no difference"), "{file}");
        let (lines, _summary) = diff.trim_end().rsplit_once('\n').unwrap();
        lines.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let listed = |store: &mut Store<FakePlane>| on(store, "mark list", "").out;
    let first = lines(&marks(&[(2, wan), (1, web)]), &mut store);
    let expected = [
        "+ mark rule 1  protocol tcp destination 192.0.2.0/24 destination-ports 80",
        "+ mark rule 2  priority 3 source-ports 1024-65535 port wan",
    ];
    assert_eq!(first, expected);
    assert_same_elsewhere(&mut store);
    let more = lines(&marks(&[(1, web), (2, wan), (3, "priority = 3")]), &mut store);
    assert_eq!(more, ["+ mark rule 3  priority 3"]);
    let before = listed(&mut store);
    let changed = lines(&marks(&[(1, web), (3, "priority = 3"), (2, wan)]), &mut store);
    assert_eq!(changed, ["~ mark rules  in another order"]);
    let after = listed(&mut store);
    assert_ne!(before, after);
    let marks_of =
        |list: &str| list.lines().map(|l| l.split(' ').nth(2).unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(marks_of(&after), ["1", "3", "2"]);
    assert_same_elsewhere(&mut store);
    let bad = on(&mut store, "apply -", &marks(&[(1, web), (4, "port = \"wna\"")]));
    assert_eq!((bad.status, listed(&mut store)), (1, after));
    assert!(bad.err.starts_with("-:6: mark rule 4: no such port"), "{bad:?}");
    assert_eq!(lines("", &mut store).len(), 3, "what the file doesn't have goes");
    assert_eq!(listed(&mut store), "");
}

pub fn large_files_are_one_transaction() {
    let mut big = store();
    let services = (1..=100u16).map(|n| Change::AddService(service(tcp(n))));
    big.apply(&Batch { changes: services.collect(), expect_generation: None }).unwrap();
    for port in 1..=100 {
        let one = |n: u8| Change::AddServer { service: tcp(port), server: server(n, 1) };
        big.apply(&Batch { changes: (1..=50).map(one).collect(), expect_generation: None }).unwrap();
    }
    let file = export(&mut big);
    let mut other = store();
    let applied = on(&mut other, "apply --json -", &file);
    assert_eq!(applied.json()["generation"], 1, "one transaction");
    assert_eq!(export(&mut other), file);
}

pub fn rules_are_saved_whole() {
    let folder = std::env::temp_dir().join(format!("weirctl-save-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("rules.save");
    let save =
        |store: &mut Store<FakePlane>, more: &str| on(store, &format!("save {}{more}", file.display()), "");
    let mut store = store();
    shop(&mut store);
    let printed = on(&mut store, "save", "").out;
    assert!(printed.ends_with("\n# end of 3 rules\n"), "{printed}");
    let outcome = save(&mut store, " --json");
    assert_eq!((outcome.status, outcome.err.as_str()), (0, ""));
    assert_eq!(outcome.json()["rules"], 3);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), printed);
    // Nothing isn't saved over something, unless one insists.
    let mut empty = self::store();
    let outcome = save(&mut empty, "");
    assert_eq!(outcome.status, 1);
    assert!(outcome.err.contains("--force"), "{}", outcome.err);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), printed);
    assert_eq!(save(&mut empty, " --force").status, 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "# end of 0 rules\n");
    assert_eq!(save(&mut empty, "").status, 0);
    std::fs::remove_dir_all(&folder).unwrap();
}
