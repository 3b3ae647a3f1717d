//! Hostile input: frames, command lines and files from a fuzzer's bytes.
//!
//! Every run tries other inputs; a failure prints its seed (`BOLERO_RANDOM_SEED` tries it again). How long is
//! `WEIR_FUZZ_SECONDS` a target, 1 by default; CI takes a minute. `cargo bolero test -p weir TARGET` puts
//! libFuzzer or AFL behind the same targets.

mod fake;

use std::{ffi::OsString, sync::OnceLock, time::Duration};

use bolero::check;
use fake::FakePlane;
use weir::control::store::Store;
use weir_api::{
    ipvsadm::names::SystemNames,
    model::{Network, Protocol, Service, ServiceKey, SessionFilter, Timeouts},
    protocol::{Access, Batch, Change, ListQuery, Request, Response, SessionCursor, frame},
};
use weirctl::{
    commands::file,
    ipvsadm::{Environment, ipvsadm},
};

fn time() -> Duration {
    let seconds = std::env::var("WEIR_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1))
}

/// Frame bodies from which mutations begin.
fn bodies() -> &'static [Vec<u8>] {
    static BODIES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    BODIES.get_or_init(|| {
        let key = ServiceKey::Address { protocol: Protocol::Tcp, address: [192, 0, 2, 10].into(), port: 80 };
        let service = Service {
            key,
            scheduler: "wlc".into(),
            scheduler_flags: 0,
            persistent: Some(60),
            netmask: u32::MAX,
            one_packet: false,
            engine: Some("sip".into()),
        };
        let changes = vec![
            Change::AddService(service),
            Change::DeleteServer { service: key, address: [10, 0, 0, 1].into(), port: 80 },
            Change::SetTimeouts(Timeouts { tcp: 1, tcp_fin: 2, udp: 3 }),
            Change::Zero(Some(key)),
        ];
        let client = Some(Network { address: [10, 1, 0, 0].into(), bits: 16 });
        let filter = SessionFilter { client, ..SessionFilter::default() };
        let requests = [
            Request::Info,
            Request::Apply(Batch { changes: changes.clone(), expect_generation: Some(1) }),
            Request::Stage(changes),
            Request::List(ListQuery { service: Some(key), from: None, max: 100 }),
            Request::FindSessions { filter, from: Some(SessionCursor::default()), max: 10 },
            Request::Traced { trace: 7 },
        ];
        requests.iter().map(|request| frame::encode(request).unwrap()[4..].to_vec()).collect()
    })
}

/// A body of [`bodies`], with bytes replaced, put in or taken out.
fn mutated(which: u8, edits: &[(u8, u8, u8)]) -> Vec<u8> {
    let bodies = bodies();
    let mut body = bodies[usize::from(which) % bodies.len()].clone();
    for &(at, how, byte) in edits {
        let at = usize::from(at) % (body.len() + 1);
        match how % 3 {
            0 if at < body.len() => body[at] = byte,
            1 if at < body.len() => drop(body.remove(at)),
            _ => body.insert(at, byte),
        }
    }
    body
}

/// What a peer's frame may do: be refused as malformed, or be answered by something that can be sent.
fn answered(body: &[u8]) {
    let Ok(request) = frame::decode::<Request>(body) else { return };
    let again = frame::encode(&request).unwrap();
    assert_eq!(frame::decode::<Request>(&again[4..]).unwrap(), request, "{body:02x?}");
    let refused = request.check().is_err();
    let mut store = Store::new(FakePlane::default());
    let response = store.handle(request, Access::ReadWrite);
    assert!(!refused || matches!(response, Response::Refused(_)), "{body:02x?}");
    frame::encode(&response).unwrap();
}

#[test]
fn frames() {
    check!().with_test_time(time()).with_type::<Vec<u8>>().for_each(|body| {
        answered(body);
        let _ = frame::decode::<Response>(body);
        let _ = frame::receive::<Request>(&mut body.as_slice());
    });
}

#[test]
fn mutated_frames() {
    check!()
        .with_test_time(time())
        .with_type::<(u8, Vec<(u8, u8, u8)>)>()
        .for_each(|(which, edits)| answered(&mutated(*which, edits)));
}

const WORDS: &[&str] = &[
    "-A",
    "-E",
    "-D",
    "-a",
    "-e",
    "-d",
    "-C",
    "-L",
    "-S",
    "-Z",
    "-P",
    "-Q",
    "-G",
    "--set",
    "-h",
    "-v",
    "-t",
    "-u",
    "-f",
    "-6",
    "--sctp-service",
    "-r",
    "-s",
    "-p",
    "-M",
    "-w",
    "-x",
    "-y",
    "-g",
    "-i",
    "-m",
    "-b",
    "--fullnat",
    "-z",
    "-F",
    "-n",
    "-c",
    "-o",
    "--pe",
    "--tun-type",
    "--tun-port",
    "--tun-csum",
    "--stats",
    "--rate",
    "--exact",
    "--start-daemon",
    "--stop-daemon",
    "-j",
    "-V",
    "-H",
    "-J",
    "--",
    "-",
    "ipvsadm",
    "mark",
    "add",
    "delete",
    "clear",
    "client-address",
    "masquerade",
    "fullnat",
    "--nat",
    "toa",
    "none",
    "#",
    "ops",
    "pe",
    "wlc",
    "rr",
    "sh",
    "mh",
    "conhash",
    "sip",
    "gue",
    "gre",
    "ipip",
    "flag-1,flag-3",
    "sh-port",
    ",",
    "7",
    "0",
    "2147483648",
    "-1",
    "255.255.255.0",
    "64",
    "wan",
    "192.0.2.10:80",
    "192.0.2.10",
    "[2001:db8::1]:80",
    "2001:db8::1",
    "10.0.0.1",
    "10.0.0.1:8080",
    "tcp/192.0.2.10:80",
    "mark/7",
    "--destination",
    "--source-ports",
    "1-9",
    "enable",
    "disable",
    "80:",
    "[::1",
    "%",
];

/// Rules of words; a byte beyond them begins a word of letters that the next ones give.
fn rules(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match WORDS.get(usize::from(byte)) {
            Some(word) => {
                text.push_str(word);
                text.push(' ');
            }
            None if byte < 200 => text.push('\n'),
            None => text.push(char::from(byte / 2)),
        }
    }
    text.push('\n');
    text
}

fn restore(store: &mut Store<FakePlane>, name: &str, rules: &str) -> (i32, String) {
    let args: Vec<OsString> = [name, "-R"].map(Into::into).into();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let environment = Environment { names: &SystemNames, own: name == "weirctl" };
    let status = ipvsadm(&args, &mut rules.as_bytes(), store, &mut out, &mut err, &environment);
    (status, String::from_utf8_lossy(&err).into_owned())
}

fn saved(store: &mut Store<FakePlane>) -> String {
    let args: Vec<OsString> = ["weirctl", "-S", "-n"].map(Into::into).into();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let environment = Environment { names: &SystemNames, own: true };
    assert_eq!(ipvsadm(&args, &mut &[][..], store, &mut out, &mut err, &environment), 0);
    String::from_utf8(out).unwrap()
}

#[test]
fn command_lines() {
    check!().with_test_time(time()).with_type::<(bool, Vec<u8>)>().for_each(|(own, bytes)| {
        let rules = rules(bytes);
        let mut store = Store::new(FakePlane::default());
        let name = if *own { "weirctl" } else { "ipvsadm" };
        let (status, err) = restore(&mut store, name, &rules);
        assert!([0, 1, 2, 255].contains(&status), "{status} {rules}");
        assert!(status == 0 || !err.is_empty(), "{status} without a word\n{rules}");
        // Whatever came of it can be saved and restored.
        let after = saved(&mut store);
        assert_eq!(restore(&mut Store::new(FakePlane::default()), "weirctl", &after), (0, String::new()));
    });
}

const PIECES: &[&str] = &[
    "[[service]]\n",
    "[[service.server]]\n",
    "[[mark]]\n",
    "[timeouts]\n",
    "protocol = \"tcp\"\n",
    "protocol = \"udp\"\n",
    "address = \"192.0.2.10:80\"\n",
    "address = \"10.0.0.1\"\n",
    "mark = 7\n",
    "weight = 3\n",
    "method = \"fullnat\"\n",
    "method = \"tunnel\"\n",
    "method = \"route\"\n",
    "scheduler = \"wlc\"\n",
    "persistent = 60\n",
    "netmask = 64\n",
    "netmask = \"255.255.255.0\"\n",
    "one_packet = true\n",
    "upper = 9\n",
    "local_addresses = [\"10.0.0.4\"]\n",
    "client_address = \"toa\"\n",
    "masquerade = \"fullnat\"\n",
    "tcp = 9\n",
    "family = \"ipv6\"\n",
    "destination = \"192.0.2.0/24\"\n",
    "tunnel = { kind = \"gue\", port = 1 }\n",
    "= ",
    "\"",
    "[",
    "]",
    "{",
    "}",
    "\n",
    "é",
    "-1",
    "99999999999999999999",
    "#",
];

#[test]
fn files() {
    check!().with_test_time(time()).with_type::<Vec<u8>>().for_each(|bytes| {
        let piece = |byte: &u8| PIECES[usize::from(*byte) % PIECES.len()];
        let text: String = bytes.iter().map(piece).collect();
        if let Err(error) = file::read(&text) {
            assert!(!error.to_string().is_empty());
        }
    });
}
