//! Stage 6 of FULLNAT between the families: an IPv6 service with IPv4 servers, or the reverse.
//!
//! ```text
//! | Ethernet | IPv4 [options]    | transport ..        20 bytes less or more, by moving the frame's beginning
//! | Ethernet | IPv6 [extensions] | transport ..
//! ```
//!
//! Headers are translated as RFC 7915 says: type of service and traffic class are the same octet, the TTL counts on,
//! options and extension headers go. What leaves by IPv4 may be fragmented on its way, since nobody could tell an IPv6
//! sender more than what is told here already. The transport checksum changes by what addresses and ports do: the rest
//! of both pseudo-headers sums to the same. A UDP datagram without checksum gets one, which IPv6 asks for.
//!
//! A packet towards IPv6 grows by 20 bytes: the MSS that the IPv6 side announces is lowered to what its port takes with
//! both headers, and what is still too big is refused with the MTU that the sender has to keep to. Next hops are
//! remembered apart: the straight way, which rewrites in place, must not find them in the record.

use std::net::IpAddr;

use weirctl::model::SessionState;
use zerocopy::IntoBytes;

use super::{
    Worker, direct::CONTROL, parse::Parsed, rewrite::rewrite_transport, toa, tunnel::sum_over,
    verdict::Reason,
};
use crate::{
    io::{Frame, Io, PortId},
    net::{
        Header,
        checksum::{Delta, Sum},
        ethernet::{EthernetHeader, ether_type},
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
        protocol, tcp,
        udp::UdpHeader,
    },
    table::{
        ends::Ends,
        session::{Direction, STATE, Session, TIMEOUTS, Tuple},
        sessions::Found,
        wide::Wide,
    },
};

/// By how much an IPv6 header is longer.
pub(super) const GROWTH: u16 = (Ipv6Header::LEN - Ipv4Header::LEN) as u16;

impl<I: Io> Worker<I> {
    /// Sends a packet of a session between the families that changes nothing, and whose way is known. Gives the frame
    /// back if it isn't one.
    #[inline]
    pub(super) fn mixed_straight(
        &mut self,
        mut frame: I::Frame,
        p: &Parsed,
        found: Found,
    ) -> Option<I::Frame> {
        let between = |session: &Session| session.is_mixed() && !session.is_one_way();
        let Some((session, wide)) = self.sessions.get_mut_wide(found.id).filter(|(s, _)| between(s)) else {
            return Some(frame);
        };
        let (hop, generation) = wide.hop(session.v4_direction(), found.direction);
        let (Some(Some(server)), Some(next)) =
            (self.servers.get(session.server().0 as usize), self.routing.hop(hop))
        else {
            return Some(frame);
        };
        let server = &*server.counters;
        let state = session.state_number();
        let quiet = state & STATE == SessionState::Established as u8
            && p.protocol == protocol::TCP
            && p.flags & CONTROL == tcp::ACK;
        let plain = u16::from(p.l4 - p.l3) == header_len(p.ipv6);
        let transport_len = p.ip_len.wrapping_sub(header_len(p.ipv6));
        let len = transport_len.saturating_add(header_len(!p.ipv6));
        let usual = quiet
            & plain
            & (session.timeout == self.timeouts[usize::from(state) & (TIMEOUTS - 1)])
            & (generation == self.routing.generation)
            & (server.available.get() != 0)
            & (p.ttl > 1)
            & (len <= next.mtu)
            & next.usable;
        if !usual || toa::tells(session) || session.is_proxied() {
            return Some(frame);
        }
        session.last_seen = self.now.0;
        server.count(found.direction, p.ip_len);
        self.tunnel_id = self.tunnel_id.wrapping_add(1);
        let delta = Delta::from_bits(session.l4_delta);
        let delta = if found.direction == Direction::Reply { delta.inverse() } else { delta };
        let (macs, out) = (next.macs, next.port);
        frame.truncate(usize::from(p.l3) + usize::from(p.ip_len));
        let other = Other { leaving: session.leaving(found.direction), wide, direction: found.direction };
        if other.put_on(&mut frame, p, (transport_len, delta), (macs, self.tunnel_id)).is_none() {
            self.drop_frame(frame, Reason::Truncated);
            return None;
        }
        self.tx.push(&mut self.io, &self.counters, out, frame);
        None
    }

    /// Sends a packet of a session whose other side is of the other family.
    #[inline(never)]
    pub(super) fn send_mixed(&mut self, port: PortId, mut frame: I::Frame, p: &Parsed, found: Found) {
        let (Some(leaving), Some(session)) =
            (self.sessions.leaving(found.id, found.direction), self.sessions.get(found.id))
        else {
            return self.drop_frame(frame, Reason::NoSession);
        };
        let (tells, proxied) = (toa::tells(session), session.is_proxied());
        let generation = self.routing.generation;
        let hop = match self.sessions.mixed_hop(found.id, found.direction, generation) {
            Some(hop) => hop,
            None => match self.routing.towards(leaving.destination.0) {
                Ok(hop) => {
                    self.sessions.remember_mixed_hop(found.id, found.direction, hop, generation);
                    hop
                }
                Err(reason) => return self.drop_frame(frame, reason),
            },
        };
        let Some(&next) = self.routing.hop(hop) else { return self.drop_frame(frame, Reason::NoRoute) };
        // As the sender counts: its own header is shorter, or longer.
        let mtu = if p.ipv6 { next.mtu.saturating_add(GROWTH) } else { next.mtu.saturating_sub(GROWTH) };
        let plain = p.ip_len - u16::from(p.l4 - p.l3) + header_len(p.ipv6);
        if plain > mtu {
            return self.answer_too_big(port, frame, p, mtu);
        }
        frame.truncate(usize::from(p.l3) + usize::from(p.ip_len));
        let mut ip_len = if tells { self.tell(&mut frame, p, found, mtu) } else { p.ip_len };
        if proxied {
            let extensions = u16::from(p.l4 - p.l3) - header_len(p.ipv6);
            let limits = (mtu.saturating_add(extensions), p.ipv6);
            match self.proxied(port, frame, p, found, limits) {
                Some(changed) => (frame, ip_len) = changed,
                None => return,
            }
        }
        if p.ipv6 && p.flags & tcp::SYN != 0 {
            let own = self.routing.table().port(port).map_or(next.mtu, |facts| facts.mtu);
            toa::limit_mss(
                frame.data_mut(),
                p,
                own.saturating_sub((Ipv6Header::LEN + tcp::TcpHeader::LEN) as u16),
            );
        }
        match self.translate_packet(&mut frame, p, found, ip_len) {
            Some(len) => self.leave(frame, hop, len),
            None => self.drop_frame(frame, Reason::Truncated),
        }
    }

    /// Sends a packet of the gateway's own making in such a session.
    pub(super) fn send_ahead_mixed(&mut self, mut frame: I::Frame, p: &Parsed, found: Found, ip_len: u16) {
        let Some(leaving) = self.sessions.leaving(found.id, found.direction) else { return };
        let Ok(hop) = self.routing.towards(leaving.destination.0) else { return };
        if self.translate_packet(&mut frame, p, found, ip_len).is_some() {
            self.leave_uncounted(frame, hop);
        }
    }

    /// Gives a packet, of `ip_len` bytes by now, the other family's headers. Its length from now on.
    fn translate_packet(
        &mut self,
        frame: &mut I::Frame,
        p: &Parsed,
        found: Found,
        ip_len: u16,
    ) -> Option<u16> {
        let leaving = self.sessions.leaving(found.id, found.direction)?;
        let l4_delta = Delta::from_bits(self.sessions.get(found.id)?.l4_delta);
        let l4_delta = if found.direction == Direction::Reply { l4_delta.inverse() } else { l4_delta };
        self.tunnel_id = self.tunnel_id.wrapping_add(1);
        let transport_len = ip_len - u16::from(p.l4 - p.l3);
        translate(frame, p, transport_len, (&leaving, l4_delta), self.tunnel_id)
    }
}

fn header_len(ipv6: bool) -> u16 {
    if ipv6 { Ipv6Header::LEN as u16 } else { Ipv4Header::LEN as u16 }
}

/// Gives a packet with `transport_len` bytes behind its headers those of the family of `leaving`. Its length from now
/// on; none, with the frame spoilt, if it isn't as `p` says or there's no room in front.
fn translate(
    frame: &mut impl Frame,
    p: &Parsed,
    transport_len: u16,
    (leaving, l4_delta): (&Ends, Delta),
    id: u16,
) -> Option<u16> {
    let l4 = usize::from(p.l4);
    let ports = leaving.tuple().ports;
    let unchecked =
        p.protocol == protocol::UDP && UdpHeader::at(frame.data(), l4).is_some_and(|udp| udp.checksum() == 0);
    rewrite_transport(frame.data_mut().get_mut(l4..), p, ports, l4_delta)?;
    if unchecked && !p.ipv6 {
        let sum = sum_over(frame, l4, usize::from(transport_len))?;
        let pseudo = Sum::of(&leaving.pair()?).word(u16::from(p.protocol)).word(transport_len);
        let (udp, _) = UdpHeader::split_mut(frame.data_mut().get_mut(l4..)?)?;
        udp.set_checksum(sum.and(pseudo).udp_checksum());
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
            ip.set_id(id);
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

/// The other side of a session between the families.
struct Other<'s> {
    leaving: Tuple,
    wide: &'s Wide,
    direction: Direction,
}

impl Other<'_> {
    /// Gives a TCP segment without IP options or extension headers the headers of the other side. None, with the frame
    /// spoilt, if it isn't one.
    #[inline]
    fn put_on(
        &self,
        frame: &mut impl Frame,
        p: &Parsed,
        (transport_len, delta): (u16, Delta),
        (macs, id): ([u8; 12], u16),
    ) -> Option<()> {
        let l3 = usize::from(p.l3);
        rewrite_transport(frame.data_mut().get_mut(usize::from(p.l4)..), p, self.leaving.ports, delta)?;
        if p.ipv6 {
            let tos = Ipv6Header::at(frame.data(), l3)?.traffic_class();
            let len = transport_len.checked_add(Ipv4Header::LEN as u16)?;
            let ((source, _), (destination, _)) = (self.leaving.source(), self.leaving.destination());
            let kind = u16::from_be_bytes([0x45, tos]);
            let hops = u16::from_be_bytes([p.ttl.wrapping_sub(1), p.protocol]);
            // From the words, not from the header: that would wait for what has just been written.
            let words = Sum::ZERO.word(kind).word(len).word(id).word(hops);
            let halves = [source >> 16, source & 0xffff, destination >> 16, destination & 0xffff];
            let check = halves.iter().fold(words, |sum, half| sum.word(*half as u16)).checksum();
            frame.trim_front(usize::from(GROWTH)).then_some(())?;
            let head = frame.data_mut().first_chunk_mut::<34>()?;
            head[12..14].copy_from_slice(&ether_type::IPV4.to_be_bytes());
            for (field, word) in
                head[14..26].as_chunks_mut().0.iter_mut().zip([kind, len, id, 0, hops, check])
            {
                *field = word.to_be_bytes();
            }
            head[26..].copy_from_slice(&self.leaving.addresses.to_le_bytes());
        } else {
            let tos = Ipv4Header::at(frame.data(), l3)?.tos;
            let (source, destination) = self.wide.leaving(self.direction);
            frame.prepend(usize::from(GROWTH)).then_some(())?;
            let head = frame.data_mut().first_chunk_mut::<54>()?;
            let [low, high] = transport_len.to_be_bytes();
            head[12..14].copy_from_slice(&ether_type::IPV6.to_be_bytes());
            let class = [0x60 | tos >> 4, tos << 4, 0, 0, low, high, p.protocol, p.ttl.wrapping_sub(1)];
            head[14..22].copy_from_slice(&class);
            head[22..38].copy_from_slice(source);
            head[38..].copy_from_slice(destination);
        }
        *frame.data_mut().first_chunk_mut()? = macs;
        Some(())
    }
}

/// The octet of service, and the TTL one hop later.
fn tos_ttl(data: &[u8], p: &Parsed) -> Option<(u8, u8)> {
    let l3 = usize::from(p.l3);
    let tos = if p.ipv6 { Ipv6Header::at(data, l3)?.traffic_class() } else { Ipv4Header::at(data, l3)?.tos };
    Some((tos, p.ttl.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::memory::MemoryFrame;

    #[test]
    fn what_is_cut_is_refused() {
        let ends = Ends { source: ([10, 0, 0, 1].into(), 1), destination: ([10, 0, 0, 2].into(), 2) };
        let p = Parsed { l3: 14, l4: 54, protocol: protocol::TCP, ipv6: true, ..Parsed::NOTHING };
        let mut frame = MemoryFrame::new(&[0x60; 60]);
        assert_eq!(translate(&mut frame, &p, 6, (&ends, Delta::NONE), 1), None);
    }
}
