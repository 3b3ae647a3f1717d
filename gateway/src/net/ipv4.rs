//! The IPv4 header.
//!
//! ```text
//! 0        1        2        3
//! | ver IHL| ToS    | total length    |
//! | identification  |flags| frag. off.|
//! | TTL    |protocol| header checksum |
//! | source address                    |
//! | destination address               |
//! | options, IHL - 5 words            |
//! ```
//! Source: RFC 791; ToS as DSCP and ECN per RFC 2474 and RFC 3168.

use std::net::Ipv4Addr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16};

use super::{
    Fields, Header, Malformed,
    checksum::{Sum, fold64},
    headers,
};

/// Don't fragment, in [`Ipv4Header::flags_fragment`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments, in [`Ipv4Header::flags_fragment`].
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// Fragment offset in units of 8 bytes, in [`Ipv4Header::flags_fragment`].
pub const OFFSET_MASK: u16 = 0x1fff;
/// Every host must accept datagrams of this size (RFC 791 3.1).
pub const MIN_REASSEMBLY: usize = 576;

/// The fixed part of the header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv4Header {
    version_ihl: u8,
    /// DSCP and ECN bits.
    pub tos: u8,
    total_len: U16,
    id: U16,
    flags_fragment: U16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol number of the payload.
    pub protocol: u8,
    checksum: U16,
    source: [u8; 4],
    destination: [u8; 4],
}

headers!(Ipv4Header = 20);

/// Lengths that were checked for consistency, in bytes: `20 <= header_len <= total_len`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The header with its options.
    pub header_len: usize,
    /// The header and payload, without link-layer padding.
    pub total_len: usize,
}

impl Ipv4Header {
    /// A header without options, with TTL 64, no flags and the checksum 0: see [`Self::seal`].
    #[must_use]
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, total_len: u16) -> Self {
        Self {
            version_ihl: 0x45,
            tos: 0,
            total_len: U16::new(total_len),
            id: U16::ZERO,
            flags_fragment: U16::ZERO,
            ttl: 64,
            protocol,
            checksum: U16::ZERO,
            source: source.octets(),
            destination: destination.octets(),
        }
    }

    /// Writes the header of a packet of `len` bytes, without options. Without an identification the packet gets DF.
    /// `ends` are the addresses as laid out in the header, the source in the low half.
    ///
    /// The header is written word by word: a header made elsewhere would be read back right after it was written.
    #[inline(always)]
    pub fn put(out: &mut [u8; Self::LEN], fields: Fields, len: u16, id: Option<u16>, ends: u64) {
        let (id, flags) = id.map_or((0, DONT_FRAGMENT), |id| (id, 0));
        // Words as they lie in memory, little-endian: their one's-complement sum then has the byte order of memory, too
        // (RFC 1071).
        let first = 0x45 | u32::from(fields.tos) << 8 | u32::from(len.swap_bytes()) << 16;
        let second = u32::from(id.swap_bytes()) | u32::from(flags.swap_bytes()) << 16;
        let third = u32::from(fields.ttl) | u32::from(fields.protocol) << 8;
        let head = u64::from(first) | u64::from(second) << 32;
        let halves = |words: u64| (words >> 32) + (words & 0xffff_ffff);
        let check = !fold64(halves(head) + halves(ends) + u64::from(third));
        out[..8].copy_from_slice(&head.to_le_bytes());
        out[8..12].copy_from_slice(&(third | u32::from(check) << 16).to_le_bytes());
        out[12..].copy_from_slice(&ends.to_le_bytes());
    }

    /// Checks that version and lengths agree with each other and with the `available` bytes from the header's first
    /// one, over all segments of the frame. Further bytes are link-layer padding.
    #[inline]
    pub fn check(&self, available: usize) -> Result<Extent, Malformed> {
        let (header_len, total_len) = (self.header_len(), self.total_len());
        if self.version() != 4 {
            Err(Malformed::Version)
        } else if header_len < Self::LEN {
            Err(Malformed::HeaderLength)
        } else if total_len < header_len {
            Err(Malformed::TotalLength)
        } else if total_len > available {
            Err(Malformed::Truncated)
        } else {
            Ok(Extent { header_len, total_len })
        }
    }

    /// The IP version; 4 if the header is valid.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Stated header length in bytes, 0..=60.
    #[inline]
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl & 0x0f) * 4
    }

    /// Stated length of header and payload in bytes.
    #[inline]
    #[must_use]
    pub fn total_len(&self) -> usize {
        usize::from(self.total_len.get())
    }

    /// Sets the length of header and payload.
    #[inline]
    pub fn set_total_len(&mut self, len: u16) {
        self.total_len.set(len);
    }

    /// Identification.
    #[inline]
    #[must_use]
    pub fn id(&self) -> u16 {
        self.id.get()
    }

    /// Sets the identification.
    #[inline]
    pub fn set_id(&mut self, id: u16) {
        self.id.set(id);
    }

    /// Flags and fragment offset, host order.
    #[inline]
    #[must_use]
    pub fn flags_fragment(&self) -> u16 {
        self.flags_fragment.get()
    }

    /// Sets flags and fragment offset.
    #[inline]
    pub fn set_flags_fragment(&mut self, value: u16) {
        self.flags_fragment.set(value);
    }

    /// Whether the packet must not be fragmented.
    #[inline]
    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        self.flags_fragment() & DONT_FRAGMENT != 0
    }

    /// Whether more fragments follow this one.
    #[inline]
    #[must_use]
    pub fn more_fragments(&self) -> bool {
        self.flags_fragment() & MORE_FRAGMENTS != 0
    }

    /// The offset of this fragment's payload in the datagram, in bytes.
    #[inline]
    #[must_use]
    pub fn fragment_offset(&self) -> usize {
        usize::from(self.flags_fragment() & OFFSET_MASK) * 8
    }

    /// Whether it is part of a datagram: only the first fragment has ports.
    #[inline]
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.flags_fragment() & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// The checksum field, host order.
    #[inline]
    #[must_use]
    pub fn checksum(&self) -> u16 {
        self.checksum.get()
    }

    /// Sets the checksum field.
    #[inline]
    pub fn set_checksum(&mut self, check: u16) {
        self.checksum.set(check);
    }

    /// The source (low half) and destination address as laid out in the header, read as one little-endian word.
    #[inline]
    #[must_use]
    pub fn address_words(&self) -> u64 {
        u64::from(u32::from_le_bytes(self.source)) | u64::from(u32::from_le_bytes(self.destination)) << 32
    }

    /// Sets the value of [`Self::address_words`].
    #[inline]
    pub fn set_address_words(&mut self, words: u64) {
        self.source = (words as u32).to_le_bytes();
        self.destination = ((words >> 32) as u32).to_le_bytes();
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub fn source(&self) -> Ipv4Addr {
        self.source.into()
    }

    /// Sets the source address.
    #[inline]
    pub fn set_source(&mut self, address: Ipv4Addr) {
        self.source = address.octets();
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> Ipv4Addr {
        self.destination.into()
    }

    /// Sets the destination address.
    #[inline]
    pub fn set_destination(&mut self, address: Ipv4Addr) {
        self.destination = address.octets();
    }

    /// Decrements the TTL, unless it is 0, and updates the checksum. Returns the new TTL.
    #[inline]
    pub fn decrement_ttl(&mut self) -> u8 {
        if self.ttl != 0 {
            self.ttl -= 1;
            // RFC 1141: the high half of a word decreases by one, so the checksum increases by 256, with end-around
            // carry. A result of 0xffff is written as 0, since the sum of a header is never 0.
            let risen = u32::from(self.checksum()) + 0x100;
            self.set_checksum((risen + u32::from(risen >= 0xffff)) as u16);
        }
        self.ttl
    }

    /// Computes the checksum of a header without options.
    pub fn seal(&mut self) {
        self.set_checksum(0);
        self.set_checksum(Sum::of(self.as_bytes()).checksum());
    }
}

/// Whether the checksum of `header`, including its options, is correct.
#[inline]
#[must_use]
pub fn checksum_ok(header: &[u8]) -> bool {
    Sum::of(header).checksum() == 0
}

/// Splits a whole packet into header, options, and payload without link-layer padding.
pub fn split(packet: &[u8]) -> Result<(&Ipv4Header, &[u8], &[u8]), Malformed> {
    let (header, _) = Ipv4Header::split(packet).ok_or(Malformed::Truncated)?;
    let Extent { header_len, total_len } = header.check(packet.len())?;
    let options = packet.get(Ipv4Header::LEN..header_len).ok_or(Malformed::Truncated)?;
    let payload = packet.get(header_len..total_len).ok_or(Malformed::Truncated)?;
    Ok((header, options, payload))
}

#[cfg(test)]
mod tests {
    use etherparse::{IpFragOffset, IpNumber, Ipv4Options};
    use proptest::prelude::*;

    use super::*;

    fn theirs(payload: u16, options: &[u8]) -> etherparse::Ipv4Header {
        let mut header =
            etherparse::Ipv4Header::new(payload, 9, IpNumber::TCP, [192, 0, 2, 1], [10, 0, 0, 7]).unwrap();
        header.options = Ipv4Options::try_from(options).unwrap();
        header.set_payload_len(usize::from(payload)).unwrap();
        header.identification = 0xabcd;
        header.dont_fragment = true;
        header.fragment_offset = IpFragOffset::try_new(3).unwrap();
        header.header_checksum = header.calc_header_checksum();
        header
    }

    #[test]
    fn reads_what_etherparse_writes() {
        let mut bytes = theirs(5, &[1, 1, 1, 0]).to_bytes().to_vec();
        bytes.extend_from_slice(b"hello padding");
        let (header, options, payload) = split(&bytes).unwrap();
        assert_eq!((options, payload), (&[1, 1, 1, 0][..], &b"hello"[..]));
        assert_eq!(header.source(), Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(header.destination(), Ipv4Addr::new(10, 0, 0, 7));
        assert_eq!((header.ttl, header.protocol, header.id()), (9, 6, 0xabcd));
        assert!(header.dont_fragment() && !header.more_fragments() && header.is_fragment());
        assert_eq!(header.fragment_offset(), 24);
        assert!(checksum_ok(&bytes[..24]));
        bytes[3] ^= 1;
        assert!(!checksum_ok(&bytes[..24]));
    }

    #[test]
    fn etherparse_reads_what_new_writes() {
        let mut header = Ipv4Header::new([1, 2, 3, 4].into(), [5, 6, 7, 8].into(), 17, 28);
        header.set_id(7);
        header.set_flags_fragment(DONT_FRAGMENT);
        header.seal();
        let (theirs, _) = etherparse::Ipv4Header::from_slice(header.as_bytes()).unwrap();
        assert_eq!(theirs.header_checksum, theirs.calc_header_checksum());
        assert_eq!((theirs.source, theirs.destination), ([1, 2, 3, 4], [5, 6, 7, 8]));
        assert_eq!((theirs.total_len, theirs.identification, theirs.dont_fragment), (28, 7, true));
    }

    #[test]
    fn refuses_by_reason() {
        let good = theirs(5, &[]).to_bytes().to_vec();
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes.extend_from_slice(b"hello");
            bytes[at] = value;
            split(&bytes).map(|_| ()).unwrap_err()
        };
        assert_eq!(with(0, 0x65), Malformed::Version);
        assert_eq!(with(0, 0x44), Malformed::HeaderLength);
        assert_eq!(with(3, 19), Malformed::TotalLength);
        assert_eq!(with(3, 26), Malformed::Truncated);
        assert_eq!(split(&good[..19]).unwrap_err(), Malformed::Truncated);
    }

    proptest! {
        #[test]
        fn ttl_keeps_the_checksum_right(ttl in any::<u8>(), id in any::<u16>()) {
            let mut header = Ipv4Header::new([1, 2, 3, 4].into(), [5, 6, 7, 8].into(), 6, 40);
            header.ttl = ttl;
            header.set_id(id);
            header.seal();
            let after = header.decrement_ttl();
            prop_assert_eq!(after, ttl.saturating_sub(1));
            prop_assert!(checksum_ok(header.as_bytes()));
            let incremental = header.checksum();
            header.seal();
            prop_assert_eq!(header.checksum(), incremental);
        }
    }
}
