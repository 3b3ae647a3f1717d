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
//! both headers, and what is still too big is refused with the MTU that the sender has to keep to.
//!
//! IPv6's straight way in `session` knows such sessions; IPv4's doesn't, and pays nothing for them: next hops of IPv4
//! packets are remembered apart, where it doesn't find them.

use std::net::IpAddr;

use weirctl::model::SessionState;
use zerocopy::IntoBytes;

use super::{
    Worker, direct::CONTROL, parse::Parsed, rewrite::rewrite_transport, route::Need, sums::sum_over, toa,
    verdict::Reason,
};
use crate::{
    io::{Frame, Io, PortId},
    net::{
        Fields, Header,
        checksum::{Delta, Sum},
        ethernet::{EthernetHeader, ether_type},
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
        protocol, tcp,
        udp::UdpHeader,
    },
    table::{
        ends::Ends,
        session::{STATE, Session, TIMEOUTS, Tuple},
        sessions::Found,
    },
};

/// By how much an IPv6 header is longer.
pub(super) const GROWTH: u16 = (Ipv6Header::LEN - Ipv4Header::LEN) as u16;

impl<I: Io> Worker<I> {
    /// Sends an IPv4 packet of a session between the families that changes nothing, and whose way is known. Gives the
    /// frame back if it isn't one.
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
        let (hop, generation) = wide.hop(found.direction, found.direction);
        let (Some(server), Some(next)) = (self.figures.get(session.server()), self.routing.hop(hop)) else {
            return Some(frame);
        };
        let state = session.state_number();
        let quiet = state & STATE == SessionState::Established as u8
            && p.protocol == protocol::TCP
            && p.flags & CONTROL == tcp::ACK;
        let transport_len = p.ip_len.wrapping_sub(Ipv4Header::LEN as u16);
        let usual = quiet
            & is_bare(p)
            & !p.ipv6
            & (session.timeout == self.timeouts[usize::from(state) & (TIMEOUTS - 1)])
            & (generation == self.routing.generation)
            & (server.available.get() != 0)
            & (p.ttl > 1)
            & (transport_len.saturating_add(Ipv6Header::LEN as u16) <= next.mtu)
            & next.usable;
        if !usual || toa::tells(session) || session.is_proxied() {
            return Some(frame);
        }
        session.last_seen = self.now.0;
        server.count(found.direction, p.ip_len);
        let (_, delta) = session.deltas(found.direction);
        let ports = session.leaving(found.direction).ports;
        let (macs, out) = (next.macs, next.port);
        cut(&mut frame, p);
        let tos = Ipv4Header::at(frame.data(), EthernetHeader::LEN).map_or(0, |ip| ip.tos);
        let transport = frame.data_mut().get_mut(usize::from(p.l4)..);
        let ready = rewrite_transport(transport, p, ports, delta).is_some() && frame.prepend(GROWTH.into());
        let Some(head) = frame.data_mut().first_chunk_mut::<54>().filter(|_| ready) else {
            self.drop_frame(frame, Reason::Truncated);
            return None;
        };
        let (source, destination) = wide.leaving(found.direction);
        let (ethernet, ip) = head.split_at_mut(EthernetHeader::LEN);
        ethernet[..12].copy_from_slice(&macs);
        ethernet[12..].copy_from_slice(&ether_type::IPV6.to_be_bytes());
        if let (Some(ip), Some(source), Some(destination)) =
            (ip.first_chunk_mut(), source.first_chunk(), destination.first_chunk())
        {
            Ipv6Header::put(ip, later(p, tos), transport_len, source, destination);
        }
        self.tx.push(&mut self.io, &self.counters, out, frame);
        None
    }

    /// Sends an IPv6 packet without extension headers on by IPv4: the straight way's end for such a session.
    #[inline(always)]
    pub(super) fn leave_by_v4(
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
            return self.drop_frame(frame, Reason::Truncated);
        };
        let (ethernet, ip) = head.split_at_mut(EthernetHeader::LEN);
        ethernet[..12].copy_from_slice(&macs);
        ethernet[12..].copy_from_slice(&ether_type::IPV4.to_be_bytes());
        if let Some(ip) = ip.first_chunk_mut() {
            let len = p.ip_len.wrapping_sub(GROWTH);
            Ipv4Header::put(ip, later(p, tos), len, Some(self.tunnel_id), leaving.addresses);
        }
        self.tx.push(&mut self.io, &self.counters, out, frame);
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
            None => match self.mixed_hop(found, leaving.destination.0) {
                Ok(hop) => hop,
                Err(reason) => return self.drop_frame(frame, reason),
            },
        };
        let generation = self.routing.generation;
        let known = self.routing.may_be_remembered(hop);
        // From now on the straight way leads to `leave_by_v4`.
        if let Some(session) =
            self.sessions.get_mut(found.id).filter(|_| known && p.ipv6 && !tells && !proxied)
        {
            session.remember_hop(found.direction, hop, generation);
        }
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

    /// Looks up the next hop of such a session, which remembers it.
    fn mixed_hop(&mut self, found: Found, to: IpAddr) -> Result<u16, Reason> {
        let need = if found.direction == crate::table::session::Direction::Reply {
            Need::Guest
        } else {
            Need::Server
        };
        let hop = self.routing.towards(to, need, self.now)?;
        if self.routing.may_be_remembered(hop) {
            let generation = self.routing.generation;
            self.sessions.remember_mixed_hop(found.id, found.direction, hop, generation);
        }
        Ok(hop)
    }

    /// Sends a packet of the gateway's own making in such a session.
    pub(super) fn send_ahead_mixed(&mut self, mut frame: I::Frame, p: &Parsed, found: Found, ip_len: u16) {
        let Some(leaving) = self.sessions.leaving(found.id, found.direction) else { return };
        let Ok(hop) = self.mixed_hop(found, leaving.destination.0) else { return };
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
        let (_, l4_delta) = self.sessions.get(found.id)?.deltas(found.direction);
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

/// Whether nothing stands between a packet's IP header and its transport header.
#[inline(always)]
pub(super) fn is_bare(p: &Parsed) -> bool {
    u16::from(p.l4 - p.l3) == header_len(p.ipv6)
}

/// Cuts off what follows the packet in its frame.
#[inline(always)]
fn cut(frame: &mut impl Frame, p: &Parsed) {
    let end = usize::from(p.l3) + usize::from(p.ip_len);
    if frame.total_len() != end {
        frame.truncate(end);
    }
}

/// What the header says that takes the place of the packet's.
#[inline(always)]
fn later(p: &Parsed, tos: u8) -> Fields {
    Fields { tos, ttl: p.ttl.wrapping_sub(1), protocol: p.protocol }
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
