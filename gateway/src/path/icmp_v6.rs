//! Beside the way: ICMPv6 errors about sessions, as [`super::icmp`] has them for IPv4.
//!
//! ```text
//! ip6 | icmp: type code checksum .. | the packet that failed, as it left the gateway: ip6 [extensions] | ports ..
//! ```
//!
//! The checksum covers the outer addresses too.

use super::{
    Worker,
    icmp::{keeps_source, quote_of},
    packet::Origin,
    parse::Parsed,
    rewrite,
    sums::sum_over,
    verdict::Reason,
};
use crate::{
    io::{Frame, Io, PortId},
    net::{
        Header,
        checksum::{Delta, Sum},
        icmp::{IcmpHeader, Inner, inner_v6},
        ipv6::Ipv6Header,
        protocol, sctp, tcp, udp,
    },
    table::{ends::Ends, sessions::Found},
};

/// Bytes of the quoted transport header that may have to change: up to TCP's checksum.
const QUOTED: usize = tcp::CHECKSUM_AT + 2;

impl<I: Io> Worker<I> {
    /// An ICMPv6 error.
    #[inline(never)]
    pub(super) fn icmp_error_v6(&mut self, port: PortId, frame: I::Frame, p: &Parsed, origin: Origin) {
        let to = p.ends(frame.data()).destination.0;
        let local = self.flows.lookup.is_local(to);
        let quoted = quote_of(frame.data(), p);
        if let Ok(outer) = inner_v6(quoted)
            && self.flows.is_about_tunnel(to, &outer)
        {
            if !checksum_ok(&frame, p, &p.ends(frame.data())) {
                return self.drop_frame(frame, Reason::BadIcmp);
            }
            return self.tunnel_error(port, frame, p, &outer, origin);
        }
        let has_sessions = |protocol| match protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => true,
            protocol::ICMPV6 => self.flows.snat.is_some(),
            _ => false,
        };
        let inner = match inner_v6(quoted) {
            Ok(inner) if has_sessions(inner.protocol) && !inner.later_fragment => inner,
            other => {
                let reason = if other.is_ok() { Reason::IcmpNoSession } else { Reason::BadIcmp };
                return if local { self.drop_frame(frame, reason) } else { self.punt(port, frame) };
            }
        };
        let back = Ends {
            source: (inner.destination, inner.destination_port),
            destination: (inner.source, inner.source_port),
        };
        match self.flows.sessions.find_ends(&back, inner.protocol) {
            Some(found) => self.translate_v6(port, frame, p, (found, &inner), origin),
            None => {
                let from = p.ends(frame.data()).source.0;
                self.error_of_nobody(port, frame, (&back, inner.protocol, from), local, origin);
            }
        }
    }

    fn translate_v6(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        (found, inner): (Found, &Inner),
        origin: Origin,
    ) {
        let ends = p.ends(frame.data());
        if !self.flows.tells_sender(&frame, p, found) {
            return self.drop_frame(frame, Reason::IcmpType);
        }
        if let Some(reason) = self.flows.beside_refusal(port, ends.source.0, origin) {
            return self.drop_frame(frame, reason);
        }
        if p.ttl <= 1 {
            return self.drop_frame(frame, Reason::TtlExpired);
        }
        if !checksum_ok(&frame, p, &ends) {
            return self.drop_frame(frame, Reason::BadIcmp);
        }
        self.flows.lower_mtu(frame.data_mut(), p, found);
        let Some(session) = self.flows.sessions.get(found.id) else { return };
        if session.is_one_way() {
            return self.send_one_way(port, frame, p, found.id);
        }
        let p = &self.flows.unproxy_quote(&mut frame, p, found, inner.transport_at);
        if session.is_mixed() {
            return self.translate_mixed(frame, p, (found, inner));
        }
        let keeps_source = keeps_source(session, found.direction);
        let opposite = found.direction.opposite();
        let (Some(mut outer), Some(sent), Some(received)) = (
            self.flows.sessions.leaving(found.id, found.direction),
            self.flows.sessions.leaving(found.id, opposite),
            self.flows.sessions.arriving(found.id, opposite),
        ) else {
            return self.drop_frame(frame, Reason::NoSession);
        };
        if keeps_source {
            outer.source.0 = ends.source.0;
        }
        if rewrite_error(frame.data_mut(), p, inner.transport_at, &outer, (&sent, &received)).is_none() {
            return self.drop_frame(frame, Reason::BadIcmp);
        }
        self.send_error(port, frame, p, found);
    }
}

/// Whether the ICMPv6 checksum is right, over all segments.
fn checksum_ok(frame: &impl Frame, p: &Parsed, ends: &Ends) -> bool {
    let from = usize::from(p.l4);
    let len = (usize::from(p.l3) + usize::from(p.ip_len)).saturating_sub(from);
    let (Some(pair), Ok(length)) = (ends.pair(), u16::try_from(len)) else { return false };
    let pseudo = Sum::of(&pair).word(u16::from(protocol::ICMPV6)).word(length);
    sum_over(frame, from, len).is_some_and(|sum| sum.and(pseudo).checksum() == 0)
}

/// Gives an ICMPv6 error the addresses of `outer`, and turns its quote of a packet that was sent between the ends
/// `sent` into that of the packet received between the ends `received`. `None`, with the frame spoilt, if it is too
/// short.
fn rewrite_error(
    data: &mut [u8],
    p: &Parsed,
    transport_at: usize,
    outer: &Ends,
    (sent, received): (&Ends, &Ends),
) -> Option<()> {
    let (l3, l4) = (usize::from(p.l3), usize::from(p.l4));
    let pair = outer.pair()?;
    let addresses = data.get_mut(l3 + 8..l3 + 40)?;
    let before = Sum::of(addresses);
    addresses.copy_from_slice(&pair);
    let mut delta = Delta::from_sums(before, Sum::of(&pair));
    Ipv6Header::at_mut(data, l3)?.decrement_hop_limit();

    let quoted = data.get_mut(l4 + IcmpHeader::LEN..)?;
    let end = quoted.len().min(transport_at + QUOTED);
    let quoted = &mut quoted[..end];
    let old = Sum::of(quoted);
    rewrite_quote(quoted, transport_at, sent, received)?;
    delta = delta.and(Delta::from_sums(old, Sum::of(quoted)));
    let icmp = IcmpHeader::at_mut(data, l4)?;
    icmp.set_checksum(delta.apply(icmp.checksum()));
    Some(())
}

fn rewrite_quote(quoted: &mut [u8], transport_at: usize, sent: &Ends, received: &Ends) -> Option<()> {
    let upper = crate::net::ipv6::upper(quoted).ok()?.protocol;
    let len = Ipv6Header::at(quoted, 0)?.total_len().saturating_sub(transport_at);
    quoted.get_mut(8..40)?.copy_from_slice(&received.pair()?);
    let (_, delta) = rewrite::deltas_of(sent, received);
    let transport = quoted.get_mut(transport_at..)?;
    let ports = received.tuple().ports;
    if upper == protocol::SCTP {
        return sctp::requote(transport, ports, len);
    }
    if upper == protocol::ICMPV6 {
        // An echo's identifier is the port of whoever asked.
        let identifier = received.source.1 | received.destination.1;
        transport.get_mut(4..6)?.copy_from_slice(&identifier.to_be_bytes());
        let field = transport.get_mut(2..4)?.first_chunk_mut::<2>()?;
        *field = delta.apply(u16::from_be_bytes(*field)).to_be_bytes();
        return Some(());
    }
    transport.first_chunk_mut::<4>()?.copy_from_slice(&ports.to_le_bytes());
    let (at, udp) = match upper {
        protocol::UDP => (udp::CHECKSUM_AT, true),
        _ => (tcp::CHECKSUM_AT, false),
    };
    if let Some(field) = transport.get_mut(at..at + 2).and_then(|f| f.first_chunk_mut::<2>()) {
        let check = u16::from_be_bytes(*field);
        let new = if udp { delta.apply_udp(check) } else { delta.apply(check) };
        *field = new.to_be_bytes();
    }
    Some(())
}
