//! How often the gateway answers in its own name, and what it gives the kernel: each kind has its own limit, at, below and
//! above which it is tried here.

mod rig;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{Icmpv6Type, PacketBuilder};
use rig::{
    LAN, LIP, Options, Rig, WAN,
    frames::{self, Tcp, arriving},
    key, server,
};
use weir::path::{
    egress::punt_kind::PuntKind,
    verdict::{Reason, Verdict},
};
use weir_api::model::{Forwarding, Protocol};

const VIP: [u8; 4] = [192, 0, 2, 10];
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// ICMP errors of one kind that a worker sends at once, in a tick, and resets.
const AT_ONCE: usize = 50;
const A_TICK: usize = 10;
const RESETS: usize = 1000;

/// TCP 80 and UDP 53 with a server behind an MTU of 1300, TCP 81 without one, UDP 54 with the gateway itself.
fn rig() -> Rig {
    let mut rig = Rig::with(&Options { lan_mtu: 1300, ..Options::default() });
    for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53)] {
        rig.add_service(protocol, VIP, port, "rr", true);
        rig.add_server(key(protocol, VIP, port), server([10, 0, 0, 1], port, Forwarding::FullNat, 1));
    }
    rig.add_service(Protocol::Tcp, VIP, 81, "rr", false);
    rig.add_service(Protocol::Udp, VIP, 54, "rr", false);
    rig.add_server(key(Protocol::Udp, VIP, 54), server([10, 0, 0, 254], 54, Forwarding::Nat, 1));
    rig
}

/// A SYN to a port of the service, with this TTL.
fn syn(port: u16, ttl: u8) -> Vec<u8> {
    let (source, destination) = arriving(WAN);
    let mut out = Vec::new();
    PacketBuilder::ethernet2(source, destination)
        .ipv4(CLIENT.octets(), VIP, ttl)
        .tcp(40_000, port, 1, 65_535)
        .syn()
        .write(&mut out, &[])
        .unwrap();
    out
}

fn too_big() -> Vec<u8> {
    frames::udp(WAN, (CLIENT, 40_000), (Ipv4Addr::from(VIP), 53), &[0; 1400])
}

fn stray() -> Vec<u8> {
    let ack = Tcp { flags: "A", seq: 1, ack: 1 };
    frames::tcp(WAN, (CLIENT, 40_000), (Ipv4Addr::from(VIP), 80), ack, b"")
}

/// How many of so many such frames were answered.
fn answered(rig: &mut Rig, frame: &[u8], times: usize) -> usize {
    (0..times).map(|_| rig.send(WAN, frame).len()).sum()
}

#[test]
fn each_kind_of_answers_has_its_own_limit() {
    let mut rig = rig();
    let kinds = [syn(80, 1), too_big(), syn(81, 64)];
    for frame in &kinds {
        assert_eq!(answered(&mut rig, frame, AT_ONCE - 1), AT_ONCE - 1);
        assert_eq!(rig.event("answers-suppressed"), 0);
    }
    for (n, frame) in kinds.iter().enumerate() {
        assert_eq!(answered(&mut rig, frame, 3), 1, "the last of {AT_ONCE}");
        assert_eq!(rig.event("answers-suppressed"), 2 * (n as u64 + 1));
    }
    assert_eq!(rig.event("icmp-sent"), 3 * AT_ONCE as u64);
    rig.advance(0.01);
    for frame in &kinds {
        assert_eq!(answered(&mut rig, frame, A_TICK + 5), A_TICK);
    }
    // Whether answered or not, each is counted for what it is.
    let each = (AT_ONCE + 2 + A_TICK + 5) as u64;
    for reason in [Reason::TtlExpired, Reason::TooBig, Reason::NoServer] {
        assert_eq!(rig.drops(reason), each, "{reason:?}");
    }
    assert_eq!(rig.session_count(), 1, "the datagrams that were too big have one");
}

#[test]
fn resets_have_a_limit_of_their_own() {
    let mut rig = rig();
    assert_eq!(answered(&mut rig, &syn(80, 1), AT_ONCE + 1), AT_ONCE);
    assert_eq!(answered(&mut rig, &stray(), RESETS), RESETS);
    assert_eq!(answered(&mut rig, &stray(), 2), 0);
    assert_eq!((rig.event("resets-sent"), rig.event("answers-suppressed")), (RESETS as u64, 3));
    rig.advance(0.01);
    assert_eq!(answered(&mut rig, &stray(), RESETS), RESETS / 10);
    assert_eq!(answered(&mut rig, &too_big(), AT_ONCE), AT_ONCE);
    assert_eq!(rig.drops(Reason::NoSession), 2 * RESETS as u64 + 2);
}

fn arp() -> Vec<u8> {
    let mut frame = [[0xff; 6], arriving(WAN).0].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.resize(60, 0);
    frame
}

/// A frame of each kind for the kernel.
fn of_kind(kind: PuntKind) -> Vec<u8> {
    let (from, to) = (IpAddr::from(CLIENT), IpAddr::from(Ipv4Addr::new(10, 1, 255, 254)));
    let (source, destination) = arriving(WAN);
    let ports = |to: u16| [&40_000u16.to_be_bytes()[..], &to.to_be_bytes(), &[0, 8, 0, 0]].concat();
    let one_hop = |number, payload: &[u8]| {
        let mut out = Vec::new();
        PacketBuilder::ethernet2(source, destination)
            .ipv4(CLIENT.octets(), [10, 1, 255, 254], 255)
            .write(&mut out, etherparse::IpNumber(number), payload)
            .unwrap();
        out
    };
    match kind {
        PuntKind::Arp => arp(),
        PuntKind::Nd => {
            let mut out = Vec::new();
            let from: Ipv6Addr = "2001:db8:c::c1".parse().unwrap();
            let to: Ipv6Addr = "ff02::1:ff00:fe".parse().unwrap();
            PacketBuilder::ethernet2(source, [0x33, 0x33, 0xff, 0, 0, 0xfe])
                .ipv6(from.octets(), to.octets(), 255)
                .icmpv6(Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] })
                .write(&mut out, &[0; 16])
                .unwrap();
            out
        }
        PuntKind::Bfd => one_hop(17, &ports(3784)),
        PuntKind::Vrrp => one_hop(112, &[0; 20]),
        PuntKind::Ospf => frames::other(WAN, from, to, 89, &[0; 24]),
        PuntKind::Bgp => {
            let syn = Tcp { flags: "S", seq: 1, ack: 0 };
            frames::tcp(WAN, (from, 40_000), (to, 179), syn, b"")
        }
        PuntKind::Echo => {
            let kind = etherparse::Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader { id: 1, seq: 1 });
            frames::icmp(WAN, CLIENT, Ipv4Addr::new(10, 1, 255, 254), kind, &[0; 8])
        }
        PuntKind::Other => frames::udp(WAN, (from, 40_000), (to, 9), b"junk"),
        PuntKind::Local => frames::udp(WAN, (from, 40_000), (IpAddr::from(VIP), 54), b"asked"),
    }
}

/// How many of so many frames the kernel got, which takes what there is each time.
fn punted(rig: &mut Rig, frame: &[u8], times: usize) -> usize {
    let sum = (0..times).map(|_| {
        assert!(rig.send(WAN, frame).is_empty());
        rig.take_punted().len()
    });
    sum.sum()
}

#[test]
fn junk_for_the_kernel_keeps_nothing_else_out() {
    let mut rig = rig();
    let (_, burst) = PuntKind::Other.limit();
    assert_eq!(punted(&mut rig, &of_kind(PuntKind::Other), burst as usize), burst as usize);
    assert_eq!(rig.drops(Reason::PuntLimited), 0);
    assert_eq!(punted(&mut rig, &of_kind(PuntKind::Other), 10), 0);
    assert_eq!((rig.drops(Reason::PuntLimited), rig.event("punt-limited-other")), (10, 10));
    for kind in PuntKind::ALL {
        assert_eq!(punted(&mut rig, &of_kind(kind), 1), usize::from(kind != PuntKind::Other), "{kind:?}");
        let due = if kind == PuntKind::Other { u64::from(burst) } else { 1 };
        assert_eq!(rig.event(kind.punted()), due, "{kind:?}");
        assert_eq!(rig.event(kind.limited()), if kind == PuntKind::Other { 11 } else { 0 }, "{kind:?}");
    }
}

#[test]
fn a_flood_of_any_kind_leaves_the_others_theirs() {
    for flooded in PuntKind::ALL {
        let mut rig = rig();
        let (rate, burst) = flooded.limit();
        assert_eq!(punted(&mut rig, &of_kind(flooded), burst as usize + 1), burst as usize, "{flooded:?}");
        assert_eq!(rig.event(flooded.limited()), 1);
        for kind in PuntKind::ALL.into_iter().filter(|kind| *kind != flooded) {
            assert_eq!(punted(&mut rig, &of_kind(kind), 1), 1, "{kind:?} after {flooded:?}");
        }
        rig.advance(0.01);
        let tick = rate as usize / 100;
        assert_eq!(punted(&mut rig, &of_kind(flooded), tick + 1), tick, "{flooded:?}");
    }
}

#[test]
fn a_kernel_that_is_slow_gets_what_matters_most() {
    let mut rig = rig();
    let mut fill = |kind: PuntKind| {
        let before = rig.count(Verdict::Punted);
        (0..300).for_each(|_| assert!(rig.send(WAN, &of_kind(kind)).is_empty()));
        rig.count(Verdict::Punted) - before
    };
    // The rig's ring has 256 places.
    let kinds = [PuntKind::Other, PuntKind::Echo, PuntKind::Bgp, PuntKind::Vrrp, PuntKind::Arp];
    assert_eq!(kinds.map(&mut fill), [128, 32, 32, 32, 32]);
    assert_eq!(fill(PuntKind::Nd), 0);
    assert_eq!(rig.take_punted().len(), 256);
    assert_eq!(rig.drops(Reason::PuntLimited), 6 * 300 - 256);
}

#[test]
fn without_a_kernel_nothing_is_of_a_kind() {
    let mut rig = Rig::with(&Options { host: false, ..Options::default() });
    rig.send(LAN, &frames::udp(LAN, (LIP, 1), (CLIENT, 2), b""));
    rig.send(WAN, &arp());
    assert_eq!((rig.drops(Reason::NoHost), rig.drops(Reason::PuntLimited)), (2, 0));
    assert_eq!(rig.event("punted-arp") + rig.event("punt-limited-arp"), 0);
}
