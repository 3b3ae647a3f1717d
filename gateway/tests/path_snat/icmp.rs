//! Pings and errors.

use super::*;

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
