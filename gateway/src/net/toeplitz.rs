//! The Toeplitz hash that NICs use for receive-side scaling, computed exactly as they do.
//!
//! Steering needs it to know beforehand which queue a frame will arrive on. The hash of a message is the
//! exclusive or, over the message's set bits, of the 32 key bits that start at that bit's position: so it is
//! linear, hash(a ^ b) = hash(a) ^ hash(b), and a table per byte position turns a hash into one look-up a
//! byte. The message is, in network order (Microsoft, "RSS hashing functions"):
//!
//! ```text
//! IPv4  source 4, destination 4 [, source port 2, destination port 2]
//! IPv6  source 16, destination 16 [, source port 2, destination port 2]
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

/// The length of a key. NICs with longer keys use the first 40 bytes for these messages.
pub const KEY_LEN: usize = 40;

/// The longest message: two IPv6 addresses and two ports.
const MESSAGE_LEN: usize = 36;

/// The offset of the destination port in an IPv4 message.
pub const IPV4_DESTINATION_PORT: usize = 10;

/// The offset of the destination port in an IPv6 message.
pub const IPV6_DESTINATION_PORT: usize = 34;

/// The hash for one key, as tables: 36 KB, of which IPv4 uses the first 12 KB.
#[derive(Clone)]
pub struct Toeplitz {
    tables: Box<[[u32; 256]; MESSAGE_LEN]>,
}

impl Toeplitz {
    /// Prepares `key`.
    #[must_use]
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        let mut tables = vec![[0u32; 256]; MESSAGE_LEN];
        for (position, table) in tables.iter_mut().enumerate() {
            for byte in 1..256usize {
                let low = byte & byte.wrapping_neg();
                table[byte] =
                    table[byte ^ low] ^ window(key, position * 8 + 7 - low.trailing_zeros() as usize);
            }
        }
        // The length is that of the type, so this can't fail.
        let tables =
            tables.into_boxed_slice().try_into().unwrap_or_else(|_| Box::new([[0; 256]; MESSAGE_LEN]));
        Self { tables }
    }

    /// The hash of a message of at most 36 bytes; longer ones are truncated.
    #[inline]
    #[must_use]
    pub fn hash(&self, message: &[u8]) -> u32 {
        self.tables.iter().zip(message).fold(0, |h, (table, &byte)| h ^ table[byte as usize])
    }

    /// The contribution of one byte at `position` (below 36) to the hash.
    #[inline]
    #[must_use]
    pub fn contribution(&self, position: usize, byte: u8) -> u32 {
        self.tables[position][byte as usize]
    }

    /// The hash of addresses only.
    #[inline]
    #[must_use]
    pub fn ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr) -> u32 {
        let mut message = [0; 8];
        message[..4].copy_from_slice(&source.octets());
        message[4..].copy_from_slice(&destination.octets());
        self.hash(&message)
    }

    /// The hash of addresses and ports (host order).
    #[inline]
    #[must_use]
    pub fn ipv4_ports(&self, source: Ipv4Addr, destination: Ipv4Addr, sport: u16, dport: u16) -> u32 {
        let mut message = [0; 12];
        message[..4].copy_from_slice(&source.octets());
        message[4..8].copy_from_slice(&destination.octets());
        message[8..10].copy_from_slice(&sport.to_be_bytes());
        message[10..].copy_from_slice(&dport.to_be_bytes());
        self.hash(&message)
    }

    /// The hash of addresses only.
    #[inline]
    #[must_use]
    pub fn ipv6(&self, source: Ipv6Addr, destination: Ipv6Addr) -> u32 {
        let mut message = [0; 32];
        message[..16].copy_from_slice(&source.octets());
        message[16..].copy_from_slice(&destination.octets());
        self.hash(&message)
    }

    /// The hash of addresses and ports (host order).
    #[inline]
    #[must_use]
    pub fn ipv6_ports(&self, source: Ipv6Addr, destination: Ipv6Addr, sport: u16, dport: u16) -> u32 {
        let mut message = [0; 36];
        message[..16].copy_from_slice(&source.octets());
        message[16..32].copy_from_slice(&destination.octets());
        message[32..34].copy_from_slice(&sport.to_be_bytes());
        message[34..].copy_from_slice(&dport.to_be_bytes());
        self.hash(&message)
    }
}

impl std::fmt::Debug for Toeplitz {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Toeplitz").finish_non_exhaustive()
    }
}

/// The 32 key bits from bit `position` on; bit 0 is the most significant bit of the first byte.
fn window(key: &[u8; KEY_LEN], position: usize) -> u32 {
    let first = position / 8;
    let five = key[first..first + 5].iter().fold(0u64, |v, &b| v << 8 | u64::from(b));
    (five >> (8 - position % 8)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of Microsoft's "Verifying the RSS hash calculation".
    const KEY: [u8; KEY_LEN] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    /// Source, port, destination, port, hash of the addresses, hash with the ports.
    type Vector = (&'static str, u16, &'static str, u16, u32, u32);

    const IPV4: [Vector; 5] = [
        ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323e_8fc2, 0x51cc_c178),
        ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xd718_262a, 0xc626_b0ea),
        ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xd2d0_a5de, 0x5c2b_394a),
        ("38.27.205.30", 48228, "209.142.163.6", 2217, 0x8298_9176, 0xafc7_327f),
        ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x5d18_09c5, 0x10e8_28a2),
    ];

    const IPV6: [Vector; 3] = [
        ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2cc1_8cd5, 0x4020_7d3d),
        ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0f0c_461c, 0xdde5_1bbf),
        (
            "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
            44251,
            "fe80::200:f8ff:fe21:67cf",
            38024,
            0x4b61_e985,
            0x02d1_feef,
        ),
    ];

    #[test]
    fn microsofts_ipv4_vectors() {
        let t = Toeplitz::new(&KEY);
        for (s, sp, d, dp, addresses, ports) in IPV4 {
            let (s, d) = (s.parse().unwrap(), d.parse().unwrap());
            assert_eq!(t.ipv4(s, d), addresses, "{s} {d}");
            assert_eq!(t.ipv4_ports(s, d, sp, dp), ports, "{s}:{sp} {d}:{dp}");
        }
    }

    #[test]
    fn microsofts_ipv6_vectors() {
        let t = Toeplitz::new(&KEY);
        for (s, sp, d, dp, addresses, ports) in IPV6 {
            let (s, d) = (s.parse().unwrap(), d.parse().unwrap());
            assert_eq!(t.ipv6(s, d), addresses, "{s} {d}");
            assert_eq!(t.ipv6_ports(s, d, sp, dp), ports, "{s}:{sp} {d}:{dp}");
        }
    }

    #[test]
    fn equals_the_definition_bit_by_bit() {
        let t = Toeplitz::new(&KEY);
        for position in 0..MESSAGE_LEN {
            for bit in 0..8 {
                let mut message = [0; MESSAGE_LEN];
                message[position] = 0x80 >> bit;
                // Shifts the whole key left, bit by bit, as in the definition.
                let mut key = KEY.to_vec();
                for _ in 0..position * 8 + bit {
                    let mut carry = 0;
                    for b in key.iter_mut().rev() {
                        (*b, carry) = (*b << 1 | carry, *b >> 7);
                    }
                }
                let expected = u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
                assert_eq!(t.hash(&message), expected, "byte {position} bit {bit}");
                assert_eq!(t.contribution(position, 0x80 >> bit), expected);
            }
        }
    }

    #[test]
    fn the_hash_is_linear() {
        let t = Toeplitz::new(&KEY);
        let (a, b) = ([0x5a; MESSAGE_LEN], core::array::from_fn::<u8, MESSAGE_LEN, _>(|i| i as u8 * 7));
        let both: Vec<u8> = a.iter().zip(b).map(|(x, y)| x ^ y).collect();
        assert_eq!(t.hash(&both), t.hash(&a) ^ t.hash(&b));
    }
}
