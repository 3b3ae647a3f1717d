//! Stage 2: parses a frame.
//!
//! Reads the headers once and keeps what the later stages need in a few words, so that they don't go back to the frame
//! before it is rewritten. Parsing never changes a frame.

use super::sctp_event;
use crate::{
    io::Frame,
    net::{
        Header, Malformed,
        ethernet::{EthernetHeader, Mac, ether_type},
        icmp::{self, IcmpHeader},
        ipv4::{self, Ipv4Header},
        ipv6::{self, Ipv6Header},
        protocol,
        sctp::SctpHeader,
        tcp, udp,
    },
    path::verdict::Reason,
    table::{
        endpoints::{Endpoints, Pair},
        session::Tuple,
    },
};

/// How to handle a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP or UDP over IPv4: look for its session.
    Transport,
    /// TCP or UDP over IPv6: look for its session.
    TransportV6,
    /// SCTP, of either family: look for its session.
    Sctp,
    /// An ICMP error that may be about a session.
    IcmpError,
    /// An ICMP echo request or reply. Its identifier serves as the source port of a request and the destination port of
    /// a reply.
    Echo,
    /// A fragment of an IP packet.
    Fragment,
    /// IP with another protocol: for the kernel, unless a service claims it.
    OtherIp,
    /// ARP and everything else: for the kernel.
    Host,
    /// IP of any protocol in a frame to a group of stations: only the kernel may take it.
    Group,
    /// Must be dropped.
    Bad(Reason),
}

/// A summary of a frame's headers.
#[derive(Clone, Copy, Debug)]
pub struct Parsed {
    /// Addresses and, for [`Kind::Transport`], ports. For IPv6 it has only the ports until the stage `session` adds
    /// digests of the addresses: see [`crate::table::endpoints`].
    pub tuple: Tuple,
    /// How to handle it.
    pub kind: Kind,
    /// IP total length.
    pub ip_len: u16,
    /// Offset of the IP header.
    pub l3: u8,
    /// Offset of the transport header.
    pub l4: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags; for SCTP the event ([`crate::path::flow::sctp_state`]); 0 for other protocols.
    pub flags: u8,
    /// The TTL on arrival.
    pub ttl: u8,
    /// Whether DF is set; always true for IPv6, where routers don't fragment.
    pub dont_fragment: bool,
    /// Whether it is IPv6.
    pub ipv6: bool,
}

impl Parsed {
    const fn of(kind: Kind) -> Self {
        Self {
            tuple: Tuple { addresses: 0, ports: 0 },
            kind,
            ip_len: 0,
            l3: 0,
            l4: 0,
            protocol: 0,
            flags: 0,
            ttl: 0,
            dont_fragment: false,
            ipv6: false,
        }
    }

    /// The value for a frame that doesn't exist.
    pub(crate) const NOTHING: Self = Self::of(Kind::Host);

    const fn bad(reason: Reason) -> Self {
        Self::of(Kind::Bad(reason))
    }

    /// The addresses and ports of the packet in the frame `data`.
    #[inline]
    #[must_use]
    pub fn endpoints(&self, data: &[u8]) -> Endpoints {
        match pair(data, self.l3) {
            Some(pair) if self.ipv6 => Endpoints::of_pair(pair, self.tuple),
            _ => Endpoints::of(self.tuple),
        }
    }

    /// Whether the transport header directly follows the fixed IP header.
    #[inline(always)]
    #[must_use]
    pub fn is_bare(&self) -> bool {
        let fixed = if self.ipv6 { Ipv6Header::LEN } else { Ipv4Header::LEN };
        usize::from(self.l4 - self.l3) == fixed
    }
}

/// Whether sessions of the protocol are ICMP echoes.
pub(crate) fn is_echo(protocol: u8) -> bool {
    matches!(protocol, protocol::ICMP | protocol::ICMPV6)
}

impl From<Malformed> for Reason {
    fn from(m: Malformed) -> Self {
        match m {
            Malformed::Truncated => Self::Truncated,
            Malformed::Version | Malformed::HeaderLength | Malformed::TotalLength => Self::BadIpHeader,
        }
    }
}

/// The addresses of the IPv6 packet at `l3`.
#[inline]
#[must_use]
pub fn pair(data: &[u8], l3: u8) -> Option<&Pair> {
    data.get(usize::from(l3) + 8..)?.first_chunk()
}

/// The acknowledgement number of the TCP segment in the frame `data`, as laid out in its header; for other packets the
/// value has no meaning.
#[inline]
#[must_use]
pub fn acknowledged(data: &[u8], p: &Parsed) -> Option<[u8; 4]> {
    data.get(usize::from(p.l4) + 8..)?.first_chunk().copied()
}

/// The headers that the usual frame has at fixed places: Ethernet, IPv4 without options and TCP without options.
/// Ethernet pads a UDP frame to more than this.
const USUAL: usize = 14 + 20 + 20;

/// Parses the headers of `frame`, which arrived on a port with the address `mac`, into `parsed`. The result is written
/// in place, because copying bytes that were just written costs more than parsing them. True if it is
/// [`Kind::Transport`].
#[inline(always)]
pub fn parse(frame: &impl Frame, mac: Mac, parsed: &mut Parsed) -> bool {
    if let Some(head) = frame.data().first_chunk()
        && is_plain_v4(head)
        && parse_usual(head, frame.total_len(), mac, parsed)
    {
        return true;
    }
    parse_others(frame, mac, parsed)
}

/// Whether the frame has EtherType 0x0800, version 4 and header length 20. Tested first, because most other frames fail
/// here.
#[inline]
fn is_plain_v4(head: &[u8; USUAL]) -> bool {
    let word = head[12..].first_chunk().map_or(0, |&b| u32::from_le_bytes(b));
    word << 8 == 0x4500_0800
}

/// Parses anything but the usual IPv4 frame. Out of line, like all of IPv6, so that IPv4 pays nothing for it.
#[inline(never)]
fn parse_others(frame: &impl Frame, mac: Mac, parsed: &mut Parsed) -> bool {
    if !parse_usual_v6(frame.data(), frame.total_len(), mac, parsed) {
        *parsed = parse_any(frame, mac);
    }
    parsed.kind == Kind::Transport
}

/// Parses the usual frame, for which [`is_plain_v4`] holds, with a few wide loads. False if the frame isn't one:
/// [`parse_any`] then classifies it.
#[inline(always)]
fn parse_usual(head: &[u8; USUAL], frame_len: usize, mac: Mac, parsed: &mut Parsed) -> bool {
    let word = |at: usize| head.get(at..).and_then(|b| b.first_chunk()).map_or(0, |&b| u64::from_le_bytes(b));
    let half = |at: usize| head.get(at..).and_then(|b| b.first_chunk()).map_or(0, |&b| u32::from_le_bytes(b));
    let total_len = u16::from_be_bytes([head[16], head[17]]);
    let (protocol, len) = (head[23], u32::from(total_len));
    let (flags, fits) = if protocol == protocol::TCP {
        let offset = u32::from(head[46] >> 4) * 4;
        (head[47], (offset >= tcp::TcpHeader::LEN as u32) & (20 + offset <= len))
    } else {
        let transport_len = u32::from(u16::from_be_bytes([head[38], head[39]]));
        let is_udp = protocol == protocol::UDP;
        (0, is_udp & (transport_len >= udp::UdpHeader::LEN as u32) & (20 + transport_len <= len))
    };
    let (middle, addresses) = (word(16), word(26));
    let first = u64::from(half(12) >> 16) + u64::from(u16::from_le_bytes([head[24], head[25]]));
    // The fragment offset and the flag for more fragments.
    const FRAGMENT: u64 = 0xff3f << 32;
    let usual = (word(0) << 16 == mac.word() << 16)
        & (middle & FRAGMENT == 0)
        & sums_to_ones(first, middle, addresses)
        & (len as usize + 14 <= frame_len)
        & fits;
    if !usual {
        return false;
    }
    parsed.tuple = Tuple { addresses, ports: half(34) };
    parsed.kind = Kind::Transport;
    parsed.ip_len = total_len;
    parsed.l3 = 14;
    parsed.l4 = 34;
    parsed.protocol = protocol;
    parsed.flags = flags;
    parsed.ttl = head[22];
    parsed.dont_fragment = head[20] & 0x40 != 0;
    parsed.ipv6 = false;
    true
}

/// Ethernet, IPv6 without extension headers, and UDP.
const USUAL_V6: usize = 14 + 40 + 8;

/// Like [`parse_usual`], for IPv6.
#[inline]
fn parse_usual_v6(data: &[u8], frame_len: usize, mac: Mac, parsed: &mut Parsed) -> bool {
    let Some(head) = data.first_chunk::<USUAL_V6>() else { return false };
    let protocol = head[20];
    let is_tcp = protocol == protocol::TCP;
    let (flags, transport_len) = match (is_tcp, data.get(66..68)) {
        (true, Some(&[offset, flags])) => (flags, u16::from(offset >> 4) * 4),
        (true, _) => return false,
        (false, _) => (0, u16::from_be_bytes([head[58], head[59]])),
    };
    let shortest = if is_tcp { tcp::TcpHeader::LEN } else { udp::UdpHeader::LEN };
    let payload_len = u16::from_be_bytes([head[18], head[19]]);
    let usual = (head[12..14] == [0x86, 0xdd])
        & (head[14] >> 4 == 6)
        & (head[..6] == mac.0)
        & (is_tcp | (protocol == protocol::UDP))
        & (usize::from(payload_len) + 54 <= frame_len)
        & (payload_len <= u16::MAX - 40)
        & (usize::from(transport_len) >= shortest)
        & (transport_len <= payload_len);
    let ports = head[54..58].first_chunk().map_or(0, |&b| u32::from_le_bytes(b));
    *parsed = Parsed {
        tuple: Tuple { addresses: 0, ports },
        kind: Kind::TransportV6,
        ip_len: payload_len.wrapping_add(40),
        l3: 14,
        l4: 54,
        protocol,
        flags,
        ttl: head[21],
        dont_fragment: true,
        ipv6: true,
    };
    usual
}

/// Whether a header's words, which aren't all zero, sum to all ones, so that its checksum is correct. Neither the byte
/// order nor the grouping of words matters: 2^16 and 2^64 are both 1 modulo 65535, so the sum with end-around carries
/// is a multiple of 65535 exactly if the sum of the words is.
#[inline(always)]
fn sums_to_ones(first: u64, second: u64, third: u64) -> bool {
    let add = |a: u64, b: u64| {
        let (sum, carry) = a.overflowing_add(b);
        sum + u64::from(carry)
    };
    // Divides by multiplying with the inverse modulo 2^64: only quotients of multiples are small.
    const INVERSE: u64 = 0x0001_0001_0001_0001_u64.wrapping_neg();
    add(add(second, third), first).wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

#[inline(never)]
fn parse_any(frame: &impl Frame, mac: Mac) -> Parsed {
    let data = frame.data();
    let Some((eth, rest)) = EthernetHeader::split(data) else { return Parsed::bad(Reason::Truncated) };
    let to_group = eth.destination != mac;
    if to_group && !eth.destination.is_group() {
        return Parsed::bad(Reason::NotOurMac);
    }
    let available = frame.total_len() - EthernetHeader::LEN;
    let parsed = match eth.ether_type() {
        ether_type::IPV4 => parse_ipv4(rest, available),
        ether_type::IPV6 => parse_ipv6(rest, available),
        _ => return Parsed::of(Kind::Host),
    };
    match parsed {
        Ok(parsed) if to_group => Parsed { kind: Kind::Group, ..parsed },
        Ok(parsed) => parsed,
        Err(reason) => Parsed::bad(reason),
    }
}

#[inline]
fn parse_ipv4(packet: &[u8], available: usize) -> Result<Parsed, Reason> {
    let (ip, _) = Ipv4Header::split(packet).ok_or(Reason::Truncated)?;
    let extent = ip.check(available)?;
    let header = packet.get(..extent.header_len).ok_or(Reason::Truncated)?;
    if !ipv4::checksum_ok(header) {
        return Err(Reason::BadIpChecksum);
    }
    let mut parsed = Parsed {
        tuple: Tuple { addresses: ip.address_words(), ports: 0 },
        kind: Kind::OtherIp,
        ip_len: extent.total_len as u16,
        l3: EthernetHeader::LEN as u8,
        l4: (EthernetHeader::LEN + extent.header_len) as u8,
        protocol: ip.protocol,
        flags: 0,
        ttl: ip.ttl,
        dont_fragment: ip.dont_fragment(),
        ipv6: false,
    };
    if extent.header_len > Ipv4Header::LEN && is_source_routed(&header[Ipv4Header::LEN..]) {
        return Err(Reason::SourceRouted);
    }
    if ip.is_fragment() {
        parsed.kind = Kind::Fragment;
        return Ok(parsed);
    }
    let payload = &packet[extent.header_len..];
    let payload_len = extent.total_len - extent.header_len;
    match ip.protocol {
        protocol::TCP | protocol::UDP => {
            parse_transport(&mut parsed, payload, payload_len)?;
            parsed.kind = Kind::Transport;
        }
        protocol::SCTP => parse_sctp(&mut parsed, payload)?,
        protocol::ICMP => {
            let (icmp, _) = IcmpHeader::split(payload).ok_or(Reason::Truncated)?;
            match icmp.kind {
                kind @ (icmp::v4::ECHO | icmp::v4::ECHO_REPLY) => {
                    parsed.kind = Kind::Echo;
                    parsed.tuple.ports = echo_ports(icmp, kind == icmp::v4::ECHO);
                }
                _ if icmp.is_error_v4() => parsed.kind = Kind::IcmpError,
                _ => {}
            }
        }
        _ => {}
    }
    Ok(parsed)
}

/// An echo's identifier, in the place of the sender's port.
pub(crate) fn echo_ports(icmp: &IcmpHeader, asks: bool) -> u32 {
    let (source, destination) = if asks { (icmp.echo_id(), 0) } else { (0, icmp.echo_id()) };
    Tuple::new((0, source), (0, destination)).ports
}

/// Whether the options contain a source route: hosts and routers, Linux among them, have long refused those (RFC 7126,
/// 4.3).
fn is_source_routed(options: &[u8]) -> bool {
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    let mut rest = options;
    while let Some(&kind) = rest.first() {
        let len = match (kind, rest.get(1)) {
            (0, _) => return false,
            (1, _) => 1,
            (LOOSE | STRICT, _) => return true,
            (_, Some(&len)) if len >= 2 => usize::from(len),
            _ => return false,
        };
        rest = rest.get(len..).unwrap_or_default();
    }
    false
}

/// Reads the ports, and for TCP the flags.
#[inline]
fn parse_transport(parsed: &mut Parsed, payload: &[u8], payload_len: usize) -> Result<(), Reason> {
    if parsed.protocol == protocol::TCP {
        let (tcp, _) = tcp::TcpHeader::split(payload).ok_or(Reason::Truncated)?;
        tcp.check(payload_len).map_err(|_| Reason::BadTransportHeader)?;
        parsed.flags = tcp.flags;
    } else {
        let (udp, _) = udp::UdpHeader::split(payload).ok_or(Reason::Truncated)?;
        udp.check(payload_len).map_err(|_| Reason::BadTransportHeader)?;
    }
    parsed.tuple.ports = ports(payload)?;
    Ok(())
}

/// Reads the ports, and the event in the place of flags.
fn parse_sctp(parsed: &mut Parsed, payload: &[u8]) -> Result<(), Reason> {
    let (_, chunks) = SctpHeader::split(payload).ok_or(Reason::Truncated)?;
    parsed.flags = sctp_event::event(chunks);
    parsed.tuple.ports = ports(payload)?;
    parsed.kind = Kind::Sctp;
    Ok(())
}

/// Parses an IPv6 packet with its extension headers.
fn parse_ipv6(packet: &[u8], available: usize) -> Result<Parsed, Reason> {
    let (ip, _) = Ipv6Header::split(packet).ok_or(Reason::Truncated)?;
    let total_len = ip.check(available)?;
    let upper = ipv6::upper(packet)?;
    // This is IPv6's counterpart of a source route (RFC 5095).
    if upper.routing.is_some_and(|routing| routing.kind == 0) {
        return Err(Reason::SourceRouted);
    }
    // The packet isn't at its final destination; the kernel decides whether to forward it.
    if upper.routing.is_some_and(|routing| routing.segments_left != 0) {
        return Ok(Parsed { ipv6: true, l3: EthernetHeader::LEN as u8, ..Parsed::of(Kind::OtherIp) });
    }
    let mut parsed = Parsed {
        tuple: Tuple::default(),
        kind: Kind::OtherIp,
        ip_len: u16::try_from(total_len).map_err(|_| Reason::BadIpHeader)?,
        l3: EthernetHeader::LEN as u8,
        // A packet with more than 241 bytes of extension headers is refused.
        l4: u8::try_from(EthernetHeader::LEN + upper.offset).map_err(|_| Reason::BadIpHeader)?,
        protocol: upper.protocol,
        flags: 0,
        ttl: ip.hop_limit,
        dont_fragment: true,
        ipv6: true,
    };
    if upper.fragment.is_some_and(|f| f.offset() != 0 || f.more_fragments()) {
        parsed.kind = Kind::Fragment;
        return Ok(parsed);
    }
    let payload = packet.get(upper.offset..).ok_or(Reason::Truncated)?;
    let payload_len = total_len.checked_sub(upper.offset).ok_or(Reason::BadIpHeader)?;
    match upper.protocol {
        protocol::TCP | protocol::UDP => {
            parse_transport(&mut parsed, payload, payload_len)?;
            parsed.kind = Kind::TransportV6;
        }
        protocol::SCTP => parse_sctp(&mut parsed, payload)?,
        protocol::ICMPV6 => {
            let (icmp, _) = IcmpHeader::split(payload).ok_or(Reason::Truncated)?;
            match icmp.kind {
                _ if icmp.is_error_v6() => parsed.kind = Kind::IcmpError,
                kind @ (icmp::v6::ECHO | icmp::v6::ECHO_REPLY) => {
                    parsed.kind = Kind::Echo;
                    parsed.tuple.ports = echo_ports(icmp, kind == icmp::v6::ECHO);
                }
                _ => {}
            }
        }
        _ => {}
    }
    Ok(parsed)
}

/// Both ports of a transport header, as laid out there.
#[inline]
fn ports(transport: &[u8]) -> Result<u32, Reason> {
    transport.first_chunk().map(|&b| u32::from_le_bytes(b)).ok_or(Reason::Truncated)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::io::memory::MemoryFrame;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn frame(tcp: bool, payload: &[u8]) -> Vec<u8> {
        let ip = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], MAC.0).ipv4([10, 1, 0, 1], [192, 0, 2, 1], 64);
        let mut out = Vec::new();
        if tcp {
            ip.tcp(40000, 80, 1, 2).syn().write(&mut out, payload).unwrap();
        } else {
            ip.udp(40000, 53).write(&mut out, payload).unwrap();
        }
        out
    }

    #[test]
    fn the_usual_frame_is_read_at_a_glance() {
        for tcp in [true, false] {
            let bytes = frame(tcp, &[0; 30]);
            let mut parsed = Parsed::NOTHING;
            let head = bytes.first_chunk().unwrap();
            assert!(is_plain_v4(head) && parse_usual(head, bytes.len(), MAC, &mut parsed));
            assert_eq!(parsed.tuple.source(), (0x0a01_0001, 40000));
            assert_eq!(parsed.tuple.destination(), (0xc000_0201, if tcp { 80 } else { 53 }));
            assert_eq!(parsed.flags, if tcp { tcp::SYN } else { 0 });
        }
    }

    #[test]
    fn extension_headers_are_skipped_and_fragments_recognised() {
        // Hop-by-hop options, then an atomic or a first fragment, then UDP.
        for (more, kind) in [(0, Kind::TransportV6), (1, Kind::Fragment)] {
            let mut packet = vec![0x60, 0, 0, 0, 0, 28, 0, 9];
            packet.extend([0x20; 16]);
            packet.extend([0x30; 16]);
            packet.extend([44, 0, 1, 4, 0, 0, 0, 0]);
            packet.extend([17, 0, 0, more, 0, 0, 0, 7]);
            packet.extend([0x9c, 0x40, 0, 53, 0, 12, 1, 2, 1, 2, 3, 4]);
            let mut bytes = [MAC.0, [2, 0, 0, 0, 0, 9]].concat();
            bytes.extend([0x86, 0xdd]);
            bytes.extend(packet);
            let mut p = Parsed::NOTHING;
            parse(&MemoryFrame::new(&bytes), MAC, &mut p);
            assert_eq!((p.kind, p.protocol, p.ttl, p.ip_len, p.l4), (kind, 17, 9, 68, 70));
            let ends = p.endpoints(&bytes);
            assert_eq!(ends.destination.0, std::net::IpAddr::from([0x30; 16]));
            if kind == Kind::TransportV6 {
                assert_eq!((ends.source.1, ends.destination.1), (40000, 53));
            }
        }
    }

    proptest! {
        /// The quick and the full IPv6 parser agree on every frame that the quick one takes.
        #[test]
        fn reading_ipv6_at_a_glance_is_reading(
            tcp in any::<bool>(),
            payload in prop::collection::vec(any::<u8>(), 0..60),
            changes in prop::collection::vec((0usize..80, any::<u8>()), 0..4),
        ) {
            let ip = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], MAC.0).ipv6([0x20; 16], [0x30; 16], 64);
            let mut bytes = Vec::new();
            if tcp {
                ip.tcp(40000, 80, 1, 2).syn().write(&mut bytes, &payload).unwrap();
            } else {
                ip.udp(40000, 53).write(&mut bytes, &payload).unwrap();
            }
            let untouched = changes.is_empty();
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            let mut quick = Parsed::NOTHING;
            let taken = parse_usual_v6(&bytes, bytes.len(), MAC, &mut quick);
            prop_assert!(taken || !untouched);
            if taken {
                let slow = parse_any(&MemoryFrame::new(&bytes), MAC);
                prop_assert_eq!(format!("{quick:?}"), format!("{slow:?}"));
            }
        }

        /// The quick and the full parser agree on every frame that the quick one takes.
        #[test]
        fn reading_at_a_glance_is_reading(
            tcp in any::<bool>(),
            payload in prop::collection::vec(any::<u8>(), 0..60),
            changes in prop::collection::vec((0usize..60, any::<u8>()), 0..4),
            seal in any::<bool>(),
        ) {
            let mut bytes = frame(tcp, &payload);
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if seal && let Ok(ip) = etherparse::Ipv4HeaderSlice::from_slice(&bytes[14..]) {
                let check = ip.to_header().calc_header_checksum();
                bytes[24..26].copy_from_slice(&check.to_be_bytes());
            }
            let mut quick = Parsed::NOTHING;
            let usual = |head| is_plain_v4(head) && parse_usual(head, bytes.len(), MAC, &mut quick);
            if bytes.first_chunk().is_some_and(usual) {
                let slow = parse_any(&MemoryFrame::new(&bytes), MAC);
                prop_assert_eq!(format!("{quick:?}"), format!("{slow:?}"));
            }
        }
    }

    #[test]
    fn a_source_route_is_found_among_options_up_to_their_end() {
        for route in [131, 137] {
            for before in [&[][..], &[1], &[1, 1, 1], &[148, 2], &[148, 4, 0, 0], &[7, 3, 4, 1, 148, 2]] {
                assert!(is_source_routed(&[before, &[route, 7, 4]].concat()), "{before:?}");
            }
            // The end of the list, impossible lengths, and the option's number inside another option's value.
            for before in [&[0][..], &[1, 0], &[148, 1], &[148, 0], &[148, 200], &[148, 3]] {
                assert!(!is_source_routed(&[before, &[route, 7, 4]].concat()), "{before:?}");
            }
            assert!(is_source_routed(&[route]) && !is_source_routed(&[148, route]));
        }
        assert!(!is_source_routed(&[]) && !is_source_routed(&[1, 1, 1, 1]) && !is_source_routed(&[148]));
    }
}
