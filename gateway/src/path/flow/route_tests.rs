//! Tests of next hops: ways, what waits, what is remembered.

use std::ops::{Deref, DerefMut};

use super::*;
use crate::id::HopId;
use crate::path::waiting::{PATIENCE, WAITING, Waiter, Waiting};

/// Routing, and frames that wait for its hops.
struct Waits<F> {
    routing: Routing,
    waiting: Waiting<F>,
}

impl<F> Default for Waits<F> {
    fn default() -> Self {
        Self { routing: Routing::default(), waiting: Waiting::default() }
    }
}

impl<F> Deref for Waits<F> {
    type Target = Routing;

    fn deref(&self) -> &Routing {
        &self.routing
    }
}

impl<F> DerefMut for Waits<F> {
    fn deref_mut(&mut self) -> &mut Routing {
        &mut self.routing
    }
}

impl<F> Waits<F> {
    fn wait(&mut self, hop: HopId, frame: F, now: Tick) -> (Option<Resolve>, Option<F>) {
        self.waiting.wait(&mut self.routing, hop, (frame, true), now)
    }

    fn ready(&mut self, now: Tick) -> Option<(Waiter<F>, Option<Hop>)> {
        self.waiting.ready(&mut self.routing, now)
    }
}

fn route(net: [u8; 4], prefix: u8, gateway: Option<[u8; 4]>, port: u8, metric: u32) -> Route {
    Route {
        network: net.into(),
        prefix,
        via: [Via { port: PortId(port), gateway: gateway.map(IpAddr::from), weight: 1 }].into(),
        metric,
        mtu: None,
    }
}

fn ports() -> Vec<PortFacts> {
    (1..3)
        .map(|n| PortFacts { mac: Mac([2, 0, 0, 0, 0, n]), mtu: 1500, address: None, address_v6: None })
        .collect()
}

fn at(a: [u8; 4]) -> IpAddr {
    a.into()
}

#[test]
fn the_longest_prefix_wins_then_the_metric() {
    let table = RouteTable::new(
        &[
            route([0, 0, 0, 0], 0, Some([10, 0, 0, 1]), 0, 0),
            route([10, 0, 0, 0], 8, None, 0, 0),
            route([10, 1, 0, 0], 16, Some([10, 0, 0, 9]), 1, 50),
            route([10, 1, 0, 0], 16, Some([10, 0, 0, 8]), 1, 10),
        ],
        ports(),
    );
    assert_eq!(table.lookup(at([10, 1, 2, 3])).unwrap().via[0].gateway, Some([10, 0, 0, 8].into()));
    assert_eq!(table.lookup(at([10, 2, 2, 3])).unwrap().via[0].gateway, None);
    assert_eq!(table.lookup(at([8, 8, 8, 8])).unwrap().via[0].gateway, Some([10, 0, 0, 1].into()));
    assert!(RouteTable::new(&[], ports()).lookup(at([8, 8, 8, 8])).is_none());
}

#[test]
fn ipv6_has_routes_of_its_own() {
    let net = |text: &str, prefix, port| Route {
        network: text.parse().unwrap(),
        prefix,
        ..route([0; 4], 0, None, port, 0)
    };
    let table = RouteTable::new(
        &[net("::", 0, 0), net("2001:db8::", 32, 1), net("2001:db8:1::", 48, 0), net("0.0.0.0", 0, 1)],
        ports(),
    );
    let port = |text: &str| table.lookup(text.parse().unwrap()).unwrap().via[0].port.0;
    assert_eq!((port("2001:db8:1::5"), port("2001:db8:2::5"), port("fd00::1")), (0, 1, 0));
    assert_eq!(port("192.0.2.1"), 1);
}

#[test]
fn destinations_are_shared_among_equal_ways_by_weight_and_stay_where_they_are() {
    let way = |route: &Route, to| {
        let table = RouteTable::new(std::slice::from_ref(route), ports());
        table.lookup(to).unwrap().via(to).copied()
    };
    let mut equal = route([0, 0, 0, 0], 0, Some([10, 0, 0, 1]), 0, 0);
    equal.via = [equal.via[0], Via { port: PortId(1), gateway: None, weight: 3 }].into();
    let first = (0..4000)
        .filter(|d| way(&equal, Ipv4Addr::from_bits(d * 7919).into()).unwrap().port == PortId(0))
        .count();
    assert!((800..1200).contains(&first), "{first} of 4000 with a quarter of the weight");
    let to = at([0, 0, 0, 5]);
    assert_eq!(way(&equal, to), way(&equal, to));
    equal.via = [].into();
    assert_eq!(way(&equal, to), Err(Reason::NoRoute));
}

#[test]
fn packets_wait_for_their_neighbour_and_not_for_ever() {
    let mut r: Waits<u8> = Waits::default();
    r.replace(Arc::new(RouteTable::new(&[route([10, 0, 0, 0], 8, None, 1, 0)], ports())));
    let hop = r.towards(at([10, 0, 0, 7]), Need::Server, Tick(0)).unwrap();
    assert_eq!(r.towards(at([10, 0, 0, 7]), Need::Server, Tick(0)), Ok(hop));
    assert!(!r.hop(hop).unwrap().usable);
    let ask = Resolve { port: PortId(1), address: [10, 0, 0, 7].into() };
    assert_eq!(r.wait(hop, 1, Tick(0)), (Some(ask), None));
    assert_eq!(r.wait(hop, 2, Tick(1)), (None, None), "asked a moment ago");
    assert!(r.ready(Tick(2)).is_none());
    let mac = Mac([2, 9, 9, 9, 9, 9]);
    r.neighbour(Neighbour { port: PortId(1), address: [10, 0, 0, 7].into(), mac: Some(mac) }, Tick(0));
    let macs = [2, 9, 9, 9, 9, 9, 2, 0, 0, 0, 0, 2];
    for n in [1, 2] {
        let (waiting, hop) = r.ready(Tick(2)).unwrap();
        assert_eq!((waiting.frame, hop.unwrap().macs), (n, macs));
    }

    let silent = r.towards(at([10, 0, 0, 8]), Need::Server, Tick(0)).unwrap();
    r.wait(silent, 3, Tick(10));
    let (waiting, hop) = r.ready(Tick(10).after(PATIENCE)).unwrap();
    assert!(waiting.frame == 3 && hop.is_none());
    assert_eq!(r.towards(at([11, 0, 0, 8]), Need::Server, Tick(0)), Err(Reason::NoRoute));
}

#[test]
fn a_change_elsewhere_leaves_what_is_remembered() {
    let mut table = Routes::new(&[route([0, 0, 0, 0], 0, Some([10, 0, 0, 1]), 0, 0)]);
    table.set_ports(ports(), [], []);
    let mut r: Waits<u8> = Waits::default();
    r.replace(table.publish());
    let (of, near, far) = (r.generation, at([10, 1, 0, 7]), at([192, 0, 2, 7]));
    let towards = |r: &mut Waits<u8>, to| r.towards(to, Need::Server, Tick(0));
    let first = towards(&mut r, near).unwrap();
    assert!(r.holds(of, near) && r.holds(of, far));
    table.set(at([10, 1, 0, 0]), 24, Some(&route([10, 1, 0, 0], 24, Some([10, 0, 0, 9]), 1, 0)));
    r.replace(table.publish());
    assert!(!r.holds(of, near) && r.holds(of, far));
    assert_ne!(towards(&mut r, near).unwrap(), first);
    table.set(at([10, 1, 0, 0]), 24, None);
    r.replace(table.publish());
    assert_eq!(towards(&mut r, near), Ok(first));
    assert!(!r.holds(of, near) && r.holds(of, far));
    r.replace(Arc::new(RouteTable::new(&[], ports())));
    assert!(!r.holds(of, far), "a table of other descent");
    assert_eq!(towards(&mut r, near), Err(Reason::NoRoute));
}

#[test]
fn the_queue_for_neighbours_is_bounded() {
    let mut r: Waits<usize> = Waits::default();
    r.replace(Arc::new(RouteTable::new(&[route([10, 0, 0, 0], 8, None, 1, 0)], ports())));
    let hop = r.towards(at([10, 0, 0, 7]), Need::Server, Tick(0)).unwrap();
    for n in 0..usize::from(WAITING_EACH) {
        assert_eq!(r.wait(hop, n, Tick(0)).1, None);
    }
    assert_eq!(r.wait(hop, 99, Tick(0)).1, Some(99));
}

fn to_lan() -> Waits<usize> {
    let mut r = Waits::default();
    r.replace(Arc::new(RouteTable::new(&[route([10, 0, 0, 0], 8, None, 1, 0)], ports())));
    r
}

fn known(r: &mut Waits<usize>, address: IpAddr, last: u8) {
    let mac = Some(Mac([2, 9, 9, 9, 9, last]));
    r.neighbour(Neighbour { port: PortId(1), address, mac }, Tick(0));
}

#[test]
fn guests_have_half_of_the_queue_and_silent_neighbours_one_place() {
    let mut r = to_lan();
    let guest = |n: u8| at([10, 1, 0, n]);
    let waits = |r: &mut Waits<usize>, to, need, now| {
        let hop = r.towards(to, need, Tick(now)).unwrap();
        r.wait(hop, 0, Tick(now)).1.is_none()
    };
    let waiting = (0..=255).filter(|n| waits(&mut r, guest(*n), Need::Guest, 0)).count();
    assert_eq!(waiting, usize::from(WAITING_GUESTS));
    let servers = (0..=255).filter(|n| waits(&mut r, at([10, 0, 0, *n]), Need::Server, 0)).count();
    assert_eq!(servers, WAITING - usize::from(WAITING_GUESTS));
    while r.ready(Tick::at(PATIENCE)).is_some() {}
    assert!(waits(&mut r, at([10, 0, 0, 1]), Need::Server, PATIENCE.0));
    assert!(!waits(&mut r, at([10, 0, 0, 1]), Need::Server, PATIENCE.0), "it was silent");
    assert!((0..5).all(|_| waits(&mut r, at([10, 2, 0, 1]), Need::Server, PATIENCE.0)));
    // Once it has answered it is as any other.
    known(&mut r, at([10, 0, 0, 1]), 1);
    r.neighbour(Neighbour { port: PortId(1), address: at([10, 0, 0, 1]), mac: None }, Tick::at(PATIENCE));
    assert!((0..5).all(|_| waits(&mut r, at([10, 0, 0, 1]), Need::Server, PATIENCE.0)));
}

#[test]
fn an_address_that_is_a_server_is_no_guest() {
    let mut r = to_lan();
    let hop = r.towards(at([10, 0, 0, 1]), Need::Guest, Tick(0)).unwrap();
    assert_eq!(r.towards(at([10, 0, 0, 1]), Need::Server, Tick(0)), Ok(hop));
    for n in 0..255 {
        let guest = r.towards(at([10, 1, 0, n]), Need::Guest, Tick(0)).unwrap();
        r.wait(guest, 0, Tick(0));
    }
    assert_eq!(r.wait(hop, 0, Tick(0)).1, None);
}

#[test]
fn only_a_known_neighbour_s_hop_may_be_remembered_and_until_the_routes_change() {
    let mut r = to_lan();
    let to = at([10, 0, 0, 7]);
    let hop = r.towards(to, Need::Server, Tick(0)).unwrap();
    assert!(!r.may_be_remembered(hop));
    known(&mut r, to, 7);
    assert_eq!(r.towards(to, Need::Server, Tick(0)), Ok(hop));
    assert!(r.may_be_remembered(hop));
    let before = r.generation;
    r.replace(Arc::new(RouteTable::new(&[route([10, 0, 0, 0], 8, Some([10, 9, 9, 9]), 0, 0)], ports())));
    assert_eq!(remembered(hop, before, r.generation), None);
    let now = r.towards(to, Need::Server, Tick(0)).unwrap();
    assert_ne!(now, hop, "by the new way");
    // The generation never is one that a fresh record has.
    r.generation = u16::MAX;
    r.replace(Arc::default());
    assert_eq!(r.generation, 1);
}

#[test]
fn a_packet_is_judged_by_the_mtu_of_its_own_route() {
    let to = |net: [u8; 4], mtu| Route { mtu, ..route(net, 16, Some([10, 0, 0, 9]), 1, 0) };
    let v6 = |net: &str, mtu| Route {
        network: net.parse().unwrap(),
        prefix: 48,
        via: [Via { port: PortId(1), gateway: Some("fe80::9".parse().unwrap()), weight: 1 }].into(),
        metric: 0,
        mtu,
    };
    let routes = [
        to([10, 1, 0, 0], None),
        to([10, 2, 0, 0], Some(1400)),
        to([10, 3, 0, 0], Some(9000)),
        v6("2001:db8:1::", None),
        v6("2001:db8:2::", Some(1400)),
    ];
    let mut r: Waits<u8> = Waits::default();
    r.replace(Arc::new(RouteTable::new(&routes, ports())));
    let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
    let ways = [
        (at([10, 1, 0, 1]), 1500),
        (at([10, 2, 0, 1]), 1400),
        (at([10, 3, 0, 1]), 1500),
        (v6("2001:db8:1::1"), 1500),
        (v6("2001:db8:2::1"), 1400),
    ];
    // The last look-up doesn't decide; what waits for a hop leaves once its neighbour is known, whichever is looked up.
    let ids = ways.map(|(to, _)| r.towards(to, Need::Server, Tick(0)).unwrap());
    for (n, id) in ids.into_iter().enumerate() {
        r.wait(id, n as u8, Tick(0));
    }
    let mac = Some(Mac([2, 9, 9, 9, 9, 9]));
    for address in [at([10, 0, 0, 9]), v6("fe80::9")] {
        r.neighbour(Neighbour { port: PortId(1), address, mac }, Tick(0));
    }
    for _ in ids {
        assert!(r.ready(Tick(1)).unwrap().1.is_some());
    }
    for ((to, mtu), id) in ways.into_iter().zip(ids) {
        assert_eq!(r.towards(to, Need::Server, Tick(1)), Ok(id));
        let hop = r.hop(id).unwrap();
        assert_eq!((hop.mtu, hop.usable, r.view(to).unwrap().mtu), (mtu, true, mtu), "{to}");
    }
    r.neighbour(Neighbour { port: PortId(1), address: at([10, 0, 0, 9]), mac: None }, Tick(2));
    let usable = ids.map(|id| r.hop(id).unwrap().usable);
    assert_eq!(usable, [false, false, false, true, true]);
}

#[test]
fn answers_go_back_to_the_station_that_asked() {
    let mut r = to_lan();
    let (to, mac) = (at([10, 0, 0, 7]), Mac([2, 5, 5, 5, 5, 5]));
    let back = ReturnHop::Neighbour([2, 5, 5, 5, 5, 5, 2, 0, 0, 0, 0, 2]);
    assert_eq!(r.back_to(to, (PortId(1), Some(mac)), Tick(0)), Ok(back));
    assert!(r.hops.known(PortId(1), to).is_none(), "no hop for that");
    // By another port, or from no station's address, it has to be found.
    let hop = r.back_to(to, (PortId(0), Some(mac)), Tick(0)).unwrap();
    assert_eq!(r.back_to(to, (PortId(1), None), Tick(0)), Ok(hop));
    assert_eq!(r.back_to(to, (PortId(1), Some(mac)), Tick(0)), Ok(back), "not known yet");
    known(&mut r, to, 7);
    assert_eq!(r.back_to(to, (PortId(1), Some(mac)), Tick(0)), Ok(hop));
    assert_eq!(r.back_to(at([11, 0, 0, 1]), (PortId(1), Some(mac)), Tick(0)), Err(Reason::NoRoute));
}

#[test]
fn neighbours_that_come_and_go_take_nothing() {
    let mut r = to_lan();
    for n in 0..20_000u32 {
        let address = Ipv4Addr::from_bits(0x0a01_0000 + n).into();
        known(&mut r, address, 1);
        r.neighbour(Neighbour { port: PortId(1), address, mac: None }, Tick(0));
    }
    // Those that stay have no more than guests may.
    for n in 0..20_000u32 {
        known(&mut r, Ipv4Addr::from_bits(0x0a02_0000 + n).into(), 1);
    }
    for n in 0..2000 {
        let server = Ipv4Addr::from_bits(0x0a00_0000 + n).into();
        assert!(r.towards(server, Need::Server, Tick(0)).is_ok());
    }
}

#[test]
fn old_generations_are_swept_once_and_in_time() {
    let mut r = to_lan();
    let grow_old = |r: &mut Waits<usize>, age: u16| r.oldest = r.generation.wrapping_sub(age);
    grow_old(&mut r, SWEEP_AGE - 1);
    assert_eq!((r.sweep_due(), r.sweep_is_late()), (None, false));
    grow_old(&mut r, LATE_AGE);
    assert!(!r.sweep_is_late(), "it hasn't begun");
    grow_old(&mut r, SWEEP_AGE);
    assert_eq!((r.sweep_due(), r.sweep_due()), (Some(r.generation), None));
    grow_old(&mut r, LATE_AGE - 1);
    assert!(!r.sweep_is_late());
    grow_old(&mut r, LATE_AGE);
    assert!(r.sweep_is_late());
    r.not_swept();
    assert_eq!((r.sweep_is_late(), r.sweep_due()), (false, Some(r.generation)), "it is tried again");
    let generation = r.generation;
    r.swept(generation);
    assert_eq!((r.age(), r.sweep_is_late(), r.sweep_due()), (0, false, None));
    grow_old(&mut r, SWEEP_AGE);
    assert!(r.sweep_due().is_some(), "and again when the time has come");
}

#[test]
fn no_neighbour_is_worth_a_generation_that_sessions_may_still_know() {
    let mut r = to_lan();
    let guests = (MAX_HOPS / 4 * 3) as u32;
    for n in 0..guests - guests / 8 {
        let address = Ipv4Addr::from_bits(0x0a01_0000 + n).into();
        known(&mut r, address, 1);
        assert!(r.towards(address, Need::Guest, Tick(0)).is_ok());
    }
    let (before, new) = (r.generation, at([10, 9, 0, 1]));
    r.oldest = before.wrapping_sub(LAST_AGE);
    assert_eq!(r.towards(new, Need::Guest, Tick(0)), Err(Reason::NextHopsFull));
    assert_eq!(r.generation, before);
    r.oldest = before.wrapping_sub(LAST_AGE - 1);
    assert!(r.towards(new, Need::Guest, Tick(0)).is_ok());
    assert_eq!(r.generation, before + 1);
}
