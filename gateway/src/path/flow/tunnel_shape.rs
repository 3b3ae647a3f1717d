//! The shape of tunnels: how many bytes they add, the MTU that they leave, and which packets belong to them.

use std::net::IpAddr;

use weir_api::model::{Tunnel, TunnelChecksum, TunnelKind};

use super::Flows;
use crate::{
    clock::Tick,
    id::ServerId,
    io::PortId,
    net::{
        Header,
        ipv4::Ipv4Header,
        ipv6::{self, Ipv6Header},
        protocol,
        udp::UdpHeader,
    },
    path::{ingress::parse::Parsed, verdict::Reason},
    table::counters::OtherWorkers,
};

/// A UDP header, and a GUE header without options.
pub(crate) const GUE: usize = UdpHeader::LEN + 4;

/// Every link takes IPv4 packets of this size (RFC 791, 3.2): a tunnel over a smaller MTU is unusable. For a
/// tunnel over IPv6 the minimum is [`ipv6::MIN_MTU`].
pub(crate) const MIN_MTU: u16 = 68;

/// GRE's flag for a checksum.
pub(crate) const GRE_CHECKSUM: u16 = 0x8000;

/// In a tunnel's word: outer packets have a checksum.
pub(crate) const CHECKED: u32 = 1 << 2;

/// In a tunnel's word: routers have reported a path MTU lower than the next hop's.
pub const LEARNED: u32 = 1 << 3;

/// Packs a tunnel into one word, for a server's facts. 0 is IPIP.
#[must_use]
pub fn pack(tunnel: Tunnel) -> u32 {
    let kind = match tunnel.kind {
        TunnelKind::Ipip => 0,
        TunnelKind::Gue => 1,
        TunnelKind::Gre => 2,
    };
    let checksum = if tunnel.checksum == TunnelChecksum::None { 0 } else { CHECKED };
    kind | checksum | u32::from(tunnel.port) << 16
}

/// A tunnel as packed by [`pack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub kind: TunnelKind,
    pub checksum: bool,
    /// The UDP port of GUE.
    pub port: u16,
}

impl Shape {
    pub fn unpack(word: u32) -> Self {
        let kind = match word & 3 {
            0 => TunnelKind::Ipip,
            1 => TunnelKind::Gue,
            _ => TunnelKind::Gre,
        };
        Self { kind, checksum: word & CHECKED != 0, port: (word >> 16) as u16 }
    }

    /// Bytes between the outer IP header and the packet.
    pub fn between(self) -> usize {
        match self.kind {
            TunnelKind::Ipip => 0,
            TunnelKind::Gue => GUE,
            TunnelKind::Gre if self.checksum => 8,
            TunnelKind::Gre => 4,
        }
    }

    /// The protocol number in the outer header, for an inner packet with this protocol number.
    pub fn protocol(self, inner: u8) -> u8 {
        match self.kind {
            TunnelKind::Ipip => inner,
            TunnelKind::Gue => protocol::UDP,
            TunnelKind::Gre => protocol::GRE,
        }
    }
}

/// Whether a packet with this protocol and, if it has one, this destination port may belong to the tunnel in
/// `word`.
pub(crate) fn may_be_of(word: u32, protocol: u8, port: u16) -> bool {
    let shape = Shape::unpack(word);
    match shape.kind {
        TunnelKind::Ipip => matches!(protocol, protocol::IPIP | protocol::IPV6),
        TunnelKind::Gue => protocol == protocol::UDP && port == shape.port,
        TunnelKind::Gre => protocol == protocol::GRE,
    }
}

/// Where the inner packet begins, given the protocol behind the outer IP header, which ends at `at`; none if
/// the inner packet isn't there.
pub(crate) fn inside_at(packet: &[u8], at: usize, protocol: u8) -> Option<usize> {
    match protocol {
        protocol::UDP => Some(at + GUE),
        protocol::GRE => match u16::from_be_bytes(*packet.get(at..)?.first_chunk()?) {
            0 => Some(at + 4),
            GRE_CHECKSUM => Some(at + 8),
            _ => None,
        },
        _ => Some(at),
    }
}

/// The length of the IP header towards an address.
pub(crate) fn header_len(to: IpAddr) -> usize {
    if to.is_ipv6() { Ipv6Header::LEN } else { Ipv4Header::LEN }
}

/// The shape of a tunnel to a server, and the room that it leaves.
pub(crate) struct TunnelRoom {
    pub shape: Shape,
    /// The bytes added to a packet.
    pub added: u16,
    /// The largest outer packet.
    pub way: u16,
}

impl TunnelRoom {
    /// The room of the tunnel to a server, through a next hop that takes `mtu` bytes.
    pub fn of(flows: &Flows, (address, server): (IpAddr, ServerId), mtu: u16) -> Result<Self, Reason> {
        let facts = flows.slot(server.slot());
        let shape = Shape::unpack(facts.map_or(0, |s| s.others.tunnel.get()));
        let added = (header_len(address) + shape.between()) as u16;
        let least = if address.is_ipv6() { ipv6::MIN_MTU as u16 } else { MIN_MTU };
        if mtu < least.saturating_add(added) {
            return Err(Reason::TunnelMtu);
        }
        let way = facts.map_or(mtu, |facts| mtu.min(path_mtu(&facts.others, flows.now)));
        Ok(Self { shape, added, way })
    }
}

/// The reason why a packet can't go through the tunnel to a server, by a next hop with this MTU and port, if
/// there is one. It is the same that sending the packet would give.
pub(crate) fn refusal(
    flows: &Flows,
    p: &Parsed,
    (address, server): (IpAddr, ServerId),
    (mtu, port): (u16, PortId),
) -> Option<Reason> {
    match TunnelRoom::of(flows, (address, server), mtu) {
        Err(reason) => Some(reason),
        Ok(room) if p.ip_len > inner_mtu(room.way, room.added, p.ipv6) => Some(Reason::TooBig),
        Ok(_) => flows.own_address(port, address).is_none().then_some(Reason::NoPortAddress),
    }
}

/// The path MTU that routers have reported for a server; the maximum if none has.
fn path_mtu(others: &OtherWorkers, now: Tick) -> u16 {
    others.path.get(now).unwrap_or_else(|| {
        if others.tunnel.get() & LEARNED != 0 {
            others.tunnel.lower(LEARNED);
        }
        u16::MAX
    })
}

/// The largest packet that a client may send through a tunnel that adds this many bytes, over a path with an
/// MTU of `way`. IPv6's minimum MTU always passes, in fragments of the outer packet if need be (RFC 2473,
/// 7.1; RFC 4213, 3.2).
pub(crate) fn inner_mtu(way: u16, added: u16, ipv6: bool) -> u16 {
    way.saturating_sub(added).max(if ipv6 { ipv6::MIN_MTU as u16 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tunnel_fits_into_a_word() {
        for kind in [TunnelKind::Ipip, TunnelKind::Gue, TunnelKind::Gre] {
            for checksum in [TunnelChecksum::None, TunnelChecksum::Full, TunnelChecksum::Remote] {
                let shape = Shape::unpack(pack(Tunnel { kind, port: 6080, checksum }));
                assert_eq!(shape, Shape { kind, checksum: checksum != TunnelChecksum::None, port: 6080 });
            }
        }
        assert_eq!(Shape::unpack(0).kind, TunnelKind::Ipip);
        let gre = pack(Tunnel { kind: TunnelKind::Gre, port: 0, checksum: TunnelChecksum::None });
        assert_eq!(Shape::unpack(gre | LEARNED), Shape::unpack(gre));
    }

    #[test]
    fn a_tunnel_s_packets_are_of_its_protocol_and_port() {
        let word = |kind| pack(Tunnel { kind, port: 6080, checksum: TunnelChecksum::Full });
        let of = |kind| {
            let packets = [(4, 0), (41, 0), (47, 0), (17, 6080), (17, 6081), (6, 6080)];
            packets.map(|(protocol, port)| may_be_of(word(kind), protocol, port))
        };
        assert_eq!(of(TunnelKind::Ipip), [true, true, false, false, false, false]);
        assert_eq!(of(TunnelKind::Gre), [false, false, true, false, false, false]);
        assert_eq!(of(TunnelKind::Gue), [false, false, false, true, false, false]);
    }

    #[test]
    fn the_packet_inside_lies_behind_the_tunnel_s_header() {
        let with = |flags: [u8; 2]| [&[0; 20][..], &flags, &[8, 0]].concat();
        assert_eq!(inside_at(&with([0, 0]), 20, protocol::IPIP), Some(20));
        assert_eq!(inside_at(&with([0, 0]), 20, protocol::UDP), Some(32));
        assert_eq!(inside_at(&with([0, 0]), 20, protocol::GRE), Some(24));
        assert_eq!(inside_at(&with([0x80, 0]), 20, protocol::GRE), Some(28));
        assert_eq!(inside_at(&with([0x20, 0]), 20, protocol::GRE), None, "a key, which we never send");
        assert_eq!(inside_at(&[0; 21], 20, protocol::GRE), None);
    }

    #[test]
    fn a_tunnel_takes_the_way_s_mtu_less_its_headers_and_ipv6_s_smallest() {
        assert_eq!((inner_mtu(1500, 20, false), inner_mtu(1500, 40, true)), (1480, 1460));
        assert_eq!([1319, 1320, 1321].map(|way| inner_mtu(way, 40, true)), [1280, 1280, 1281]);
        assert_eq!((inner_mtu(1280, 40, false), inner_mtu(10, 20, false)), (1240, 0));
    }

    #[test]
    fn what_is_forgotten_of_a_way_no_longer_marks_the_tunnel() {
        let others = OtherWorkers::default();
        others.tunnel.set(5);
        assert_eq!((path_mtu(&others, Tick(0)), others.tunnel.get()), (u16::MAX, 5));
        others.path.learn(1400, Tick(0));
        others.tunnel.raise(LEARNED);
        assert_eq!((path_mtu(&others, Tick(9)), others.tunnel.get()), (1400, 5 | LEARNED));
        assert_eq!((path_mtu(&others, Tick(60_000)), others.tunnel.get()), (u16::MAX, 5));
    }
}
