//! SNAT's rules become what workers translate by: room, blocks of ports, slots that rules count in.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use weirctl::{
    model::{self, Forwarding},
    snat::SnatRule,
};

use super::workers::Workers;
use crate::{
    id::ServerId,
    io::PortId,
    path::{
        snat::{self, Nat},
        update::{Batch, Update},
    },
    table::snat::{BlockEvent, blocks::Blocks},
};

/// Port blocks that a worker can tell of before control takes note.
const SNAT_LOG: usize = 4096;
/// Mappings that a worker has room for at most.
const MAX_MAPPINGS: u32 = 1 << 20;

impl Workers {
    /// Room for the first rule, blocks for new addresses, slots for new rules, the end of old ones' sessions.
    pub(super) fn set_snat(&mut self, rules: Vec<(ServerId, Arc<SnatRule>)>, batches: &mut [Batch]) {
        let workers = batches.len() as u16;
        if self.snat_log.is_empty() && !rules.is_empty() {
            for (link, batch) in self.links.iter().zip(batches.iter_mut()) {
                let (log, told) = rtrb::RingBuffer::new(SNAT_LOG);
                let mappings = link.tables.max_sessions.clamp(1024, MAX_MAPPINGS) as usize;
                batch.push(Update::SnatRoom(Some(Box::new(Nat::new(mappings, seed(), log)))));
                self.snat_log.push(told);
            }
        }
        let known: HashSet<IpAddr> = self.snat.iter().flat_map(|(_, rule)| rule.addresses()).collect();
        for address in rules.iter().flat_map(|(_, rule)| rule.addresses()) {
            if !known.contains(&address) {
                for (n, batch) in batches.iter_mut().enumerate() {
                    let blocks = Box::new(Blocks::new(n as u16, workers));
                    batch.push(Update::SnatAddress(address, Some(blocks)));
                }
            }
        }
        let known: HashSet<ServerId> = self.snat.iter().map(|(id, _)| *id).collect();
        for (id, _) in rules.iter().filter(|(id, _)| !known.contains(id)) {
            self.configure_server(*id, &counting(), batches);
        }
        let port = |name: &str| self.ports.iter().position(|p| p == name).map(|n| PortId(n as u8));
        let made = rules.iter().filter_map(|(id, rule)| Some(snat::Rule::new(*id, rule, port(&rule.port)?)));
        let made = Arc::new(snat::Rules::new(made.collect()));
        for batch in batches.iter_mut() {
            batch.push(Update::Snat(Arc::clone(&made)));
            for (id, _) in self.snat.iter().filter(|(id, _)| rules.iter().all(|(kept, _)| kept != id)) {
                batch.push(Update::Available(*id, false));
                batch.push(Update::ExpireServer(*id));
            }
        }
        self.snat = rules;
    }

    /// The SNAT rules.
    pub fn snat(&self) -> impl Iterator<Item = &SnatRule> {
        self.snat.iter().map(|(_, rule)| &**rule)
    }

    /// What became of port blocks since it was asked for last.
    pub fn take_snat_log(&mut self) -> Vec<BlockEvent> {
        self.snat_log.iter_mut().flat_map(|log| std::iter::from_fn(|| log.pop().ok())).collect()
    }
}

/// A rule counts as a server does.
fn counting() -> model::Server {
    model::Server {
        address: IpAddr::from([0; 4]),
        port: 0,
        forwarding: Forwarding::Nat,
        weight: 0,
        upper: 0,
        lower: 0,
    }
}

/// Another number each time, that nobody outside can know.
fn seed() -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0) as u32
}
