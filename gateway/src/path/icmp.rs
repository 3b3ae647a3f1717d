//! Beside the way: ICMP errors about sessions.
//!
//! ```text
//! ip | icmp: type code checksum .. | the packet that failed, as it left the gateway: ip | ports ..
//! ```
//!
//! The quoted packet, turned round, is a packet that would come back: its session is found as that packet's
//! would be. The error then goes the way of that packet: its outer addresses become the session's on that
//! side, and the quote becomes the packet that the receiver of the error once sent. As IPVS does, the error
//! seems to come from the virtual service (to clients), or from the local address (to a FULLNAT server).

use std::net::{IpAddr, Ipv4Addr};

use super::{
    Flows, Worker, packet::Origin, parse::Parsed, rewrite, schedule::Claimed, sums::sum_over, verdict::Reason,
};
use crate::{
    io::{Frame, Io, PortId},
    net::{
        Header,
        checksum::{Delta, Sum},
        icmp::{self, IcmpHeader, Inner, inner_v4},
        ipv4::Ipv4Header,
        protocol, sctp, tcp, udp,
    },
    table::{
        ends::Ends,
        session::{Direction, Session, Tuple},
        sessions::Found,
    },
};

/// Bytes of the quoted transport header that may have to change: up to TCP's checksum.
const QUOTED: usize = tcp::CHECKSUM_AT + 2;

impl Flows {
    /// Whether an error about the session may go on to whoever sent the packet that it quotes.
    pub(super) fn tells_sender(&self, frame: &impl Frame, p: &Parsed, found: Found) -> bool {
        let Some(icmp) = IcmpHeader::at(frame.data(), usize::from(p.l4)) else { return false };
        if p.ipv6 {
            return icmp.tells_sender_v6();
        }
        // To the other family a parameter problem goes as a new message of RFC 7915 4.2, if at all.
        let anew = || self.sessions.get(found.id).is_some_and(Session::is_mixed);
        icmp.tells_sender_v4() || (icmp.kind == icmp::v4::PARAMETER_PROBLEM && anew())
    }
}

impl<I: Io> Worker<I> {
    /// An ICMP error.
    #[inline(never)]
    pub(super) fn icmp_error(&mut self, port: PortId, frame: I::Frame, p: &Parsed, origin: Origin) {
        let to = p.tuple.destination().0;
        let local = self.flows.lookup.is_local(Ipv4Addr::from_bits(to).into());
        let Ok(inner) = inner_v4(quote_of(frame.data(), p)) else {
            return if local { self.drop_frame(frame, Reason::BadIcmp) } else { self.punt(port, frame) };
        };
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (inner.source, inner.destination) else {
            return self.drop_frame(frame, Reason::BadIcmp);
        };
        if self.flows.is_about_tunnel(Ipv4Addr::from_bits(to).into(), &inner) {
            if !checksum_ok(&frame, p) {
                return self.drop_frame(frame, Reason::BadIcmp);
            }
            return self.tunnel_error(port, frame, p, &inner, origin);
        }
        let echo = inner.protocol == protocol::ICMP && self.flows.snat.is_some();
        if !(echo || matches!(inner.protocol, protocol::TCP | protocol::UDP | protocol::SCTP))
            || inner.later_fragment
        {
            return if local {
                self.drop_frame(frame, Reason::IcmpNoSession)
            } else {
                self.punt(port, frame)
            };
        }
        let sent =
            Tuple::new((source.into(), inner.source_port), (destination.into(), inner.destination_port));
        let back = sent.reversed();
        let hash = self.flows.sessions.hash(back, inner.protocol);
        let Some(found) = self.flows.sessions.find(hash, back, inner.protocol) else {
            let from = p.ends(frame.data()).source.0;
            return self.error_of_nobody(port, frame, (&Ends::of(back), inner.protocol, from), local, origin);
        };
        self.translate(port, frame, p, (found, &inner), origin);
    }

    /// An error from an address about no session of this worker; `back` is the packet that would come back. It came to a
    /// local address if `local`.
    pub(super) fn error_of_nobody(
        &mut self,
        port: PortId,
        frame: I::Frame,
        (back, protocol, from): (&Ends, u8, IpAddr),
        local: bool,
        origin: Origin,
    ) {
        let claimed = self.flows.claimed(port, back, protocol);
        match self.flows.owner_elsewhere(PortId::NONE, back, protocol, &claimed, origin) {
            Some(owner) => match self.flows.beside_refusal(port, from, origin) {
                Some(reason) => self.drop_frame(frame, reason),
                None => self.hand_over(port, frame, owner),
            },
            None if local
                || matches!(claimed, Claimed::Snat(_)) && !self.flows.is_shared(back.destination.0) =>
            {
                self.drop_frame(frame, Reason::IcmpNoSession);
            }
            None => self.punt(port, frame),
        }
    }

    fn translate(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        (found, inner): (Found, &Inner),
        origin: Origin,
    ) {
        if !self.flows.tells_sender(&frame, p, found) {
            return self.drop_frame(frame, Reason::IcmpType);
        }
        if let Some(reason) = self.flows.beside_refusal(port, p.ends(frame.data()).source.0, origin) {
            return self.drop_frame(frame, reason);
        }
        if p.ttl <= 1 {
            return self.drop_frame(frame, Reason::TtlExpired);
        }
        if !checksum_ok(&frame, p) {
            return self.drop_frame(frame, Reason::BadIcmp);
        }
        if self.flows.sessions.get(found.id).is_some_and(Session::is_one_way) {
            // The server of a DR or TUN session sent the quoted packet itself: the error goes there as it is.
            return self.send_one_way(port, frame, p, found.id);
        }
        self.flows.lower_mtu(frame.data_mut(), p, found);
        let p = &self.flows.unproxy_quote(&mut frame, p, found, inner.transport_at);
        if self.flows.sessions.get(found.id).is_some_and(Session::is_mixed) {
            return self.translate_mixed(frame, p, (found, inner));
        }
        let Some(session) = self.flows.sessions.get(found.id) else { return };
        if rewrite_error(frame.data_mut(), p, session, found.direction).is_none() {
            return self.drop_frame(frame, Reason::BadIcmp);
        }
        self.send_error(port, frame, p, found);
    }

    /// A rewritten error leaves, or comes in again (RFC 5508 REQ-7).
    pub(super) fn send_error(&mut self, port: PortId, frame: I::Frame, p: &Parsed, found: Found) {
        if self.flows.is_hairpin(found) {
            self.counters.events.icmp_translated.add(1);
            return self.come_in_again(port, frame, p, found);
        }
        match self.flows.hop_for(found) {
            Ok(hop) => {
                self.counters.events.icmp_translated.add(1);
                self.leave(frame, hop, p.ip_len);
            }
            Err(reason) => self.error_here(port, frame, p, found, reason),
        }
    }
}

/// The packet that an error quotes, as far as it does and the first buffer has it: without what follows the error in its
/// frame.
pub(super) fn quote_of<'a>(data: &'a [u8], p: &Parsed) -> &'a [u8] {
    let end = (usize::from(p.l3) + usize::from(p.ip_len)).min(data.len());
    data.get(usize::from(p.l4) + IcmpHeader::LEN..end).unwrap_or_default()
}

/// Whether an error of the session keeps its sender's address.
pub(super) fn keeps_source(session: &Session, direction: Direction) -> bool {
    match direction {
        // The client's router stays visible to a NAT server.
        Direction::Request => !session.is_fullnat() && !session.is_snat(),
        // What went wrong outside is told by whoever saw it.
        Direction::Reply => session.is_snat(),
    }
}

/// Whether the ICMP checksum is right, over all segments.
fn checksum_ok(frame: &impl Frame, p: &Parsed) -> bool {
    let from = usize::from(p.l4);
    let len = (usize::from(p.l3) + usize::from(p.ip_len)).saturating_sub(from);
    sum_over(frame, from, len).is_some_and(|sum| sum.checksum() == 0)
}

/// Rewrites an ICMP error of `session` that travels in `direction`. `None`, with the frame spoilt, if it is
/// too short.
fn rewrite_error(data: &mut [u8], p: &Parsed, session: &Session, direction: Direction) -> Option<()> {
    let (l3, l4) = (usize::from(p.l3), usize::from(p.l4));
    let outer = session.leaving(direction);
    let ip = Ipv4Header::at_mut(data, l3)?;
    let before = Tuple { addresses: ip.address_words(), ports: 0 };
    let mut after = Tuple { addresses: outer.addresses, ports: 0 };
    if keeps_source(session, direction) {
        after.addresses = (after.addresses & !0xffff_ffff) | (before.addresses & 0xffff_ffff);
    }
    let (ip_delta, _) = rewrite::deltas(before, after);
    ip.set_address_words(after.addresses);
    ip.set_checksum(ip_delta.apply(ip.checksum()));
    ip.decrement_ttl();

    let opposite = direction.opposite();
    let quoted = data.get_mut(l4 + IcmpHeader::LEN..)?;
    let inner_header = Ipv4Header::split(quoted)?.0.header_len();
    let end = quoted.len().min(inner_header + QUOTED);
    let quoted = &mut quoted[..end];
    let old = Sum::of(quoted);
    rewrite_quote(quoted, inner_header, session.leaving(opposite), session.arriving(opposite))?;
    let delta = Delta::from_sums(old, Sum::of(quoted));
    let icmp = IcmpHeader::at_mut(data, l4)?;
    icmp.set_checksum(delta.apply(icmp.checksum()));
    Some(())
}

/// Turns the quote of a packet sent as `sent` into that of the packet received as `received`.
fn rewrite_quote(quoted: &mut [u8], header_len: usize, sent: Tuple, received: Tuple) -> Option<()> {
    let (ip_delta, mut l4_delta) = rewrite::deltas(sent, received);
    let ip = Ipv4Header::at_mut(quoted, 0)?;
    let (protocol, len) = (ip.protocol, ip.total_len().saturating_sub(header_len));
    ip.set_address_words(received.addresses);
    ip.set_checksum(ip_delta.apply(ip.checksum()));
    let transport = quoted.get_mut(header_len..)?;
    if protocol == protocol::ICMP {
        // An echo's identifier is the port of whoever asked; there is no pseudo-header.
        let of = |t: Tuple| t.source().1 | t.destination().1;
        l4_delta = Delta::between(&[of(sent)], &[of(received)]);
        transport.get_mut(4..6)?.copy_from_slice(&of(received).to_be_bytes());
        let field = transport.get_mut(2..4)?.first_chunk_mut::<2>()?;
        *field = l4_delta.apply(u16::from_be_bytes(*field)).to_be_bytes();
        return Some(());
    }
    if protocol == protocol::SCTP {
        return sctp::requote(transport, received.ports, len);
    }
    transport.first_chunk_mut::<4>()?.copy_from_slice(&received.ports.to_le_bytes());
    let (at, udp) = match protocol {
        protocol::UDP => (udp::CHECKSUM_AT, true),
        _ => (tcp::CHECKSUM_AT, false),
    };
    if let Some(field) = transport.get_mut(at..at + 2).and_then(|f| f.first_chunk_mut::<2>()) {
        let check = u16::from_be_bytes(*field);
        let new = if udp { l4_delta.apply_udp(check) } else { l4_delta.apply(check) };
        *field = new.to_be_bytes();
    }
    Some(())
}
