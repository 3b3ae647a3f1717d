//! Any frame, mutated anyhow, never panics and ends in exactly one counted verdict.

mod rig;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IcmpEchoHeader, Icmpv4Type, icmpv4};
use proptest::{prelude::*, test_runner::Config};
use rig::{
    LAN, LIP, Options, Rig, WAN,
    frames::{self, Tcp},
    key, server,
};
use weir::io::{PortId, memory::MemoryFrame};
use weir_api::{
    model::{
        ClientAddress, Forwarding, LocalAddress, Protocol, Server, Service, ServiceKey, Tunnel,
        TunnelChecksum, TunnelKind,
    },
    protocol::Change,
};

const VIP: [u8; 4] = [192, 0, 2, 10];

/// What is done to a frame.
#[derive(Clone, Debug)]
enum Mutation {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Append(Vec<u8>),
    Split(prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    use prop::sample::Index;
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(i, b)| Mutation::Set(i, b)),
        2 => (any::<Index>(), 0u8..8).prop_map(|(i, b)| Mutation::Flip(i, b)),
        1 => any::<Index>().prop_map(Mutation::Cut),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(Mutation::Append),
        1 => any::<Index>().prop_map(Mutation::Split),
    ]
}

fn rig(workers: usize) -> Rig {
    let mut rig = Rig::with(&Options { workers, ..Options::default() });
    for (protocol, method) in [(Protocol::Tcp, Forwarding::FullNat), (Protocol::Udp, Forwarding::Nat)] {
        rig.add_service(protocol, VIP, 80, "wlc", method == Forwarding::FullNat);
        rig.add_server(key(protocol, VIP, 80), server([10, 0, 0, 1], 80, method, 1));
    }
    rig.add_service(Protocol::Sctp, VIP, 80, "wlc", true);
    rig.add_server(key(Protocol::Sctp, VIP, 80), server([10, 0, 0, 1], 80, Forwarding::FullNat, 1));
    // IPv6: to servers of both families, with PROXY headers; and tunnels.
    for (protocol, port, methods) in [
        (Protocol::Tcp, 80, [Forwarding::FullNat, Forwarding::FullNat]),
        (Protocol::Udp, 80, [Forwarding::FullNat, Forwarding::FullNat]),
        (Protocol::Udp, 81, [IPIP, IPIP]),
    ] {
        let service = ServiceKey::Address { protocol, address: VIP_V6.into(), port };
        rig.change(Change::AddService(Service {
            key: service,
            scheduler: "rr".into(),
            scheduler_flags: 0,
            persistent: None,
            netmask: 128,
            one_packet: false,
            engine: None,
        }));
        for address in [LIP.into(), rig::LIP_V6.into()] {
            rig.change(Change::AddLocalAddress { service, local: LocalAddress { address, interface: None } });
        }
        for (address, method) in [IpAddr::from([10, 0, 0, 1]), RS_V6.into()].into_iter().zip(methods) {
            let server = Server { address, ..server([10, 0, 0, 1], 80, method, 1) };
            rig.change(Change::AddServer { service, server });
        }
        if methods[0] == Forwarding::FullNat {
            rig.change(Change::SetClientAddress { service, how: ClientAddress::ProxyV2 });
        }
    }
    rig
}

const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0x10);
const RS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const IPIP: Forwarding =
    Forwarding::Tunnel(Tunnel { kind: TunnelKind::Ipip, port: 0, checksum: TunnelChecksum::None });

/// Frames of IPv6, some about sessions that exist: to a server of either family.
fn seeds_v6(rig: &mut Rig) -> Vec<(PortId, Vec<u8>)> {
    let (vip, mut all) = ((IpAddr::from(VIP_V6), 80), Vec::new());
    for n in [1, 2] {
        let client = (IpAddr::from([0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 0xc0 + n]), 40000);
        let tcp = |flags, seq| Tcp { flags, seq, ack: 1 };
        let syn = frames::tcp(WAN, client, vip, tcp("S", 1000), &[]);
        rig.send(WAN, &syn);
        let session = rig.sessions().into_iter().find(|s| s.client == client).expect("opened");
        let (server, local) = (session.server, session.local);
        all.push((WAN, syn));
        all.push((WAN, frames::tcp(WAN, client, vip, tcp("A", 1001), &[])));
        all.push((WAN, frames::tcp(WAN, client, vip, tcp("PA", 1001), &[7; 1430])));
        all.push((WAN, frames::tcp(WAN, client, vip, tcp("PA", 1101), b"data")));
        all.push((LAN, frames::tcp(LAN, server, local, Tcp { flags: "A", seq: 1, ack: 1060 }, b"answer")));
        all.push((WAN, frames::udp(WAN, client, vip, b"query")));
        all.push((WAN, frames::udp(WAN, client, (vip.0, 81), b"query")));
        let quoted = frames::tcp(LAN, local, server, tcp("A", 1200), &[3; 40]);
        all.push((LAN, frames::too_big(LAN, server.0, local.0, 1280, &quoted[14..])));
        let quoted = frames::tcp(WAN, vip, client, tcp("A", 1200), &[3; 40]);
        all.push((WAN, frames::too_big(WAN, client.0, vip.0, 1280, &quoted[14..])));
        // Next header 44: a fragment of UDP.
        let mut fragment = vec![17, 0, 0, 1, 0, 0, 0, 9, 0x9c, 0x40, 0, 80, 0, 100, 0, 0];
        fragment.resize(8 + 64, 1);
        all.push((WAN, frames::other(WAN, client.0, vip.0, 44, &fragment)));
    }
    all
}

/// Frames of every kind, some about a session that exists.
fn seeds(rig: &mut Rig) -> Vec<(PortId, Vec<u8>)> {
    let client = (Ipv4Addr::new(10, 1, 0, 1), 40000);
    let (vip, rs) = ((Ipv4Addr::from(VIP), 80), (Ipv4Addr::new(10, 0, 0, 1), 80));
    let tcp = |flags| Tcp { flags, seq: 1000, ack: 1 };
    let syn = frames::tcp(WAN, client, vip, tcp("S"), &[0; 20]);
    let sent = rig.send(WAN, &syn);
    let inside = sent.iter().find(|s| s.port == LAN).expect("forwarded").bytes.clone();
    let local = frames::read(&inside).tcp().0;
    let unreachable = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
    let mut sctp = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 20];
    sctp.resize(32, 5);
    let mut fragment = frames::udp(WAN, client, vip, &[9; 80]);
    fragment[20] = 0x20;
    let mut all = seeds_v6(rig);
    all.extend([
        (WAN, frames::other(WAN, client.0.into(), vip.0.into(), 132, &sctp)),
        (WAN, fragment),
        (WAN, syn),
        (WAN, frames::tcp(WAN, client, vip, tcp("A"), b"data")),
        (LAN, frames::tcp(LAN, rs, local, tcp("SA"), &[])),
        (WAN, frames::udp(WAN, client, vip, b"query")),
        (LAN, frames::udp(LAN, rs, client, b"answer")),
        (LAN, frames::icmp(LAN, rs.0, LIP, unreachable, &inside[14..])),
        (
            WAN,
            frames::icmp(
                WAN,
                client.0,
                vip.0,
                Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 1 }),
                b"ping",
            ),
        ),
    ]);
    all
}

fn mutate(mut frame: Vec<u8>, mutations: &[Mutation], seal: bool) -> MemoryFrame {
    let mut cuts = Vec::new();
    for m in mutations {
        match m {
            Mutation::Set(i, b) if !frame.is_empty() => {
                let at = i.index(frame.len());
                frame[at] = *b;
            }
            Mutation::Flip(i, bit) if !frame.is_empty() => {
                let at = i.index(frame.len());
                frame[at] ^= 1 << bit;
            }
            Mutation::Cut(i) if !frame.is_empty() => frame.truncate(i.index(frame.len())),
            Mutation::Append(bytes) => frame.extend(bytes),
            Mutation::Split(i) if !frame.is_empty() => cuts.push(i.index(frame.len())),
            _ => {}
        }
    }
    // A right IP checksum lets the later stages see what was mutated.
    if seal && let Ok(ip) = etherparse::Ipv4HeaderSlice::from_slice(frame.get(14..).unwrap_or_default()) {
        let check = ip.to_header().calc_header_checksum();
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    }
    cuts.retain(|c| *c < frame.len());
    cuts.sort_unstable();
    cuts.dedup();
    let mut pieces = Vec::new();
    let mut from = 0;
    for cut in cuts {
        pieces.push(&frame[from..cut]);
        from = cut;
    }
    pieces.push(&frame[from..]);
    MemoryFrame::chained(&pieces)
}

proptest! {
    #![proptest_config(Config { cases: 300, ..Config::default() })]

    #[test]
    fn every_frame_ends_in_one_verdict(
        workers in 1usize..3,
        frames in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::collection::vec(mutation(), 0..6), any::<bool>(), any::<bool>()),
            1..40,
        ),
    ) {
        let mut rig = rig(workers);
        let seeds = seeds(&mut rig);
        let mut sent = endpoints(&rig);
        for (seed, mutations, seal, second) in frames {
            let (port, frame) = seeds[seed.index(seeds.len())].clone();
            let worker = usize::from(second) % workers;
            rig.send_to(worker, port, mutate(frame, &mutations, seal));
            rig.take_punted();
            sent += 1;
            prop_assert!(endpoints(&rig) <= sent);
        }
        // What became a fragment has waited for its first.
        rig.advance(4.0);
        prop_assert_eq!(endpoints(&rig), sent);
    }
}

/// Frames that have ended; one that was handed over ends at the other worker.
fn endpoints(rig: &Rig) -> u64 {
    rig.total() - rig.count(weir::path::verdict::Verdict::HandedOver)
}
