//! Stage 4: marks, for firewall-mark services.
//!
//! What netfilter's mark is to IPVS, these rules are to Weir: a packet without session gets the mark of the
//! first rule that applies, and the service of that mark takes it before any service of its address. The
//! list is tried in order; a set of the first bytes of all destinations sends most other packets past it.

use std::net::IpAddr;

use weirctl::model::MarkRule;

use crate::{io::PortId, table::ends::Ends};

/// A rule; addresses and ports in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    mark: u32,
    source: Range,
    destination: Range,
    /// First and last.
    source_ports: (u16, u16),
    destination_ports: (u16, u16),
    protocol: Option<u8>,
    port: Option<PortId>,
}

/// Addresses of one family, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Any,
    /// Address and mask.
    V4(u32, u32),
    V6(u128, u128),
}

impl Range {
    fn of(network: Option<(IpAddr, u8)>) -> Self {
        match network {
            None => Self::Any,
            Some((IpAddr::V4(address), bits)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
                Self::V4(address.to_bits() & mask, mask)
            }
            Some((IpAddr::V6(address), bits)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
                Self::V6(address.to_bits() & mask, mask)
            }
        }
    }

    #[inline]
    fn contains(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::Any, _) => true,
            (Self::V4(network, mask), IpAddr::V4(a)) => a.to_bits() & mask == network,
            (Self::V6(network, mask), IpAddr::V6(a)) => a.to_bits() & mask == network,
            _ => false,
        }
    }

    /// The first bytes that addresses in it may have, as one that has them and a mask.
    fn first_byte(self) -> (u8, u8) {
        match self {
            Self::Any => (0, 0),
            Self::V4(network, mask) => ((network >> 24) as u8, (mask >> 24) as u8),
            Self::V6(network, mask) => ((network >> 120) as u8, (mask >> 120) as u8),
        }
    }
}

impl Rule {
    /// From a configured rule, given the names of the ports; none if its port isn't there.
    #[must_use]
    pub fn new(rule: &MarkRule, ports: &[String]) -> Option<Self> {
        let port = match &rule.port {
            Some(name) => Some(PortId(ports.iter().position(|p| p == name)? as u8)),
            None => None,
        };
        const ALL: (u16, u16) = (0, u16::MAX);
        Some(Self {
            mark: rule.mark,
            source: Range::of(rule.source),
            destination: Range::of(rule.destination),
            source_ports: rule.source_ports.unwrap_or(ALL),
            destination_ports: rule.destination_ports.unwrap_or(ALL),
            protocol: rule.protocol.map(|p| p as u8),
            port,
        })
    }

    /// Whether it applies to a packet that arrived on `port`.
    #[must_use]
    pub fn applies(&self, port: PortId, ends: &Ends, protocol: u8) -> bool {
        let within = |(first, last): (u16, u16), port: u16| first <= port && port <= last;
        let Ends { source: (source, sport), destination: (destination, dport) } = *ends;
        self.destination.contains(destination)
            && self.source.contains(source)
            && self.protocol.is_none_or(|p| p == protocol)
            && within(self.destination_ports, dport)
            && within(self.source_ports, sport)
            && self.port.is_none_or(|p| p == port)
    }
}

/// The rules.
#[derive(Debug, Default)]
pub struct Marks {
    rules: Vec<Rule>,
    /// First bytes of destinations that any rule may apply to.
    destinations: [u64; 4],
}

impl FromIterator<Rule> for Marks {
    fn from_iter<T: IntoIterator<Item = Rule>>(rules: T) -> Self {
        let rules: Vec<Rule> = rules.into_iter().collect();
        let mut destinations = [0u64; 4];
        for byte in 0..=u8::MAX {
            // With a mask shorter than a byte several first bytes belong to one network.
            let may = |r: &Rule| {
                let (first, mask) = r.destination.first_byte();
                (byte ^ first) & mask == 0
            };
            if rules.iter().any(may) {
                destinations[usize::from(byte) / 64] |= 1 << (byte % 64);
            }
        }
        Self { rules, destinations }
    }
}

impl Marks {
    /// The mark of a packet that arrived on `port`.
    #[must_use]
    pub fn of(&self, port: PortId, ends: &Ends, protocol: u8) -> Option<u32> {
        let byte = usize::from(match ends.destination.0 {
            IpAddr::V4(a) => a.octets()[0],
            IpAddr::V6(a) => a.octets()[0],
        });
        if self.destinations[byte / 64] >> (byte % 64) & 1 == 0 {
            return None;
        }
        self.rules.iter().find(|r| r.applies(port, ends, protocol)).map(|r| r.mark)
    }
}

#[cfg(test)]
mod tests {
    use weirctl::model::Protocol;

    use super::*;

    fn rule(mark: u32) -> MarkRule {
        MarkRule {
            mark,
            priority: 0,
            protocol: None,
            source: None,
            destination: None,
            source_ports: None,
            destination_ports: None,
            port: None,
        }
    }

    fn marks(rules: &[MarkRule]) -> Marks {
        let ports = ["wan".to_owned(), "lan".to_owned()];
        rules.iter().filter_map(|r| Rule::new(r, &ports)).collect()
    }

    fn packet(from: [u8; 4], sport: u16, to: [u8; 4], dport: u16) -> Ends {
        Ends { source: (from.into(), sport), destination: (to.into(), dport) }
    }

    #[test]
    fn everything_that_a_rule_says_must_apply() {
        let web = packet([10, 1, 0, 7], 5000, [192, 0, 2, 10], 443);
        let to = |a: [u8; 4], bits| Some((IpAddr::from(a), bits));
        for (yes, no) in [
            (
                MarkRule { destination: to([192, 0, 2, 99], 24), ..rule(1) },
                MarkRule { destination: to([192, 0, 3, 0], 24), ..rule(1) },
            ),
            (
                MarkRule { destination: to([128, 0, 0, 0], 1), ..rule(1) },
                MarkRule { destination: to([0, 0, 0, 0], 1), ..rule(1) },
            ),
            (
                MarkRule { source: to([10, 1, 0, 7], 32), ..rule(1) },
                MarkRule { source: to([10, 1, 0, 8], 32), ..rule(1) },
            ),
            (
                MarkRule { protocol: Some(Protocol::Tcp), ..rule(1) },
                MarkRule { protocol: Some(Protocol::Udp), ..rule(1) },
            ),
            (
                MarkRule { destination_ports: Some((443, 443)), ..rule(1) },
                MarkRule { destination_ports: Some((80, 442)), ..rule(1) },
            ),
            (
                MarkRule { source_ports: Some((1024, 65535)), ..rule(1) },
                MarkRule { source_ports: Some((0, 1023)), ..rule(1) },
            ),
            (
                MarkRule { port: Some("wan".into()), ..rule(1) },
                MarkRule { port: Some("lan".into()), ..rule(1) },
            ),
            (rule(1), MarkRule { port: Some("gone".into()), ..rule(1) }),
            (rule(1), MarkRule { source: Some(("::".parse().unwrap(), 0)), ..rule(1) }),
        ] {
            assert_eq!(marks(std::slice::from_ref(&yes)).of(PortId(0), &web, 6), Some(1), "{yes:?}");
            assert_eq!(marks(std::slice::from_ref(&no)).of(PortId(0), &web, 6), None, "{no:?}");
        }
    }

    #[test]
    fn networks_of_ipv6_are_as_good() {
        let net = |text: &str, bits| Some((text.parse().unwrap(), bits));
        let rules = marks(&[
            MarkRule { destination: net("2001:db8::", 32), source_ports: Some((1, 9)), ..rule(1) },
            MarkRule { destination: net("2001:db8:0:1::", 64), source: net("2001:db8:9::", 48), ..rule(2) },
        ]);
        let of = |source: &str, sport| {
            let (source, to) = (source.parse().unwrap(), "2001:db8:0:1::5".parse().unwrap());
            rules.of(PortId(0), &Ends { source: (source, sport), destination: (to, 80) }, 6)
        };
        assert_eq!(
            (of("::1", 9), of("2001:db8:9::1", 10), of("2001:db8:8::1", 10)),
            (Some(1), Some(2), None)
        );
        assert_eq!(rules.of(PortId(0), &packet([32, 1, 13, 184], 9, [32, 1, 13, 184], 80), 6), None);
    }

    #[test]
    fn the_first_rule_that_applies_decides() {
        let to = |a: [u8; 4], bits| Some((IpAddr::from(a), bits));
        let marks = marks(&[
            MarkRule { destination: to([192, 0, 2, 10], 32), ..rule(1) },
            MarkRule { destination: to([192, 0, 2, 0], 24), ..rule(2) },
        ]);
        let of = |a| marks.of(PortId(0), &packet([10, 1, 0, 7], 5000, a, 80), 17);
        assert_eq!((of([192, 0, 2, 10]), of([192, 0, 2, 11]), of([198, 0, 2, 11])), (Some(1), Some(2), None));
    }
}
