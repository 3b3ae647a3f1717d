//! Replies are checked by etherparse, which verifies every length and checksum.

use etherparse::{
    Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, icmpv4, icmpv6,
};
use proptest::prelude::*;

use super::*;

const LINK: ReplyLink =
    ReplyLink { destination: Mac([2, 0, 0, 0, 0, 1]), source: Mac([2, 0, 0, 0, 0, 2]), vlan: None };
const CLIENT: [u8; 4] = [198, 51, 100, 7];
const VIP: [u8; 4] = [192, 0, 2, 10];

/// A TCP segment over IPv4 with the given flags.
fn segment(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = etherparse::TcpHeader::new(4000, 80, 1000, 500);
    header.acknowledgment_number = 7777;
    header.syn = flags & tcp::SYN != 0;
    header.fin = flags & tcp::FIN != 0;
    header.ack = flags & tcp::ACK != 0;
    header.rst = flags & tcp::RST != 0;
    header.set_options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1460)]).unwrap();
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(CLIENT, VIP, 60).tcp_header(header).write(&mut bytes, payload).unwrap();
    bytes
}

fn datagram_v4(payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(CLIENT, VIP, 60).udp(4000, 53).write(&mut bytes, &vec![7; payload]).unwrap();
    bytes
}

fn datagram_v6(payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv6([0x20; 16], [0x30; 16], 60)
        .udp(4000, 53)
        .write(&mut bytes, &vec![7; payload])
        .unwrap();
    bytes
}

/// The reset's fields, after etherparse has verified its checksums and addresses.
fn read_reset(frame: &[u8]) -> etherparse::TcpHeader {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
    let header = tcp.to_header();
    assert!(tcp.payload().is_empty());
    match sliced.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let ip = ip.header().to_header();
            assert_eq!((ip.source, ip.destination), (VIP, CLIENT));
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert!(ip.dont_fragment);
            assert_eq!(header.checksum, header.calc_checksum_ipv4(&ip, &[]).unwrap());
        }
        NetSlice::Ipv6(ip) => {
            let ip = ip.header().to_header();
            assert_eq!((ip.source, ip.destination), ([0x30; 16], [0x20; 16]));
            assert_eq!(header.checksum, header.calc_checksum_ipv6(&ip, &[]).unwrap());
        }
        NetSlice::Arp(_) => panic!("ARP"),
    }
    assert_eq!((header.source_port, header.destination_port), (80, 4000));
    header
}

#[test]
fn reset_follows_rfc_9293() {
    // flags, payload -> flags, sequence, acknowledgement
    let table = [
        (tcp::SYN, &b""[..], (true, 0, 1001)),
        (tcp::SYN, b"fast open", (true, 0, 1010)),
        (tcp::FIN, b"xy", (true, 0, 1003)),
        (tcp::SYN | tcp::FIN, b"", (true, 0, 1002)),
        (0, b"", (true, 0, 1000)),
        (tcp::ACK, b"data", (false, 7777, 0)),
        (tcp::SYN | tcp::ACK, b"", (false, 7777, 0)),
        (tcp::FIN | tcp::ACK, b"", (false, 7777, 0)),
    ];
    for (flags, payload, (ack, sequence, acknowledgement)) in table {
        let mut out = [0xee; 128];
        let len = tcp_reset(&mut out, &LINK, &segment(flags, payload)).unwrap();
        assert_eq!(len, 54);
        let reset = read_reset(&out[..len]);
        assert!(reset.rst && !reset.syn && !reset.fin);
        assert_eq!(reset.ack, ack, "flags {flags:#x}");
        assert_eq!((reset.sequence_number, reset.acknowledgment_number), (sequence, acknowledgement));
    }
}

#[test]
fn reset_over_ipv6_and_vlan() {
    let mut packet = Vec::new();
    PacketBuilder::ipv6([0x20; 16], [0x30; 16], 60)
        .tcp(4000, 80, u32::MAX, 1)
        .syn()
        .write(&mut packet, &[])
        .unwrap();
    let mut out = [0; 128];
    let link = ReplyLink { vlan: Some(12), ..LINK };
    let len = tcp_reset(&mut out, &link, &packet).unwrap();
    assert_eq!(len, 14 + 4 + 40 + 20);
    assert_eq!(out[12..18], [0x81, 0, 0, 12, 0x86, 0xdd]);
    let reset = read_reset(&out[..len]);
    assert_eq!((reset.sequence_number, reset.acknowledgment_number), (0, 0));
}

#[test]
fn reset_ignores_padding_and_needs_no_payload() {
    let mut padded = segment(tcp::SYN, b"abc");
    let cut = padded[..44].to_vec();
    padded.extend_from_slice(&[0; 6]);
    let mut out = [0; 64];
    for packet in [padded, cut] {
        let len = tcp_reset(&mut out, &LINK, &packet).unwrap();
        assert_eq!(read_reset(&out[..len]).acknowledgment_number, 1004);
    }
}

#[test]
fn reset_isnt_sent_where_it_must_not() {
    let mut out = [0; 128];
    assert_eq!(tcp_reset(&mut out, &LINK, &segment(tcp::RST, b"")), Err(NoReply::Forbidden));
    assert_eq!(tcp_reset(&mut out, &LINK, &datagram_v4(1)), Err(NoReply::Mismatch));
    assert_eq!(tcp_reset(&mut out[..53], &LINK, &segment(tcp::SYN, b"")), Err(NoReply::NoRoom));
    let mut packet = segment(tcp::SYN, b"");
    packet[6] = 0x20;
    assert_eq!(tcp_reset(&mut out, &LINK, &packet), Err(NoReply::Forbidden));
    for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
        let mut packet = segment(tcp::SYN, b"");
        packet[12..16].copy_from_slice(&source);
        assert_eq!(tcp_reset(&mut out, &LINK, &packet), Err(NoReply::Forbidden), "{source:?}");
    }
    assert_eq!(tcp_reset(&mut out, &LINK, &[]), Err(NoReply::Malformed(Malformed::Truncated)));
}

#[test]
fn errors_v4_have_the_right_numbers_and_quote() {
    use icmpv4::DestUnreachableHeader as D;
    let table = [
        (Problem::PortUnreachable, Icmpv4Type::DestinationUnreachable(D::Port)),
        (Problem::HostUnreachable, Icmpv4Type::DestinationUnreachable(D::Host)),
        (Problem::NetworkUnreachable, Icmpv4Type::DestinationUnreachable(D::Network)),
        (Problem::Prohibited, Icmpv4Type::DestinationUnreachable(D::FilterProhibited)),
        (
            Problem::TooBig { mtu: 1400 },
            Icmpv4Type::DestinationUnreachable(D::FragmentationNeeded { next_hop_mtu: 1400 }),
        ),
        (Problem::TtlExceeded, Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit)),
    ];
    for (problem, expected) in table {
        for payload in [0, 1, 100, 519, 520, 521, 1400] {
            let packet = datagram_v4(payload);
            let mut padded = packet.clone();
            padded.extend_from_slice(&[0xee; 9]);
            let mut out = [0; 2048];
            let len = icmp_error(&mut out, &LINK, Ipv4Addr::from(VIP).into(), problem, &padded).unwrap();
            let sliced = SlicedPacket::from_ethernet(&out[..len]).unwrap();
            let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
            let header = ip.header().to_header();
            assert_eq!((header.source, header.destination), (VIP, CLIENT));
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert!(usize::from(header.total_len) <= 576);
            let Some(TransportSlice::Icmpv4(icmp)) = &sliced.transport else { panic!("no ICMP") };
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
            assert_eq!(icmp.icmp_type(), expected);
            assert_eq!(icmp.payload(), &packet[..packet.len().min(548)]);
        }
    }
}

#[test]
fn errors_v6_have_the_right_numbers_and_quote() {
    use icmpv6::DestUnreachableCode as D;
    let table = [
        (Problem::PortUnreachable, Icmpv6Type::DestinationUnreachable(D::Port)),
        (Problem::HostUnreachable, Icmpv6Type::DestinationUnreachable(D::Address)),
        (Problem::NetworkUnreachable, Icmpv6Type::DestinationUnreachable(D::NoRoute)),
        (Problem::Prohibited, Icmpv6Type::DestinationUnreachable(D::Prohibited)),
        (Problem::TooBig { mtu: 1280 }, Icmpv6Type::PacketTooBig { mtu: 1280 }),
        (Problem::TtlExceeded, Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded)),
    ];
    for (problem, expected) in table {
        for payload in [0, 1, 1183, 1184, 1185, 1400] {
            let packet = datagram_v6(payload);
            let mut out = [0; 2048];
            let from = Ipv6Addr::from([0x30; 16]);
            let len = icmp_error(&mut out, &LINK, from.into(), problem, &packet).unwrap();
            assert!(len <= 14 + 1280);
            let sliced = SlicedPacket::from_ethernet(&out[..len]).unwrap();
            let Some(TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("no ICMP") };
            assert!(icmp.is_checksum_valid([0x30; 16], [0x20; 16]));
            assert_eq!(icmp.icmp_type(), expected);
            assert_eq!(icmp.payload(), &packet[..packet.len().min(1232)]);
        }
    }
}

#[test]
fn errors_arent_sent_where_they_must_not() {
    let mut out = [0; 2048];
    let mut ask = |from: IpAddr, problem, packet: &[u8]| icmp_error(&mut out, &LINK, from, problem, packet);
    let (v4, v6) = (IpAddr::from(VIP), IpAddr::from([0x30; 16]));
    let port = Problem::PortUnreachable;
    assert_eq!(ask(v6, port, &datagram_v4(1)), Err(NoReply::Mismatch));
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(CLIENT, VIP, 60)
        .icmpv4(Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit))
        .write(&mut bytes, &datagram_v4(1))
        .unwrap();
    assert_eq!(ask(v4, port, &bytes), Err(NoReply::Forbidden));
    // An address mask reply is the last type that is known not to be an error.
    for (kind, answered) in [(17, true), (18, true), (19, false), (255, false)] {
        let mut bytes = Vec::new();
        let message = Icmpv4Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0; 4] };
        PacketBuilder::ipv4(CLIENT, VIP, 60).icmpv4(message).write(&mut bytes, &[]).unwrap();
        assert_eq!(ask(v4, port, &bytes).is_ok(), answered, "{kind}");
    }
    let mut later = datagram_v4(8);
    later[7] = 1;
    assert_eq!(ask(v4, port, &later), Err(NoReply::Forbidden));
    let mut group = datagram_v4(8);
    group[16] = 239;
    assert_eq!(ask(v4, port, &group), Err(NoReply::Forbidden));

    let mut bytes = Vec::new();
    PacketBuilder::ipv6([0x20; 16], [0x30; 16], 60)
        .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1280 })
        .write(&mut bytes, &datagram_v6(1))
        .unwrap();
    assert_eq!(ask(v6, port, &bytes), Err(NoReply::Forbidden));
    for (kind, answered) in [(127, false), (128, true), (136, true), (137, false), (138, true)] {
        let mut bytes = Vec::new();
        let message = Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0; 4] };
        PacketBuilder::ipv6([0x20; 16], [0x30; 16], 60).icmpv6(message).write(&mut bytes, &[]).unwrap();
        assert_eq!(ask(v6, port, &bytes).is_ok(), answered, "{kind}");
    }
    // The first byte of a later fragment isn't a type; that of the first fragment is.
    for (offset, answered) in [(0, true), (1, false)] {
        let fragment = [&[58, 0, 0, offset * 8 + 1, 0, 0, 0, 7][..], &[128, 0, 0, 0, 0, 0, 0, 0]].concat();
        let mut bytes = Vec::new();
        PacketBuilder::ipv6([0x20; 16], [0x30; 16], 60)
            .write(&mut bytes, etherparse::IpNumber(44), &fragment)
            .unwrap();
        assert_eq!(ask(v6, port, &bytes).is_ok(), answered, "offset {offset}");
    }
    let mut group = datagram_v6(8);
    group[24] = 0xff;
    assert_eq!(ask(v6, port, &group), Err(NoReply::Forbidden));
    assert!(ask(v6, Problem::TooBig { mtu: 1400 }, &group).is_ok());
}

#[test]
fn echo_requests_are_reported_on() {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(CLIENT, VIP, 1).icmpv4_echo_request(1, 2).write(&mut bytes, b"ping").unwrap();
    let mut out = [0; 256];
    let from = IpAddr::from([192, 0, 2, 1]);
    assert!(icmp_error(&mut out, &LINK, from, Problem::TtlExceeded, &bytes).is_ok());
}

proptest! {
    #[test]
    fn short_buffers_are_refused(room in 0usize..54) {
        let mut out = [0; 54];
        prop_assert_eq!(tcp_reset(&mut out[..room], &LINK, &segment(tcp::SYN, b"")), Err(NoReply::NoRoom));
    }
}
