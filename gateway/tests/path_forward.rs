//! Packet in, packet out: FULLNAT and NAT, both directions, and what happens to the frames that aren't so.

mod rig;

use std::net::Ipv4Addr;

use etherparse::Icmpv4Type;
use rig::{
    LAN, LIP, Options, Rig, Sent, WAN, WAN_ADDRESS,
    frames::{self, Endpoint, Read, Tcp, Transport, leaving, read},
    key, server,
};
use weir::{
    io::memory::MemoryFrame,
    path::verdict::{Reason, Verdict},
};
use weir_api::model::{Forwarding, Protocol, SessionState};

const VIP: [u8; 4] = [192, 0, 2, 10];
const SYN: Tcp<'static> = Tcp { flags: "S", seq: 1000, ack: 0 };
const ACK: Tcp<'static> = Tcp { flags: "A", seq: 1001, ack: 5001 };

fn vip(port: u16) -> Endpoint {
    (Ipv4Addr::from(VIP), port)
}

fn client(n: u8) -> Endpoint {
    (Ipv4Addr::new(10, 1, 0, n), 40000)
}

fn rs(n: u8, port: u16) -> Endpoint {
    (Ipv4Addr::new(10, 0, 0, n), port)
}

/// A rig with TCP 80 and UDP 53, each with two servers.
fn rig(method: Forwarding, options: &Options) -> Rig {
    let mut rig = Rig::with(options);
    for (protocol, port, rport) in [(Protocol::Tcp, 80, 8080), (Protocol::Udp, 53, 5353)] {
        rig.add_service(protocol, VIP, port, "rr", method == Forwarding::FullNat);
        for n in [1, 2] {
            rig.add_server(key(protocol, VIP, port), server([10, 0, 0, n], rport, method, 1));
        }
    }
    rig
}

fn fullnat() -> Rig {
    rig(Forwarding::FullNat, &Options::default())
}

/// The only frame that left, read.
fn one(sent: &[Sent]) -> (weir::io::PortId, Read) {
    assert_eq!(sent.len(), 1, "{sent:?}");
    let read = read(&sent[0].bytes);
    assert_eq!(read.macs, leaving(sent[0].port));
    (sent[0].port, read)
}

/// Opens a session from `client` and returns (local endpoint, server).
fn open(rig: &mut Rig, client: Endpoint) -> (Endpoint, Endpoint) {
    let sent = rig.send(WAN, &frames::tcp(WAN, client, vip(80), SYN, &[]));
    let (port, out) = one(&sent);
    assert_eq!(port, LAN);
    let (from, to, flags) = out.tcp();
    assert_eq!((flags, out.ttl), ("S", 63));
    (from, to)
}

#[test]
fn fullnat_rewrites_both_directions() {
    let mut rig = fullnat();
    let (local, first) = open(&mut rig, client(1));
    assert_eq!((local.0, first), (LIP, rs(2, 8080)), "rr starts with the newest server");
    let (_, second) = open(&mut rig, client(2));
    assert_eq!(second, rs(1, 8080));

    let reply = frames::tcp(LAN, first, local, Tcp { flags: "SA", seq: 5000, ack: 1001 }, &[]);
    let (port, out) = one(&rig.send(LAN, &reply));
    assert_eq!((port, out.tcp()), (WAN, (vip(80), client(1), "SA")));

    let request = frames::tcp(WAN, client(1), vip(80), Tcp { flags: "PA", seq: 1001, ack: 5001 }, b"GET /");
    let (port, out) = one(&rig.send(WAN, &request));
    assert_eq!((port, out.tcp()), (LAN, (local, first, "PA")));
    assert!(
        matches!(out.transport, Transport::Tcp { seq: 1001, ack: 5001, ref payload, .. } if payload == b"GET /")
    );
    let sessions = rig.sessions();
    assert_eq!(sessions.len(), 2);
    let s = sessions.iter().find(|s| s.client.0 == client(1).0).unwrap();
    assert_eq!(
        (s.state, s.local, s.server),
        (SessionState::Established, (local.0.into(), local.1), (first.0.into(), first.1))
    );
    assert_eq!(rig.count(Verdict::Forwarded), 4);
    assert_eq!(rig.total(), 4);
}

#[test]
fn nat_keeps_the_client_s_address() {
    let mut rig = rig(Forwarding::Nat, &Options::default());
    let (from, to) = open(&mut rig, client(1));
    assert_eq!((from, to), (client(1), rs(2, 8080)));
    let reply = frames::tcp(LAN, to, client(1), Tcp { flags: "SA", seq: 5000, ack: 1001 }, &[]);
    let (port, out) = one(&rig.send(LAN, &reply));
    assert_eq!((port, out.tcp()), (WAN, (vip(80), client(1), "SA")));
}

#[test]
fn udp_goes_both_ways_with_and_without_checksum() {
    let mut rig = fullnat();
    let (_, out) = one(&rig.send(WAN, &frames::udp(WAN, client(1), vip(53), b"query")));
    let (local, to) = out.udp();
    assert_eq!(to, rs(2, 5353));
    let (port, out) = one(&rig.send(LAN, &frames::udp(LAN, to, local, b"an answer")));
    assert_eq!((port, out.udp()), (WAN, (vip(53), client(1))));

    let mut bare = frames::udp(WAN, client(1), vip(53), b"query");
    bare[14 + 20 + 6..14 + 20 + 8].fill(0);
    let (_, out) = one(&rig.send(WAN, &bare));
    assert!(matches!(out.transport, Transport::Udp { checksum: 0, .. }), "0 stays 0");
}

#[test]
fn ip_options_padding_and_chained_buffers_pass_unharmed() {
    let mut rig = fullnat();
    let (local, _) = open(&mut rig, client(1));
    // Record route in the header, and 300 bytes of payload over three segments.
    let plain = frames::tcp(WAN, client(1), vip(80), ACK, &[7; 300]);
    let mut with_options = plain[..34].to_vec();
    with_options[14] = 0x47;
    with_options[16..18].copy_from_slice(&(20 + 8 + 20 + 300u16).to_be_bytes());
    with_options.extend([7, 7, 4, 0, 0, 0, 0, 0]);
    with_options.extend(&plain[34..]);
    let header = etherparse::Ipv4HeaderSlice::from_slice(&with_options[14..]).unwrap().to_header();
    with_options[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    let frame = MemoryFrame::chained(&[&with_options[..70], &with_options[70..171], &with_options[171..]]);
    let (_, out) = one(&rig.send_to(0, WAN, frame));
    assert_eq!((out.tcp().0, out.total_len), (local, 348));
    assert!(matches!(out.transport, Transport::Tcp { ref payload, .. } if payload == &[7; 300]));

    let mut padded = frames::tcp(WAN, client(1), vip(80), ACK, &[]);
    padded.resize(60, 0xee);
    let sent = rig.send(WAN, &padded);
    assert_eq!(
        (sent[0].bytes.len(), read(&sent[0].bytes).total_len),
        (60, 40),
        "short frames keep their padding"
    );
    padded.resize(200, 0xee);
    let sent = rig.send(WAN, &padded);
    assert_eq!(sent[0].bytes.len(), 54, "what is beyond the packet is cut off");
}

#[test]
fn headers_split_over_segments_are_counted_not_misread() {
    let mut rig = fullnat();
    let frame = frames::tcp(WAN, client(1), vip(80), SYN, &[]);
    for cut in [10, 20, 33, 40, 53] {
        let sent = rig.send_to(0, WAN, MemoryFrame::chained(&[&frame[..cut], &frame[cut..]]));
        assert!(sent.is_empty(), "cut at {cut}");
    }
    assert_eq!(rig.drops(Reason::Truncated), 5);
}

/// Frames that must not be forwarded: what is done to a good SYN, and the reason.
#[test]
fn malformed_frames_end_in_their_reason() {
    type Spoil = fn(&mut Vec<u8>);
    let cases: &[(&str, Spoil, Reason)] = &[
        ("another station's", |f| f[5] ^= 0x40, Reason::NotOurMac),
        ("cut in the Ethernet header", |f| f.truncate(13), Reason::Truncated),
        ("cut in the IP header", |f| f.truncate(20), Reason::Truncated),
        ("cut in the TCP header", |f| f.truncate(40), Reason::Truncated),
        ("version 5", |f| f[14] = 0x55, Reason::BadIpHeader),
        ("header length 16", |f| f[14] = 0x44, Reason::BadIpHeader),
        ("total length below the header", |f| f[17] = 19, Reason::BadIpHeader),
        ("total length beyond the frame", |f| f[16] = 9, Reason::Truncated),
        ("IP checksum", |f| f[24] ^= 1, Reason::BadIpChecksum),
        ("TCP data offset 4", |f| f[46] = 0x40, Reason::BadTransportHeader),
        ("TCP data offset beyond the packet", |f| f[46] = 0xf0, Reason::BadTransportHeader),
        ("no SYN", |f| f[47] = 0x10, Reason::NoSession),
        ("RST", |f| f[47] = 0x04, Reason::NoSession),
        ("from loopback", |f| set_source(f, [127, 0, 0, 1]), Reason::Martian),
        ("from a group", |f| set_source(f, [224, 0, 0, 1]), Reason::Martian),
        ("TTL 1", |f| set_ttl(f, 1), Reason::TtlExpired),
        ("TTL 0", |f| set_ttl(f, 0), Reason::TtlExpired),
        ("a first fragment of no multiple of eight", |f| set_fragment(f, 0x2000), Reason::BadFragment),
        ("a fragment beyond 64 KiB", |f| set_fragment(f, 0x1fff), Reason::BadFragment),
    ];
    for (what, spoil, reason) in cases {
        let mut rig = fullnat();
        let mut frame = frames::tcp(WAN, client(1), vip(80), SYN, &[]);
        spoil(&mut frame);
        let sent = rig.send(WAN, &frame);
        assert_eq!(rig.drops(*reason), 1, "{what}");
        assert_eq!((rig.total(), rig.session_count()), (1, 0), "{what}");
        assert!(sent.iter().all(|s| s.port == WAN), "{what}: {sent:?}");
    }
}

fn seal(frame: &mut [u8]) {
    let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
    frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
}

fn set_source(frame: &mut [u8], source: [u8; 4]) {
    frame[26..30].copy_from_slice(&source);
    seal(frame);
}

fn set_ttl(frame: &mut [u8], ttl: u8) {
    frame[22] = ttl;
    seal(frame);
}

fn set_fragment(frame: &mut [u8], field: u16) {
    frame[20..22].copy_from_slice(&field.to_be_bytes());
    seal(frame);
}

#[test]
fn the_gateway_answers_as_ipvs_s_host_does() {
    let mut rig = fullnat();
    let (port, out) = one(&rig.send(WAN, &frames::tcp(WAN, client(9), vip(80), ACK, &[])));
    assert_eq!((port, out.tcp()), (WAN, (vip(80), client(9), "R")));
    assert!(matches!(out.transport, Transport::Tcp { seq: 5001, .. }));

    for n in [1, 2] {
        let server = server([10, 0, 0, n], 8080, Forwarding::FullNat, 0);
        rig.change(weir_api::protocol::Change::EditServer { service: key(Protocol::Tcp, VIP, 80), server });
    }
    let syn = frames::tcp(WAN, client(9), vip(80), SYN, &[]);
    let (port, out) = one(&rig.send(WAN, &syn));
    assert_eq!((port, out.source, out.destination), (WAN, vip(80).0, client(9).0));
    let Transport::Icmp { kind, payload } = &out.transport else { panic!("{out:?}") };
    assert!(matches!(
        kind,
        Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port)
    ));
    assert_eq!(payload, &syn[14..], "the whole packet is quoted");
    assert_eq!(rig.drops(Reason::NoServer), 1);

    let mut old = frames::tcp(WAN, client(9), vip(80), SYN, &[]);
    set_ttl(&mut old, 1);
    let (_, out) = one(&rig.send(WAN, &old));
    assert_eq!((out.source, out.destination), (WAN_ADDRESS, client(9).0));
    assert!(matches!(out.transport, Transport::Icmp { kind: Icmpv4Type::TimeExceeded(_), .. }));
}

#[test]
fn what_is_no_service_s_goes_to_the_kernel_and_a_local_address_s_does_not() {
    let mut rig = fullnat();
    let echo = Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 1 });
    let punted = [
        frames::tcp(WAN, client(1), vip(22), SYN, &[]),
        frames::udp(WAN, client(1), vip(80), b"x"),
        frames::icmp(WAN, client(1).0, vip(0).0, echo, b"ping"),
        frames::tcp(WAN, client(1), (WAN_ADDRESS, 80), SYN, &[]),
    ];
    for frame in &punted {
        assert!(rig.send(WAN, frame).is_empty());
    }
    let got: Vec<_> = rig.take_punted().into_iter().map(|s| s.bytes).collect();
    assert_eq!(got, punted, "unchanged and in order");
    assert!(rig.send(LAN, &frames::tcp(LAN, rs(1, 8080), (LIP, 5000), ACK, &[])).is_empty());
    assert_eq!(rig.drops(Reason::NoLocalSession), 1);
    assert!(rig.take_punted().is_empty());

    let mut alone = rig_without_host();
    alone.send(WAN, &punted[0]);
    assert_eq!(alone.drops(Reason::NoHost), 1);
}

fn rig_without_host() -> Rig {
    rig(Forwarding::FullNat, &Options { host: false, ..Options::default() })
}

#[test]
fn errors_about_a_session_are_translated_both_ways() {
    for method in [Forwarding::FullNat, Forwarding::Nat] {
        let mut rig = rig(method, &Options::default());
        let request = frames::tcp(WAN, client(1), vip(80), SYN, &[0; 40]);
        let sent = rig.send(WAN, &request);
        let (local, to) = (one(&sent).1.tcp().0, one(&sent).1.tcp().1);
        // A router behind the gateway complains about the request.
        let router = Ipv4Addr::new(10, 0, 0, 77);
        let too_big = Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 },
        );
        let (port, out) =
            one(&rig.send(LAN, &frames::icmp(LAN, router, local.0, too_big.clone(), &sent[0].bytes[14..])));
        assert_eq!((port, out.source, out.destination), (WAN, vip(80).0, client(1).0));
        let Transport::Icmp { kind, payload } = &out.transport else { panic!("{out:?}") };
        assert_eq!(kind, &too_big);
        let mut expected = request[14..].to_vec();
        expected[8] = 63;
        let header = etherparse::Ipv4HeaderSlice::from_slice(&expected).unwrap().to_header();
        expected[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
        assert_eq!(payload, &expected, "the quote is the client's own packet, one hop older");

        // A router in front of it complains about the reply, quoting only 8 bytes of it.
        let reply = frames::tcp(LAN, to, local, Tcp { flags: "SA", seq: 5000, ack: 1001 }, &[]);
        let sent = rig.send(LAN, &reply);
        let outside = Ipv4Addr::new(10, 1, 77, 7);
        let error = frames::icmp(WAN, outside, vip(80).0, too_big.clone(), &sent[0].bytes[14..14 + 28]);
        let (port, out) = one(&rig.send(WAN, &error));
        let source = if method == Forwarding::FullNat { LIP } else { outside };
        assert_eq!((port, out.source, out.destination), (LAN, source, to.0));
        let Transport::Icmp { payload, .. } = &out.transport else { panic!("{out:?}") };
        assert_eq!(payload[12..20], reply[14 + 12..14 + 20], "addresses as the server sent them");
        assert_eq!(payload[20..28], reply[34..42], "ports and sequence number too");
    }
}

#[test]
fn errors_about_nothing_known_are_the_kernel_s_or_dropped_at_a_local_address() {
    let mut rig = fullnat();
    let stray = frames::tcp(LAN, (LIP, 5000), rs(1, 80), SYN, &[]);
    let kind = Icmpv4Type::TimeExceeded(etherparse::icmpv4::TimeExceededCode::TtlExceededInTransit);
    assert!(rig.send(LAN, &frames::icmp(LAN, rs(7, 0).0, LIP, kind.clone(), &stray[14..])).is_empty());
    assert_eq!(rig.drops(Reason::IcmpNoSession), 1);
    rig.send(LAN, &frames::icmp(LAN, rs(7, 0).0, rig::LAN_ADDRESS, kind.clone(), &stray[14..]));
    assert_eq!(rig.take_punted().len(), 1);
    // A broken checksum on one about a session.
    let sent = rig.send(WAN, &frames::tcp(WAN, client(1), vip(80), SYN, &[]));
    let mut error = frames::icmp(LAN, rs(7, 0).0, LIP, kind, &sent[0].bytes[14..]);
    error[36] ^= 1;
    assert!(rig.send(LAN, &error).is_empty());
    assert_eq!(rig.drops(Reason::BadIcmp), 1);
}

#[test]
fn a_packet_too_big_for_the_next_hop_is_fragmented_or_refused() {
    let mut rig = rig(Forwarding::FullNat, &Options { lan_mtu: 1000, ..Options::default() });
    let payload: Vec<u8> = (0..1300u32).map(|n| n as u8).collect();
    let mut frame = frames::udp(WAN, client(1), vip(53), &payload);
    frame[20] = 0x40;
    seal(&mut frame);
    let (port, out) = one(&rig.send(WAN, &frame));
    assert_eq!((port, out.destination), (WAN, client(1).0));
    let Transport::Icmp { kind, .. } = &out.transport else { panic!("{out:?}") };
    assert_eq!(
        *kind,
        Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded {
            next_hop_mtu: 1000
        })
    );
    assert_eq!(rig.drops(Reason::TooBig), 1);

    frame[20] = 0;
    seal(&mut frame);
    let sent = rig.send(WAN, &frame);
    assert_eq!(sent.len(), 2);
    let mut joined = Vec::new();
    for (n, piece) in sent.iter().enumerate() {
        let ip = etherparse::Ipv4Slice::from_slice(&piece.bytes[14..]).unwrap();
        let header = ip.header();
        assert!(header.total_len() <= 1000);
        assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
        assert_eq!(usize::from(header.fragments_offset().value()) * 8, joined.len());
        assert_eq!(header.more_fragments(), n == 0);
        joined.extend_from_slice(ip.payload().payload);
    }
    assert_eq!(joined[8..], payload);
}

#[test]
fn packets_of_one_session_find_its_worker_from_any_queue() {
    let mut rig = rig(Forwarding::FullNat, &Options { workers: 2, ..Options::default() });
    let mut handed = 0;
    for n in 1..=20 {
        let first = usize::from(n % 2);
        let sent = rig.send_to(first, WAN, MemoryFrame::new(&frames::tcp(WAN, client(n), vip(80), SYN, &[])));
        let (local, to, _) = {
            let r = one(&sent).1;
            let t = r.tcp();
            (t.0, t.1, ())
        };
        for worker in [0, 1] {
            let reply = frames::tcp(LAN, to, local, Tcp { flags: "SA", seq: 1, ack: 1 }, &[]);
            let (_, out) = one(&rig.send_to(worker, LAN, MemoryFrame::new(&reply)));
            assert_eq!(out.tcp(), (vip(80), client(n), "SA"));
            let ack = frames::tcp(WAN, client(n), vip(80), ACK, &[]);
            let (_, out) = one(&rig.send_to(worker, WAN, MemoryFrame::new(&ack)));
            assert_eq!(out.tcp(), (local, to, "A"));
        }
        handed = rig.count(Verdict::HandedOver);
    }
    assert_eq!(rig.session_count(), 20, "one session a client");
    assert!(handed >= 20, "{handed} handed over: one packet of each pair arrives on the other worker");
    assert!(rig.counters.iter().all(|c| c.get(Verdict::Forwarded) > 0), "both workers have work");
}
