//! Packet in, packet out: the methods whose replies pass the gateway by, DR and TUN, and datagrams without
//! session.

mod rig;

use std::net::Ipv4Addr;

use etherparse::{Icmpv4Type, icmpv4::DestUnreachableHeader};
use rig::{
    LAN, LAN_ADDRESS, Options, Rig, Sent, WAN,
    frames::{self, Endpoint, Tcp, Transport, leaving, read},
    key, server,
};
use weir::{io::memory::MemoryFrame, path::verdict::Reason};
use weir_api::{
    model::{Forwarding, Protocol, Service, SessionState, Tunnel, TunnelChecksum, TunnelKind},
    protocol::Change,
};

const VIP: [u8; 4] = [192, 0, 2, 10];
const SYN: Tcp<'static> = Tcp { flags: "S", seq: 1000, ack: 0 };
const ACK: Tcp<'static> = Tcp { flags: "A", seq: 1001, ack: 5001 };

fn vip(port: u16) -> Endpoint {
    (Ipv4Addr::from(VIP), port)
}

fn client(n: u8) -> Endpoint {
    (Ipv4Addr::new(10, 1, 0, n), 40000)
}

/// TCP 80 and UDP 53 with two servers each.
fn rig(method: Forwarding, options: &Options) -> Rig {
    let mut rig = Rig::with(options);
    for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
        rig.add_service(protocol, VIP, port, "rr", method == Forwarding::FullNat);
        for n in [1, 2] {
            rig.add_server(key(protocol, VIP, port), server([10, 0, 0, n], port, method, 1));
        }
    }
    rig
}

/// The only frame that left, which must have left towards the servers.
fn to_server(sent: &[Sent]) -> &[u8] {
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(sent[0].port, LAN);
    &sent[0].bytes
}

/// `packet` as it is one hop later, checksum and all.
fn aged(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[8] -= 1;
    let header = etherparse::Ipv4HeaderSlice::from_slice(&packet).unwrap().to_header();
    packet[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    packet
}

fn too_big(mtu: u16) -> Icmpv4Type {
    Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu })
}

fn set_dont_fragment(frame: &mut [u8], on: bool) {
    frame[20] = if on { 0x40 } else { 0 };
    let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
    frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
}

#[test]
fn dr_changes_nothing_but_ttl_and_mac_addresses() {
    let mut rig = rig(Forwarding::Route, &Options::default());
    let frames = [
        frames::tcp(WAN, client(1), vip(80), SYN, &[]),
        frames::tcp(WAN, client(1), vip(80), ACK, &[]),
        frames::tcp(WAN, client(1), vip(80), Tcp { flags: "PA", ..ACK }, b"GET /"),
        frames::udp(WAN, client(1), vip(53), b"query"),
    ];
    for frame in &frames {
        let sent = rig.send(WAN, frame);
        let out = to_server(&sent);
        assert_eq!(read(out).macs, leaving(LAN));
        assert_eq!(out[14..], aged(&frame[14..]));
    }
    let s = rig.sessions().into_iter().find(|s| s.protocol == 6).unwrap();
    assert_eq!(s.state, SessionState::Established);
    assert_eq!((s.local, s.server), (s.client, ([10, 0, 0, 2].into(), 80)));
}

/// Every server's packets to clients pass the gateway by; one that comes here all the same is the kernel's.
#[test]
fn dr_claims_no_replies() {
    let mut rig = rig(Forwarding::Route, &Options::default());
    rig.send(WAN, &frames::tcp(WAN, client(1), vip(80), SYN, &[]));
    let reply = frames::tcp(LAN, (Ipv4Addr::new(10, 0, 0, 2), 80), client(1), ACK, &[]);
    assert!(rig.send(LAN, &reply).is_empty());
    assert_eq!(rig.take_punted().len(), 1);
}

#[test]
fn dr_sessions_follow_routes_deletions_and_expiry() {
    let mut rig = rig(Forwarding::Route, &Options::default());
    let syn = frames::tcp(WAN, client(1), vip(80), SYN, &[]);
    let ack = frames::tcp(WAN, client(1), vip(80), ACK, &[]);
    rig.send(WAN, &syn);
    to_server(&rig.send(WAN, &ack));
    rig.new_routes(1400);
    to_server(&rig.send(WAN, &ack));
    let service = key(Protocol::Tcp, VIP, 80);
    rig.change(Change::DeleteServer { service, address: [10, 0, 0, 2].into(), port: 80 });
    assert!(rig.send(WAN, &ack).is_empty());
    assert_eq!(rig.drops(Reason::ServerDeleted), 1);
    rig.add_server(service, server([10, 0, 0, 2], 80, Forwarding::Route, 1));
    to_server(&rig.send(WAN, &ack));
    to_server(&rig.send(WAN, &frames::tcp(WAN, client(1), vip(80), Tcp { flags: "FA", ..ACK }, &[])));
    assert_eq!(rig.sessions()[0].state, SessionState::FinWait);
    rig.advance(121.0);
    assert_eq!(rig.session_count(), 0);
    let mut old = syn;
    old[22] = 1;
    let header = etherparse::Ipv4HeaderSlice::from_slice(&old[14..]).unwrap().to_header();
    old[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    rig.send(WAN, &old);
    assert_eq!(rig.drops(Reason::TtlExpired), 1);
}

#[test]
fn dr_too_big_is_refused_or_fragmented() {
    let mut rig = rig(Forwarding::Route, &Options { lan_mtu: 1000, ..Options::default() });
    let mut frame = frames::udp(WAN, client(1), vip(53), &[7; 1300]);
    set_dont_fragment(&mut frame, true);
    let sent = rig.send(WAN, &frame);
    let out = read(&sent[0].bytes);
    assert!(matches!(out.transport, Transport::Icmp { kind, .. } if kind == too_big(1000)));
    set_dont_fragment(&mut frame, false);
    let sent = rig.send(WAN, &frame);
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|s| s.port == LAN && s.bytes.len() <= 1014));
}

/// A router near the client complains about what the server sent: only the server can act on it.
#[test]
fn errors_about_the_server_s_packets_reach_it_as_they_are() {
    let mut rig = rig(Forwarding::Route, &Options::default());
    let sent = rig.send(WAN, &frames::tcp(WAN, client(1), vip(80), SYN, &[]));
    to_server(&sent);
    let reply = frames::tcp(LAN, vip(80), client(1), Tcp { flags: "SA", seq: 1, ack: 1001 }, &[]);
    let error = frames::icmp(WAN, Ipv4Addr::new(10, 1, 9, 9), vip(0).0, too_big(1400), &reply[14..]);
    let sent = rig.send(WAN, &error);
    assert_eq!(to_server(&sent)[14..], aged(&error[14..]));
}

#[test]
fn dr_works_on_several_workers_from_any_queue() {
    let mut rig = rig(Forwarding::Route, &Options { workers: 3, ..Options::default() });
    for n in 1..=20 {
        for (worker, tcp) in [(0, SYN), (1, ACK), (2, ACK), (0, ACK)] {
            let frame = frames::tcp(WAN, client(n), vip(80), tcp, &[]);
            to_server(&rig.send_to(worker, WAN, MemoryFrame::new(&frame)));
        }
    }
    assert_eq!(rig.session_count(), 20);
}

fn tunnel(kind: TunnelKind, checksum: TunnelChecksum) -> Forwarding {
    let port = if kind == TunnelKind::Gue { 6080 } else { 0 };
    Forwarding::Tunnel(Tunnel { kind, port, checksum })
}

/// The packet inside a frame that left through a tunnel; every checksum on the way to it is verified.
fn unwrap(frame: &[u8], method: Forwarding) -> Vec<u8> {
    let Forwarding::Tunnel(Tunnel { kind, port, checksum }) = method else { panic!("no tunnel") };
    let out = read(frame);
    assert_eq!(out.macs, leaving(LAN));
    assert_eq!((out.source, out.destination.octets()[..3].to_vec()), (LAN_ADDRESS, vec![10, 0, 0]));
    match (kind, out.transport) {
        (TunnelKind::Ipip, Transport::Other { protocol: 4, payload }) => payload,
        (TunnelKind::Gue, Transport::Udp { source, destination, checksum: field, payload }) => {
            assert!((32768..60999).contains(&source));
            assert_eq!((destination, field != 0), (port, checksum != TunnelChecksum::None));
            assert_eq!(payload[..4], [0, 4, 0, 0], "GUE: version 0, IPIP, no options");
            payload[4..].to_vec()
        }
        (TunnelKind::Gre, Transport::Other { protocol: 47, payload }) => {
            if checksum == TunnelChecksum::None {
                assert_eq!(payload[..4], [0, 0, 8, 0]);
                return payload[4..].to_vec();
            }
            assert_eq!((&payload[..4], &payload[6..8]), (&[0x80, 0, 8, 0][..], &[0, 0][..]));
            let words = payload.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |&b| b.into()));
            let sum = words.sum::<u32>();
            assert_eq!((sum >> 16) + (sum & 0xffff), 0xffff, "GRE checksum");
            payload[8..].to_vec()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn tunnels_carry_the_packet_one_hop_older() {
    use TunnelChecksum::{Full, None, Remote};
    use TunnelKind::{Gre, Gue, Ipip};
    for (kind, checksum, added) in [
        (Ipip, None, 20),
        (Gue, None, 32),
        (Gue, Full, 32),
        (Gue, Remote, 32),
        (Gre, None, 24),
        (Gre, Full, 28),
    ] {
        let method = tunnel(kind, checksum);
        let mut rig = rig(method, &Options::default());
        for (n, payload) in [&b""[..], b"odd", &[0x5a; 1000]].into_iter().enumerate() {
            let mut frame = frames::udp(WAN, client(1), vip(53), payload);
            frame[15] = 0xb9; // expedited forwarding, ECT(1)
            set_dont_fragment(&mut frame, n == 1);
            let mut padded = frame.clone();
            padded.resize(frame.len().max(60), 0xee);
            let (head, tail) = padded.split_at(42);
            let sent = rig.send_to(0, WAN, MemoryFrame::chained(&[head, tail]));
            let out = to_server(&sent);
            assert_eq!(unwrap(out, method), aged(&frame[14..]), "{method:?}");
            assert_eq!(out.len(), frame.len() + added);
            let outer = etherparse::Ipv4HeaderSlice::from_slice(&out[14..]).unwrap();
            assert_eq!((out[15], outer.ttl(), outer.dont_fragment()), (0xb9, 63, n == 1));
            assert_eq!(outer.identification() == 0, n == 1, "an identification where it may be needed");
        }
    }
}

#[test]
fn what_does_not_fit_a_tunnel_is_refused_with_the_mtu_inside_or_fragmented() {
    for (kind, mtu) in [(TunnelKind::Ipip, 1480), (TunnelKind::Gue, 1468), (TunnelKind::Gre, 1476)] {
        let method = tunnel(kind, TunnelChecksum::None);
        let mut rig = rig(method, &Options::default());
        for (len, fits) in [(mtu, true), (mtu + 1, false)] {
            let mut frame = frames::udp(WAN, client(1), vip(53), &vec![1; usize::from(len) - 28]);
            set_dont_fragment(&mut frame, true);
            let sent = rig.send(WAN, &frame);
            if fits {
                assert_eq!(unwrap(to_server(&sent), method), aged(&frame[14..]));
                continue;
            }
            assert_eq!((sent.len(), sent[0].port), (1, WAN));
            let out = read(&sent[0].bytes);
            assert!(matches!(out.transport, Transport::Icmp { kind, .. } if kind == too_big(mtu)));
            set_dont_fragment(&mut frame, false);
            let sent = rig.send(WAN, &frame);
            assert_eq!(sent.len(), 2);
            let ids: Vec<_> = sent.iter().map(|s| s.bytes[18..20].to_vec()).collect();
            assert_eq!(ids[0], ids[1], "two fragments of one outer packet");
        }
    }
}

#[test]
fn a_tunnel_follows_its_server_s_configuration() {
    let before = tunnel(TunnelKind::Ipip, TunnelChecksum::None);
    let after = tunnel(TunnelKind::Gre, TunnelChecksum::Full);
    let mut rig = rig(before, &Options::default());
    rig.send(WAN, &frames::tcp(WAN, client(1), vip(80), SYN, &[]));
    let ack = frames::tcp(WAN, client(1), vip(80), ACK, &[]);
    unwrap(to_server(&rig.send(WAN, &ack)), before);
    let server = server([10, 0, 0, 2], 80, after, 1);
    rig.change(Change::EditServer { service: key(Protocol::Tcp, VIP, 80), server });
    assert_eq!(unwrap(to_server(&rig.send(WAN, &ack)), after), aged(&ack[14..]));
    rig.new_routes(80);
    assert!(rig.send(WAN, &ack).is_empty());
    assert_eq!(rig.drops(Reason::TunnelMtu), 1);
}

/// A UDP service with one-packet scheduling and two servers.
fn one_packet(method: Forwarding, workers: usize) -> Rig {
    let mut rig = Rig::with(&Options { workers, ..Options::default() });
    rig.add_service(Protocol::Udp, VIP, 53, "rr", method == Forwarding::FullNat);
    let service = rig.service(key(Protocol::Udp, VIP, 53));
    rig.change(Change::EditService(Service { one_packet: true, ..service }));
    for n in [1, 2] {
        rig.add_server(key(Protocol::Udp, VIP, 53), server([10, 0, 0, n], 53, method, 1));
    }
    rig
}

#[test]
fn one_packet_services_schedule_every_datagram() {
    let ipip = tunnel(TunnelKind::Ipip, TunnelChecksum::None);
    for method in [Forwarding::Nat, Forwarding::Route, ipip] {
        for workers in [1, 2] {
            let mut rig = one_packet(method, workers);
            let query = frames::udp(WAN, client(1), vip(53), b"query");
            let mut servers = Vec::new();
            for _ in 0..4 {
                let sent = rig.send(WAN, &query);
                let out = to_server(&sent);
                match method {
                    Forwarding::Nat => servers.push(read(out).destination.octets()[3]),
                    Forwarding::Route => assert_eq!(out[14..], aged(&query[14..])),
                    _ => {
                        assert_eq!(unwrap(out, method), aged(&query[14..]));
                        servers.push(read(out).destination.octets()[3]);
                    }
                }
            }
            assert!(servers.is_empty() || servers == [2, 1, 2, 1] || servers == [1, 2, 1, 2], "{servers:?}");
            assert_eq!(rig.session_count(), 0);
        }
    }
}

#[test]
fn one_packet_fullnat_has_a_port_until_the_reply_has_passed() {
    let mut rig = one_packet(Forwarding::FullNat, 1);
    let query = frames::udp(WAN, client(1), vip(53), b"query");
    let mut ways = Vec::new();
    for _ in 0..3 {
        let sent = rig.send(WAN, &query);
        ways.push(read(to_server(&sent)).udp());
    }
    assert_ne!(ways[0].0, ways[2].0, "each has a port of its own");
    assert_eq!(ways[0].1, ways[2].1, "rr over two servers");
    for (local, server) in &ways {
        let sent = rig.send(LAN, &frames::udp(LAN, *server, *local, b"answer"));
        assert_eq!((sent.len(), sent[0].port), (1, WAN));
        assert_eq!(read(&sent[0].bytes).udp(), (vip(53), client(1)));
    }
    assert_eq!(rig.session_count(), 3);
    rig.advance(2.5);
    assert_eq!(rig.session_count(), 0, "answered");
    rig.send(WAN, &query);
    rig.advance(100.0);
    assert_eq!(rig.session_count(), 1, "not answered yet");
}
