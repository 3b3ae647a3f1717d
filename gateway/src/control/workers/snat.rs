//! Turns SNAT rules into what workers use: tables, port blocks, counters of the rules.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use weir_api::model::snat::SnatRule;

use super::Workers;
use crate::{
    host::KernelPorts,
    id::SnatRuleId,
    io::PortId,
    path::{
        admin::update::{Batch, Update},
        flow::snat::{self, Nat},
    },
    table::snat::{
        BlockEvent,
        blocks::{BLOCK, Blocks, Row},
        reserved::Reserved,
    },
};

/// Port blocks that a worker can tell of before control takes note.
const SNAT_LOG: usize = 4096;
/// Mappings that a worker has room for at most.
const MAX_MAPPINGS: u32 = 1 << 20;

impl Workers {
    /// Room for the first rule, blocks for new addresses, slots for new rules, the end of old ones' sessions.
    pub(super) fn set_snat(&mut self, rules: Vec<(SnatRuleId, Arc<SnatRule>)>, batches: &mut [Batch]) {
        if self.snat_log.is_empty() && !rules.is_empty() {
            for (link, batch) in self.links.iter().zip(batches.iter_mut()) {
                let (log, told) = rtrb::RingBuffer::new(SNAT_LOG);
                let mappings = link.tables.max_sessions.clamp(1024, MAX_MAPPINGS) as usize;
                batch.push(Update::SnatRoom(Some(Box::new(Nat::new(mappings, seed(), log)))));
                batch.push(Update::SnatReserved(Arc::clone(&self.snat_reserved)));
                self.snat_log.push(told);
            }
        }
        let known: HashSet<SnatRuleId> = self.snat.iter().map(|(id, _)| *id).collect();
        for (id, _) in rules.iter().filter(|(id, _)| !known.contains(id)) {
            self.open_rule(*id, batches);
        }
        for batch in batches.iter_mut() {
            for (id, _) in self.snat.iter().filter(|(id, _)| rules.iter().all(|(kept, _)| kept != id)) {
                batch.push(Update::Available(id.slot(), false));
                batch.push(Update::EndSessions(id.slot()));
            }
        }
        self.snat = rules;
        self.put_in_force(batches);
    }

    /// Tells the workers of the rules with the addresses that they have now.
    fn put_in_force(&mut self, batches: &mut [Batch]) {
        self.masquerade = self.own_addresses();
        let port = |name: &str| self.ports.iter().position(|p| p == name).map(|n| PortId(n as u8));
        let own = |id| self.masquerade.get(id).copied().flatten();
        let made = self
            .snat
            .iter()
            .filter_map(|(id, rule)| Some(snat::WorkerSnatRule::new(*id, rule, port(&rule.port)?, own(id))));
        let made: Vec<snat::WorkerSnatRule> = made.collect();
        let addresses: BTreeSet<IpAddr> = made.iter().flat_map(|rule| rule.pool.iter().copied()).collect();
        let workers = batches.len() as u16;
        for address in addresses.difference(&self.snat_addresses) {
            for (n, batch) in batches.iter_mut().enumerate() {
                let blocks = Box::new(Blocks::new(n as u16, workers));
                batch.push(Update::SnatAddress(*address, Some(blocks)));
            }
        }
        let withdrawn = self.snat_addresses.difference(&addresses).next().is_some();
        let made = Arc::new(snat::RuleSet::new(made));
        for batch in batches.iter_mut() {
            batch.push(Update::Snat(Arc::clone(&made)));
            if withdrawn {
                batch.push(Update::SnatWithdrawn);
            }
        }
        self.snat_addresses = addresses;
    }

    /// The own address of each rule that masquerades, if its port has one that no service has as a local address.
    fn own_addresses(&self) -> BTreeMap<SnatRuleId, Option<IpAddr>> {
        let own = |rule: &SnatRule| {
            let port = self.ports.iter().position(|p| *p == rule.port)?;
            self.routes.port(PortId(port as u8))?.address_like(rule.inside.0)
        };
        let local = |address: &IpAddr| {
            self.default_local_addresses().contains(address)
                || self.services().any(|s| s.local_addresses.iter().any(|local| local.address == *address))
        };
        let rules = self.snat.iter().filter(|(_, rule)| rule.masquerade);
        rules.map(|(id, rule)| (*id, own(rule).filter(|address| !local(address)))).collect()
    }

    /// Rules that masquerade follow their ports' addresses.
    pub(super) fn follow_addresses(&mut self) {
        if !self.snat.iter().any(|(_, rule)| rule.masquerade) || self.own_addresses() == self.masquerade {
            return;
        }
        let mut batches: Vec<Batch> = self.links.iter().map(|_| Batch::new()).collect();
        self.put_in_force(&mut batches);
        for (id, address) in &self.masquerade {
            let name = self.snat.iter().find(|(of, _)| of == id).map_or("", |(_, rule)| rule.name.as_str());
            match address {
                Some(address) => tracing::info!(rule = name, %address, "snat masquerades"),
                None => tracing::warn!(rule = name, "snat has no address to masquerade with"),
            }
        }
        self.send_each(batches.into_iter());
    }

    /// Which ports the kernel has for itself, of addresses that it shares with SNAT.
    pub fn set_kernel_ports(&mut self, ports: &KernelPorts) {
        let mut reserved = Reserved::default();
        for &(first, last) in &ports.ranges {
            reserved.keep_range(first, last);
        }
        ports.tcp.iter().for_each(|port| reserved.keep(Row(0), *port));
        ports.udp.iter().for_each(|port| reserved.keep(Row(1), *port));
        if reserved != *self.snat_reserved {
            self.snat_reserved = Arc::new(reserved);
            let batches: Vec<Batch> = self.links.iter().map(|_| self.reserved_update()).collect();
            self.send_each(batches.into_iter());
        }
    }

    fn reserved_update(&self) -> Batch {
        vec![Update::SnatReserved(Arc::clone(&self.snat_reserved))]
    }

    /// What rules that masquerade lack, for people.
    pub fn snat_warnings(&self) -> Vec<String> {
        let masquerading = || self.snat.iter().filter(|(_, rule)| rule.masquerade);
        let without = masquerading().filter(|(id, _)| self.masquerade.get(id).copied().flatten().is_none());
        let without = without.map(|(_, rule)| {
            format!("SNAT rule {}: port {} has no address to masquerade with", rule.name, rule.port)
        });
        let none =
            (self.snat_reserved.left() < u32::from(BLOCK) && masquerading().next().is_some()).then(|| {
                "net.ipv4.ip_local_port_range leaves no ports to SNAT with --pool port: make the range \
                    smaller"
                    .to_owned()
            });
        without.chain(self.pools_at_ports()).chain(none).collect()
    }

    /// External addresses that have become a port's own since their rule came.
    fn pools_at_ports(&self) -> impl Iterator<Item = String> {
        let of = |rule: &SnatRule| {
            let own = |(n, _)| self.routes.port(PortId(n))?.address_like(rule.inside.0);
            let ports = (0u8..).zip(&self.ports);
            let ours: Vec<IpAddr> = rule.addresses().collect();
            let taken = ports.filter_map(|port| Some((port.1, own(port).filter(|a| ours.contains(a))?)));
            let taken = taken.map(|(port, address)| {
                format!("SNAT rule {}: {address} of its pool is an address of port {port}", rule.name)
            });
            taken.collect::<Vec<_>>()
        };
        self.snat.iter().flat_map(move |(_, rule)| of(rule))
    }

    /// The SNAT rules.
    pub fn snat(&self) -> impl Iterator<Item = &SnatRule> {
        self.snat.iter().map(|(_, rule)| &**rule)
    }

    /// Names of the SNAT rules.
    pub(in crate::control) fn snat_names(&self) -> impl Iterator<Item = (SnatRuleId, &str)> {
        self.snat.iter().map(|(id, rule)| (*id, rule.name.as_str()))
    }

    /// What became of port blocks since it was asked for last.
    pub fn take_snat_log(&mut self) -> Vec<BlockEvent> {
        self.snat_log.iter_mut().flat_map(|log| std::iter::from_fn(|| log.pop().ok())).collect()
    }
}

/// A different number each time, which can't be guessed from outside.
fn seed() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0) as u32
}
