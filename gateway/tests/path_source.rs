//! Packet in, packet out: whether a packet may come from where it says, by each setting of `rp_filter` and all kinds of
//! routes. `packets/source.table` has the usual: strict, and a route a network.

mod rig;

use std::{net::Ipv4Addr, sync::Arc};

use rig::{
    LAN, LAN_MAC, LIP, Options, Rig, WAN, WAN_MAC,
    frames::{self, read},
    key, server,
};
use weir::{
    io::{PortId, memory::MemoryFrame},
    net::ethernet::Mac,
    path::{
        flow::{
            behind::RpFilter::{self, Loose, Off, Strict},
            route::{PortFacts, Route, RouteTable, Via},
        },
        verdict::Reason,
    },
};
use weir_api::{
    client::Transport,
    model::{
        Forwarding, Protocol,
        explain::{End, Question},
    },
    protocol::{Change, Request, Response},
};

const VIP: [u8; 4] = [192, 0, 2, 10];
const SERVER: [u8; 4] = [10, 0, 0, 1];

/// A route by these ports, or, by none, one that refuses.
fn route(network: [u8; 4], prefix: u8, ports: &[PortId]) -> Route {
    let via = |port: &PortId| Via { port: *port, gateway: None, weight: 1 };
    Route { network: network.into(), prefix, via: ports.iter().map(via).collect(), metric: 0, mtu: None }
}

/// Servers behind `lan`, and these routes.
fn set_routes(rig: &mut Rig, filters: [RpFilter; 2], more: &[Route]) {
    let facts = |mac| PortFacts { mac: Mac(mac), mtu: 1500, address: None, address_v6: None };
    let routes = [&[route([10, 0, 0, 0], 24, &[LAN])], more].concat();
    let table = RouteTable::new(&routes, vec![facts(WAN_MAC), facts(LAN_MAC)]);
    rig.store.plane_mut().set_routes(&Arc::new(table.with_rp_filters(filters.to_vec())));
    rig.run();
}

/// DNS by direct routing, FULLNAT one port up.
fn rig(workers: usize, filters: [RpFilter; 2], more: &[Route]) -> Rig {
    let mut rig = Rig::with(&Options { workers, ..Options::default() });
    for (port, method) in [(53, Forwarding::Route), (54, Forwarding::FullNat)] {
        rig.add_service(Protocol::Udp, VIP, port, "rr", method == Forwarding::FullNat);
        rig.add_server(key(Protocol::Udp, VIP, port), server(SERVER, port, method, 1));
    }
    set_routes(&mut rig, filters, more);
    rig
}

/// Lets a datagram arrive at both services; whether both went on to the server, or neither.
fn passes(rig: &mut Rig, port: PortId, from: [u8; 4], due: Option<Reason>) {
    for to in [53, 54] {
        let before = due.map(|reason| rig.drops(reason));
        let frame = frames::udp(port, (Ipv4Addr::from(from), 4000), (Ipv4Addr::from(VIP), to), b"who");
        let sent: usize =
            (0..rig.counters.len()).map(|w| rig.send_to(w, port, MemoryFrame::new(&frame)).len()).sum();
        let all = rig.counters.len();
        match due {
            None => assert_eq!(sent, all, "{from:?} by {port:?} to {to}"),
            Some(reason) => {
                assert_eq!(sent, 0, "{from:?} by {port:?} to {to}");
                let by = rig.drops(reason) - before.unwrap_or_default();
                assert_eq!(by, all as u64, "{from:?} by {port:?} to {to}: {reason:?}");
            }
        }
    }
}

const CLIENT: [u8; 4] = [10, 1, 0, 1];
const FAR: [u8; 4] = [203, 0, 113, 5];

#[test]
fn with_a_default_route_everybody_is_behind_its_port() {
    for workers in [1, 3] {
        let mut rig = rig(workers, [Strict; 2], &[route([0; 4], 0, &[WAN])]);
        passes(&mut rig, WAN, FAR, None);
        passes(&mut rig, WAN, [240, 1, 1, 1], None);
        passes(&mut rig, LAN, [203, 0, 113, 6], Some(Reason::NoWayBack));
        passes(&mut rig, WAN, [10, 0, 0, 9], Some(Reason::NoWayBack));
        passes(&mut rig, WAN, SERVER, Some(Reason::Martian));
        passes(&mut rig, LAN, [10, 0, 0, 9], None);
    }
}

#[test]
fn loose_wants_a_route_and_off_wants_nothing() {
    let routes = [route([10, 1, 0, 0], 16, &[WAN]), route([203, 0, 113, 0], 28, &[])];
    for (filter, elsewhere, nowhere) in [
        (Strict, Some(Reason::NoWayBack), Some(Reason::NoWayBack)),
        (Loose, None, Some(Reason::NoWayBack)),
        (Off, None, None),
    ] {
        let mut rig = rig(2, [filter; 2], &routes);
        passes(&mut rig, WAN, CLIENT, None);
        passes(&mut rig, LAN, [10, 1, 0, 2], elsewhere);
        passes(&mut rig, WAN, [10, 0, 0, 9], elsewhere);
        passes(&mut rig, WAN, [198, 51, 100, 1], nowhere);
        // Unreachable by a route that says so.
        passes(&mut rig, WAN, FAR, nowhere);
        // What is nobody's to be isn't, by any setting.
        passes(&mut rig, WAN, SERVER, Some(Reason::Martian));
        passes(&mut rig, WAN, LIP.octets(), Some(Reason::Martian));
        passes(&mut rig, LAN, LIP.octets(), Some(Reason::Martian));
        passes(&mut rig, WAN, VIP, Some(Reason::Martian));
        passes(&mut rig, WAN, [127, 0, 0, 1], Some(Reason::Martian));
    }
}

#[test]
fn each_port_has_its_own_setting() {
    let mut rig = rig(1, [Loose, Strict], &[route([10, 1, 0, 0], 16, &[WAN])]);
    passes(&mut rig, WAN, [10, 0, 0, 9], None);
    passes(&mut rig, LAN, CLIENT, Some(Reason::NoWayBack));
}

#[test]
fn of_equal_routes_any_will_do() {
    let paths = route([10, 1, 0, 0], 16, &[WAN, LAN]);
    let twice = [route([10, 2, 0, 0], 16, &[WAN]), route([10, 2, 0, 0], 16, &[LAN])];
    let worse = Route { metric: 9, ..route([10, 3, 0, 0], 16, &[LAN]) };
    let routes = [&[paths, worse, route([10, 3, 0, 0], 16, &[WAN])][..], &twice].concat();
    let mut rig = rig(1, [Strict; 2], &routes);
    for n in 1..9 {
        passes(&mut rig, WAN, [10, 1, 0, n], None);
        passes(&mut rig, LAN, [10, 1, 1, n], None);
    }
    passes(&mut rig, WAN, [10, 2, 0, 1], None);
    passes(&mut rig, LAN, [10, 2, 0, 2], None);
    passes(&mut rig, WAN, [10, 3, 0, 1], None);
    passes(&mut rig, LAN, [10, 3, 0, 2], Some(Reason::NoWayBack));
}

#[test]
fn what_changes_counts_from_then_on() {
    let mut rig = rig(1, [Loose; 2], &[route([10, 1, 0, 0], 16, &[WAN])]);
    let other = [10, 1, 0, 77];
    passes(&mut rig, LAN, other, None);
    // A session goes on, whatever is said of new ones.
    set_routes(&mut rig, [Strict; 2], &[route([10, 1, 0, 0], 16, &[WAN])]);
    passes(&mut rig, LAN, other, None);
    passes(&mut rig, LAN, [10, 1, 0, 78], Some(Reason::NoWayBack));
    set_routes(&mut rig, [Strict; 2], &[route([10, 1, 0, 0], 16, &[LAN])]);
    passes(&mut rig, LAN, [10, 1, 0, 78], None);
    // A server that comes is a martian elsewhere, and none any more when the last of its kind is gone.
    let (from, keys) = ([10, 1, 9, 9], [53, 54].map(|port| key(Protocol::Udp, VIP, port)));
    set_routes(&mut rig, [Loose; 2], &[route([10, 1, 0, 0], 16, &[LAN])]);
    for service in keys {
        rig.add_server(service, server(from, 5353, Forwarding::FullNat, 0));
    }
    let one_gone = |rig: &mut Rig, n: usize| {
        rig.change(Change::DeleteServer { service: keys[n], address: from.into(), port: 5353 });
    };
    passes(&mut rig, WAN, from, Some(Reason::Martian));
    one_gone(&mut rig, 0);
    passes(&mut rig, WAN, from, Some(Reason::Martian));
    one_gone(&mut rig, 1);
    passes(&mut rig, WAN, from, None);
}

#[test]
fn an_inside_network_is_not_behind_the_default_route_of_its_outside_port() {
    let snat = |rig: &mut Rig, inside: &str| {
        let line = format!("snat add office --inside {inside} --port wan --pool 192.0.2.100");
        let mut input = std::io::Cursor::new(format!("{line}\n"));
        let environment =
            weirctl::ipvsadm::Environment { names: &weir_api::ipvsadm::names::SystemNames, own: true };
        let args = ["weirctl", "-R"].map(Into::into);
        let status =
            weirctl::ipvsadm::ipvsadm(&args, &mut input, rig, &mut Vec::new(), &mut Vec::new(), &environment);
        assert_eq!(status, 0);
        rig.run();
    };
    let outside = (Ipv4Addr::new(203, 0, 113, 1), 53);
    let default = route([0; 4], 0, &[WAN]);
    let goes = |rig: &mut Rig, port, from: [u8; 4]| {
        let frame = frames::udp(port, (Ipv4Addr::from(from), 4000), outside, b"who");
        let sent = rig.send(port, &frame);
        sent.first().map(|sent| read(&sent.bytes).udp().0.0)
    };
    for (filter, due) in [
        (Strict, None),
        (Loose, Some(Ipv4Addr::new(192, 0, 2, 100))),
        (Off, Some(Ipv4Addr::new(192, 0, 2, 100))),
    ] {
        let mut rig = rig(1, [filter; 2], std::slice::from_ref(&default));
        snat(&mut rig, "10.0.0.0/8");
        assert_eq!(goes(&mut rig, LAN, [10, 0, 0, 9]), Some(Ipv4Addr::new(192, 0, 2, 100)));
        assert_eq!(goes(&mut rig, WAN, [10, 7, 7, 7]), due, "{filter:?}");
        assert_eq!(rig.drops(Reason::NoWayBack), u64::from(due.is_none()));
        assert_eq!(rig.event("snat-mappings-opened"), 1 + u64::from(due.is_some()));
    }
    // One port for both sides is fine where a route says that the inside is there.
    let mut rig = rig(1, [Strict; 2], &[default, route([10, 7, 0, 0], 16, &[WAN])]);
    snat(&mut rig, "10.0.0.0/8");
    assert_eq!(goes(&mut rig, WAN, [10, 7, 7, 7]), Some(Ipv4Addr::new(192, 0, 2, 100)));
}

#[test]
fn explain_says_so_too() {
    let mut rig = rig(1, [Strict; 2], &[route([10, 1, 0, 0], 16, &[WAN])]);
    let mut ends = |from: [u8; 4], port: &str| {
        let question = Question {
            protocol: Protocol::Udp,
            source: (from.into(), 4000),
            destination: (VIP.into(), 53),
            port: Some(port.into()),
            opens: true,
        };
        match rig.call(Request::Explain(question)).unwrap() {
            Response::Explained(explanation) => explanation.end,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(ends(CLIENT, "wan"), End::Forwarded));
    let dropped = |end: End| match end {
        End::Dropped { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(dropped(ends(CLIENT, "lan")), "no-way-back");
    assert_eq!(dropped(ends(SERVER, "wan")), "martian");
}
