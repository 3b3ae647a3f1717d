//! A packet's addresses, ports and direction: the key of a session's record.

/// Addresses and ports of a packet as laid out in its headers: network byte order read as little-endian words, source
/// first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple {
    /// Source address in the low half, destination in the high half.
    pub addresses: u64,
    /// Source port in the low half, destination port in the high half.
    pub ports: u32,
}

impl Tuple {
    /// Builds the tuple from addresses and ports in host order.
    #[must_use]
    pub fn new(source: (u32, u16), destination: (u32, u16)) -> Self {
        Self {
            addresses: u64::from(source.0.swap_bytes()) | u64::from(destination.0.swap_bytes()) << 32,
            ports: u32::from(source.1.swap_bytes()) | u32::from(destination.1.swap_bytes()) << 16,
        }
    }

    /// A 32-bit value that is the same for every packet of a flow and differs between flows, for uses that need no
    /// secret.
    #[inline]
    #[must_use]
    pub fn spread(self) -> u32 {
        let mixed = self.addresses ^ u64::from(self.ports).rotate_left(24);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }

    /// The tuple of the answer, with source and destination exchanged.
    #[inline]
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { addresses: self.addresses.rotate_left(32), ports: self.ports.rotate_left(16) }
    }

    /// Source address and port in host order.
    #[inline]
    #[must_use]
    pub fn source(self) -> (u32, u16) {
        ((self.addresses as u32).swap_bytes(), (self.ports as u16).swap_bytes())
    }

    /// Destination address and port in host order.
    #[inline]
    #[must_use]
    pub fn destination(self) -> (u32, u16) {
        self.reversed().source()
    }
}

/// The direction of a packet in its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// From the client to the server.
    Request = 0,
    /// From the server to the client.
    Reply = 1,
}

impl Direction {
    /// The opposite direction.
    #[inline]
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Request => Self::Reply,
            Self::Reply => Self::Request,
        }
    }

    /// The index into a session's pairs.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}
