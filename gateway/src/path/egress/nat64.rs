//! Stage 6 of FULLNAT between the address families (NAT64 and NAT46): an IPv6 service with IPv4 servers, or the
//! reverse.
//!
//! ```text
//! | Ethernet | IPv4 [options]    | transport ..        20 bytes less or more, by moving the frame's beginning
//! | Ethernet | IPv6 [extensions] | transport ..
//! ```
//!
//! Headers are translated according to RFC 7915: type of service and traffic class are the same octet, the TTL is
//! decremented, options and extension headers are removed. The transport checksum changes only with addresses and
//! ports, because the rest of both pseudo-headers has the same sum. A UDP datagram without a checksum gets one, which
//! IPv6 requires.
//!
//! A packet towards IPv6 grows by 20 bytes, so the MSS that the IPv6 side announces is lowered to what its port takes
//! with both headers. A packet that is still too big and has DF is refused with the MTU that its sender must keep to;
//! without DF it leaves in fragments that fit every IPv6 link. Towards IPv4, DF is set if the IPv6 packet was larger
//! than the minimum MTU (1280 bytes), because only then can its sender be told to send less. A fragment stays a
//! fragment, with a fragment header in IPv6 and the usual header in IPv4; a fragment of a datagram without a checksum
//! can't be sent to IPv6.
//!
//! The IPv6 fast path finds such sessions. The IPv4 fast path doesn't, and pays nothing for them: the next hops of
//! their IPv4 packets are remembered elsewhere.

use std::net::IpAddr;

use zerocopy::IntoBytes;

use super::{Carried, Egress, fragment::Part, rewrite::rewrite_transport, toa, too_big};
use crate::{
    id::HopId,
    io::{Frame, Io, PortId},
    net::{
        Fields, Header,
        checksum::{Delta, Sum},
        ethernet::{EthernetHeader, ether_type},
        ipv4::{DONT_FRAGMENT, Ipv4Header, MORE_FRAGMENTS},
        ipv6::{self, FragmentHeader, GROWTH, Ipv6Header, MIN_MTU},
        tcp,
        udp::UdpHeader,
    },
    path::{
        flow::Flows,
        ingress::{
            parse::Parsed,
            sums::{is_unchecked, sum_over},
        },
        next::{Edit, Exit},
        packet::Packet,
        verdict::Reason,
    },
    table::{
        endpoints::Endpoints,
        session::{Direction, Tuple},
        sessions::Found,
    },
};

/// The longest IPv4 packet made from an IPv6 one that fits every IPv6 link. Its sender couldn't be told to send less,
/// so it has no DF (RFC 7915, 5.1).
const UNTOLD: u16 = MIN_MTU as u16 - GROWTH;
/// How much longer a fragment's header is in IPv6.
const FRAGMENT_GROWTH: u16 = GROWTH + FragmentHeader::LEN as u16;

/// The new header fields of a packet that leaves by IPv6.
pub(crate) struct Across<'a> {
    /// The MAC addresses, as laid out in the frame.
    pub macs: [u8; 12],
    /// The ports, as laid out in the header.
    pub ports: u32,
    /// The difference of the transport checksum.
    pub delta: Delta,
    /// Source address.
    pub source: &'a [u8],
    /// Destination address.
    pub destination: &'a [u8],
}

/// Replaces the header of an IPv4 TCP packet without options with IPv6's. Returns the acknowledgement number; none, and
/// the frame spoilt, if the frame doesn't match `p` or there is no headroom.
#[inline(always)]
pub(crate) fn to_ipv6<F: Frame>(mut frame: F, p: &Parsed, across: &Across<'_>) -> (F, Option<[u8; 4]>) {
    cut(&mut frame, p);
    let transport_len = p.ip_len.wrapping_sub(Ipv4Header::LEN as u16);
    let tos = Ipv4Header::at(frame.data(), EthernetHeader::LEN).map_or(0, |ip| ip.tos);
    let transport = frame.data_mut().get_mut(usize::from(p.l4)..);
    let rewritten = rewrite_transport(transport, p, across.ports, across.delta);
    let ready = rewritten.is_some() && frame.prepend(GROWTH.into());
    let Some(head) = frame.data_mut().first_chunk_mut::<54>().filter(|_| ready) else {
        return (frame, None);
    };
    let (ethernet, ip) = head.split_at_mut(EthernetHeader::LEN);
    ethernet[..12].copy_from_slice(&across.macs);
    ethernet[12..].copy_from_slice(&ether_type::IPV6.to_be_bytes());
    if let (Some(ip), Some(source), Some(destination)) =
        (ip.first_chunk_mut(), across.source.first_chunk(), across.destination.first_chunk())
    {
        Ipv6Header::put(ip, later(p, tos), transport_len, source, destination);
    }
    (frame, rewritten)
}

impl<I: Io> Egress<I> {
    /// Sends an IPv6 packet without extension headers on by IPv4: the last step of the fast path.
    #[inline(always)]
    pub(crate) fn leave_by_v4(
        &mut self,
        mut frame: I::Frame,
        p: &Parsed,
        (leaving, delta): (Tuple, Delta),
        (macs, out): ([u8; 12], PortId),
    ) {
        cut(&mut frame, p);
        self.tunnel_id = self.tunnel_id.wrapping_add(1);
        let tos = Ipv6Header::at(frame.data(), EthernetHeader::LEN).map_or(0, Ipv6Header::traffic_class);
        let transport = frame.data_mut().get_mut(usize::from(p.l4)..);
        let ready = rewrite_transport(transport, p, leaving.ports, delta).is_some()
            && frame.trim_front(GROWTH.into());
        let Some(head) = frame.data_mut().first_chunk_mut::<34>().filter(|_| ready) else {
            return self.drop(frame, Reason::Truncated);
        };
        let (ethernet, ip) = head.split_at_mut(EthernetHeader::LEN);
        ethernet[..12].copy_from_slice(&macs);
        ethernet[12..].copy_from_slice(&ether_type::IPV4.to_be_bytes());
        if let Some(ip) = ip.first_chunk_mut() {
            let len = p.ip_len.wrapping_sub(GROWTH);
            let id = (len <= UNTOLD).then_some(self.tunnel_id);
            Ipv4Header::put(ip, later(p, tos), len, id, leaving.addresses);
        }
        self.tx.push(&mut self.io, &self.counters, out, frame);
    }

    /// Sends a packet of a session whose other side has the other family.
    #[inline(never)]
    pub(crate) fn send_nat64(
        &mut self,
        flows: &Flows,
        mut packet: Packet<'_, I::Frame>,
        found: Found,
        exit: Exit,
    ) -> Carried<I::Frame> {
        let p = packet.parsed;
        let (Exit::Hop(hop), Some(session)) = (exit, flows.sessions.get(found.id)) else {
            return self.dropped(packet.frame, Reason::NoSession);
        };
        let Some(&next) = flows.routing.hop(hop) else { return self.dropped(packet.frame, Reason::NoRoute) };
        let (tells, proxied) = (session.tells_client(), session.is_proxied());
        let part = part_of(packet.frame.data(), p);
        let way = if proxied { flows.way_mtu(p, found, next.mtu) } else { next.mtu };
        let mtu = sender_s_mtu(p, way, part.is_some());
        if is_refused(p, mtu) {
            return too_big(flows, packet, mtu);
        }
        packet.frame.truncate(usize::from(p.l3) + usize::from(p.ip_len));
        let (mut ip_len, mut edit) = (p.ip_len, Edit::Nothing);
        if tells {
            (ip_len, edit) = self.tell(flows, &mut packet, found, mtu);
        }
        if proxied {
            let extensions = u16::from(p.l4 - p.l3) - header_len(p.ipv6);
            let limits = (mtu.saturating_add(extensions), p.ipv6 || !p.dont_fragment);
            match self.proxied(flows, &mut packet, (found, hop), limits) {
                Ok(changed) => (ip_len, edit) = changed,
                Err(refusal) => return self.not_proxied(flows, packet, refusal),
            }
        }
        if p.ipv6 && p.flags & tcp::SYN != 0 {
            let own = flows.routing.table().port(packet.port).map_or(next.mtu, |facts| facts.mtu);
            let headers = (Ipv6Header::LEN + tcp::TcpHeader::LEN) as u16;
            toa::limit_mss(packet.frame.data_mut(), p, own.saturating_sub(headers));
        }
        packet.reach_over(flows, found);
        let id = packet.first.map(|first| first.id);
        let part = part.map(|part| leaving_part(part, found, id));
        if way < next.mtu && part.is_none() {
            self.leave_narrow(flows, packet.frame, p, (found, hop), (ip_len, way));
        } else {
            self.leave_nat64(flows, packet.frame, p, (found, hop), (ip_len, part));
        }
        Ok(edit)
    }

    /// Like [`Self::leave_nat64`], for a whole packet to an IPv6 server whose path has an MTU of only `way` bytes.
    #[cold]
    #[inline(never)]
    fn leave_narrow(
        &mut self,
        flows: &Flows,
        mut frame: I::Frame,
        p: &Parsed,
        (found, hop): (Found, HopId),
        (ip_len, way): (u16, u16),
    ) {
        let Some(len) = self.translate_packet(flows, &mut frame, p, found, (ip_len, None)) else {
            return self.drop(frame, Reason::Truncated);
        };
        if len <= way { self.leave(flows, frame, hop, len) } else { self.fragment(flows, frame, hop, way) }
    }

    /// Sends a later fragment of such a session. `id` is the identification of its packet, for when the sender's own
    /// wouldn't be unique.
    pub(crate) fn send_nat64_fragment(
        &mut self,
        flows: &Flows,
        mut packet: Packet<'_, I::Frame>,
        (found, id): (Found, u16),
        hop: HopId,
    ) -> Carried<I::Frame> {
        let p = packet.parsed;
        let Some(&next) = flows.routing.hop(hop) else { return self.dropped(packet.frame, Reason::NoRoute) };
        let Some(part) = part_of(packet.frame.data(), p) else {
            return self.dropped(packet.frame, Reason::BadFragment);
        };
        let mtu = sender_s_mtu(p, next.mtu, true);
        if is_refused(p, mtu) {
            return too_big(flows, packet, mtu);
        }
        packet.frame.truncate(usize::from(p.l3) + usize::from(p.ip_len));
        let part = leaving_part(part, found, Some(id));
        self.leave_nat64(flows, packet.frame, p, (found, hop), (p.ip_len, Some(part)));
        Ok(Edit::Nothing)
    }

    /// Translates a packet or a part of one, now `ip_len` bytes long, and sends it to `hop`.
    fn leave_nat64(
        &mut self,
        flows: &Flows,
        mut frame: I::Frame,
        p: &Parsed,
        (found, hop): (Found, HopId),
        (ip_len, part): (u16, Option<Part>),
    ) {
        let next_mtu = flows.routing.hop(hop).map_or(0, |next| next.mtu);
        let own_id = Ipv4Header::at(frame.data(), usize::from(p.l3)).map_or(0, Ipv4Header::id);
        let Some(len) = self.translate_packet(flows, &mut frame, p, found, (ip_len, part)) else {
            return self.drop(frame, Reason::Truncated);
        };
        if p.ipv6 || (part.is_none() && len <= next_mtu) {
            return self.leave(flows, frame, hop, len);
        }
        let part = part.unwrap_or_else(|| {
            // Many clients share the local address, where their identifications aren't unique.
            let id = match found.direction {
                Direction::Request => self.next_fragment_id(),
                Direction::Reply => own_id.into(),
            };
            Part { id, at: 0, more: false }
        });
        let fits = len.saturating_add(FragmentHeader::LEN as u16) <= next_mtu;
        let most = if fits { next_mtu } else { next_mtu.min(MIN_MTU as u16) };
        self.fragment_v6(flows, frame, hop, part, most);
    }

    /// Gives a packet or a part of one, now `ip_len` bytes long, the other family's headers. Returns its new length.
    pub(crate) fn translate_packet(
        &mut self,
        flows: &Flows,
        frame: &mut I::Frame,
        p: &Parsed,
        found: Found,
        (ip_len, part): (u16, Option<Part>),
    ) -> Option<u16> {
        let leaving = flows.sessions.leaving(found.id, found.direction)?;
        let (_, l4_delta) = flows.sessions.get(found.id)?.deltas(found.direction);
        self.tunnel_id = self.tunnel_id.wrapping_add(1);
        let transport_len = ip_len - u16::from(p.l4 - p.l3);
        translate(frame, p, (transport_len, part), (&leaving, l4_delta), self.tunnel_id)
    }
}

fn header_len(ipv6: bool) -> u16 {
    if ipv6 { Ipv6Header::LEN as u16 } else { Ipv4Header::LEN as u16 }
}

/// The part of a packet that the frame holds; none if it is a whole packet. An IPv6 packet with a fragment header
/// counts as a part even if it is the only one (RFC 6946).
fn part_of(data: &[u8], p: &Parsed) -> Option<Part> {
    let l3 = usize::from(p.l3);
    if p.ipv6 {
        let fragment = ipv6::upper(data.get(l3..)?).ok()?.fragment?;
        return Some(Part {
            id: fragment.id(),
            at: fragment.offset() as u16,
            more: fragment.more_fragments(),
        });
    }
    let ip = Ipv4Header::at(data, l3).filter(|ip| ip.is_fragment())?;
    Some(Part { id: ip.id().into(), at: ip.fragment_offset() as u16, more: ip.more_fragments() })
}

/// A part as it leaves. It keeps the low half of its identification, which both families have (RFC 7915), or gets the
/// gateway's own `id` if the sender's wouldn't be unique.
fn leaving_part(part: Part, found: Found, id: Option<u16>) -> Part {
    let own = id.filter(|_| found.direction == Direction::Request);
    Part { id: own.unwrap_or(part.id as u16).into(), ..part }
}

/// The largest packet, as the sender counts, for a next hop that takes `mtu` bytes: the sender's own header is shorter
/// or longer. A packet that fits every IPv6 link may always be sent, because it leaves without DF.
fn sender_s_mtu(p: &Parsed, mtu: u16, is_part: bool) -> u16 {
    match (p.ipv6, is_part) {
        (true, _) => mtu.saturating_add(GROWTH).max(MIN_MTU as u16),
        (false, false) => mtu.saturating_sub(GROWTH),
        (false, true) => mtu.saturating_sub(FRAGMENT_GROWTH),
    }
}

/// Whether the sender must be told that a packet is larger than `mtu`. Options and extension headers don't count, since
/// they are removed.
fn is_refused(p: &Parsed, mtu: u16) -> bool {
    let plain = p.ip_len - u16::from(p.l4 - p.l3) + header_len(p.ipv6);
    p.dont_fragment && plain > mtu
}

/// Replaces the headers of a packet or a part of one, with `transport_len` bytes behind them, with those of the family
/// of `leaving`. Returns the new length without a fragment header; none, with the frame spoilt, if the frame doesn't
/// match `p` or there is no headroom.
fn translate(
    frame: &mut impl Frame,
    p: &Parsed,
    (transport_len, part): (u16, Option<Part>),
    (leaving, l4_delta): (&Endpoints, Delta),
    id: u16,
) -> Option<u16> {
    let l4 = usize::from(p.l4);
    if part.is_none_or(|part| part.at == 0) {
        let unchecked = is_unchecked(frame.data(), p);
        rewrite_transport(frame.data_mut().get_mut(l4..), p, leaving.tuple().ports, l4_delta)?;
        if unchecked {
            sum_up(frame, p, transport_len, leaving)?;
        }
    }
    let (tos, ttl) = tos_ttl(frame.data(), p)?;
    let len = header_len(!p.ipv6).checked_add(transport_len)?;
    let headers = EthernetHeader::LEN + usize::from(header_len(!p.ipv6));
    let room = match headers.checked_sub(l4) {
        Some(more) => frame.prepend(more),
        None => frame.trim_front(l4 - headers),
    };
    let data = frame.data_mut();
    if !room || data.len() < headers {
        return None;
    }
    match (leaving.source.0, leaving.destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut ip = Ipv4Header::new(source, destination, p.protocol, len);
            (ip.tos, ip.ttl) = (tos, ttl);
            match part {
                Some(Part { id, at, more }) => {
                    ip.set_id(id as u16);
                    let flags = if more { MORE_FRAGMENTS } else { 0 };
                    ip.set_flags_fragment((at / 8) | flags);
                }
                None if len > UNTOLD && !was_untold(p) => ip.set_flags_fragment(DONT_FRAGMENT),
                None => ip.set_id(id),
            }
            ip.seal();
            data[12..14].copy_from_slice(&ether_type::IPV4.to_be_bytes());
            data[EthernetHeader::LEN..headers].copy_from_slice(ip.as_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut ip = Ipv6Header::new(source, destination, p.protocol, transport_len);
            ip.set_traffic_class(tos);
            ip.hop_limit = ttl;
            data[12..14].copy_from_slice(&ether_type::IPV6.to_be_bytes());
            data[EthernetHeader::LEN..headers].copy_from_slice(ip.as_bytes());
        }
        _ => return None,
    }
    Some(len)
}

/// Whether the sender of an IPv6 packet can't be asked to send less: the packet, which has grown here, may be
/// fragmented on its way.
#[cold]
fn was_untold(p: &Parsed) -> bool {
    p.ip_len.saturating_sub(u16::from(p.l4 - p.l3)).saturating_add(header_len(false)) <= UNTOLD
}

/// Fills in the checksum of a datagram.
fn sum_up(frame: &mut impl Frame, p: &Parsed, transport_len: u16, leaving: &Endpoints) -> Option<()> {
    let l4 = usize::from(p.l4);
    let sum = sum_over(frame, l4, usize::from(transport_len))?;
    let pseudo = Sum::of(&leaving.pair()?).word(u16::from(p.protocol)).word(transport_len);
    let (udp, _) = UdpHeader::split_mut(frame.data_mut().get_mut(l4..)?)?;
    udp.set_checksum(sum.and(pseudo).udp_checksum());
    Some(())
}

/// Cuts off what follows the packet in its frame.
#[inline(always)]
fn cut(frame: &mut impl Frame, p: &Parsed) {
    let end = usize::from(p.l3) + usize::from(p.ip_len);
    if frame.total_len() != end {
        frame.truncate(end);
    }
}

/// The fields of the new header that are taken from the packet's.
#[inline(always)]
fn later(p: &Parsed, tos: u8) -> Fields {
    Fields { tos, ttl: p.ttl.wrapping_sub(1), protocol: p.protocol }
}

/// The type of service or traffic class, and the decremented TTL.
fn tos_ttl(data: &[u8], p: &Parsed) -> Option<(u8, u8)> {
    let l3 = usize::from(p.l3);
    let tos = if p.ipv6 { Ipv6Header::at(data, l3)?.traffic_class() } else { Ipv4Header::at(data, l3)?.tos };
    Some((tos, p.ttl.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::memory::MemoryFrame;
    use crate::net::protocol;

    #[test]
    fn what_is_cut_is_refused() {
        let ends = Endpoints { source: ([10, 0, 0, 1].into(), 1), destination: ([10, 0, 0, 2].into(), 2) };
        let p = Parsed { l3: 14, l4: 54, protocol: protocol::TCP, ipv6: true, ..Parsed::NOTHING };
        let mut frame = MemoryFrame::new(&[0x60; 60]);
        assert_eq!(translate(&mut frame, &p, (6, None), (&ends, Delta::NONE), 1), None);
    }
}
