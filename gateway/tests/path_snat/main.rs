//! Packet in, packet out: SNAT, requirement by requirement. docs/snat.md names these tests.

mod icmp;
mod limits;
#[path = "../rig/mod.rs"]
mod rig;
mod rules;
mod translation;

use std::net::Ipv4Addr;

use etherparse::{IcmpEchoHeader, Icmpv4Type, icmpv4};
use rig::{
    LAN, Options, Rig, Sent, WAN,
    frames::{self, Endpoint, Read, Tcp, Transport, read},
};
use weir::{
    io::PortId,
    path::verdict::{Reason, Verdict},
};
use weir_api::{
    model::{
        Protocol,
        explain::{Answer, End, Explanation, Question},
    },
    protocol::{Access, Change, Request, Response},
    rules::snat,
};

const A: Endpoint = (Ipv4Addr::new(10, 0, 0, 11), 5000);
const B: Endpoint = (Ipv4Addr::new(10, 0, 0, 12), 6000);
const OUT: Endpoint = (Ipv4Addr::new(10, 1, 0, 9), 5353);
const ELSEWHERE: Endpoint = (Ipv4Addr::new(10, 1, 0, 10), 99);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

fn rig_with(workers: usize, words: &str) -> Rig {
    let mut rig = Rig::with(&Options { workers, ..Options::default() });
    let line = format!("add office --inside 10.0.0.0/24 --port wan {words}");
    let words: Vec<&str> = line.split_whitespace().collect();
    rig.change(snat::parse(&words).unwrap());
    rig
}

fn rig(words: &str) -> Rig {
    rig_with(1, &format!("--pool 192.0.2.100 {words}"))
}

fn one(sent: &[Sent]) -> Read {
    assert_eq!(sent.len(), 1, "{sent:?}");
    read(&sent[0].bytes)
}

fn udp_out(rig: &mut Rig, from: Endpoint, to: Endpoint) -> Vec<Sent> {
    rig.send(LAN, &frames::udp(LAN, from, to, b"out"))
}

fn udp_in(rig: &mut Rig, from: Endpoint, to: Endpoint) -> Vec<Sent> {
    rig.send(WAN, &frames::udp(WAN, from, to, b"in"))
}

/// The external endpoint that a datagram from inside gets.
fn external(rig: &mut Rig, from: Endpoint, to: Endpoint) -> Endpoint {
    one(&udp_out(rig, from, to)).udp().0
}

fn tcp_out(rig: &mut Rig, flags: &str) -> Vec<Sent> {
    rig.send(LAN, &frames::tcp(LAN, A, OUT, Tcp { flags, seq: 1, ack: 1 }, &[]))
}

fn tcp_in(rig: &mut Rig, to: Endpoint, flags: &str) -> Vec<Sent> {
    rig.send(WAN, &frames::tcp(WAN, OUT, to, Tcp { flags, seq: 1, ack: 1 }, &[]))
}

/// An established connection's external endpoint.
fn established(rig: &mut Rig) -> Endpoint {
    let out = one(&tcp_out(rig, "S"));
    let (external, _, _) = out.tcp();
    assert_eq!(one(&tcp_in(rig, external, "SA")).tcp(), (OUT, A, "SA"));
    assert_eq!(one(&tcp_out(rig, "A")).tcp(), (external, OUT, "A"));
    external
}

/// The inside host is told (RFC 5508 REQ-8).
fn assert_prohibited(sent: &[Sent]) {
    let told = one(sent);
    let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FilterProhibited);
    assert!(
        told.destination == A.0 && matches!(&told.transport, Transport::Icmp { kind: k, .. } if *k == kind)
    );
}
