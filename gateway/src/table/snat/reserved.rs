//! The kernel's ports of addresses that it shares with SNAT (masquerading): its ephemeral range, and ports with
//! listeners.

use super::{
    blocks::{BLOCK, FIRST_PORT, Row},
    row,
};

/// The number of words with one bit per port.
const WORDS: usize = 65_536 / 64;
const _: () = assert!(BLOCK == 64 && FIRST_PORT.is_multiple_of(BLOCK));

/// One bit per port, for TCP and for UDP. ICMP identifiers are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    bits: [Box<[u64; WORDS]>; 2],
}

impl Default for Reserved {
    fn default() -> Self {
        Self { bits: [Box::new([0; WORDS]), Box::new([0; WORDS])] }
    }
}

impl Reserved {
    /// Reserves ports for both TCP and UDP.
    pub fn keep_range(&mut self, first: u16, last: u16) {
        for port in first..=last {
            self.bits.iter_mut().for_each(|bits| bits[usize::from(port / 64)] |= 1 << (port % 64));
        }
    }

    /// Reserves a port of TCP (row 0) or UDP (row 1).
    pub fn keep(&mut self, Row(row): Row, port: u16) {
        if let Some(bits) = self.bits.get_mut(usize::from(row)) {
            bits[usize::from(port / 64)] |= 1 << (port % 64);
        }
    }

    /// The reserved ports of a block, one bit each.
    #[must_use]
    pub fn of_block(&self, Row(row): Row, n: u16) -> u64 {
        let word = usize::from(FIRST_PORT / 64) + usize::from(n);
        self.bits.get(usize::from(row)).and_then(|bits| bits.get(word)).copied().unwrap_or(0)
    }

    /// Whether packets of a protocol to this port always go to the kernel.
    #[must_use]
    pub fn is_kept(&self, protocol: u8, port: u16) -> bool {
        let Some(bits) = row(protocol).and_then(|Row(row)| self.bits.get(usize::from(row))) else {
            return false;
        };
        port < FIRST_PORT || bits[usize::from(port / 64)] & 1 << (port % 64) != 0
    }

    /// The number of ports left for SNAT in both protocols.
    #[must_use]
    pub fn left(&self) -> u32 {
        let words = self.bits[0].iter().zip(self.bits[1].iter()).skip(usize::from(FIRST_PORT / 64));
        words.map(|(tcp, udp)| (tcp | udp).count_zeros()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::protocol::{ICMP, TCP, UDP};

    #[test]
    fn the_ephemeral_range_and_listeners_are_the_kernel_s() {
        let mut kept = Reserved::default();
        assert_eq!(kept.left(), 64_512);
        kept.keep_range(32_768, 60_999);
        kept.keep(Row(0), 8080);
        kept.keep(Row(1), 65_535);
        for (protocol, port, expected) in [
            (TCP, 22, true),
            (TCP, 1023, true),
            (TCP, 1024, false),
            (TCP, 8080, true),
            (UDP, 8080, false),
            (TCP, 32_767, false),
            (TCP, 32_768, true),
            (UDP, 60_999, true),
            (UDP, 61_000, false),
            (UDP, 65_535, true),
            (TCP, 65_535, false),
            (ICMP, 22, false),
            (ICMP, 40_000, false),
        ] {
            assert_eq!(kept.is_kept(protocol, port), expected, "{protocol} {port}");
        }
        assert_eq!(kept.left(), 64_512 - 28_232 - 2);
        let block = |port: u16| (port - FIRST_PORT) / BLOCK;
        assert_eq!(kept.of_block(Row(0), block(8080)), 1 << ((8080 - 1024) % 64));
        assert_eq!(kept.of_block(Row(1), block(8080)), 0);
        assert_eq!((kept.of_block(Row(0), 496), kept.of_block(Row(0), 495)), (u64::MAX, 0));
        assert_eq!(kept.of_block(Row(1), 937), (1 << (61_000 - 60_992)) - 1);
        assert_eq!(kept.of_block(Row(2), 496), 0, "ICMP");
        kept.keep_range(0, 65_535);
        assert_eq!(kept.left(), 0);
    }
}
