//! Packet in, packet out: the methods whose replies pass the gateway by, DR and TUN, and datagrams without
//! session.

mod rig;

use std::net::Ipv4Addr;

use etherparse::{Icmpv4Type, icmpv4::DestUnreachableHeader};
use rig::{
    LAN, Options, Rig, Sent, WAN,
    frames::{self, Endpoint, Tcp, Transport, leaving, read},
    key, server,
};
use weir::{io::memory::MemoryFrame, path::verdict::Reason};
use weirctl::{
    model::{Forwarding, Protocol, SessionState},
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
fn dr_works_on_several_workers_whatever_queue_a_packet_arrives_on() {
    let mut rig = rig(Forwarding::Route, &Options { workers: 3, ..Options::default() });
    for n in 1..=20 {
        for (worker, tcp) in [(0, SYN), (1, ACK), (2, ACK), (0, ACK)] {
            let frame = frames::tcp(WAN, client(n), vip(80), tcp, &[]);
            to_server(&rig.send_to(worker, WAN, MemoryFrame::new(&frame)));
        }
    }
    assert_eq!(rig.session_count(), 20);
}
