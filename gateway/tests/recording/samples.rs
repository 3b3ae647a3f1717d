//! How strict a replay is: samples that differ in one place must fail, and say so.

use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::{carried::carried, replay_text, seen::packet};
use crate::rig::{
    WAN,
    frames::{self, Tcp},
};

/// A test's name, the sample, where it is changed, to what, and what the replay says.
type Wrong = (&'static str, &'static str, &'static str, fn() -> Value, &'static str);

const WRONG: &[Wrong] = &[
    (
        "server",
        "sched/refused_and_order",
        "/events/3/server",
        || json!("10.0.0.1:80"),
        "event 3: server: ours",
    ),
    ("order", "sched/refused_and_order", "/events/3/after", order, "event 3: counts: ours"),
    (
        "count",
        "sched/refused_and_order",
        "/events/4/after/10.0.0.1:80/1",
        || json!(2),
        "event 4: counts: ours",
    ),
    ("no_server", "sched/refused_and_order", "/events/4/after", || json!({}), "event 4: counts: ours"),
    ("closing", "sched/refused_and_order", "/events/5/how", || json!("client-half"), "event 6: "),
    ("unknown_end", "sched/refused_and_order", "/events/5/how", || json!("no"), "event 5: no way to close"),
    (
        "columns",
        "sched/refused_and_order",
        "/events/6/stdout",
        || json!(listing().replace("10.1.0.2:40000  ", "10.1.0.2:40000   ")),
        "isn't here",
    ),
    (
        "column_names",
        "sched/refused_and_order",
        "/events/6/stdout",
        || json!(listing().replace("pro expire", "pro  expire")),
        "event 6: ipvsadm -Lnc: header",
    ),
    (
        "timer",
        "sched/refused_and_order",
        "/events/6/stdout",
        || json!(listing().replace("14:59", "14:58")),
        "isn't here",
    ),
    (
        "later_timer",
        "sched/refused_and_order",
        "/events/6/stdout",
        || json!(listing().replace("14:59", "15:01")),
        "isn't here",
    ),
    (
        "one_more_session",
        "sched/refused_and_order",
        "/events/6/stdout",
        || json!(listing().lines().take(3).map(|l| format!("{l}\n")).collect::<String>()),
        "sessions here only",
    ),
    (
        "refused",
        "sched/refused_and_order",
        "/events/9/refused",
        || json!("icmp type 3 code 1"),
        "event 9: refused: ours",
    ),
    (
        "service",
        "sched/refused_and_order",
        "/events/10/servers",
        || json!({"TCP 192.0.2.11:80": {}}),
        "event 10: counts",
    ),
    (
        "argv0",
        "sched/refused_and_order",
        "/events/11/stderr",
        || json!("bash: line 1: nosuch: command not found\n"),
        "event 11: nosuch",
    ),
    (
        "lacking_setting",
        "sched/refused_and_order",
        "/sysctl",
        || json!({"secure_tcp": "1"}),
        "secure_tcp=1: unknown IPVS setting",
    ),
    (
        "unknown_setting",
        "sched/refused_and_order",
        "/sysctl",
        || json!({"nosuch": "0"}),
        "nosuch=0: unknown IPVS setting",
    ),
    (
        "set_on_the_way",
        "sched/refused_and_order",
        "/events/7/cmd",
        || json!("sysctl -w net.ipv4.vs.drop_entry=1"),
        "event 7: net.ipv4.vs.drop_entry=1: unknown",
    ),
    (
        "unknown_event",
        "sched/refused_and_order",
        "/events/3/op",
        || json!("nosuch"),
        "unknown variant `nosuch`",
    ),
    ("status", "sched/refused_and_order", "/events/0/status", || json!(1), "event 0: ipvsadm -A"),
    (
        "nft_without_end",
        "sched/nft_marks",
        "/events/3/cmd",
        || json!("nft add rule ip m pre ip daddr { 1.2.3.4 meta mark set 1"),
        "a set has no end",
    ),
    (
        "nft_range",
        "sched/nft_marks",
        "/events/2/cmd",
        || {
            json!(
                "nft add rule ip m pre ip daddr 192.0.2.11-192.0.2.12 tcp dport { 80, 8000-8010 } meta mark set 7"
            )
        },
        "event 10: server: ours None",
    ),
    (
        "nft_set",
        "sched/nft_marks",
        "/events/2/cmd",
        || json!("nft add rule ip m pre ip daddr 192.0.2.11-192.0.2.13 tcp dport { 80 } meta mark set 7"),
        "event 10: server: ours None",
    ),
    (
        "nft_words",
        "sched/nft_marks",
        "/events/2/cmd",
        || json!("nft add rule ip m pre ct state new meta mark set 7"),
        "isn't understood",
    ),
    (
        "route",
        "lifecycle/routed_clients",
        "/events/2/client",
        || json!("172.20.3.5:5000"),
        "event 2: packets out",
    ),
    ("ttl", "lifecycle/routed_clients", "/events/2/to_server/0/ttl", || json!(62), "event 2: packets out"),
    ("length", "lifecycle/routed_clients", "/events/2/to_server/0/len", || json!(44), "event 2: packets out"),
    (
        "sequence",
        "lifecycle/routed_clients",
        "/events/3/to_client/0/ack",
        || json!(1002),
        "event 3: packets out",
    ),
    (
        "twice",
        "lifecycle/routed_clients",
        "/events/3/to_server",
        || json!([{"len": 40, "proto": "tcp", "src": "10.1.0.1:1", "dst": "10.0.0.1:80"}]),
        "event 3: packets out",
    ),
    ("state", "lifecycle/routed_clients", "/events/4/state", || json!("SYN_RECV"), "event 4: state"),
    (
        "expire",
        "lifecycle/routed_clients",
        "/events/4/expire",
        || json!("14:58"),
        "event 4: expires in 90000",
    ),
    ("slept", "lifecycle/routed_clients", "/events/9/seconds", || json!(6), "isn't here"),
    (
        "stats",
        "lifecycle/routed_clients",
        "/events/11/lines/0",
        || json!("TCP  192.0.2.10:80                       5        6        1      240       41"),
        "event 11: --stats",
    ),
    (
        "start",
        "lifecycle/matrix_start",
        "/events/2/start",
        || json!("ESTABLISHED"),
        "before the packet: state",
    ),
    (
        "start_timer",
        "lifecycle/matrix_start",
        "/events/3/start_expire",
        || json!("14:58"),
        "before the packet: expires",
    ),
    ("matrix_packets", "lifecycle/matrix_start", "/events/4/to_client", || json!(["R"]), "event 4"),
    (
        "inner",
        "lifecycle/tunnel_inner",
        "/events/3/to_server/0/inner/seq",
        || json!(1002),
        "event 3: packets out",
    ),
    (
        "inner_ttl",
        "lifecycle/tunnel_inner",
        "/events/2/to_server/0/inner/ttl",
        || json!(64),
        "event 2: packets out",
    ),
    (
        "routed_as_nat",
        "sched/direct_routing",
        "/events/1/cmd",
        || json!("ipvsadm -a -t 192.0.2.10:80 -r 10.0.0.2 -g"),
        "event 2: server",
    ),
];

/// The same servers in another order, which a [`Value`] doesn't keep.
fn order() -> Value {
    json!("ORDER")
}

const IN_ORDER: &str = r#"{"10.0.0.1:80":[1,0,0],"10.0.0.2:80":[2,1,0]}"#;

fn listing() -> String {
    "IPVS connection entries\n\
     pro expire state       source             virtual            destination\n\
     TCP 14:59  ESTABLISHED 10.1.0.2:40000     192.0.2.10:80      10.0.0.1:80\n\
     TCP 01:59  TIME_WAIT   10.1.0.1:40000     192.0.2.10:80      10.0.0.2:80\n"
        .into()
}

/// What [`carried`] must see: a name, what is done to the packet that left, and what it says.
type Altered = (&'static str, fn(&mut Vec<u8>), &'static str);

const ALTERED: &[Altered] = &[
    ("nothing", |_| {}, ""),
    ("ttl", |p| p[8] = 62, "TTL: ours Some(62), recorded Some(63)"),
    ("tos", |p| p[1] = 4, "TOS"),
    ("payload", |p| *p.last_mut().expect("payload") ^= 1, "payload"),
    ("flags", |p| p[33] ^= 8, "flags"),
    ("sequence", |p| p[27] ^= 1, "sequence numbers"),
    ("window", |p| p[34] ^= 1, "window"),
];

pub fn trials(folder: &Path) -> Vec<Trial> {
    let wrong = WRONG.iter().map(|&(name, sample, at, value, message)| {
        let path = folder.join(format!("{sample}.json"));
        Trial::test(format!("strict::{name}"), move || Ok(differs(&path, at, value(), message)?))
    });
    let altered = ALTERED.iter().map(|&(name, change, message)| {
        Trial::test(format!("strict::carried::{name}"), move || Ok(sees(change, message)?))
    });
    wrong.chain(altered).collect()
}

fn differs(path: &PathBuf, at: &str, value: Value, message: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let mut recording: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    match recording.pointer_mut(at) {
        Some(place) => *place = value,
        None => {
            let (parent, key) = at.rsplit_once('/').ok_or("no place")?;
            recording.pointer_mut(parent).ok_or(format!("there is no {parent}"))?[key] = value;
        }
    }
    let text = in_order(&recording.to_string());
    let error = replay_text(&text, 1).err().ok_or("it passes")?;
    if error.contains(message) { Ok(()) } else { Err(error) }
}

/// A recording's text with its servers newest first, which they are not as a [`Value`] keeps them.
fn in_order(text: &str) -> String {
    let mut text = text.to_owned();
    let mut from = 0;
    while let Some(at) = text[from..].find("{\"10.0.0.1:80\":[").map(|at| from + at) {
        let end = at + text[at..].find('}').unwrap_or(0);
        let mut servers: Vec<String> = text[at + 1..end].split("],").map(str::to_owned).collect();
        if servers.len() == 2 {
            servers[0].push(']');
            text.replace_range(at..end, &format!("{{{},{}", servers[1], servers[0]));
        }
        from = at + 1;
    }
    text.replace("\"ORDER\"", IN_ORDER)
}

fn sees(change: fn(&mut Vec<u8>), message: &str) -> Result<(), String> {
    let tcp = Tcp { flags: "PA", seq: 1000, ack: 5000 };
    let client = ("10.1.0.1".parse::<std::net::IpAddr>().expect("an address"), 40000);
    let ends = |a: &str, port| (a.parse::<std::net::IpAddr>().expect("an address"), port);
    let arrived = frames::tcp(WAN, client, ends("192.0.2.10", 80), tcp, b"data");
    let left = frames::tcp(WAN, client, ends("10.0.0.1", 80), tcp, b"data");
    let mut left = packet(&left).to_vec();
    left[8] = 63;
    change(&mut left);
    right_again(&mut left)?;
    match (carried(packet(&arrived), &left), message) {
        (Ok(()), "") => Ok(()),
        (Err(error), message) if !message.is_empty() && error.contains(message) => Ok(()),
        (other, _) => Err(format!("{other:?}")),
    }
}

/// Makes the checksums right again.
fn right_again(packet: &mut Vec<u8>) -> Result<(), String> {
    let (mut ip, rest) = etherparse::Ipv4Header::from_slice(packet).map_err(|e| e.to_string())?;
    let (mut tcp, payload) = etherparse::TcpHeader::from_slice(rest).map_err(|e| e.to_string())?;
    ip.header_checksum = ip.calc_header_checksum();
    tcp.checksum = tcp.calc_checksum_ipv4(&ip, payload).map_err(|e| e.to_string())?;
    *packet = [&ip.to_bytes()[..], &tcp.to_bytes(), payload].concat();
    Ok(())
}
