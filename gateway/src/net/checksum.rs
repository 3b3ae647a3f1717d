//! The Internet checksum: sums (RFC 1071), incremental updates (RFC 1624), pseudo-headers.
//!
//! A checksum field holds the complement of the one's-complement sum of the 16-bit words it covers. When a session
//! rewrites addresses and ports, the change of that sum is the same for each of its packets: a [`Delta`], computed once
//! and applied with one addition per packet.
//!
//! One's complement has two zeros. A sum of words that aren't all zero folds to 0xffff, never to 0x0000, so a correct
//! field is 0x0000 where both values would verify. RFC 1624's equation 3 preserves this; its predecessor in RFC 1141
//! didn't. Only UDP sends 0xffff instead of 0x0000, because a field of 0x0000 means "no checksum": [`Delta::apply_udp`]
//! and [`Sum::udp_checksum`] do so.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A one's-complement sum of 16-bit big-endian words, not yet folded.
///
/// Sums of byte strings may be added if every string but the last has an even length (see [`Sum::swapped`]
/// for the others).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u32);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Sums `bytes`; an odd last byte counts as the high half of a word.
    #[inline]
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        // One's-complement addition commutes with swapping bytes, so whole machine words are added in native order and
        // the byte order is fixed at the end. Each step adds two 32-bit halves, which compilers vectorise; 64 bits
        // can't overflow below 2^34 bytes.
        let (words, tail) = bytes.as_chunks::<8>();
        let mut total = 0u64;
        for word in words {
            let word = u64::from_ne_bytes(*word);
            total += (word & 0xffff_ffff) + (word >> 32);
        }
        if !tail.is_empty() {
            let mut last = [0; 8];
            last[..tail.len()].copy_from_slice(tail);
            let word = u64::from_ne_bytes(last);
            total += (word & 0xffff_ffff) + (word >> 32);
        }
        Self(u32::from(fold64(total).to_be()))
    }

    /// Adds the sums of two strings.
    #[inline]
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (total, carry) = self.0.overflowing_add(other.0);
        Self(total + u32::from(carry))
    }

    /// Adds one word, host order.
    #[inline]
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        self.and(Self(u32::from(word)))
    }

    /// The sum of the same string shifted by one byte: for a string that starts at an odd offset, as a segment of a
    /// chained buffer may.
    #[inline]
    #[must_use]
    pub fn swapped(self) -> Self {
        Self(u32::from(self.fold().swap_bytes()))
    }

    /// The 16-bit sum, host order.
    #[inline]
    #[must_use]
    pub fn fold(self) -> u16 {
        fold32(self.0)
    }

    /// The value of a checksum field (host order) if this is the sum of all that it covers, with the field itself
    /// counted as 0. If the sum *includes* the field, 0 means that the field is correct.
    #[inline]
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Like [`Self::checksum`], for a UDP field, where 0 would mean "none".
    #[inline]
    #[must_use]
    pub fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            check => check,
        }
    }

    /// The pseudo-header of TCP and UDP over IPv4 (RFC 9293 3.1): `len` is the length of header and payload.
    #[inline]
    #[must_use]
    pub fn pseudo_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u16) -> Self {
        Self::of(&source.octets()).and(Self::of(&destination.octets())).word(u16::from(protocol)).word(len)
    }

    /// The pseudo-header of upper layers over IPv6 (RFC 8200 8.1).
    #[inline]
    #[must_use]
    pub fn pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, len: u32) -> Self {
        Self::of(&source.octets())
            .and(Self::of(&destination.octets()))
            .word(u16::from(protocol))
            .and(Self(len))
    }
}

#[inline]
fn fold32(total: u32) -> u16 {
    let once = (total & 0xffff) + (total >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// Folds a sum of words of any size to 16 bits.
#[inline]
pub(super) fn fold64(total: u64) -> u16 {
    let once = (total & 0xffff_ffff) + (total >> 32);
    fold32(((once & 0xffff_ffff) + (once >> 32)) as u32)
}

/// The change of a sum when covered words change: `~old + new`, folded (RFC 1624, equation 3).
///
/// It is stored in the byte order of a packet: one's-complement addition works in any byte order, so a field is changed
/// without swapping its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta(u16);

/// One's-complement addition.
#[inline(always)]
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

impl Default for Delta {
    fn default() -> Self {
        Self::NONE
    }
}

impl Delta {
    /// No change.
    pub const NONE: Self = Self(0);

    /// The change from the words `old` to the words `new`, host order. The lists may differ in length: added or removed
    /// words count as replacing zeros or replaced by them.
    #[inline]
    #[must_use]
    pub fn between(old: &[u16], new: &[u16]) -> Self {
        let total = |words: &[u16]| words.iter().fold(Sum::ZERO, |sum, &word| sum.word(word));
        Self::from_sums(total(old), total(new))
    }

    /// The change as a number, to be stored in a record.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The change that [`Self::bits`] returned as a number.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The change of one word, host order.
    #[inline]
    #[must_use]
    pub const fn word(old: u16, new: u16) -> Self {
        Self(add(!old, new).to_be())
    }

    /// The change if the covered bytes, whose sum was `old`, now have the sum `new`.
    #[inline]
    #[must_use]
    pub fn from_sums(old: Sum, new: Sum) -> Self {
        Self(Sum(u32::from(!old.fold())).and(new).fold().to_be())
    }

    /// Combines two changes.
    #[inline]
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(add(self.0, other.0))
    }

    /// The change itself, or its inverse, without a branch.
    #[inline(always)]
    #[must_use]
    pub fn inverse_if(self, back: bool) -> Self {
        Self(self.0 ^ u16::from(back).wrapping_neg())
    }

    /// The checksum field after the change, given the field before it; both in host order.
    #[inline]
    #[must_use]
    pub fn apply(self, check: u16) -> u16 {
        u16::from_be_bytes(self.apply_to(check.to_be_bytes()))
    }

    /// Like [`Self::apply`], for the field as laid out in the packet.
    #[inline(always)]
    #[must_use]
    pub fn apply_to(self, field: [u8; 2]) -> [u8; 2] {
        (!add(!u16::from_ne_bytes(field), self.0)).to_ne_bytes()
    }

    /// Like [`Self::apply`], for a UDP field: a missing checksum stays missing, and no other becomes one.
    #[inline]
    #[must_use]
    pub fn apply_udp(self, check: u16) -> u16 {
        if check == 0 {
            return 0;
        }
        match self.apply(check) {
            0 => 0xffff,
            check => check,
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::checksum::Sum16BitWords;
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, implemented plainly.
    fn plain(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&b| u32::from(b));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    fn bytes_of(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }

    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).fold(), 0xddf2);
        assert_eq!(Sum::of(&bytes).checksum(), 0x220d);
    }

    #[test]
    fn rfc_1624_example() {
        // Section 4: a field of 0xdd2f, a word changing from 0x5555 to 0x3285, gives 0x0000 and not 0xffff.
        assert_eq!(Delta::word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
        assert_eq!(Delta::between(&[0x5555], &[0x3285]).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn no_change_changes_nothing() {
        for check in 0..=u16::MAX {
            assert_eq!(Delta::NONE.apply(check), check);
        }
        // A word replaced by itself: the field is unchanged, and keeps the canonical one of the two zeros.
        for check in 0..u16::MAX {
            assert_eq!(Delta::word(0x1234, 0x1234).apply(check), check);
        }
    }

    #[test]
    fn udp_zero_rules() {
        let delta = Delta::word(0x5555, 0x3285);
        assert_eq!(delta.apply_udp(0), 0);
        assert_eq!(delta.apply_udp(0xdd2f), 0xffff);
        assert_eq!(delta.inverse_if(true).apply_udp(0xffff), 0xdd2f);
        assert_eq!(Sum::of(&[0xff, 0xff]).udp_checksum(), 0xffff);
    }

    #[test]
    fn every_field_survives_there_and_back() {
        for (old, new) in [(0, 0xffff), (0xffff, 0), (1, 2), (0x8000, 0x7fff), (0x5555, 0x3285)] {
            let delta = Delta::word(old, new);
            for check in 0..u16::MAX {
                assert_eq!(
                    delta.inverse_if(true).apply(delta.apply(check)),
                    check,
                    "{old:x} {new:x} {check:x}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn sum_equals_plain_and_etherparse(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Sum::of(&bytes).fold(), plain(&bytes));
            let theirs = Sum16BitWords::new().add_slice(&bytes).ones_complement();
            prop_assert_eq!(Sum::of(&bytes).checksum(), theirs.to_be());
        }

        #[test]
        fn sums_of_parts_make_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            at in 0usize..100,
        ) {
            let (front, back) = bytes.split_at(at.min(bytes.len()));
            let back = if front.len() % 2 == 1 { Sum::of(back).swapped() } else { Sum::of(back) };
            prop_assert_eq!(Sum::of(front).and(back).fold(), Sum::of(&bytes).fold());
        }

        #[test]
        fn delta_equals_recomputing(
            kept in proptest::collection::vec(any::<u16>(), 1..20),
            old in proptest::collection::vec(prop_oneof![Just(0u16), Just(0xffff), any::<u16>()], 1..8),
            new in proptest::collection::vec(prop_oneof![Just(0u16), Just(0xffff), any::<u16>()], 1..8),
        ) {
            // A covered word that isn't zero, as in every pseudo-header and IP header.
            let head = [0x4500];
            let with = |words: &[u16]| Sum::of(&bytes_of(&[&head[..], &kept, words].concat()));
            let (before, after) = (with(&old), with(&new));
            let delta = Delta::between(&old, &new);
            prop_assert_eq!(delta.apply(before.checksum()), after.checksum());
            prop_assert_eq!(delta.apply_udp(before.udp_checksum()), after.udp_checksum());
            prop_assert_eq!(delta.inverse_if(true).apply(after.checksum()), before.checksum());
            let in_bytes = Delta::from_sums(Sum::of(&bytes_of(&old)), Sum::of(&bytes_of(&new)));
            prop_assert_eq!(in_bytes.apply(before.checksum()), after.checksum());
        }

        #[test]
        fn deltas_compose(check in 0u16..0xffff, a in any::<[u16; 2]>(), b in any::<[u16; 2]>()) {
            let (first, second) = (Delta::word(a[0], a[1]), Delta::word(b[0], b[1]));
            prop_assert_eq!(first.and(second).apply(check), second.apply(first.apply(check)));
        }

        #[test]
        fn pseudo_headers_equal_etherparse(
            source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(),
            payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let udp = etherparse::UdpHeader::without_ipv4_checksum(1000, 53, payload.len()).unwrap();
            let mut bytes = udp.to_bytes().to_vec();
            bytes.extend_from_slice(&payload);
            let len = bytes.len() as u16;
            let (s4, d4) = ([source[0], source[1], source[2], source[3]], [1, 2, 3, 4]);
            let ours = Sum::pseudo_v4(s4.into(), d4.into(), 17, len).and(Sum::of(&bytes)).udp_checksum();
            prop_assert_eq!(ours, udp.calc_checksum_ipv4_raw(s4, d4, &payload).unwrap());
            let ours = Sum::pseudo_v6(source.into(), destination.into(), 17, len.into())
                .and(Sum::of(&bytes))
                .udp_checksum();
            prop_assert_eq!(ours, udp.calc_checksum_ipv6_raw(source, destination, &payload).unwrap());
        }
    }
}
