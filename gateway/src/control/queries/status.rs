//! The gateway's state: `weirctl status`. Loads and local addresses are read from the workers' counters without
//! asking them.

use std::{collections::HashMap, net::IpAddr};

use weir_api::model::status::{LocalAddressUse, MAX_STATUS_ADDRESSES, Status, WorkerStatus};

use super::{Configuration, ConfigurationSize};
use crate::{
    control::workers::{WorkerLink, Workers},
    net::address::Address,
    table::pool::{PairKey, PoolUsage},
};

/// How it is.
pub(super) fn status(held: &dyn Configuration) -> Status {
    let (plane, ConfigurationSize { generation, services, servers }) = (held.plane().status(), held.extent());
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        generation,
        uptime: plane.uptime,
        services,
        servers,
        ports: plane.ports,
        workers: plane.workers,
        local_addresses: plane.local_addresses,
        warnings: plane.warnings,
    }
}

/// A worker's load.
#[must_use]
pub fn of_worker(link: &WorkerLink) -> WorkerStatus {
    let events = &link.counters.events;
    // Ended is read first: what is opened in between counts.
    let ended = events.sessions_ended.get();
    WorkerStatus {
        polls: events.polls.get(),
        busy_polls: events.busy_polls.get(),
        received: events.received.get(),
        sessions: events.sessions_opened.get().saturating_sub(ended) as u32,
        max_sessions: link.tables.max_sessions,
    }
}

impl Workers {
    /// Each worker's load.
    #[must_use]
    pub fn loads(&self) -> Vec<WorkerStatus> {
        self.links.iter().map(of_worker).collect()
    }

    /// How often each worker has polled.
    #[must_use]
    pub fn polls(&self) -> Vec<u64> {
        self.links.iter().map(|link| link.counters.events.polls.get()).collect()
    }
}

/// Use of the local addresses over all workers, the fullest first.
#[must_use]
pub fn of_addresses(links: &[WorkerLink]) -> Vec<LocalAddressUse> {
    let ports = links.iter().map(|link| link.tables.ports).max().unwrap_or_default();
    let mut rows = of_family(links.iter().filter_map(|link| link.tables.pool.as_deref()), ports);
    rows.extend(of_family(links.iter().filter_map(|link| link.tables.pool_v6.as_deref()), ports));
    rows.sort_unstable_by_key(|row| (std::cmp::Reverse((row.busiest, row.used)), row.address));
    rows.truncate(MAX_STATUS_ADDRESSES);
    rows
}

/// Whether a local address has so many ports in use over all servers that it may be `full` towards one.
pub(in crate::control) fn may_be_nearly_full(links: &[WorkerLink], full: impl Fn(u64, u64) -> bool) -> bool {
    let ports = links.iter().map(|link| link.tables.ports).max().unwrap_or_default();
    let mut used: HashMap<IpAddr, u64> = HashMap::new();
    for link in links {
        let (v4, v6) = (link.tables.pool.as_deref(), link.tables.pool_v6.as_deref());
        let v4 = v4.into_iter().flat_map(|pool| pool.addresses().map(|(a, n)| (IpAddr::from(a), n)));
        let v6 = v6.into_iter().flat_map(|pool| pool.addresses().map(|(a, n)| (IpAddr::from(a), n)));
        v4.chain(v6).for_each(|(address, n)| *used.entry(address).or_default() += u64::from(n));
    }
    used.values().any(|n| full(*n, ports.into()))
}

fn of_family<'a, A: Address + Into<IpAddr>>(
    pools: impl Iterator<Item = &'a PoolUsage<A>>,
    ports: u32,
) -> Vec<LocalAddressUse> {
    let mut used: HashMap<A, u32> = HashMap::new();
    let mut pairs: HashMap<PairKey<A>, u32> = HashMap::new();
    for pool in pools {
        pool.addresses().for_each(|(address, n)| *used.entry(address).or_default() += n);
        pool.pairs().for_each(|(pair, n)| *pairs.entry(pair).or_default() += n);
    }
    let mut busiest: HashMap<A, u32> = HashMap::new();
    for (pair, n) in pairs {
        let most = busiest.entry(pair.lip).or_default();
        *most = n.max(*most);
    }
    let row = |(address, used): (A, u32)| {
        let busiest = busiest.get(&address).copied().unwrap_or_default();
        LocalAddressUse { address: address.into(), used, busiest, ports }
    };
    used.into_iter().map(row).collect()
}
