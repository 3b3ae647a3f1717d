//! Wire formats: headers laid over bytes, without copies and without unsafe code.
//!
//! Every header is a `#[repr(C)]` struct of bytes and network-order integers, so any sufficiently long bytes *are* a
//! header: laying one over a frame only checks the length. The contents (is this version 4? do the lengths agree?) are
//! checked separately, by accessors that return numbers in host order and checks that return [`Malformed`]. Fields that
//! the packet path writes have setters. None of them updates a checksum: see [`checksum::Delta`].
//!
//! [`reply`] builds the frames that the gateway sends in its own name.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub mod address;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod icmp_translation;
pub mod ipv4;
pub mod ipv6;
pub mod reply;
pub mod sctp;
pub mod tcp;
pub mod toeplitz;
pub mod udp;

/// IP protocol numbers (IPv6 next-header values) that the gateway knows, as IANA assigns them.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 encapsulated.
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 encapsulated.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Generic routing encapsulation.
    pub const GRE: u8 = 47;
    /// Encapsulating security payload: whatever follows can't be read.
    pub const ESP: u8 = 50;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: nothing follows.
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Why bytes aren't a valid packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// There are fewer bytes than the header or its length fields require.
    #[error("the packet ends before its header or its stated length does")]
    Truncated,
    /// The IP version differs from the one announced by the link layer.
    #[error("the IP version doesn't match the EtherType")]
    Version,
    /// The header length is below that of the fixed header.
    #[error("the header length is below the minimum")]
    HeaderLength,
    /// The total length is below the header length.
    #[error("the total length is below the header length")]
    TotalLength,
}

/// The fields of a new IP header, apart from addresses and length.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// Type of service or traffic class: the same octet.
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Protocol number of what follows.
    pub protocol: u8,
}

/// A fixed-size header that can be laid over the front of some bytes.
pub trait Header: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Sized {
    /// The length of the fixed header.
    const LEN: usize = size_of::<Self>();

    /// The header at the front and the bytes after it; `None` if there are fewer than [`Self::LEN`].
    #[inline]
    fn split(bytes: &[u8]) -> Option<(&Self, &[u8])> {
        Self::ref_from_prefix(bytes).ok()
    }

    /// Like [`Self::split`], but mutable.
    #[inline]
    fn split_mut(bytes: &mut [u8]) -> Option<(&mut Self, &mut [u8])> {
        Self::mut_from_prefix(bytes).ok()
    }

    /// The header at byte `offset`; `None` if it doesn't fit there.
    #[inline]
    fn at(bytes: &[u8], offset: usize) -> Option<&Self> {
        Some(Self::split(bytes.get(offset..)?)?.0)
    }

    /// Like [`Self::at`], but mutable.
    #[inline]
    fn at_mut(bytes: &mut [u8], offset: usize) -> Option<&mut Self> {
        Some(Self::split_mut(bytes.get_mut(offset..)?)?.0)
    }
}

/// Declares [`Header`] for the overlays of the submodules.
macro_rules! headers {
    ($($name:ty = $len:literal),+ $(,)?) => {$(
        impl $crate::net::Header for $name {}
        const _: () = assert!(size_of::<$name>() == $len && align_of::<$name>() == 1);
    )+};
}
use headers;
