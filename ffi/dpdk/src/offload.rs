//! What the receiving device reports about a frame, and what the sending device is asked to do with it.

use crate::{Mbuf, head::field};

/// What a device reports about a checksum of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// It wasn't checked.
    Unknown,
    /// It is wrong.
    Bad,
    /// It is correct.
    Good,
    /// The data is correct but the checksum isn't filled in: the frame of a virtual device that was never on a wire.
    NotFilledIn,
}

/// The protocol whose checksum a device must fill in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// TCP's.
    Tcp,
    /// UDP's.
    Udp,
}

/// Reports of the receiving device.
impl Mbuf {
    /// Number of the DPDK port that the frame came from.
    #[inline]
    #[must_use]
    pub fn port(&self) -> u16 {
        self.head().port
    }

    /// The RSS hash that the device computed, if it did.
    #[inline]
    #[must_use]
    pub fn rss_hash(&self) -> Option<u32> {
        let head = self.head();
        (head.ol_flags & dpdk_sys::RTE_MBUF_F_RX_RSS_HASH != 0).then_some(head.rss)
    }

    /// The VLAN tag that the device removed, if it did (priority, CFI and identifier, host order).
    #[inline]
    #[must_use]
    pub fn stripped_vlan(&self) -> Option<u16> {
        let head = self.head();
        (head.ol_flags & dpdk_sys::RTE_MBUF_F_RX_VLAN_STRIPPED != 0).then_some(head.vlan_tci)
    }

    /// What the device reports about the IPv4 header checksum.
    #[inline]
    #[must_use]
    pub fn ip_checksum(&self) -> Checksum {
        use dpdk_sys::*;
        match self.head().ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK {
            RTE_MBUF_F_RX_IP_CKSUM_GOOD => Checksum::Good,
            RTE_MBUF_F_RX_IP_CKSUM_BAD => Checksum::Bad,
            RTE_MBUF_F_RX_IP_CKSUM_NONE => Checksum::NotFilledIn,
            _ => Checksum::Unknown,
        }
    }

    /// What the device reports about the TCP or UDP checksum.
    #[inline]
    #[must_use]
    pub fn l4_checksum(&self) -> Checksum {
        use dpdk_sys::*;
        match self.head().ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK {
            RTE_MBUF_F_RX_L4_CKSUM_GOOD => Checksum::Good,
            RTE_MBUF_F_RX_L4_CKSUM_BAD => Checksum::Bad,
            RTE_MBUF_F_RX_L4_CKSUM_NONE => Checksum::NotFilledIn,
            _ => Checksum::Unknown,
        }
    }

    /// The packet type that the device detected, as `RTE_PTYPE_*`; 0 if it didn't check.
    #[inline]
    #[must_use]
    pub fn packet_type(&self) -> u32 {
        self.head().packet_type
    }
}

/// Requests to the sending device.
impl Mbuf {
    /// Requests checksums from the sending device: IPv4's header checksum if `ipv4`, and that of `l4`, which must hold
    /// the pseudo-header's sum (see [`crate::TxQueue::prepare`]). `l2_len` and `l3_len` are the lengths of those
    /// headers in bytes. If the first segment is too short for such headers, returns false and requests nothing. Moving
    /// the frame's start or end cancels the request.
    pub fn request_checksums(&mut self, l2_len: usize, l3_len: usize, ipv4: bool, l4: Option<L4>) -> bool {
        use dpdk_sys::*;
        let l4_len = match l4 {
            Some(L4::Tcp) => 20,
            Some(L4::Udp) => 8,
            None => 0,
        };
        if l2_len > 127 || l3_len > 511 || l2_len + l3_len + l4_len > self.head().data_len.into() {
            return false;
        }
        let mut flags = if ipv4 { RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM } else { RTE_MBUF_F_TX_IPV6 };
        flags |= match l4 {
            Some(L4::Tcp) => RTE_MBUF_F_TX_TCP_CKSUM,
            Some(L4::Udp) => RTE_MBUF_F_TX_UDP_CKSUM,
            None => 0,
        };
        self.forget_requests();
        self.head_mut().ol_flags |= flags;
        let lengths = (l2_len as u64) << SHIM_MBUF_L2_LEN_SHIFT
            | (l3_len as u64) << SHIM_MBUF_L3_LEN_SHIFT
            | (l4_len as u64) << SHIM_MBUF_L4_LEN_SHIFT;
        // SAFETY: the field lies inside every mbuf, and this one is owned and borrowed mutably.
        unsafe { *field::<u64>(self.address(), SHIM_MBUF_TX_OFFLOAD) = lengths };
        true
    }

    /// Cancels requests to the sending device: with lengths that no longer fit the frame, a driver would read beyond
    /// it.
    #[inline(always)]
    pub(crate) fn forget_requests(&mut self) {
        use dpdk_sys::*;
        const REQUESTS: u64 = RTE_MBUF_F_TX_OFFLOAD_MASK;
        if self.head().ol_flags & REQUESTS != 0 {
            self.head_mut().ol_flags &= !REQUESTS;
            // SAFETY: the field lies inside every mbuf, and this one is owned and borrowed mutably.
            unsafe { *field::<u64>(self.address(), SHIM_MBUF_TX_OFFLOAD) = 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn checksum_requests_end_when_the_frame_moves() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let mut frame = pool.alloc_from(&[0; 54]).unwrap();
        assert!(!frame.request_checksums(14, 24, true, Some(L4::Tcp)));
        assert!(!frame.request_checksums(128, 20, true, None));
        assert!(frame.request_checksums(14, 20, true, Some(L4::Tcp)));
        assert_ne!(frame.head().ol_flags & dpdk_sys::RTE_MBUF_F_TX_TCP_CKSUM, 0);
        frame.truncate(40);
        assert_eq!(frame.head().ol_flags & dpdk_sys::RTE_MBUF_F_TX_OFFLOAD_MASK, 0);
        assert!(!frame.request_checksums(14, 20, true, Some(L4::Udp)));
        assert!(frame.request_checksums(14, 20, true, None));
    }

    #[test]
    fn a_fresh_frame_knows_nothing_of_reception() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let frame = pool.alloc().unwrap();
        assert_eq!((frame.rss_hash(), frame.stripped_vlan()), (None, None));
        assert_eq!((frame.ip_checksum(), frame.l4_checksum()), (Checksum::Unknown, Checksum::Unknown));
        drop((frame, pool, eal));
    }
}
