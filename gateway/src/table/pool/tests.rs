use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;

const RIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const LIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const LIP2: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const T0: Tick = Tick(0);

fn pool(first: u16, last: u16) -> LocalPool {
    sized(first, last, 4096)
}

fn sized(first: u16, last: u16, sessions: usize) -> LocalPool {
    let config = PoolConfig { sessions, ports: PortRange { first, last }, ..PoolConfig::default() };
    LocalPool::new(Arc::new(Steering::single()), WorkerId(0), &config).unwrap()
}

/// Allocates on LIP.
fn get(pool: &mut LocalPool, now: Tick) -> Result<u16, Exhausted> {
    pool.allocate(&[LIP], RIP, 80, Protocol::Tcp, now).map(|(_, port)| port)
}

fn put(pool: &mut LocalPool, port: u16, now: Tick) {
    assert!(pool.release(LIP, port, RIP, 80, Protocol::Tcp, now));
}

#[test]
fn ten_ports_are_ten_sessions() {
    let mut p = pool(5000, 5009);
    let mut ports: Vec<u16> = (0..10).map(|_| get(&mut p, T0).unwrap()).collect();
    assert_eq!(get(&mut p, T0), Err(Exhausted::Ports));
    assert_eq!(get(&mut p, T0), Err(Exhausted::Ports), "again, as remembered");
    // Another server, another protocol and another address have their own ports.
    assert!(p.allocate(&[LIP], RIP, 81, Protocol::Tcp, T0).is_ok());
    assert!(p.allocate(&[LIP], RIP, 80, Protocol::Udp, T0).is_ok());
    assert!(p.allocate(&[LIP], Ipv4Addr::new(10, 0, 0, 2), 80, Protocol::Tcp, T0).is_ok());
    assert_eq!(p.allocate(&[LIP, LIP2], RIP, 80, Protocol::Tcp, T0).unwrap().0, LIP2);
    ports.sort_unstable();
    assert_eq!(ports, (5000..5010).collect::<Vec<_>>());
    put(&mut p, 5004, T0);
    assert_eq!(get(&mut p, T0), Ok(5004), "nothing else is free");
    assert_eq!(p.usage().early_reuse(), 1);
    assert_eq!(get(&mut p, T0), Err(Exhausted::Ports));
}

#[test]
fn a_pool_of_one_port_is_ready_for_the_next_session_at_once() {
    let mut p = pool(7, 7);
    for n in 0..100 {
        assert_eq!(get(&mut p, Tick(n)), Ok(7));
        assert_eq!(get(&mut p, Tick(n)), Err(Exhausted::Ports));
        put(&mut p, 7, Tick(n));
    }
    assert_eq!(p.usage().early_reuse(), 99);
}

#[test]
fn ports_rest_while_others_are_free() {
    let mut p = pool(1000, 1383); // two lines
    let first: Vec<u16> = (0..192).map(|_| get(&mut p, T0).unwrap()).collect();
    first.iter().for_each(|&port| put(&mut p, port, Tick(5999)));
    // The other 192 are used first, up to the end of the next epoch.
    let second: Vec<u16> = (0..192).map(|_| get(&mut p, Tick(11_999)).unwrap()).collect();
    assert!(second.iter().all(|port| !first.contains(port)));
    assert_eq!(p.usage().early_reuse(), 0);
    // By then the first ones have rested.
    let third: Vec<u16> = (0..192).map(|_| get(&mut p, Tick(12_000)).unwrap()).collect();
    assert!(third.iter().all(|port| first.contains(port)));
    assert_eq!(p.usage().early_reuse(), 0);
    assert_eq!(get(&mut p, Tick(12_000)), Err(Exhausted::Ports));
}

#[test]
fn under_pressure_the_longest_rested_goes_first() {
    let mut p = pool(1000, 1009);
    (0..10).for_each(|_| _ = get(&mut p, T0).unwrap());
    put(&mut p, 1003, Tick(100));
    put(&mut p, 1007, Tick(6100));
    put(&mut p, 1001, Tick(6200));
    assert_eq!(get(&mut p, Tick(6300)), Ok(1003));
    let next = [get(&mut p, Tick(6300)).unwrap(), get(&mut p, Tick(6300)).unwrap()];
    assert!(next == [1007, 1001] || next == [1001, 1007]);
    assert_eq!(p.usage().early_reuse(), 3);
}

#[test]
fn rested_ports_of_another_address_go_before_early_reuse() {
    let mut p = pool(1000, 1009);
    let lips = [LIP, LIP2];
    let all: Vec<(Ipv4Addr, u16)> =
        (0..20).map(|_| p.allocate(&lips, RIP, 80, Protocol::Tcp, T0).unwrap()).collect();
    let mut free = |lip, n: usize, now| {
        for &(a, port) in all.iter().filter(|(a, _)| *a == lip).take(n) {
            assert!(p.release(a, port, RIP, 80, Protocol::Tcp, now));
        }
    };
    free(LIP, 3, Tick(0));
    free(LIP2, 3, Tick(11_000));
    for _ in 0..3 {
        assert_eq!(p.allocate(&lips, RIP, 80, Protocol::Tcp, Tick(12_000)).unwrap().0, LIP);
    }
    assert_eq!(p.usage().early_reuse(), 0);
    assert_eq!(p.allocate(&lips, RIP, 80, Protocol::Tcp, Tick(12_000)).unwrap().0, LIP2);
    assert_eq!(p.usage().early_reuse(), 1);
}

#[test]
fn addresses_share_the_load() {
    let mut p = pool(1024, 65_535);
    let lips: Vec<Ipv4Addr> = (1..=12).map(|n| Ipv4Addr::new(192, 0, 2, n)).collect();
    for n in 0..12_000u16 {
        p.allocate(&lips, RIP, n % 4, Protocol::Tcp, T0).unwrap();
    }
    let mut used: Vec<_> = p.usage().addresses().collect();
    used.sort_unstable();
    assert!(used.iter().all(|&(_, n)| n == 1000), "{used:?}");
    assert_eq!(p.usage().pairs().count(), 48);
    assert!(p.usage().pairs().all(|(_, n)| n == 250));
}

#[test]
fn an_address_taken_off_and_added_again_still_has_its_ports_in_use() {
    let mut p = pool(1000, 1009);
    let lips = [LIP, LIP2];
    let mut mine: Vec<_> = (0..20).map(|_| p.allocate(&lips, RIP, 80, Protocol::Tcp, T0).unwrap()).collect();
    // LIP is removed from the list: its sessions end like any others.
    assert_eq!(p.allocate(&[LIP2], RIP, 80, Protocol::Tcp, T0), Err(Exhausted::Ports));
    let at = mine.iter().position(|&(a, _)| a == LIP).unwrap();
    let (lip, port) = mine.swap_remove(at);
    assert!(p.release(lip, port, RIP, 80, Protocol::Tcp, T0));
    assert_eq!(p.allocate(&[LIP2], RIP, 80, Protocol::Tcp, T0), Err(Exhausted::Ports));
    // LIP is back: it has lost one port, not ten.
    assert_eq!(p.allocate(&lips, RIP, 80, Protocol::Tcp, T0), Ok((LIP, port)));
    assert_eq!(p.allocate(&lips, RIP, 80, Protocol::Tcp, T0), Err(Exhausted::Ports));
}

#[test]
fn stray_releases_change_nothing_and_are_counted() {
    let mut p = pool(1000, 1009);
    let port = get(&mut p, T0).unwrap();
    let other = if port == 1000 { 1001 } else { 1000 };
    assert!(!p.release(LIP, other, RIP, 80, Protocol::Tcp, T0), "not in use");
    assert!(!p.release(LIP, 999, RIP, 80, Protocol::Tcp, T0), "not of the range");
    assert!(!p.release(LIP, port, RIP, 80, Protocol::Udp, T0), "another protocol");
    assert!(!p.release(LIP2, port, RIP, 80, Protocol::Tcp, T0), "another address");
    put(&mut p, port, T0);
    assert!(!p.release(LIP, port, RIP, 80, Protocol::Tcp, T0), "twice");
    assert_eq!((p.usage().stray_releases(), p.usage().used(LIP)), (5, 0));
}

#[test]
fn no_local_address_is_an_error_of_its_own() {
    assert_eq!(pool(1, 9).allocate(&[], RIP, 80, Protocol::Tcp, T0), Err(Exhausted::Addresses));
}

#[test]
fn memory_follows_use() {
    let mut p = sized(1024, 65_535, 100_000);
    let ports: Vec<u16> = (0..50_000).map(|_| get(&mut p, T0).unwrap()).collect();
    assert_eq!(p.lines.len(), 50_000_usize.div_ceil(192));
    ports.iter().for_each(|&port| put(&mut p, port, Tick(10)));
    // With later traffic elsewhere, the idle pair is freed line by line.
    for _ in 0..400 {
        p.allocate(&[LIP2], RIP, 443, Protocol::Tcp, Tick(13_000)).unwrap();
    }
    assert_eq!((p.pairs.len(), p.lines.len(), p.addresses.len()), (1, 3, 1));
    assert_eq!(p.usage().addresses().collect::<Vec<_>>(), [(LIP2, 400)]);
    assert_eq!(p.usage().early_reuse(), 0);
}

#[test]
fn a_pair_past_its_peak_gives_lines_back() {
    let mut p = sized(1024, 65_535, 100_000);
    let ports: Vec<u16> = (0..50_000).map(|_| get(&mut p, T0).unwrap()).collect();
    ports.iter().for_each(|&port| put(&mut p, port, T0));
    let mut live = std::collections::VecDeque::new();
    for n in 0..200_000u32 {
        live.push_back(get(&mut p, Tick(12_000 + n)).unwrap());
        if live.len() > 100 {
            put(&mut p, live.pop_front().unwrap(), Tick(12_000 + n));
        }
    }
    // 100 sessions, 10 000 to 12 000 ports at rest.
    assert!(p.lines.len() < 140, "{}", p.lines.len());
    assert_eq!(p.usage().early_reuse(), 0);
}

#[test]
fn no_memory_is_an_error_of_its_own_and_idle_pairs_make_room() {
    let mut p = sized(1024, 65_535, 2);
    assert!(p.allocate(&[LIP], RIP, 1, Protocol::Tcp, T0).is_ok());
    let (_, port) = p.allocate(&[LIP], RIP, 2, Protocol::Tcp, T0).unwrap();
    assert_eq!(p.allocate(&[LIP], RIP, 3, Protocol::Tcp, T0), Err(Exhausted::Memory));
    assert!(p.release(LIP, port, RIP, 2, Protocol::Tcp, T0));
    // Its rest is cut short for lack of memory, and this is counted.
    assert!(p.allocate(&[LIP], RIP, 3, Protocol::Tcp, T0).is_ok());
    assert_eq!((p.usage().early_reuse(), p.pairs.len(), p.lines.len()), (1, 2, 2));
    assert_eq!(p.allocate(&[LIP], RIP, 2, Protocol::Tcp, T0), Err(Exhausted::Memory));
}

#[test]
fn bad_configurations_are_refused() {
    let make = |first, last, worker| {
        let config = PoolConfig { sessions: 8, ports: PortRange { first, last }, ..PoolConfig::default() };
        LocalPool::<Ipv4Addr>::new(Arc::new(Steering::software(2)), WorkerId(worker), &config).err()
    };
    assert!(matches!(make(0, 9, 0), Some(PoolError::Ports { first: 0, last: 9 })));
    assert!(matches!(make(9, 8, 0), Some(PoolError::Ports { .. })));
    assert!(matches!(make(1, 9, 2), Some(PoolError::Worker { worker: 2, workers: 2 })));
    assert!(make(1, 9, 1).is_none());
    let error = make(9, 8, 0).unwrap().to_string();
    assert_eq!(error, "local ports 9-8: must be from 1 to 65535, the lowest first");
}

/// Control reads while the worker creates, uses and frees pairs.
#[test]
fn counters_can_be_read_at_any_time() {
    let mut p = sized(1000, 1099, 4);
    let usage = p.usage();
    let seen = AtomicU64::new(0);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while seen.load(Relaxed) < 20_000 {
                for (key, used) in usage.pairs() {
                    // Port and address match, or the reader saw half a change.
                    assert_eq!(key.rip, Ipv4Addr::from_bits(u32::from(key.rport)));
                    assert!(used <= 1);
                    seen.fetch_add(1, Relaxed);
                }
                assert!(usage.addresses().all(|(lip, used)| lip == LIP && used <= 4));
            }
        });
        let mut rport = 0u16;
        while seen.load(Relaxed) < 20_000 {
            rport = rport.wrapping_add(1);
            let rip = Ipv4Addr::from_bits(u32::from(rport));
            let (lip, port) = p.allocate(&[LIP], rip, rport, Protocol::Tcp, T0).unwrap();
            assert!(p.release(lip, port, rip, rport, Protocol::Tcp, T0));
        }
    });
}

#[test]
fn ipv6_works_alike() {
    let config =
        PoolConfig { sessions: 4096, ports: PortRange { first: 1, last: 600 }, ..PoolConfig::default() };
    let steering = Arc::new(Steering::software(3));
    let (lip, rip) = ("2001:db8::1".parse().unwrap(), "2001:db8:1::5".parse().unwrap());
    let mut seen = std::collections::HashSet::new();
    for worker in 0..3 {
        let mut p =
            LocalPool::<std::net::Ipv6Addr>::new(Arc::clone(&steering), WorkerId(worker), &config).unwrap();
        while let Ok((_, port)) = p.allocate(&[lip], rip, 53, Protocol::Udp, T0) {
            assert!(seen.insert(port));
            assert_eq!(steering.owner_of_reply(rip, 53, lip, port, Protocol::Udp), WorkerId(worker));
        }
        assert_eq!(p.usage().used(lip), p.usage().pairs().map(|(_, n)| n).sum::<u32>());
    }
    assert_eq!(seen.len(), 600);
}
