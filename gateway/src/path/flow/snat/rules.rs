//! Which rule applies to a packet from inside, and which addresses are external.

use std::{collections::HashMap, net::IpAddr};

use foldhash::fast::RandomState;
use weir_api::model::snat::{Dependence, Kind, Pooling, SnatRule};

use super::track::{SnatTimeoutTicks, TimeoutTicks, shortest};
use crate::{
    id::SnatRuleId,
    io::PortId,
    net::protocol,
    prefix::Prefix,
    table::snat::{AddressRole, SnatLimits},
};

/// A rule in the form that the path uses.
#[derive(Clone, Debug)]
pub struct WorkerSnatRule {
    /// The number under which it is counted.
    pub id: SnatRuleId,
    /// Inside network.
    pub inside: Prefix,
    /// The IP protocol it is limited to, if any.
    pub protocol: Option<u8>,
    /// Destinations that aren't translated.
    pub except: Vec<Prefix>,
    /// The port that leads outside.
    pub port: PortId,
    /// External addresses.
    pub pool: Vec<IpAddr>,
    /// The external addresses are the port's own, so the kernel uses ports there, too.
    pub masquerade: bool,
    /// Which remote endpoints a mapping lets in.
    pub filtering: Dependence,
    /// The limits of an inside address.
    pub limits: SnatLimits,
    /// How long sessions last.
    pub timeouts: SnatTimeoutTicks,
}

impl WorkerSnatRule {
    /// Builds a configured rule; `port` is its outside port, `own` is that port's own address for
    /// masquerading.
    #[must_use]
    pub fn new(id: SnatRuleId, rule: &SnatRule, port: PortId, own: Option<IpAddr>) -> Self {
        let network = |&(address, bits): &(IpAddr, u8)| {
            Prefix::new(address, bits).unwrap_or(Prefix::host(address)).network()
        };
        Self {
            id,
            inside: network(&rule.inside),
            protocol: rule.protocol.map(|kind| match kind {
                Kind::Tcp => protocol::TCP,
                Kind::Udp => protocol::UDP,
                Kind::Icmp if rule.inside.0.is_ipv6() => protocol::ICMPV6,
                Kind::Icmp => protocol::ICMP,
            }),
            except: rule.except.iter().map(network).collect(),
            port,
            pool: rule.addresses().chain(own.filter(|_| rule.masquerade)).collect(),
            masquerade: rule.masquerade,
            filtering: rule.filtering,
            timeouts: SnatTimeoutTicks::new(&rule.timeouts),
            limits: SnatLimits {
                ports: rule.max_ports,
                sessions: rule.max_sessions,
                paired: rule.pooling == Pooling::Paired,
                mapping: rule.mapping,
            },
        }
    }
}

/// All rules, replaced as a whole.
#[derive(Debug)]
pub struct RuleSet {
    /// Sorted, the smallest network first.
    rules: Vec<WorkerSnatRule>,
    /// The index of each rule by its number.
    by_id: HashMap<SnatRuleId, usize, RandomState>,
    /// External addresses, with the ports of their rules and their roles.
    pool: HashMap<IpAddr, (PortId, AddressRole), RandomState>,
    timeouts: TimeoutTicks,
}

impl Default for RuleSet {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl RuleSet {
    /// Builds the set from rules in the order in which they were added.
    #[must_use]
    pub fn new(mut rules: Vec<WorkerSnatRule>) -> Self {
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.inside.length()));
        let by_id = rules.iter().enumerate().map(|(n, rule)| (rule.id, n)).collect();
        let standing =
            |rule: &WorkerSnatRule| if rule.masquerade { AddressRole::Own } else { AddressRole::Pool };
        let of = |rule: &WorkerSnatRule| {
            rule.pool.iter().map(|a| (*a, (rule.port, standing(rule)))).collect::<Vec<_>>()
        };
        let addresses = rules.iter().flat_map(of);
        let pool = addresses.collect();
        let timeouts = shortest(rules.iter().map(|rule| &rule.timeouts));
        Self { rules, by_id, pool, timeouts }
    }

    /// Time-outs by state, the shortest of all rules: a session is checked after that time, and
    /// stays if its own rule gives it more.
    #[must_use]
    pub fn timeouts(&self) -> &TimeoutTicks {
        &self.timeouts
    }

    /// Whether the address is an external one.
    #[must_use]
    pub fn is_external(&self, address: IpAddr) -> bool {
        self.pool.contains_key(&address)
    }

    /// The port of the rule that has this external address.
    pub(super) fn port_of(&self, external: IpAddr) -> Option<PortId> {
        self.pool.get(&external).map(|(port, _)| *port)
    }

    /// The role of an external address; none if it isn't one.
    #[must_use]
    pub fn standing(&self, external: IpAddr) -> Option<AddressRole> {
        self.pool.get(&external).map(|(_, standing)| *standing)
    }

    /// Whether the address lies in a rule's inside network.
    pub(super) fn is_inside(&self, address: IpAddr) -> bool {
        self.rules.iter().any(|rule| rule.inside.contains(&address))
    }

    /// The rule for a packet that leaves by `port`, or by any port if none is given.
    pub(super) fn of_inside(
        &self,
        (source, destination): (IpAddr, IpAddr),
        protocol: u8,
        port: Option<PortId>,
    ) -> Option<&WorkerSnatRule> {
        self.rules.iter().find(|rule| {
            port.is_none_or(|port| rule.port == port)
                && rule.inside.contains(&source)
                && rule.protocol.is_none_or(|p| p == protocol)
                && !rule.inside.contains(&destination)
                && rule.except.iter().all(|network| !network.contains(&destination))
        })
    }

    pub(super) fn by_id(&self, id: SnatRuleId) -> Option<&WorkerSnatRule> {
        self.rules.get(*self.by_id.get(&id)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(id: u32, inside: &str, port: u8) -> WorkerSnatRule {
        WorkerSnatRule {
            id: SnatRuleId(id),
            inside: inside.parse().unwrap(),
            protocol: None,
            except: Vec::new(),
            port: PortId(port),
            pool: vec![[192, 0, 2, 1 + id as u8].into()],
            masquerade: false,
            filtering: Dependence::default(),
            timeouts: SnatTimeoutTicks::default(),
            limits: SnatLimits { ports: 64, sessions: 0, paired: true, mapping: Dependence::default() },
        }
    }

    fn of(rules: &RuleSet, source: &str, destination: &str, port: Option<u8>) -> Option<u32> {
        let ends = (source.parse().unwrap(), destination.parse().unwrap());
        rules.of_inside(ends, 6, port.map(PortId)).map(|rule| rule.id.0)
    }

    #[test]
    fn the_smallest_network_counts_and_exceptions_are_left_alone() {
        let except = vec!["172.16.0.0/12".parse().unwrap()];
        let first = WorkerSnatRule { except, ..rule(0, "10.0.0.0/8", 0) };
        let rules = RuleSet::new(vec![first, rule(1, "10.9.0.0/16", 0)]);
        let of = |source, destination| of(&rules, source, destination, Some(0));
        assert_eq!(of("10.1.0.1", "8.8.8.8"), Some(0));
        assert_eq!(of("10.9.0.1", "8.8.8.8"), Some(1));
        assert_eq!(of("10.1.0.1", "172.16.0.1"), None);
        assert_eq!(of("10.1.0.1", "10.2.0.1"), None, "both inside");
        assert_eq!(of("11.1.0.1", "8.8.8.8"), None);
        assert!(rules.is_external([192, 0, 2, 2].into()) && !rules.is_external([192, 0, 2, 3].into()));
        assert!(rules.is_inside([10, 1, 0, 1].into()) && !rules.is_inside([11, 1, 0, 1].into()));
    }

    #[test]
    fn only_rules_of_the_port_that_a_packet_leaves_by_count() {
        let rules =
            RuleSet::new(vec![rule(0, "10.0.0.0/8", 0), rule(1, "10.0.0.0/8", 1), rule(2, "10.9.0.0/16", 1)]);
        for (source, port, expected) in [
            ("10.1.0.1", Some(0), Some(0)),
            ("10.1.0.1", Some(1), Some(1)),
            ("10.1.0.1", Some(2), None),
            ("10.9.0.1", Some(0), Some(0)),
            ("10.9.0.1", Some(1), Some(2)),
            ("10.9.0.1", None, Some(2)),
            ("10.1.0.1", None, Some(0)),
        ] {
            assert_eq!(of(&rules, source, "8.8.8.8", port), expected, "{source} by {port:?}");
        }
        assert_eq!(rules.port_of([192, 0, 2, 2].into()), Some(PortId(1)));
        assert_eq!((0..4).map(|n| rules.by_id(SnatRuleId(n)).is_some()).filter(|there| *there).count(), 3);
    }
}
