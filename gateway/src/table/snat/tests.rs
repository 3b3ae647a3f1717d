//! Mappings, limits and blocks of one worker.

use std::net::Ipv4Addr;

use weir_api::model::snat::MAX_PORTS;

use super::*;

const RULE: SnatRuleId = SnatRuleId(7);
const POOL: [IpAddr; 2] = [v4(0xc000_0201), v4(0xc000_0202)];
const OUTSIDE: Endpoint = (v4(0x0808_0808), 53);

const fn v4(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(n))
}

fn limits() -> SnatLimits {
    SnatLimits { ports: MAX_PORTS, sessions: 0, paired: true, mapping: Dependence::EndpointIndependent }
}

fn tables() -> SnatTables {
    let mut tables = SnatTables::new(4096, 1);
    POOL.iter().for_each(|&a| tables.add_address(a, &mut Some(Box::new(Blocks::new(0, 1)))));
    tables
}

fn open(t: &mut SnatTables, limits: &SnatLimits, inside: Endpoint, now: Tick) -> Result<Mapping, Full> {
    let (id, _) = t.open((RULE, limits, &POOL), (17, inside, OUTSIDE), now, &mut |_| {})?;
    t.hold(id);
    Ok(t.mappings[id as usize])
}

#[test]
fn an_inside_address_keeps_its_external_one_and_has_a_limit() {
    let mut t = tables();
    let limits = SnatLimits { ports: 100, ..limits() };
    let all: Vec<Mapping> = (0..100).map(|n| open(&mut t, &limits, (v4(10), n), Tick(0)).unwrap()).collect();
    assert!(all.iter().all(|m| m.external.0 == all[0].external.0));
    assert_eq!(open(&mut t, &limits, (v4(10), 999), Tick(0)).unwrap_err(), Full::Ports);
    assert!(open(&mut t, &limits, (v4(11), 999), Tick(0)).is_ok());
    let first = all[0];
    assert_eq!(t.by_external(17, first.external).unwrap().1.inside, (v4(10), 0));
    assert!(t.by_inside(RULE, &limits, 17, (v4(10), 0), (v4(1), 1)).is_some(), "whatever the outside");
    t.let_go(17, first.external, Tick(0));
    assert!(t.by_external(17, first.external).is_none());
    assert!(t.by_inside(RULE, &limits, 17, (v4(10), 0), OUTSIDE).is_none());
}

#[test]
fn a_mapping_may_depend_on_the_outside() {
    let mut t = tables();
    let limits = SnatLimits { mapping: Dependence::AddressAndPortDependent, ..limits() };
    open(&mut t, &limits, (v4(10), 1), Tick(0)).unwrap();
    assert!(t.by_inside(RULE, &limits, 17, (v4(10), 1), OUTSIDE).is_some());
    assert!(t.by_inside(RULE, &limits, 17, (v4(10), 1), (v4(1), 1)).is_none());
}

#[test]
fn blocks_are_logged_and_freed_after_their_ports_have_rested() {
    let mut t = tables();
    let mut told = Vec::new();
    let (id, _) =
        t.open((RULE, &limits(), &POOL), (6, (v4(10), 1), OUTSIDE), Tick(0), &mut |e| told.push(e)).unwrap();
    t.hold(id);
    let external = t.mappings[id as usize].external;
    assert!(told.len() == 1 && told[0].given && told[0].external == external.0);
    let mut silent = |_| panic!("nothing to tell");
    t.tidy(Tick::at(Ticks::seconds(500)), &mut silent);
    t.let_go(6, external, Tick::at(Ticks::seconds(500)));
    t.tidy(Tick::at(Ticks::seconds(600)), &mut silent);
    let mut told = Vec::new();
    for at in [700, 900] {
        t.tidy(Tick::at(Ticks::seconds(at)), &mut |e| told.push(e));
    }
    assert!(told.len() == 1 && !told[0].given, "{told:?}");
    assert!(t.by_host.is_empty() && !t.has_idle());
}

#[test]
fn arbitrary_pooling_goes_on_at_another_address() {
    let mut t = SnatTables::new(4096, 1);
    let mut small = Blocks::new(0, 1);
    while small.take(0, |_| true).is_some() {}
    t.add_address(POOL[0], &mut Some(Box::new(small)));
    t.add_address(POOL[1], &mut Some(Box::new(Blocks::new(0, 1))));
    for n in 0..65 {
        let got = open(&mut t, &SnatLimits { paired: false, ..limits() }, (v4(10), n), Tick(0)).unwrap();
        assert_eq!(got.external.0, POOL[1]);
    }
}

#[test]
fn sessions_have_a_limit_and_are_counted_down() {
    let mut t = tables();
    let limits = SnatLimits { sessions: 2, ..limits() };
    let host = v4(10);
    let (id, _) = t.open((RULE, &limits, &POOL), (17, (host, 1), OUTSIDE), Tick(0), &mut |_| {}).unwrap();
    assert!(t.may_open(id, &limits));
    t.hold(id);
    assert!(t.may_open(id, &limits), "below");
    t.hold(id);
    assert!(!t.may_open(id, &limits), "at the limit");
    assert!(
        t.may_open(id, &SnatLimits { sessions: 3, ..limits })
            && t.may_open(id, &SnatLimits { sessions: 0, ..limits })
    );
    let external = t.external(id).unwrap();
    t.let_go(6, external, Tick(0));
    t.let_go(17, (external.0, external.1 ^ 1), Tick(0));
    assert!(!t.may_open(id, &limits), "another mapping's");
    t.let_go(17, external, Tick(0));
    assert!(t.may_open(id, &limits) && t.len() == 1, "the mapping has another session");
    t.let_go(17, external, Tick(0));
    assert!(t.is_empty());
    // The address is still known, but has no ports.
    let (id, _) = t.open((RULE, &limits, &POOL), (6, (host, 2), OUTSIDE), Tick(0), &mut |_| {}).unwrap();
    t.hold(id);
    assert!(t.may_open(id, &limits));
    t.hold(id);
    assert!(!t.may_open(id, &limits));
}

#[test]
fn ports_have_a_limit_over_all_protocols_and_are_counted_down() {
    let mut t = tables();
    let limits = SnatLimits { ports: 3, ..limits() };
    let get = |t: &mut SnatTables, protocol, port| {
        t.open((RULE, &limits, &POOL), (protocol, (v4(10), port), OUTSIDE), Tick(0), &mut |_| {})
            .map(|(id, _)| id)
    };
    let ids = [(6, 1), (17, 1), (1, 1)].map(|(protocol, port)| get(&mut t, protocol, port).unwrap());
    assert_eq!(get(&mut t, 17, 2), Err(Full::Ports));
    assert_eq!(get(&mut t, 132, 2), Err(Full::Pool), "a protocol without ports");
    t.hold(ids[0]);
    t.end_unused(ids[0], Tick(0));
    assert_eq!(get(&mut t, 17, 2), Err(Full::Ports), "a session refers to it");
    t.end_unused(ids[1], Tick(0));
    t.end_unused(ids[1], Tick(0));
    assert!(get(&mut t, 17, 2).is_ok());
    assert_eq!(get(&mut t, 17, 3), Err(Full::Ports), "ending twice counts once");
}

#[test]
fn one_inside_address_may_have_all_ports_of_an_external_one() {
    let mut t = SnatTables::new(3 * MAX_PORTS as usize, 1);
    t.add_address(POOL[0], &mut Some(Box::new(Blocks::new(0, 1))));
    let pool = &POOL[..1];
    let mut seen = std::collections::HashSet::new();
    for n in 0..MAX_PORTS {
        let (id, early) =
            t.open((RULE, &limits(), pool), (17, (v4(10), n as u16), OUTSIDE), Tick(0), &mut |_| {}).unwrap();
        assert!(!early && seen.insert(t.external(id).unwrap()));
    }
    let over = t.open((RULE, &limits(), pool), (6, (v4(10), 0), OUTSIDE), Tick(0), &mut |_| {});
    assert_eq!(over, Err(Full::Ports));
    let more = SnatLimits { ports: u32::MAX, ..limits() };
    let over = t.open((RULE, &more, pool), (17, (v4(10), 65_535), OUTSIDE), Tick(0), &mut |_| {});
    assert_eq!(over, Err(Full::Pool));
    assert!(
        t.open((RULE, &more, pool), (6, (v4(10), 0), OUTSIDE), Tick(0), &mut |_| {}).is_ok(),
        "TCP's are free"
    );
    assert_eq!(
        t.open((RULE, &limits(), pool), (6, (v4(11), 0), OUTSIDE), Tick(0), &mut |_| {}),
        Err(Full::Pool),
        "no block is left for another"
    );
}

#[test]
fn blocks_an_inside_address_may_have_follow_its_limit() {
    for (ports, expected) in
        [(1, 16), (1024, 16), (1025, 17), (1088, 17), (MAX_PORTS, 1008), (u32::MAX, u16::MAX)]
    {
        assert_eq!(SnatLimits { ports, ..limits() }.blocks(), expected, "{ports}");
    }
}

#[test]
fn a_freed_port_rests_before_the_next_mapping_has_it() {
    let mut t = tables();
    let limits = SnatLimits { ports: 1, ..limits() };
    let mut before: Option<Endpoint> = None;
    for n in 0..200 {
        let now = Tick::at(Ticks::seconds(n / 4));
        let got = open(&mut t, &limits, (v4(10), n as u16), now).unwrap();
        assert_ne!(Some(got.external), before, "at {n}");
        before = Some(got.external);
        t.let_go(17, got.external, now);
    }
    // None of the 200 was given out twice: they are all from within two minutes.
    assert_eq!(t.hosts[0].blocks.len(), 4);
}

#[test]
fn what_rests_is_used_where_there_is_no_other() {
    let mut t = tables();
    let limits = SnatLimits { ports: 64, ..limits() };
    let freed = Tick::at(Ticks::seconds(60));
    let mut all = Vec::new();
    for n in 0..64 * 16 {
        let got = open(&mut t, &limits, (v4(10), n), freed).unwrap();
        t.let_go(17, got.external, freed);
        all.push(got.external);
    }
    assert_eq!(t.hosts[0].blocks.len(), 16, "all that it may have");
    let again = |t: &mut SnatTables, at| {
        t.open(
            (RULE, &limits, &POOL),
            (17, (v4(10), 9999), OUTSIDE),
            Tick::at(Ticks::seconds(at)),
            &mut |_| {},
        )
        .unwrap()
    };
    let (id, early) = again(&mut t, 61);
    assert!(early && all.contains(&t.external(id).unwrap()));
    t.end_unused(id, Tick::at(Ticks::seconds(61)));
    let (_, early) = again(&mut t, 241);
    assert!(!early, "they have rested");
}

#[test]
fn full_tables_have_errors_of_their_own() {
    let mut t = SnatTables::new(3, 1);
    POOL.iter().for_each(|&a| t.add_address(a, &mut Some(Box::new(Blocks::new(0, 1)))));
    for n in 0..3 {
        open(&mut t, &limits(), (v4(10 + n), 1), Tick(0)).unwrap();
    }
    assert_eq!(open(&mut t, &limits(), (v4(10), 2), Tick(0)).unwrap_err(), Full::Tables);
    let first = t.by_inside(RULE, &limits(), 17, (v4(10), 1), OUTSIDE).unwrap().1.external;
    t.let_go(17, first, Tick(0));
    // A mapping is free again, but another inside address only finds room once the silent one is gone.
    assert_eq!(open(&mut t, &limits(), (v4(20), 1), Tick(0)).unwrap_err(), Full::Tables);
    assert_eq!(t.len(), 2);
    open(&mut t, &limits(), (v4(10), 3), Tick(0)).unwrap();
    assert_eq!(t.by_inside(RULE, &limits(), 17, (v4(12), 1), OUTSIDE).unwrap().1.inside, (v4(12), 1));
}

#[test]
fn a_silent_inside_address_goes_after_its_ports_have_rested() {
    let mut t = tables();
    let got = open(&mut t, &limits(), (v4(10), 1), Tick(0)).unwrap();
    t.let_go(17, got.external, Tick::at(Ticks::seconds(60)));
    for (at, there) in [(184 + 60, true), (186 + 60, false)] {
        t.tidy(Tick::at(Ticks::seconds(at)), &mut |_| {});
        assert_eq!(t.has_idle(), there, "{at}");
    }
    assert!(t.by_host.is_empty() && t.free_hosts.len() == 1);
    // A host that returns in time stays.
    let got = open(&mut t, &limits(), (v4(10), 1), Tick::at(Ticks::seconds(300))).unwrap();
    t.let_go(17, got.external, Tick::at(Ticks::seconds(300)));
    open(&mut t, &limits(), (v4(10), 2), Tick::at(Ticks::seconds(400))).unwrap();
    t.tidy(Tick::at(Ticks::seconds(600)), &mut |_| panic!("nothing goes back"));
    assert!(!t.has_idle() && t.by_host.len() == 1);
}

#[test]
fn without_an_address_nothing_is_opened() {
    let mut t = tables();
    let none = t.open((RULE, &limits(), &[]), (17, (v4(10), 1), OUTSIDE), Tick(0), &mut |_| {});
    assert_eq!(none, Err(Full::Address));
    assert!(t.by_host.is_empty() && t.is_empty());
}

#[test]
fn a_withdrawn_address_is_left_for_another() {
    let mut t = tables();
    let pool = |n: usize| &POOL[n..=n];
    let get = |t: &mut SnatTables, n, port| {
        let id = t
            .open((RULE, &limits(), pool(n)), (17, (v4(10), port), OUTSIDE), Tick(0), &mut |_| {})
            .unwrap()
            .0;
        t.hold(id);
        t.external(id).unwrap()
    };
    let old = get(&mut t, 0, 1);
    assert_eq!(old.0, POOL[0]);
    t.set_standing(|address| (address == POOL[1]).then_some(AddressRole::Pool));
    assert!(t.by_inside(RULE, &limits(), 17, (v4(10), 1), OUTSIDE).is_none(), "not to be used again");
    let new = get(&mut t, 1, 1);
    assert_eq!(new.0, POOL[1]);
    // The end of the old mapping doesn't affect the new one.
    t.let_go(17, old, Tick(0));
    assert_eq!(t.by_inside(RULE, &limits(), 17, (v4(10), 1), OUTSIDE).unwrap().1.external, new);
    t.tidy(Tick::at(Ticks::seconds(200)), &mut |event| assert_eq!(event.external, POOL[0]));
    assert_eq!(t.by_host.len(), 1);
    assert_eq!(get(&mut t, 1, 2).0, POOL[1]);
}
