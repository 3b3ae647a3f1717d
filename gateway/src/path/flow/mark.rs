//! Stage 4: marks, for firewall-mark services.
//!
//! These rules replace netfilter's fwmark. A packet without a session gets the mark of the first rule that
//! matches, and a service of that mark takes precedence over services of its address. All rules are matched
//! at once, see [`crate::table::classifier`]; `weir-bench marks` compares that with DPDK's rte_acl.

use std::net::IpAddr;

use weir_api::model::MarkRule;

use crate::{
    io::PortId,
    table::{
        classifier::{ClassifierKey, Field, first},
        endpoints::Endpoints,
    },
};

/// A rule; addresses and ports in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerMarkRule {
    mark: u32,
    source: Range,
    destination: Range,
    /// First and last port.
    source_ports: (u16, u16),
    destination_ports: (u16, u16),
    protocol: Option<u8>,
    port: Option<PortId>,
}

/// First and last port.
const EVERY_PORT: (u16, u16) = (0, u16::MAX);

/// The addresses of one network, or all addresses.
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

    /// The first and last IPv4 address; none for an IPv6 network.
    fn v4(self) -> Option<(u32, u32)> {
        match self {
            Self::Any => Some((0, u32::MAX)),
            Self::V4(network, mask) => Some((network, network | !mask)),
            Self::V6(..) => None,
        }
    }

    fn v6(self) -> Option<(u128, u128)> {
        match self {
            Self::Any => Some((0, u128::MAX)),
            Self::V6(network, mask) => Some((network, network | !mask)),
            Self::V4(..) => None,
        }
    }
}

impl WorkerMarkRule {
    /// Builds a configured rule, given the names of the ports; none if its port doesn't exist.
    #[must_use]
    pub fn new(rule: &MarkRule, ports: &[String]) -> Option<Self> {
        let port = match &rule.port {
            Some(name) => Some(PortId(ports.iter().position(|p| p == name)? as u8)),
            None => None,
        };
        Some(Self {
            mark: rule.mark,
            source: Range::of(rule.source),
            destination: Range::of(rule.destination),
            source_ports: rule.source_ports.unwrap_or(EVERY_PORT),
            destination_ports: rule.destination_ports.unwrap_or(EVERY_PORT),
            protocol: rule.protocol.map(|p| p as u8),
            port,
        })
    }

    /// A rule that gives packets to this network no mark: mark 0 has no services.
    pub(crate) fn unmarked(destination: (IpAddr, u8)) -> Self {
        Self {
            mark: 0,
            source: Range::Any,
            destination: Range::of(Some(destination)),
            source_ports: EVERY_PORT,
            destination_ports: EVERY_PORT,
            protocol: None,
            port: None,
        }
    }

    /// Whether the rule applies to a packet that arrived on `port`.
    #[must_use]
    pub fn applies(&self, port: PortId, ends: &Endpoints, protocol: u8) -> bool {
        let within = |(first, last): (u16, u16), port: u16| first <= port && port <= last;
        let Endpoints { source: (source, sport), destination: (destination, dport) } = *ends;
        self.destination.contains(destination)
            && self.source.contains(source)
            && self.protocol.is_none_or(|p| p == protocol)
            && within(self.destination_ports, dport)
            && within(self.source_ports, sport)
            && self.port.is_none_or(|p| p == port)
    }
}

/// The rules.
#[derive(Debug)]
pub struct Marks {
    v4: FamilyRules<u32>,
    v6: FamilyRules<u128>,
}

/// The rules for packets of one family.
#[derive(Debug)]
struct FamilyRules<A> {
    /// The marks that the rules set.
    marks: Box<[u32]>,
    sources: Field<A>,
    destinations: Field<A>,
    source_ports: Field<u16>,
    destination_ports: Field<u16>,
    protocols: Field<u8>,
    ports: Field<u8>,
}

impl<A: ClassifierKey> FamilyRules<A> {
    fn new(rules: &[WorkerMarkRule], of: impl Fn(Range) -> Option<(A, A)>) -> Self {
        let (mut sources, mut destinations, mut own) = (Vec::new(), Vec::new(), Vec::new());
        for rule in rules {
            if let (Some(source), Some(destination)) = (of(rule.source), of(rule.destination)) {
                sources.push(source);
                destinations.push(destination);
                own.push(rule);
            }
        }
        fn field<T: ClassifierKey>(
            own: &[&WorkerMarkRule],
            of: impl Fn(&WorkerMarkRule) -> (T, T),
        ) -> Field<T> {
            Field::new(&own.iter().map(|rule| of(rule)).collect::<Vec<_>>())
        }
        let one_or_all = |one: Option<u8>| one.map_or((0, u8::MAX), |n| (n, n));
        Self {
            marks: own.iter().map(|rule| rule.mark).collect(),
            sources: Field::new(&sources),
            destinations: Field::new(&destinations),
            source_ports: field(&own, |rule| rule.source_ports),
            destination_ports: field(&own, |rule| rule.destination_ports),
            protocols: field(&own, |rule| one_or_all(rule.protocol)),
            ports: field(&own, |rule| one_or_all(rule.port.map(|port| port.0))),
        }
    }

    #[inline]
    fn of(
        &self,
        (source, sport): (A, u16),
        (destination, dport): (A, u16),
        protocol: u8,
        port: u8,
    ) -> Option<u32> {
        let n = first([
            self.destinations.row(destination),
            self.destination_ports.row(dport),
            self.sources.row(source),
            self.source_ports.row(sport),
            self.protocols.row(protocol),
            self.ports.row(port),
        ])?;
        self.marks.get(n).copied()
    }
}

impl Default for Marks {
    fn default() -> Self {
        Self::from_iter([])
    }
}

impl FromIterator<WorkerMarkRule> for Marks {
    fn from_iter<T: IntoIterator<Item = WorkerMarkRule>>(rules: T) -> Self {
        let rules: Vec<WorkerMarkRule> = rules.into_iter().collect();
        Self { v4: FamilyRules::new(&rules, Range::v4), v6: FamilyRules::new(&rules, Range::v6) }
    }
}

impl Marks {
    /// The mark of a packet that arrived on `port`; 0 if it has none.
    #[must_use]
    pub fn of(&self, port: PortId, ends: &Endpoints, protocol: u8) -> Option<u32> {
        let ((source, sport), (destination, dport)) = (ends.source, ends.destination);
        match (source, destination) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                self.v4.of((s.to_bits(), sport), (d.to_bits(), dport), protocol, port.0)
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                self.v6.of((s.to_bits(), sport), (d.to_bits(), dport), protocol, port.0)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_api::model::Protocol;

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
        rules.iter().filter_map(|r| WorkerMarkRule::new(r, &ports)).collect()
    }

    fn packet(from: [u8; 4], sport: u16, to: [u8; 4], dport: u16) -> Endpoints {
        Endpoints { source: (from.into(), sport), destination: (to.into(), dport) }
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
            rules.of(PortId(0), &Endpoints { source: (source, sport), destination: (to, 80) }, 6)
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
