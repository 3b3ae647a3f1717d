//! Stage 6 of TUN: encapsulates the packet for its server.
//!
//! ```text
//! IPIP  | outer IP, protocol 4 or 41 | packet       RFC 2003, RFC 4213, RFC 2473
//! GRE   | outer IP, protocol 47 | flags protocol [checksum 0] | packet            RFC 2784
//! GUE   | outer IP, protocol 17 | UDP | 0 4 0 0 | packet       draft-ietf-intarea-gue, variant 0
//! ```
//!
//! The outer header follows Linux's `ip_vs_tunnel_xmit`: ToS, TTL and DF are copied from the packet, and the source is
//! the gateway's address on the port towards the server. Both packets may have either family; an IPv4 packet around an
//! IPv6 one has no DF. A packet too big for the tunnel is refused if it has DF or is IPv6. Otherwise the outer packet
//! leaves in fragments (RFC 2473, 7.2). So does one around an IPv6 packet of up to 1280 bytes, since no sender can be
//! asked to send less. The limit is the next hop's MTU or the path MTU that routers have reported, see `tunnel_error`.
//! The inner packet's TTL is decremented; the rest is unchanged. Linux uses remote checksum offload only for packets
//! whose checksum its own stack has left unfinished. Packets from the wire are never like that, so `--tun-remcsum`
//! means a full outer checksum, in Linux and here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_api::model::TunnelKind;

use super::{Carried, Egress, direct::age, too_big};
use crate::{
    id::{HopId, ServerId},
    io::{Frame, Io},
    net::{
        Fields, Header,
        checksum::Sum,
        ethernet::{EthernetHeader, ether_type},
        ipv4::Ipv4Header,
        ipv6::{self, Ipv6Header},
        protocol,
        udp::UdpHeader,
    },
    path::{
        flow::{
            Flows,
            route::{Hop, PortFacts},
            tunnel_shape::{
                CHECKED, GRE_CHECKSUM, GUE, LEARNED, MIN_MTU, Shape, TunnelRoom, header_len, inner_mtu,
            },
        },
        ingress::{parse::Parsed, sums::sum_over},
        next::Edit,
        packet::Packet,
        verdict::Reason,
    },
};

/// The source ports of GUE over UDP, chosen by flow; the same as Linux's default `ip_local_port_range`.
const FLOW_PORTS: std::ops::Range<u16> = 32768..60999;

/// The UDP and GUE headers, `len` bytes with the packet, around a packet with this protocol number.
#[inline(always)]
fn gue(flow: u32, port: u16, len: u16, inner_protocol: u8) -> [u8; GUE] {
    let ports = u64::from(FLOW_PORTS.end - FLOW_PORTS.start);
    let source = u64::from(FLOW_PORTS.start) + ((u64::from(flow) * ports) >> 32);
    let mut headers = [0; GUE];
    let udp = source << 48 | u64::from(port) << 32 | u64::from(len) << 16;
    headers[..UdpHeader::LEN].copy_from_slice(&udp.to_be_bytes());
    headers[UdpHeader::LEN..].copy_from_slice(&(u32::from(inner_protocol) << 16).to_be_bytes());
    headers
}

/// The contents of the outer headers that don't follow from the packet.
struct Outer {
    shape: Shape,
    /// The source address, of the server's family.
    source: IpAddr,
    server: IpAddr,
    /// Whether the packet inside is IPv6.
    ipv6: bool,
    /// The flow's hash, which chooses GUE's source port.
    flow: u32,
    id: u16,
}

impl Outer {
    /// Writes the headers between the outer IP header and the packet, whose bytes sum to `inner`.
    fn write_between(&self, out: &mut [u8], len: u16, inner: Sum) {
        match self.shape.kind {
            TunnelKind::Ipip => {}
            TunnelKind::Gre => {
                let flags = if self.shape.checksum { GRE_CHECKSUM } else { 0 };
                out.fill(0);
                out[..2].copy_from_slice(&flags.to_be_bytes());
                out[2..4].copy_from_slice(&type_of(self.ipv6).to_be_bytes());
                if self.shape.checksum {
                    let check = Sum::of(out).and(inner).checksum();
                    out[4..6].copy_from_slice(&check.to_be_bytes());
                }
            }
            TunnelKind::Gue => {
                let headers = gue(self.flow, self.shape.port, len, self.inner_protocol());
                out.copy_from_slice(&headers);
                if let (true, Some((udp, _))) = (self.shape.checksum, UdpHeader::split_mut(out)) {
                    let sum = self.pseudo_header(len).and(Sum::of(&headers)).and(inner);
                    udp.set_checksum(sum.udp_checksum());
                }
            }
        }
    }

    fn inner_protocol(&self) -> u8 {
        if self.ipv6 { protocol::IPV6 } else { protocol::IPIP }
    }

    /// The sum of UDP's pseudo-header, for a length of `len` bytes.
    fn pseudo_header(&self, len: u16) -> Sum {
        match (self.source, self.server) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Sum::pseudo_v4(from, to, protocol::UDP, len),
            (IpAddr::V6(from), IpAddr::V6(to)) => Sum::pseudo_v6(from, to, protocol::UDP, len.into()),
            _ => Sum::ZERO,
        }
    }

    /// Writes the outer IP header of a packet of `len` bytes.
    fn write_outer(&self, out: &mut [u8], len: u16, inner: InnerPacket) {
        let protocol = self.shape.protocol(self.inner_protocol());
        match (self.source, self.server) {
            (IpAddr::V4(from), IpAddr::V4(to)) => to.write(out, from, inner, protocol, len, self.id),
            (IpAddr::V6(from), IpAddr::V6(to)) => to.write(out, from, inner, protocol, len, self.id),
            _ => None,
        };
    }

    /// Encapsulates the packet behind the Ethernet header of `frame`. `len` is the outer packet's length.
    fn wrap<F: Frame>(&self, frame: &mut F, len: u16) -> Result<(), Reason> {
        let ethernet = EthernetHeader::LEN;
        let outer_len = header_len(self.server);
        let inner_len = usize::from(len) - outer_len - self.shape.between();
        let sum = if self.shape.checksum && self.shape.kind != TunnelKind::Ipip {
            sum_over(frame, ethernet, inner_len).ok_or(Reason::Truncated)?
        } else {
            Sum::ZERO
        };
        let inner = InnerPacket::of(frame.data(), self.ipv6).ok_or(Reason::Truncated)?;
        let (between, end) = (ethernet + outer_len, ethernet + outer_len + self.shape.between());
        if !frame.prepend(end - ethernet) {
            return Err(Reason::NoHeadroom);
        }
        // The MAC addresses are set when the frame leaves.
        let head = frame.data_mut().get_mut(..end).ok_or(Reason::Truncated)?;
        head[12..ethernet].copy_from_slice(&type_of(self.server.is_ipv6()).to_be_bytes());
        self.write_outer(&mut head[ethernet..between], len, inner);
        self.write_between(&mut head[between..], len - outer_len as u16, sum);
        Ok(())
    }
}

/// The server at the other end of a tunnel; its family is that of the outer header.
pub(crate) trait TunnelServer: Copy {
    /// The length of the outer IP header.
    const LEN: usize;
    /// Every link takes packets of this size: a tunnel over a smaller MTU is unusable.
    const MIN_MTU: u16;
    /// The EtherType of the outer packet.
    const TYPE: u16;

    /// The gateway's own address on a port.
    fn source(facts: &PortFacts) -> Option<Self>;

    /// Writes the outer IP header of a packet of `len` bytes to this server; none if there isn't enough room.
    fn write(
        self,
        out: &mut [u8],
        source: Self,
        inner: InnerPacket,
        protocol: u8,
        len: u16,
        id: u16,
    ) -> Option<()>;
}

impl TunnelServer for Ipv4Addr {
    const LEN: usize = Ipv4Header::LEN;
    const MIN_MTU: u16 = MIN_MTU;
    const TYPE: u16 = ether_type::IPV4;

    #[inline(always)]
    fn source(facts: &PortFacts) -> Option<Self> {
        facts.address
    }

    #[inline(always)]
    fn write(
        self,
        out: &mut [u8],
        source: Self,
        inner: InnerPacket,
        protocol: u8,
        len: u16,
        id: u16,
    ) -> Option<()> {
        let out = out.first_chunk_mut::<{ Ipv4Header::LEN }>()?;
        let id = if inner.dont_fragment { None } else { Some(id) };
        let ends = u64::from(u32::from_le_bytes(source.octets()))
            | u64::from(u32::from_le_bytes(self.octets())) << 32;
        Ipv4Header::put(out, inner.fields(protocol), len, id, ends);
        Some(())
    }
}

impl TunnelServer for Ipv6Addr {
    const LEN: usize = Ipv6Header::LEN;
    const MIN_MTU: u16 = ipv6::MIN_MTU as u16;
    const TYPE: u16 = ether_type::IPV6;

    #[inline(always)]
    fn source(facts: &PortFacts) -> Option<Self> {
        facts.address_v6
    }

    #[inline(always)]
    fn write(
        self,
        out: &mut [u8],
        source: Self,
        inner: InnerPacket,
        protocol: u8,
        len: u16,
        _: u16,
    ) -> Option<()> {
        let out = out.first_chunk_mut::<{ Ipv6Header::LEN }>()?;
        let payload = len - Ipv6Header::LEN as u16;
        Ipv6Header::put(out, inner.fields(protocol), payload, &source.octets(), &self.octets());
        Some(())
    }
}

/// A tunnel whose outer headers have no checksum over the payload.
struct Plain<A> {
    kind: TunnelKind,
    source: A,
    server: A,
    /// Whether the packet inside is IPv6.
    ipv6: bool,
    /// The identification of the outer packet.
    id: u16,
    len: u16,
    /// The source port of GUE.
    port: u16,
    flow: u32,
}

impl<A: TunnelServer> Plain<A> {
    /// Encapsulates the packet behind the Ethernet header of `frame`, and decrements its TTL.
    #[inline(always)]
    fn wrap(&self, frame: &mut impl Frame) -> Result<(), Reason> {
        let (inner, of) =
            if self.ipv6 { (protocol::IPV6, ether_type::IPV6) } else { (protocol::IPIP, ether_type::IPV4) };
        match self.kind {
            TunnelKind::Ipip => self.wrap_with::<0>(frame, inner).map(drop),
            TunnelKind::Gre => {
                let between = self.wrap_with::<4>(frame, protocol::GRE)?;
                between.copy_from_slice(&u32::from(of).to_be_bytes());
                Ok(())
            }
            TunnelKind::Gue => {
                let between = self.wrap_with::<GUE>(frame, protocol::UDP)?;
                between.copy_from_slice(&gue(self.flow, self.port, self.len - A::LEN as u16, inner));
                Ok(())
            }
        }
    }

    /// Does this with `BETWEEN` bytes after the outer IP header, and returns them. Writes the same bytes as
    /// [`Outer::wrap`], but without branches on what they depend on.
    #[inline(always)]
    fn wrap_with<'a, const BETWEEN: usize>(
        &self,
        frame: &'a mut impl Frame,
        protocol: u8,
    ) -> Result<&'a mut [u8], Reason> {
        let whole_frame = EthernetHeader::LEN + usize::from(self.len);
        if !frame.prepend(A::LEN + BETWEEN) {
            return Err(Reason::NoHeadroom);
        }
        if frame.total_len() != whole_frame {
            frame.truncate(whole_frame);
        }
        let (outer, between) = (EthernetHeader::LEN, EthernetHeader::LEN + A::LEN);
        let (head, packet) =
            frame.data_mut().split_at_mut_checked(between + BETWEEN).ok_or(Reason::Truncated)?;
        let inner = InnerPacket::aged(packet, self.ipv6).ok_or(Reason::Truncated)?;
        head[outer - 2..outer].copy_from_slice(&A::TYPE.to_be_bytes());
        let written = self.server.write(&mut head[outer..], self.source, inner, protocol, self.len, self.id);
        written.ok_or(Reason::Truncated)?;
        Ok(&mut head[between..])
    }
}

/// The fields that the outer header copies from the inner packet.
#[derive(Clone, Copy)]
pub(crate) struct InnerPacket {
    tos: u8,
    ttl: u8,
    dont_fragment: bool,
}

impl InnerPacket {
    fn of(data: &[u8], ipv6: bool) -> Option<Self> {
        if ipv6 {
            let ip = Ipv6Header::at(data, EthernetHeader::LEN)?;
            return Some(Self { tos: ip.traffic_class(), ttl: ip.hop_limit, dont_fragment: false });
        }
        let ip = Ipv4Header::at(data, EthernetHeader::LEN)?;
        Some(Self { tos: ip.tos, ttl: ip.ttl, dont_fragment: ip.dont_fragment() })
    }

    /// Reads the fields for the outer header from a packet.
    #[inline(always)]
    fn fields(self, protocol: u8) -> Fields {
        Fields { tos: self.tos, ttl: self.ttl, protocol }
    }

    /// Reads the fields from a packet and decrements its TTL.
    #[inline(always)]
    fn aged(packet: &mut [u8], ipv6: bool) -> Option<Self> {
        if ipv6 {
            let ip = Ipv6Header::at_mut(packet, 0)?;
            ip.decrement_hop_limit();
            return Some(Self { tos: ip.traffic_class(), ttl: ip.hop_limit, dont_fragment: false });
        }
        let ip = Ipv4Header::at_mut(packet, 0)?;
        ip.decrement_ttl();
        Some(Self { tos: ip.tos, ttl: ip.ttl, dont_fragment: ip.dont_fragment() })
    }
}

fn type_of(ipv6: bool) -> u16 {
    if ipv6 { ether_type::IPV6 } else { ether_type::IPV4 }
}

impl<I: Io> Egress<I> {
    /// The tunnel to the server at `server` that `word` in the server's facts describes, if neither the tunnel nor the
    /// packet needs special handling.
    #[inline(always)]
    fn plain_tunnel<A: TunnelServer>(
        &self,
        flows: &Flows,
        p: &Parsed,
        word: u32,
        server: A,
        next: &Hop,
    ) -> Option<Plain<A>> {
        let shape = Shape::unpack(word);
        let Shape { kind, port, .. } = shape;
        let added = (A::LEN + shape.between()) as u16;
        let len = p.ip_len.checked_add(added)?;
        let special = (word & (CHECKED | LEARNED) != 0) | (p.l3 != EthernetHeader::LEN as u8);
        if special | (len > next.mtu) | (next.mtu < A::MIN_MTU + added) {
            return None;
        }
        let flow = p.tuple.spread();
        let source = A::source(flows.routing.table().port(next.port)?)?;
        let id = self.tunnel_id.wrapping_add(1);
        Some(Plain { kind, source, server, ipv6: p.ipv6, id, len, port, flow })
    }

    /// Sends a packet that changes nothing about its session to `next`, a usable hop, through the tunnel that `word` in
    /// a server's facts describes. Returns the frame if the tunnel needs special handling.
    #[inline(always)]
    pub(crate) fn tunnel_fast<A: TunnelServer>(
        &mut self,
        flows: &Flows,
        mut frame: I::Frame,
        p: &Parsed,
        (word, server): (u32, A),
        next: &Hop,
    ) -> Option<I::Frame> {
        let Some(tunnel) = self.plain_tunnel(flows, p, word, server, next) else { return Some(frame) };
        self.tunnel_id = tunnel.id;
        match (tunnel.wrap(&mut frame), frame.data_mut().first_chunk_mut()) {
            (Ok(()), Some(field)) => {
                *field = next.macs;
                self.tx.push(&mut self.io, &self.counters, next.port, frame);
            }
            (Err(reason), _) => self.drop(frame, reason),
            (Ok(()), None) => self.drop(frame, Reason::Truncated),
        }
        None
    }

    /// Sends a packet through the tunnel to the server at `address`, by the next hop `hop`.
    pub(crate) fn send_tunnelled(
        &mut self,
        flows: &Flows,
        packet: Packet<'_, I::Frame>,
        (address, server): (IpAddr, ServerId),
        hop: HopId,
    ) -> Carried<I::Frame> {
        let p = packet.parsed;
        let Some(&next) = flows.routing.hop(hop) else { return self.dropped(packet.frame, Reason::NoRoute) };
        let room = match TunnelRoom::of(flows, (address, server), next.mtu) {
            Ok(room) => room,
            Err(reason) => return self.dropped(packet.frame, reason),
        };
        let mtu = inner_mtu(room.way, room.added, p.ipv6);
        if p.ip_len > mtu && p.dont_fragment {
            return too_big(flows, packet, mtu);
        }
        let Some(len) = p.ip_len.checked_add(room.added) else {
            return self.dropped(packet.frame, Reason::TunnelMtu);
        };
        let Some(source) = flows.own_address(next.port, address) else {
            return self.dropped(packet.frame, Reason::NoPortAddress);
        };
        self.tunnel_id = self.tunnel_id.wrapping_add(1);
        let outer = Outer {
            shape: room.shape,
            source,
            server: address,
            ipv6: p.ipv6,
            flow: p.tuple.spread(),
            id: self.tunnel_id,
        };
        let mut frame = packet.frame;
        frame.truncate(usize::from(p.l3) + usize::from(p.ip_len));
        if !age(frame.data_mut(), usize::from(p.l3)) {
            return self.dropped(frame, Reason::Truncated);
        }
        match outer.wrap(&mut frame, len) {
            Ok(()) if len > room.way => self.fragment(flows, frame, hop, room.way),
            Ok(()) => self.leave(flows, frame, hop, len),
            Err(reason) => self.drop(frame, reason),
        }
        Ok(Edit::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::memory::MemoryFrame;

    #[test]
    fn gue_s_source_port_is_one_that_linux_would_take() {
        let port = |flow| {
            let headers = gue(flow, 6080, 100, protocol::IPIP);
            assert_eq!(headers[2..], [0x17, 0xc0, 0, 100, 0, 0, 0, 4, 0, 0]);
            u16::from_be_bytes([headers[0], headers[1]])
        };
        assert_eq!([0, u32::MAX].map(port), [32_768, 60_998]);
        assert_ne!(port(1 << 30), port(1 << 31));
    }

    /// A packet with 31 bytes behind its IPv4 header, or 11 behind its IPv6 header, as it arrives.
    fn packet(n: u8, ipv6: bool) -> (Vec<u8>, u16) {
        let mut ip = if ipv6 {
            let ip =
                etherparse::Ipv6Header { traffic_class: n * 37, hop_limit: 9 * n + 2, ..Default::default() };
            etherparse::IpHeaders::Ipv6(ip, Default::default())
        } else {
            let mut ip =
                etherparse::Ipv4Header::new(0, 9 * n + 2, etherparse::IpNumber::UDP, [1, 2, 3, n], [9; 4])
                    .unwrap();
            ip.dont_fragment = n.is_multiple_of(2);
            ip.dscp = etherparse::IpDscp::try_new(n * 9).unwrap();
            etherparse::IpHeaders::Ipv4(ip, Default::default())
        };
        ip.set_payload_len(11).unwrap();
        let mut out = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ip(ip);
        builder.udp(1, 2).write(&mut out, b"abc").unwrap();
        let len = out.len() - 14;
        // The padding that follows a short packet on the wire.
        out.resize(70, 0);
        (out, len as u16)
    }

    fn check<A: TunnelServer + Into<IpAddr>>(source: A, server: A) {
        let kinds = [TunnelKind::Ipip, TunnelKind::Gre, TunnelKind::Gue];
        let packets = (0..6).flat_map(|n| kinds.map(|kind| (n, kind)));
        for ((n, kind), id) in packets.flat_map(|p| [(p, 0xff00 + u16::from(p.0)), (p, 0)]) {
            let ipv6 = id == 0;
            let (bytes, ip_len) = packet(n, ipv6);
            let shape = Shape { kind, checksum: false, port: 6080 };
            let (len, flow) = (ip_len + (A::LEN + shape.between()) as u16, u32::from(n) << 28);
            let mut plain = MemoryFrame::new(&bytes);
            let tunnel = Plain { kind, source, server, ipv6, id, len, port: shape.port, flow };
            tunnel.wrap(&mut plain).unwrap();
            let mut other = MemoryFrame::new(&bytes);
            other.truncate(14 + usize::from(ip_len));
            assert!(age(other.data_mut(), 14));
            let outer = Outer { shape, source: source.into(), server: server.into(), ipv6, flow, id };
            outer.wrap(&mut other, len).unwrap();
            // The MAC addresses are set later.
            assert_eq!(plain.bytes()[12..], other.bytes()[12..], "{shape:?} {bytes:x?}");
        }
    }

    #[test]
    fn the_plain_way_writes_what_the_other_does() {
        check(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        check::<Ipv6Addr>("fd00::1".parse().unwrap(), "fd00:1:2:3:4:5:6:7".parse().unwrap());
    }
}
