//! Packets that arrive in fragments, see [`crate::table::fragments`].
//!
//! ```text
//! first fragment   has the ports: handled like a whole packet, with the same change of the checksum
//! later ones       use the ports that the first one stored: only addresses are rewritten
//! ```
//!
//! For one-packet services, ports lead to no session: the first fragment determines where the rest goes.
//!
//! RSS spreads fragments by addresses alone, so they may arrive at a worker that doesn't own the session. All fragments
//! of a packet arrive at the same worker, which hands the first one to the session's owner and the others after it.
//! Where many senders share one address (FULLNAT, SNAT), a packet gets an identification of this worker's; otherwise
//! receivers would join fragments of different packets.

use super::{
    Worker,
    ingress::{
        parse::{Kind, Parsed, echo_ports, is_echo},
        sctp_event,
    },
    next::{Next, RestGoes},
    packet::{FirstFragment, Origin, Packet},
    verdict::Reason,
};
use crate::{
    io::{Frame, Io, PortId},
    net::{
        Header,
        icmp::{self, IcmpHeader},
        ipv4::Ipv4Header,
        ipv6, protocol,
        sctp::SctpHeader,
        tcp::TcpHeader,
        udp::UdpHeader,
    },
    table::{
        endpoints::Endpoints,
        fragments::{FragmentKey, FragmentVerdict, Fragments, Piece},
        session::Tuple,
    },
};

/// A fragment that waits for the first one.
pub(super) type Early<F> = (PortId, F, Parsed, Origin);

/// A worker's fragmented packets.
pub(super) type Held<F> = Fragments<Early<F>, RestGoes>;

/// The packet that a fragment belongs to, and its range of bytes; none if it isn't a valid fragment.
fn facts(data: &[u8], p: &Parsed, ends: &Endpoints) -> Option<(FragmentKey, Piece)> {
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
    // All fragments but the last hold a multiple of eight bytes.
    if len == 0 || (more && len % 8 != 0) {
        return None;
    }
    let to = from.checked_add(len)?;
    // The whole packet must fit an IPv4 length.
    if !p.ipv6 {
        to.checked_add(headers)?;
    }
    let piece = Piece { from, to, last: !more };
    let (source, destination) = (ends.source.0, ends.destination.0);
    Some((FragmentKey { source, destination, id, protocol: p.protocol }, piece))
}

/// A first fragment as a packet, with its ports and flags. None if it doesn't have them (RFC 1858).
fn first(data: &[u8], p: &Parsed) -> Option<Parsed> {
    let end = (usize::from(p.l3) + usize::from(p.ip_len)).min(data.len());
    let transport = data.get(usize::from(p.l4)..end)?;
    let flags = match p.protocol {
        protocol::TCP => {
            let (header, _) = TcpHeader::split(transport)?;
            // A TCP header that continues in another fragment could contain anything there.
            (header.header_len() >= TcpHeader::LEN && header.header_len() <= transport.len())
                .then_some(header.flags)?
        }
        protocol::UDP => UdpHeader::split(transport).map(|_| 0)?,
        protocol::SCTP => sctp_event::event(SctpHeader::split(transport)?.1),
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

/// The first fragment of an echo as a packet; none if it is another ICMP message.
fn echo(p: &Parsed, icmp: &IcmpHeader) -> Option<Parsed> {
    let asks = match (p.protocol, icmp.kind) {
        (protocol::ICMP, icmp::v4::ECHO) | (protocol::ICMPV6, icmp::v6::ECHO) => true,
        (protocol::ICMP, icmp::v4::ECHO_REPLY) | (protocol::ICMPV6, icmp::v6::ECHO_REPLY) => false,
        _ => return None,
    };
    let tuple = Tuple { ports: echo_ports(icmp, asks), ..p.tuple };
    Some(Parsed { kind: Kind::Echo, tuple, ..*p })
}

/// Whether a waiting fragment is the first of its packet.
fn is_first<F: Frame>((_, frame, p, _): &Early<F>) -> bool {
    facts(frame.data(), p, &p.endpoints(frame.data())).is_some_and(|(_, piece)| piece.from == 0)
}

impl<I: Io> Worker<I> {
    /// Handles a fragment of an IP packet.
    #[inline(never)]
    pub(super) fn reassemble(&mut self, packet: Packet<'_, I::Frame>) {
        let (p, ends) = (packet.parsed, packet.endpoints());
        if let Some(next) = self.flows.before_reassembly(&packet, &ends) {
            return self.carry_out(packet, next);
        }
        let Some((key, piece)) = facts(packet.frame.data(), p, &ends) else {
            return self.carry_out(packet, Next::Drop(Reason::BadFragment));
        };
        let whole = if piece.from == 0 { first(packet.frame.data(), p) } else { None };
        if piece.from == 0 && whole.is_none() {
            // An ICMP message other than an echo goes to the kernel.
            let next = if is_echo(p.protocol) { Next::Punt } else { Next::Drop(Reason::BadFragment) };
            return self.carry_out(packet, next);
        }
        let now = self.flows.now;
        match self.held.note(&key, piece, whole.map(|w| w.tuple.ports), now) {
            FragmentVerdict::Overlaps => self.egress.drop(packet.frame, Reason::FragmentOverlap),
            FragmentVerdict::Scattered => self.egress.drop(packet.frame, Reason::BadFragment),
            FragmentVerdict::TooEarly => {
                let early = (packet.port, packet.frame, *p, packet.origin);
                if let Some((_, frame, ..)) = self.held.wait(&key, early, now) {
                    self.egress.drop(frame, Reason::FragmentsWaiting);
                }
            }
            FragmentVerdict::Known(ports, id) => {
                if let Some((port, frame, p, origin)) = self.held.released_if(&key, is_first)
                    && let Some(whole) = first(frame.data(), &p)
                {
                    self.first_fragment(
                        Packet { frame, port, origin, parsed: &whole, first: None },
                        &key,
                        id,
                    );
                }
                match &whole {
                    Some(whole) => self.first_fragment(Packet { parsed: whole, ..packet }, &key, id),
                    None => self.later_fragment(packet, &key, (ports, id)),
                }
                while let Some((port, frame, p, origin)) = self.held.released(&key) {
                    let later = Packet { frame, port, origin, parsed: &p, first: None };
                    self.later_fragment(later, &key, (ports, id));
                }
                self.held.finish(&key, now);
            }
        }
    }

    /// Handles the first fragment like a whole packet; it determines where the others go. Its session, which may have
    /// to be opened first, determines whether it leaves under the identification `id`.
    fn first_fragment(&mut self, mut packet: Packet<'_, I::Frame>, key: &FragmentKey, id: u16) {
        let (now, sctp) = (self.flows.now, packet.parsed.protocol == protocol::SCTP);
        let whole = if sctp { self.held.len(key, now) } else { None };
        packet.first = Some(FirstFragment { id, whole });
        let next = self.flows.first_fragment(&packet);
        self.carry_out(packet, next);
        if let Some(rest) = self.flows.rest_goes.take() {
            self.held.set_way(key, rest, now);
        }
    }

    /// Handles a later fragment by the ports of the first one.
    fn later_fragment(&mut self, packet: Packet<'_, I::Frame>, key: &FragmentKey, (ports, id): (u32, u16)) {
        let mut p = *packet.parsed;
        p.tuple.ports = ports;
        let packet = Packet { parsed: &p, ..packet };
        let rest = self.held.way(key, self.flows.now);
        let next = self.flows.later_fragment(&packet, (rest, id));
        self.carry_out(packet, next);
    }

    /// Drops fragments whose first one hasn't arrived in time.
    pub(super) fn give_up_fragments(&mut self) {
        while let Some((_, frame, ..)) = self.held.given_up(self.flows.now) {
            self.egress.drop(frame, Reason::FragmentsIncomplete);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parsed fragment of an IPv4 packet with `options` bytes of options.
    fn read(options: usize, offset: usize, more: bool, len: u16) -> Option<Piece> {
        let mut data = [0; 14 + 60];
        let mut ip = Ipv4Header::new([10, 1, 0, 1].into(), [192, 0, 2, 10].into(), protocol::UDP, 0);
        ip.set_flags_fragment((offset / 8) as u16 | if more { 0x2000 } else { 0 });
        data[14..34].copy_from_slice(zerocopy::IntoBytes::as_bytes(&ip));
        let l4 = (34 + options) as u8;
        let p = Parsed { l3: 14, l4, ip_len: 20 + options as u16 + len, ..Parsed::NOTHING };
        let ends = Endpoints { source: ([10, 1, 0, 1].into(), 0), destination: ([192, 0, 2, 10].into(), 0) };
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
            // The padding behind a short packet in its frame is ignored.
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
        assert_eq!(of(protocol::SCTP, true, &sctp), Some((Kind::Sctp, 0x0303_0303, sctp_event::INIT)));
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
