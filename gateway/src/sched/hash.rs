//! The fixed hashes of IPVS's hashing schedulers. They are part of a scheduler's definition: with the same servers in
//! the same order, every director makes the same choices.

use std::net::IpAddr;

/// An address as 32 bits, host order: the words of an IPv6 address are XORed.
#[inline]
pub fn fold(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => {
            let [a, b, c, d] = split(v6.to_bits());
            a ^ b ^ c ^ d
        }
    }
}

fn split(bits: u128) -> [u32; 4] {
    [(bits >> 96) as u32, (bits >> 64) as u32, (bits >> 32) as u32, bits as u32]
}

/// Multiplicative hash to 8 bits: the top bits of the product with 2^32 divided by the golden ratio.
#[inline]
pub fn multiplicative_8(value: u32) -> usize {
    (value.wrapping_mul(0x61c8_8647) >> 24) as usize
}

/// `SipHash` of one 32-bit number, with one round per word and three at the end, truncated to 32 bits; both key words
/// are `key`. (Aumasson, Bernstein: "SipHash: a fast short-input PRF".)
#[inline]
pub fn sip_1_3(value: u32, key: u64) -> u32 {
    let mut v = [
        key ^ 0x736f_6d65_7073_6575,
        key ^ 0x646f_7261_6e64_6f6d,
        key ^ 0x6c79_6765_6e65_7261,
        key ^ 0x7465_6462_7974_6573,
    ];
    // The only block: the length in bytes in the top byte, the number at the bottom.
    let block = 4 << 56 | u64::from(value);
    v[3] ^= block;
    sip_round(&mut v);
    v[0] ^= block;
    v[2] ^= 0xff;
    (0..3).for_each(|_| sip_round(&mut v));
    (v[0] ^ v[1] ^ v[2] ^ v[3]) as u32
}

#[inline]
fn sip_round(v: &mut [u64; 4]) {
    let mix = |v: &mut [u64; 4], a: usize, b: usize, turn: u32| {
        v[a] = v[a].wrapping_add(v[b]);
        v[b] = v[b].rotate_left(turn) ^ v[a];
    };
    mix(v, 0, 1, 13);
    v[0] = v[0].rotate_left(32);
    mix(v, 2, 3, 16);
    mix(v, 0, 3, 21);
    mix(v, 2, 1, 17);
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sip_values() {
        // Values that the standard library's hasher (SipHash-1-3 with key 0) returned for the same four bytes.
        for (value, expected) in
            [(0, 0x9ac4_8af0), (1, 0xc37b_7090), (0xdead_beef, 0x84fb_8253), (u32::MAX, 0x74ca_d6e2)]
        {
            assert_eq!(sip_1_3(value, 0), expected, "{value:#x}");
        }
    }

    #[test]
    fn addresses_fold() {
        assert_eq!(fold("10.1.2.3".parse().unwrap()), 0x0a01_0203);
        assert_eq!(fold("2001:db8::1".parse().unwrap()), 0x2001_0db8 ^ 1);
    }

    #[test]
    fn multiplicative_stays_in_range() {
        assert_eq!(multiplicative_8(0), 0);
        assert_eq!(multiplicative_8(1), 0x61);
        assert_eq!(multiplicative_8(2), 0xc3);
    }
}
