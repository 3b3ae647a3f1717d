//! Packet in, packet out: SNAT, requirement by requirement. docs/snat.md names these tests.

mod rig;

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

#[test]
fn both_directions_are_translated_with_one_worker_and_several() {
    for workers in [1, 2, 3] {
        let mut rig = rig_with(workers, "--pool 192.0.2.100-192.0.2.103");
        for n in 0..20 {
            let inside = (Ipv4Addr::new(10, 0, 0, 20 + n), 5000);
            let sent = udp_out(&mut rig, inside, OUT);
            let out = one(&sent);
            assert_eq!((sent[0].port, out.ttl, out.udp().1), (WAN, 63, OUT));
            let external = out.udp().0;
            assert!((100..=103).contains(&external.0.octets()[3]) && external.1 >= 1024);
            let sent = udp_in(&mut rig, OUT, external);
            let back = one(&sent);
            assert_eq!((sent[0].port, back.ttl, back.udp()), (LAN, 63, (OUT, inside)));
        }
        assert_eq!(rig.session_count(), 20);
        assert_eq!(rig.count(Verdict::HandedOver) > 0, workers > 1);
    }
}

#[test]
fn mappings_are_endpoint_independent() {
    // RFC 4787 REQ-1, RFC 5382 REQ-1.
    let mut rig = rig("");
    let first = external(&mut rig, A, OUT);
    assert_eq!(external(&mut rig, A, ELSEWHERE), first);
    assert_ne!(external(&mut rig, (A.0, 5001), OUT), first);
    assert_eq!(rig.event("snat-mappings-opened"), 2);
}

#[test]
fn mappings_may_depend_on_address_and_port() {
    let mut rig = rig("--mapping address-and-port-dependent");
    let first = external(&mut rig, A, OUT);
    assert_ne!(external(&mut rig, A, ELSEWHERE), first);
    assert_eq!(external(&mut rig, A, OUT), first);
}

#[test]
fn pooling_is_paired() {
    // RFC 4787 REQ-2.
    let mut rig = rig_with(1, "--pool 192.0.2.100-192.0.2.107");
    let first = external(&mut rig, A, OUT).0;
    for port in 5001..5200 {
        assert_eq!(external(&mut rig, (A.0, port), OUT).0, first);
    }
}

#[test]
fn no_two_inside_endpoints_share_a_port() {
    // RFC 4787 REQ-3.
    let mut rig = rig("");
    let mut seen = std::collections::HashSet::new();
    for host in 0..8 {
        for port in 0..100 {
            let inside = (Ipv4Addr::new(10, 0, 0, 20 + host), 5000 + port);
            assert!(seen.insert(external(&mut rig, inside, OUT)));
        }
    }
}

#[test]
fn udp_lasts_five_minutes_after_the_last_packet() {
    // RFC 4787 REQ-5 and REQ-6.
    let mut rig = rig("");
    let first = external(&mut rig, A, OUT);
    rig.advance(299.0);
    assert_eq!(one(&udp_in(&mut rig, OUT, first)).udp().1, A);
    assert_eq!(external(&mut rig, A, OUT), first);
    rig.advance(299.0);
    assert_eq!(rig.session_count(), 1);
    rig.advance(3.0);
    assert_eq!(rig.session_count(), 0);
    assert!(udp_in(&mut rig, OUT, first).is_empty());
    assert_eq!(rig.drops(Reason::SnatNoMapping), 1);
    assert_eq!(rig.event("snat-mappings-ended"), 1);
}

#[test]
fn filtering_is_endpoint_independent_or_not_by_choice() {
    // RFC 4787 REQ-8, RFC 5382 REQ-3.
    let mut open = rig("");
    let to = external(&mut open, A, OUT);
    assert_eq!(one(&udp_in(&mut open, ELSEWHERE, to)).udp(), (ELSEWHERE, A));
    assert_eq!(one(&udp_out(&mut open, A, ELSEWHERE)).udp(), (to, ELSEWHERE));
    let mut closed = rig("--filtering address-and-port-dependent");
    let to = external(&mut closed, A, OUT);
    assert!(udp_in(&mut closed, ELSEWHERE, to).is_empty());
    assert!(udp_in(&mut closed, (OUT.0, 54), to).is_empty());
    assert_eq!(closed.drops(Reason::SnatFiltered), 2);
    assert_eq!(one(&udp_in(&mut closed, OUT, to)).udp().1, A);
}

#[test]
fn a_peer_may_open_a_tcp_connection_to_a_mapping() {
    // RFC 5382 REQ-2 and REQ-3.
    let mut rig = rig("");
    let external = established(&mut rig);
    let peer = Tcp { flags: "S", seq: 1, ack: 0 };
    let sent = rig.send(WAN, &frames::tcp(WAN, ELSEWHERE, external, peer, &[]));
    assert_eq!(one(&sent).tcp(), (ELSEWHERE, A, "S"));
    let answer = Tcp { flags: "SA", seq: 1, ack: 2 };
    let sent = rig.send(LAN, &frames::tcp(LAN, A, ELSEWHERE, answer, &[]));
    assert_eq!(one(&sent).tcp(), (external, ELSEWHERE, "SA"));
    // In the middle of a connection nobody opened: not let in, not answered (RFC 5382 REQ-4).
    let stray = Tcp { flags: "A", seq: 1, ack: 2 };
    assert!(rig.send(WAN, &frames::tcp(WAN, (OUT.0, 7), external, stray, &[])).is_empty());
    assert!(rig.send(WAN, &frames::tcp(WAN, OUT, (EXTERNAL, 9), peer, &[])).is_empty());
}

#[test]
fn packets_from_inside_to_an_external_endpoint_come_back_from_outside() {
    // RFC 4787 REQ-9, RFC 5382 REQ-8: external source address and port.
    for workers in [1, 2, 3] {
        let mut rig = rig_with(workers, "--pool 192.0.2.100-192.0.2.101");
        let of_b = external(&mut rig, B, OUT);
        let sent = udp_out(&mut rig, A, of_b);
        let got = one(&sent);
        let (from, to) = got.udp();
        assert_eq!((sent[0].port, to, got.ttl), (LAN, B, 63));
        assert!(from.0.octets()[..3] == [192, 0, 2], "{from:?}");
        let back = one(&udp_out(&mut rig, B, from));
        assert_eq!(back.udp(), (of_b, A));
        // And once more, now that all sessions are there.
        assert_eq!(one(&udp_out(&mut rig, A, of_b)).udp(), (from, B));
        assert_eq!(one(&udp_out(&mut rig, B, from)).udp(), (of_b, A));
    }
}

#[test]
fn tcp_lasts_two_hours_established_and_four_minutes_else() {
    // RFC 5382 REQ-5.
    let mut rig = rig("");
    let external = established(&mut rig);
    rig.advance(7430.0);
    assert_eq!(rig.session_count(), 1);
    assert_eq!(one(&tcp_in(&mut rig, external, "A")).tcp().1, A);
    rig.advance(7430.0);
    assert_eq!(rig.session_count(), 1);
    rig.advance(12.0);
    assert_eq!(rig.session_count(), 0);

    tcp_out(&mut rig, "S");
    rig.advance(238.0);
    assert_eq!(rig.session_count(), 1);
    rig.advance(4.0);
    assert_eq!(rig.session_count(), 0);

    let external = established(&mut rig);
    tcp_out(&mut rig, "FA");
    tcp_in(&mut rig, external, "FA");
    rig.advance(238.0);
    assert_eq!(one(&tcp_out(&mut rig, "A")).tcp().1, OUT);
    rig.advance(242.0);
    assert_eq!(rig.session_count(), 0);
}

#[test]
fn an_inbound_reset_passes_and_ends_nothing_early_nor_late() {
    // RFC 7857, 2.1; RFC 5382 REQ-10 by the same reasoning.
    let mut rig = rig("");
    let external = established(&mut rig);
    rig.advance(7000.0);
    assert_eq!(one(&tcp_in(&mut rig, external, "R")).tcp(), (OUT, A, "R"));
    assert_eq!(one(&tcp_out(&mut rig, "A")).tcp().0, external, "forged: the connection lives");
    rig.advance(7000.0);
    tcp_in(&mut rig, external, "R");
    rig.advance(445.0);
    assert_eq!(rig.session_count(), 0, "the reset put nothing off");
    let external = established(&mut rig);
    tcp_out(&mut rig, "R");
    rig.advance(242.0);
    assert_eq!(rig.session_count(), 0, "an outbound one is believed");
    assert!(tcp_in(&mut rig, external, "A").is_empty());
}

fn echo(rig: &mut Rig, port: PortId, from: Ipv4Addr, to: Ipv4Addr, id: u16, reply: bool) -> Vec<Sent> {
    let echo = IcmpEchoHeader { id, seq: 9 };
    let kind = if reply { Icmpv4Type::EchoReply(echo) } else { Icmpv4Type::EchoRequest(echo) };
    rig.send(port, &frames::icmp(port, from, to, kind, b"ping"))
}

fn echo_id(read: &Read) -> u16 {
    match &read.transport {
        Transport::Icmp { kind: Icmpv4Type::EchoReply(e) | Icmpv4Type::EchoRequest(e), .. } => e.id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pings_from_inside_get_their_replies() {
    // RFC 5508 REQ-1 and REQ-2.
    for workers in [1, 2] {
        let mut rig = rig_with(workers, "--pool 192.0.2.100");
        let out = one(&echo(&mut rig, LAN, A.0, OUT.0, 77, false));
        assert_eq!((out.source, out.destination), (EXTERNAL, OUT.0));
        let back = one(&echo(&mut rig, WAN, OUT.0, EXTERNAL, echo_id(&out), true));
        assert_eq!((back.source, back.destination, echo_id(&back)), (OUT.0, A.0, 77));
        let other = one(&echo(&mut rig, LAN, B.0, OUT.0, 77, false));
        assert_ne!(echo_id(&other), echo_id(&out), "two hosts with the same identifier");
        rig.advance(59.0);
        assert_eq!(rig.session_count(), 2);
        rig.advance(2.0);
        assert_eq!(rig.session_count(), 0);
    }
}

#[test]
fn pings_of_the_external_address_are_the_kernels() {
    let mut rig = rig("");
    assert!(echo(&mut rig, WAN, OUT.0, EXTERNAL, 77, false).is_empty());
    assert_eq!(rig.take_punted().len(), 1);
}

/// An error of `from` about the packet in `frame`, arriving on `port`.
fn error(port: PortId, from: Ipv4Addr, to: Ipv4Addr, frame: &[u8]) -> Vec<u8> {
    let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
    frames::icmp(port, from, to, kind, &frame[14..])
}

#[test]
fn errors_from_outside_reach_the_host_that_asked_with_its_own_packet_inside() {
    // RFC 5508 REQ-4, RFC 4787 REQ-12.
    for workers in [1, 2] {
        let mut rig = rig_with(workers, "--pool 192.0.2.100");
        let router = Ipv4Addr::new(10, 1, 0, 254);
        let sent = udp_out(&mut rig, A, OUT);
        let external = one(&sent).udp().0;
        let got = one(&rig.send(WAN, &error(WAN, router, external.0, &sent[0].bytes)));
        assert_eq!((got.source, got.destination), (router, A.0));
        let Transport::Icmp { payload, .. } = got.transport else { panic!() };
        let inner = etherparse::Ipv4HeaderSlice::from_slice(&payload).unwrap();
        assert_eq!((inner.source_addr(), inner.destination_addr()), (A.0, OUT.0));
        assert_eq!(payload[20..24], [0x13, 0x88, 0x14, 0xe9], "ports 5000 and 5353");
        assert_eq!(inner.to_header().calc_header_checksum(), inner.header_checksum());

        let sent = echo(&mut rig, LAN, A.0, OUT.0, 77, false);
        let got = one(&rig.send(WAN, &error(WAN, router, EXTERNAL, &sent[0].bytes)));
        assert_eq!((got.source, got.destination), (router, A.0));
        let Transport::Icmp { payload, .. } = got.transport else { panic!() };
        assert_eq!(payload[24..26], [0, 77], "identifier");
        assert_eq!(rig.event("icmp-translated"), 2);
    }
}

#[test]
fn errors_from_inside_leave_with_the_external_address() {
    // RFC 5508 REQ-5.
    let mut rig = rig("");
    let external = external(&mut rig, A, OUT);
    let sent = udp_in(&mut rig, OUT, external);
    let got = one(&rig.send(LAN, &error(LAN, A.0, OUT.0, &sent[0].bytes)));
    assert_eq!((got.source, got.destination), (external.0, OUT.0));
    let Transport::Icmp { payload, .. } = got.transport else { panic!() };
    let inner = etherparse::Ipv4HeaderSlice::from_slice(&payload).unwrap();
    assert_eq!((inner.source_addr(), inner.destination_addr()), (OUT.0, external.0));
}

#[test]
fn errors_refresh_nothing_and_end_nothing() {
    // RFC 4787 REQ-12, RFC 5382 REQ-10, RFC 5508 REQ-6.
    let mut rig = rig("");
    let sent = udp_out(&mut rig, A, OUT);
    rig.advance(290.0);
    assert_eq!(rig.send(WAN, &error(WAN, OUT.0, EXTERNAL, &sent[0].bytes)).len(), 1);
    assert_eq!(rig.session_count(), 1);
    rig.advance(12.0);
    assert_eq!(rig.session_count(), 0);
    assert!(rig.send(WAN, &error(WAN, OUT.0, EXTERNAL, &sent[0].bytes)).is_empty());
    assert_eq!(rig.drops(Reason::IcmpNoSession), 1);
}

/// The inside host is told (RFC 5508 REQ-8).
fn assert_prohibited(sent: &[Sent]) {
    let told = one(sent);
    let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FilterProhibited);
    assert!(
        told.destination == A.0 && matches!(&told.transport, Transport::Icmp { kind: k, .. } if *k == kind)
    );
}

#[test]
fn an_inside_address_has_limits_of_ports_and_sessions() {
    // RFC 6888 REQ-4.
    let mut rig = rig("--max-ports 3 --max-sessions 5");
    for port in 0..3 {
        external(&mut rig, (A.0, 5000 + port), OUT);
    }
    assert_prohibited(&udp_out(&mut rig, (A.0, 5003), OUT));
    assert_eq!(rig.drops(Reason::SnatPortLimit), 1);
    external(&mut rig, A, (OUT.0, 54));
    external(&mut rig, A, (OUT.0, 55));
    assert_prohibited(&udp_out(&mut rig, A, (OUT.0, 56)));
    assert_eq!(rig.drops(Reason::SnatSessionLimit), 1);
    external(&mut rig, B, OUT);
}

#[test]
fn a_port_rests_two_minutes_before_it_is_used_again() {
    // RFC 6888 REQ-8.
    let mut rig = rig("--max-ports 64");
    let mut ports: Vec<u16> = (0..64).map(|n| external(&mut rig, (A.0, 5000 + n), OUT).1).collect();
    rig.advance(302.0);
    assert_eq!(rig.session_count(), 0);
    // The host has one block only, and all of it rests: another block's ports come first.
    let next = external(&mut rig, A, OUT).1;
    assert!(!ports.contains(&next));
    rig.advance(302.0);
    ports.sort_unstable();
    ports.dedup();
    assert_eq!((ports.len(), rig.event("ports-reused-early")), (64, 0));
}

/// One host asks so many questions a second for so long, each from another port. How many left.
fn questions(words: &str, a_second: u32, seconds: u32) -> (u32, Rig) {
    let mut rig = Rig::with(&Options { max_sessions: 70_000, ..Options::default() });
    let line = format!("add office --inside 10.0.0.0/24 --port wan --pool 192.0.2.100 {words}");
    rig.change(snat::parse(&line.split_whitespace().collect::<Vec<_>>()).unwrap());
    let (mut left, mut port) = (0, 1024u16);
    for _ in 0..seconds {
        for _ in 0..a_second {
            port = if port == u16::MAX { 1024 } else { port + 1 };
            let server = (Ipv4Addr::new(10, 1, (port % 7) as u8, 9), 53);
            let sent = udp_out(&mut rig, (A.0, port), server);
            left += sent.iter().filter(|s| s.port == WAN).count() as u32;
        }
        rig.advance(1.0);
    }
    (left, rig)
}

#[test]
fn a_busy_resolver_loses_no_question() {
    let (left, rig) = questions("", 5, 400);
    assert_eq!((left, rig.drops(Reason::SnatPortLimit)), (2000, 0));
    assert_eq!(rig.event("ports-reused-early"), 0);
    let (left, rig) = questions("", 100, 60);
    assert_eq!((left, rig.drops(Reason::SnatPortLimit)), (6000, 0));
}

#[test]
fn the_limit_of_ports_is_the_rule_s() {
    // With a time-out that nothing ends before, so that all ports are in use at once.
    let (left, rig) = questions("--max-ports 2000 --timeout-dns 600", 500, 5);
    assert_eq!((left, rig.drops(Reason::SnatPortLimit)), (2000, 500));
    let (left, rig) = questions("--max-ports 64512 --timeout-dns 600", 8064, 8);
    assert_eq!((left, rig.drops(Reason::SnatPortLimit)), (64_512, 0), "all there are");
    assert_eq!(rig.session_count(), 64_512);
}

#[test]
fn time_outs_follow_the_rule_in_force() {
    let mut rig = rig("--timeout-udp 600");
    external(&mut rig, A, OUT);
    rig.advance(599.0);
    assert_eq!(rig.session_count(), 1);
    assert_eq!(rig.sessions()[0].expires / 100, 1, "the list says so too");
    rig.advance(2.0);
    assert_eq!(rig.session_count(), 0);
    // A rule whose time-outs are shorter changes nothing for others.
    external(&mut rig, A, OUT);
    let line = "add short --inside 10.0.0.9/32 --port wan --pool 192.0.2.101 --timeout-udp 2";
    rig.change(snat::parse(&line.split(' ').collect::<Vec<_>>()).unwrap());
    external(&mut rig, (Ipv4Addr::new(10, 0, 0, 9), 1), OUT);
    rig.advance(3.0);
    assert_eq!(rig.session_count(), 1);
    rig.advance(595.0);
    assert_eq!(rig.session_count(), 1);
    rig.advance(4.0);
    assert_eq!(rig.session_count(), 0);
}

#[test]
fn masquerading_leaves_the_kernel_its_ports() {
    let mut rig = Rig::with(&Options { max_sessions: 70_000, ..Options::default() });
    let line = "add home --inside 10.0.0.0/24 --port wan --pool port --max-ports 64512 --timeout-udp 600";
    rig.change(snat::parse(&line.split(' ').collect::<Vec<_>>()).unwrap());
    let mut ports = std::collections::HashSet::new();
    for port in 1024..=u16::MAX {
        for sent in udp_out(&mut rig, (A.0, port), OUT).iter().filter(|s| s.port == WAN) {
            let (address, port) = read(&sent.bytes).udp().0;
            assert!(address == rig::WAN_ADDRESS && ports.insert(port));
        }
    }
    assert!(ports.iter().all(|port| *port >= 1024 && !(32_768..=60_999).contains(port) && *port != 5353));
    assert_eq!(ports.len(), 64_512 - 28_232 - 1, "all others are used");
    assert_eq!(rig.drops(Reason::SnatPortsExhausted), 28_233);
}

#[test]
fn masquerading_follows_the_port_s_address() {
    for workers in [1, 2] {
        let mut rig = Rig::with(&Options { workers, ..Options::default() });
        let line = "add home --inside 10.0.0.0/24 --port wan --pool port";
        rig.change(snat::parse(&line.split(' ').collect::<Vec<_>>()).unwrap());
        let first = external(&mut rig, A, OUT);
        assert_eq!(first.0, rig::WAN_ADDRESS);
        let other = Ipv4Addr::new(10, 1, 255, 200);
        rig.renumber(Some(other));
        rig.advance(1.0);
        assert_eq!(rig.session_count(), 0, "nobody answers at the old address");
        let second = external(&mut rig, A, OUT);
        assert_eq!(second.0, other);
        assert_eq!(one(&udp_in(&mut rig, OUT, second)).udp().1, A);
        assert!(udp_in(&mut rig, OUT, first).is_empty());
        assert_eq!(rig.take_punted().len(), 1);
        rig.renumber(None);
        rig.advance(1.0);
        assert!(udp_out(&mut rig, A, OUT).is_empty());
        assert_eq!((rig.drops(Reason::NoPortAddress), rig.session_count()), (1, 0));
        rig.renumber(Some(rig::WAN_ADDRESS));
        assert_eq!(external(&mut rig, A, OUT).0, rig::WAN_ADDRESS);
        // Blocks of all that go back in the end.
        rig.advance(302.0);
        rig.advance(400.0);
        assert_eq!(rig.event("snat-blocks-given"), rig.event("snat-blocks-returned"));
    }
}

#[test]
fn a_port_that_somebody_listens_on_by_now_is_the_kernel_s() {
    let mut rig = Rig::with(&Options::default());
    let line = "add home --inside 10.0.0.0/24 --port wan --pool port";
    rig.change(snat::parse(&line.split(' ').collect::<Vec<_>>()).unwrap());
    let to = external(&mut rig, A, OUT);
    assert_eq!(one(&udp_in(&mut rig, ELSEWHERE, to)).udp().1, A);
    let ports = weir::host::KernelPorts { udp: vec![to.1], ..Default::default() };
    rig.store.plane_mut().set_kernel_ports(&ports);
    rig.run();
    assert!(udp_in(&mut rig, (ELSEWHERE.0, 7), to).is_empty());
    assert_eq!(rig.take_punted().len(), 1, "who comes anew comes to the kernel");
    assert_eq!(one(&udp_in(&mut rig, OUT, to)).udp().1, A, "sessions go on");
}

#[test]
fn an_edited_rule_keeps_its_sessions_but_not_at_addresses_it_lost() {
    let mut rig = rig_with(1, "--pool 192.0.2.100 --max-sessions 1");
    let edit = |rig: &mut Rig, words: &str| {
        let line = format!("add office --inside 10.0.0.0/24 --port wan {words}");
        match snat::parse(&line.split_whitespace().collect::<Vec<_>>()) {
            Ok(Change::AddSnat(rule)) => rig.change(Change::EditSnat(rule)),
            other => panic!("{other:?}"),
        }
    };
    let first = external(&mut rig, A, OUT);
    assert_prohibited(&udp_out(&mut rig, A, ELSEWHERE));
    edit(&mut rig, "--pool 192.0.2.100 --max-sessions 2 --timeout-udp 150");
    assert_eq!(external(&mut rig, A, ELSEWHERE), first, "the new limit counts, and the mapping is there");
    assert_prohibited(&udp_out(&mut rig, A, (OUT.0, 7)));
    rig.advance(149.0);
    assert_eq!(rig.session_count(), 2);
    external(&mut rig, A, OUT);
    rig.advance(2.0);
    assert_eq!(rig.session_count(), 1, "so does the new time-out");
    edit(&mut rig, "--pool 192.0.2.101 --max-sessions 2");
    rig.advance(1.0);
    assert_eq!(rig.session_count(), 0, "the address isn't the rule's any more");
    assert_eq!(external(&mut rig, A, OUT).0, Ipv4Addr::new(192, 0, 2, 101));
    external(&mut rig, A, ELSEWHERE);
    assert_prohibited(&udp_out(&mut rig, A, (OUT.0, 7)));
}

#[test]
fn blocks_are_logged_when_given_and_when_given_back() {
    // RFC 6888 REQ-12 and REQ-14: no destinations, no line a session.
    let mut rig = rig("");
    for port in 5000..5064 {
        external(&mut rig, (A.0, port), OUT);
    }
    let log = rig.store.plane_mut().take_snat_log();
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].given && log[0].inside == A.0 && log[0].external == EXTERNAL);
    external(&mut rig, (A.0, 6000), OUT);
    assert_eq!(rig.store.plane_mut().take_snat_log().len(), 1);
    rig.advance(302.0);
    rig.advance(380.0);
    let log = rig.store.plane_mut().take_snat_log();
    assert!(log.len() == 2 && log.iter().all(|event| !event.given), "{log:?}");
    assert_eq!((rig.event("snat-blocks-given"), rig.event("snat-blocks-returned")), (2, 2));
}

#[test]
fn a_full_pool_is_a_counted_drop() {
    let mut rig = Rig::with(&Options { max_sessions: 70_000, ..Options::default() });
    let line = "add office --inside 10.0.0.0/8 --port wan --pool 192.0.2.100 --max-ports 64";
    rig.change(snat::parse(&line.split(' ').collect::<Vec<_>>()).unwrap());
    let mut left = 0;
    for host in 0..1010u32 {
        let inside = (Ipv4Addr::from(0x0a08_0014 + (host << 8)), 5000);
        let sent = udp_out(&mut rig, inside, (Ipv4Addr::new(192, 0, 2, 9), 53));
        left += sent.iter().filter(|s| s.port == WAN).count();
    }
    assert_eq!((left, rig.drops(Reason::SnatPortsExhausted)), (1008, 2));
}

#[test]
fn what_a_rule_is_not_for_is_left_alone() {
    let mut rig = rig("--protocol udp --except 10.1.0.10/32");
    for (frame, what) in [
        (frames::tcp(LAN, A, OUT, Tcp { flags: "S", seq: 1, ack: 0 }, &[]), "another protocol"),
        (frames::udp(LAN, A, ELSEWHERE, b""), "an exception"),
        (frames::udp(LAN, A, (Ipv4Addr::new(10, 0, 0, 254), 53), b""), "the gateway itself, inside"),
        (frames::udp(LAN, A, (Ipv4Addr::new(10, 1, 255, 254), 53), b""), "the gateway itself, outside"),
        (frames::udp(LAN, A, (Ipv4Addr::new(224, 0, 0, 1), 53), b""), "multicast"),
        (frames::udp(LAN, (Ipv4Addr::new(10, 9, 0, 1), 53), OUT, b""), "not from inside"),
    ] {
        assert!(rig.send(LAN, &frame).is_empty(), "{what}");
        assert_eq!(rig.take_punted().len(), 1, "{what}");
    }
    external(&mut rig, A, OUT);
}

#[test]
fn services_come_first() {
    let mut rig = rig("");
    rig.add_service(Protocol::Udp, [192, 0, 2, 10], 53, "rr", true);
    let service = rig::key(Protocol::Udp, [192, 0, 2, 10], 53);
    rig.add_server(service, rig::server([10, 0, 0, 1], 53, weir_api::model::Forwarding::FullNat, 1));
    let got = one(&udp_out(&mut rig, A, (Ipv4Addr::new(192, 0, 2, 10), 53)));
    assert_eq!(got.udp().1, (Ipv4Addr::new(10, 0, 0, 1), 53));
}

#[test]
fn tcp_without_connection_is_reset_and_the_ttl_ends() {
    let mut rig = rig("");
    let reset = one(&tcp_out(&mut rig, "A"));
    assert_eq!((reset.tcp().0, reset.tcp().1), (OUT, A));
    assert!(tcp_out(&mut rig, "R").is_empty());
    let mut frame = frames::udp(LAN, A, OUT, b"");
    frame[22] = 1;
    let check = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
    frame[24..26].copy_from_slice(&check.calc_header_checksum().to_be_bytes());
    let got = one(&rig.send(LAN, &frame));
    assert!(matches!(got.transport, Transport::Icmp { kind: Icmpv4Type::TimeExceeded(_), .. }));
    assert_eq!(rig.session_count(), 0);
}

#[test]
fn a_rule_counts_and_its_sessions_end_with_it() {
    let mut rig = rig("");
    external(&mut rig, A, OUT);
    let to = external(&mut rig, A, OUT);
    udp_in(&mut rig, OUT, to);
    let Response::Snat(rows) = rig.store.handle(Request::Snat, Access::ReadOnly) else { panic!() };
    let stats = rows[0].stats;
    assert_eq!((rows[0].sessions, stats.connections, stats.in_packets, stats.out_packets), (1, 1, 2, 1));
    rig.change(Change::DeleteSnat("office".into()));
    rig.run();
    assert_eq!((rig.session_count(), rig.event("snat-mappings-ended")), (0, 1));
    assert!(udp_out(&mut rig, A, OUT).is_empty());
    let taken = rig.take_punted().len();
    assert_eq!(taken, 1, "without a rule it's the kernel's");
    rig.advance(1.0);
    let words: Vec<&str> =
        "add office --inside 10.0.0.0/24 --port wan --pool 192.0.2.100".split(' ').collect();
    rig.change(snat::parse(&words).unwrap());
    external(&mut rig, A, OUT);
}

#[test]
fn what_is_wrong_with_a_rule_is_said_and_changes_nothing() {
    let mut rig = rig("");
    for (line, why) in [
        ("add office --inside 10.9.0.0/24 --port wan --pool 192.0.2.7", "SNAT rule office already exists"),
        ("add lab --inside 10.9.0.0/24 --port dmz --pool 192.0.2.7", "dmz"),
        ("delete lab", "there is no SNAT rule lab"),
        ("add lab --inside 10.9.0.0/24 --port wan --pool 10.1.255.254", "use --pool port to masquerade"),
        (
            "add lab --inside 10.9.0.0/24 --port wan --pool 10.1.255.250-10.1.255.254",
            "10.1.255.254 is the gateway's own address",
        ),
        ("add lab --inside 10.9.0.0/24 --port wan --pool 10.0.0.254", "--pool port"),
        ("add six --inside fd00::/8 --port wan --pool 2001:db8:c::fe", "--pool port"),
    ] {
        let change = snat::parse(&line.split(' ').collect::<Vec<_>>()).unwrap();
        match rig.store.handle(Request::Apply(change.into()), Access::ReadWrite) {
            Response::Refused(refusal) => assert!(refusal.to_string().contains(why), "{refusal}"),
            other => panic!("{other:?}"),
        }
    }
    external(&mut rig, A, OUT);
}

#[test]
fn explain_foretells_it() {
    for workers in [1, 2] {
        let mut rig = rig_with(workers, "--pool 192.0.2.100 --filtering address-and-port-dependent");
        let ask = |rig: &mut Rig, from: Endpoint, to: Endpoint, protocol| {
            let (source, destination) = ((from.0.into(), from.1), (to.0.into(), to.1));
            let question = Question { protocol, source, destination, port: None, opens: false };
            match rig.store.handle(Request::Explain(question), Access::ReadOnly) {
                Response::Explained(explanation) => *explanation,
                other => panic!("{other:?}"),
            }
        };
        let ahead = ask(&mut rig, A, OUT, Protocol::Udp);
        assert_eq!((&ahead.end, ahead.way.unwrap().port.as_str()), (&End::Forwarded, "wan"));
        assert!(matches!(
            ask(&mut rig, A, OUT, Protocol::Tcp).end,
            End::Dropped { answer: Some(Answer::Reset), .. }
        ));
        let external = external(&mut rig, A, OUT);
        let reason = |e: &Explanation| match &e.end {
            End::Dropped { reason, .. } => reason.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(&ask(&mut rig, ELSEWHERE, external, Protocol::Udp)), "snat-filtered");
        let nobodys = (external.0, external.1 ^ 1);
        assert_eq!(reason(&ask(&mut rig, ELSEWHERE, nobodys, Protocol::Udp)), "snat-no-mapping");
        let known = ask(&mut rig, OUT, external, Protocol::Udp);
        assert!(known.reply && known.end == End::Forwarded, "{known:?}");
    }
}

#[test]
fn next_hops_of_snat_are_in_use() {
    let mut rig = rig("");
    for _ in 0..2 {
        let external = external(&mut rig, A, OUT);
        assert_eq!(udp_in(&mut rig, OUT, external).len(), 1);
    }
    let mut hops = Vec::new();
    for _ in 0..3 {
        let now = rig.now();
        hops.extend(rig.store.plane_mut().hops_in_use(now).into_iter().map(|hop| hop.address));
        rig.run();
        rig.store.plane_mut().service_rings();
    }
    hops.sort();
    assert_eq!(hops, [A.0, OUT.0]);
}
