//! Mappings, limits and blocks of one worker.

use std::net::Ipv4Addr;

use weirctl::snat::MAX_PORTS;

use super::*;

const RULE: ServerId = ServerId(7);
const POOL: [IpAddr; 2] = [v4(0xc000_0201), v4(0xc000_0202)];
const OUTSIDE: Place = (v4(0x0808_0808), 53);

const fn v4(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(n))
}

fn limits() -> Limits {
    Limits { ports: MAX_PORTS, sessions: 0, paired: true, mapping: Dependence::EndpointIndependent }
}

fn tables() -> Tables {
    let mut tables = Tables::new(4096, 1);
    POOL.iter().for_each(|&a| tables.add_address(a, &mut Some(Box::new(Blocks::new(0, 1)))));
    tables
}

fn open(t: &mut Tables, limits: &Limits, inside: Place, now: Tick) -> Result<Mapping, Full> {
    let (id, _) = t.open((RULE, limits, &POOL), (17, inside, OUTSIDE), now, &mut |_| {})?;
    t.hold(id);
    Ok(t.mappings[id as usize])
}

#[test]
fn an_inside_address_keeps_its_external_one_and_has_a_limit() {
    let mut t = tables();
    let limits = Limits { ports: 100, ..limits() };
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
    let limits = Limits { mapping: Dependence::AddressAndPortDependent, ..limits() };
    open(&mut t, &limits, (v4(10), 1), Tick(0)).unwrap();
    assert!(t.by_inside(RULE, &limits, 17, (v4(10), 1), OUTSIDE).is_some());
    assert!(t.by_inside(RULE, &limits, 17, (v4(10), 1), (v4(1), 1)).is_none());
}

#[test]
fn blocks_are_told_of_and_go_back_after_their_ports_have_rested() {
    let mut t = tables();
    let mut told = Vec::new();
    let (id, _) =
        t.open((RULE, &limits(), &POOL), (6, (v4(10), 1), OUTSIDE), Tick(0), &mut |e| told.push(e)).unwrap();
    t.hold(id);
    let external = t.mappings[id as usize].external;
    assert!(told.len() == 1 && told[0].given && told[0].external == external.0);
    let mut silent = |_| panic!("nothing to tell");
    t.tidy(Tick(seconds(500)), &mut silent);
    t.let_go(6, external, Tick(seconds(500)));
    t.tidy(Tick(seconds(600)), &mut silent);
    let mut told = Vec::new();
    for at in [700, 900] {
        t.tidy(Tick(seconds(at)), &mut |e| told.push(e));
    }
    assert!(told.len() == 1 && !told[0].given, "{told:?}");
    assert!(t.by_host.is_empty() && !t.has_idle());
}

#[test]
fn arbitrary_pooling_goes_on_at_another_address() {
    let mut t = Tables::new(4096, 1);
    let mut small = Blocks::new(0, 1);
    while small.take(0, |_| true).is_some() {}
    t.add_address(POOL[0], &mut Some(Box::new(small)));
    t.add_address(POOL[1], &mut Some(Box::new(Blocks::new(0, 1))));
    for n in 0..65 {
        let got = open(&mut t, &Limits { paired: false, ..limits() }, (v4(10), n), Tick(0)).unwrap();
        assert_eq!(got.external.0, POOL[1]);
    }
}
