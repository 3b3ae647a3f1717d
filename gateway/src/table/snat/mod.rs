//! One worker's SNAT state: the ports of inside addresses, and the mappings.
//!
//! ```text
//! host      an inside address under one rule: its external address, its blocks, how many ports and sessions it has
//! mapping   inside address and port <-> external address and port, by protocol; sessions refer to it
//! ```
//!
//! A mapping lives as long as a session refers to it. It is only looked up for packets without a session, so this isn't
//! part of the fast path. All memory is reserved when the first rule is added.

pub mod blocks;
mod preview;
pub mod reserved;
mod ring;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, collections::VecDeque, net::IpAddr, sync::Arc};

use foldhash::fast::RandomState;
use weir_api::model::snat::Dependence;

use self::{
    blocks::{BLOCK, BlockId, Blocks, PROTOCOLS, Row},
    reserved::Reserved,
    ring::{Addresses, Ring},
};

pub use self::ring::AddressRole;
use crate::{
    clock::{Tick, Ticks},
    id::SnatRuleId,
    net::protocol,
};

/// The most inside addresses that a worker keeps at once.
const MAX_HOSTS: usize = 65_536;
/// The most external addresses that a worker keeps at once.
pub const MAX_ADDRESSES: usize = 1024;
/// Extra blocks that any inside address may have, to use while ports of the others rest.
const SPARE_BLOCKS: u16 = 16;
/// How long after its last mapping an inside address gives its blocks back: as long as ports rest.
const LINGER: Ticks = Ticks::seconds(185);
/// The number of inside addresses checked in one poll for blocks to give back, and the most blocks that each gives
/// back.
const TIDY: usize = 4;
const TIDY_BLOCKS: u16 = 64;

/// Address and port.
pub type Endpoint = (IpAddr, u16);

/// The row of a protocol's ports; none if it has no ports here.
#[must_use]
pub fn row(protocol: u8) -> Option<Row> {
    match protocol {
        protocol::TCP => Some(Row(0)),
        protocol::UDP => Some(Row(1)),
        protocol::ICMP | protocol::ICMPV6 => Some(Row(2)),
        _ => None,
    }
}

/// The limits that a rule sets for an inside address.
#[derive(Clone, Copy, Debug)]
pub struct SnatLimits {
    /// The most external ports.
    pub ports: u32,
    /// The most sessions; 0 is no limit.
    pub sessions: u32,
    /// Whether all mappings use one external address.
    pub paired: bool,
    /// What mappings depend on.
    pub mapping: Dependence,
}

impl SnatLimits {
    /// The most blocks of one inside address.
    fn blocks(&self) -> u16 {
        let needed = self.ports.div_ceil(u32::from(BLOCK));
        u16::try_from(needed).unwrap_or(u16::MAX).max(SPARE_BLOCKS)
    }
}

/// Why there is no mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The pool has no address.
    Address,
    /// The pool has no port.
    Pool,
    /// The inside address has all the ports it may have.
    Ports,
    /// The inside address has all the sessions it may have.
    Sessions,
    /// The worker's tables are full.
    Tables,
}

/// A block that was given to an inside address or given back, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockEvent {
    /// Inside address.
    pub inside: IpAddr,
    /// External address.
    pub external: IpAddr,
    /// First port.
    pub first: u16,
    /// Whether it was given; otherwise it was given back.
    pub given: bool,
}

/// A mapping.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// The rule it came from.
    pub rule: SnatRuleId,
    /// Inside address and port.
    pub inside: Endpoint,
    /// External address and port.
    pub external: Endpoint,
    /// IP protocol number.
    pub protocol: u8,
    /// The outside address and port, if the mapping depends on them.
    outside: Option<Endpoint>,
    host: u32,
    sessions: u32,
}

struct InsideHost {
    key: (IpAddr, SnatRuleId),
    address: IpAddr,
    /// Its blocks; that of the last port comes first.
    blocks: Ring,
    /// By protocol, the clock's step in which none of its blocks has a free port, plus one; 0 if unknown.
    exhausted: [u32; PROTOCOLS],
    ports: u32,
    sessions: u32,
    /// When it lost its last mapping and was queued for giving blocks back.
    idle: Option<Tick>,
}

type InsideKey = (u8, Endpoint, Option<Endpoint>, SnatRuleId);

/// The tables.
pub struct SnatTables {
    addresses: Addresses,
    hosts: Vec<InsideHost>,
    free_hosts: Vec<u32>,
    by_host: HashMap<(IpAddr, SnatRuleId), u32, RandomState>,
    mappings: Vec<Mapping>,
    free_mappings: Vec<u32>,
    by_inside: HashMap<InsideKey, u32, RandomState>,
    by_external: HashMap<(u8, Endpoint), u32, RandomState>,
    idle: VecDeque<u32>,
    random: u32,
}

impl SnatTables {
    /// Tables for this many mappings.
    #[must_use]
    pub fn new(mappings: usize, seed: u32) -> Self {
        fn map<K, V>(capacity: usize) -> HashMap<K, V, RandomState> {
            HashMap::with_capacity_and_hasher(capacity, RandomState::default())
        }
        let hosts = MAX_HOSTS.min(mappings);
        Self {
            addresses: Addresses::default(),
            hosts: Vec::with_capacity(hosts),
            free_hosts: Vec::with_capacity(hosts),
            by_host: map(hosts),
            mappings: Vec::with_capacity(mappings),
            free_mappings: Vec::with_capacity(mappings),
            by_inside: map(mappings),
            by_external: map(mappings),
            idle: VecDeque::with_capacity(hosts),
            random: seed | 1,
        }
    }

    /// Adds the blocks of an external address, unless it has some already. If there is no room they replace those of an
    /// address without ports in use, which `blocks` holds afterwards.
    pub fn add_address(&mut self, address: IpAddr, blocks: &mut Option<Box<Blocks>>) {
        self.addresses.add(address, blocks);
    }

    /// Sets the role of each external address; none for those that no rule has any more.
    pub fn set_standing(&mut self, of: impl Fn(IpAddr) -> Option<AddressRole>) {
        self.addresses.set_standing(of);
    }

    /// Sets the kernel's ports of shared addresses; afterwards `reserved` holds the old ones.
    pub fn set_reserved(&mut self, reserved: &mut Arc<Reserved>) {
        self.addresses.set_reserved(reserved);
    }

    /// Whether a packet to a shared address always goes to the kernel.
    #[must_use]
    pub fn is_kept(&self, protocol: u8, port: u16) -> bool {
        self.addresses.is_kept(protocol, port)
    }

    /// The mapping of an external address and port.
    #[must_use]
    pub fn by_external(&self, protocol: u8, external: Endpoint) -> Option<(u32, &Mapping)> {
        let id = *self.by_external.get(&(protocol, external))?;
        Some((id, self.mappings.get(id as usize)?))
    }

    /// The mapping of an inside address and port towards an outside endpoint, if it exists.
    #[must_use]
    pub fn by_inside(
        &self,
        rule: SnatRuleId,
        limits: &SnatLimits,
        protocol: u8,
        inside: Endpoint,
        outside: Endpoint,
    ) -> Option<(u32, &Mapping)> {
        let id = *self.by_inside.get(&key(rule, limits, protocol, inside, outside))?;
        let mapping = self.mappings.get(id as usize)?;
        // The sessions of a withdrawn address are about to end.
        (!self.addresses.is_withdrawn(mapping.external.0)).then_some((id, mapping))
    }

    /// The external address and port of a mapping.
    #[must_use]
    pub fn external(&self, mapping: u32) -> Option<Endpoint> {
        self.mappings.get(mapping as usize).map(|m| m.external)
    }

    /// Whether the mapping's inside address may have another session.
    #[must_use]
    pub fn may_open(&self, mapping: u32, limits: &SnatLimits) -> bool {
        let host = self.mappings.get(mapping as usize).and_then(|m| self.hosts.get(m.host as usize));
        limits.sessions == 0 || host.is_some_and(|h| h.sessions < limits.sessions)
    }

    /// Notes that another session refers to the mapping.
    pub fn hold(&mut self, mapping: u32) {
        let Some(mapping) = self.mappings.get_mut(mapping as usize) else { return };
        mapping.sessions += 1;
        if let Some(host) = self.hosts.get_mut(mapping.host as usize) {
            host.sessions += 1;
        }
    }

    /// Notes the end of a session that referred to the mapping of an external address and port. The mapping ends with
    /// its last session.
    pub fn let_go(&mut self, protocol: u8, external: Endpoint, now: Tick) {
        let Some(&id) = self.by_external.get(&(protocol, external)) else { return };
        let Some(mapping) = self.mappings.get_mut(id as usize) else { return };
        mapping.sessions = mapping.sessions.saturating_sub(1);
        if let Some(host) = self.hosts.get_mut(mapping.host as usize) {
            host.sessions = host.sessions.saturating_sub(1);
        }
        if mapping.sessions == 0 {
            self.end(id, now);
        }
    }

    /// Ends a mapping that no session refers to.
    pub fn end_unused(&mut self, id: u32, now: Tick) {
        if self.mappings.get(id as usize).is_some_and(|m| m.sessions == 0) {
            self.end(id, now);
        }
    }

    fn end(&mut self, id: u32, now: Tick) {
        let Some(&m) = self.mappings.get(id as usize) else { return };
        if self.by_external.remove(&(m.protocol, m.external)).is_none() {
            return;
        }
        let key = (m.protocol, m.inside, m.outside, m.rule);
        // A mapping with a withdrawn external address may have been replaced.
        if self.by_inside.get(&key) == Some(&id) {
            self.by_inside.remove(&key);
        }
        self.free_mappings.push(id);
        if let (Some(blocks), Some(row)) = (self.addresses.blocks_of(m.external.0), row(m.protocol)) {
            blocks.release(m.external.1, row, now);
        }
        let Some(host) = self.hosts.get_mut(m.host as usize) else { return };
        host.ports = host.ports.saturating_sub(1);
        if host.ports == 0 {
            if host.idle.is_none() {
                self.idle.push_back(m.host);
            }
            host.idle = Some(now);
        }
    }

    /// Opens a mapping. `pool` are the rule's external addresses.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn open(
        &mut self,
        (rule, limits, pool): (SnatRuleId, &SnatLimits, &[IpAddr]),
        (protocol, inside, outside): (u8, Endpoint, Endpoint),
        now: Tick,
        log: &mut impl FnMut(BlockEvent),
    ) -> Result<(u32, bool), Full> {
        let row = row(protocol).ok_or(Full::Pool)?;
        if self.free_mappings.is_empty() && self.mappings.len() == self.mappings.capacity() {
            return Err(Full::Tables);
        }
        let host = self.host((inside.0, rule), pool, now)?;
        let (external, early) = self.port(host, row, (limits, pool), now, log)?;
        let (_, _, outside, _) = key(rule, limits, protocol, inside, outside);
        let mapping = Mapping { rule, inside, external, protocol, outside, host, sessions: 0 };
        let id = match self.free_mappings.pop() {
            Some(id) => {
                self.mappings[id as usize] = mapping;
                id
            }
            None => {
                self.mappings.push(mapping);
                self.mappings.len() as u32 - 1
            }
        };
        self.by_external.insert((protocol, external), id);
        self.by_inside.insert((protocol, inside, outside, rule), id);
        self.hosts[host as usize].ports += 1;
        Ok((id, early))
    }

    /// The inside address, known or added.
    fn host(&mut self, key: (IpAddr, SnatRuleId), pool: &[IpAddr], now: Tick) -> Result<u32, Full> {
        let known = self.by_host.get(&key).and_then(|&id| Some((id, self.hosts.get(id as usize)?.address)));
        // An inside address whose external address was withdrawn starts again with another.
        if let Some((id, address)) = known
            && !self.addresses.is_withdrawn(address)
        {
            return Ok(id);
        }
        let first = self.random() as usize % pool.len().max(1);
        let address = *pool.get(first).ok_or(Full::Address)?;
        let (blocks, exhausted) = (Ring::default(), [0; PROTOCOLS]);
        let host = InsideHost { key, address, blocks, exhausted, ports: 0, sessions: 0, idle: Some(now) };
        let id = match self.free_hosts.pop() {
            Some(id) => {
                self.hosts[id as usize] = host;
                id
            }
            None if self.hosts.len() < self.hosts.capacity() => {
                self.hosts.push(host);
                self.hosts.len() as u32 - 1
            }
            None => return Err(Full::Tables),
        };
        self.by_host.insert(key, id);
        // It may never get a mapping, so it is queued.
        self.idle.push_back(id);
        Ok(id)
    }

    /// Takes a port for the inside address `id`. Returns whether its rest was cut short.
    fn port(
        &mut self,
        id: u32,
        row: Row,
        (limits, pool): (&SnatLimits, &[IpAddr]),
        now: Tick,
        log: &mut impl FnMut(BlockEvent),
    ) -> Result<(Endpoint, bool), Full> {
        if self.hosts[id as usize].ports >= limits.ports {
            return Err(Full::Ports);
        }
        let random = self.random();
        if let Some(port) = self.free_port(id, row, now, random) {
            return Ok((port, false));
        }
        if let Some(block) = self.new_block(id, row, (limits, pool), log) {
            let of = self.addresses.at_kept(block, row);
            let port = of.and_then(|(b, kept)| b.allocate(block.n, row, now, (random, kept)));
            return port
                .and_then(|port| self.addresses.place(block, port))
                .map(|p| (p, false))
                .ok_or(Full::Pool);
        }
        self.resting_port(id, row, now, random).map(|port| (port, true)).ok_or(Full::Pool)
    }

    /// Takes a free port of the blocks that the inside address has.
    fn free_port(&mut self, id: u32, row: Row, now: Tick, random: u32) -> Option<Endpoint> {
        let addresses = &mut self.addresses;
        let host = self.hosts.get_mut(id as usize)?;
        let exhausted = host.exhausted.get_mut(usize::from(row.0))?;
        // Ports that are released meanwhile rest, so none becomes free before the next step.
        let step = blocks::step(now).wrapping_add(1);
        if *exhausted == step {
            return None;
        }
        let found = host.blocks.find(addresses, row, |b, n, kept| b.allocate(n, row, now, (random, kept)));
        if found.is_none() {
            *exhausted = step;
        }
        found.and_then(|(block, port)| addresses.place(block, port))
    }

    /// Takes a resting port of its blocks.
    fn resting_port(&mut self, id: u32, row: Row, now: Tick, random: u32) -> Option<Endpoint> {
        let addresses = &mut self.addresses;
        let host = self.hosts.get_mut(id as usize)?;
        let (block, port) =
            host.blocks.find(addresses, row, |b, n, kept| b.allocate_resting(n, row, now, (random, kept)))?;
        addresses.place(block, port)
    }

    /// Takes another block for the inside address.
    fn new_block(
        &mut self,
        id: u32,
        row: Row,
        (limits, pool): (&SnatLimits, &[IpAddr]),
        log: &mut impl FnMut(BlockEvent),
    ) -> Option<BlockId> {
        let addresses = &mut self.addresses;
        let host = self.hosts.get_mut(id as usize)?;
        if host.blocks.len() >= limits.blocks() {
            return None;
        }
        // Without a block it may still use any address, so that a full address excludes no host.
        let others = if limits.paired && !host.blocks.is_empty() { &[] } else { pool };
        let mut candidates = std::iter::once(host.address).chain(others.iter().copied());
        let (external, block) =
            candidates.find_map(|address| Some((address, addresses.take(address, row)?)))?;
        if host.blocks.is_empty() {
            host.address = external;
        }
        host.blocks.push(addresses, block);
        host.exhausted = [0; PROTOCOLS];
        let (inside, first) = (host.key.0, blocks::first_port(block.n));
        log(BlockEvent { inside, external, first, given: true });
        Some(block)
    }

    /// Takes blocks back from inside addresses that have had no mapping for long enough, a few per call.
    pub fn tidy(&mut self, now: Tick, log: &mut impl FnMut(BlockEvent)) {
        for _ in 0..TIDY {
            let Some(&id) = self.idle.front() else { return };
            let Some(host) = self.hosts.get_mut(id as usize) else { return };
            match host.idle {
                Some(since) if host.ports == 0 && now.since(since) < LINGER => return,
                _ => {}
            }
            self.idle.pop_front();
            if host.ports != 0 {
                host.idle = None;
                continue;
            }
            let (inside, addresses) = (host.key.0, &mut self.addresses);
            for _ in 0..host.blocks.len().min(TIDY_BLOCKS) {
                let Some(block) = host.blocks.pop(addresses) else { break };
                if addresses.at(block).is_none_or(|b| b.give_back(block.n, now)) {
                    let Some(external) = addresses.address(block) else { continue };
                    log(BlockEvent { inside, external, first: blocks::first_port(block.n), given: false });
                } else {
                    host.blocks.push(addresses, block);
                }
            }
            if host.blocks.is_empty() {
                if self.by_host.get(&host.key) == Some(&id) {
                    self.by_host.remove(&host.key);
                }
                self.free_hosts.push(id);
            } else {
                host.idle = Some(now);
                self.idle.push_back(id);
            }
        }
    }

    /// Whether an inside address waits to give its blocks back.
    #[must_use]
    pub fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// The number of mappings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_external.len()
    }

    /// Whether there are no mappings.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_external.is_empty()
    }

    /// xorshift32: unpredictable enough for ports together with the seed (RFC 6056, 3.3.1).
    fn random(&mut self) -> u32 {
        self.random = next_random(self.random);
        self.random
    }
}

/// The number after this one: xorshift.
fn next_random(mut x: u32) -> u32 {
    x ^= x << 13;
    x ^= x >> 17;
    x ^ (x << 5)
}

fn key(
    rule: SnatRuleId,
    limits: &SnatLimits,
    protocol: u8,
    inside: Endpoint,
    outside: Endpoint,
) -> InsideKey {
    let outside = match limits.mapping {
        Dependence::EndpointIndependent => None,
        Dependence::AddressAndPortDependent => Some(outside),
    };
    (protocol, inside, outside, rule)
}
