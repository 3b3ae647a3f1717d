//! Which rule a packet from inside comes under, and which addresses are external ones.

use std::{collections::HashSet, net::IpAddr};

use foldhash::fast::RandomState;
use weirctl::snat::{Dependence, Pooling};

use crate::{id::ServerId, io::PortId, net::protocol, prefix::Prefix, table::snat::Limits};

/// A rule as the path has it.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Under this number it counts.
    pub id: ServerId,
    /// Inside network.
    pub inside: Prefix,
    /// Only this IP protocol.
    pub protocol: Option<u8>,
    /// Destinations that are left alone.
    pub except: Vec<Prefix>,
    /// Port that leads outside.
    pub port: PortId,
    /// External addresses.
    pub pool: Vec<IpAddr>,
    /// Whom a mapping lets in.
    pub filtering: Dependence,
    /// What an inside address may have.
    pub limits: Limits,
}

impl Rule {
    /// From a configured rule; `port` is its outside port.
    #[must_use]
    pub fn new(id: ServerId, rule: &weirctl::snat::SnatRule, port: PortId) -> Self {
        use weirctl::snat::Kind;
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
            pool: rule.addresses().collect(),
            filtering: rule.filtering,
            limits: Limits {
                ports: rule.max_ports,
                sessions: rule.max_sessions,
                paired: rule.pooling == Pooling::Paired,
                mapping: rule.mapping,
            },
        }
    }
}

/// All rules, swapped whole.
#[derive(Debug, Default)]
pub struct Rules {
    /// The smallest network first.
    rules: Vec<Rule>,
    pool: HashSet<IpAddr, RandomState>,
}

impl Rules {
    /// From rules in the order in which they were added.
    #[must_use]
    pub fn new(mut rules: Vec<Rule>) -> Self {
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.inside.length()));
        let pool = rules.iter().flat_map(|rule| rule.pool.iter().copied()).collect();
        Self { rules, pool }
    }

    /// Whether this is an external address.
    #[must_use]
    pub fn is_external(&self, address: IpAddr) -> bool {
        self.pool.contains(&address)
    }

    pub(super) fn of_inside(&self, source: IpAddr, destination: IpAddr, protocol: u8) -> Option<&Rule> {
        self.rules.iter().find(|rule| {
            rule.inside.contains(&source)
                && rule.protocol.is_none_or(|p| p == protocol)
                && !rule.inside.contains(&destination)
                && rule.except.iter().all(|network| !network.contains(&destination))
        })
    }

    pub(super) fn by_id(&self, id: ServerId) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_network_counts_and_exceptions_are_left_alone() {
        let rule = |id, inside: [u8; 4], bits, except: &[([u8; 4], u8)]| Rule {
            id: ServerId(id),
            inside: Prefix::new(inside.into(), bits).unwrap(),
            protocol: None,
            except: except.iter().map(|&(a, b)| Prefix::new(a.into(), b).unwrap()).collect(),
            port: PortId(0),
            pool: vec![[192, 0, 2, 1 + id as u8].into()],
            filtering: Dependence::default(),
            limits: Limits { ports: 64, sessions: 0, paired: true, mapping: Dependence::default() },
        };
        let rules = Rules::new(vec![
            rule(0, [10, 0, 0, 0], 8, &[([172, 16, 0, 0], 12)]),
            rule(1, [10, 9, 0, 0], 16, &[]),
        ]);
        let of = |s: [u8; 4], d: [u8; 4]| rules.of_inside(s.into(), d.into(), 6).map(|rule| rule.id.0);
        assert_eq!(of([10, 1, 0, 1], [8, 8, 8, 8]), Some(0));
        assert_eq!(of([10, 9, 0, 1], [8, 8, 8, 8]), Some(1));
        assert_eq!(of([10, 1, 0, 1], [172, 16, 0, 1]), None);
        assert_eq!(of([10, 1, 0, 1], [10, 2, 0, 1]), None, "both inside");
        assert_eq!(of([11, 1, 0, 1], [8, 8, 8, 8]), None);
        assert!(rules.is_external([192, 0, 2, 2].into()) && !rules.is_external([192, 0, 2, 3].into()));
    }
}
