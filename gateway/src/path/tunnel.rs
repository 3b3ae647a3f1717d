//! Stage 6 of TUN: the packet leaves inside an outer packet to its server.
//!
//! ```text
//! IPIP  | outer IP, protocol 4  | packet            RFC 2003
//! GRE   | outer IP, protocol 47 | flags protocol [checksum 0] | packet            RFC 2784
//! GUE   | outer IP, protocol 17 | UDP | 0 4 0 0 | packet       draft-ietf-intarea-gue, variant 0
//! ```
//!
//! The outer header as Linux's `ip_vs_tunnel_xmit` makes it: ToS, TTL and DF are the packet's own, the source
//! is the gateway's address on the port towards the server. The inner packet is one hop older and otherwise
//! as it came. Linux asks for remote checksum offload only for packets whose checksum its own stack has left
//! undone; packets off a wire never are, so `--tun-remcsum` means a full outer checksum, there and here.

use std::net::Ipv4Addr;

use weirctl::model::{Tunnel, TunnelChecksum, TunnelKind};
use zerocopy::IntoBytes;

use super::{Worker, direct::age, parse::Parsed, verdict::Reason};
use crate::{
    id::ServerId,
    io::{Frame, Io, PortId},
    net::{
        Header,
        checksum::Sum,
        ethernet::EthernetHeader,
        ipv4::{DONT_FRAGMENT, Ipv4Header},
        protocol,
        udp::UdpHeader,
    },
};

/// Longest header in front of the inner packet: Ethernet, IPv4, UDP, GUE.
const HEADERS: usize = EthernetHeader::LEN + Ipv4Header::LEN + UdpHeader::LEN + GUE;
/// The GUE header without options.
const GUE: usize = 4;
/// Every link takes packets of this size (RFC 791, 3.2): a tunnel through less is none.
const MIN_MTU: u16 = 68;
/// GRE: a checksum is there.
const GRE_CHECKSUM: u16 = 0x8000;
/// GRE: the payload is IPv4.
const GRE_IPV4: u16 = 0x0800;
/// GUE over UDP comes from one of these ports, by flow, as Linux's default `ip_local_port_range` has them.
const FLOW_PORTS: std::ops::Range<u16> = 32768..60999;

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

    fn protocol(self) -> u8 {
        match self.kind {
            TunnelKind::Ipip => protocol::IPIP,
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
    source: Ipv4Addr,
    server: Ipv4Addr,
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
                out[2..4].copy_from_slice(&GRE_IPV4.to_be_bytes());
                if self.shape.checksum {
                    let check = Sum::of(out).and(inner).checksum();
                    out[4..6].copy_from_slice(&check.to_be_bytes());
                }
            }
            TunnelKind::Gue => {
                let ports = u64::from(FLOW_PORTS.end - FLOW_PORTS.start);
                let source = FLOW_PORTS.start + (((self.flow & 0xffff_ffff) * ports) >> 32) as u16;
                let mut udp = UdpHeader::new(source, self.shape.port, len);
                let gue = [0, protocol::IPIP, 0, 0];
                if self.shape.checksum {
                    let sum = Sum::pseudo_v4(self.source, self.server, protocol::UDP, len)
                        .and(Sum::of(udp.as_bytes()))
                        .and(Sum::of(&gue))
                        .and(inner);
                    udp.set_checksum(sum.udp_checksum());
                }
                out[..UdpHeader::LEN].copy_from_slice(udp.as_bytes());
                out[UdpHeader::LEN..].copy_from_slice(&gue);
            }
        }
    }

    /// Puts the packet that lies behind the Ethernet header of `frame` into the tunnel. `len` is the outer
    /// packet's length.
    fn wrap<F: Frame>(&self, frame: &mut F, len: u16) -> Result<(), Reason> {
        let ethernet = EthernetHeader::LEN;
        let inner_len = usize::from(len) - Ipv4Header::LEN - self.shape.between();
        let sum = if self.shape.checksum && self.shape.kind != TunnelKind::Ipip {
            sum_over(frame, ethernet, inner_len).ok_or(Reason::Truncated)?
        } else {
            Sum::ZERO
        };
        let inner = Ipv4Header::at(frame.data(), ethernet).ok_or(Reason::Truncated)?;
        let mut outer = Ipv4Header::new(self.source, self.server, self.shape.protocol(), len);
        outer.tos = inner.tos;
        outer.ttl = inner.ttl;
        if inner.dont_fragment() {
            outer.set_flags_fragment(DONT_FRAGMENT);
        } else {
            outer.set_id(self.id);
        }
        outer.seal();

        let mut head = [0u8; HEADERS];
        let between = ethernet + Ipv4Header::LEN;
        let end = between + self.shape.between();
        head[..ethernet].copy_from_slice(frame.data().get(..ethernet).ok_or(Reason::Truncated)?);
        head[ethernet..between].copy_from_slice(outer.as_bytes());
        self.write_between(&mut head[between..end], len - Ipv4Header::LEN as u16, sum);
        if !frame.prepend(end - ethernet) {
            return Err(Reason::NoHeadroom);
        }
        frame.data_mut().get_mut(..end).ok_or(Reason::Truncated)?.copy_from_slice(&head[..end]);
        Ok(())
    }
}

impl<I: Io> Worker<I> {
    /// Sends a packet through the tunnel to a server, at `address` (host order), by way of `hop`.
    pub(super) fn send_tunnelled(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        (address, server): (u32, ServerId),
        hop: u16,
    ) {
        let facts = self.servers.get(server.0 as usize).and_then(Option::as_ref);
        let shape = Shape::unpack(facts.map_or(0, |s| s.others.tunnel.get()));
        let Some(&next) = self.routing.hop(hop) else { return self.drop_frame(frame, Reason::NoRoute) };
        let added = (Ipv4Header::LEN + shape.between()) as u16;
        let Some(mtu) = next.mtu.checked_sub(added).filter(|&mtu| mtu >= MIN_MTU) else {
            return self.drop_frame(frame, Reason::TunnelMtu);
        };
        if p.ip_len > mtu && p.dont_fragment {
            return self.answer_too_big(port, frame, p, mtu);
        }
        let Some(len) = p.ip_len.checked_add(added) else {
            return self.drop_frame(frame, Reason::TunnelMtu);
        };
        let Some(source) = self.own_address(next.port) else {
            return self.drop_frame(frame, Reason::NoPortAddress);
        };
        self.tunnel_id = self.tunnel_id.wrapping_add(1);
        let outer = Outer {
            shape,
            source,
            server: Ipv4Addr::from(address),
            flow: self.sessions.hash(p.tuple, p.protocol) >> 32,
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
}
