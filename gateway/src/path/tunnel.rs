//! Stage 6 of TUN: the packet leaves inside an outer packet to its server.
//!
//! ```text
//! IPIP  | outer IP, protocol 4 or 41 | packet       RFC 2003, RFC 4213, RFC 2473
//! GRE   | outer IP, protocol 47 | flags protocol [checksum 0] | packet            RFC 2784
//! GUE   | outer IP, protocol 17 | UDP | 0 4 0 0 | packet       draft-ietf-intarea-gue, variant 0
//! ```
//!
//! The outer header as Linux's `ip_vs_tunnel_xmit` makes it: ToS, TTL and DF are the packet's own, the source
//! is the gateway's address on the port towards the server. Both packets may be of either family; an IPv4 packet around
//! an IPv6 one has no DF, one of IPv6 is never fragmented. The inner packet is one hop older and otherwise
//! as it came. Linux asks for remote checksum offload only for packets whose checksum its own stack has left
//! undone; packets off a wire never are, so `--tun-remcsum` means a full outer checksum, there and here.

use std::net::{IpAddr, Ipv4Addr};

use weirctl::model::{Tunnel, TunnelChecksum, TunnelKind};
use zerocopy::IntoBytes;

use super::{Worker, direct::age, parse::Parsed, route::Hop, verdict::Reason};
use crate::{
    id::ServerId,
    io::{Frame, Io, PortId},
    net::{
        Header,
        checksum::Sum,
        ethernet::{EthernetHeader, ether_type},
        ipv4::{DONT_FRAGMENT, Ipv4Header},
        ipv6::{self, Ipv6Header},
        protocol,
        udp::UdpHeader,
    },
};

/// The GUE header without options.
const GUE: usize = 4;
/// Every link takes IPv4 packets of this size (RFC 791, 3.2): a tunnel through less is none. IPv6 has its own
/// ([`ipv6::MIN_MTU`]), which is what a tunnel over it must take.
const MIN_MTU: u16 = 68;
/// GRE: a checksum is there.
const GRE_CHECKSUM: u16 = 0x8000;
/// GUE over UDP comes from one of these ports, by flow, as Linux's default `ip_local_port_range` has them.
const FLOW_PORTS: std::ops::Range<u16> = 32768..60999;

/// GUE's headers of `len` bytes with them, around a packet of such a protocol number.
fn gue(flow: u64, port: u16, len: u16, inner_protocol: u8) -> (UdpHeader, [u8; GUE]) {
    let ports = u64::from(FLOW_PORTS.end - FLOW_PORTS.start);
    let source = FLOW_PORTS.start + (((flow & 0xffff_ffff) * ports) >> 32) as u16;
    (UdpHeader::new(source, port, len), [0, inner_protocol, 0, 0])
}

/// A tunnel in one word, for a server's facts. 0 is IPIP.
#[must_use]
pub fn pack(tunnel: Tunnel) -> u32 {
    let kind = match tunnel.kind {
        TunnelKind::Ipip => 0,
        TunnelKind::Gue => 1,
        TunnelKind::Gre => 2,
    };
    let checksum = u32::from(tunnel.checksum != TunnelChecksum::None);
    kind | checksum << 2 | u32::from(tunnel.port) << 16
}

/// What [`pack`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    kind: TunnelKind,
    checksum: bool,
    port: u16,
}

impl Shape {
    fn unpack(word: u32) -> Self {
        let kind = match word & 3 {
            0 => TunnelKind::Ipip,
            1 => TunnelKind::Gue,
            _ => TunnelKind::Gre,
        };
        Self { kind, checksum: word & 4 != 0, port: (word >> 16) as u16 }
    }

    /// Bytes between the outer IP header and the packet.
    fn between(self) -> usize {
        match self.kind {
            TunnelKind::Ipip => 0,
            TunnelKind::Gue => UdpHeader::LEN + GUE,
            TunnelKind::Gre if self.checksum => 8,
            TunnelKind::Gre => 4,
        }
    }

    /// The outer header's protocol number around a packet of such a protocol number.
    fn protocol(self, inner: u8) -> u8 {
        match self.kind {
            TunnelKind::Ipip => inner,
            TunnelKind::Gue => protocol::UDP,
            TunnelKind::Gre => protocol::GRE,
        }
    }
}

/// The sum of `len` bytes of a frame from `skip` on, over all segments; none if it has fewer.
pub(super) fn sum_over(frame: &impl Frame, mut skip: usize, mut len: usize) -> Option<Sum> {
    let (mut sum, mut odd, mut n) = (Sum::ZERO, false, 0);
    while len != 0 {
        let segment = frame.segment(n)?;
        let from = skip.min(segment.len());
        let part = &segment[from..];
        let part = &part[..part.len().min(len)];
        let of = Sum::of(part);
        sum = sum.and(if odd { of.swapped() } else { of });
        odd ^= part.len() % 2 == 1;
        skip -= from;
        len -= part.len();
        n += 1;
    }
    Some(sum)
}

/// What the outer headers say beside the packet's own facts.
struct Outer {
    shape: Shape,
    /// Of the same family as the server.
    source: IpAddr,
    server: IpAddr,
    /// Whether the packet inside is IPv6.
    ipv6: bool,
    /// Chooses GUE's source port.
    flow: u64,
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
                let (mut udp, gue) = gue(self.flow, self.shape.port, len, self.inner_protocol());
                if self.shape.checksum {
                    let sum =
                        self.pseudo_header(len).and(Sum::of(udp.as_bytes())).and(Sum::of(&gue)).and(inner);
                    udp.set_checksum(sum.udp_checksum());
                }
                out[..UdpHeader::LEN].copy_from_slice(udp.as_bytes());
                out[UdpHeader::LEN..].copy_from_slice(&gue);
            }
        }
    }

    fn inner_protocol(&self) -> u8 {
        if self.ipv6 { protocol::IPV6 } else { protocol::IPIP }
    }

    /// UDP's, over `len` bytes.
    fn pseudo_header(&self, len: u16) -> Sum {
        match (self.source, self.server) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Sum::pseudo_v4(from, to, protocol::UDP, len),
            (IpAddr::V6(from), IpAddr::V6(to)) => Sum::pseudo_v6(from, to, protocol::UDP, len.into()),
            _ => Sum::ZERO,
        }
    }

    /// Writes the outer IP header of a packet of `len` bytes.
    fn write_outer(&self, out: &mut [u8], len: u16, inner: Inner) {
        let protocol = self.shape.protocol(self.inner_protocol());
        match (self.source, self.server) {
            (IpAddr::V4(source), IpAddr::V4(server)) => {
                let id = if inner.dont_fragment { None } else { Some(self.id) };
                if let Some(out) = out.first_chunk_mut() {
                    write_v4(out, (inner.tos, inner.ttl, id), protocol, len, (source, server));
                }
            }
            (IpAddr::V6(source), IpAddr::V6(server)) => {
                let Some(out) = out.first_chunk_mut::<{ Ipv6Header::LEN }>() else { return };
                let [high, low] = (len - Ipv6Header::LEN as u16).to_be_bytes();
                // Word by word: a header made elsewhere would have to be read back as soon as it was written.
                let first = [0x60 | inner.tos >> 4, inner.tos << 4, 0, 0, high, low, protocol, inner.ttl];
                out[..8].copy_from_slice(&u64::from_be_bytes(first).to_be_bytes());
                out[8..24].copy_from_slice(&source.to_bits().to_be_bytes());
                out[24..].copy_from_slice(&server.to_bits().to_be_bytes());
            }
            _ => {}
        }
    }

    /// Puts the packet that lies behind the Ethernet header of `frame` into the tunnel. `len` is the outer
    /// packet's length.
    fn wrap<F: Frame>(&self, frame: &mut F, len: u16) -> Result<(), Reason> {
        let ethernet = EthernetHeader::LEN;
        let outer_len = header_len(self.server);
        let inner_len = usize::from(len) - outer_len - self.shape.between();
        let sum = if self.shape.checksum && self.shape.kind != TunnelKind::Ipip {
            sum_over(frame, ethernet, inner_len).ok_or(Reason::Truncated)?
        } else {
            Sum::ZERO
        };
        let inner = Inner::of(frame.data(), self.ipv6).ok_or(Reason::Truncated)?;
        let (between, end) = (ethernet + outer_len, ethernet + outer_len + self.shape.between());
        if !frame.prepend(end - ethernet) {
            return Err(Reason::NoHeadroom);
        }
        // The MAC addresses are whoever's it leaves for.
        let head = frame.data_mut().get_mut(..end).ok_or(Reason::Truncated)?;
        head[12..ethernet].copy_from_slice(&type_of(self.server.is_ipv6()).to_be_bytes());
        self.write_outer(&mut head[ethernet..between], len, inner);
        self.write_between(&mut head[between..], len - outer_len as u16, sum);
        Ok(())
    }
}

/// A tunnel over IPv4 for an IPv4 packet, without a checksum over it.
pub(super) struct Plain {
    kind: TunnelKind,
    source: Ipv4Addr,
    server: Ipv4Addr,
    /// Of the outer packet.
    id: u16,
    len: u16,
    /// GUE's.
    port: u16,
    flow: u64,
}

impl Plain {
    /// Puts the packet that lies behind the Ethernet header of `frame` into the tunnel; it becomes a hop older.
    #[inline(always)]
    fn wrap(&self, frame: &mut impl Frame) -> Result<(), Reason> {
        match self.kind {
            TunnelKind::Ipip => wrap_plain::<0>(frame, self, protocol::IPIP).map(drop),
            TunnelKind::Gre => {
                let between = wrap_plain::<4>(frame, self, protocol::GRE)?;
                between.copy_from_slice(&u32::from(ether_type::IPV4).to_be_bytes());
                Ok(())
            }
            TunnelKind::Gue => {
                let between = wrap_plain::<{ UdpHeader::LEN + GUE }>(frame, self, protocol::UDP)?;
                let len = self.len - Ipv4Header::LEN as u16;
                let (udp, gue) = gue(self.flow, self.port, len, protocol::IPIP);
                between[..UdpHeader::LEN].copy_from_slice(udp.as_bytes());
                between[UdpHeader::LEN..].copy_from_slice(&gue);
                Ok(())
            }
        }
    }
}

/// Puts a packet into a tunnel as most are, with `BETWEEN` bytes after the outer IP header: the same bytes as
/// [`Outer::wrap`] writes, without asking what they depend on. The packet becomes a hop older. Returns those bytes.
#[inline(always)]
fn wrap_plain<'a, const BETWEEN: usize>(
    frame: &'a mut impl Frame,
    tunnel: &Plain,
    protocol: u8,
) -> Result<&'a mut [u8], Reason> {
    const OUTER: usize = EthernetHeader::LEN + Ipv4Header::LEN;
    let whole_frame = EthernetHeader::LEN + usize::from(tunnel.len);
    if !frame.prepend(Ipv4Header::LEN + BETWEEN) {
        return Err(Reason::NoHeadroom);
    }
    if frame.total_len() != whole_frame {
        frame.truncate(whole_frame);
    }
    let head = frame.data_mut().get_mut(..OUTER + BETWEEN + Ipv4Header::LEN).ok_or(Reason::Truncated)?;
    let inner = Ipv4Header::at_mut(head, OUTER + BETWEEN).ok_or(Reason::Truncated)?;
    inner.decrement_ttl();
    let (tos, ttl) = (inner.tos, inner.ttl);
    let id = if inner.dont_fragment() { None } else { Some(tunnel.id) };
    head[12..14].copy_from_slice(&ether_type::IPV4.to_be_bytes());
    let out = head[14..].first_chunk_mut().ok_or(Reason::Truncated)?;
    write_v4(out, (tos, ttl, id), protocol, tunnel.len, (tunnel.source, tunnel.server));
    Ok(&mut head[OUTER..OUTER + BETWEEN])
}

/// Writes an outer IPv4 header, word by word: without an identification it isn't to be fragmented.
#[inline(always)]
fn write_v4(
    out: &mut [u8; Ipv4Header::LEN],
    (tos, ttl, id): (u8, u8, Option<u16>),
    protocol: u8,
    len: u16,
    (source, destination): (Ipv4Addr, Ipv4Addr),
) {
    let (id, flags) = id.map_or((0, DONT_FRAGMENT), |id| (id, 0));
    let halves = |word: u32| (word >> 16) + (word & 0xffff);
    let (from, to) = (source.to_bits(), destination.to_bits());
    let first = 0x4500_0000 | u32::from(tos) << 16 | u32::from(len);
    let second = u32::from(id) << 16 | u32::from(flags);
    let third = u32::from(ttl) << 24 | u32::from(protocol) << 16;
    // A few halves: the sum's own high half is a digit, and adding it carries once at most.
    let sum = halves(first) + halves(second) + (third >> 16) + halves(from) + halves(to);
    let third = third | u32::from(!halves(halves(sum)) as u16);
    out[..8].copy_from_slice(&(u64::from(first) << 32 | u64::from(second)).to_be_bytes());
    out[8..12].copy_from_slice(&third.to_be_bytes());
    out[12..].copy_from_slice(&(u64::from(from) << 32 | u64::from(to)).to_be_bytes());
}

/// What the outer header takes over from the packet inside.
#[derive(Clone, Copy)]
struct Inner {
    tos: u8,
    ttl: u8,
    dont_fragment: bool,
}

impl Inner {
    fn of(data: &[u8], ipv6: bool) -> Option<Self> {
        if ipv6 {
            let ip = Ipv6Header::at(data, EthernetHeader::LEN)?;
            return Some(Self { tos: ip.traffic_class(), ttl: ip.hop_limit, dont_fragment: false });
        }
        let ip = Ipv4Header::at(data, EthernetHeader::LEN)?;
        Some(Self { tos: ip.tos, ttl: ip.ttl, dont_fragment: ip.dont_fragment() })
    }
}

/// Length of the IP header towards an address.
fn header_len(to: IpAddr) -> usize {
    if to.is_ipv6() { Ipv6Header::LEN } else { Ipv4Header::LEN }
}

fn type_of(ipv6: bool) -> u16 {
    if ipv6 { ether_type::IPV6 } else { ether_type::IPV4 }
}

impl<I: Io> Worker<I> {
    /// The tunnel to a server of IPv4 at `server` for an IPv4 packet, if there is nothing special about either.
    #[inline(always)]
    pub(super) fn plain_tunnel(&self, p: &Parsed, word: u32, server: u32, next: &Hop) -> Option<Plain> {
        let shape = Shape::unpack(word);
        let Shape { kind, checksum, port } = shape;
        let added = (Ipv4Header::LEN + shape.between()) as u16;
        let len = p.ip_len.checked_add(added)?;
        let special = checksum | p.ipv6 | (p.l3 != EthernetHeader::LEN as u8);
        if special | (len > next.mtu) | (next.mtu < MIN_MTU + added) {
            return None;
        }
        let flow = match kind {
            TunnelKind::Gue => self.sessions.hash(p.tuple, p.protocol) >> 32,
            _ => 0,
        };
        let source = self.routing.table().port(next.port)?.address?;
        let id = self.tunnel_id.wrapping_add(1);
        Some(Plain { kind, source, server: Ipv4Addr::from_bits(server), id, len, port, flow })
    }

    /// Puts a packet into a tunnel of [`Self::plain_tunnel`].
    ///
    /// # Errors
    /// There is no room for its headers, or the frame has fewer bytes than the packet says.
    #[inline(always)]
    pub(super) fn enter_plain(&mut self, frame: &mut I::Frame, tunnel: &Plain) -> Result<(), Reason> {
        self.tunnel_id = tunnel.id;
        tunnel.wrap(frame)
    }

    /// Sends a packet through the tunnel to a server, at `address`, by way of `hop`.
    pub(super) fn send_tunnelled(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        (address, server): (IpAddr, ServerId),
        hop: u16,
    ) {
        let facts = self.servers.get(server.0 as usize).and_then(Option::as_ref);
        let shape = Shape::unpack(facts.map_or(0, |s| s.others.tunnel.get()));
        let Some(&next) = self.routing.hop(hop) else { return self.drop_frame(frame, Reason::NoRoute) };
        let added = (header_len(address) + shape.between()) as u16;
        let least = if address.is_ipv6() { ipv6::MIN_MTU as u16 } else { MIN_MTU };
        let Some(mtu) = next.mtu.checked_sub(added).filter(|&mtu| mtu >= least) else {
            return self.drop_frame(frame, Reason::TunnelMtu);
        };
        if p.ip_len > mtu && p.dont_fragment {
            return self.answer_too_big(port, frame, p, mtu);
        }
        let Some(len) = p.ip_len.checked_add(added) else {
            return self.drop_frame(frame, Reason::TunnelMtu);
        };
        let Some(source) = self.own_address(next.port, address) else {
            return self.drop_frame(frame, Reason::NoPortAddress);
        };
        self.tunnel_id = self.tunnel_id.wrapping_add(1);
        let outer = Outer {
            shape,
            source,
            server: address,
            ipv6: p.ipv6,
            // Only GUE has a place for it.
            flow: match shape.kind {
                TunnelKind::Gue => self.sessions.hash(p.tuple, p.protocol) >> 32,
                _ => 0,
            },
            id: self.tunnel_id,
        };
        frame.truncate(usize::from(p.l3) + usize::from(p.ip_len));
        if !age(frame.data_mut(), usize::from(p.l3)) {
            return self.drop_frame(frame, Reason::Truncated);
        }
        match outer.wrap(&mut frame, len) {
            Ok(()) => self.leave(frame, hop, len),
            Err(reason) => self.drop_frame(frame, reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::memory::MemoryFrame;

    #[test]
    fn every_tunnel_fits_into_a_word() {
        for kind in [TunnelKind::Ipip, TunnelKind::Gue, TunnelKind::Gre] {
            for checksum in [TunnelChecksum::None, TunnelChecksum::Full, TunnelChecksum::Remote] {
                let shape = Shape::unpack(pack(Tunnel { kind, port: 6080, checksum }));
                assert_eq!(shape, Shape { kind, checksum: checksum != TunnelChecksum::None, port: 6080 });
            }
        }
        assert_eq!(Shape::unpack(0).kind, TunnelKind::Ipip);
    }

    #[test]
    fn sums_run_over_segments_of_odd_length() {
        let bytes: Vec<u8> = (1..=40).collect();
        let frame = MemoryFrame::chained(&[&bytes[..7], &bytes[7..8], &bytes[8..21], &bytes[21..]]);
        for (from, len) in [(0, 40), (5, 30), (7, 33), (9, 3)] {
            let whole = Sum::of(&bytes[from..from + len]);
            assert_eq!(sum_over(&frame, from, len).map(Sum::fold), Some(whole.fold()), "{from} {len}");
        }
        assert_eq!(sum_over(&frame, 30, 11), None);
    }

    #[test]
    fn the_plain_way_writes_what_the_other_does() {
        let (source, server) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let shapes = [TunnelKind::Ipip, TunnelKind::Gre, TunnelKind::Gue].map(|kind| Shape {
            kind,
            checksum: false,
            port: 6080,
        });
        let packets = (0..6u8).map(|n| {
            let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
            let mut ip =
                etherparse::Ipv4Header::new(0, 9 * n + 2, etherparse::IpNumber::UDP, [1, 2, 3, n], [9; 4]);
            let ip = ip.as_mut().unwrap();
            ip.dont_fragment = n % 2 == 0;
            ip.dscp = etherparse::IpDscp::try_new(n * 9).unwrap();
            let mut out = Vec::new();
            builder
                .ip(etherparse::IpHeaders::Ipv4(ip.clone(), Default::default()))
                .udp(1, 2)
                .write(&mut out, b"abc")
                .unwrap();
            // What follows a short packet on a wire.
            out.resize(60, 0);
            out
        });
        for ((bytes, shape), n) in packets.flat_map(|p| shapes.map(|s| (p.clone(), s))).zip(0xff00..) {
            let (id, flow) = (n, u64::from(n) << 28);
            let len = 31 + (Ipv4Header::LEN + shape.between()) as u16;
            let mut plain = MemoryFrame::new(&bytes);
            let tunnel = Plain { kind: shape.kind, source, server, id, len, port: shape.port, flow };
            tunnel.wrap(&mut plain).unwrap();
            let mut other = MemoryFrame::new(&bytes);
            other.truncate(14 + 31);
            assert!(age(other.data_mut(), 14));
            let outer = Outer { shape, source: source.into(), server: server.into(), ipv6: false, flow, id };
            outer.wrap(&mut other, len).unwrap();
            // The MAC addresses come later.
            assert_eq!(plain.bytes()[12..], other.bytes()[12..], "{shape:?} {bytes:x?}");
        }
    }
}
