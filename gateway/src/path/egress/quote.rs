//! Rewrites ICMP errors about sessions: they leave with the session's addresses and quote the packet that their
//! receiver sent.
//!
//! ```text
//! ip | icmp: type code checksum .. | the packet that failed, as it left the gateway: ip [extensions] | ports ..
//! ```
//!
//! ICMPv6's checksum covers the outer addresses, too.

use super::{Carried, Egress, unproxy::unproxy_quote};
use crate::{
    io::{Frame, Io},
    net::{
        Header,
        checksum::{Delta, Sum},
        icmp::{IcmpHeader, Inner},
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
        protocol, sctp, tcp, udp,
    },
    path::{
        flow::{Flows, deltas::deltas_of, grown::told_mtu},
        ingress::parse::Parsed,
        next::{Edit, Exit},
        packet::Packet,
        verdict::Reason,
    },
    table::{
        endpoints::Endpoints,
        session::{Direction, Session},
        sessions::Found,
    },
};

/// The bytes of the quoted transport header that may need rewriting: up to TCP's checksum.
const QUOTED: usize = tcp::CHECKSUM_AT + 2;

impl<I: Io> Egress<I> {
    /// Sends an error about a session to the sender of the quoted packet.
    pub(crate) fn send_error(
        &mut self,
        flows: &Flows,
        packet: Packet<'_, I::Frame>,
        (found, inner): (Found, &Inner),
        exit: Exit,
    ) -> Carried<I::Frame> {
        let Some(session) = flows.sessions.get(found.id) else {
            return self.dropped(packet.frame, Reason::NoSession);
        };
        if session.is_one_way() {
            // The server of a DR or TUN session sent the quoted packet itself, so the error goes there unchanged.
            return self.send_one_way(flows, packet, found.id, exit);
        }
        let Packet { mut frame, port, parsed: p, .. } = packet;
        lower_mtu(flows, frame.data_mut(), p, found);
        let p = &unproxy_quote(flows, &mut frame, p, found, inner.transport_at);
        if let (true, Exit::Hop(hop)) = (session.is_nat64(), exit) {
            self.translate_error(flows, frame, p, (found, inner), hop);
            return Ok(Edit::Nothing);
        }
        if rewrite_error(flows, frame.data_mut(), p, (found, inner)).is_none() {
            return self.dropped(frame, Reason::BadIcmp);
        }
        self.counters.events.icmp_translated.add(1);
        match exit {
            Exit::Hop(hop) => self.leave(flows, frame, hop, p.ip_len),
            Exit::Local => self.deliver(flows, port, frame, p),
            // Hairpins are translated like other errors (RFC 5508 REQ-7).
            Exit::Hairpin => self.come_in_again(flows, port, frame, (p, found)),
        }
        Ok(Edit::Nothing)
    }
}

/// Lowers the MTU in an error to a client by the number of bytes that its packets grow.
fn lower_mtu(flows: &Flows, data: &mut [u8], p: &Parsed, found: Found) {
    let by = flows.growth(found);
    let nat64 = flows.sessions.get(found.id).is_some_and(Session::is_nat64);
    let Some(icmp) = IcmpHeader::at_mut(data, usize::from(p.l4)).filter(|_| by != 0) else { return };
    let Some((told, least)) = told_mtu(icmp, p.ipv6, nat64) else { return };
    // An old router reports no MTU; the client then guesses from the quote.
    let lower = told.saturating_sub(by.into()).max(least.min(told));
    let before = icmp.rest();
    if p.ipv6 {
        icmp.set_rest(lower);
    } else {
        icmp.set_mtu_v4(lower as u16);
    }
    let [high, low] = [16, 0].map(|by| Delta::word((before >> by) as u16, (icmp.rest() >> by) as u16));
    icmp.set_checksum(high.and(low).apply(icmp.checksum()));
}

/// Whether an error of the session keeps its sender's address.
fn keeps_source(session: &Session, direction: Direction) -> bool {
    match direction {
        // A NAT server sees the address of the client's router.
        Direction::Request => !session.is_fullnat() && !session.is_snat(),
        // An inside host sees the address of the outside router.
        Direction::Reply => session.is_snat(),
    }
}

/// Rewrites an error about a session. `None`, with the frame spoilt, if it is too short.
fn rewrite_error(flows: &Flows, data: &mut [u8], p: &Parsed, (found, inner): (Found, &Inner)) -> Option<()> {
    let session = flows.sessions.get(found.id)?;
    let opposite = found.direction.opposite();
    let mut outer = flows.sessions.leaving(found.id, found.direction)?;
    let sent = flows.sessions.leaving(found.id, opposite)?;
    let received = flows.sessions.arriving(found.id, opposite)?;
    if keeps_source(session, found.direction) {
        outer.source.0 = p.endpoints(data).source.0;
    }
    let mut delta = readdress(data, p, &outer)?;
    let quoted = data.get_mut(usize::from(p.l4) + IcmpHeader::LEN..)?;
    let end = quoted.len().min(inner.transport_at + QUOTED);
    let quoted = &mut quoted[..end];
    let old = Sum::of(quoted);
    rewrite_quote(quoted, inner, &sent, &received)?;
    delta = delta.and(Delta::from_sums(old, Sum::of(quoted)));
    let icmp = IcmpHeader::at_mut(data, usize::from(p.l4))?;
    icmp.set_checksum(delta.apply(icmp.checksum()));
    Some(())
}

/// Gives an error the addresses of `outer` and decrements its TTL. Returns the difference of its checksum.
fn readdress(data: &mut [u8], p: &Parsed, outer: &Endpoints) -> Option<Delta> {
    let before = p.endpoints(data);
    if !super::readdress::readdress(data, p, outer) {
        return None;
    }
    let sum = |ends: &Endpoints| ends.pair().map(|pair| Sum::of(&pair));
    // ICMP's checksum has no pseudo-header.
    if p.ipv6 { Some(Delta::from_sums(sum(&before)?, sum(outer)?)) } else { Some(Delta::NONE) }
}

/// Turns the quote of a packet that was sent between the endpoints `sent` into a quote of the packet received between
/// the endpoints `received`.
fn rewrite_quote(quoted: &mut [u8], inner: &Inner, sent: &Endpoints, received: &Endpoints) -> Option<()> {
    let (ip_delta, mut delta) = deltas_of(sent, received);
    let total_len = if sent.is_ipv6() {
        quoted.get_mut(8..40)?.copy_from_slice(&received.pair()?);
        Ipv6Header::at(quoted, 0)?.total_len()
    } else {
        let ip = Ipv4Header::at_mut(quoted, 0)?;
        ip.set_address_words(received.tuple().addresses);
        ip.set_checksum(ip_delta.apply(ip.checksum()));
        ip.total_len()
    };
    if inner.protocol == protocol::ICMP {
        let identifier = |ends: &Endpoints| ends.source.1 | ends.destination.1;
        delta = Delta::between(&[identifier(sent)], &[identifier(received)]);
    }
    let transport = quoted.get_mut(inner.transport_at..)?;
    requote(transport, inner.protocol, received, (delta, total_len.saturating_sub(inner.transport_at)))
}

/// Sets the ports and the checksum in a quoted transport header, as far as they are quoted, for a packet between the
/// endpoints `received`. `delta` is the checksum difference of addresses and ports. The packet's transport part has
/// `len` bytes.
pub(crate) fn requote(
    transport: &mut [u8],
    protocol: u8,
    received: &Endpoints,
    (delta, len): (Delta, usize),
) -> Option<()> {
    let ports = received.tuple().ports;
    match protocol {
        protocol::SCTP => return sctp::requote(transport, ports, len),
        protocol::ICMP | protocol::ICMPV6 => {
            // An echo's identifier is the port of the host that sent the request.
            let identifier = received.source.1 | received.destination.1;
            transport.get_mut(4..6)?.copy_from_slice(&identifier.to_be_bytes());
            let field = transport.get_mut(2..4)?.first_chunk_mut::<2>()?;
            *field = delta.apply(u16::from_be_bytes(*field)).to_be_bytes();
            return Some(());
        }
        _ => transport.first_chunk_mut::<4>()?.copy_from_slice(&ports.to_le_bytes()),
    }
    let (at, udp) = match protocol {
        protocol::UDP => (udp::CHECKSUM_AT, true),
        _ => (tcp::CHECKSUM_AT, false),
    };
    if let Some(field) = transport.get_mut(at..at + 2).and_then(|f| f.first_chunk_mut::<2>()) {
        let check = u16::from_be_bytes(*field);
        *field = if udp { delta.apply_udp(check) } else { delta.apply(check) }.to_be_bytes();
    }
    Some(())
}
