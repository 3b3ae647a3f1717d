//! Limits of an inside address, and ports that rest.

use super::*;

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
