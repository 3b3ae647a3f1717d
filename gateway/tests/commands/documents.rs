//! What `--json` prints is what `docs/json.schema.json` says, and that is what the documents' types say.
//! `WEIR_WRITE_SCHEMA=1` writes it anew.

use std::{collections::BTreeSet, fs, path::Path};

use clap::CommandFactory;
use serde_json::{Value, json};
use weir_api::{
    client::Transport,
    documents::{self, Body, Document, log::Log},
    model::{Forwarding, Server, SessionFilter, Tunnel, TunnelChecksum, TunnelKind},
    protocol::{Change, Request},
};
use weirctl::commands::{Wake, cli::Cli};

use crate::{
    questions::busy,
    rig::{
        LAN, Rig, WAN,
        frames::{self, Tcp},
    },
    world::{Outcome, Script, Shared, VIP, run, server, tcp},
};

pub fn the_schema_is_not_stale() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.schema.json");
    let schema = serde_json::to_string_pretty(&documents::schema()).unwrap() + "\n";
    if std::env::var_os("WEIR_WRITE_SCHEMA").is_some() {
        fs::write(&file, &schema).unwrap();
    }
    let there = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        there == schema,
        "docs/json.schema.json is stale: run this test with WEIR_WRITE_SCHEMA=1 and commit it"
    );
}

/// The schema, and which commands have printed what it allows.
struct Checker {
    schema: jsonschema::Validator,
    seen: BTreeSet<String>,
    /// What was wrong.
    complaints: Vec<String>,
}

impl Checker {
    fn new() -> Self {
        let schema = serde_json::to_value(documents::schema()).unwrap();
        Self {
            schema: jsonschema::draft202012::new(&schema).unwrap(),
            seen: BTreeSet::new(),
            complaints: vec![],
        }
    }

    fn wrong(&self, document: &Value) -> Vec<String> {
        self.schema.iter_errors(document).map(|e| format!("{}: {e}", e.instance_path())).collect()
    }

    /// Each line that a command has printed.
    fn check(&mut self, line: &str, outcome: &Outcome) -> Vec<Value> {
        let parsed = outcome.out.lines().map(|text| serde_json::from_str(text).unwrap());
        let documents: Vec<Value> = parsed.collect();
        if documents.is_empty() {
            self.complaints.push(format!("{line}: {outcome:?}"));
        }
        for document in &documents {
            let wrong = self.wrong(document);
            // The types have every key.
            let again = serde_json::from_value::<Document>(document.clone())
                .map(|d| serde_json::to_value(&d).unwrap());
            let same = again.as_ref().is_ok_and(|again| again == document);
            if !wrong.is_empty() || !same || document["command"] != *line.split(' ').next().unwrap() {
                self.complaints.push(format!("{line}: {wrong:?} in {document}, typed {again:?}"));
            }
        }
        self.seen.insert(line.to_owned());
        documents
    }
}

/// The commands that take `--json`, by their words.
fn commands(of: &clap::Command, words: &str) -> BTreeSet<String> {
    let inner = of.get_subcommands().filter(|c| c.get_name() != "help");
    let inner: BTreeSet<String> =
        inner.flat_map(|c| commands(c, format!("{words} {}", c.get_name()).trim())).collect();
    if inner.is_empty() && of.get_arguments().any(|arg| arg.get_id() == "json") {
        return [words.to_owned()].into();
    }
    inner
}

/// Beside the service of [`busy`]: one of a mark with a tunnel, one without servers, rules of every kind.
fn configured() -> Shared {
    let shared = Shared::new(busy(3));
    let (mut silent, mut marked) = (crate::world::service(tcp(81)), crate::world::service(tcp(82)));
    marked.key = weir_api::model::ServiceKey::Mark { mark: 7, family: weir_api::model::Family::V4 };
    (marked.persistent, marked.scheduler, marked.scheduler_flags) = (Some(300), "sh".into(), 3);
    (marked.netmask, silent.engine) = (0xffff_ff00, None);
    let gue = Tunnel { kind: TunnelKind::Gue, port: 6080, checksum: TunnelChecksum::Remote };
    let through = Server { forwarding: Forwarding::Tunnel(gue), port: 0, ..server(1, 3) };
    let key = marked.key;
    let changes = [
        Change::AddService(silent),
        Change::AddService(marked),
        Change::AddServer { service: key, server: through },
    ];
    for change in changes {
        shared.0.borrow_mut().store.apply(&change.into()).unwrap();
    }
    shared.0.borrow_mut().advance(2.0);
    shared
}

/// Nothing is said of a command that can't be checked: every one that takes `--json` is run here.
const LINES: [&str; 43] = [
    "ready",
    "doctor --root /nonexistent",
    "status",
    "events",
    "events --from 1 --limit 1",
    "stats",
    "stats tcp/192.0.2.10:80",
    "sessions",
    "sessions --count=server",
    "sessions --limit 0",
    "top",
    "mark add 7 --priority 3 --protocol udp --source 10.1.0.0/16 --destination-ports 53-54 --port wan",
    "mark add 9",
    "mark list",
    "mark delete 9",
    "client-address tcp/192.0.2.10:80 toa",
    "client-address",
    "masquerade tcp/192.0.2.10:80 fullnat",
    "masquerade",
    "local-address add tcp/192.0.2.10:80 10.0.0.77 --port wan",
    "local-address list",
    "local-address delete tcp/192.0.2.10:80 10.0.0.77",
    "snat add office --inside 10.8.0.0/16 --port wan --pool 192.0.2.100-192.0.2.101 --timeout-udp 600",
    "snat add home --inside 10.9.0.0/16 --port wan --pool port --protocol tcp --except 172.16.0.0/12",
    "snat edit office --max-ports 128",
    "snat list",
    "export",
    "save /dev/null",
    "explain tcp 10.1.0.9:40000 192.0.2.10:80",
    "explain tcp 10.1.0.1:40000 192.0.2.10:80 --ack",
    "explain tcp 10.1.0.9:40000 192.0.2.10:81",
    "explain udp 10.1.0.9:40000 192.0.2.10:53",
    "explain udp 10.8.0.9:40000 10.1.0.9:53 --port lan",
    "explain tcp 10.1.0.9:40000 198.51.100.1:80",
    "snat delete home",
    "snat clear",
    "mark clear",
    "drain tcp/192.0.2.10:80 10.0.0.1:8080 --timeout 3s",
    "undrain tcp/192.0.2.10:80 10.0.0.1:8080 --weight 5",
    "sessions --kill --all",
    "completion zsh",
    "diff -",
    "apply -",
];

pub fn every_command_prints_what_the_schema_says() {
    let (shared, mut checker) = (configured(), Checker::new());
    let file = shared.run("export").out.replace("10.0.0.1:8080", "10.0.0.9:8080");
    for line in LINES {
        let outcome = run(&mut shared.clone(), &mut shared.pace(), &format!("{line} --json"), &file);
        checker.check(line, &outcome);
    }
    watched(&shared, &mut checker);
    traced(&shared, &mut checker);
    logged(&shared, &mut checker);
    assert_eq!(checker.complaints, [""; 0]);
    let unchecked: Vec<String> = commands(&Cli::command(), "")
        .into_iter()
        .filter(|command| {
            !checker.seen.iter().any(|line| format!("{line} ").starts_with(&format!("{command} ")))
        })
        .collect();
    assert_eq!(unchecked, [""; 0], "commands with --json that this test doesn't run");
}

/// `stats --watch` has keys of its own.
fn watched(shared: &Shared, checker: &mut Checker) {
    let mut pace = Script { wakes: [Wake::Time, Wake::Interrupt].into(), ..shared.pace() };
    let outcome = run(&mut shared.clone(), &mut pace, "stats --watch --json", "");
    let documents = checker.check("stats --watch", &outcome);
    assert_eq!(documents[0]["interval_ms"], Value::Null);
    assert_eq!(documents[0].get("counters").and_then(|c| c[0].get("rate")), Some(&Value::Null));
    assert!(documents[1]["interval_ms"].is_u64() && documents[1]["drops"][0]["rate"].is_u64());
}

fn traced(shared: &Shared, checker: &mut Checker) {
    let mut sent = false;
    let outcome = shared.run_while("trace -n 3 --timeout 60s --json", move |rig: &mut Rig| {
        if !std::mem::replace(&mut sent, true) {
            for (flags, n) in [("S", 40), ("A", 77)] {
                let tcp = Tcp { flags, seq: 2, ack: 9 };
                rig.send(WAN, &frames::tcp(WAN, ([10, 1, 0, n], 40_000), (VIP, 80), tcp, &[]));
            }
            rig.send(WAN, &frames::udp(WAN, ([10, 1, 0, 3], 40_000), (VIP, 53), b"?"));
        }
    });
    let documents = checker.check("trace", &outcome);
    assert_eq!(documents.len(), 3, "{documents:?}");
}

/// Sessions of a service and of SNAT are opened and closed, and records are lost.
fn logged(shared: &Shared, checker: &mut Checker) {
    let office = "snat add office --inside 10.0.0.0/24 --port wan --pool 192.0.2.100";
    assert_eq!(shared.run(office).status, 0);
    let mut step = 0;
    let outcome = shared.run_while("log sessions -n 4 --timeout 60s --json", move |rig: &mut Rig| {
        step += 1;
        match step {
            1 => {
                let tcp = Tcp { flags: "S", seq: 2, ack: 9 };
                rig.send(WAN, &frames::tcp(WAN, ([10, 1, 0, 41], 40_000), (VIP, 80), tcp, &[]));
                rig.send(LAN, &frames::udp(LAN, ([10, 0, 0, 50], 5000), ([10, 1, 0, 9], 53), b"?"));
            }
            2 => {
                let all = Request::KillSessions { filter: SessionFilter::default(), from: None };
                rig.call(all).unwrap();
            }
            _ => {}
        }
    });
    let documents = checker.check("log sessions", &outcome);
    let said = |n: usize, key: &str| documents[n][key].as_str().unwrap_or_default().to_owned();
    let events: Vec<_> = (0..documents.len()).map(|n| said(n, "event")).collect();
    assert_eq!(events, ["opened", "opened", "closed", "closed"], "{documents:?}");
    assert_eq!([said(0, "method"), said(1, "method"), said(1, "rule")], ["fullnat", "snat", "office"]);
    assert_eq!(
        (&documents[1]["virtual"], &documents[1]["external"]["address"]),
        (&Value::Null, &json!("192.0.2.100"))
    );
    let lost = serde_json::to_value(Document::from(Body::Log(Log::Lost { count: 7 }))).unwrap();
    assert_eq!(checker.wrong(&lost), [""; 0]);
    assert_eq!(lost, json!({ "version": 1, "command": "log", "event": "lost", "count": 7 }));
}

pub fn the_schema_refuses_what_is_wrong() {
    let checker = Checker::new();
    let good = json!({ "version": 1, "command": "undrain", "service": "mark/7", "server": "10.0.0.1:80", "weight": 5 });
    assert_eq!(checker.wrong(&good), [""; 0]);
    let with = |key: &str, value: Value| {
        let mut document = good.clone();
        document[key] = value;
        document
    };
    assert_eq!(checker.wrong(&with("news", json!("may come any time"))), [""; 0]);
    let mut without = good.clone();
    without.as_object_mut().unwrap().remove("weight");
    for bad in
        [with("command", "redrain".into()), with("weight", "5".into()), with("version", Value::Null), without]
    {
        assert!(!checker.wrong(&bad).is_empty(), "{bad}");
    }
}
