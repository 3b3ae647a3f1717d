//! `status`, `stats`, `sessions`.

use std::time::Duration;

use weir_api::{
    client::{ClientError, Transport},
    model::Timeouts,
    protocol::{Change, Request, Response},
};
use weirctl::commands::Wake;

use crate::{
    rig::{
        LAN, Options, Rig, WAN,
        frames::{self, Tcp, read},
    },
    world::{Script, Shared, VIP, on, run, server, shop, store, tcp},
};

/// How long workers may take that don't answer.
const SHORT: Duration = Duration::from_millis(100);

/// TCP 80 with two servers and so many sessions.
pub fn busy(sessions: u8) -> Rig {
    let mut rig = Rig::with(&Options::default());
    rig.add_service(weir_api::model::Protocol::Tcp, VIP, 80, "rr", true);
    rig.add_server(tcp(80), server(1, 5));
    rig.add_server(tcp(80), server(2, 7));
    for n in 0..sessions {
        let syn = Tcp { flags: "S", seq: 1, ack: 0 };
        rig.send(WAN, &frames::tcp(WAN, ([10, 1, 0, n], 40_000), (VIP, 80), syn, &[]));
    }
    rig
}

pub fn sessions_are_listed_counted_and_ended() {
    let shared = Shared::new(busy(10));
    shared.0.borrow_mut().advance(2.0);
    let listed = shared.run("sessions --client 10.1.0.0/30");
    let lines: Vec<&str> = listed.out.lines().collect();
    assert_eq!(lines.len(), 6, "{}", listed.out);
    assert!(lines[0].starts_with("PROTO  CLIENT"));
    assert!(lines[1].starts_with("tcp    10.1.0."), "{}", lines[1]);
    assert_eq!(lines[5], "4 sessions");
    let json = shared.run("sessions --json --limit 3 --state syn_recv --service 192.0.2.10:80").json();
    assert_eq!((json["count"].clone(), json["sessions"][0]["age_ms"].clone()), (3.into(), 2000.into()));
    assert_eq!(json["total"], 10);
    assert!(shared.run("sessions -n 3").out.ends_with("\n3 of 10 sessions\n"));
    assert!(shared.run("sessions -n 0").out.ends_with("WORKER\n0 of 10 sessions\n"));
    assert_eq!(json["sessions"][0]["virtual"]["port"], 80);
    assert_eq!(
        shared.run("sessions --count=server").out,
        "           5  10.0.0.1:8080\n           5  10.0.0.2:8080\n          10  all\n"
    );
    assert_eq!(shared.run("sessions --count --min-age 1m").out, "           0  all\n");
    let refused = shared.run("sessions --kill");
    assert_eq!((refused.status, shared.0.borrow().session_count()), (2, 10), "{refused:?}");
    assert_eq!(shared.run("sessions --kill --server 10.0.0.1").out, "5 sessions ended\n");
    assert_eq!(shared.run("sessions --kill --all --json").json()["killed"], 5);
    assert_eq!(shared.0.borrow().session_count(), 0);
    let empty = shared.run("sessions --json").json();
    assert_eq!((empty["count"].clone(), empty["sessions"].clone()), (0.into(), serde_json::json!([])));
}

pub fn a_worker_that_does_not_answer_is_named() {
    let mut rig = Rig::with(&Options { workers: 2, patience: SHORT, ..Options::default() });
    rig.add_service(weir_api::model::Protocol::Tcp, VIP, 80, "rr", true);
    rig.hang(0);
    let shared = Shared::new(rig);
    let late = "timed out: worker 0 has not answered for 0.1 s\n";
    for line in [
        "sessions",
        "sessions --kill --all",
        "explain tcp 10.1.0.1:4000 192.0.2.10:80",
        "trace -n 1",
        "log sessions",
    ] {
        let outcome = shared.run(line);
        assert_eq!((outcome.status, outcome.err.as_str()), (1, late), "{line}: {outcome:?}");
    }
    // One that never was is another thing.
    let none = shared.run("sessions --worker 2");
    let gone = "not there: there is no worker 2: the last is 1\n";
    assert_eq!((none.status, none.err.as_str()), (1, gone), "{none:?}");
}

pub fn local_addresses_come_go_and_show_their_use() {
    let shared = Shared::new(busy(10));
    let before = shared.run("local-address list --json").json();
    let local = before["services"][0]["local_addresses"][0].clone();
    assert_eq!((&local["used"], &local["busiest"]), (&10.into(), &5.into()), "{before}");
    let added = shared.run("local-address add tcp/192.0.2.10:80 10.0.0.77 --json").json();
    assert!(added["generation"].is_u64());
    let listed = shared.run("local-address list tcp/192.0.2.10:80").out;
    let row = listed.lines().find(|l| l.contains("10.0.0.77")).unwrap();
    let row: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(row, ["tcp/192.0.2.10:80", "10.0.0.77", "-", "0", "0", "-"], "{listed}");
    let again = shared.run("local-address add tcp/192.0.2.10:80 10.0.0.77");
    assert_eq!((again.status, again.err.contains("local address")), (1, true), "{again:?}");
    assert_eq!(shared.run("local-address delete 192.0.2.10:80 10.0.0.77").status, 0);
    assert_eq!(shared.run("local-address list --json").json(), before);
}

pub fn snat_rules_come_go_and_count() {
    let shared = Shared::new(busy(1));
    let line = "snat add office --inside 10.0.0.0/24 --port wan --pool 192.0.2.100-192.0.2.101";
    assert_eq!(shared.run(line).status, 0);
    assert_eq!(shared.run("snat list").out, format!("{line}\n"));
    let udp = frames::udp(LAN, ([10, 0, 0, 50], 5000), ([10, 1, 0, 9], 53), b"out");
    assert_eq!(shared.0.borrow_mut().send(LAN, &udp).len(), 1);
    let rule = shared.run("snat list --json").json()["rules"][0].clone();
    assert_eq!((&rule["name"], &rule["sessions"]), (&"office".into(), &1.into()), "{rule}");
    assert_eq!((&rule["packets_out"], &rule["packets_in"]), (&1.into(), &0.into()), "{rule}");
    let table = shared.run("snat list --stats").out;
    assert!(
        table.lines().nth(1).unwrap().starts_with("office  10.0.0.0/24  192.0.2.100-192.0.2.101 "),
        "{table}"
    );
    let again = shared.run(line);
    assert_eq!((again.status, again.err.contains("SNAT rule office already exists")), (1, true));
    assert_eq!(shared.run("snat add lab --inside 10.9.0.0/16 --port wan --pool 10.9.0.1").status, 2);
    let text = shared.run("explain udp 10.0.0.51:5000 10.1.0.9:53").out;
    assert!(text.contains("a SNAT rule applies"), "{text}");
    assert_eq!(shared.run("snat delete office --json").json()["command"], "snat");
    assert_eq!(shared.run("snat delete office").status, 1);
    assert_eq!(shared.run("snat list").out, "");
}

/// Two rules of one inside network, of which the first counts.
pub fn snat_rules_of_a_file_keep_their_sessions() {
    let shared = Shared::new(Rig::new());
    let entry = |name: &str, pool: u8, more: &str| {
        format!(
            "[[snat]]\nname = \"{name}\"\ninside = \"10.0.0.0/24\"\nport = \"wan\"\n\
             pool = \"192.0.2.{pool}\"\n{more}\n"
        )
    };
    let apply = |text: &str| run(&mut shared.clone(), &mut shared.pace(), "apply -", text);
    let lines = |text: &str| {
        let outcome = apply(text);
        assert_eq!((outcome.status, outcome.err.as_str()), (0, ""), "{text}");
        outcome.out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (office, lab) = (entry("office", 100, ""), entry("lab", 101, "max_ports = 128"));
    let told = lines(&format!("{office}{lab}"));
    let expected = [
        "+ snat rule office  inside 10.0.0.0/24 port wan pool 192.0.2.100",
        "+ snat rule lab  inside 10.0.0.0/24 port wan pool 192.0.2.101 max-ports 128",
    ];
    assert_eq!(told[..2], expected);
    let send = |port| {
        let udp = frames::udp(LAN, ([10, 0, 0, 50], port), ([10, 1, 0, 9], 99), b"out");
        let sent = shared.0.borrow_mut().send(LAN, &udp);
        read(&sent[0].bytes).udp().0.0
    };
    assert_eq!(send(5000).octets(), [192, 0, 2, 100]);
    let told = lines(&format!("{lab}{office}"));
    assert_eq!(told[0], "~ snat rules  in another order");
    assert_eq!((send(5000), send(5001)), ([192, 0, 2, 100].into(), [192, 0, 2, 101].into()));
    let longer = entry("lab", 101, "timeouts = { udp = 600 }\nexcept = [\"172.16.0.0/12\"]");
    let told = lines(&format!("{longer}{office}"));
    let text = "max-ports 128 -> default, except default -> 172.16.0.0/12, timeout-udp default -> 600";
    assert_eq!(told[0], format!("~ snat rule lab  {text}"));
    assert_eq!(shared.0.borrow().session_count(), 2);
    for (wrong, status, why) in [
        (
            office.replace("100", "100-192.0.2.101"),
            1,
            "-:8: SNAT rule office: invalid operation: 192.0.2.101 is in the pools of SNAT rules lab and office",
        ),
        (
            office.replace("192.0.2.100", "10.0.0.7"),
            2,
            "-:8: 10.0.0.7 of the pool lies in the inside network",
        ),
        (office.replace("\"wan\"", "\"wna\""), 1, "-:8: SNAT rule office: no such port: wna"),
        (office.replace("office", "lab"), 2, "-:8: SNAT rule lab is already in line 1"),
        (office.clone() + "colour = \"blue\"", 2, "-:14: unknown field `colour`"),
        (
            office.clone() + "mapping = \"some\"",
            2,
            "-:8: `some': endpoint-independent or address-and-port-dependent",
        ),
    ] {
        let outcome = apply(&format!("{longer}{wrong}"));
        assert_eq!((outcome.status, outcome.err.starts_with(why)), (status, true), "{outcome:?}");
    }
    let exported = shared.run("export").out;
    assert_eq!(lines(&exported).len(), 1, "{exported}");
    assert!(lines("snat = []\n")[0].starts_with("- snat rule lab  inside 10.0.0.0/24"));
    shared.0.borrow_mut().advance(1.0);
    assert_eq!(shared.0.borrow().session_count(), 0);
    assert!(shared.run("export").out.contains("\nsnat = []\n"));
}

pub fn explain_tells_every_stage() {
    let shared = Shared::new(busy(3));
    let text = shared.run("explain tcp 10.1.0.9:40000 192.0.2.10:80").out;
    for wanted in [
        "arrives on wan",
        "none yet",
        "tcp/192.0.2.10:80",
        "rr: the rotation is at",
        "by fullnat",
        "forwarded",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    let known = shared.run("explain tcp 10.1.0.1:40000 192.0.2.10:80 --ack --json").json();
    assert_eq!((&known["verdict"], &known["session"]["state"]), (&"forwarded".into(), &"SYN_RECV".into()));
    let lost = shared.run("explain tcp 10.1.0.9:40000 192.0.2.10:80 --ack").out;
    assert!(lost.contains("dropped as no-session, answered with a TCP reset. A TCP packet"), "{lost}");
    let wrong = shared.run("explain tcp 10.1.0.9:40000 192.0.2.10:80 --port dmz");
    assert_eq!((wrong.status, wrong.err.contains("no such port: dmz")), (1, true), "{wrong:?}");
    assert_eq!(shared.0.borrow().session_count(), 3, "nothing was opened");
}

pub fn a_trace_is_shown_and_saved_for_tshark() {
    let shared = Shared::new(busy(1));
    let file = std::env::temp_dir().join(format!("weirctl-trace-{}.pcapng", std::process::id()));
    let send = |rig: &mut Rig, flags, n: u8| {
        let tcp = Tcp { flags, seq: 2, ack: 9 };
        rig.send(WAN, &frames::tcp(WAN, ([10, 1, 0, n], 40_000), (VIP, 80), tcp, &[]));
    };
    let mut step = 0;
    let traced =
        shared.run_while(&format!("trace -n 2 --timeout 60s --pcap {}", file.display()), move |rig| {
            step += 1;
            if step == 1 {
                send(rig, "A", 0);
                send(rig, "A", 77);
            }
        });
    assert_eq!(traced.status, 0, "{traced:?}");
    for wanted in
        ["tcp A 10.1.0.0:40000 -> 192.0.2.10:80", "forwarded by lan as", "dropped as no-session", "parse "]
    {
        assert!(traced.out.contains(wanted), "{wanted}\n{}", traced.out);
    }
    let tshark = std::process::Command::new("tshark")
        .args(["-r", file.to_str().unwrap(), "-T", "fields", "-E", "separator=;"])
        .args(["-e", "frame.interface_name", "-e", "ip.dst", "-e", "frame.comment"])
        .output();
    std::fs::remove_file(&file).unwrap();
    let tshark = tshark.expect("tshark");
    let text = String::from_utf8(tshark.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(tshark.status.success(), "{}", String::from_utf8_lossy(&tshark.stderr));
    assert!(lines[0].starts_with("wan;192.0.2.10;weir worker 0: forwarded by lan as"), "{text}");
    assert!(lines[1].starts_with("lan;10.0.0."), "{text}");
    assert!(lines[2].contains("dropped as no-session"), "{text}");
}

pub fn status_tells_all() {
    let shared = Shared::new(busy(4));
    let json = shared.run("status --json").json();
    for key in [
        "weir",
        "generation",
        "uptime_ms",
        "services",
        "servers",
        "ports",
        "workers",
        "local_addresses",
        "warnings",
    ] {
        assert!(json.get(key).is_some(), "{key}");
    }
    assert_eq!((json["services"].clone(), json["servers"].clone()), (1.into(), 2.into()));
    assert_eq!(json["workers"][0]["sessions"], 4);
    let text = shared.run("status").out;
    assert!(text.contains("1 services, 2 servers, 4 of "), "{text}");
}

/// A worker has to poll between two looks, which a machine that is busy gets more than one of.
pub fn ready_is_who_polls() {
    let shared = Shared::new(busy(4));
    let mut pace = shared.pace();
    let polled = run(&mut shared.clone(), &mut pace, "ready", "");
    assert_eq!(polled.out, "ready: 0 ports, 1 worker, 1 service, 2 servers\n");
    assert!(pace.now < std::time::Duration::from_millis(300), "{:?}", pace.now);
    let (mut still, mut pace) = (shared.clone(), Script::default());
    let told = run(&mut still, &mut pace, "ready", "");
    assert_eq!((told.status, told.err.as_str()), (4, "not ready: worker 0 doesn't poll\n"));
    assert_eq!(pace.now, std::time::Duration::from_secs(1));
    let json = run(&mut still, &mut pace, "ready --json", "");
    assert_eq!(json.status, 4);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&json["ready"], &json["reasons"][0]), (&false.into(), &"worker 0 doesn't poll".into()));
}

/// A gateway that doesn't answer any more.
struct Gone;

impl Transport for Gone {
    fn call(&mut self, _: Request) -> Result<Response, ClientError> {
        Err(ClientError::Busy)
    }
}

/// Advice has exit status 1, problems 2, whatever the gateway says of itself; that there is none is a problem.
pub fn doctor_tells_what_why_and_what_mends_it() {
    let shared = Shared::new(busy(4));
    let doctor = "doctor --root /nonexistent";
    let well = shared.run(doctor);
    assert_eq!((well.status, well.out.as_str(), well.err.as_str()), (0, "nothing found\n", ""));
    let timeouts = Change::SetTimeouts(Timeouts { tcp: 60, tcp_fin: 90, udp: 300 });
    shared.0.borrow_mut().store.apply(&timeouts.into()).unwrap();
    let told = shared.run(doctor);
    assert_eq!((told.status, told.err.as_str()), (1, "0 problems, 1 thing to improve\n"));
    assert!(
        told.out.starts_with("advice   timeouts     TCP connections are kept 90 s while"),
        "{}",
        told.out
    );
    assert_eq!(told.out.lines().count(), 2, "{}", told.out);
    let hints = shared.run(&format!("{doctor} --fix-hints")).out;
    assert_eq!(hints.lines().last().map(str::trim), Some("weirctl --set 0 120 0"));

    let gone = run(&mut Gone, &mut Script::default(), doctor, "");
    assert_eq!((gone.status, gone.err.as_str()), (2, "1 problem, 0 things to improve\n"));
    assert!(gone.out.starts_with("problem  gateway "), "{}", gone.out);
}

pub fn stats_tell_why() {
    let mut rig = busy(4);
    let ack = Tcp { flags: "A", seq: 1, ack: 1 };
    rig.send(WAN, &frames::tcp(WAN, ([10, 1, 9, 9], 1), (VIP, 80), ack, &[]));
    rig.advance(5.0);
    let shared = Shared::new(rig);
    let text = shared.run("stats").out;
    let line = text.lines().find(|l| l.starts_with("no-session")).unwrap();
    assert!(line.contains(" 1 ") && line.contains("without a session"), "{line}");
    assert!(text.contains("\ntcp/192.0.2.10:80 ") && text.contains("\n  10.0.0.1:8080 "), "{text}");
    let json = shared.run("stats --json tcp/192.0.2.10:80").json();
    assert_eq!(json["services"][0]["stats"]["connections"], 4);
    let server = &json["services"][0]["servers"][0];
    assert_eq!(server["active"].as_u64().unwrap() + server["inactive"].as_u64().unwrap(), 2);
    let drop = json["drops"].as_array().unwrap().iter().find(|d| d["name"] == "no-session").unwrap();
    assert_eq!(drop["total"], 1);
}

pub fn mistakes_have_their_status() {
    let mut store = store();
    shop(&mut store);
    for (line, status, why) in [
        (
            "stats tcp/192.0.2.10:81",
            1,
            "no such service: tcp/192.0.2.10:81: did you mean tcp/192.0.2.10:80?\n",
        ),
        ("stats 192.0.2.11:80", 1, "no such service: 192.0.2.11:80"),
        ("drain tcp/192.0.2.10:80 10.0.0.9", 1, "tcp/192.0.2.10:80 has no server 10.0.0.9"),
        (
            "drain tcp/192.0.2.10:80 10.0.0.1:808",
            1,
            "tcp/192.0.2.10:80 has no server 10.0.0.1:808: did you mean 10.0.0.1:8080?\n",
        ),
        (
            "undrain tcp/192.0.2.10:80 10.0.0.1",
            1,
            "invalid operation: the server isn't drained: its weight is 5; set one with --weight N\n",
        ),
        ("sessions --stat UDP", 2, "error: unexpected argument '--stat' found"),
        ("top", 2, "top needs a terminal"),
    ] {
        let outcome = on(&mut store, line, "");
        assert_eq!((outcome.status, outcome.out.as_str()), (status, ""), "{line}");
        assert!(outcome.err.starts_with(why), "{line}: {}", outcome.err);
    }
    // Two services of one address: it must be said which.
    let udp = weir_api::model::ServiceKey::Address {
        protocol: weir_api::model::Protocol::Udp,
        address: VIP.into(),
        port: 80,
    };
    store.apply(&Change::AddService(crate::world::service(udp)).into()).unwrap();
    let outcome = on(&mut store, "stats 192.0.2.10:80", "");
    assert_eq!(outcome.status, 2, "{outcome:?}");
}

pub fn a_watch_follows_the_news() {
    let mut store = store();
    shop(&mut store);
    let wakes = [Wake::News, Wake::News, Wake::Time, Wake::Time, Wake::Interrupt];
    let mut pace = Script { wakes: wakes.into(), ..Script::default() };
    let watched = run(&mut store, &mut pace, "stats --watch --json", "");
    assert_eq!(watched.status, 0);
    // At first, after the two pieces of news together, and after a while without.
    assert_eq!(watched.out.lines().count(), 3, "{}", watched.out);
    let mut pace = Script { wakes: [Wake::Gone].into(), ..Script::default() };
    assert_eq!(run(&mut store, &mut pace, "stats --watch", "").status, 3);
}
