//! What control asks of the running path and tells its peers: certain sessions, loads, news; and transactions
//! larger than a frame.

mod fake;
mod rig;

use std::{net::Ipv4Addr, path::Path, sync::Arc, thread, time::Duration};

use fake::FakePlane;
use parking_lot::Mutex;
use rig::{
    Options, Rig, WAN,
    frames::{self, Endpoint, Tcp},
    key, server,
};
use weir::control::{
    server::{Limits, Server},
    store::Store,
};
use weirctl::{
    client::{Client, Transport},
    model::{Forwarding, Protocol, ServiceKey, SessionState},
    protocol::{
        Access, Batch, Change, ErrorCode, FoundSession, ListQuery, MAX_BATCH, Network, Notice, Request,
        Response, Row, SessionFilter,
    },
};

const VIP: [u8; 4] = [192, 0, 2, 10];

fn vip(port: u16) -> Endpoint {
    (Ipv4Addr::from(VIP), port)
}

/// A gateway with TCP 80 and 81, a server each, and `clients` sessions of each service on worker 0.
fn busy(options: &Options, clients: u16) -> Rig {
    let mut rig = Rig::with(options);
    for port in [80, 81] {
        rig.add_service(Protocol::Tcp, VIP, port, "rr", true);
        rig.add_server(
            key(Protocol::Tcp, VIP, port),
            server([10, 0, 0, (port - 79) as u8], 8080, Forwarding::FullNat, 1),
        );
        for n in 0..clients {
            let client = (Ipv4Addr::from([10, 1, (n >> 8) as u8, n as u8]), 40_000);
            let syn = Tcp { flags: "S", seq: 1, ack: 0 };
            rig.send(WAN, &frames::tcp(WAN, client, vip(port), syn, &[]));
        }
    }
    rig
}

fn find(rig: &mut Rig, filter: SessionFilter) -> Vec<FoundSession> {
    let (mut from, mut all) = (None, Vec::new());
    loop {
        match rig.store.handle(Request::FindSessions { filter, from, max: 100 }, Access::ReadOnly) {
            Response::Found { sessions, next } => {
                all.extend(sessions);
                from = next;
            }
            other => panic!("{other:?}"),
        }
        if from.is_none() {
            return all;
        }
    }
}

fn kill(rig: &mut Rig, filter: SessionFilter) -> u32 {
    let (mut from, mut all) = (None, 0);
    loop {
        match rig.store.handle(Request::KillSessions { filter, from }, Access::ReadWrite) {
            Response::Killed { sessions, next } => {
                all += sessions;
                from = next;
            }
            other => panic!("{other:?}"),
        }
        if from.is_none() {
            return all;
        }
    }
}

#[test]
fn sessions_are_found_by_what_they_are() {
    let mut rig = busy(&Options::default(), 300);
    rig.advance(5.0);
    let any = SessionFilter::default();
    assert_eq!(find(&mut rig, any).len(), 600);
    let of_80 = SessionFilter { service: Some(key(Protocol::Tcp, VIP, 80)), ..any };
    assert_eq!(find(&mut rig, of_80).len(), 300);
    let network = Network { address: [10, 1, 1, 0].into(), bits: 24 };
    let found = find(&mut rig, SessionFilter { client: Some(network), ..of_80 });
    assert_eq!(found.len(), 44);
    assert!(found.iter().all(|f| (500..=501).contains(&f.age) && f.idle == f.age), "{:?}", found[0]);
    assert_eq!(find(&mut rig, SessionFilter { min_age: Some(600), ..any }).len(), 0);
    assert_eq!(find(&mut rig, SessionFilter { state: Some(SessionState::SynRecv), ..any }).len(), 600);
    let unknown = SessionFilter { service: Some(key(Protocol::Tcp, VIP, 99)), ..any };
    let refused =
        rig.store.handle(Request::FindSessions { filter: unknown, from: None, max: 1 }, Access::ReadOnly);
    assert_eq!(refused, Response::Refused(ErrorCode::NoSuchService.into()));
}

#[test]
fn killing_ends_those_and_no_others() {
    let mut rig = busy(&Options::default(), 300);
    let of_80 = SessionFilter { service: Some(key(Protocol::Tcp, VIP, 80)), ..SessionFilter::default() };
    let refused = rig.store.handle(Request::KillSessions { filter: of_80, from: None }, Access::ReadOnly);
    assert_eq!(refused, Response::Refused(ErrorCode::ReadOnly.into()));
    assert_eq!(kill(&mut rig, of_80), 300);
    assert_eq!((find(&mut rig, of_80).len(), rig.session_count()), (0, 300));
    // Also those of a server that was deleted since.
    let of_81 = SessionFilter { service: Some(key(Protocol::Tcp, VIP, 81)), ..SessionFilter::default() };
    let service = key(Protocol::Tcp, VIP, 81);
    rig.change(Change::DeleteServer { service, address: [10, 0, 0, 2].into(), port: 8080 });
    assert_eq!(kill(&mut rig, of_81), 300);
    assert_eq!(rig.session_count(), 0);
}

#[test]
fn workers_can_be_searched_one_by_one() {
    let mut rig = busy(&Options { workers: 3, ..Options::default() }, 64);
    let of = |rig: &mut Rig, worker| {
        find(rig, SessionFilter { worker, ..SessionFilter::default() })
            .into_iter()
            .map(|f| f.session)
            .collect::<Vec<_>>()
    };
    let each: Vec<_> = (0..3).map(|n| of(&mut rig, Some(n))).collect();
    assert!((0u16..).zip(&each).all(|(n, found)| !found.is_empty() && found.iter().all(|s| s.worker == n)));
    assert_eq!(each.iter().map(Vec::len).sum::<usize>(), of(&mut rig, None).len());
    assert!(of(&mut rig, Some(3)).is_empty());
}

#[test]
fn status_counts_sessions_services_and_polls() {
    let mut rig = busy(&Options::default(), 10);
    let Response::Status(status) = rig.store.handle(Request::Status, Access::ReadOnly) else { panic!() };
    assert_eq!((status.services, status.servers), (2, 2));
    assert_eq!(status.generation, rig.store.generation());
    let worker = status.workers[0];
    assert_eq!((worker.sessions, worker.received), (20, 20));
    assert!(worker.polls > worker.busy_polls && worker.busy_polls >= 20);
}

fn weight(store: &mut Store<FakePlane>, service: ServiceKey) -> u32 {
    let query = ListQuery { service: Some(service), from: None, max: 10 };
    let Response::Rows { rows, .. } = store.handle(Request::List(query), Access::ReadOnly) else { panic!() };
    let Some(Row::Server(row)) = rows.last() else { panic!() };
    row.server.weight
}

#[test]
fn draining_remembers_the_weight() {
    let mut store = Store::new(FakePlane::default());
    let service = key(Protocol::Tcp, VIP, 80);
    let (address, port) = ([10, 0, 0, 1].into(), 8080);
    let one = |weight| server([10, 0, 0, 1], 8080, Forwarding::FullNat, weight);
    let change =
        |store: &mut Store<_>, change: Change| store.apply(&change.into()).map_err(|r| r.to_string());
    let drain = || Change::Drain { service, address, port };
    let undrain = |weight| Change::Undrain { service, address, port, weight };
    assert_eq!(change(&mut store, drain()), Err("no such service".into()));
    change(&mut store, Change::AddService(rig_service(service))).unwrap();
    assert_eq!(change(&mut store, drain()), Err("no such real server".into()));
    change(&mut store, Change::AddServer { service, server: one(7) }).unwrap();
    let why = "invalid operation: the server isn't drained: its weight is 7";
    assert_eq!(change(&mut store, undrain(None)), Err(why.into()));
    let generation = change(&mut store, drain()).unwrap();
    assert_eq!(weight(&mut store, service), 0);
    assert_eq!(change(&mut store, drain()), Ok(generation), "again: nothing changes");
    change(&mut store, undrain(None)).unwrap();
    assert_eq!(weight(&mut store, service), 7);
    // A weight given by hand meanwhile is what counts, and a refused batch leaves the memory alone.
    change(&mut store, drain()).unwrap();
    let bad = Batch {
        changes: vec![undrain(None), Change::DeleteService(key(Protocol::Udp, VIP, 1))],
        expect_generation: None,
    };
    assert!(store.apply(&bad).is_err());
    assert_eq!(weight(&mut store, service), 0);
    change(&mut store, undrain(None)).unwrap();
    assert_eq!(weight(&mut store, service), 7);
    change(&mut store, drain()).unwrap();
    change(&mut store, Change::EditServer { service, server: one(3) }).unwrap();
    assert!(change(&mut store, undrain(None)).is_err());
    change(&mut store, undrain(Some(9))).unwrap();
    assert_eq!(weight(&mut store, service), 9);
}

fn rig_service(key: ServiceKey) -> weirctl::model::Service {
    weirctl::model::Service {
        key,
        scheduler: "rr".into(),
        scheduler_flags: 0,
        persistent: None,
        netmask: u32::MAX,
        one_packet: false,
        engine: None,
    }
}

struct Gateway {
    store: Arc<Mutex<Store<FakePlane>>>,
    server: Server,
}

fn gateway(name: &str) -> Gateway {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("questions-{}-{name}", std::process::id()));
    let store = Arc::new(Mutex::new(Store::new(FakePlane::default())));
    let server = Server::start(&folder.join("s"), store.clone(), Limits::default()).unwrap();
    Gateway { store, server }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let folder = self.server.path().parent().unwrap().to_owned();
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn subscribers_are_told_of_changes_and_ticks() {
    let gateway = gateway("news");
    let mut news = Client::connect(gateway.server.path()).unwrap().subscribe().unwrap();
    assert_eq!(news.wait().unwrap(), Notice::default());
    let reader = thread::spawn(move || (news.wait().unwrap(), news));
    gateway.store.lock().apply(&Change::AddService(rig_service(key(Protocol::Tcp, VIP, 80))).into()).unwrap();
    let (first, mut news) = reader.join().unwrap();
    assert_eq!(first, Notice { generation: 1, tick: 0 });
    for tick in [0, 100, 200] {
        gateway.store.lock().tick(weir::clock::Tick(tick));
    }
    assert_eq!(news.wait().unwrap(), Notice { generation: 1, tick: 1 });
    drop(news);
}

#[test]
fn a_subscriber_that_hangs_up_frees_its_place_and_one_that_talks_is_cut_off() {
    let gateway = gateway("gone");
    let news = Client::connect(gateway.server.path()).unwrap().subscribe().unwrap();
    let mut stream = news.closer().unwrap();
    std::io::Write::write_all(&mut stream, &[0]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut sink = Vec::new();
    // Closed with an unread byte in it, the connection is reset.
    let _ = std::io::Read::read_to_end(&mut stream, &mut sink);
    assert!(std::io::Write::write_all(&mut stream, &[0; 4]).is_err());
}

#[test]
fn transactions_larger_than_a_frame() {
    let gateway = gateway("stage");
    let mut client = Client::connect(gateway.server.path()).unwrap();
    let add = |n: u16| Change::AddService(rig_service(key(Protocol::Tcp, VIP, n)));
    let all: Vec<Change> = (1..=10_000).map(add).collect();
    let (staged, rest) = all.split_at(2 * MAX_BATCH);
    for part in staged.chunks(MAX_BATCH) {
        assert!(matches!(client.call(Request::Stage(part.to_vec())), Ok(Response::Staged { .. })));
    }
    // Another connection's batch isn't mixed with it.
    let mut other = Client::connect(gateway.server.path()).unwrap();
    other.call(Request::Apply(add(20_000).into())).unwrap();
    let commit = |changes: Vec<Change>| Request::Apply(Batch { changes, expect_generation: Some(1) });
    assert_eq!(client.call(commit(rest.to_vec())).unwrap(), Response::Done { generation: 2 });
    let Response::Status(status) = client.call(Request::Status).unwrap() else { panic!() };
    assert_eq!(status.services, 10_001);
    // All or nothing: the last of these exists already.
    let more: Vec<Change> = (10_001..=10_100).map(add).collect();
    client.call(Request::Stage(more)).unwrap();
    let refused =
        client.call(Request::Apply(Batch { changes: vec![add(1)], expect_generation: None })).unwrap();
    let Response::Refused(refusal) = refused else { panic!("{refused:?}") };
    assert_eq!((refusal.code, refusal.change), (ErrorCode::ServiceExists, Some(100)));
    assert_eq!(gateway.store.lock().generation(), 2);
}
