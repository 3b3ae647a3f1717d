//! How a port spreads frames over its queues: key, table and hashed fields.
//!
//! Weir sets one [`Rss`] on every port and reads it back. The settings that the ports then have in common determine how
//! steering works (see [`super::steering`]).

use weir_api::model::Protocol;

use super::classes::Classes;
use crate::net::{
    address::Address,
    toeplitz::{KEY_LEN, Toeplitz},
};

/// The fields that a port hashes in a protocol's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashFields {
    /// Addresses and ports.
    Ports,
    /// Addresses only.
    Addresses,
    /// Nothing reliable.
    None,
}

/// A port's receive-side scaling. Queue n belongs to worker n.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rss {
    /// The first 40 bytes of the hash key.
    pub key: [u8; KEY_LEN],
    /// The queue of each table index; the length is a power of two. The index is the hash's low bits.
    pub reta: Vec<u16>,
    /// The hashed fields of TCP.
    pub tcp: HashFields,
    /// The hashed fields of UDP.
    pub udp: HashFields,
    /// The hashed fields of SCTP.
    pub sctp: HashFields,
}

/// Weir's key. It was drawn from SplitMix64; then the bits that meet the destination port were redrawn until, for every
/// table of 2^1 to 2^16 entries and both families, the lowest port bits reach every entry (see the tests).
const KEY: [u8; KEY_LEN] = [
    0x56, 0x51, 0x5b, 0xac, 0x3b, 0x98, 0xba, 0x22, 0x68, 0x0b, 0x09, 0x6c, 0x6d, 0x69, 0xdf, 0x4a, 0x9b,
    0x5d, 0xf2, 0x4f, 0xa4, 0x9e, 0x22, 0x89, 0x07, 0x6c, 0x2f, 0x43, 0x66, 0x5d, 0xc5, 0x4e, 0x5f, 0xb3,
    0x14, 0xdb, 0xb7, 0x62, 0xad, 0xd6,
];

/// The number of entries in Weir's table, which is what common NICs have.
const RETA: usize = 128;

impl Rss {
    /// The key and table that Weir sets where it may: 128 entries, dealt round-robin to `workers` queues (more entries
    /// where 128 would be uneven, at least four per worker), and ports hashed for every protocol.
    #[must_use]
    pub fn weir(workers: u16) -> Self {
        let workers = workers.max(1);
        let entries = RETA.max((usize::from(workers) * 4).next_power_of_two());
        Self {
            key: KEY,
            reta: (0..entries).map(|i| (i % usize::from(workers)) as u16).collect(),
            tcp: HashFields::Ports,
            udp: HashFields::Ports,
            sctp: HashFields::Ports,
        }
    }

    /// The table for a port whose own table has `entries` entries (a power of two). In a larger table it is repeated,
    /// which changes nothing. `None` if the port's table is too small for it.
    #[must_use]
    pub fn reta_of(&self, entries: usize) -> Option<Vec<u16>> {
        let fits = entries.is_power_of_two() && entries >= self.reta.len();
        fits.then(|| (0..entries).map(|i| self.reta[i % self.reta.len()]).collect())
    }

    /// The hashed fields of `protocol`.
    #[must_use]
    pub fn fields(&self, protocol: Protocol) -> HashFields {
        match protocol {
            Protocol::Tcp => self.tcp,
            Protocol::Udp => self.udp,
            Protocol::Sctp => self.sctp,
        }
    }

    /// How many bits of the table index the 16 destination-port bits can determine, for frames of `protocol` between
    /// addresses of family `A`: at best log2 of the table's length, 0 if ports aren't hashed.
    #[must_use]
    pub fn port_rank<A: Address>(&self, protocol: Protocol) -> u32 {
        self.classes::<A>(&Toeplitz::new(&self.key), self.fields(protocol)).rank()
    }

    /// Log2 of the table's length.
    #[must_use]
    pub fn index_bits(&self) -> u32 {
        self.reta.len().max(1).ilog2()
    }

    /// The port classes if `fields` are hashed.
    pub(super) fn classes<A: Address>(&self, hash: &Toeplitz, fields: HashFields) -> Classes {
        let contributions = std::array::from_fn(|bit| match fields {
            HashFields::Ports => hash.contribution(A::DESTINATION_PORT + 1 - bit / 8, 1 << (bit % 8)),
            HashFields::Addresses | HashFields::None => 0,
        });
        Classes::new(contributions, self.index_bits())
    }

    /// The equivalent with the shortest table.
    pub(super) fn reduced(mut self) -> Self {
        while self.reta.len() > 1 {
            let (a, b) = self.reta.split_at(self.reta.len() / 2);
            if a != b {
                break;
            }
            self.reta.truncate(self.reta.len() / 2);
        }
        self
    }

    /// Whether steering can be computed from it: the table's length is a power of two of at most 2^15, and it contains
    /// the queue of every worker and no other.
    pub(super) fn serves(&self, workers: u16) -> bool {
        self.reta.len().is_power_of_two()
            && self.reta.len() <= 1 << 15
            && self.reta.iter().all(|&q| q < workers)
            && (0..workers).all(|w| self.reta.contains(&w))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn weirs_key_reaches_every_entry_by_the_lowest_port_bits() {
        let hash = Toeplitz::new(&KEY);
        for bits in 1..=16 {
            for first in [Ipv4Addr::DESTINATION_PORT, Ipv6Addr::DESTINATION_PORT] {
                let reached: std::collections::HashSet<u32> = (0..1u32 << bits)
                    .map(|port| {
                        let [high, low] = (port as u16).to_be_bytes();
                        let h = hash.contribution(first, high) ^ hash.contribution(first + 1, low);
                        h & ((1 << bits) - 1)
                    })
                    .collect();
                assert_eq!(reached.len(), 1 << bits, "{bits} bits");
            }
        }
    }

    #[test]
    fn ranks() {
        let mut rss = Rss::weir(3);
        assert_eq!(rss.port_rank::<Ipv4Addr>(Protocol::Tcp), 7);
        assert_eq!(rss.port_rank::<Ipv6Addr>(Protocol::Udp), 7);
        rss.udp = HashFields::Addresses;
        assert_eq!(rss.port_rank::<Ipv4Addr>(Protocol::Udp), 0);
        // A key that repeats every two bytes: the symmetric key that many drivers offer.
        rss.key = std::array::from_fn(|i| [0x6d, 0x5a][i % 2]);
        assert_eq!(rss.port_rank::<Ipv4Addr>(Protocol::Tcp), 7);
        rss.key = [0xff; KEY_LEN];
        assert_eq!(rss.port_rank::<Ipv4Addr>(Protocol::Tcp), 1);
        rss.key = [0; KEY_LEN];
        assert_eq!(rss.port_rank::<Ipv4Addr>(Protocol::Tcp), 0);
    }

    #[test]
    fn tables_grow_by_repetition_only() {
        let rss = Rss::weir(3);
        assert_eq!(rss.reta.len(), 128);
        let large = rss.reta_of(512).unwrap();
        assert!((0..512).all(|i| large[i] == rss.reta[i % 128]));
        assert_eq!(rss.reta_of(64), None);
        assert_eq!(rss.reta_of(200), None);
        let again = Rss { reta: large, ..rss.clone() }.reduced();
        assert_eq!(again, rss);
        assert_eq!(Rss::weir(2).reduced().reta, [0, 1]);
        assert_eq!(Rss::weir(100).reta.len(), 512);
    }
}
