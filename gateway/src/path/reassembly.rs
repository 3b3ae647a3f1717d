//! Beside the way: packets that come in fragments, see [`crate::table::fragments`].
//!
//! ```text
//! first fragment   has the ports: goes as a whole packet would, its checksum changes by the same
//! later ones       go by the ports that the first has left: addresses, and nothing behind them
//! ```
//!
//! RSS spreads fragments by addresses alone, so they may arrive at a worker whose session it isn't. All of a packet
//! arrive at the same one, which hands the first to the session's owner and the others after it. Where many senders get
//! one address (FULLNAT, SNAT), a packet's identification becomes one of this worker's, or receivers would join pieces
//! of different packets.

use super::{
    Origin, Worker,
    echo::is_echo,
    parse::{Kind, Parsed, echo_ports},
    sctp_state, session,
    verdict::Reason,
};
use crate::{
    io::{Frame, Io, PortId},
    net::{
        Header,
        checksum::Delta,
        icmp::{self, IcmpHeader},
        ipv4::Ipv4Header,
        ipv6, protocol,
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
    let piece = Piece { from, to: from.checked_add(len)?, last: !more };
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

impl<I: Io> Worker<I> {
    /// A fragment of an IP packet.
    #[inline(never)]
    pub(super) fn reassemble(&mut self, port: PortId, frame: I::Frame, p: &Parsed, origin: Origin) {
        let ends = p.ends(frame.data());
        if !self.may_be_claimed(&ends, p) {
            return self.punt(port, frame);
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
        match self.fragments.note(&key, piece, whole.map(|w| w.tuple.ports), self.now) {
            Fate::Overlaps => self.drop_frame(frame, Reason::FragmentOverlap),
            Fate::Scattered => self.drop_frame(frame, Reason::BadFragment),
            Fate::TooEarly => {
                if let Some((_, frame, ..)) = self.fragments.wait(&key, (port, frame, *p, origin), self.now) {
                    self.drop_frame(frame, Reason::FragmentsWaiting);
                }
            }
            Fate::Known(ports, id) => {
                match &whole {
                    Some(whole) => self.first_fragment(port, frame, whole, id, origin),
                    None => self.later_fragment(port, frame, p, (ports, id), origin),
                }
                while let Some((port, frame, p, origin)) = self.fragments.released(&key) {
                    self.later_fragment(port, frame, &p, (ports, id), origin);
                }
            }
        }
    }

    /// Whether a packet between these addresses may be one that the path claims, whatever its ports.
    fn may_be_claimed(&self, ends: &Ends, p: &Parsed) -> bool {
        match p.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => {
                self.lookup.may_claim(ends) || self.snat_claim(ends, p.protocol).is_some()
            }
            protocol::ICMP | protocol::ICMPV6 => {
                !self.lookup.is_virtual(ends.destination.0) && self.snat_claim(ends, p.protocol).is_some()
            }
            _ => false,
        }
    }

    /// The first fragment goes as a packet would.
    fn first_fragment(&mut self, port: PortId, frame: I::Frame, p: &Parsed, id: u16, origin: Origin) {
        // Whether it leaves under it, its session says, which may have to be made first.
        self.fragment_id = Some(id);
        match self.sessions.find_ends(&p.ends(frame.data()), p.protocol) {
            _ if p.kind == Kind::Echo => self.echo(port, frame, p, origin),
            Some(found) => self.known_rarely(port, frame, p, found, origin),
            None => self.unknown(port, frame, p, origin),
        }
        self.fragment_id = None;
    }

    /// A later one goes by the ports that the first had.
    fn later_fragment(
        &mut self,
        port: PortId,
        frame: I::Frame,
        p: &Parsed,
        (ports, id): (u32, u16),
        origin: Origin,
    ) {
        let mut p = *p;
        p.tuple.ports = ports;
        let ends = p.ends(frame.data());
        if let Some(found) = self.sessions.find_ends(&ends, p.protocol) {
            return self.send_fragment(port, frame, &p, found, id);
        }
        let claimed = self.claimed(port, &ends, p.protocol);
        match self.owner_elsewhere(port, &ends, p.protocol, &claimed, origin) {
            Some(owner) => self.hand_over(port, frame, owner),
            // An echo without session is the kernel's, see `echo`.
            None if claimed.is_nobody_s() || is_echo(p.protocol) => self.punt(port, frame),
            None => self.drop_frame(frame, Reason::Fragment),
        }
    }

    /// Sends a fragment that isn't the first on its session's way.
    fn send_fragment(&mut self, port: PortId, mut frame: I::Frame, p: &Parsed, found: Found, id: u16) {
        match self.fate(found, p) {
            session::Fate::Punted => return self.punt(port, frame),
            session::Fate::TtlExpired => return self.answer_ttl_expired(port, frame, p),
            session::Fate::ServerDeleted => return self.drop_frame(frame, Reason::ServerDeleted),
            session::Fate::Goes | session::Fate::Anew => {}
        }
        let Some(session) = self.sessions.get_mut(found.id) else { return };
        session.last_seen = self.now.0;
        let (one_way, changes) = (session.is_one_way(), session.is_mixed() || session.is_proxied());
        self.count_packet(found, p);
        if one_way {
            return self.send_one_way(port, frame, p, found.id);
        }
        if changes || self.is_hairpin(found) {
            return self.drop_frame(frame, Reason::Fragment);
        }
        let hop = match self.hop_for(found) {
            Ok(hop) => hop,
            Err(reason) => return self.drop_frame(frame, reason),
        };
        let Some(&next) = self.routing.hop(hop) else { return self.drop_frame(frame, Reason::NoRoute) };
        if p.ip_len > next.mtu && p.dont_fragment {
            return self.answer_too_big(port, frame, p, next.mtu);
        }
        session::trim(&mut frame, p);
        self.identify(&mut frame, p, found, id);
        if !self.readdress(&mut frame, p, found) {
            return self.drop_frame(frame, Reason::Truncated);
        }
        self.leave(frame, hop, p.ip_len);
    }

    /// Gives an IPv4 fragment an identification of this worker's where its sender's will be one among many.
    pub(super) fn identify(&self, frame: &mut I::Frame, p: &Parsed, found: Found, id: u16) {
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
    pub(super) fn readdress(&self, frame: &mut I::Frame, p: &Parsed, found: Found) -> bool {
        let Some(session) = self.sessions.get(found.id) else { return false };
        let (data, l3) = (frame.data_mut(), usize::from(p.l3));
        if p.ipv6 {
            let Some(wide) = self.sessions.wide(found.id) else { return false };
            let Some(header) = data.get_mut(l3..).and_then(|b| b.first_chunk_mut::<40>()) else {
                return false;
            };
            let (source, destination) = wide.leaving(found.direction);
            header[7] = header[7].wrapping_sub(1);
            header[8..24].copy_from_slice(source);
            header[24..40].copy_from_slice(destination);
            return true;
        }
        let Some(ip) = Ipv4Header::at_mut(data, l3) else { return false };
        let (delta, _) = session.deltas(found.direction);
        ip.set_checksum(delta.apply(ip.checksum()));
        ip.set_address_words(session.leaving(found.direction).addresses);
        ip.decrement_ttl();
        true
    }

    /// Drops fragments whose first hasn't come in time.
    pub(super) fn give_up_fragments(&mut self) {
        while let Some((_, frame, ..)) = self.fragments.given_up(self.now) {
            self.drop_frame(frame, Reason::FragmentsIncomplete);
        }
    }
}
