//! Mappings, filtering, time-outs.

use super::*;

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
