//! Stage 6: rewrites the packet's 5-tuple.
//!
//! It changes addresses, ports, TTL and both checksums, and nothing else in the packet. The checksums change by
//! differences that were computed when the session was opened (RFC 1624): the payload is never read.

use std::ops::Deref;

use crate::{
    net::{
        Header, checksum::Delta, ipv4::Ipv4Header, protocol, sctp::SctpHeader, tcp::TcpHeader, udp::UdpHeader,
    },
    path::ingress::parse::Parsed,
    table::{
        session::{Direction, Session, Tuple},
        v6_record::V6Record,
    },
};

/// The TTL is the high byte of the word it shares with the protocol.
const ONE_HOP: Delta = Delta::word(0x0100, 0);

/// A session used for rewriting packets. A mutable one notes what the packets acknowledge, since their header is at
/// hand here.
pub trait Of: Deref<Target = Session> {
    /// Notes the acknowledgement number of a packet in this direction.
    fn note(&mut self, direction: Direction, acknowledged: [u8; 4]);
}

impl Of for &Session {
    #[inline(always)]
    fn note(&mut self, _: Direction, _: [u8; 4]) {}
}

impl Of for &mut Session {
    #[inline(always)]
    fn note(&mut self, direction: Direction, acknowledged: [u8; 4]) {
        self.note_acknowledged(direction, acknowledged);
    }
}

/// Rewrites the frame `data`, a packet of `session` that arrived in `direction`, and decrements its TTL. False, with
/// the frame spoilt, if it doesn't match `parsed`.
#[inline]
#[must_use]
pub fn rewrite(data: &mut [u8], parsed: &Parsed, mut session: impl Of, direction: Direction) -> bool {
    let new = session.leaving(direction);
    let (ip_delta, l4_delta) = session.deltas(direction);
    let ip_delta = ip_delta.and(ONE_HOP);
    if parsed.l4 == 34
        && let Some(head) = data.first_chunk_mut::<54>()
    {
        if parsed.protocol == protocol::TCP {
            rewrite_usual(head, new, ip_delta);
            session.note(direction, [head[42], head[43], head[44], head[45]]);
            let check = l4_delta.apply_to([head[50], head[51]]);
            head[50..52].copy_from_slice(&check);
            return true;
        }
        if parsed.protocol == protocol::UDP {
            rewrite_usual(head, new, ip_delta);
            let check = l4_delta.apply_udp(u16::from_be_bytes([head[40], head[41]]));
            head[40..42].copy_from_slice(&check.to_be_bytes());
            return true;
        }
    }
    rewrite_others(data, parsed, session, direction)
}

/// Handles SCTP, packets with IP options, and packets shorter than the minimum Ethernet frame. As a tail call of
/// [`rewrite`] it leaves nothing to save across the call.
#[inline(never)]
fn rewrite_others(data: &mut [u8], parsed: &Parsed, session: impl Of, direction: Direction) -> bool {
    let new = session.leaving(direction);
    let (ip_delta, l4_delta) = session.deltas(direction);
    let (l3, l4) = (usize::from(parsed.l3), usize::from(parsed.l4));
    let Some(ip) = Ipv4Header::at_mut(data, l3) else { return false };
    ip.set_checksum(ip_delta.and(ONE_HOP).apply(ip.checksum()));
    ip.set_address_words(new.addresses);
    ip.ttl = ip.ttl.wrapping_sub(1);
    let rewritten = rewrite_transport(data.get_mut(l4..), parsed, new.ports, l4_delta);
    note(session, direction, rewritten)
}

/// Lets the session note the acknowledgement of a packet if it was rewritten. Returns whether it was.
#[inline]
fn note(mut session: impl Of, direction: Direction, rewritten: Option<[u8; 4]>) -> bool {
    if let Some(acknowledged) = rewritten {
        session.note(direction, acknowledged);
    }
    rewritten.is_some()
}

/// Like [`rewrite`], for a packet that arrives and leaves by IPv6, whose session has the addresses `wide`.
#[inline]
#[must_use]
pub fn rewrite_v6(
    data: &mut [u8],
    parsed: &Parsed,
    session: impl Of,
    v6: &V6Record,
    direction: Direction,
) -> bool {
    let (_, l4_delta) = session.deltas(direction);
    let l3 = usize::from(parsed.l3);
    let Some(header) = data.get_mut(l3..).and_then(|b| b.first_chunk_mut::<40>()) else { return false };
    header[7] = header[7].wrapping_sub(1);
    let (source, destination) = v6.leaving(direction);
    header[8..24].copy_from_slice(source);
    header[24..40].copy_from_slice(destination);
    let transport = data.get_mut(usize::from(parsed.l4)..);
    let rewritten = rewrite_transport(transport, parsed, session.leaving(direction).ports, l4_delta);
    note(session, direction, rewritten)
}

/// Rewrites the ports and the checksum of a packet that `parsed` describes. `transport` is the part behind the IP
/// headers, as far as it is in the first buffer. Returns TCP's acknowledgement number as laid out in the header; for
/// other protocols the value has no meaning.
#[inline]
pub(crate) fn rewrite_transport(
    transport: Option<&mut [u8]>,
    parsed: &Parsed,
    ports: u32,
    delta: Delta,
) -> Option<[u8; 4]> {
    let (transport, protocol) = (transport?, parsed.protocol);
    let len = usize::from(parsed.ip_len).saturating_sub(usize::from(parsed.l4 - parsed.l3));
    match protocol {
        protocol::TCP => {
            let (tcp, _) = TcpHeader::split_mut(transport)?;
            tcp.set_port_words(ports);
            tcp.set_checksum(delta.apply(tcp.checksum()));
            return Some(tcp.acknowledgement().to_be_bytes());
        }
        protocol::SCTP => SctpHeader::split_mut(transport)?.0.set_port_words(ports, len),
        _ => {
            let (udp, _) = UdpHeader::split_mut(transport)?;
            udp.set_port_words(ports);
            udp.set_checksum(delta.apply_udp(udp.checksum()));
        }
    }
    Some([0; 4])
}

/// Rewrites all but the transport checksum of a packet without IP options, in which every field has a fixed place.
#[inline(always)]
fn rewrite_usual(head: &mut [u8; 54], new: Tuple, ip_delta: Delta) {
    head[22] = head[22].wrapping_sub(1);
    let check = ip_delta.apply_to([head[24], head[25]]);
    head[24..26].copy_from_slice(&check);
    head[26..34].copy_from_slice(&new.addresses.to_le_bytes());
    head[34..38].copy_from_slice(&new.ports.to_le_bytes());
}
