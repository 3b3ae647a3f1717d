//! Tests the pool against a simple model that keeps everything.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::table::rss::{HashFields, Rss};

const REST: u32 = 6000;
const LIPS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 77), Ipv4Addr::new(198, 51, 100, 200)];
/// Servers: the same address with two ports, the same port at two addresses, and both protocols.
const SERVERS: [(Ipv4Addr, u16, Protocol); 4] = [
    (Ipv4Addr::new(10, 0, 0, 1), 80, Protocol::Tcp),
    (Ipv4Addr::new(10, 0, 0, 1), 443, Protocol::Tcp),
    (Ipv4Addr::new(10, 9, 8, 7), 80, Protocol::Tcp),
    (Ipv4Addr::new(10, 0, 0, 1), 80, Protocol::Udp),
];

/// Any way in which ports may spread frames: any key, any number of workers, any table with all of them.
fn steering() -> impl Strategy<Value = Arc<Steering>> {
    (
        prop::array::uniform32(any::<u8>()),
        1u16..=6,
        3u32..=8,
        any::<u64>(),
        prop::option::weighted(0.2, 0u8..3),
    )
        .prop_map(|(key, workers, bits, seed, odd)| {
            let mut rss = Rss::weir(1);
            rss.key[8..].copy_from_slice(&key);
            rss.reta = (0..1u64 << bits)
                .map(|i| match i {
                    i if i < u64::from(workers) => i as u16,
                    i => (fold(seed, i) % u64::from(workers)) as u16,
                })
                .collect();
            match odd {
                Some(0) => rss.tcp = HashFields::Addresses,
                Some(1) => rss.key.fill(0x55), // few classes
                Some(_) => rss.udp = HashFields::None,
                None => (),
            }
            Arc::new(Steering::for_ports(&[Some(rss)], workers))
        })
}

fn pools(steering: &Arc<Steering>, first: u16, ports: u16, sessions: usize) -> Vec<LocalPool> {
    let ports = PortRange { first, last: first.saturating_add(ports - 1) };
    (0..steering.workers())
        .map(|w| {
            let config = PoolConfig { sessions, ports, rest: Ticks(REST), seed: u64::from(first) };
            LocalPool::new(Arc::clone(steering), WorkerId(w), &config).unwrap()
        })
        .collect()
}

type Port = (Ipv4Addr, u16, usize);

/// The model's view of one worker's ports.
struct Model {
    /// All ports of the worker, by address and server.
    own: HashMap<(Ipv4Addr, usize), HashSet<u16>>,
    used: HashSet<Port>,
    /// When a port was last released.
    released: HashMap<Port, Tick>,
    /// The pool has so little memory that it may fail.
    poor: bool,
}

impl Model {
    fn new(steering: &Steering, worker: u16, range: PortRange, poor: bool) -> Self {
        let own = |lip, server: usize| {
            let (rip, rport, protocol) = SERVERS[server];
            (range.first..=range.last)
                .filter(|&p| steering.owner_of_reply(rip, rport, lip, p, protocol) == WorkerId(worker))
                .collect()
        };
        let keys = LIPS.iter().flat_map(|&lip| (0..SERVERS.len()).map(move |s| (lip, s)));
        Self {
            own: keys.map(|(lip, s)| ((lip, s), own(lip, s))).collect(),
            used: HashSet::new(),
            released: HashMap::new(),
            poor,
        }
    }

    /// Ports that aren't in use, and since when.
    fn unused<'a>(
        &'a self,
        lips: &'a [Ipv4Addr],
        server: usize,
    ) -> impl Iterator<Item = (Port, Option<Tick>)> + 'a {
        lips.iter()
            .flat_map(move |&lip| self.own[&(lip, server)].iter().map(move |&port| (lip, port, server)))
            .filter(|p| !self.used.contains(p))
            .map(|p| (p, self.released.get(&p).copied()))
    }

    fn check_allocation(
        &self,
        lips: &[Ipv4Addr],
        server: usize,
        result: Result<(Ipv4Addr, u16), Exhausted>,
        early: u64,
        now: Tick,
    ) -> Result<(), TestCaseError> {
        let Ok((lip, port)) = result else {
            if self.poor && result == Err(Exhausted::Memory) {
                return Ok(());
            }
            prop_assert_eq!(self.unused(lips, server).count(), 0, "{:?}", result);
            let none_at_all = lips.iter().all(|&lip| self.own[&(lip, server)].is_empty());
            prop_assert!(result == Err(Exhausted::Ports) || none_at_all, "{:?}", result);
            return Ok(());
        };
        prop_assert!(lips.contains(&lip));
        prop_assert!(self.own[&(lip, server)].contains(&port), "a port of another worker");
        let this = (lip, port, server);
        prop_assert!(!self.used.contains(&this), "in use");
        if self.poor {
            return Ok(());
        }
        let rested = self.released.get(&this).map(|&t| now.since(t).0);
        // A port rests for one to two periods, depending on when in a period it was freed.
        prop_assert!(early == 1 || rested.is_none_or(|r| r > REST), "rested {:?}", rested);
        if early == 1 {
            prop_assert!(rested.is_some_and(|r| r < 2 * REST), "not early: {:?}", rested);
            for (other, since) in self.unused(lips, server) {
                let other_rested = since.map(|t| now.since(t).0);
                prop_assert!(other_rested.is_some_and(|r| r <= 2 * REST), "{:?} was free", other);
                // No other port had rested for a period longer, either.
                prop_assert!(other_rested < rested.map(|r| r + REST), "{:?} rested more", other);
            }
        }
        Ok(())
    }

    fn check_usage(&self, usage: &PoolUsage<Ipv4Addr>) -> Result<(), TestCaseError> {
        for lip in LIPS {
            let used = self.used.iter().filter(|p| p.0 == lip).count();
            prop_assert_eq!(usage.used(lip) as usize, used);
            for (server, &(rip, rport, protocol)) in SERVERS.iter().enumerate() {
                let used = self.used.iter().filter(|p| p.0 == lip && p.2 == server).count();
                let key = PairKey { lip, rip, rport, protocol };
                prop_assert_eq!(usage.used_towards(key) as usize, used);
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// A worker opens this many sessions to a server, on this many of the addresses.
    Allocate(u16, usize, usize, u16),
    /// This many sessions of a worker end, starting from some index.
    Release(u16, usize, u16),
    /// Ticks pass.
    Wait(u32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (any::<u16>(), 0..SERVERS.len(), 1..=LIPS.len(), 1u16..60)
            .prop_map(|(w, s, l, n)| Op::Allocate(w, s, l, n)),
        3 => (any::<u16>(), any::<usize>(), 1u16..80).prop_map(|(w, at, n)| Op::Release(w, at, n)),
        2 => (0..REST).prop_map(Op::Wait),
        1 => (REST..5 * REST).prop_map(Op::Wait),
    ];
    prop::collection::vec(op, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn agrees_with_the_model(
        steering in steering(), first in 1u16..65_000, ports in prop_oneof![1u16..12, 12u16..600], ops in ops(),
        sessions in prop_oneof![3 => Just(2000usize), 1 => 1usize..8],
    ) {
        let mut pools = pools(&steering, first, ports, sessions);
        let range = PortRange { first, last: first.saturating_add(ports - 1) };
        let mut models: Vec<Model> =
            (0..steering.workers()).map(|w| Model::new(&steering, w, range, sessions < 2000)).collect();
        let reserved = pools[0].opened.capacity();
        // Starts anywhere, for instance near the wrap of the clock.
        let mut now = Tick(u32::from(first).wrapping_mul(70_000));
        for op in ops {
            match op {
                Op::Allocate(w, server, lips, n) => {
                    let w = usize::from(w % steering.workers());
                    let (pool, model) = (&mut pools[w], &mut models[w]);
                    let (rip, rport, protocol) = SERVERS[server];
                    for _ in 0..n {
                        let before = pool.usage().early_reuse();
                        let result = pool.allocate(&LIPS[..lips], rip, rport, protocol, now);
                        let early = pool.usage().early_reuse() - before;
                        model.check_allocation(&LIPS[..lips], server, result, early, now)?;
                        let Ok((lip, port)) = result else { break };
                        model.used.insert((lip, port, server));
                    }
                }
                Op::Release(w, at, n) => {
                    let w = usize::from(w % steering.workers());
                    let mut used: Vec<Port> = models[w].used.iter().copied().collect();
                    used.sort_unstable();
                    for _ in 0..n {
                        if used.is_empty() {
                            break;
                        }
                        let p = used.swap_remove(at % used.len());
                        let (rip, rport, protocol) = SERVERS[p.2];
                        prop_assert!(pools[w].release(p.0, p.1, rip, rport, protocol, now));
                        prop_assert!(!pools[w].release(p.0, p.1, rip, rport, protocol, now));
                        models[w].used.remove(&p);
                        models[w].released.insert(p, now);
                    }
                }
                Op::Wait(ticks) => now = now.after(Ticks(ticks)),
            }
        }
        for (pool, model) in pools.iter().zip(&models) {
            prop_assert!(pool.opened.capacity() == reserved, "memory was allocated");
            model.check_usage(&pool.usage())?;
        }
    }

    /// All workers together have every port of every address towards every server exactly once.
    #[test]
    fn every_port_is_somebodys(steering in steering(), first in 1u16..65_000, ports in 1u16..3000) {
        let mut pools = pools(&steering, first, ports, 2000);
        let last = first.saturating_add(ports - 1);
        for &(rip, rport, protocol) in &SERVERS {
            let mut seen = HashSet::new();
            for (w, pool) in pools.iter_mut().enumerate() {
                while let Ok((lip, port)) = pool.allocate(&LIPS, rip, rport, protocol, Tick(0)) {
                    prop_assert!(first <= port && port <= last);
                    prop_assert!(seen.insert((lip, port)), "two workers, one port");
                    let home = steering.owner_of_reply(rip, rport, lip, port, protocol);
                    prop_assert_eq!(home, WorkerId(w as u16));
                }
            }
            prop_assert_eq!(seen.len(), LIPS.len() * usize::from(last - first + 1));
        }
    }
}

/// All 64 512 ports of two addresses, with five workers and the table of a common NIC.
#[test]
fn the_whole_range_is_reachable() {
    let steering = Arc::new(Steering::for_ports(&[Some(Rss::weir(5))], 5));
    let (rip, rport, protocol) = SERVERS[0];
    let mut seen = HashSet::new();
    for w in 0..5 {
        let config = PoolConfig { sessions: 40_000, ..PoolConfig::default() };
        let mut pool = LocalPool::new(Arc::clone(&steering), WorkerId(w), &config).unwrap();
        while let Ok(port) = pool.allocate(&LIPS[..2], rip, rport, protocol, Tick(0)) {
            assert!(seen.insert(port));
        }
        let used: u32 = pool.usage().addresses().map(|(_, n)| n).sum();
        assert!((25_000..27_000).contains(&used), "an even share: {used}");
    }
    assert_eq!(seen.len(), 2 * 64_512);
}
