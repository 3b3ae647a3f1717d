//! PROXY protocol: a header in front of a client's stream, or of each datagram, tells a FULLNAT server the client's
//! address (HAProxy, "The PROXY protocol, versions 1 & 2").
//!
//! In a stream, the header takes the place of the client's first byte. It goes with the first segment that acknowledges
//! the server's SYN, with or without data, so that servers that speak first get it, too. Until the server has
//! acknowledged it, every client segment that begins there carries the header again, so a lost header is made up for by
//! whatever makes the client retransmit. The module `stream` decides what else passes, and by how much numbers are
//! shifted: the client's sequence numbers, the server's acknowledgements, the edges of its SACK blocks, and the numbers
//! that ICMP errors quote. If header and data don't fit into one packet, or the data is urgent, the header goes ahead
//! in its own packet.
//!
//! Each datagram has its own header. If the datagram is fragmented, the header is in the first fragment and the offsets
//! of the others are increased. Fragmented segments pass once the server has acknowledged the header: nobody can verify
//! their checksum.
//!
//! A session with PROXY never remembers its next hops, so none of its packets takes the fast path.

use super::{Carried, Egress, leave::rewrite, toa, too_big};
use crate::{
    id::HopId,
    io::{Frame, Io},
    net::{
        Header,
        checksum::{Delta, Sum},
        ipv4::Ipv4Header,
        ipv6::{Ipv6Header, MIN_MTU},
        protocol,
        tcp::{self, TcpHeader},
        udp::UdpHeader,
    },
    path::{
        flow::{
            Flows,
            proxy_header::{Text, fill_up},
            stream::{Segment, Step, Stream},
        },
        ingress::{
            parse::Parsed,
            sums::{sum_over, transport_checksum_ok, transport_sum},
        },
        next::Edit,
        packet::Packet,
        verdict::Reason,
    },
    table::{
        session::{Direction, Session},
        sessions::Found,
    },
};

/// The option kind of SACK blocks (RFC 2018).
const SACK: u8 = 5;

/// Why a packet of a session with PROXY isn't sent.
pub(crate) enum ProxyRefusal {
    Drop(Reason),
    /// With the header it would exceed this MTU, as the sender counts it.
    TooBig(u16),
}

impl<I: Io> Egress<I> {
    /// Prepares a packet of a session with PROXY, before it is rewritten and leaves by `hop`. `mtu` is the next hop's,
    /// as the sender counts it, and `fragments` tells whether larger packets may be fragmented. Returns the new IP
    /// length.
    #[cold]
    pub(crate) fn proxied(
        &mut self,
        flows: &Flows,
        packet: &mut Packet<'_, I::Frame>,
        (found, hop): (Found, HopId),
        (mtu, fragments): (u16, bool),
    ) -> Result<(u16, Edit), ProxyRefusal> {
        let unchanged = Ok((packet.parsed.ip_len, Edit::Nothing));
        match (packet.parsed.protocol, found.direction) {
            (protocol::TCP, _) if packet.first.is_some() => {
                proxied_fragment(flows, packet, found).ok_or(ProxyRefusal::Drop(Reason::Fragment))?;
                unchanged
            }
            (protocol::TCP, Direction::Request) => self.proxied_request(flows, packet, (found, hop), mtu),
            (protocol::TCP, Direction::Reply) => {
                Ok((packet.parsed.ip_len, proxied_reply(flows, packet, found)))
            }
            (_, Direction::Request) => {
                let ip_len = self.proxied_datagram(flows, packet, found, (mtu, fragments))?;
                Ok((ip_len, Edit::Nothing))
            }
            (_, Direction::Reply) => unchanged,
        }
    }

    /// Refuses a packet.
    #[cold]
    pub(crate) fn not_proxied(
        &self,
        flows: &Flows,
        packet: Packet<'_, I::Frame>,
        refusal: ProxyRefusal,
    ) -> Carried<I::Frame> {
        match refusal {
            ProxyRefusal::Drop(reason) => self.dropped(packet.frame, reason),
            ProxyRefusal::TooBig(mtu) => too_big(flows, packet, mtu),
        }
    }

    fn proxied_datagram(
        &self,
        flows: &Flows,
        packet: &mut Packet<'_, I::Frame>,
        found: Found,
        (mtu, fragments): (u16, bool),
    ) -> Result<u16, ProxyRefusal> {
        let p = packet.parsed;
        let mut text = header_of(flows, found, p)?;
        if packet.first.is_some() {
            fill_up(&mut text);
        }
        let len = text.len() as u16;
        let longer = p.ip_len.checked_add(len).ok_or(ProxyRefusal::Drop(Reason::TooBig))?;
        // The rest of a fragmented datagram follows.
        let whole = UdpHeader::at(packet.frame.data(), p.l4.into()).map_or(usize::MAX, UdpHeader::len);
        if whole.saturating_add(text.len()) > usize::from(u16::MAX) {
            return Err(ProxyRefusal::Drop(Reason::TooBig));
        }
        // Nobody can be asked to send less than fits every IPv6 link.
        let small = p.ipv6 && usize::from(p.ip_len) <= MIN_MTU && p.is_bare();
        if longer > mtu && !fragments && !small {
            let least = if p.ipv6 { MIN_MTU as u16 } else { 0 };
            return Err(ProxyRefusal::TooBig(mtu.saturating_sub(len).max(least)));
        }
        if !insert(&mut packet.frame, p, &text) {
            return Err(ProxyRefusal::Drop(Reason::NoHeadroom));
        }
        self.counters.events.proxy_added.add(1);
        Ok(longer)
    }

    fn proxied_request(
        &mut self,
        flows: &Flows,
        packet: &mut Packet<'_, I::Frame>,
        (found, hop): (Found, HopId),
        mtu: u16,
    ) -> Result<(u16, Edit), ProxyRefusal> {
        let (p, frame) = (packet.parsed, &mut packet.frame);
        let segment = Segment::of(frame.data(), p).ok_or(ProxyRefusal::Drop(Reason::Truncated))?;
        let mut stream = flows.streams.get(found.id.0);
        if stream.is_weighed(&segment) && !transport_checksum_ok(frame, p) {
            return Err(ProxyRefusal::Drop(Reason::BadChecksum));
        }
        let syn = segment.flags & tcp::SYN != 0;
        let len = if syn { header_of(flows, found, p)?.len() as u8 } else { 0 };
        let step = stream.request(&segment, len, flows.now);
        let ip_len = match step {
            Step::Drop(reason) => return Err(ProxyRefusal::Drop(reason)),
            Step::Untold => {
                self.counters.events.proxy_skipped.add(1);
                p.ip_len
            }
            Step::Shifted(by) => {
                renumber(frame.data_mut(), p, Some(segment.sequence.wrapping_add(by)), None);
                return Ok((p.ip_len, Edit::Nothing));
            }
            Step::Bare => {
                without_payload(frame, p, segment.payload).ok_or(ProxyRefusal::Drop(Reason::Truncated))?
            }
            Step::Behind { start, cut } => {
                let p = begin_at(frame, p, start, cut).ok_or(ProxyRefusal::Drop(Reason::ProxyWaits))?;
                let ip_len = self.put_header(flows, (frame, &p), (found, hop), (start, mtu))?;
                stream.sent();
                ip_len
            }
        };
        Ok((ip_len, Edit::Stream(found.id, stream)))
    }

    /// Puts the header before a segment's payload, or sends it ahead. Returns the packet's new IP length.
    fn put_header(
        &mut self,
        flows: &Flows,
        (frame, p): (&mut I::Frame, &Parsed),
        (found, hop): (Found, HopId),
        (start, mtu): (u32, u16),
    ) -> Result<u16, ProxyRefusal> {
        let text = header_of(flows, found, p)?;
        let len = text.len() as u16;
        // An urgent pointer counts from the segment's beginning, and must not point into the header.
        let room = |longer: u16| longer <= mtu && flows.may_grow(p, found, longer.into());
        let fits = p.flags & tcp::URG == 0 && p.ip_len.checked_add(len).is_some_and(room);
        if fits && !insert(frame, p, &text) {
            return Err(ProxyRefusal::Drop(Reason::NoHeadroom));
        }
        self.counters.events.proxy_added.add(1);
        if fits {
            return Ok(p.ip_len + len);
        }
        self.send_header_ahead(flows, (frame, p), (found, hop), &text);
        renumber(frame.data_mut(), p, Some(start.wrapping_add(len.into())), None);
        Ok(p.ip_len)
    }

    /// Sends the header in its own packet, with the headers of `frame`.
    fn send_header_ahead(
        &mut self,
        flows: &Flows,
        (frame, p): (&I::Frame, &Parsed),
        (found, hop): (Found, HopId),
        text: &Text,
    ) {
        let Some(mut ahead) = self.io.alloc() else { return };
        let Some((header, _)) = frame.data().get(usize::from(p.l4)..).and_then(TcpHeader::split) else {
            return;
        };
        let end = usize::from(p.l4) + header.header_len();
        let Some(headers) = frame.data().get(..end) else { return };
        if !ahead.reset(end) {
            return;
        }
        ahead.data_mut().copy_from_slice(headers);
        let whole = usize::from(p.l3) + usize::from(p.ip_len);
        let payload = sum_over(frame, end, whole.saturating_sub(end));
        let mut bare = *p;
        bare.ip_len = (end - usize::from(p.l3)) as u16;
        bare.flags = header.flags & !(tcp::FIN | tcp::URG);
        shorten(ahead.data_mut(), p, &bare, payload.unwrap_or(Sum::ZERO));
        if insert(&mut ahead, &bare, text) {
            self.send_ahead(flows, ahead, &bare, (found, hop), bare.ip_len + text.len() as u16);
        }
    }

    /// Sends a packet that the gateway made for a session ahead of another packet.
    fn send_ahead(
        &mut self,
        flows: &Flows,
        mut frame: I::Frame,
        p: &Parsed,
        (found, hop): (Found, HopId),
        ip_len: u16,
    ) {
        let ready = match flows.sessions.get(found.id).is_some_and(Session::is_nat64) {
            true => self.translate_packet(flows, &mut frame, p, found, (ip_len, None)).is_some(),
            false => rewrite(flows, &mut frame, p, found),
        };
        if ready {
            self.leave_uncounted(flows, frame, hop);
        }
    }
}

/// Handles the first fragment of a segment. Nobody can verify the segment's checksum, so it changes nothing, and passes
/// only where that doesn't matter.
fn proxied_fragment<F: Frame>(flows: &Flows, packet: &mut Packet<'_, F>, found: Found) -> Option<()> {
    let (p, frame) = (packet.parsed, &mut packet.frame);
    let segment = Segment::of(frame.data(), p)?;
    let stream = flows.streams.get(found.id.0);
    let by = stream.piece(&segment, found.direction, flows.now)?;
    if found.direction == Direction::Reply {
        renumber_reply(frame.data_mut(), p, &segment, &stream);
    } else {
        renumber(frame.data_mut(), p, Some(segment.sequence.wrapping_add(by)), None);
    }
    Some(())
}

/// The PROXY header that the server gets with a packet.
fn header_of(flows: &Flows, found: Found, p: &Parsed) -> Result<Text, ProxyRefusal> {
    flows.header_for(found, p.protocol).ok_or(ProxyRefusal::Drop(Reason::NoSession))
}

/// Converts the server's acknowledgements to the client's count.
fn proxied_reply<F: Frame>(flows: &Flows, packet: &mut Packet<'_, F>, found: Found) -> Edit {
    let (p, frame) = (packet.parsed, &mut packet.frame);
    let Some(segment) = Segment::of(frame.data(), p) else { return Edit::Nothing };
    let mut stream = flows.streams.get(found.id.0);
    let mut edit = Edit::Nothing;
    if stream.would_change(&segment) && transport_checksum_ok(frame, p) {
        stream.reply(&segment);
        edit = Edit::Stream(found.id, stream);
    }
    renumber_reply(frame.data_mut(), p, &segment, &stream);
    edit
}

/// Converts a server's acknowledgements to the client's count. A SYN-ACK precedes any header.
fn renumber_reply(data: &mut [u8], p: &Parsed, segment: &Segment, stream: &Stream) {
    if segment.flags & (tcp::SYN | tcp::ACK) == tcp::ACK {
        renumber(data, p, None, Some(stream.back(segment.acknowledgement)));
        renumber_sack(data, p, stream);
    }
}

/// Removes a segment's payload. Returns the packet's new IP length.
fn without_payload(frame: &mut impl Frame, p: &Parsed, payload: u16) -> Option<u16> {
    if payload == 0 {
        return Some(p.ip_len);
    }
    let end = usize::from(p.l3) + usize::from(p.ip_len - payload);
    let sum = sum_over(frame, end, payload.into())?;
    let bare = Parsed { ip_len: p.ip_len - payload, ..*p };
    shorten(frame.data_mut(), p, &bare, sum);
    frame.truncate(end);
    Some(bare.ip_len)
}

/// Cuts `cut` bytes off the front of a segment's payload and sets its sequence number to `start`. Returns the new
/// packet; none if these bytes aren't in the first buffer.
fn begin_at(frame: &mut impl Frame, p: &Parsed, start: u32, cut: u16) -> Option<Parsed> {
    renumber(frame.data_mut(), p, Some(start), None);
    if cut == 0 {
        return Some(*p);
    }
    let (l4, cut_len) = (usize::from(p.l4), usize::from(cut));
    let end = l4 + TcpHeader::at(frame.data(), l4)?.header_len();
    if frame.data().len() < end + cut_len {
        return None;
    }
    frame.data_mut().copy_within(..end, cut_len);
    if !frame.trim_front(cut_len) {
        return None;
    }
    let shorter = Parsed { ip_len: p.ip_len.checked_sub(cut)?, ..*p };
    set_ip_len(frame.data_mut(), p, shorter.ip_len);
    // The checksum was correct and stays so. It is computed again because an odd number of bytes would shift all others
    // to the other half of their words.
    TcpHeader::at_mut(frame.data_mut(), l4)?.set_checksum(0);
    let check = transport_sum(frame, &shorter)?.checksum();
    TcpHeader::at_mut(frame.data_mut(), l4)?.set_checksum(check);
    Some(shorter)
}

/// Sets a segment's numbers.
fn renumber(data: &mut [u8], p: &Parsed, sequence: Option<u32>, acknowledgement: Option<u32>) {
    let Some((header, _)) = data.get_mut(usize::from(p.l4)..).and_then(TcpHeader::split_mut) else { return };
    let between =
        |old: u32, new: u32| Delta::from_sums(Sum::of(&old.to_be_bytes()), Sum::of(&new.to_be_bytes()));
    if let Some(new) = sequence {
        let delta = between(header.sequence(), new);
        header.set_sequence(new);
        header.set_checksum(delta.apply(header.checksum()));
    }
    if let Some(new) = acknowledgement {
        let delta = between(header.acknowledgement(), new);
        header.set_acknowledgement(new);
        header.set_checksum(delta.apply(header.checksum()));
    }
}

/// Converts the edges of SACK blocks back to the client's count.
fn renumber_sack(data: &mut [u8], p: &Parsed, stream: &Stream) {
    let Some(segment) = data.get_mut(usize::from(p.l4)..) else { return };
    let Some((header, _)) = TcpHeader::split(segment) else { return };
    let (end, check) = (header.header_len(), header.checksum());
    let Some(options) = segment.get_mut(TcpHeader::LEN..end) else { return };
    let before = Sum::of(options);
    renumber_edges(options, |number| stream.back(number));
    let delta = Delta::from_sums(before, Sum::of(options));
    if let Some((header, _)) = TcpHeader::split_mut(segment) {
        header.set_checksum(delta.apply(check));
    }
}

/// Converts the edges of SACK blocks to another count.
pub(crate) fn renumber_edges(options: &mut [u8], other: impl Fn(u32) -> u32) {
    toa::each_option(options, |kind, value| {
        if kind == SACK {
            for edge in value.as_chunks_mut::<4>().0 {
                *edge = other(u32::from_be_bytes(*edge)).to_be_bytes();
            }
        }
    });
}

/// Removes the payload, with the sum `payload`, from the lengths and checksums of the headers in `data`. `p` describes
/// the packet before, `bare` after, flags included.
fn shorten(data: &mut [u8], p: &Parsed, bare: &Parsed, payload: Sum) {
    set_ip_len(data, p, bare.ip_len);
    let transport = |p: &Parsed| p.ip_len - u16::from(p.l4 - p.l3);
    let Some((header, _)) = data.get_mut(usize::from(p.l4)..).and_then(TcpHeader::split_mut) else { return };
    let delta = Delta::from_sums(payload, Sum::ZERO)
        .and(Delta::word(transport(p), transport(bare)))
        .and(Delta::word(header.flags.into(), bare.flags.into()));
    header.flags = bare.flags;
    header.set_checksum(delta.apply(header.checksum()));
}

pub(crate) fn set_ip_len(data: &mut [u8], p: &Parsed, len: u16) {
    let l3 = usize::from(p.l3);
    if p.ipv6 {
        if let Some(ip) = Ipv6Header::at_mut(data, l3) {
            ip.set_payload_len(len - Ipv6Header::LEN as u16);
        }
    } else if let Some(ip) = Ipv4Header::at_mut(data, l3) {
        let delta = Delta::word(ip.total_len() as u16, len);
        ip.set_total_len(len);
        ip.set_checksum(delta.apply(ip.checksum()));
    }
}

/// Puts `text` in front of a packet's payload. Without room it returns false and leaves the frame unchanged.
fn insert(frame: &mut impl Frame, p: &Parsed, text: &[u8]) -> bool {
    let l4 = usize::from(p.l4);
    let header_len = match p.protocol {
        protocol::TCP => match frame.data().get(l4..).and_then(TcpHeader::split) {
            Some((header, _)) => header.header_len(),
            None => return false,
        },
        _ => UdpHeader::LEN,
    };
    let (end, added) = (l4 + header_len, text.len());
    if frame.data().len() < end || !frame.prepend(added) {
        return false;
    }
    // The padding of a short frame is no longer needed.
    frame.truncate(usize::from(p.l3) + usize::from(p.ip_len) + added);
    let data = frame.data_mut();
    data.copy_within(added..added + end, 0);
    data[end..end + added].copy_from_slice(text);
    let segment = p.ip_len - u16::from(p.l4 - p.l3);
    set_ip_len(data, p, p.ip_len + added as u16);
    // An odd length shifts all that follows to the other half of its words.
    let moved = added % 2 == 1;
    let transport = &mut data[l4..];
    if p.protocol == protocol::TCP {
        let Some((header, _)) = TcpHeader::split_mut(transport) else { return false };
        if moved {
            return resum_tcp(frame, p, added);
        }
        let delta =
            Delta::word(segment, segment + added as u16).and(Delta::from_sums(Sum::ZERO, Sum::of(text)));
        header.set_checksum(delta.apply(header.checksum()));
        return true;
    }
    let Some((header, _)) = UdpHeader::split_mut(transport) else { return false };
    let (old, new) = (header.len() as u16, header.len() as u16 + added as u16);
    header.set_len(new);
    if header.checksum() != 0 {
        // The checksum covers the length twice: in the header and in the pseudo-header.
        let length = Delta::word(old, new);
        let delta = length.and(length).and(Delta::from_sums(Sum::ZERO, Sum::of(text)));
        header.set_checksum(delta.apply_udp(header.checksum()));
    }
    true
}

/// Updates the checksum of a segment whose payload was shifted by an odd number of bytes. The sum of the old bytes is
/// swapped, so a wrong checksum stays wrong.
fn resum_tcp(frame: &mut impl Frame, p: &Parsed, added: usize) -> bool {
    let l4 = usize::from(p.l4);
    let Some((header, _)) = frame.data().get(l4..).and_then(TcpHeader::split) else { return false };
    let (header_len, old_check) = (header.header_len(), header.checksum());
    let segment = usize::from(p.ip_len) - usize::from(p.l4 - p.l3);
    let rest = segment - header_len;
    let after = l4 + header_len + added;
    let (Some(payload), Some(text)) =
        (sum_over(frame, after, rest), frame.data().get(l4 + header_len..after))
    else {
        return false;
    };
    let inserted = Sum::of(text);
    let (old_len, new_len) = (segment as u16, (segment + added) as u16);
    let delta = Delta::from_sums(payload, inserted.and(payload.swapped())).and(Delta::word(old_len, new_len));
    let Some((header, _)) = frame.data_mut().get_mut(l4..).and_then(TcpHeader::split_mut) else {
        return false;
    };
    header.set_checksum(delta.apply(old_check));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{io::memory::MemoryFrame, net::ethernet::Mac, path::ingress::parse};

    #[test]
    fn a_datagram_s_length_grows_in_any_case() {
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1])
            .ipv6([0x20; 16], [0x30; 16], 64)
            .udp(40000, 53)
            .write(&mut bytes, b"question")
            .unwrap();
        bytes[18..20].copy_from_slice(&20u16.to_be_bytes());
        bytes.extend([1, 2, 3, 4]);
        let mut frame = MemoryFrame::new(&bytes);
        let mut p = Parsed::NOTHING;
        parse::parse(&frame, Mac([2, 0, 0, 0, 0, 1]), &mut p);
        assert!(insert(&mut frame, &p, &[7; 52]));
        parse::parse(&frame, Mac([2, 0, 0, 0, 0, 1]), &mut p);
        assert_eq!((p.ip_len, UdpHeader::at(frame.data(), 54).unwrap().len()), (40 + 72, 8 + 52 + 8));
        assert!(transport_checksum_ok(&frame, &p));
    }

    #[test]
    fn what_is_cut_off_the_front_has_to_be_in_the_first_buffer() {
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1])
            .ipv4([10, 1, 0, 1], [192, 0, 2, 1], 64)
            .tcp(40000, 80, 1000, 2)
            .ack(5)
            .write(&mut bytes, b"0123456789")
            .unwrap();
        let mut p = Parsed::NOTHING;
        for (first, cut, kept) in
            [(64, 10, true), (60, 6, true), (60, 7, false), (55, 1, true), (54, 1, false)]
        {
            let mut frame = MemoryFrame::chained(&[&bytes[..first], &bytes[first..]]);
            parse::parse(&frame, Mac([2, 0, 0, 0, 0, 1]), &mut p);
            let shorter = begin_at(&mut frame, &p, 1000 + u32::from(cut), cut);
            assert_eq!(shorter.is_some(), kept, "{cut} of {first}");
            if let Some(shorter) = shorter {
                assert!(transport_checksum_ok(&frame, &shorter));
                assert_eq!(frame.bytes()[54..], bytes[54 + usize::from(cut)..]);
            }
        }
    }
}
