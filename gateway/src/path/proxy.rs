//! PROXY protocol: a header in front of a client's stream, or of each datagram, tells a FULLNAT server the client's
//! address (HAProxy, "The PROXY protocol, versions 1 & 2").
//!
//! ```text
//! client        seq n+1 ..                 n: the client's initial sequence number
//! server        seq n+1 [header] n+1+H ..  H: the header's length
//! ```
//!
//! The header goes where the client's first byte would be, with the first segment that acknowledges the server's SYN,
//! data or not: servers that speak first get it, too. Until the server has acknowledged it, every segment of the client
//! that begins there brings it again, so that whatever makes the client send again makes up for a lost header. What
//! comes behind is H further on in the server's count: the client's sequence numbers, the server's acknowledgements, the
//! edges of its SACK blocks, and the sequence number that an ICMP error quotes. Where header and data don't fit into one
//! packet the header goes ahead in its own.
//!
//! A session that does this never remembers its next hops, so that none of its packets takes the straight way.

use std::{io::Write as _, net::IpAddr};

use arrayvec::ArrayVec;
use weirctl::model::ClientAddress;

use super::{
    Worker,
    parse::Parsed,
    sums::{sum_over, transport_checksum_ok},
    toa,
    verdict::Reason,
};
use crate::{
    io::{Frame, Io, PortId},
    net::{
        Header,
        checksum::{Delta, Sum},
        icmp::IcmpHeader,
        ipv4::Ipv4Header,
        ipv6::Ipv6Header,
        protocol, tcp,
        tcp::TcpHeader,
        udp::UdpHeader,
    },
    table::{ends::Ends, session::Direction, sessions::Found},
};

/// The longest header of version 1: `PROXY TCP6`, two addresses, two ports.
const LONGEST: usize = 107;
/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
/// Kind of the option with SACK blocks (RFC 2018).
const SACK: u8 = 5;

/// A header.
type Text = ArrayVec<u8, LONGEST>;

/// The header that tells of a packet between these ends; none where the version has no such.
fn header(version: ClientAddress, ends: &Ends, protocol: u8) -> Option<Text> {
    let mut text = Text::new();
    let Ends { source: (from, sport), destination: (to, dport) } = *ends;
    match version {
        ClientAddress::ProxyV1 if protocol == protocol::TCP => {
            let family = if ends.is_ipv6() { 6 } else { 4 };
            write!(text, "PROXY TCP{family} {from} {to} {sport} {dport}\r\n").ok()?;
        }
        ClientAddress::ProxyV2 => {
            let (family, len) = if ends.is_ipv6() { (0x20, 36u16) } else { (0x10, 12) };
            let kind = family | if protocol == protocol::TCP { 1 } else { 2 };
            text.try_extend_from_slice(&SIGNATURE).ok()?;
            text.try_extend_from_slice(&[PROXY, kind]).ok()?;
            text.try_extend_from_slice(&len.to_be_bytes()).ok()?;
            for address in [from, to] {
                match address {
                    IpAddr::V4(a) => text.try_extend_from_slice(&a.octets()).ok()?,
                    IpAddr::V6(a) => text.try_extend_from_slice(&a.octets()).ok()?,
                }
            }
            for port in [sport, dport] {
                text.try_extend_from_slice(&port.to_be_bytes()).ok()?;
            }
        }
        _ => return None,
    }
    Some(text)
}

/// What is known of a session's stream; no header yet before the client's SYN has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stream {
    /// Where the header is: one more than the client's initial sequence number.
    start: u32,
    /// The header's length.
    len: u8,
    v1: bool,
    sent: bool,
    acknowledged: bool,
}

impl Stream {
    fn unpack(word: u64) -> Option<Self> {
        let len = (word >> 32) as u8;
        let flag = |bit: u32| word >> bit & 1 != 0;
        let stream = Self { start: word as u32, len, v1: flag(40), sent: flag(41), acknowledged: flag(42) };
        (len != 0).then_some(stream)
    }

    fn pack(self) -> u64 {
        u64::from(self.start)
            | u64::from(self.len) << 32
            | u64::from(self.v1) << 40
            | u64::from(self.sent) << 41
            | u64::from(self.acknowledged) << 42
    }

    /// A sequence number of the client's as the server counts.
    fn forth(self, sequence: u32) -> u32 {
        let behind = sequence.wrapping_sub(self.start) as i32 > 0;
        if self.acknowledged || behind { sequence.wrapping_add(self.len.into()) } else { sequence }
    }

    /// One of the server's count as the client counts.
    fn back(self, number: u32) -> u32 {
        match number.wrapping_sub(self.start) as i32 {
            ..=0 => number,
            into if into < i32::from(self.len) => self.start,
            _ => number.wrapping_sub(self.len.into()),
        }
    }
}

/// The streams of all sessions. The memory isn't touched before a session of a service with PROXY is opened.
pub(super) struct Streams(Vec<u64>);

impl Streams {
    /// Room for the sessions of a worker.
    pub fn new(sessions: usize) -> Self {
        Self(vec![0; sessions])
    }

    /// Forgets what an earlier session in the same place left.
    pub fn forget(&mut self, session: u32, v1: bool) {
        // Nothing but the version: without length there is no stream.
        let word = Stream { v1, ..Stream::default() }.pack();
        self.0.get_mut(session as usize).into_iter().for_each(|place| *place = word);
    }

    fn get(&self, session: u32) -> Option<Stream> {
        self.0.get(session as usize).and_then(|&word| Stream::unpack(word))
    }

    fn version(&self, session: u32) -> ClientAddress {
        let v1 = self.0.get(session as usize).is_some_and(|word| word >> 40 & 1 != 0);
        if v1 { ClientAddress::ProxyV1 } else { ClientAddress::ProxyV2 }
    }

    fn set(&mut self, session: u32, stream: Stream) {
        self.0.get_mut(session as usize).into_iter().for_each(|word| *word = stream.pack());
    }
}

/// Why a packet of a session with PROXY isn't sent.
enum Refusal {
    Drop(Reason),
    /// With the header it would exceed this MTU, as the sender counts.
    TooBig(u16),
}

impl<I: Io> Worker<I> {
    /// Takes a packet of a session with PROXY, before it is rewritten. `mtu` is the next hop's, as the sender counts, and
    /// `fragments` whether what exceeds it may be fragmented. The frame and its IP length from now on, if it is to be
    /// sent.
    #[cold]
    pub(super) fn proxied(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        found: Found,
        (mtu, fragments): (u16, bool),
    ) -> Option<(I::Frame, u16)> {
        let done = match (p.protocol, found.direction) {
            // A header in a fragment would move all others.
            _ if self.fragment_id.is_some() => Err(Refusal::Drop(Reason::Fragment)),
            (protocol::TCP, Direction::Request) => self.proxied_request(&mut frame, p, found, mtu),
            (protocol::TCP, Direction::Reply) => {
                self.proxied_reply(&mut frame, p, found);
                Ok(p.ip_len)
            }
            (_, Direction::Request) => self.proxied_datagram(&mut frame, p, found, (mtu, fragments)),
            (_, Direction::Reply) => Ok(p.ip_len),
        };
        match done {
            Ok(ip_len) => return Some((frame, ip_len)),
            Err(Refusal::Drop(reason)) => self.drop_frame(frame, reason),
            Err(Refusal::TooBig(mtu)) => self.answer_too_big(port, frame, p, mtu),
        }
        None
    }

    fn header_of(&self, found: Found, p: &Parsed) -> Result<Text, Refusal> {
        let ends = self.sessions.arriving(found.id, Direction::Request);
        let text = ends.and_then(|ends| header(self.streams.version(found.id.0), &ends, p.protocol));
        text.ok_or(Refusal::Drop(Reason::NoSession))
    }

    fn proxied_datagram(
        &mut self,
        frame: &mut I::Frame,
        p: &Parsed,
        found: Found,
        (mtu, fragments): (u16, bool),
    ) -> Result<u16, Refusal> {
        let text = self.header_of(found, p)?;
        let len = text.len() as u16;
        let longer = p.ip_len.checked_add(len).ok_or(Refusal::Drop(Reason::TooBig))?;
        if longer > mtu && !fragments {
            return Err(Refusal::TooBig(mtu.saturating_sub(len)));
        }
        if !insert(frame, p, &text) {
            return Err(Refusal::Drop(Reason::NoHeadroom));
        }
        self.counters.events.proxy_added.add(1);
        Ok(longer)
    }

    fn proxied_request(
        &mut self,
        frame: &mut I::Frame,
        p: &Parsed,
        found: Found,
        mtu: u16,
    ) -> Result<u16, Refusal> {
        let header = frame.data().get(usize::from(p.l4)..).and_then(TcpHeader::split);
        let (header, _) = header.ok_or(Refusal::Drop(Reason::Truncated))?;
        let (sequence, flags) = (header.sequence(), header.flags);
        if flags & tcp::SYN != 0 {
            let text = self.header_of(found, p)?;
            let v1 = self.streams.version(found.id.0) == ClientAddress::ProxyV1;
            let start = sequence.wrapping_add(1);
            let stream = Stream { start, len: text.len() as u8, v1, sent: false, acknowledged: false };
            self.streams.set(found.id.0, stream);
            return Ok(p.ip_len);
        }
        let Some(stream) = self.streams.get(found.id.0) else {
            // Opened in the middle of a connection: nobody knows where its stream begins.
            self.counters.events.proxy_skipped.add(1);
            return Ok(p.ip_len);
        };
        let begins = sequence == stream.start && !stream.acknowledged;
        if !begins || flags & (tcp::ACK | tcp::RST) != tcp::ACK {
            let reset = begins && stream.sent && flags & tcp::RST != 0;
            let new = if reset { sequence.wrapping_add(stream.len.into()) } else { stream.forth(sequence) };
            renumber(frame.data_mut(), p, Some(new), None);
            return Ok(p.ip_len);
        }
        let text = self.header_of(found, p)?;
        let len = text.len() as u16;
        let fits = p.ip_len.checked_add(len).is_some_and(|longer| longer <= mtu);
        if fits && !insert(frame, p, &text) {
            return Err(Refusal::Drop(Reason::NoHeadroom));
        }
        self.streams.set(found.id.0, Stream { sent: true, ..stream });
        self.counters.events.proxy_added.add(1);
        if fits {
            return Ok(p.ip_len + len);
        }
        self.send_header_ahead(frame, p, found, &text);
        renumber(frame.data_mut(), p, Some(sequence.wrapping_add(stream.len.into())), None);
        Ok(p.ip_len)
    }

    /// Sends the header in a packet of its own, with the headers of `frame`.
    fn send_header_ahead(&mut self, frame: &I::Frame, p: &Parsed, found: Found, text: &Text) {
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
        let fins = header.flags & !tcp::FIN;
        shorten(ahead.data_mut(), p, &bare, payload.unwrap_or(Sum::ZERO), fins);
        bare.flags = fins;
        if insert(&mut ahead, &bare, text) {
            self.send_ahead(ahead, &bare, found, bare.ip_len + text.len() as u16);
        }
    }

    /// What the server acknowledges, as the client counts.
    fn proxied_reply(&mut self, frame: &mut I::Frame, p: &Parsed, found: Found) {
        let Some(stream) = self.streams.get(found.id.0) else { return };
        let Some((header, _)) = frame.data().get(usize::from(p.l4)..).and_then(TcpHeader::split) else {
            return;
        };
        if !header.has(tcp::ACK) {
            return;
        }
        let number = header.acknowledgement();
        let covers = number.wrapping_sub(stream.start) as i32 >= i32::from(stream.len);
        if covers && !stream.acknowledged && transport_checksum_ok(frame, p) {
            self.streams.set(found.id.0, Stream { acknowledged: true, ..stream });
        }
        renumber(frame.data_mut(), p, None, Some(stream.back(number)));
        renumber_sack(frame.data_mut(), p, stream);
    }

    /// Gives the sequence number that an ICMP error quotes back to the client's count.
    pub(super) fn unproxy_quote(&self, data: &mut [u8], p: &Parsed, found: Found, transport_at: usize) {
        let proxied = self.sessions.get(found.id).is_some_and(|s| s.is_proxied());
        if !proxied || found.direction == Direction::Request {
            return;
        }
        let Some(stream) = self.streams.get(found.id.0) else { return };
        let l4 = usize::from(p.l4);
        let Some(quoted) = data.get_mut(l4 + IcmpHeader::LEN + transport_at..) else { return };
        let Some(field) = quoted.get_mut(4..).and_then(|b| b.first_chunk_mut::<4>()) else { return };
        let new = stream.back(u32::from_be_bytes(*field)).to_be_bytes();
        let mut delta = Delta::from_sums(Sum::of(field), Sum::of(&new));
        *field = new;
        if let Some(check) = quoted.get_mut(tcp::CHECKSUM_AT..).and_then(|b| b.first_chunk_mut::<2>()) {
            // The quoted checksum, which counts in the error's as well.
            let (old, new) = (u16::from_be_bytes(*check), delta.apply(u16::from_be_bytes(*check)));
            *check = new.to_be_bytes();
            delta = delta.and(Delta::word(old, new));
        }
        if let Some(icmp) = IcmpHeader::at_mut(data, l4) {
            icmp.set_checksum(delta.apply(icmp.checksum()));
        }
    }
}

/// Gives a segment other numbers.
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

/// Gives the edges of SACK blocks back to the client's count.
fn renumber_sack(data: &mut [u8], p: &Parsed, stream: Stream) {
    let Some(segment) = data.get_mut(usize::from(p.l4)..) else { return };
    let Some((header, _)) = TcpHeader::split(segment) else { return };
    let (end, check) = (header.header_len(), header.checksum());
    let Some(options) = segment.get_mut(TcpHeader::LEN..end) else { return };
    let before = Sum::of(options);
    toa::each_option(options, |kind, value| {
        if kind == SACK {
            for edge in value.as_chunks_mut::<4>().0 {
                *edge = stream.back(u32::from_be_bytes(*edge)).to_be_bytes();
            }
        }
    });
    let delta = Delta::from_sums(before, Sum::of(options));
    if let Some((header, _)) = TcpHeader::split_mut(segment) {
        header.set_checksum(delta.apply(check));
    }
}

/// Takes the payload, which sums to `payload`, out of the account of the headers in `data`: of what was `p` and is
/// `bare` now, with these flags.
fn shorten(data: &mut [u8], p: &Parsed, bare: &Parsed, payload: Sum, flags: u8) {
    set_ip_len(data, p, bare.ip_len);
    let transport = |p: &Parsed| p.ip_len - u16::from(p.l4 - p.l3);
    let Some((header, _)) = data.get_mut(usize::from(p.l4)..).and_then(TcpHeader::split_mut) else { return };
    let delta = Delta::from_sums(payload, Sum::ZERO)
        .and(Delta::word(transport(p), transport(bare)))
        .and(Delta::word(header.flags.into(), flags.into()));
    header.flags = flags;
    header.set_checksum(delta.apply(header.checksum()));
}

fn set_ip_len(data: &mut [u8], p: &Parsed, len: u16) {
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

/// Puts `text` in front of a packet's payload. False, and the frame as it was, without room.
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
    let data = frame.data_mut();
    data.copy_within(added..added + end, 0);
    data[end..end + added].copy_from_slice(text);
    let segment = p.ip_len - u16::from(p.l4 - p.l3);
    set_ip_len(data, p, p.ip_len + added as u16);
    // An odd length moves all that follows to the other half of its words.
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
    let longer = segment + added as u16;
    header.set_len(longer);
    if header.checksum() != 0 {
        // The length counts in the header and in the pseudo-header.
        let length = Delta::word(segment, longer);
        let delta = length.and(length).and(Delta::from_sums(Sum::ZERO, Sum::of(text)));
        header.set_checksum(delta.apply_udp(header.checksum()));
    }
    true
}

/// The checksum of a segment whose payload moved by an odd number of bytes: what was covered before is swapped, so the
/// old checksum still tells whether it was right.
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

    fn ends(v6: bool) -> Ends {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (from, to) = if v6 { ("2001:db8::1", "2001:db8::2") } else { ("192.0.2.1", "198.51.100.2") };
        Ends { source: (address(from), 56324), destination: (address(to), 443) }
    }

    #[test]
    fn headers_are_the_specification_s() {
        let v1 = |v6| header(ClientAddress::ProxyV1, &ends(v6), protocol::TCP).unwrap();
        assert_eq!(&v1(false)[..], b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n");
        assert_eq!(&v1(true)[..], b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n");
        let v2 = header(ClientAddress::ProxyV2, &ends(false), protocol::TCP).unwrap();
        let expected: &[u8] =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb";
        assert_eq!(&v2[..], expected);
        let datagram = header(ClientAddress::ProxyV2, &ends(true), protocol::UDP).unwrap();
        assert_eq!((datagram.len(), datagram[13], &datagram[14..16]), (52, 0x22, &[0, 36][..]));
        assert_eq!(header(ClientAddress::ProxyV1, &ends(false), protocol::UDP), None);
        let far = |text: &str| (text.parse().unwrap(), 65535);
        let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = Ends { source: far(long), destination: far(long) };
        assert_eq!(header(ClientAddress::ProxyV1, &longest, protocol::TCP).unwrap().len(), 104);
    }

    #[test]
    fn numbers_go_there_and_back() {
        for start in [1001, u32::MAX - 5, 0] {
            let stream = Stream { start, len: 28, v1: false, sent: true, acknowledged: false };
            assert_eq!(Stream::unpack(stream.pack()), Some(stream));
            let at = |n: u32| start.wrapping_add(n);
            assert_eq!((stream.forth(at(0)), stream.forth(at(1))), (at(0), at(29)));
            assert_eq!(stream.forth(start.wrapping_sub(1)), start.wrapping_sub(1));
            assert_eq!((stream.back(at(0)), stream.back(at(5)), stream.back(at(28))), (at(0), at(0), at(0)));
            assert_eq!((stream.back(at(29)), stream.back(at(500))), (at(1), at(472)));
            let told = Stream { acknowledged: true, ..stream };
            assert_eq!(told.forth(at(0)), at(28));
        }
        assert_eq!(Stream::unpack(Stream { v1: true, ..Stream::default() }.pack()), None);
    }
}
