//! The UDP header.
//!
//! ```text
//! 0        1        2        3
//! | source port     | dest. port      |
//! | length          | checksum, 0 none|
//! ```
//! Source: RFC 768; RFC 8200 8.1 for the checksum over IPv6.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16};

use super::{Header, Malformed, headers};

/// The offset of the checksum field in the header.
pub const CHECKSUM_AT: usize = 6;

/// The header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    source_port: U16,
    destination_port: U16,
    len: U16,
    checksum: U16,
}

headers!(UdpHeader = 8);

impl UdpHeader {
    /// A header with checksum 0; `len` counts header and payload.
    #[must_use]
    pub fn new(source_port: u16, destination_port: u16, len: u16) -> Self {
        Self {
            source_port: U16::new(source_port),
            destination_port: U16::new(destination_port),
            len: U16::new(len),
            checksum: U16::ZERO,
        }
    }

    /// The stated length, if it is at least 8 and within the `available` bytes of IP payload.
    #[inline]
    pub fn check(&self, available: usize) -> Result<usize, Malformed> {
        let len = self.len();
        if len < Self::LEN {
            Err(Malformed::HeaderLength)
        } else if len > available {
            Err(Malformed::Truncated)
        } else {
            Ok(len)
        }
    }

    /// Sets both ports from a word that holds them as laid out in the header, read as little-endian.
    #[inline]
    pub fn set_port_words(&mut self, words: u32) {
        self.source_port = U16::from_bytes((words as u16).to_le_bytes());
        self.destination_port = U16::from_bytes(((words >> 16) as u16).to_le_bytes());
    }

    /// Source port, host order.
    #[inline]
    #[must_use]
    pub fn source_port(&self) -> u16 {
        self.source_port.get()
    }

    /// Sets the source port.
    #[inline]
    pub fn set_source_port(&mut self, port: u16) {
        self.source_port.set(port);
    }

    /// Destination port, host order.
    #[inline]
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        self.destination_port.get()
    }

    /// Sets the destination port.
    #[inline]
    pub fn set_destination_port(&mut self, port: u16) {
        self.destination_port.set(port);
    }

    /// Stated length of header and payload in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a field of the header, not a container's length")]
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.len.get())
    }

    /// Sets the length of header and payload.
    #[inline]
    pub fn set_len(&mut self, len: u16) {
        self.len.set(len);
    }

    /// The checksum field, host order; 0 means that the sender computed none.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_bytes_as_etherparse() {
        let theirs =
            etherparse::UdpHeader { source_port: 53, destination_port: 40000, length: 20, checksum: 0xbeef };
        let bytes = theirs.to_bytes();
        let (header, rest) = UdpHeader::split(&bytes).unwrap();
        assert!(rest.is_empty());
        assert_eq!((header.source_port(), header.destination_port()), (53, 40000));
        assert_eq!((header.len(), header.checksum()), (20, 0xbeef));
        let mut own = UdpHeader::new(53, 40000, 20);
        own.set_checksum(0xbeef);
        assert_eq!(own.as_bytes(), bytes);
    }

    #[test]
    fn refuses_by_reason() {
        assert_eq!(UdpHeader::new(1, 2, 7).check(100), Err(Malformed::HeaderLength));
        assert_eq!(UdpHeader::new(1, 2, 21).check(20), Err(Malformed::Truncated));
        assert_eq!(UdpHeader::new(1, 2, 8).check(8), Ok(8));
    }
}
