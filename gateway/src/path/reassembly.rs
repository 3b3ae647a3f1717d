//! Beside the way: packets that come in fragments, see [`crate::table::fragments`].
//!
//! ```text
//! first fragment   has the ports: goes as a whole packet would, its checksum changes by the same
//! later ones       go by the ports that the first has left: addresses, and nothing behind them
//! ```
//!
//! Ports lead to no session where each datagram has a server of its own (`onepacket`): the first leaves its [`Way`].
//!
//! RSS spreads fragments by addresses alone, so they may arrive at a worker whose session it isn't. All of a packet
//! arrive at the same one, which hands the first to the session's owner and the others after it. Where many senders get
//! one address (FULLNAT, SNAT), a packet's identification becomes one of this worker's, or receivers would join pieces
//! of different packets.

use std::net::IpAddr;

use super::{
    Flows, Worker,
    belief::Belief,
    packet::{Next, Origin, trim},
    parse::{Kind, Parsed, echo_ports, is_echo},
    rewrite, sctp_state,
    service::Chosen,
    verdict::Reason,
};
use crate::{
    io::{Frame, Io, PortId},
    net::{
        Header,
        checksum::Delta,
        icmp::{self, IcmpHeader},
        ipv4::{Ipv4Header, OFFSET_MASK},
        ipv6::{self, FragmentHeader, Ipv6Header},
        protocol,
        sctp::SctpHeader,
        tcp::TcpHeader,
        udp::UdpHeader,
    },
    table::{
        ends::Ends,
        fragments::{Fate, FragmentKey, Piece},
        session::{Direction, Tuple},
        sessions::Found,
    },
};

/// A fragment that waits for its first.
pub(super) type Early<F> = (PortId, F, Parsed, Origin);

/// Where a packet's first fragment went, and the others go after it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// To a server that was chosen for it alone.
    Once(Chosen),
    /// By the session whose replies have these ends; its requests aren't found.
    Session(Ends),
    /// Nowhere.
    Dropped(Reason),
}

/// Which packet a fragment is of, and which bytes; none if it is no fragment that can be.
fn facts(data: &[u8], p: &Parsed, ends: &Ends) -> Option<(FragmentKey, Piece)> {
    let l3 = usize::from(p.l3);
    let headers = u16::from(p.l4 - p.l3);
    let (id, from, more) = if p.ipv6 {
        let fragment = ipv6::upper(data.get(l3..)?).ok()?.fragment?;
        (fragment.id(), fragment.offset(), fragment.more_fragments())
    } else {
        let ip = Ipv4Header::at(data, l3)?;
        (ip.id().into(), ip.fragment_offset(), ip.more_fragments())
    };
    let (from, len) = (u16::try_from(from).ok()?, p.ip_len.checked_sub(headers)?);
    // All but the last are of whole eights of bytes.
    if len == 0 || (more && len % 8 != 0) {
        return None;
    }
    let to = from.checked_add(len)?;
    // The whole packet has to have an IPv4 length.
    if !p.ipv6 {
        to.checked_add(headers)?;
    }
    let piece = Piece { from, to, last: !more };
    let (source, destination) = (ends.source.0, ends.destination.0);
    Some((FragmentKey { source, destination, id, protocol: p.protocol }, piece))
}

/// What a first fragment is as a packet: with its ports and flags. None if it hasn't got them (RFC 1858).
fn first(data: &[u8], p: &Parsed) -> Option<Parsed> {
    let end = (usize::from(p.l3) + usize::from(p.ip_len)).min(data.len());
    let transport = data.get(usize::from(p.l4)..end)?;
    let flags = match p.protocol {
        protocol::TCP => {
            let (header, _) = TcpHeader::split(transport)?;
            // A header that goes on in another fragment could say anything there.
            (header.header_len() >= TcpHeader::LEN && header.header_len() <= transport.len())
                .then_some(header.flags)?
        }
        protocol::UDP => UdpHeader::split(transport).map(|_| 0)?,
        protocol::SCTP => sctp_state::event(SctpHeader::split(transport)?.1),
        protocol::ICMP | protocol::ICMPV6 => return echo(p, IcmpHeader::split(transport)?.0),
        _ => return None,
    };
    let mut whole = *p;
    whole.flags = flags;
    whole.tuple.ports = u32::from_le_bytes(*transport.first_chunk()?);
    whole.kind = match (p.protocol, p.ipv6) {
        (protocol::SCTP, _) => Kind::Sctp,
        (_, true) => Kind::TransportV6,
        (_, false) => Kind::Transport,
    };
    Some(whole)
}

/// What the first fragment of an echo is as a packet; none if it is another message's.
fn echo(p: &Parsed, icmp: &IcmpHeader) -> Option<Parsed> {
    let asks = match (p.protocol, icmp.kind) {
        (protocol::ICMP, icmp::v4::ECHO) | (protocol::ICMPV6, icmp::v6::ECHO) => true,
        (protocol::ICMP, icmp::v4::ECHO_REPLY) | (protocol::ICMPV6, icmp::v6::ECHO_REPLY) => false,
        _ => return None,
    };
    let tuple = Tuple { ports: echo_ports(icmp, asks), ..p.tuple };
    Some(Parsed { kind: Kind::Echo, tuple, ..*p })
}

/// Whether a fragment that waits is its packet's first.
fn is_first<F: Frame>((_, frame, p, _): &Early<F>) -> bool {
    facts(frame.data(), p, &p.ends(frame.data())).is_some_and(|(_, piece)| piece.from == 0)
}

/// Moves a fragment so many bytes, whole eights, towards its packet's end; none if a packet can't be as long.
fn move_on(data: &mut [u8], p: &Parsed, by: u16) -> Option<()> {
    let l3 = usize::from(p.l3);
    let headers = u16::from(p.l4 - p.l3);
    if p.ipv6 {
        // Behind it lies what isn't a header any more.
        let fragment = FragmentHeader::at_mut(data, usize::from(p.l4).checked_sub(FragmentHeader::LEN)?)?;
        let at = u16::try_from(fragment.offset()).ok()?.checked_add(by)?;
        at.checked_add(p.ip_len - headers)?;
        fragment.set_offset(at);
        return Some(());
    }
    let ip = Ipv4Header::at_mut(data, l3)?;
    let at = u16::try_from(ip.fragment_offset()).ok()?.checked_add(by)?;
    at.checked_add(p.ip_len)?;
    let (old, flags) = (ip.flags_fragment(), ip.flags_fragment() & !OFFSET_MASK);
    ip.set_flags_fragment(flags | (at / 8));
    ip.set_checksum(Delta::word(old, flags | (at / 8)).apply(ip.checksum()));
    Some(())
}

impl Flows {
    /// Whether a packet between these addresses may be one that the path claims, whatever its ports.
    fn may_be_claimed(&self, ends: &Ends, p: &Parsed) -> bool {
        match p.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => {
                self.lookup.may_claim(ends) || self.snat_may_claim(ends, p.protocol)
            }
            protocol::ICMP | protocol::ICMPV6 => {
                !self.lookup.is_virtual(ends.destination.0) && self.snat_may_claim(ends, p.protocol)
            }
            _ => false,
        }
    }

    /// Prepares the checksum of SCTP's first fragment, which is the whole packet's, for the ports of its session.
    pub(super) fn reach_over(&self, frame: &mut impl Frame, p: &Parsed, found: Found) {
        let Some((whole, session)) = self.fragmented_len.zip(self.sessions.get(found.id)) else { return };
        let part = p.ip_len - u16::from(p.l4 - p.l3);
        let transport = frame.data_mut().get_mut(usize::from(p.l4)..);
        if let Some((header, _)) = transport.and_then(SctpHeader::split_mut) {
            header.prepare_checksum(session.leaving(found.direction).ports, part.into(), whole.into());
        }
    }

    /// Gives an IPv4 fragment an identification of this worker's where its sender's will be one among many.
    pub(super) fn identify(&self, frame: &mut impl Frame, p: &Parsed, found: Found, id: u16) {
        let shared = self.sessions.get(found.id).is_some_and(|s| s.is_fullnat() || s.is_snat());
        if p.ipv6 || !shared || found.direction == Direction::Reply {
            return;
        }
        if let Some(ip) = Ipv4Header::at_mut(frame.data_mut(), usize::from(p.l3)) {
            let delta = Delta::word(ip.id(), id);
            ip.set_id(id);
            ip.set_checksum(delta.apply(ip.checksum()));
        }
    }

    /// Gives a packet the other addresses of its session, and nothing behind the IP header.
    pub(super) fn readdress(&self, frame: &mut impl Frame, p: &Parsed, found: Found) -> bool {
        let leaving = self.sessions.leaving(found.id, found.direction);
        leaving.is_some_and(|leaving| readdress(frame.data_mut(), p, &leaving))
    }
}

impl<I: Io> Worker<I> {
    /// A fragment of an IP packet.
    #[inline(never)]
    pub(super) fn reassemble(&mut self, port: PortId, frame: I::Frame, p: &Parsed, origin: Origin) {
        let ends = p.ends(frame.data());
        if !self.flows.may_be_claimed(&ends, p) {
            return self.punt(port, frame);
        }
        // Before it takes the place of another's.
        if let Some(reason) = self.flows.beside_refusal(port, ends.source.0, origin) {
            return self.drop_frame(frame, reason);
        }
        let Some((key, piece)) = facts(frame.data(), p, &ends) else {
            return self.drop_frame(frame, Reason::BadFragment);
        };
        let whole = if piece.from == 0 { first(frame.data(), p) } else { None };
        if piece.from == 0 && whole.is_none() {
            if is_echo(p.protocol) {
                // Another message than an echo is the kernel's.
                return self.punt(port, frame);
            }
            return self.drop_frame(frame, Reason::BadFragment);
        }
        match self.fragments.note(&key, piece, whole.map(|w| w.tuple.ports), self.flows.now) {
            Fate::Overlaps => self.drop_frame(frame, Reason::FragmentOverlap),
            Fate::Scattered => self.drop_frame(frame, Reason::BadFragment),
            Fate::TooEarly => {
                if let Some((_, frame, ..)) =
                    self.fragments.wait(&key, (port, frame, *p, origin), self.flows.now)
                {
                    self.drop_frame(frame, Reason::FragmentsWaiting);
                }
            }
            Fate::Known(ports, id) => {
                if let Some((port, frame, p, origin)) = self.fragments.released_if(&key, is_first)
                    && let Some(whole) = first(frame.data(), &p)
                {
                    self.first_fragment(port, frame, &whole, (&key, id), origin);
                }
                match &whole {
                    Some(whole) => self.first_fragment(port, frame, whole, (&key, id), origin),
                    None => self.later_fragment(port, frame, p, (&key, ports, id), origin),
                }
                while let Some((port, frame, p, origin)) = self.fragments.released(&key) {
                    self.later_fragment(port, frame, &p, (&key, ports, id), origin);
                }
                self.fragments.finish(&key, self.flows.now);
            }
        }
    }

    /// The first fragment goes as a packet would.
    fn first_fragment(
        &mut self,
        port: PortId,
        frame: I::Frame,
        p: &Parsed,
        (key, id): (&FragmentKey, u16),
        origin: Origin,
    ) {
        // Whether it leaves under it, its session says, which may have to be made first.
        self.flows.fragment_id = Some(id);
        self.flows.fragmented_len =
            if p.protocol == protocol::SCTP { self.fragments.len(key, self.flows.now) } else { None };
        match self.flows.sessions.find_ends(&p.ends(frame.data()), p.protocol) {
            _ if p.kind == Kind::Echo => self.echo(port, frame, p, origin),
            Some(found) => self.known_rarely(port, frame, p, found, origin),
            None => self.unknown(port, frame, p, origin),
        }
        self.flows.fragment_id = None;
        self.flows.fragmented_len = None;
        if let Some(way) = self.flows.fragment_way.take() {
            self.fragments.set_way(key, way, self.flows.now);
        }
    }

    /// A later one goes by the ports that the first had.
    fn later_fragment(
        &mut self,
        port: PortId,
        frame: I::Frame,
        p: &Parsed,
        (key, ports, id): (&FragmentKey, u32, u16),
        origin: Origin,
    ) {
        let mut p = *p;
        p.tuple.ports = ports;
        let ends = p.ends(frame.data());
        match self.fragments.way(key, self.flows.now) {
            Some(Way::Once(chosen)) => return self.fragment_once(port, frame, &p, chosen),
            Some(Way::Session(reply)) => {
                return match self.flows.sessions.find_ends(&reply, p.protocol) {
                    Some(Found { id: of, .. }) => {
                        let found = Found { id: of, direction: Direction::Request };
                        self.send_fragment(port, frame, &p, found, id);
                    }
                    None => self.drop_frame(frame, Reason::Fragment),
                };
            }
            Some(Way::Dropped(reason)) => return self.drop_frame(frame, reason),
            None => {}
        }
        if let Some(found) = self.flows.sessions.find_ends(&ends, p.protocol) {
            return self.send_fragment(port, frame, &p, found, id);
        }
        let claimed = self.flows.claimed(port, &ends, p.protocol);
        match self.flows.owner_elsewhere(PortId::NONE, &ends, p.protocol, &claimed, origin) {
            Some(owner) => self.hand_over(port, frame, owner),
            // An echo without session is the kernel's, see `echo`.
            None if claimed.is_nobody_s() || is_echo(p.protocol) => self.punt(port, frame),
            None => self.drop_frame(frame, Reason::Fragment),
        }
    }

    /// Sends a fragment that isn't the first on its session's way.
    fn send_fragment(&mut self, port: PortId, mut frame: I::Frame, p: &Parsed, found: Found, id: u16) {
        match self.flows.fate(found, p, Belief::Nothing) {
            Next::Punted => return self.punt(port, frame),
            Next::TtlExpired => return self.answer_ttl_expired(port, frame, p),
            Next::ServerDeleted => return self.drop_frame(frame, Reason::ServerDeleted),
            Next::Goes | Next::Anew => {}
        }
        let Some(session) = self.flows.sessions.get_mut(found.id) else { return };
        session.last_seen = self.flows.now.0;
        let (one_way, proxied, mixed) = (session.is_one_way(), session.is_proxied(), session.is_mixed());
        self.flows.count_packet(found, p);
        if one_way {
            return self.send_one_way(port, frame, p, found.id);
        }
        if proxied
            && let Some(by) = self.flows.moved_by_header(p, found)
            && move_on(frame.data_mut(), p, by).is_none()
        {
            return self.drop_frame(frame, Reason::TooBig);
        }
        if mixed {
            return self.send_mixed_fragment(port, frame, p, (found, id));
        }
        if self.flows.is_hairpin(found) {
            return self.turn_back_fragment(port, frame, p, (found, id));
        }
        let hop = match self.flows.hop_for(found) {
            Ok(hop) => hop,
            Err(reason) => return self.rest_here(port, frame, p, found, reason),
        };
        let Some(&next) = self.flows.routing.hop(hop) else { return self.drop_frame(frame, Reason::NoRoute) };
        if p.ip_len > next.mtu && p.dont_fragment {
            return self.answer_too_big(port, frame, p, next.mtu);
        }
        trim(&mut frame, p);
        self.flows.identify(&mut frame, p, found, id);
        if !self.flows.readdress(&mut frame, p, found) {
            return self.drop_frame(frame, Reason::Truncated);
        }
        self.leave(frame, hop, p.ip_len);
    }

    /// Drops fragments whose first hasn't come in time.
    pub(super) fn give_up_fragments(&mut self) {
        while let Some((_, frame, ..)) = self.fragments.given_up(self.flows.now) {
            self.drop_frame(frame, Reason::FragmentsIncomplete);
        }
    }
}

/// Gives a packet the addresses of `leaving`, of its own family, and nothing behind the IP header. It becomes a hop older.
pub(super) fn readdress(data: &mut [u8], p: &Parsed, leaving: &Ends) -> bool {
    let l3 = usize::from(p.l3);
    match (leaving.source.0, leaving.destination.0) {
        (IpAddr::V6(source), IpAddr::V6(destination)) if p.ipv6 => {
            let Some(ip) = Ipv6Header::at_mut(data, l3) else { return false };
            ip.set_source(source);
            ip.set_destination(destination);
            ip.decrement_hop_limit();
            true
        }
        (IpAddr::V4(_), IpAddr::V4(_)) if !p.ipv6 => {
            let Some(ip) = Ipv4Header::at_mut(data, l3) else { return false };
            let without_ports = |addresses| Tuple { addresses, ports: 0 };
            let (before, after) = (ip.address_words(), leaving.tuple().addresses);
            let (delta, _) = rewrite::deltas(without_ports(before), without_ports(after));
            ip.set_checksum(delta.apply(ip.checksum()));
            ip.set_address_words(after);
            ip.decrement_ttl();
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an IPv4 packet with `options` bytes of options is as a fragment.
    fn read(options: usize, offset: usize, more: bool, len: u16) -> Option<Piece> {
        let mut data = [0; 14 + 60];
        let mut ip = Ipv4Header::new([10, 1, 0, 1].into(), [192, 0, 2, 10].into(), protocol::UDP, 0);
        ip.set_flags_fragment((offset / 8) as u16 | if more { 0x2000 } else { 0 });
        data[14..34].copy_from_slice(zerocopy::IntoBytes::as_bytes(&ip));
        let l4 = (34 + options) as u8;
        let p = Parsed { l3: 14, l4, ip_len: 20 + options as u16 + len, ..Parsed::NOTHING };
        let ends = Ends { source: ([10, 1, 0, 1].into(), 0), destination: ([192, 0, 2, 10].into(), 0) };
        facts(&data, &p, &ends).map(|(_, piece)| piece)
    }

    #[test]
    fn a_fragment_is_of_whole_eights_but_for_the_last() {
        assert_eq!(read(0, 16, true, 8), Some(Piece { from: 16, to: 24, last: false }));
        assert_eq!(read(0, 16, false, 9), Some(Piece { from: 16, to: 25, last: true }));
        assert_eq!(read(0, 16, true, 9), None);
        assert_eq!(read(0, 16, true, 7), None);
        assert_eq!(read(0, 16, false, 0), None, "nothing at all");
    }

    #[test]
    fn a_fragment_ends_where_an_ipv4_packet_can() {
        assert_eq!(read(0, 65504, false, 11).map(|piece| piece.to), Some(65515));
        assert_eq!(read(0, 65504, false, 12), None);
        assert_eq!(read(4, 65504, false, 7).map(|piece| piece.to), Some(65511));
        assert_eq!(read(4, 65504, false, 8), None);
        assert_eq!(read(0, 65528, false, 8), None);
    }

    #[test]
    fn a_first_fragment_holds_its_transport_header() {
        let of = |protocol: u8, ipv6, transport: &[u8]| {
            let mut data = vec![0; 34];
            data.extend_from_slice(transport);
            let ip_len = 20 + transport.len() as u16;
            let p = Parsed { l3: 14, l4: 34, protocol, ip_len, ipv6, ..Parsed::NOTHING };
            // What follows a short packet in its frame isn't looked at.
            data.resize(80, 7);
            first(&data, &p).map(|p| (p.kind, p.tuple.ports, p.flags))
        };
        let mut tcp = [0; 24];
        (tcp[0], tcp[12], tcp[13]) = (9, 0x60, 2);
        assert_eq!(of(protocol::TCP, false, &tcp), Some((Kind::Transport, 9, 2)));
        assert_eq!(of(protocol::TCP, true, &tcp), Some((Kind::TransportV6, 9, 2)));
        assert_eq!(of(protocol::TCP, false, &tcp[..23]), None, "its options go on");
        tcp[12] = 0x40;
        assert_eq!(of(protocol::TCP, false, &tcp), None, "shorter than a header");
        assert_eq!(of(protocol::UDP, false, &[3; 8]), Some((Kind::Transport, 0x0303_0303, 0)));
        assert_eq!(of(protocol::UDP, false, &[3; 7]), None);
        let sctp = [&[3; 12][..], &[1, 0, 0, 4]].concat();
        assert_eq!(of(protocol::SCTP, true, &sctp), Some((Kind::Sctp, 0x0303_0303, sctp_state::INIT)));
        assert_eq!(of(protocol::GRE, false, &[3; 40]), None);
        let echo = |kind| [kind, 0, 0, 0, 1, 2, 0, 0];
        let kind = |protocol, kind| of(protocol, false, &echo(kind)).map(|(kind, ..)| kind);
        assert_eq!(kind(protocol::ICMP, icmp::v4::ECHO), Some(Kind::Echo));
        assert_eq!(kind(protocol::ICMP, icmp::v4::ECHO_REPLY), Some(Kind::Echo));
        assert_eq!(kind(protocol::ICMP, icmp::v4::UNREACHABLE), None);
        assert_eq!(kind(protocol::ICMPV6, icmp::v6::ECHO), Some(Kind::Echo));
        assert_eq!(kind(protocol::ICMPV6, icmp::v4::ECHO), None);
    }
}
