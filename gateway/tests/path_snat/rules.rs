//! Rules: masquerading, edits, what they leave alone, what is wrong with them.

use super::*;

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
