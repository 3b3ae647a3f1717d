//! The workers, each with its queues, tables and ends of rings.

use std::sync::Arc;

use dpdk::Mbuf;
use tracing::info;

use super::{Ports, RunError, start::Start, system};
use crate::{
    control::workers::{self, WorkerTables},
    id::WorkerId,
    io::{dpdk::DpdkIo, ports, vlan::VlanIo},
    path::{
        Parts, Worker,
        egress::{handover, punt::HostEnd},
        verdict::PathCounters,
    },
    table::{
        index::HashKey,
        pool::{LocalPool, PoolConfig, PortRange},
        steering::Steering,
    },
};

/// The workers, and control's ends of the rings to them.
pub(super) struct Built {
    pub workers: Vec<Worker<Ports>>,
    pub links: Vec<workers::WorkerLink>,
}

impl Start<'_> {
    /// Workers with these queues and these ways to the kernel.
    pub(super) fn build_workers(
        &self,
        shares: Vec<DpdkIo>,
        host_ends: Vec<Option<HostEnd<Mbuf>>>,
    ) -> Result<Built, RunError> {
        let Self { config, handles, links, clock, .. } = *self;
        let steering = Arc::new(self.steering());
        let key = match config.sessions.seed {
            Some(seed) => seed,
            None => random_seed().map_err(system("random numbers"))?,
        };
        let max_sessions = config.sessions.max_per_worker as usize;
        let peers = handover::connect(shares.len());
        let places = ports::places(&config.ports);
        let mut built = Built { workers: Vec::new(), links: Vec::new() };
        for (n, ((io, host), peers)) in shares.into_iter().zip(host_ends).zip(peers).enumerate() {
            let id = WorkerId(n as u16);
            let counters = Arc::new(PathCounters::new().map_err(system("the servers' counters"))?);
            let (mut link, control) = workers::connect(Arc::clone(&counters));
            let pool = PoolConfig {
                sessions: max_sessions,
                ports: PortRange {
                    first: config.local_addresses.first_port,
                    last: config.local_addresses.last_port,
                },
                seed: key ^ n as u64,
                ..PoolConfig::default()
            };
            let ports = pool.ports;
            let (steering_v6, config_v6) = (Arc::clone(&steering), pool);
            link.make_pool_v6 = Some(Box::new(move || LocalPool::new(steering_v6, id, &config_v6)));
            let pool = LocalPool::new(Arc::clone(&steering), id, &pool)?;
            link.tables = WorkerTables {
                max_sessions: config.sessions.max_per_worker,
                pool: Some(pool.usage()),
                pool_v6: None,
                ports: u32::from(ports.last) - u32::from(ports.first) + 1,
            };
            let parts = Parts {
                id,
                io: VlanIo::new(io, &places, Arc::clone(&counters))
                    .finishing(ports::kernel_interfaces(&config.ports)),
                macs: links.iter().map(|l| l.mac).collect(),
                steered: handles.iter().map(|h| h.rss.is_ok()).collect(),
                max_sessions,
                key: HashKey::from_seed(key),
                pool,
                steering: Arc::clone(&steering),
                counters,
                control,
                host,
                peers,
            };
            built.workers.push(Worker::new(parts, clock.now()).map_err(system("session table"))?);
            built.links.push(link);
        }
        Ok(built)
    }

    /// Ownership by what the ports' RSS really does.
    fn steering(&self) -> Steering {
        let Self { config, handles, .. } = *self;
        let rss: Vec<_> = handles.iter().map(|h| h.rss.as_ref().ok().cloned()).collect();
        for (handle, port) in handles.iter().zip(&config.ports).filter(|_| config.workers.count() > 1) {
            match &handle.rss {
                Ok(_) => info!(port = port.name, "RSS steers frames to their workers"),
                Err(why) => info!(port = port.name, why, "frames are handed over between workers"),
            }
        }
        Steering::for_ports(&rss, config.workers.count())
    }
}

fn random_seed() -> std::io::Result<u64> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
