//! Ethernet II framing and the 802.1Q tag.
//!
//! ```text
//! 0               6               12    14
//! | destination   | source        | type | payload ...
//! type 0x8100 / 0x88a8: | priority, DEI, VLAN id (16 bits) | type | payload ...
//! ```
//! Sources: IEEE 802.3, IEEE 802.1Q.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::network_endian::U16};

use super::headers;

/// EtherTypes, host order.
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// A customer VLAN tag follows.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// A service VLAN tag follows.
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// The shortest frame without its check sequence; shorter ones are padded on the wire.
pub const MIN_FRAME: usize = 60;

pub use crate::mac::Mac;

/// The Ethernet II header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct EthernetHeader {
    /// Receiving station.
    pub destination: Mac,
    /// Sending station.
    pub source: Mac,
    ether_type: U16,
}

/// A VLAN tag as it follows an EtherType of 0x8100 or 0x88a8.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct VlanTag {
    control: U16,
    ether_type: U16,
}

headers!(EthernetHeader = 14, VlanTag = 4);

impl EthernetHeader {
    /// A header with these fields; `ether_type` in host order.
    #[must_use]
    pub fn new(destination: Mac, source: Mac, ether_type: u16) -> Self {
        Self { destination, source, ether_type: U16::new(ether_type) }
    }

    /// The type of the payload, host order; values below 0x0600 are 802.3 lengths.
    #[inline]
    #[must_use]
    pub fn ether_type(&self) -> u16 {
        self.ether_type.get()
    }

    /// Sets the type of the payload.
    #[inline]
    pub fn set_ether_type(&mut self, ether_type: u16) {
        self.ether_type.set(ether_type);
    }
}

impl VlanTag {
    /// A tag of priority 0 for VLAN `id` (only its low 12 bits count).
    #[must_use]
    pub fn new(id: u16, ether_type: u16) -> Self {
        Self { control: U16::new(id & 0x0fff), ether_type: U16::new(ether_type) }
    }

    /// VLAN number, 0..=4095.
    #[inline]
    #[must_use]
    pub fn id(&self) -> u16 {
        self.control.get() & 0x0fff
    }

    /// Priority, drop-eligible bit and number, as on the wire (host order).
    #[inline]
    #[must_use]
    pub fn control(&self) -> u16 {
        self.control.get()
    }

    /// The type of what follows the tag, host order.
    #[inline]
    #[must_use]
    pub fn ether_type(&self) -> u16 {
        self.ether_type.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Header;

    #[test]
    fn header_is_what_etherparse_writes() {
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ethernet2([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12])
            .single_vlan(etherparse::VlanId::try_new(0x123).unwrap())
            .ipv4([1, 1, 1, 1], [2, 2, 2, 2], 3)
            .udp(1, 2)
            .write(&mut bytes, &[])
            .unwrap();
        let (ethernet, rest) = EthernetHeader::split(&bytes).unwrap();
        assert_eq!(ethernet.source, Mac([1, 2, 3, 4, 5, 6]));
        assert_eq!(ethernet.destination.to_string(), "07:08:09:0a:0b:0c");
        assert_eq!(ethernet.ether_type(), ether_type::VLAN);
        let (tag, _) = VlanTag::split(rest).unwrap();
        assert_eq!((tag.id(), tag.ether_type()), (0x123, ether_type::IPV4));
    }

    #[test]
    fn group_bit() {
        assert!(Mac::BROADCAST.is_group());
        assert!(Mac([0x33, 0x33, 0, 0, 0, 1]).is_group());
        assert!(!Mac([0x02, 0, 0, 0, 0, 1]).is_group());
    }

    #[test]
    fn short_bytes_are_no_header() {
        assert!(EthernetHeader::split(&[0; 13]).is_none());
        assert!(EthernetHeader::at(&[0; 20], 7).is_none());
        assert!(EthernetHeader::at(&[0; 20], 21).is_none());
    }
}
