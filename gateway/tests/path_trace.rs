//! `trace` follows packets, says what became of each, and changes nothing about it.

mod rig;

use std::net::Ipv4Addr;

use rig::{
    LAN, Options, Rig, WAN,
    frames::{self, Endpoint, Tcp, read},
    key, server,
};
use weir::{io::memory::MemoryFrame, path::verdict::Reason};
use weir_api::{
    client::Transport,
    model::{
        Forwarding, LocalAddress, Network, Protocol, Service, ServiceKey,
        trace::{TraceFilter, TraceStage, TracedPacket},
    },
    protocol::{Change, Request, Response},
};

const VIP: [u8; 4] = [192, 0, 2, 10];
const SYN: Tcp<'static> = Tcp { flags: "S", seq: 1, ack: 0 };
const ACK: Tcp<'static> = Tcp { flags: "A", seq: 2, ack: 9 };

fn vip() -> Endpoint {
    (VIP.into(), 80)
}

fn client(n: u8) -> Endpoint {
    (Ipv4Addr::new(10, 1, 0, n), 40_000)
}

fn rig(workers: usize) -> Rig {
    let mut rig = Rig::with(&Options { workers, ..Options::default() });
    rig.add_service(Protocol::Tcp, VIP, 80, "rr", true);
    rig.add_server(key(Protocol::Tcp, VIP, 80), server([10, 0, 0, 1], 8080, Forwarding::FullNat, 1));
    rig
}

fn begin(rig: &mut Rig, filter: TraceFilter) -> u64 {
    match rig.call(Request::Trace(filter)).unwrap() {
        Response::Tracing { trace } => trace,
        other => panic!("{other:?}"),
    }
}

fn take(rig: &mut Rig, request: Request) -> Vec<TracedPacket> {
    match rig.call(request).unwrap() {
        Response::Traced { packets, lost: 0 } => packets,
        other => panic!("{other:?}"),
    }
}

fn stages(p: &TracedPacket) -> Vec<TraceStage> {
    p.stages.iter().map(|(stage, _)| *stage).collect()
}

#[test]
fn a_connection_is_followed_through_its_stages() {
    use TraceStage::*;
    let mut rig = rig(1);
    // The server's neighbour is known from another connection, the client's isn't yet.
    rig.send(WAN, &frames::tcp(WAN, client(9), vip(), SYN, &[]));
    let trace = begin(&mut rig, TraceFilter::default());
    let sent = rig.send(WAN, &frames::tcp(WAN, client(1), vip(), SYN, &[]));
    let (local, rs, _) = {
        let out = read(&sent[0].bytes);
        let (a, b, f) = out.tcp();
        (a, b, f.to_owned())
    };
    rig.send(LAN, &frames::tcp(LAN, rs, local, Tcp { flags: "SA", seq: 8, ack: 2 }, &[]));
    rig.send(WAN, &frames::tcp(WAN, client(1), vip(), ACK, &[]));
    let packets = take(&mut rig, Request::Traced { trace });
    assert_eq!(packets.len(), 3);
    let verdicts: Vec<_> =
        packets.iter().map(|p| (p.port.as_str(), p.out.as_deref(), p.verdict.as_str())).collect();
    let expected =
        [("wan", Some("lan"), "forwarded"), ("lan", None, "waiting"), ("wan", Some("lan"), "forwarded")];
    assert_eq!(verdicts, expected);
    assert_eq!(stages(&packets[0]), [Parse, Session, Service, Schedule, Open, Route, End]);
    assert_eq!(stages(&packets[2]), [Parse, Session, Track, Route, End]);
    let end = |(a, p): Endpoint| (a.into(), p);
    assert_eq!(packets[2].before, Some((end(client(1)), end(vip()))));
    assert_eq!(packets[2].after, Some((end(local), end(rs))));
    assert_eq!(packets[2].flags, 16);
    assert!(packets.windows(2).all(|p| p[0].time <= p[1].time));
    assert!(take(&mut rig, Request::EndTrace { trace }).is_empty());
    assert!(matches!(rig.call(Request::Traced { trace }).unwrap(), Response::Refused(_)));
}

#[test]
fn drops_are_followed_with_their_reason_and_answer() {
    let mut rig = rig(1);
    let trace = begin(&mut rig, TraceFilter { dropped: true, ..TraceFilter::default() });
    rig.send(WAN, &frames::tcp(WAN, client(1), vip(), SYN, &[]));
    rig.send(WAN, &frames::tcp(WAN, client(2), vip(), ACK, &[]));
    rig.send(WAN, &frames::tcp(WAN, client(2), vip(), ACK, &[]));
    let packets = take(&mut rig, Request::EndTrace { trace });
    assert_eq!(packets.len(), 2);
    let last = &packets[1];
    assert_eq!(
        (last.verdict.as_str(), last.advice.as_deref()),
        ("no-session", Some(Reason::NoSession.advice()))
    );
    let reset = last.after.map(|(from, to)| (from.0, to.0));
    assert_eq!(reset, Some((VIP.into(), client(2).0.into())), "the reset that was sent");
}

#[test]
fn filters_choose_and_one_trace_is_enough() {
    let mut rig = rig(2);
    let host = Some(Network { address: [10, 1, 0, 2].into(), bits: 32 });
    let trace = begin(&mut rig, TraceFilter { host, ..TraceFilter::default() });
    assert!(matches!(rig.call(Request::Trace(TraceFilter::default())).unwrap(), Response::Refused(_)));
    for n in 1..=4 {
        for worker in [0, 1] {
            let syn = frames::tcp(WAN, client(n), vip(), SYN, &[]);
            rig.send_to(worker, WAN, MemoryFrame::new(&syn));
        }
    }
    let packets = take(&mut rig, Request::EndTrace { trace });
    assert!(packets.iter().all(|p| p.before.unwrap().0.0 == client(2).0));
    let handed: Vec<_> = packets.iter().filter(|p| p.verdict == "handed-over").collect();
    assert_eq!((packets.len(), handed.len()), (3, 1), "one of the two came to the other worker first");
    assert!(packets.iter().any(|p| p.handed && p.worker != handed[0].worker));
    // Whoever traces sees what happens without: the same session, no more.
    assert_eq!((rig.session_count(), rig.total()), (4, 12));
    begin(&mut rig, TraceFilter { port: Some("wan".into()), ..TraceFilter::default() });
    let wrong = TraceFilter { port: Some("dmz".into()), ..TraceFilter::default() };
    assert!(matches!(rig.call(Request::Trace(wrong)).unwrap(), Response::Refused(_)));
}

#[test]
fn a_packet_that_changes_its_family_is_followed() {
    let mut rig = Rig::new();
    let v6 = |n: u16| std::net::IpAddr::from([0x2001, 0xdb8, 0xc, 0, 0, 0, 0, n]);
    let service = ServiceKey::Address { protocol: Protocol::Tcp, address: v6(0x10), port: 80 };
    rig.change(Change::AddService(Service {
        key: service,
        scheduler: "rr".into(),
        scheduler_flags: 0,
        persistent: None,
        netmask: 128,
        one_packet: false,
        engine: None,
    }));
    let local = LocalAddress { address: rig::LIP.into(), interface: None };
    rig.change(Change::AddLocalAddress { service, local });
    rig.change(Change::AddServer { service, server: server([10, 0, 0, 1], 8080, Forwarding::FullNat, 1) });
    rig.send(WAN, &frames::tcp(WAN, (v6(9), 40_000), (v6(0x10), 80), SYN, &[]));
    let host = Some(Network { address: v6(1), bits: 128 });
    let trace = begin(&mut rig, TraceFilter { host, ..TraceFilter::default() });
    for from in [v6(1), v6(2)] {
        rig.send(WAN, &frames::tcp(WAN, (from, 40_000), (v6(0x10), 80), SYN, &[]));
    }
    let packets = take(&mut rig, Request::Traced { trace });
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0].before, Some(((v6(1), 40_000), (v6(0x10), 80))));
    let (from, to) = packets[0].after.unwrap();
    assert_eq!((from.0, to), (rig::LIP.into(), ([10, 0, 0, 1].into(), 8080)));
    assert_eq!((packets[0].flags, packets[0].protocol), (2, 6));
}
