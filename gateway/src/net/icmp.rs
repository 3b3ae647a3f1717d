//! ICMP for IPv4 and IPv6: one header layout, two sets of numbers, and the packet inside an error.
//!
//! ```text
//! 0        1        2        3
//! | type   | code   | checksum        |
//! | by type: 0, MTU, pointer, id + seq|
//! | errors: the IP header and the first bytes of the packet that caused it
//! ```
//! Sources: RFC 792, RFC 1191 (MTU), RFC 4443. The checksum of ICMPv6 covers a pseudo-header, ICMP's
//! for IPv4 doesn't.

use std::net::IpAddr;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::network_endian::{U16, U32},
};

use super::{
    Header, Malformed, headers,
    ipv4::Ipv4Header,
    ipv6::{self, Ipv6Header},
    protocol,
};

/// Types and codes of ICMP for IPv4.
pub mod v4 {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Source quench (obsolete).
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Echo request.
    pub const ECHO: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;

    /// Code of [`UNREACHABLE`]: network.
    pub const NETWORK: u8 = 0;
    /// Code of [`UNREACHABLE`]: host.
    pub const HOST: u8 = 1;
    /// Code of [`UNREACHABLE`]: protocol.
    pub const PROTOCOL: u8 = 2;
    /// Code of [`UNREACHABLE`]: port.
    pub const PORT: u8 = 3;
    /// Code of [`UNREACHABLE`]: too big for the next hop, with DF set.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Code of [`UNREACHABLE`]: forbidden by an administrator.
    pub const PROHIBITED: u8 = 13;
    /// Code of [`UNREACHABLE`]: communication with the host forbidden by an administrator.
    pub const HOST_PROHIBITED: u8 = 10;
    /// Code of [`TIME_EXCEEDED`]: the TTL ran out.
    pub const TTL: u8 = 0;
    /// Code of [`TIME_EXCEEDED`]: fragments were missing.
    pub const REASSEMBLY: u8 = 1;
}

/// Types and codes of ICMPv6.
pub mod v6 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// First of the neighbour discovery messages (router solicitation).
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Last of the neighbour discovery messages (redirect).
    pub const REDIRECT: u8 = 137;

    /// Code of [`UNREACHABLE`]: no route.
    pub const NO_ROUTE: u8 = 0;
    /// Code of [`UNREACHABLE`]: forbidden by an administrator.
    pub const PROHIBITED: u8 = 1;
    /// Code of [`UNREACHABLE`]: address.
    pub const ADDRESS: u8 = 3;
    /// Code of [`UNREACHABLE`]: port.
    pub const PORT: u8 = 4;
    /// Code of [`TIME_EXCEEDED`]: the hop limit ran out.
    pub const HOP_LIMIT: u8 = 0;
    /// Code of [`TIME_EXCEEDED`]: fragments were missing.
    pub const REASSEMBLY: u8 = 1;
}

/// The first 8 bytes of every message.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IcmpHeader {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    checksum: U16,
    rest: U32,
}

headers!(IcmpHeader = 8);

impl IcmpHeader {
    /// A header with checksum 0 and these last four bytes (host order).
    #[must_use]
    pub fn new(kind: u8, code: u8, rest: u32) -> Self {
        Self { kind, code, checksum: U16::ZERO, rest: U32::new(rest) }
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

    /// The last four bytes, host order: the MTU in ICMPv6's packet too big, the pointer in its parameter
    /// problem.
    #[inline]
    #[must_use]
    pub fn rest(&self) -> u32 {
        self.rest.get()
    }

    /// Sets the last four bytes.
    #[inline]
    pub fn set_rest(&mut self, value: u32) {
        self.rest.set(value);
    }

    /// Identifier of an echo message.
    #[inline]
    #[must_use]
    pub fn echo_id(&self) -> u16 {
        (self.rest() >> 16) as u16
    }

    /// Sequence number of an echo message.
    #[inline]
    #[must_use]
    pub fn echo_sequence(&self) -> u16 {
        self.rest() as u16
    }

    /// The MTU of an IPv4 fragmentation-needed message; 0 from routers older than RFC 1191.
    #[inline]
    #[must_use]
    pub fn mtu_v4(&self) -> u16 {
        self.rest() as u16
    }

    /// Sets the MTU of an IPv4 fragmentation-needed message, and nothing else of the last four bytes.
    #[inline]
    pub fn set_mtu_v4(&mut self, mtu: u16) {
        self.set_rest(self.rest() & 0xffff_0000 | u32::from(mtu));
    }

    /// Whether the message, taken as ICMP for IPv4, reports on a packet that it quotes.
    #[inline]
    #[must_use]
    pub fn is_error_v4(&self) -> bool {
        matches!(
            self.kind,
            v4::UNREACHABLE | v4::SOURCE_QUENCH | v4::REDIRECT | v4::TIME_EXCEEDED | v4::PARAMETER_PROBLEM
        )
    }

    /// Whether the message, taken as ICMP for IPv4, tells a packet's sender what happened to the packet, and nothing
    /// else: the contents of a redirect or a parameter problem have no meaning in another network.
    #[inline]
    #[must_use]
    pub fn tells_sender_v4(&self) -> bool {
        matches!(self.kind, v4::UNREACHABLE | v4::SOURCE_QUENCH | v4::TIME_EXCEEDED)
    }

    /// Like [`Self::tells_sender_v4`], for ICMPv6: the errors of RFC 4443.
    #[inline]
    #[must_use]
    pub fn tells_sender_v6(&self) -> bool {
        matches!(self.kind, v6::UNREACHABLE..=v6::PARAMETER_PROBLEM)
    }

    /// Whether the message, taken as ICMPv6, is an error: types below 128 are.
    #[inline]
    #[must_use]
    pub fn is_error_v6(&self) -> bool {
        self.kind < 128
    }
}

/// The packet that an error quotes, as far as it is quoted. Errors quote at least 8 bytes behind the IP header, so
/// TCP's ports are present but not its flags or checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address.
    pub destination: IpAddr,
    /// Its protocol; for IPv6 the one behind the extension headers.
    pub protocol: u8,
    /// Source port, host order; an echo message has its identifier in the place of ports.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// The offset of its transport header from the start of its IP header.
    pub transport_at: usize,
    /// It is a later fragment, without ports (both are 0).
    pub later_fragment: bool,
}

/// Reads the packet quoted by an IPv4 error; `quoted` is what follows the 8 bytes of ICMP header. The total length
/// isn't checked, because quotes are truncated.
pub fn inner_v4(quoted: &[u8]) -> Result<Inner, Malformed> {
    let (header, _) = Ipv4Header::split(quoted).ok_or(Malformed::Truncated)?;
    if header.version() != 4 {
        return Err(Malformed::Version);
    }
    if header.header_len() < Ipv4Header::LEN {
        return Err(Malformed::HeaderLength);
    }
    let inner = Inner {
        source: header.source().into(),
        destination: header.destination().into(),
        protocol: header.protocol,
        source_port: 0,
        destination_port: 0,
        transport_at: header.header_len(),
        later_fragment: header.fragment_offset() != 0,
    };
    inner.with_ports(quoted)
}

/// Reads the packet quoted by an ICMPv6 error; `quoted` is what follows the 8 bytes of ICMP header.
pub fn inner_v6(quoted: &[u8]) -> Result<Inner, Malformed> {
    let (header, _) = Ipv6Header::split(quoted).ok_or(Malformed::Truncated)?;
    if header.version() != 6 {
        return Err(Malformed::Version);
    }
    let upper = ipv6::upper(quoted)?;
    let inner = Inner {
        source: header.source().into(),
        destination: header.destination().into(),
        protocol: upper.protocol,
        source_port: 0,
        destination_port: 0,
        transport_at: upper.offset,
        later_fragment: upper.fragment.is_some_and(|f| f.offset() != 0),
    };
    inner.with_ports(quoted)
}

impl Inner {
    fn with_ports(mut self, quoted: &[u8]) -> Result<Self, Malformed> {
        if self.later_fragment {
            return Ok(self);
        }
        let transport = quoted.get(self.transport_at..).ok_or(Malformed::Truncated)?;
        match self.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => {
                let (&[a, b, c, d], _) = transport.split_first_chunk().ok_or(Malformed::Truncated)?;
                self.source_port = u16::from_be_bytes([a, b]);
                self.destination_port = u16::from_be_bytes([c, d]);
            }
            protocol::ICMP | protocol::ICMPV6 => {
                let (echo, _) = IcmpHeader::split(transport).ok_or(Malformed::Truncated)?;
                // The identifier serves as the sender's port.
                let port = match echo.kind {
                    v4::ECHO_REPLY | v6::ECHO_REPLY => &mut self.destination_port,
                    _ => &mut self.source_port,
                };
                *port = echo.echo_id();
            }
            _ => {}
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use etherparse::{Icmpv4Type, PacketBuilder, icmpv4};

    use super::*;

    #[test]
    fn header_reads_what_etherparse_writes() {
        let theirs = etherparse::Icmpv4Header::with_checksum(
            Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded {
                next_hop_mtu: 1400,
            }),
            &[1, 2, 3],
        );
        let bytes = theirs.to_bytes();
        let (header, _) = IcmpHeader::split(&bytes).unwrap();
        assert_eq!((header.kind, header.code, header.mtu_v4()), (3, 4, 1400));
        assert_eq!(header.checksum(), theirs.checksum);
        assert!(header.is_error_v4());
        let mut own = IcmpHeader::new(v4::UNREACHABLE, v4::FRAGMENTATION_NEEDED, 0);
        own.set_mtu_v4(1400);
        own.set_checksum(theirs.checksum);
        assert_eq!(own.as_bytes(), &bytes[..]);
    }

    #[test]
    fn echo_is_no_error() {
        let header = IcmpHeader::new(v4::ECHO, 0, 0x0007_0009);
        assert_eq!((header.echo_id(), header.echo_sequence()), (7, 9));
        assert!(!header.is_error_v4());
        assert!(!IcmpHeader::new(v6::ECHO, 0, 0).is_error_v6());
        assert!(IcmpHeader::new(v6::TOO_BIG, 0, 1280).is_error_v6());
    }

    #[test]
    fn inner_tuples() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [192, 0, 2, 9], 4)
            .tcp(80, 4000, 1, 2)
            .write(&mut packet, b"abc")
            .unwrap();
        let inner = inner_v4(&packet[..28]).unwrap();
        assert_eq!(inner.source, Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!((inner.source_port, inner.destination_port), (80, 4000));
        assert_eq!((inner.protocol, inner.transport_at, inner.later_fragment), (6, 20, false));
        assert_eq!(inner_v4(&packet[..23]), Err(Malformed::Truncated));

        let mut packet = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 4).udp(53, 999).write(&mut packet, b"abc").unwrap();
        let inner = inner_v6(&packet[..48]).unwrap();
        assert_eq!(inner.destination, Ipv6Addr::from([2; 16]));
        assert_eq!((inner.protocol, inner.source_port, inner.destination_port), (17, 53, 999));
        assert_eq!(inner_v6(&packet[..39]), Err(Malformed::Truncated));
    }

    #[test]
    fn later_fragments_have_no_ports() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [192, 0, 2, 9], 4).udp(1, 2).write(&mut packet, &[]).unwrap();
        packet[7] = 5;
        let inner = inner_v4(&packet[..20]).unwrap();
        assert!(inner.later_fragment);
        assert_eq!((inner.source_port, inner.destination_port), (0, 0));
    }
}
