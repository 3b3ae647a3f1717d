//! Any bytes, mutated anyhow: overlays and builders never panic, and what they build is valid.
//!
//! Frames start out valid, so that mutations reach deep; they are then overwritten, cut and extended at
//! random. Whatever reply is built for them is checked by etherparse.

use std::net::IpAddr;

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpNumber, Ipv4Options, Ipv6Extensions, Ipv6FragmentHeader, Ipv6RawExtHeader,
    NetSlice, PacketBuilder, SlicedPacket, TransportSlice, VlanId, icmpv4, icmpv6,
};
use proptest::prelude::*;
use weir::net::{
    Header,
    checksum::{Delta, Sum},
    ethernet::{EthernetHeader, Mac, VlanTag},
    icmp::{self, IcmpHeader},
    ipv4::{self, Ipv4Header},
    ipv6::{self, Ipv6Header},
    reply::{self, Problem, ReplyLink},
    tcp::TcpHeader,
    udp::UdpHeader,
};

const PROBLEMS: [Problem; 6] = [
    Problem::PortUnreachable,
    Problem::HostUnreachable,
    Problem::NetworkUnreachable,
    Problem::Prohibited,
    Problem::TooBig { mtu: 1400 },
    Problem::TtlExceeded,
];

/// Valid packets, from the IP header on.
fn valid(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let v4 = || PacketBuilder::ipv4([198, 51, 100, 7], [192, 0, 2, 10], 9);
    let v6 = || PacketBuilder::ipv6([0x20; 16], [0x30; 16], 9);
    let quoted = |inner: u8| valid(inner, b"quoted by an error");
    match kind % 10 {
        0 => v4().tcp(4000, 80, 7, 9).syn().write(&mut out, payload),
        1 => v6().tcp(4000, 80, 7, 9).ack(5).fin().write(&mut out, payload),
        2 => v4().udp(4000, 53).write(&mut out, payload),
        3 => v6().udp(4000, 53).write(&mut out, payload),
        4 => {
            let unreachable = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1280 };
            let kind = Icmpv4Type::DestinationUnreachable(unreachable);
            v4().icmpv4(kind).write(&mut out, &quoted(0))
        }
        5 => {
            let kind = Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded);
            v6().icmpv6(kind).write(&mut out, &quoted(3))
        }
        6 => v4().icmpv4_echo_request(1, 2).write(&mut out, payload),
        7 => v6().icmpv6_echo_request(1, 2).write(&mut out, payload),
        8 => {
            let len = payload.len() as u16 + 20;
            let mut ip =
                etherparse::Ipv4Header::new(len, 9, IpNumber::TCP, [1, 2, 3, 4], [5, 6, 7, 8]).unwrap();
            ip.options = Ipv4Options::try_from(&[7, 7, 4, 0, 0, 0, 0, 0][..]).unwrap();
            ip.set_payload_len(len.into()).unwrap();
            let segment = etherparse::TcpHeader::new(1, 2, 3, 4).to_bytes();
            out.extend([&ip.to_bytes()[..], &segment, payload].concat());
            Ok(())
        }
        _ => {
            let options = Ipv6RawExtHeader::new_raw(IpNumber(0), &[0; 6]).unwrap();
            let offset = etherparse::IpFragOffset::try_new(u16::from(kind) % 3).unwrap();
            let mut extensions = Ipv6Extensions {
                hop_by_hop_options: Some(options.clone()),
                destination_options: Some(options),
                fragment: Some(Ipv6FragmentHeader::new(IpNumber(0), offset, true, 7)),
                ..Default::default()
            };
            let first = extensions.set_next_headers(IpNumber::TCP);
            let mut ip = etherparse::Ipv6Header { next_header: first, hop_limit: 3, ..Default::default() };
            ip.set_payload_length(24 + 20 + payload.len()).unwrap();
            ip.source = [0x20; 16];
            ip.write(&mut out).unwrap();
            extensions.write(&mut out, first).unwrap();
            out.extend([&etherparse::TcpHeader::new(1, 2, 3, 4).to_bytes()[..], payload].concat());
            Ok(())
        }
    }
    .unwrap();
    out
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let mutations = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let start = (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..1500))
        .prop_map(|(kind, payload)| valid(kind, &payload));
    let mutated =
        (start, mutations, 0usize..1600, 0usize..60).prop_map(|(mut bytes, mutations, cut, head)| {
            for (at, value) in mutations {
                // Half of them in the headers, where they matter.
                let at = if value & 1 == 0 { at.index(bytes.len()) } else { at.index(bytes.len().min(80)) };
                bytes[at] = value;
            }
            match cut {
                0..200 => bytes.truncate(cut),
                200..400 => bytes.resize(bytes.len() + head, 0),
                _ => {}
            }
            bytes
        });
    prop_oneof![9 => mutated, 1 => proptest::collection::vec(any::<u8>(), 0..300)]
}

/// Reads and rewrites everything that there is to a header at the front of `bytes`.
fn exercise(bytes: &mut [u8]) {
    if let Some((header, rest)) = EthernetHeader::split_mut(bytes) {
        header.set_ether_type(header.ether_type() ^ 1);
        let _ = (header.source.is_group(), VlanTag::split(rest).map(|(tag, _)| tag.id()));
    }
    let _ = (ipv4::split(bytes).is_ok(), ipv6::upper(bytes).is_ok());
    let _ = (icmp::inner_v4(bytes).is_ok(), icmp::inner_v6(bytes).is_ok());
    let len = bytes.len();
    if let Some((ip, _)) = Ipv4Header::split_mut(bytes) {
        ip.decrement_ttl();
        let _ = (ip.check(len), ip.fragment_offset(), ip.is_fragment(), ip.dont_fragment());
    }
    if let Some((ip, _)) = Ipv6Header::split_mut(bytes) {
        ip.decrement_hop_limit();
        ip.set_traffic_class(ip.traffic_class() ^ 0xff);
        ip.set_flow_label(ip.flow_label() ^ u32::MAX);
        let _ = ip.check(len);
    }
    if let Some((tcp, _)) = TcpHeader::split_mut(bytes) {
        tcp.set_checksum(Delta::word(tcp.source_port(), 1).apply(tcp.checksum()));
        let _ = (tcp.check(len), tcp.sequence_len(u32::MAX));
    }
    if let Some((udp, _)) = UdpHeader::split_mut(bytes) {
        udp.set_checksum(Delta::word(udp.source_port(), 1).apply_udp(udp.checksum()));
        let _ = udp.check(len);
    }
    if let Some((icmp, _)) = IcmpHeader::split_mut(bytes) {
        icmp.set_mtu_v4(icmp.mtu_v4() ^ 1);
        let _ = (icmp.echo_id(), icmp.echo_sequence(), icmp.is_error_v4(), icmp.is_error_v6());
    }
    let _ = (Sum::of(bytes).swapped().checksum(), ipv4::checksum_ok(bytes));
}

/// Whether etherparse finds every length and checksum right.
fn check_frame(frame: &[u8]) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a readable frame");
    let transport = sliced.transport.expect("a transport layer");
    match (sliced.net.expect("an IP header"), transport) {
        (NetSlice::Ipv4(ip), transport) => {
            let ip = ip.header().to_header();
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let header = tcp.to_header();
                    assert_eq!(header.checksum, header.calc_checksum_ipv4(&ip, tcp.payload()).unwrap());
                }
                TransportSlice::Icmpv4(icmp) => {
                    assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
                    assert!(ip.total_len <= 576);
                }
                other => panic!("{other:?}"),
            }
        }
        (NetSlice::Ipv6(ip), transport) => {
            let ip = ip.header().to_header();
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let header = tcp.to_header();
                    assert_eq!(header.checksum, header.calc_checksum_ipv6(&ip, tcp.payload()).unwrap());
                }
                TransportSlice::Icmpv6(icmp) => {
                    assert!(icmp.is_checksum_valid(ip.source, ip.destination));
                    assert!(ip.payload_length <= 1280 - 40);
                }
                other => panic!("{other:?}"),
            }
        }
        (other, _) => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn overlays_never_panic(mut bytes in packet(), offset in 0usize..64) {
        exercise(&mut bytes);
        let at = offset.min(bytes.len());
        exercise(&mut bytes[at..]);
    }

    #[test]
    fn replies_are_valid_or_refused(
        bytes in packet(), room in prop_oneof![0usize..120, Just(2048)], vlan in proptest::option::of(0u16..4096),
    ) {
        let link = ReplyLink { destination: Mac([2; 6]), source: Mac([4; 6]), vlan };
        let mut answers = vec![[0xa5; 2048]; 0];
        let mut attempt = |build: &dyn Fn(&mut [u8]) -> Result<usize, reply::NoReply>| {
            let mut out = [0xa5; 2048];
            if let Ok(len) = build(&mut out[..room]) {
                assert!(len <= room);
                check_frame(&out[..len]);
                assert!(out[len..].iter().all(|&b| b == 0xa5), "written past the end");
                answers.push(out);
            }
        };
        attempt(&|out| reply::tcp_reset(out, &link, &bytes));
        for problem in PROBLEMS {
            for from in [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x30; 16])] {
                attempt(&|out| reply::icmp_error(out, &link, from, problem, &bytes));
            }
        }
        // No answer to an answer that reports trouble.
        let header = if vlan.is_some() { EthernetHeader::LEN + VlanTag::LEN } else { EthernetHeader::LEN };
        for answer in answers {
            let mut out = [0; 2048];
            prop_assert!(reply::tcp_reset(&mut out, &link, &answer[header..]).is_err());
        }
    }
}

#[test]
fn a_vlan_tag_is_read_back() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .single_vlan(VlanId::try_new(7).unwrap())
        .ipv4([1, 1, 1, 1], [2, 2, 2, 2], 3)
        .udp(1, 2)
        .write(&mut frame, &[])
        .unwrap();
    let (_, rest) = EthernetHeader::split(&frame).unwrap();
    assert_eq!(VlanTag::split(rest).unwrap().0.id(), 7);
}
