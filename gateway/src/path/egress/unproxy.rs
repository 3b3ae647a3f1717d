//! ICMP errors that quote a packet of a session with PROXY: the receiver gets a quote of the packet as it sent it.
//!
//! ```text
//! sent     ip | udp, tcp |          | data
//! quoted   ip | udp, tcp | header   | data, as far as it is quoted
//! ```
//!
//! In a quoted client packet, the header is removed, also from lengths and checksums, and sequence numbers are
//! converted to the client's count. In a quoted server packet, the acknowledgement and SACK blocks are converted to the
//! server's count.

use super::proxy::{renumber_edges, set_ip_len};
use crate::{
    io::Frame,
    net::{
        Header,
        checksum::{Delta, Sum},
        icmp::IcmpHeader,
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
        protocol,
        tcp::{self, TcpHeader},
        udp::UdpHeader,
    },
    path::{
        flow::{
            Flows,
            proxy_header::{Text, fill_up},
            stream::Stream,
        },
        ingress::parse::Parsed,
    },
    table::{
        session::{Direction, Session},
        sessions::Found,
    },
};

/// A header in a quoted packet.
struct Quoted {
    text: Text,
    /// The offset of the transport header in the quote, and its length.
    transport: (usize, usize),
    protocol: u8,
}

/// Turns the quote of an error about a session with PROXY into the packet that the error's receiver sent, except for
/// addresses and ports. Returns the new error.
pub(crate) fn unproxy_quote(
    flows: &Flows,
    frame: &mut impl Frame,
    p: &Parsed,
    found: Found,
    transport_at: usize,
) -> Parsed {
    let session = flows.sessions.get(found.id).filter(|s| s.is_proxied());
    let Some(protocol) = session.map(Session::protocol) else { return *p };
    let quote = frame.data().get(usize::from(p.l4) + IcmpHeader::LEN..).unwrap_or_default();
    if let Some(quoted) = quoted_header(flows, quote, found, (transport_at, protocol)) {
        return without_header(frame, p, &quoted).unwrap_or(*p);
    }
    if protocol == protocol::TCP {
        renumber_quote(flows, frame.data_mut(), p, found, transport_at);
    }
    *p
}

/// The PROXY header in a quote of a client's packet, if the packet begins with one as far as it is quoted.
fn quoted_header(
    flows: &Flows,
    quote: &[u8],
    found: Found,
    (transport_at, protocol): (usize, u8),
) -> Option<Quoted> {
    let transport = quote.get(transport_at..).filter(|_| found.direction == Direction::Reply)?;
    let mut text = flows.header_for(found, protocol)?;
    let headers = match protocol {
        protocol::TCP => {
            let sequence = transport.get(4..)?.first_chunk().map(|b| u32::from_be_bytes(*b))?;
            let begins = sequence == flows.streams.get(found.id.0).start();
            let len = transport.get(12).map_or(TcpHeader::LEN, |offset| usize::from(offset >> 4) * 4);
            begins.then_some(len)?
        }
        _ => UdpHeader::LEN,
    };
    let there = transport.get(headers..).unwrap_or_default();
    let begins = |text: &Text| there.iter().zip(text).all(|(a, b)| a == b);
    if !begins(&text) && protocol == protocol::UDP {
        fill_up(&mut text);
    }
    let holds = total_len(quote)? >= transport_at + headers + text.len();
    (holds && begins(&text)).then_some(Quoted { text, transport: (transport_at, headers), protocol })
}

/// Converts the numbers of the client's stream in an error's quote to the other side's count: the sequence number of a
/// client's segment, or the acknowledgement of a server's, SACK blocks included.
fn renumber_quote(flows: &Flows, data: &mut [u8], p: &Parsed, found: Found, transport_at: usize) {
    let l4 = usize::from(p.l4);
    let Some(quoted) = data.get_mut(l4 + IcmpHeader::LEN + transport_at..) else { return };
    let before = Sum::of(quoted);
    requote(quoted, &flows.streams.get(found.id.0), found.direction);
    let delta = Delta::from_sums(before, Sum::of(quoted));
    if let Some(icmp) = IcmpHeader::at_mut(data, l4) {
        icmp.set_checksum(delta.apply(icmp.checksum()));
    }
}

/// Sets the numbers of a quoted segment, as far as it is quoted, to the count of the error's receiver, and updates its
/// checksum.
fn requote(quoted: &mut [u8], stream: &Stream, direction: Direction) {
    let from_server = direction == Direction::Reply;
    let other = |number: u32| if from_server { stream.back(number) } else { stream.forth(number) };
    let at = if from_server { 4 } else { 8 };
    let Some(field) = quoted.get_mut(at..).and_then(|b| b.first_chunk_mut::<4>()) else { return };
    let before = Sum::of(field);
    *field = other(u32::from_be_bytes(*field)).to_be_bytes();
    let mut delta = Delta::from_sums(before, Sum::of(field));
    let header_len = quoted.get(12).map_or(0, |offset| usize::from(offset >> 4) * 4);
    let end = header_len.min(quoted.len());
    if !from_server && let Some(options) = quoted.get_mut(TcpHeader::LEN..end) {
        let before = Sum::of(options);
        renumber_edges(options, other);
        delta = delta.and(Delta::from_sums(before, Sum::of(options)));
    }
    if let Some(check) = quoted.get_mut(tcp::CHECKSUM_AT..).and_then(|b| b.first_chunk_mut::<2>()) {
        *check = delta.apply(u16::from_be_bytes(*check)).to_be_bytes();
    }
}

/// The length field of a quoted packet.
fn total_len(quote: &[u8]) -> Option<usize> {
    match quote.first()? >> 4 {
        6 => Ipv6Header::at(quote, 0).map(Ipv6Header::total_len),
        _ => Ipv4Header::at(quote, 0).map(Ipv4Header::total_len),
    }
}

/// Removes the PROXY header from an error's quote. Returns the new error; none, with the frame unchanged, if this isn't
/// possible.
fn without_header(frame: &mut impl Frame, p: &Parsed, quoted: &Quoted) -> Option<Parsed> {
    let (l3, l4) = (usize::from(p.l3), usize::from(p.l4));
    let message = frame.data_mut().get_mut(l4..l3 + usize::from(p.ip_len))?;
    let (before, old_len) = (Sum::of(message), message.len());
    shorten_quote(message.get_mut(IcmpHeader::LEN..)?, p.ipv6, quoted)?;
    let end = end_of_quote(message, p.ipv6);
    let (transport_at, headers) = quoted.transport;
    let from = IcmpHeader::LEN + transport_at + headers;
    let cut = quoted.text.len().min(end.saturating_sub(from));
    if cut != 0 {
        message.copy_within(from + cut..end, from);
    }
    let len = end - cut;
    let mut delta = Delta::from_sums(before, Sum::of(message.get(..len)?));
    if p.ipv6 {
        delta = delta.and(Delta::word(old_len as u16, len as u16));
    }
    let icmp = IcmpHeader::at_mut(message, 0)?;
    icmp.set_checksum(delta.apply(icmp.checksum()));
    let shorter = Parsed { ip_len: (l4 - l3 + len) as u16, ..*p };
    set_ip_len(frame.data_mut(), p, shorter.ip_len);
    frame.truncate(l3 + usize::from(shorter.ip_len));
    Some(shorter)
}

/// The end of the quote in an error that may have extensions behind it (RFC 4884). Their position depends on the
/// quote's length, so they are removed.
fn end_of_quote(message: &mut [u8], ipv6: bool) -> usize {
    let (at, unit) = if ipv6 { (4, 8) } else { (5, 4) };
    let whole = message.len();
    // In ICMPv6's packet too big and parameter problem, all four bytes are one number.
    let has = message.first().is_some_and(|kind| !ipv6 || matches!(kind, 1 | 3));
    let Some(length) = message.get_mut(at).filter(|length| has && **length != 0) else { return whole };
    let end = IcmpHeader::LEN + usize::from(*length) * unit;
    *length = 0;
    end.min(whole)
}

/// Removes the header from the lengths and checksums of a quoted packet.
fn shorten_quote(quote: &mut [u8], ipv6: bool, quoted: &Quoted) -> Option<()> {
    let (transport_at, headers) = quoted.transport;
    let added = quoted.text.len() as u16;
    let addresses = Sum::of(quote.get(if ipv6 { 8..40 } else { 12..20 })?);
    let total = total_len(quote)?;
    let segment = total.checked_sub(transport_at)? as u16;
    let transport = quote.get_mut(transport_at..)?;
    match quoted.protocol {
        protocol::TCP => shorten_segment(transport, (segment, headers), &quoted.text, addresses)?,
        _ => shorten_datagram(transport, &quoted.text)?,
    }
    if ipv6 {
        let len = total.checked_sub(Ipv6Header::LEN)? as u16;
        Ipv6Header::at_mut(quote, 0)?.set_payload_len(len.checked_sub(added)?);
        return Some(());
    }
    let ip = Ipv4Header::at_mut(quote, 0)?;
    let len = (total as u16).checked_sub(added)?;
    ip.set_total_len(len);
    ip.set_checksum(Delta::word(total as u16, len).apply(ip.checksum()));
    Some(())
}

fn shorten_datagram(transport: &mut [u8], text: &Text) -> Option<()> {
    let (header, _) = UdpHeader::split_mut(transport)?;
    let old = header.len() as u16;
    let new = old.checked_sub(text.len() as u16).filter(|&len| usize::from(len) >= UdpHeader::LEN)?;
    header.set_len(new);
    if header.checksum() != 0 {
        // The checksum covers the length twice: in the header and in the pseudo-header.
        let length = Delta::word(old, new);
        let delta = length.and(length).and(Delta::from_sums(Sum::of(text), Sum::ZERO));
        header.set_checksum(delta.apply_udp(header.checksum()));
    }
    Some(())
}

/// `len` is the segment's length, `headers` that of its header.
fn shorten_segment(
    transport: &mut [u8],
    (len, headers): (u16, usize),
    text: &Text,
    addresses: Sum,
) -> Option<()> {
    let new_len = len.checked_sub(text.len() as u16)?;
    let Some(header) = transport.get_mut(..headers) else {
        // Only the ports and the sequence number are quoted.
        return Some(());
    };
    let field = header.get_mut(tcp::CHECKSUM_AT..)?.first_chunk_mut::<2>()?;
    let check = u16::from_be_bytes(std::mem::take(field));
    let around = |len: u16| addresses.word(protocol::TCP.into()).word(len);
    // The part of the checksum that doesn't cover the client's data. An odd header length has shifted the data to the
    // other half of words.
    let known = around(len).and(Sum::of(header)).and(Sum::of(text));
    let data = Sum::ZERO.word(!check).word(!known.fold());
    let data = if text.len() % 2 == 1 { data.swapped() } else { data };
    let check = around(new_len).and(Sum::of(header)).and(data).checksum();
    *header.get_mut(tcp::CHECKSUM_AT..)?.first_chunk_mut::<2>()? = check.to_be_bytes();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{io::memory::MemoryFrame, net::ethernet::Mac, path::ingress::parse};

    /// An error that quotes `quoted` in 128 bytes, followed by an extension of 8 bytes.
    fn extended(quoted: &[u8]) -> (MemoryFrame, Parsed) {
        let mut icmp = [&[11, 0, 0, 0, 0, 32, 0, 0], quoted].concat();
        icmp.resize(IcmpHeader::LEN + 128, 0);
        icmp.extend([0x20, 0, 0, 0, 0, 8, 1, 1]);
        let check = Sum::of(&icmp).checksum();
        icmp[2..4].copy_from_slice(&check.to_be_bytes());
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1])
            .ipv4([10, 0, 0, 99], [10, 0, 0, 240], 64)
            .write(&mut bytes, etherparse::IpNumber::ICMP, &icmp)
            .unwrap();
        let frame = MemoryFrame::new(&bytes);
        let mut p = Parsed::NOTHING;
        parse::parse(&frame, Mac([2, 0, 0, 0, 0, 1]), &mut p);
        (frame, p)
    }

    #[test]
    fn lengths_are_what_the_client_sent_and_extensions_go() {
        let text = Text::try_from(&[7; 28][..]).unwrap();
        let mut quoted = Vec::new();
        let payload = [&text[..], &[1; 300]].concat();
        etherparse::PacketBuilder::ipv4([10, 0, 0, 240], [10, 0, 0, 1], 64)
            .udp(40000, 53)
            .write(&mut quoted, &payload)
            .unwrap();
        let (mut frame, p) = extended(&quoted[..128]);
        let header = Quoted { text, transport: (20, 8), protocol: protocol::UDP };
        let shorter = without_header(&mut frame, &p, &header).unwrap();
        assert_eq!((shorter.ip_len, frame.bytes().len()), (20 + 8 + 100, 14 + 20 + 8 + 100));
        let icmp = &frame.bytes()[34..];
        assert_eq!((icmp[5], Sum::of(icmp).checksum()), (0, 0));
        let (ip, udp) = (Ipv4Header::at(icmp, 8).unwrap(), UdpHeader::at(icmp, 28).unwrap());
        assert_eq!((ip.total_len(), udp.len(), Sum::of(&icmp[8..28]).checksum()), (328, 308, 0));
        assert!(icmp[36..].iter().all(|byte| *byte == 1));
    }
}
