//! The IPv6 header and the chain of extension headers behind it.
//!
//! ```text
//! 0        1        2        3
//! | ver | traffic class | flow label  |
//! | payload length  | next   | hop lim|
//! | source address (16)               |
//! | destination address (16)          |
//! | extension headers ...             |
//! ```
//! Source: RFC 8200; the fragment header is its section 4.5, the authentication header RFC 4302.

use std::net::Ipv6Addr;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use super::{Fields, Header, Malformed, headers, protocol};

/// How much longer the header is than IPv4's.
pub const GROWTH: u16 = (Ipv6Header::LEN - super::ipv4::Ipv4Header::LEN) as u16;
/// Every link carries packets of this size (RFC 8200 5).
pub const MIN_MTU: usize = 1280;
/// The most extension headers that [`upper`] accepts; more is [`Malformed::HeaderLength`].
pub const MAX_EXTENSIONS: usize = 8;

/// The fixed header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv6Header {
    version_class_flow: U32,
    payload_len: U16,
    /// Protocol number of what follows: an extension header or the upper layer.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

/// The fragment header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FragmentHeader {
    /// Protocol number of the first header of the fragmented part.
    pub next_header: u8,
    reserved: u8,
    offset_more: U16,
    id: U32,
}

headers!(Ipv6Header = 40, FragmentHeader = 8);

impl Ipv6Header {
    /// A header with hop limit 64, traffic class 0 and flow label 0.
    #[must_use]
    pub fn new(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload_len: u16) -> Self {
        Self {
            version_class_flow: U32::new(6 << 28),
            payload_len: U16::new(payload_len),
            next_header,
            hop_limit: 64,
            source: source.octets(),
            destination: destination.octets(),
        }
    }

    /// Writes the header of a packet with `payload` bytes behind it, word by word: see
    /// [`super::ipv4::Ipv4Header::put`].
    #[inline(always)]
    pub fn put(
        out: &mut [u8; Self::LEN],
        fields: Fields,
        payload: u16,
        source: &[u8; 16],
        destination: &[u8; 16],
    ) {
        let first = 0x6000_0000 | u64::from(fields.tos) << 20;
        let second = u64::from(payload) << 16 | u64::from(fields.protocol) << 8 | u64::from(fields.ttl);
        out[..8].copy_from_slice(&(first << 32 | second).to_be_bytes());
        out[8..24].copy_from_slice(source);
        out[24..].copy_from_slice(destination);
    }

    /// The length of header and payload, if the version is correct and that many of the `available` bytes are there,
    /// counted from the header's first one, over all segments of the frame.
    #[inline]
    pub fn check(&self, available: usize) -> Result<usize, Malformed> {
        if self.version() != 6 {
            Err(Malformed::Version)
        } else if self.total_len() > available {
            Err(Malformed::Truncated)
        } else {
            Ok(self.total_len())
        }
    }

    /// The IP version; 6 if the header is valid.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u8 {
        (self.version_class_flow.get() >> 28) as u8
    }

    /// DSCP and ECN bits.
    #[inline]
    #[must_use]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }

    /// Sets DSCP and ECN bits.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        let rest = self.version_class_flow.get() & !(0xff << 20);
        self.version_class_flow.set(rest | u32::from(class) << 20);
    }

    /// Flow label, 20 bits.
    #[inline]
    #[must_use]
    pub fn flow_label(&self) -> u32 {
        self.version_class_flow.get() & 0x000f_ffff
    }

    /// Sets the flow label's 20 bits.
    #[inline]
    pub fn set_flow_label(&mut self, label: u32) {
        let rest = self.version_class_flow.get() & !0x000f_ffff;
        self.version_class_flow.set(rest | label & 0x000f_ffff);
    }

    /// Stated length of what follows the fixed header, in bytes.
    #[inline]
    #[must_use]
    pub fn payload_len(&self) -> usize {
        usize::from(self.payload_len.get())
    }

    /// Sets the length of what follows the fixed header.
    #[inline]
    pub fn set_payload_len(&mut self, len: u16) {
        self.payload_len.set(len);
    }

    /// Stated length of the whole packet in bytes. (Jumbograms aren't supported: theirs is 40.)
    #[inline]
    #[must_use]
    pub fn total_len(&self) -> usize {
        Self::LEN + self.payload_len()
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub fn source(&self) -> Ipv6Addr {
        self.source.into()
    }

    /// Sets the source address.
    #[inline]
    pub fn set_source(&mut self, address: Ipv6Addr) {
        self.source = address.octets();
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> Ipv6Addr {
        self.destination.into()
    }

    /// Sets the destination address.
    #[inline]
    pub fn set_destination(&mut self, address: Ipv6Addr) {
        self.destination = address.octets();
    }

    /// Decrements the hop limit, unless it is 0. Returns the new one.
    #[inline]
    pub fn decrement_hop_limit(&mut self) -> u8 {
        self.hop_limit = self.hop_limit.saturating_sub(1);
        self.hop_limit
    }
}

impl FragmentHeader {
    /// The header of a fragment whose payload begins at byte `offset`, a multiple of 8.
    #[must_use]
    pub fn new(next_header: u8, offset: u16, more: bool, id: u32) -> Self {
        let offset_more = U16::new(offset & 0xfff8 | u16::from(more));
        Self { next_header, reserved: 0, offset_more, id: U32::new(id) }
    }

    /// The offset of this payload in the fragmented part, in bytes.
    #[inline]
    #[must_use]
    pub fn offset(&self) -> usize {
        usize::from(self.offset_more.get() & 0xfff8)
    }

    /// Sets the offset, a multiple of eight.
    pub fn set_offset(&mut self, offset: u16) {
        self.offset_more.set(offset & 0xfff8 | self.offset_more.get() & 7);
    }

    /// Whether more fragments follow.
    #[inline]
    #[must_use]
    pub fn more_fragments(&self) -> bool {
        self.offset_more.get() & 1 != 0
    }

    /// Identification.
    #[inline]
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id.get()
    }
}

/// The end of the chain of extension headers.
#[derive(Clone, Copy, Debug)]
pub struct UpperLayer<'a> {
    /// Protocol number of the upper layer. [`protocol::ESP`] and [`protocol::NO_NEXT_HEADER`] end the chain.
    pub protocol: u8,
    /// The offset of its header from the start of the IPv6 header. A later fragment has no such header, only a piece of
    /// payload.
    pub offset: usize,
    /// The fragment header, if there is one.
    pub fragment: Option<&'a FragmentHeader>,
    /// The routing header, if there is one. Of several, the most relevant one: of type 0, else with segments left.
    pub routing: Option<RoutingHeader>,
}

/// The contents of a routing header (RFC 8200 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingHeader {
    /// Routing type.
    pub kind: u8,
    /// The number of nodes to visit before the packet's destination.
    pub segments_left: u8,
}

impl RoutingHeader {
    /// How relevant the header is.
    fn weight(self) -> u8 {
        match self {
            Self { kind: 0, .. } => 2,
            Self { segments_left: 0, .. } => 0,
            _ => 1,
        }
    }
}

/// Follows the chain of extension headers of `packet`, which starts with the IPv6 header (whose length field is
/// ignored). Fails if the chain exceeds the bytes, or is longer than [`MAX_EXTENSIONS`].
#[inline]
pub fn upper(packet: &[u8]) -> Result<UpperLayer<'_>, Malformed> {
    let (header, _) = Ipv6Header::split(packet).ok_or(Malformed::Truncated)?;
    let mut found =
        UpperLayer { protocol: header.next_header, offset: Ipv6Header::LEN, fragment: None, routing: None };
    for _ in 0..=MAX_EXTENSIONS {
        let unit = match found.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => 8,
            protocol::AUTHENTICATION => 4,
            protocol::FRAGMENT => {
                let fragment = FragmentHeader::at(packet, found.offset).ok_or(Malformed::Truncated)?;
                found.protocol = fragment.next_header;
                found.offset += FragmentHeader::LEN;
                found.fragment = Some(fragment);
                if fragment.offset() != 0 {
                    return Ok(found);
                }
                continue;
            }
            _ => return Ok(found),
        };
        let Some(&[next, len, kind, segments_left]) =
            packet.get(found.offset..).and_then(<[u8]>::first_chunk)
        else {
            return Err(Malformed::Truncated);
        };
        let routing = RoutingHeader { kind, segments_left };
        if found.protocol == protocol::ROUTING && found.routing.is_none_or(|r| r.weight() < routing.weight())
        {
            found.routing = Some(routing);
        }
        // Lengths count units beyond the first 8 bytes; a unit is 8 bytes, or 4 in the authentication header.
        found.offset += 8 + usize::from(len) * unit;
        found.protocol = next;
        if found.offset > packet.len() {
            return Err(Malformed::Truncated);
        }
    }
    Err(Malformed::HeaderLength)
}

#[cfg(test)]
mod tests {
    use etherparse::{IpNumber, Ipv6Extensions, Ipv6FragmentHeader, Ipv6RawExtHeader};

    use super::*;

    fn base(next: IpNumber, payload: u16) -> etherparse::Ipv6Header {
        etherparse::Ipv6Header {
            traffic_class: 0xa5,
            flow_label: etherparse::Ipv6FlowLabel::try_new(0x5_4321).unwrap(),
            payload_length: payload,
            next_header: next,
            hop_limit: 3,
            source: [0x20; 16],
            destination: [0x30; 16],
        }
    }

    /// Hop-by-hop, destination options and a fragment header before TCP.
    fn with_extensions(fragment_offset: u16) -> Vec<u8> {
        let options = Ipv6RawExtHeader::new_raw(IpNumber(0), &[0; 14]).unwrap();
        let mut extensions = Ipv6Extensions {
            hop_by_hop_options: Some(options.clone()),
            destination_options: Some(options),
            fragment: Some(Ipv6FragmentHeader::new(
                IpNumber(0),
                etherparse::IpFragOffset::try_new(fragment_offset).unwrap(),
                true,
                77,
            )),
            ..Default::default()
        };
        let first = extensions.set_next_headers(IpNumber::TCP);
        let mut bytes = base(first, 60).to_bytes().to_vec();
        extensions.write(&mut bytes, first).unwrap();
        bytes.extend_from_slice(&[9; 20]);
        bytes
    }

    #[test]
    fn reads_and_writes_as_etherparse_does() {
        let bytes = base(IpNumber::UDP, 8).to_bytes();
        let (header, _) = Ipv6Header::split(&bytes).unwrap();
        assert_eq!((header.version(), header.traffic_class(), header.flow_label()), (6, 0xa5, 0x5_4321));
        assert_eq!((header.total_len(), header.next_header, header.hop_limit), (48, 17, 3));
        let mut own = Ipv6Header::new(header.source(), header.destination(), 17, 8);
        own.set_traffic_class(0xa5);
        own.set_flow_label(0x5_4321);
        own.hop_limit = 4;
        assert_eq!(own.decrement_hop_limit(), 3);
        assert_eq!(own.as_bytes(), bytes);
        assert_eq!(own.check(47), Err(Malformed::Truncated));
        assert_eq!(own.check(60), Ok(48));
    }

    #[test]
    fn follows_the_chain() {
        let bytes = with_extensions(0);
        let found = upper(&bytes).unwrap();
        assert_eq!((found.protocol, found.offset), (6, 40 + 16 + 16 + 8));
        let fragment = found.fragment.unwrap();
        assert_eq!((fragment.offset(), fragment.more_fragments(), fragment.id()), (0, true, 77));
        assert_eq!(&bytes[found.offset..], &[9; 20]);
    }

    #[test]
    fn later_fragments_end_the_chain() {
        let bytes = with_extensions(5);
        let found = upper(&bytes).unwrap();
        assert_eq!(found.fragment.unwrap().offset(), 40);
        assert_eq!(found.protocol, 6);
    }

    #[test]
    fn cut_and_endless_chains_are_refused() {
        let bytes = with_extensions(0);
        for len in 0..80 {
            assert_eq!(upper(&bytes[..len]).unwrap_err(), Malformed::Truncated, "{len}");
        }
        let mut endless = base(IpNumber::IPV6_HEADER_HOP_BY_HOP, 0).to_bytes().to_vec();
        endless.extend_from_slice(&[0; 400]);
        assert_eq!(upper(&endless).unwrap_err(), Malformed::HeaderLength);
    }

    #[test]
    fn of_several_routing_headers_the_most_important_counts() {
        let of = |headers: &[(u8, u8)]| {
            let mut bytes = base(IpNumber(43), 0).to_bytes().to_vec();
            for (n, (kind, left)) in headers.iter().enumerate() {
                let next = if n + 1 == headers.len() { 17 } else { 43 };
                bytes.extend([next, 0, *kind, *left, 0, 0, 0, 0]);
            }
            let found = upper(&bytes).unwrap();
            assert_eq!((found.protocol, found.offset), (17, bytes.len()));
            found.routing.map(|r| (r.kind, r.segments_left))
        };
        assert_eq!(of(&[(4, 0)]), Some((4, 0)));
        assert_eq!(of(&[(4, 0), (3, 1)]), Some((3, 1)));
        assert_eq!(of(&[(3, 1), (4, 0), (4, 2)]), Some((3, 1)));
        assert_eq!(of(&[(3, 1), (0, 0)]), Some((0, 0)));
        assert_eq!(of(&[(0, 1), (3, 1)]), Some((0, 1)));
        let mut cut = base(IpNumber(43), 0).to_bytes().to_vec();
        cut.extend([17, 0, 3]);
        assert_eq!(upper(&cut).unwrap_err(), Malformed::Truncated);
    }

    #[test]
    fn authentication_header_counts_in_words() {
        let mut bytes = base(IpNumber::AUTHENTICATION_HEADER, 32).to_bytes().to_vec();
        bytes.extend_from_slice(&[17, 4]);
        bytes.extend_from_slice(&[0; 30]);
        let found = upper(&bytes).unwrap();
        assert_eq!((found.protocol, found.offset), (17, 40 + 24));
    }
}
