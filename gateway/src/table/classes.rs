//! Maps ports to entries of a redirection table.
//!
//! The Toeplitz hash is linear, and so is taking its low bits, which index the redirection table. A reply's table index
//! is therefore `base ^ P(lport)`, where `base` is the index of the tuple with port 0 and `P` a linear map from the 16
//! port bits to the index bits. Ports with equal `P` form a *class*. A class is a coset of `P`'s kernel, so all classes
//! have the same size, 2^(16 - rank).
//!
//! Elimination over GF(2) gives coordinates in which everything is a shift and a mask:
//!
//! ```text
//! port  <->  (class: rank bits, member: 16 - rank bits)      a linear bijection, two 1 KB tables each way
//! index <->  (coset: the bits no port can change, class)     a linear bijection, one table
//! ```
//!
//! A table over all 65 536 ports would do the same in 128 KB. Because the bijection is linear, it can be split into one
//! table per byte, which stays in the first-level cache. The lowest port bits are preferred as pivots, so that the high
//! bits of a member are the high bits of its port: a range of ports is then (nearly) a range of members.

/// Number of bits in a port.
const PORT_BITS: u32 = 16;

/// A linear map from 16 bits to 16 bits.
#[derive(Clone, Debug)]
struct Linear {
    low: Box<[u16; 256]>,
    high: Box<[u16; 256]>,
}

impl Linear {
    /// `columns[b]` is the image of bit `b`.
    fn new(columns: [u16; 16]) -> Self {
        let half = |columns: &[u16]| {
            let mut table = Box::new([0u16; 256]);
            for byte in 1..256usize {
                table[byte] = table[byte & (byte - 1)] ^ columns[byte.trailing_zeros() as usize];
            }
            table
        };
        Self { low: half(&columns[..8]), high: half(&columns[8..]) }
    }

    #[inline]
    fn apply(&self, v: u16) -> u16 {
        let [low, high] = v.to_le_bytes();
        self.low[low as usize] ^ self.high[high as usize]
    }
}

/// The classes of one key, table size and kind of tuple.
#[derive(Clone, Debug)]
pub struct Classes {
    rank: u32,
    coset_bits: u32,
    to_port: Linear,
    from_port: Linear,
    /// (coset, class) by table index, packed as `coset << rank | class`.
    index: Vec<u16>,
    /// One more than the highest pivot.
    pivot_end: u32,
}

impl Classes {
    /// The classes if bit `b` of the port contributes `contributions[b]` to an index of `index_bits` bits (at most 15;
    /// further bits of the contributions are ignored).
    #[must_use]
    pub fn new(contributions: [u32; 16], index_bits: u32) -> Self {
        let mask = (1u32 << index_bits) - 1;
        let e = Elimination::new(contributions.map(|c| c & mask));
        let rank = e.basis.len() as u32;
        let member_bits = PORT_BITS - rank;
        let free = e.kernel.iter().fold(0u32, |m, &(bit, _)| m | 1 << bit);

        let mut to_port = [0u16; 16];
        for (n, &(_, port)) in e.kernel.iter().enumerate() {
            to_port[n] = port;
        }
        for (n, b) in e.basis.iter().enumerate() {
            to_port[member_bits as usize + n] = b.port;
        }
        let from_port = std::array::from_fn(|b| {
            let class = e.coordinates(contributions[b] & mask).1;
            let member = if free >> b & 1 == 1 { 1 << (free & ((1 << b) - 1)).count_ones() } else { 0 };
            (class << member_bits | member) as u16
        });
        let index = (0..=mask)
            .map(|i| {
                let (rest, class) = e.coordinates(i);
                (gather(rest, mask & !e.leads()) << rank | class) as u16
            })
            .collect();
        Self {
            rank,
            coset_bits: index_bits - rank,
            to_port: Linear::new(to_port),
            from_port: Linear::new(from_port),
            index,
            pivot_end: (!free & 0xffff).checked_ilog2().map_or(0, |b| b + 1),
        }
    }

    /// The rank of the port bits: there are 2^rank classes.
    #[must_use]
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// There are 2^this cosets of table indexes; no choice of port leads from one to another.
    #[must_use]
    pub fn coset_bits(&self) -> u32 {
        self.coset_bits
    }

    /// Number of ports in a class.
    #[must_use]
    pub fn members(&self) -> u32 {
        1 << (PORT_BITS - self.rank)
    }

    /// The coset and the class coordinate of a table index.
    #[inline]
    #[must_use]
    pub fn of_index(&self, index: u32) -> (u16, u16) {
        let packed = u32::from(self.index[index as usize & (self.index.len() - 1)]);
        ((packed >> self.rank) as u16, (packed & ((1 << self.rank) - 1)) as u16)
    }

    /// The class of a port, and the port's number within the class.
    #[inline]
    #[must_use]
    pub fn of_port(&self, port: u16) -> (u16, u16) {
        let x = u32::from(self.from_port.apply(port));
        ((x >> (PORT_BITS - self.rank)) as u16, (x & (self.members() - 1)) as u16)
    }

    /// The port with this number in a class.
    #[inline]
    #[must_use]
    pub fn port(&self, class: u16, member: u16) -> u16 {
        self.to_port.apply((u32::from(class) << (PORT_BITS - self.rank)) as u16 | member)
    }

    /// The range of members, in any class, that the ports `first..=last` can be: start and end (exclusive). Members
    /// within it may still be ports a little outside of `first..=last`.
    #[must_use]
    pub fn member_range(&self, first: u16, last: u16) -> (u32, u32) {
        // All bits above the pivots are free, and some below.
        let low_free = self.pivot_end - self.rank;
        let of = |p: u16| u32::from(p) >> self.pivot_end << low_free;
        (of(first), of(last) + (1 << low_free))
    }
}

/// One pivot: an index vector and the port bits that produce it.
#[derive(Clone, Copy, Debug)]
struct Pivot {
    vector: u32,
    lead: u32,
    port: u16,
}

/// The port map in reduced form.
struct Elimination {
    /// Reduced: a pivot's leading bit is set in no other pivot's vector.
    basis: Vec<Pivot>,
    /// A free port bit, and the port of that bit and pivots that contributes nothing.
    kernel: Vec<(u32, u16)>,
}

impl Elimination {
    fn new(contributions: [u32; 16]) -> Self {
        let mut this = Self { basis: Vec::new(), kernel: Vec::new() };
        for (bit, &c) in contributions.iter().enumerate() {
            let (mut vector, mut port) = (c, 1u16 << bit);
            for p in &this.basis {
                if vector >> p.lead & 1 == 1 {
                    vector ^= p.vector;
                    port ^= p.port;
                }
            }
            let Some(lead) = vector.checked_ilog2() else {
                this.kernel.push((bit as u32, port));
                continue;
            };
            for p in &mut this.basis {
                if p.vector >> lead & 1 == 1 {
                    p.vector ^= vector;
                    p.port ^= port;
                }
            }
            this.basis.push(Pivot { vector, lead, port });
        }
        this
    }

    fn leads(&self) -> u32 {
        self.basis.iter().fold(0, |m, p| m | 1 << p.lead)
    }

    /// The part of an index that no port can change, and the class coordinate of the rest.
    fn coordinates(&self, index: u32) -> (u32, u32) {
        let mut rest = index;
        let mut class = 0;
        for (n, p) in self.basis.iter().enumerate() {
            if index >> p.lead & 1 == 1 {
                rest ^= p.vector;
                class |= 1 << n;
            }
        }
        (rest, class)
    }
}

/// The bits of `v` selected by `mask`, packed to the low end.
fn gather(v: u32, mask: u32) -> u32 {
    let (mut out, mut n) = (0, 0);
    for bit in 0..32 {
        if mask >> bit & 1 == 1 {
            out |= (v >> bit & 1) << n;
            n += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contribution(columns: &[u32; 16], port: u16) -> u32 {
        (0..16).filter(|b| port >> b & 1 == 1).fold(0, |v, b| v ^ columns[b])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn ports_and_classes_are_one_to_one(
            mut columns in any::<[u32; 16]>(), bits in 0u32..=12, zeroed in any::<u16>(),
        ) {
            // Including maps of deficient rank.
            for (b, c) in columns.iter_mut().enumerate() {
                if zeroed >> b & 1 == 1 {
                    *c &= 0xffff_fff1;
                }
            }
            let k = Classes::new(columns, bits);
            let mask = (1u32 << bits) - 1;
            let mut seen = vec![false; 1 << 16];
            for port in 0..=u16::MAX {
                let (class, member) = k.of_port(port);
                prop_assert!(u32::from(class) < 1 << k.rank() && u32::from(member) < k.members());
                prop_assert_eq!(k.port(class, member), port);
                seen[(u32::from(class) * k.members() + u32::from(member)) as usize] = true;
                // The class coordinate is that of the port's contribution.
                let (coset, of_index) = k.of_index(contribution(&columns, port) & mask);
                prop_assert_eq!((coset, of_index), (0, class));
            }
            prop_assert!(seen.iter().all(|&s| s));
        }

        #[test]
        fn indexes_split_into_coset_and_class(columns in any::<[u32; 16]>(), bits in 0u32..=10) {
            let k = Classes::new(columns, bits);
            let mut seen = std::collections::HashSet::new();
            for i in 0..1u32 << bits {
                let (coset, class) = k.of_index(i);
                prop_assert!(u32::from(coset) < 1 << k.coset_bits());
                prop_assert!(seen.insert((coset, class)));
                for port in [1u16, 80, 1024, 40_000, 65_535] {
                    let moved = (i ^ contribution(&columns, port)) & ((1 << bits) - 1);
                    prop_assert_eq!(k.of_index(moved), (coset, class ^ k.of_port(port).0));
                }
            }
        }

        #[test]
        fn member_ranges_cover_the_ports(columns in any::<[u32; 16]>(), bits in 0u32..=10,
                                         a in any::<u16>(), b in any::<u16>()) {
            let k = Classes::new(columns, bits);
            let (first, last) = (a.min(b), a.max(b));
            let (start, end) = k.member_range(first, last);
            prop_assert!(start < end && end <= k.members());
            for port in first..=last {
                let member = u32::from(k.of_port(port).1);
                prop_assert!(start <= member && member < end);
            }
            // The range is not much larger than needed.
            prop_assert!((end - start) << k.rank() <= u32::from(last - first) + 1 + (2 << k.pivot_end));
        }
    }

    #[test]
    fn without_index_bits_a_member_is_its_port() {
        let k = Classes::new([0; 16], 0);
        assert_eq!((k.rank(), k.members()), (0, 65_536));
        assert!((0..=u16::MAX).all(|p| k.of_port(p) == (0, p) && k.port(0, p) == p));
        assert_eq!(k.member_range(1024, 1024), (1024, 1025));
    }
}
