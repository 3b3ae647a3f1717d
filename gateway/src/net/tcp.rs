//! The TCP header.
//!
//! ```text
//! 0        1        2        3
//! | source port     | dest. port      |
//! | sequence number                   |
//! | acknowledgement number            |
//! | offset | flags  | window          |
//! | checksum        | urgent pointer  |
//! | options, offset - 5 words         |
//! ```
//! Source: RFC 9293 3.1.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use super::{Header, Malformed, headers};

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset the connection.
pub const RST: u8 = 0x04;
/// Push.
pub const PSH: u8 = 0x08;
/// The acknowledgement number is valid.
pub const ACK: u8 = 0x10;
/// The urgent pointer is valid.
pub const URG: u8 = 0x20;
/// ECN echo, RFC 3168.
pub const ECE: u8 = 0x40;
/// Congestion window reduced, RFC 3168.
pub const CWR: u8 = 0x80;

/// The offset of the checksum field in the header.
pub const CHECKSUM_AT: usize = 16;

/// The fixed part of the header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TcpHeader {
    source_port: U16,
    destination_port: U16,
    sequence: U32,
    acknowledgement: U32,
    offset: u8,
    /// Flag bits, such as [`SYN`].
    pub flags: u8,
    window: U16,
    checksum: U16,
    urgent: U16,
}

headers!(TcpHeader = 20);

impl TcpHeader {
    /// A header without options; window, checksum and numbers are 0.
    #[must_use]
    pub fn new(source_port: u16, destination_port: u16, flags: u8) -> Self {
        Self {
            source_port: U16::new(source_port),
            destination_port: U16::new(destination_port),
            sequence: U32::ZERO,
            acknowledgement: U32::ZERO,
            offset: 5 << 4,
            flags,
            window: U16::ZERO,
            checksum: U16::ZERO,
            urgent: U16::ZERO,
        }
    }

    /// The header length with options, if it is at least 20 and within the `available` bytes of the segment.
    #[inline]
    pub fn check(&self, available: usize) -> Result<usize, Malformed> {
        let len = self.header_len();
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

    /// Sequence number of the first byte (of the SYN, if there is one).
    #[inline]
    #[must_use]
    pub fn sequence(&self) -> u32 {
        self.sequence.get()
    }

    /// Sets the sequence number.
    #[inline]
    pub fn set_sequence(&mut self, number: u32) {
        self.sequence.set(number);
    }

    /// Acknowledgement number; only valid with [`ACK`].
    #[inline]
    #[must_use]
    pub fn acknowledgement(&self) -> u32 {
        self.acknowledgement.get()
    }

    /// Sets the acknowledgement number.
    #[inline]
    pub fn set_acknowledgement(&mut self, number: u32) {
        self.acknowledgement.set(number);
    }

    /// Stated header length in bytes, 0..=60.
    #[inline]
    #[must_use]
    pub fn header_len(&self) -> usize {
        usize::from(self.offset >> 4) * 4
    }

    /// Whether every one of `flags` is set.
    #[inline]
    #[must_use]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Receive window, unscaled.
    #[inline]
    #[must_use]
    pub fn window(&self) -> u16 {
        self.window.get()
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

    /// The sequence space of a segment with `payload` bytes: SYN and FIN count one each.
    #[inline]
    #[must_use]
    pub fn sequence_len(&self, payload: u32) -> u32 {
        payload.wrapping_add(u32::from(self.has(SYN))).wrapping_add(u32::from(self.has(FIN)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_etherparse_writes() {
        let mut theirs = etherparse::TcpHeader::new(80, 12345, 0xdead_beef, 4321);
        theirs.acknowledgment_number = 0x0102_0304;
        (theirs.ack, theirs.fin, theirs.cwr) = (true, true, true);
        theirs.checksum = 0x1234;
        theirs.set_options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1460)]).unwrap();
        let bytes = theirs.to_bytes();
        let (header, _) = TcpHeader::split(&bytes).unwrap();
        assert_eq!((header.source_port(), header.destination_port()), (80, 12345));
        assert_eq!((header.sequence(), header.acknowledgement()), (0xdead_beef, 0x0102_0304));
        assert_eq!(header.flags, ACK | FIN | CWR);
        assert!(header.has(ACK | FIN) && !header.has(SYN | ACK));
        assert_eq!((header.window(), header.checksum()), (4321, 0x1234));
        assert_eq!(header.check(24), Ok(24));
        assert_eq!(header.check(23), Err(Malformed::Truncated));
        assert_eq!(header.sequence_len(10), 11);
        assert_eq!(u16::from_be_bytes([bytes[CHECKSUM_AT], bytes[CHECKSUM_AT + 1]]), 0x1234);
    }

    #[test]
    fn etherparse_reads_what_new_writes() {
        let mut header = TcpHeader::new(1, 2, RST | ACK);
        header.set_sequence(3);
        header.set_acknowledgement(4);
        header.set_checksum(5);
        let (theirs, rest) = etherparse::TcpHeader::from_slice(header.as_bytes()).unwrap();
        assert!(rest.is_empty() && theirs.rst && theirs.ack && !theirs.syn);
        assert_eq!((theirs.source_port, theirs.destination_port), (1, 2));
        assert_eq!((theirs.sequence_number, theirs.acknowledgment_number, theirs.checksum), (3, 4, 5));
    }

    #[test]
    fn short_offset_is_refused() {
        let mut bytes = TcpHeader::new(1, 2, 0).as_bytes().to_vec();
        bytes[12] = 4 << 4;
        assert_eq!(TcpHeader::split(&bytes).unwrap().0.check(20), Err(Malformed::HeaderLength));
    }
}
