//! One worker's local addresses: which (local address, port) is free towards which server.
//!
//! A port of a local address is free or not *towards a server*: replies from different servers can't be confused, so
//! every server can use all ports of every local address, 64 k sessions each. The worker uses only the ports whose
//! replies arrive at itself (see [`super::share`]), and so needs no coordination with the other workers.
//!
//! ```text
//! (LIP, RIP:rport, protocol) --index--> pair --queues--> lines: 192 ports, 64 bytes each
//!          port -> line number         --pair, directory--> line
//! ```
//!
//! Lines are opened when the open ones have nothing free, and closed when there are too many or the pair has been idle,
//! so memory follows use: 64 bytes for 192 ports, 24 KB for all 65 536 in total, 230 bytes for a pair with a few
//! sessions, and next to nothing for a local address. Allocation and release touch one line each; there is no search
//! over ports and no sweep. A freed port rests for one to two rest periods (60 s each by default). If nothing else is
//! free, the longest rested port is reused early, and that is counted.

mod generation;
mod index;
mod line;
mod pair;
mod preview;
mod rotation;
mod search;
mod slab;
mod upkeep;
mod usage;

/// The atomics that [`generation`] uses; a model has others.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU32, Ordering, fence};
}

use std::{net::Ipv4Addr, sync::Arc};

use thiserror::Error;
use weir_api::model::Protocol;

pub use self::usage::{PairKey, PoolUsage};
use self::{
    index::{NoMemory, PairIndex},
    line::{Line, PORTS, Source},
    pair::{Directories, Opened, PortPair},
    rotation::{Rotation, RotationTurn},
    slab::Slab,
};
pub use super::share::{PortRange, every_worker_has_ports};
use super::{
    share::Share,
    steering::{Steering, kind_number},
};
use crate::{
    clock::{Tick, Ticks},
    id::WorkerId,
    net::address::{Address, fold},
};

/// The size and settings of a pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolConfig {
    /// The most sessions that the worker can have: there is room for as many pairs of local address and server, and as
    /// many lines. Until used, they only take address space (about 280 bytes each).
    pub sessions: usize,
    /// The usable ports.
    pub ports: PortRange,
    /// Rest period: a freed port rests for one to two of them.
    pub rest: Ticks,
    /// Key of the hashes and start of the pseudo-random choice of ports.
    pub seed: u64,
}

impl Default for PoolConfig {
    fn default() -> Self {
        let ports = PortRange { first: 1024, last: 65_535 };
        Self { sessions: 1 << 20, ports, rest: Ticks::seconds(60), seed: 0 }
    }
}

/// Why a pool can't be created.
#[derive(Debug, Error)]
pub enum PoolError {
    /// The port range is empty or has port 0.
    #[error("local ports {first}-{last}: must be from 1 to 65535, the lowest first")]
    Ports {
        /// As configured.
        first: u16,
        /// As configured.
        last: u16,
    },
    /// No such worker.
    #[error("worker {worker} of {workers}")]
    Worker {
        /// The worker.
        worker: u16,
        /// How many there are.
        workers: u16,
    },
    /// Not enough memory.
    #[error("no memory for the local addresses of {sessions} sessions")]
    Memory {
        /// As configured.
        sessions: usize,
    },
}

/// Why there is no port for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// This worker uses all its ports on all of the local addresses towards this server. (In a very small range some
    /// workers may have no ports at all: see [`every_worker_has_ports`].)
    Ports,
    /// The pool's memory is used up: there are more pairs or lines than sessions were configured.
    Memory,
    /// Replies from this server to these addresses arrive at other workers whatever the port; only possible with
    /// [`super::steering::HomeBy::LocalAddress`].
    Home,
    /// There is no local address.
    Addresses,
}

/// The most local addresses in use at a time.
const MAX_ADDRESSES: usize = 1 << 16;

/// The most sessions to reserve memory for.
const MAX_SESSIONS: usize = 1 << 30;

/// A pair gives lines back if it has this many ports more than twice the number it uses.
const SPARE_PORTS: u32 = 1024;

/// The pool of one worker for one address family.
#[derive(Debug)]
pub struct LocalPool<A: Address = Ipv4Addr> {
    steering: Arc<Steering>,
    /// By protocol, see [`super::steering::kind_number`].
    shares: [Share; 3],
    pairs: Slab<PortPair>,
    opened: Vec<Opened>,
    lines: Slab<Line>,
    directories: Directories,
    /// Local addresses: the number of pairs of each.
    addresses: Slab<u32>,
    pair_index: PairIndex,
    address_index: PairIndex,
    usage: Arc<PoolUsage<A>>,
    rotation: Rotation,
    /// The first of the pairs without a port in use; the others follow in the order in which they became idle.
    idle: u32,
    rest: Ticks,
    epoch: u32,
    epoch_start: Tick,
    seed: u64,
    random: u64,
}

impl<A: Address> LocalPool<A> {
    /// The pool of `worker`.
    ///
    /// # Errors
    /// The configuration is invalid, the worker doesn't exist, or memory can't be reserved.
    pub fn new(steering: Arc<Steering>, worker: WorkerId, config: &PoolConfig) -> Result<Self, PoolError> {
        let PortRange { first, last } = config.ports;
        if first == 0 || first > last {
            return Err(PoolError::Ports { first, last });
        }
        if worker.0 >= steering.workers() {
            return Err(PoolError::Worker { worker: worker.0, workers: steering.workers() });
        }
        Self::build(steering, worker, config)
            .map_err(|NoMemory| PoolError::Memory { sessions: config.sessions })
    }

    fn build(steering: Arc<Steering>, worker: WorkerId, config: &PoolConfig) -> Result<Self, NoMemory> {
        let n = config.sessions.clamp(1, MAX_SESSIONS);
        let share = |protocol| Share::new::<A>(&steering, worker, protocol, config.ports);
        let mut opened = Vec::new();
        opened.try_reserve_exact(n + 1).map_err(|_| NoMemory)?;
        opened.push(Opened::NONE);
        let seed =
            fold(config.seed ^ 0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345 | u64::from(worker.0) << 1);
        let shares = [share(Protocol::Tcp), share(Protocol::Udp), share(Protocol::Sctp)];
        let most_lines = shares.iter().map(Share::max_slots).max().unwrap_or(0).div_ceil(PORTS);
        Ok(Self {
            shares,
            // A pair that needs a directory has hundreds of sessions.
            directories: Directories::new(n.min(n / 64 + 1024), most_lines)?,
            pairs: Slab::new(n)?,
            opened,
            lines: Slab::new(n)?,
            addresses: Slab::new(n.min(MAX_ADDRESSES))?,
            pair_index: PairIndex::new(n)?,
            address_index: PairIndex::new(n.min(MAX_ADDRESSES))?,
            usage: Arc::new(PoolUsage::new(n.min(MAX_ADDRESSES), n)?),
            rotation: Rotation::new(n.min(4096)),
            idle: 0,
            rest: config.rest.max(Ticks(1)),
            epoch: 0,
            epoch_start: Tick::default(),
            seed,
            random: seed | 1,
            steering,
        })
    }

    /// The counters, for control to read.
    #[must_use]
    pub fn usage(&self) -> Arc<PoolUsage<A>> {
        Arc::clone(&self.usage)
    }

    /// Takes a port of one of `lips`, the service's local addresses, for a session to the server (`rip`, `rport`). The
    /// addresses take turns. Ports are in host order.
    ///
    /// # Errors
    /// See [`Exhausted`]; nothing has changed then.
    #[inline]
    pub fn allocate(
        &mut self,
        lips: &[A],
        rip: A,
        rport: u16,
        protocol: Protocol,
        now: Tick,
    ) -> Result<(A, u16), Exhausted> {
        self.advance(now);
        let server = self.server_hash(rip, rport, protocol);
        let random = self.next_random();
        let fingerprint = || lips.iter().fold(server, |h, lip| lip.mix(h));
        let turn = self.rotation.begin(server, self.epoch, lips.len(), (random >> 32) as u32, fingerprint);
        // Nearly always the first address has a port that has rested.
        if let Some(RotationTurn { start, source: Source::Free }) = turn
            && let Some(&lip) = lips.get(start)
        {
            let key = PairKey { lip, rip, rport, protocol };
            if let Some(id) = self.find_pair(&key, pair_hash(&key, server)) {
                self.pairs[id].age(&mut self.lines, self.epoch);
                if self.pairs[id].offers(Source::Free)
                    && let Some(port) = self.take(id, protocol, Source::Free, random)
                {
                    self.rotation.next(server, lips.len());
                    return Ok((lip, port));
                }
            }
        }
        match turn {
            _ if lips.is_empty() => Err(Exhausted::Addresses),
            None => Err(Exhausted::Ports),
            Some(turn) => self.search(lips, rip, rport, protocol, turn, random),
        }
    }

    /// Gives back a port that [`LocalPool::allocate`] returned; it rests before it is used again. The local address may
    /// have left all services by now. False, and counted, if the port wasn't in use.
    #[inline]
    pub fn release(&mut self, lip: A, lport: u16, rip: A, rport: u16, protocol: Protocol, now: Tick) -> bool {
        self.advance(now);
        let server = self.server_hash(rip, rport, protocol);
        let key = PairKey { lip, rip, rport, protocol };
        let released = self.put_back(&key, server, lport).is_some();
        if released {
            self.rotation.freed(server);
        } else {
            self.usage.count_stray_release();
        }
        released
    }

    fn put_back(&mut self, key: &PairKey<A>, server: u64, lport: u16) -> Option<()> {
        let id = self.find_pair(key, pair_hash(key, server))?;
        let pair = &mut self.pairs[id];
        let share = &self.shares[kind_number(key.protocol)];
        let slot = share.slot(pair.base, lport)?;
        let line = pair.line(&self.directories, pair.number(slot / PORTS, share.slots(pair.base)));
        if line == 0 {
            return None;
        }
        pair.age(&mut self.lines, self.epoch);
        if !pair.rest(&mut self.lines, line, slot % PORTS) {
            return None;
        }
        if self.usage.count(id, pair.address, -1) == 0 {
            self.pairs.push(&mut self.idle, id);
        }
        Some(())
    }

    /// Takes a port from a line of the pair that has ports of `source`.
    #[inline]
    fn take(&mut self, id: u32, protocol: Protocol, source: Source, random: u64) -> Option<u16> {
        let pair = &mut self.pairs[id];
        let taken = pair.take(&mut self.lines, source, (random >> 7) as u32)?;
        let share = &self.shares[kind_number(protocol)];
        let slot = pair.window(taken.number, share.slots(pair.base)) * PORTS + taken.bit;
        let port = share.port(pair.base, slot);
        let used = self.usage.count(id, pair.address, 1);
        if used == 1 {
            self.pairs.unlink(&mut self.idle, id);
        }
        if taken.emptied {
            self.give_back_spare(id, used);
        }
        Some(port)
    }

    /// Starts a new epoch if it is time, and frees a little of what has long been idle.
    #[inline]
    fn advance(&mut self, now: Tick) {
        let passed = Ticks(now.0.wrapping_sub(self.epoch_start.0));
        if passed >= self.rest {
            self.new_epoch(now, passed);
        }
        if self.idle != 0 && self.epoch.wrapping_sub(self.pairs[self.idle].epoch()) >= 2 {
            self.shrink_idle();
        }
    }

    #[inline]
    fn next_random(&mut self) -> u64 {
        let (next, random) = xorshift(self.random);
        self.random = next;
        random
    }

    #[inline]
    fn server_hash(&self, rip: A, rport: u16, protocol: Protocol) -> u64 {
        rip.mix(self.seed ^ (u64::from(rport) << 40 | (protocol as u64) << 32))
    }

    #[inline]
    fn find_pair(&self, key: &PairKey<A>, hash: u32) -> Option<u32> {
        self.pair_index.find(hash, |id| self.usage.is_pair(id, key))
    }
}

/// The next state and number of an xorshift64* generator: cheap, and hard enough to guess.
#[inline]
fn xorshift(mut x: u64) -> (u64, u64) {
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    (x, x.wrapping_mul(0x2545_f491_4f6c_dd1d))
}

#[inline]
fn pair_hash<A: Address>(key: &PairKey<A>, server: u64) -> u32 {
    (key.lip.mix(server) >> 32) as u32
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
