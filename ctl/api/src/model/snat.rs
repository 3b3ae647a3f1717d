//! SNAT rules: source NAT for inside networks.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{Rates, Stats};

/// Most addresses of a rule's pool.
pub const MAX_POOL: usize = 256;
/// Most destinations that a rule excepts.
pub const MAX_EXCEPT: usize = 64;
/// Most ports that one inside address may have: all of an external address.
pub const MAX_PORTS: u32 = 64_512;
/// Ports that one inside address may have if nothing else is said.
pub const DEFAULT_PORTS: u32 = 4096;
/// Longest time-out, seconds.
pub const MAX_TIMEOUT: u32 = 30 * 86_400;

/// Which packets of the inside network a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo, ICMPv6's for IPv6.
    Icmp,
}

/// What a mapping or its filter depends on, as RFC 4787 names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Dependence {
    /// On the inside address and port only.
    #[default]
    EndpointIndependent,
    /// On the outside address and port too.
    AddressAndPortDependent,
}

/// Which address of the pool an inside address gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The same for all its mappings (RFC 4787, REQ-2).
    #[default]
    Paired,
    /// Another one when its own has no ports left.
    Arbitrary,
}

/// A rule, all of whose addresses are of one family. Of several that apply to a packet the one with the smallest
/// inside network counts, then the one that was added first.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SnatRule {
    /// Its name, unique.
    pub name: String,
    /// The inside network and its prefix length.
    pub inside: (IpAddr, u8),
    /// Name of the port that leads outside: packets that are routed elsewhere are left alone.
    pub port: String,
    /// External addresses, first and last of each range.
    pub pool: Vec<(IpAddr, IpAddr)>,
    /// Only packets of this protocol.
    pub protocol: Option<Kind>,
    /// Destinations that are left alone.
    pub except: Vec<(IpAddr, u8)>,
    /// How mappings come about.
    pub mapping: Dependence,
    /// Whom a mapping lets in.
    pub filtering: Dependence,
    /// Which external address an inside address gets.
    pub pooling: Pooling,
    /// Most external ports of one inside address, 1 to [`MAX_PORTS`].
    pub max_ports: u32,
    /// Most sessions of one inside address; 0 is no limit.
    pub max_sessions: u32,
    /// How long sessions last. Since version 7.
    pub timeouts: SnatTimeouts,
    /// The pool is the port's own address (`--pool port`), whatever it is at the moment; `pool` is empty then. Since
    /// version 7.
    pub masquerade: bool,
}

/// Name of a time-out's option, its seconds, and the least that an RFC demands, with the RFC.
pub type NamedTimeout = (&'static str, u32, Option<(u32, &'static str)>);

/// How long a rule's sessions last without a packet, in seconds, 1 to [`MAX_TIMEOUT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SnatTimeouts {
    /// UDP.
    pub udp: u32,
    /// UDP to port 53.
    pub dns: u32,
    /// TCP between handshake and FIN or RST.
    pub tcp_established: u32,
    /// TCP before and after.
    pub tcp_transitory: u32,
    /// ICMP echo.
    pub icmp: u32,
}

impl Default for SnatTimeouts {
    /// UDP as RFC 4787, REQ-5, recommends, the others as their RFCs demand at least; DNS long enough for a resolver to
    /// ask again.
    fn default() -> Self {
        Self { udp: 300, dns: 15, tcp_established: 7440, tcp_transitory: 240, icmp: 60 }
    }
}

impl SnatTimeouts {
    /// Each with the name of its option and the least that an RFC allows.
    #[must_use]
    pub fn all(&self) -> [NamedTimeout; 5] {
        [
            ("timeout-udp", self.udp, Some((120, "RFC 4787, REQ-5"))),
            ("timeout-dns", self.dns, None),
            ("timeout-tcp-established", self.tcp_established, Some((7440, "RFC 5382, REQ-5"))),
            ("timeout-tcp-transitory", self.tcp_transitory, Some((240, "RFC 5382, REQ-5"))),
            ("timeout-icmp", self.icmp, Some((60, "RFC 5508, REQ-2"))),
        ]
    }

    /// The one that an option of this name sets.
    pub(crate) fn by_name(&mut self, option: &str) -> Option<&mut u32> {
        match option {
            "timeout-udp" => Some(&mut self.udp),
            "timeout-dns" => Some(&mut self.dns),
            "timeout-tcp-established" => Some(&mut self.tcp_established),
            "timeout-tcp-transitory" => Some(&mut self.tcp_transitory),
            "timeout-icmp" => Some(&mut self.icmp),
            _ => None,
        }
    }
}

/// A rule with what it has counted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SnatRow {
    /// As configured.
    pub rule: SnatRule,
    /// Sessions there are.
    pub sessions: u32,
    /// What it has counted: packets "in" come from inside.
    pub stats: Stats,
    /// Not estimated: zero.
    pub rates: Rates,
}

impl SnatRule {
    /// The external addresses, one by one.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let range = |&(first, last): &(IpAddr, IpAddr)| {
            let v6 = first.is_ipv6();
            (bits(first)..=bits(last)).map(move |n| match u32::try_from(n) {
                Ok(n) if !v6 => IpAddr::V4(Ipv4Addr::from(n)),
                _ => IpAddr::V6(Ipv6Addr::from(n)),
            })
        };
        self.pool.iter().flat_map(range)
    }

    /// What can be done but shouldn't: time-outs below what the RFCs allow. For people.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let below = |(option, seconds, floor): NamedTimeout| {
            let (least, rfc) = floor.filter(|(least, _)| seconds < *least)?;
            Some(format!("--{option} {seconds} is shorter than the {least} seconds of {rfc}"))
        };
        self.timeouts.all().into_iter().filter_map(below).collect()
    }

    /// Says what is wrong with the rule, if anything is, apart from names.
    ///
    /// # Errors
    /// For people.
    pub fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.starts_with('-') || self.name.contains(char::is_whitespace) {
            return Err(format!("`{}' isn't a valid name", self.name));
        }
        for (address, bits) in std::iter::once(&self.inside).chain(&self.except) {
            if *bits > width(*address) {
                return Err(format!("prefix length {bits} of {address}"));
            }
        }
        let v6 = self.inside.0.is_ipv6();
        let except = self.except.iter().map(|(address, _)| *address);
        let mut others = self.pool.iter().flat_map(|(first, last)| [*first, *last]).chain(except);
        if let Some(address) = others.find(|address| address.is_ipv6() != v6) {
            return Err(format!("{address} and the inside network are of different address families"));
        }
        if let Some((first, last)) = self.pool.iter().find(|(first, last)| first > last) {
            return Err(format!("the pool's range {first}-{last} ends before it begins"));
        }
        if self.masquerade && !self.pool.is_empty() {
            return Err("--pool is either `port' or addresses".into());
        }
        let sizes = self.pool.iter().map(|(first, last)| (bits(*last) - bits(*first)).saturating_add(1));
        let size = sizes.fold(0, u128::saturating_add);
        if (size == 0 && !self.masquerade) || size > MAX_POOL as u128 {
            return Err(format!("a pool of {size} addresses: 1 to {MAX_POOL}"));
        }
        let mut seen = HashSet::new();
        if let Some(address) = self.addresses().find(|a| !seen.insert(*a)) {
            return Err(format!("{address} is in the pool twice"));
        }
        if self.except.len() > MAX_EXCEPT {
            return Err(format!("{} exceptions, at most {MAX_EXCEPT}", self.except.len()));
        }
        if !(1..=MAX_PORTS).contains(&self.max_ports) {
            return Err(format!("{} ports an inside address: 1 to {MAX_PORTS}", self.max_ports));
        }
        for (option, seconds, _) in self.timeouts.all() {
            if !(1..=MAX_TIMEOUT).contains(&seconds) {
                return Err(format!("--{option} {seconds}: 1 to {MAX_TIMEOUT} seconds"));
            }
        }
        let host_bits = u32::from(width(self.inside.0) - self.inside.1);
        let inside = |a: IpAddr| (bits(a) ^ bits(self.inside.0)).checked_shr(host_bits).unwrap_or(0) == 0;
        match self.addresses().find(|a| inside(*a)) {
            Some(address) => Err(format!("{address} of the pool lies in the inside network")),
            None => Ok(()),
        }
    }
}

/// An address as a number.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_bits().into(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// Bits of an address of this one's family.
pub(crate) fn width(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}
