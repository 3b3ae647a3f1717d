//! Which destinations a change of routes affects: sessions to all others keep their next hops.

use std::net::IpAddr;

use super::route_table::Changes;

/// Parts of the IPv4 addresses, by their first 16 bits.
const PARTS: usize = 1 << 16;
/// Parts of the IPv6 addresses, by a hash of their first 32 bits.
const PARTS_V6: usize = 1 << 12;

/// When each part of the address space last changed, as a generation of the route table.
pub(crate) struct Affected {
    v4: Box<[u16]>,
    v6: Box<[u16]>,
    /// The last change that may have affected everything.
    all: u16,
}

impl Affected {
    pub fn new() -> Self {
        Self { v4: vec![0; PARTS].into(), v6: vec![0; PARTS_V6].into(), all: 0 }
    }

    /// Notes changes that came with `generation`.
    pub fn note(&mut self, changes: &Changes, generation: u16) {
        let Changes::Networks(networks) = changes else {
            self.all = generation;
            return;
        };
        for (network, prefix) in networks {
            let parts = match network {
                IpAddr::V4(a) => {
                    let first = (a.to_bits() >> 16) as usize;
                    let count = 1 << 16_u8.saturating_sub(*prefix);
                    self.v4.get_mut(first..first + count)
                }
                IpAddr::V6(_) if *prefix < 32 => self.v6.get_mut(..),
                IpAddr::V6(_) => {
                    let part = part_v6(*network);
                    self.v6.get_mut(part..=part)
                }
            };
            if let Some(parts) = parts {
                parts.fill(generation);
            }
        }
    }

    /// Whether routes to `destination` are now, in `generation`, what they were in generation `of`. In doubt they aren't.
    pub fn holds(&self, of: u16, generation: u16, destination: IpAddr) -> bool {
        let changed = match destination {
            IpAddr::V4(a) => self.v4.get((a.to_bits() >> 16) as usize),
            IpAddr::V6(_) => self.v6.get(part_v6(destination)),
        };
        let age = |then: u16| generation.wrapping_sub(then);
        changed.is_some_and(|changed| age(*changed) >= age(of)) && age(self.all) >= age(of)
    }
}

fn part_v6(address: IpAddr) -> usize {
    let IpAddr::V6(a) = address else { return 0 };
    let first = (a.to_bits() >> 96) as u32;
    (first.wrapping_mul(0x9e37_79b9) >> (u32::BITS - PARTS_V6.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(of: &[(&str, u8)]) -> Changes {
        Changes::Networks(of.iter().map(|(network, prefix)| (network.parse().unwrap(), *prefix)).collect())
    }

    #[test]
    fn only_what_lies_in_a_changed_network_is_affected() {
        let mut affected = Affected::new();
        affected.note(&networks(&[("10.1.2.0", 24), ("172.16.0.0", 12), ("2001:db8::", 48)]), 7);
        let holds = |affected: &Affected, of, to: &str| affected.holds(of, 9, to.parse().unwrap());
        for (to, kept) in [
            ("10.1.2.3", false),
            ("10.2.0.1", true),
            ("172.31.255.255", false),
            ("172.32.0.0", true),
            ("2001:db8:0:1::", false),
            ("2001:db9::", true),
        ] {
            assert_eq!(holds(&affected, 6, to), kept, "{to}");
            assert!(holds(&affected, 7, to), "noted since: {to}");
        }
        affected.note(&networks(&[("::", 0), ("0.0.0.0", 0)]), 8);
        assert!(!holds(&affected, 7, "2001:db9::") && !holds(&affected, 7, "255.255.255.255"));
        affected.note(&Changes::All, 9);
        assert!(!holds(&affected, 8, "10.2.0.1") && holds(&affected, 9, "10.2.0.1"));
    }
}
