//! Schedulers: which real server gets a new session.
//!
//! There is one file per scheduler, and one trait. Every worker has its own instance of every service's scheduler. When
//! a service changes, control prepares a *new* instance with the tables it needs for the new server list, so that a
//! worker never allocates. The worker lets it [`Scheduler::inherit`] the old one's state, such as a rotation's
//! position, and swaps them.

use std::{any::Any, net::IpAddr, sync::Arc};

pub use weir_api::model::explain::{Skip, Standing};

use crate::{
    clock::Tick,
    id::{ServerId, WorkerId},
    path::settings::Settings,
    table::{
        counters::{OtherWorkers, ServerCountersRef},
        endpoints::Endpoints,
        limit::Limit,
    },
};

mod dh;
mod fo;
mod hash;
mod lblc;
mod lblcr;
mod lc;
mod least;
mod lists;
mod locality;
mod mh;
mod none;
mod nq;
mod ovf;
mod rr;
mod sed;
mod sh;
#[cfg(test)]
mod testing;
mod wlc;
mod wrr;

/// A bit of a service's scheduler flags: sh and mh try the next choice when the first can't take a session
/// (`sh-fallback`, `mh-fallback`, `flag-1`).
pub const FLAG_FALLBACK: u8 = 1;
/// A bit of a service's scheduler flags: sh and mh also hash the source port (`sh-port`, `mh-port`, `flag-2`).
pub const FLAG_PORT: u8 = 2;

/// A real server as a scheduler sees it. Lists are in IPVS's order: the newest server first.
#[derive(Clone, Debug)]
pub struct Server {
    /// Stable identity.
    pub id: ServerId,
    /// Address.
    pub address: IpAddr,
    /// Port, host order.
    pub port: u16,
    /// Weight; 0 = quiesced.
    pub weight: u32,
    /// Upper threshold (`-x`), 0 = none.
    pub upper: u32,
    /// This worker's counters.
    pub counters: ServerCountersRef,
    /// The other workers' counters.
    pub others: Arc<OtherWorkers>,
    /// Its threshold, if it has one.
    pub limit: Option<Arc<Limit>>,
}

impl Server {
    /// Active sessions over all workers.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.counters.active.get().wrapping_add(self.others.active.get())
    }
    /// Inactive sessions over all workers.
    #[must_use]
    pub fn inactive(&self) -> u32 {
        self.counters.inactive.get().wrapping_add(self.others.inactive.get())
    }
    /// Whether it is above its upper threshold, and so must not be chosen.
    #[must_use]
    pub fn overloaded(&self) -> bool {
        self.limit.as_ref().is_some_and(|limit| limit.is_overloaded())
    }
    /// Whether it may be given a session: neither quiesced nor overloaded.
    #[must_use]
    pub fn eligible(&self) -> bool {
        self.weight != 0 && !self.overloaded()
    }
    /// The load as the least-connection schedulers compute it: an active session counts as much as 256 inactive ones.
    #[must_use]
    pub fn overhead(&self) -> u64 {
        u64::from(self.active()) * 256 + u64::from(self.inactive())
    }
}

/// The packet to be scheduled. Ports are in host order.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Client address.
    pub source: IpAddr,
    /// Client port.
    pub source_port: u16,
    /// Virtual address.
    pub destination: IpAddr,
    /// Virtual port.
    pub destination_port: u16,
    /// The current time.
    pub now: Tick,
}

impl Flow {
    /// The flow of a packet between these endpoints.
    #[inline]
    #[must_use]
    pub fn new(ends: &Endpoints, now: Tick) -> Self {
        let Endpoints { source: (source, source_port), destination: (destination, destination_port) } = *ends;
        Self { source, source_port, destination, destination_port, now }
    }

    /// The packet's endpoints.
    #[inline]
    #[must_use]
    pub fn endpoints(&self) -> Endpoints {
        Endpoints {
            source: (self.source, self.source_port),
            destination: (self.destination, self.destination_port),
        }
    }
}

/// A scheduling algorithm, with its state for one service on one worker.
pub trait Scheduler: Any + Send {
    /// The name in `-s`.
    fn name(&self) -> &'static str;

    /// Takes over the state that must survive a change of the service. It is called on the new instance, before its
    /// first use, with the instance it replaces (of any kind) and both server lists. Large tables are moved, so the old
    /// instance may only be dropped afterwards. Must not allocate.
    fn inherit(&mut self, old: &mut dyn Scheduler, old_servers: &[Server], servers: &[Server]);

    /// Picks the index of a server for a new session, or `None` if no server can take one. `servers` is the list this
    /// instance was prepared for. Must not allocate.
    fn schedule(&mut self, servers: &[Server], flow: &Flow) -> Option<usize>;

    /// Picks what [`Scheduler::schedule`] would pick now, without changing anything, for `explain`. Schedulers without
    /// state don't need to implement it.
    fn preview(&mut self, servers: &[Server], flow: &Flow) -> Option<usize> {
        self.schedule(servers, flow)
    }

    /// The scheduler's state with respect to this packet.
    fn standing(&self, servers: &[Server], flow: &Flow) -> Standing {
        let _ = (servers, flow);
        Standing::Stateless
    }

    /// The server's load as this scheduler computes it, before division by the weight; none if it doesn't use loads.
    fn load(&self, server: &Server) -> Option<u64> {
        let _ = server;
        None
    }

    /// Whether it never chooses a server above its threshold.
    fn heeds_thresholds(&self) -> bool {
        true
    }

    /// The reason why the server is skipped, if there is one.
    fn passes_over(&self, server: &Server) -> Option<Skip> {
        match () {
            () if server.weight == 0 => Some(Skip::Quiesced),
            () if server.overloaded() => Some(Skip::Threshold),
            () => None,
        }
    }
}

/// Creates the instance that `worker` uses for a service whose servers are now `servers`.
///
/// Control calls this: tables are allocated and filled here. `None` if there is no scheduler of that name. `flags` are
/// the service's (`-b`): [`FLAG_FALLBACK`] and [`FLAG_PORT`], which only sh and mh have. `server_changes` counts the
/// `-a`, `-e` and `-d` of the service so far: wrr starts over on each of them, even on one that changes nothing a
/// scheduler sees, but not on `-E`. A caller that doesn't count passes a constant; changes of the list itself are
/// noticed anyway.
#[must_use]
pub fn prepare(
    name: &str,
    flags: u8,
    servers: &[Server],
    worker: WorkerId,
    settings: &Settings,
    server_changes: u64,
) -> Option<Box<dyn Scheduler>> {
    Some(match name {
        "rr" => Box::new(rr::RoundRobin::new(worker)),
        "wrr" => Box::new(wrr::WeightedRoundRobin::new(servers, worker, server_changes)),
        "lc" => Box::new(lc::LeastConnection),
        "wlc" => Box::new(wlc::WeightedLeastConnection),
        "sed" => Box::new(sed::ShortestExpectedDelay),
        "nq" => Box::new(nq::NeverQueue),
        "sh" => Box::new(sh::SourceHash::new(flags, servers)),
        "dh" => Box::new(dh::DestinationHash::new(servers)),
        "mh" => Box::new(mh::Maglev::new(flags, servers)),
        "fo" => Box::new(fo::FailOver),
        "ovf" => Box::new(ovf::Overflow),
        "lblc" => Box::new(lblc::Locality::new(servers, settings.lblc_expiration)),
        "lblcr" => Box::new(lblcr::ReplicatedLocality::new(servers, settings.lblcr_expiration)),
        "none" => Box::new(none::NoScheduler),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use weir_api::model::{NO_SCHEDULER, SCHEDULERS};

    use super::*;

    fn names() -> impl Iterator<Item = &'static str> {
        SCHEDULERS.into_iter().chain([NO_SCHEDULER])
    }

    #[test]
    fn every_name_has_its_scheduler() {
        for name in names() {
            let scheduler = prepare(name, 0, &[], WorkerId(0), &Settings::default(), 0);
            assert_eq!(scheduler.map(|s| s.name()), Some(name));
        }
        assert!(prepare("wlcr", 0, &[], WorkerId(0), &Settings::default(), 0).is_none());
    }

    #[test]
    fn no_scheduler_chooses_without_available_servers() {
        let quiesced = testing::servers(&[(0, 0, 0), (0, 3, 1)]);
        let full = testing::servers(&[(1, 2, 0), (3, 0, 0)]);
        let full: Vec<_> = full.into_iter().map(|s| testing::overload(s, true)).collect();
        for name in names() {
            for servers in [&[][..], &quiesced, &full] {
                for flags in 0..4 {
                    let made = prepare(name, flags, servers, WorkerId(2), &Settings::default(), 0);
                    let mut scheduler = made.expect("known name");
                    for client in 0..20 {
                        let chosen = scheduler.schedule(servers, &testing::flow(client, client, 0));
                        assert_eq!(chosen, None, "{name} {flags}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_preview_is_what_comes_and_moves_nothing() {
        let list = testing::weights(&[3, 1, 2, 5]);
        for name in names() {
            for worker in 0..3 {
                let made = prepare(name, FLAG_FALLBACK, &list, WorkerId(worker), &Settings::default(), 0);
                let mut scheduler = made.expect("known name");
                for n in 0..60u8 {
                    let flow = testing::flow(n, n % 7, u32::from(n) * 40);
                    let previews = [(); 3].map(|()| scheduler.preview(&list, &flow));
                    let chosen = scheduler.schedule(&list, &flow);
                    assert_eq!(previews, [chosen; 3], "{name} {n}");
                    if let Some(chosen) = chosen {
                        list[chosen].counters.active.inc();
                    }
                }
                list.iter().for_each(|s| s.counters.active.set(0));
            }
        }
    }

    #[test]
    fn everybody_finds_the_only_available_server() {
        let mut servers = testing::servers(&[(0, 0, 0), (2, 0, 0), (7, 0, 9), (0, 1, 1)]);
        servers[1] = testing::overload(servers[1].clone(), true);
        for name in names() {
            if name == "none" || name == "dh" {
                continue;
            }
            let made = prepare(name, FLAG_FALLBACK, &servers, WorkerId(1), &Settings::default(), 0);
            let mut scheduler = made.expect("known name");
            for client in 0..50 {
                let flow = testing::flow(client, client, 0);
                let chosen = scheduler.schedule(&servers, &flow).map(|i| servers[i].weight);
                assert_eq!(chosen, Some(7), "{name}");
            }
        }
    }
}
