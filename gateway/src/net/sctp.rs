//! SCTP's common header.
//!
//! ```text
//! 0        1        2        3
//! | source port     | destination port|
//! | verification tag                  |
//! | checksum: CRC32c, least significant byte first
//! | chunks: type, flags, length ..
//! ```
//! Source: RFC 9260, 3 and appendix A. The checksum covers the packet from this header on, and no addresses.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Header, headers};

/// Bytes of a chunk's header.
pub const CHUNK_HEADER: usize = 4;

/// Types of chunks (RFC 9260, 3.2).
#[allow(missing_docs, reason = "named as the RFC names them")]
pub mod chunk {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const ERROR: u8 = 9;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// The common header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SctpHeader {
    ports: [u8; 4],
    tag: [u8; 4],
    checksum: [u8; 4],
}

headers!(SctpHeader = 12);

impl SctpHeader {
    /// The checksum field.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        u32::from_le_bytes(self.checksum)
    }

    /// Sets the checksum field.
    pub fn set_checksum(&mut self, crc: u32) {
        self.checksum = crc.to_le_bytes();
    }

    /// The CRC32c of this header with a checksum field of 0, from which a packet's CRC continues.
    #[must_use]
    pub fn own_crc(&self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(self.as_bytes().get(..8).unwrap_or_default()), &[0; 4])
    }

    /// Sets the ports, as laid out in a tuple, of the packet of `len` bytes that begins with this header. The checksum
    /// changes accordingly: a wrong one stays wrong.
    pub fn set_port_words(&mut self, ports: u32, len: usize) {
        self.checksum = (self.checksum() ^ self.difference(ports, len)).to_le_bytes();
        self.ports = ports.to_le_bytes();
    }

    /// Prepares the checksum for [`Self::set_port_words`] with the length `part`, for the header of the first fragment
    /// of a packet of `whole` bytes: the checksum covers the whole packet.
    pub fn prepare_checksum(&mut self, ports: u32, part: usize, whole: usize) {
        let difference = self.difference(ports, part) ^ self.difference(ports, whole);
        self.checksum = (self.checksum() ^ difference).to_le_bytes();
    }

    /// The change that other ports make to the checksum of a packet of `len` bytes. CRCs are affine: the difference
    /// between those of two strings is the CRC of the strings' difference, advanced over the rest.
    fn difference(&self, ports: u32, len: usize) -> u32 {
        let difference = crc32c::crc32c(&self.ports) ^ crc32c::crc32c(&ports.to_le_bytes());
        crc32c::crc32c_combine(difference, 0, len.saturating_sub(self.ports.len()))
    }
}

/// The same for the beginning of a packet quoted by an ICMP error, header or not; `len` is the whole packet's length.
#[must_use]
pub fn requote(quoted: &mut [u8], ports: u32, len: usize) -> Option<()> {
    match SctpHeader::split_mut(quoted) {
        Some((header, _)) => header.set_port_words(ports, len),
        None => quoted.first_chunk_mut::<4>()?.copy_from_slice(&ports.to_le_bytes()),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The checksum, computed according to the RFC.
    fn checksum(packet: &[u8]) -> [u8; 4] {
        let mut packet = packet.to_vec();
        packet[8..12].fill(0);
        crc32c::crc32c(&packet).to_le_bytes()
    }

    #[test]
    fn the_checksum_is_castagnoli_s() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn the_checksum_follows_the_ports(
            mut packet in prop::collection::vec(any::<u8>(), 12..300),
            ports in any::<u32>(),
            wrong in any::<bool>(),
        ) {
            let right = checksum(&packet);
            packet[8..12].copy_from_slice(&right);
            packet[8] ^= u8::from(wrong);
            let len = packet.len();
            SctpHeader::split_mut(&mut packet).unwrap().0.set_port_words(ports, len);
            prop_assert_eq!(&packet[..4], &ports.to_le_bytes());
            prop_assert_eq!(packet[8..12] == checksum(&packet), !wrong);
        }
    }
}
