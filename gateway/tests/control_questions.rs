//! What control asks of the running path and tells its peers: certain sessions, loads, news; and transactions
//! larger than a frame.

mod fake;
mod rig;

use std::{
    net::{IpAddr, Ipv4Addr},
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use fake::FakePlane;
use parking_lot::Mutex;
use rig::{
    LAN, Options, Rig, WAN,
    frames::{self, Endpoint, Tcp},
    key, server,
};
use weir::{
    control::{
        plane::AddressKind,
        server::{ConnectionLimits, ControlServer},
        store::Store,
        workers::{self, Workers},
    },
    path::{ControlEnd, verdict::PathCounters},
};
use weir_api::{
    client::{Client, Transport},
    model::{
        Forwarding, FoundSession, Network, Protocol, ServiceKey, SessionFilter, SessionState,
        explain::Question, status::Notice, trace::TraceFilter,
    },
    protocol::{
        Access, Batch, Change, ErrorCode, ListQuery, MAX_BATCH, Refusal, Request, Response, Row, frame,
        handshake::Hello,
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

fn rig_service(key: ServiceKey) -> weir_api::model::Service {
    weir_api::model::Service {
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
    server: ControlServer,
}

fn gateway(name: &str) -> Gateway {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("questions-{}-{name}", std::process::id()));
    let store = Arc::new(Mutex::new(Store::new(FakePlane::default())));
    let server = ControlServer::start(&folder.join("s"), store.clone(), ConnectionLimits::default()).unwrap();
    Gateway { store, server }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let folder = self.server.path().parent().unwrap().to_owned();
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn subscribers_are_notified_of_changes_and_ticks() {
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

/// A gateway on a socket whose workers are the first ones of `answering`; the others never answer.
struct Hanging {
    store: Arc<Mutex<Store<Workers>>>,
    server: ControlServer,
    /// Dropped, a worker has ended.
    silent: Vec<ControlEnd>,
}

/// How long these tests' workers may take.
const SHORT: Duration = Duration::from_millis(300);

impl Hanging {
    /// So many workers that do nothing at all.
    fn new(name: &str, workers: usize) -> Self {
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hanging-{}-{name}", std::process::id()));
        let pairs = (0..workers).map(|_| workers::connect(Arc::new(PathCounters::new().unwrap())));
        let (links, silent) = pairs.unzip();
        let wait = Box::new(|| thread::sleep(Duration::from_micros(50)));
        let plane = Workers::new(links, vec!["wan".into()], wait, Box::new(|_| AddressKind::Other));
        let store = Arc::new(Mutex::new(Store::new(plane.with_patience(SHORT))));
        let server =
            ControlServer::start(&folder.join("s"), store.clone(), ConnectionLimits::default()).unwrap();
        Self { store, server, silent }
    }

    fn client(&self) -> Client {
        Client::connect(self.server.path()).unwrap()
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        std::fs::remove_dir_all(self.server.path().parent().unwrap()).unwrap();
    }
}

/// Every request that workers answer.
fn questions() -> Vec<Request> {
    let filter = SessionFilter { service: Some(key(Protocol::Tcp, VIP, 80)), ..SessionFilter::default() };
    vec![
        Request::Sessions { from: None, max: 10 },
        Request::FindSessions { filter, from: None, max: 10 },
        Request::KillSessions { filter, from: None },
        Request::Explain(Question {
            protocol: Protocol::Tcp,
            source: ([10, 1, 0, 1].into(), 40_000),
            destination: (VIP.into(), 80),
            port: None,
            opens: true,
        }),
        Request::Trace(TraceFilter::default()),
        Request::SessionLog { filter, from: None, max: 10 },
    ]
}

fn refusal(response: Response) -> Refusal {
    match response {
        Response::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_worker_that_does_not_answer_is_named_and_blocks_nothing() {
    let gateway = Hanging::new("silent", 2);
    gateway.store.lock().apply(&Change::AddService(rig_service(key(Protocol::Tcp, VIP, 80))).into()).unwrap();
    for question in questions() {
        let mut client = gateway.client();
        let asked = question.clone();
        let waiting = thread::spawn(move || (client.call(asked).unwrap(), Instant::now()));
        // Whatever needs no worker is answered meanwhile.
        let mut other = gateway.client();
        let started = Instant::now();
        while started.elapsed() < SHORT / 2 {
            let before = Instant::now();
            assert!(matches!(other.call(Request::Status), Ok(Response::Status(_))));
            let zero = Request::Apply(Change::Zero(None).into());
            assert!(matches!(other.call(zero), Ok(Response::Done { .. })));
            assert!(gateway.store.try_lock_for(SHORT / 4).is_some(), "{question:?} holds the store");
            assert!(before.elapsed() < SHORT, "{question:?} holds others up");
        }
        let (response, answered) = waiting.join().unwrap();
        assert!(answered >= started + SHORT / 2, "{question:?} was answered by somebody");
        let refusal = refusal(response);
        assert_eq!(refusal.code, ErrorCode::TimedOut, "{question:?}");
        assert_eq!(refusal.to_string(), "timed out: worker 0 has not answered for 0.3 s", "{question:?}");
    }
    // A trace that didn't begin is none: another may.
    assert_eq!(refusal(gateway.client().call(questions().remove(4)).unwrap()).code, ErrorCode::TimedOut);
}

#[test]
fn a_time_out_is_said_in_words_that_an_older_client_knows() {
    let gateway = Hanging::new("old", 1);
    let mut stream = UnixStream::connect(gateway.server.path()).unwrap();
    frame::send_body(&mut stream, &Hello { oldest: 1, newest: 7 }.to_bytes()).unwrap();
    frame::read(&mut stream).unwrap();
    frame::send(&mut stream, &Request::Sessions { from: None, max: 10 }).unwrap();
    let refusal = refusal(frame::receive(&mut stream).unwrap());
    assert_eq!(refusal.code, ErrorCode::Unsupported);
    assert!(refusal.detail.starts_with("timed out: worker 0"), "{refusal}");
}

#[test]
fn gone_and_slow_have_different_errors() {
    let mut gateway = Hanging::new("gone", 2);
    let ask = |gateway: &Hanging, request: Request| refusal(gateway.client().call(request).unwrap());
    let none = ask(&gateway, Request::Traced { trace: 7 });
    assert_eq!(none.to_string(), "not there: trace 7 no longer exists");
    let filter = SessionFilter { worker: Some(2), ..SessionFilter::default() };
    let none = ask(&gateway, Request::FindSessions { filter, from: None, max: 10 });
    assert_eq!(none.to_string(), "not there: there is no worker 2: the last is 1");
    gateway.silent.clear();
    let started = Instant::now();
    for question in questions()
        .into_iter()
        .filter(|q| !matches!(q, Request::FindSessions { .. } | Request::KillSessions { .. }))
    {
        let ended = ask(&gateway, question);
        assert_eq!(ended.to_string(), "not there: worker 0 has ended");
    }
    assert!(started.elapsed() < SHORT, "workers that have ended were waited for");
}

#[test]
fn results_come_before_the_error_of_another_worker() {
    let mut rig = busy(&Options { workers: 2, patience: SHORT, ..Options::default() }, 64);
    let all = find(&mut rig, SessionFilter::default());
    let of_first = all.iter().filter(|found| found.session.worker == 0).count();
    assert!(of_first > 0 && of_first < all.len());
    rig.hang(1);
    let find = Request::FindSessions { filter: SessionFilter::default(), from: None, max: 1000 };
    for first in [find, Request::Sessions { from: None, max: 1000 }] {
        let (found, next) = match rig.store.handle(first.clone(), Access::ReadOnly) {
            Response::Found { sessions, next } => (sessions.len(), next),
            Response::Sessions { sessions, next } => (sessions.len(), next),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, of_first);
        assert!(next.is_some(), "the list ends before the worker that hangs");
        let rest = match first {
            Request::Sessions { max, .. } => Request::Sessions { from: next, max },
            _ => Request::FindSessions { filter: SessionFilter::default(), from: next, max: 1000 },
        };
        let error = refusal(rig.store.handle(rest, Access::ReadOnly));
        assert_eq!(error.to_string(), "timed out: worker 1 has not answered for 0.3 s");
    }
    // What has been ended is said, too.
    let filter = SessionFilter::default();
    let killed = rig.store.handle(Request::KillSessions { filter, from: None }, Access::ReadWrite);
    assert!(
        matches!(killed, Response::Killed { sessions, next: Some(_) } if sessions as usize == of_first),
        "{killed:?}"
    );
}

fn warnings(rig: &mut Rig) -> Vec<String> {
    match rig.store.handle(Request::Status, Access::ReadOnly) {
        Response::Status(status) => status.warnings,
        other => panic!("{other:?}"),
    }
}

#[test]
fn status_warns_of_half_open_sessions_and_nearly_full_tables() {
    let mut rig = busy(&Options { max_sessions: 100, ..Options::default() }, 0);
    assert_eq!(warnings(&mut rig), [""; 0]);
    let send = |rig: &mut Rig, n: u8, flags| {
        let tcp = Tcp { flags, seq: if flags == "S" { 1 } else { 2 }, ack: 9 };
        rig.send(WAN, &frames::tcp(WAN, (Ipv4Addr::from([10, 1, 0, n]), 40_000), vip(80), tcp, &[]));
    };
    let answer = |rig: &mut Rig, n: u8| {
        let client = SessionFilter {
            client: Some(Network { address: [10, 1, 0, n].into(), bits: 32 }),
            ..SessionFilter::default()
        };
        let local = find(rig, client)[0].session.local;
        let IpAddr::V4(address) = local.0 else { panic!("IPv6") };
        let tcp = Tcp { flags: "SA", seq: 8, ack: 2 };
        let server = (Ipv4Addr::from([10, 0, 0, 1]), 8080);
        rig.send(LAN, &frames::tcp(LAN, server, (address, local.1), tcp, &[]));
        send(rig, n, "A");
    };
    (0..80).for_each(|n| send(&mut rig, n, "S"));
    (0..40).for_each(|n| answer(&mut rig, n));
    rig.advance(1.0);
    assert_eq!(warnings(&mut rig), [""; 0], "half of them, and four fifths of the room");
    send(&mut rig, 80, "S");
    rig.advance(1.0);
    let both = warnings(&mut rig);
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(both[0].ends_with(": worker 0 has 81 of 100"), "{both:?}");
    assert!(both[1].starts_with("half-open sessions above 50 %: 50 % of 81 "), "{both:?}");
}

#[test]
fn status_warns_of_local_addresses_that_are_missing_or_nearly_used_up() {
    let mut rig = Rig::with(&Options { ports: (2000, 2009), ..Options::default() });
    rig.add_service(Protocol::Tcp, VIP, 80, "rr", true);
    rig.add_service(Protocol::Tcp, VIP, 81, "rr", false);
    let nat = server([10, 0, 0, 2], 8080, Forwarding::Nat, 1);
    rig.add_server(key(Protocol::Tcp, VIP, 81), nat);
    assert_eq!(warnings(&mut rig), [""; 0]);
    for (n, port) in [(1, 80), (3, 81)] {
        rig.add_server(key(Protocol::Tcp, VIP, port), server([10, 0, 0, n], 8080, Forwarding::FullNat, 1));
    }
    let missing = warnings(&mut rig);
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(missing[0].ends_with(": tcp/192.0.2.10:81"), "{missing:?}");
    rig.change(Change::DeleteService(key(Protocol::Tcp, VIP, 81)));
    // One port a local address and client, so that each of them gets its share.
    let mut open = 0;
    while warnings(&mut rig).iter().all(|w| !w.starts_with("local ports")) {
        assert!(open < 200, "no warning ever");
        let client = (Ipv4Addr::from([10, 1, 0, open]), 40_000);
        let syn = Tcp { flags: "S", seq: 1, ack: 0 };
        rig.send(WAN, &frames::tcp(WAN, client, vip(80), syn, &[]));
        open += 1;
    }
    let told = warnings(&mut rig);
    assert!(told[0].contains(" has 9 of 10 in use"), "{told:?}");
}

#[test]
fn marks_that_no_rule_sets_are_logged_once_and_in_the_status() {
    let mut rig = Rig::new();
    let restore = |rig: &mut Rig, rules: &str| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let args: [std::ffi::OsString; 2] = ["weirctl", "-R"].map(Into::into);
        let environment =
            weirctl::ipvsadm::Environment { names: &weir_api::ipvsadm::names::SystemNames, own: true };
        let status =
            weirctl::ipvsadm::ipvsadm(&args, &mut rules.as_bytes(), rig, &mut out, &mut err, &environment);
        assert_eq!(status, 0, "the rules are taken");
        String::from_utf8(err).unwrap()
    };
    let told = restore(
        &mut rig,
        "-A -f 7 -s rr\n-a -f 7 -r 10.0.0.1 -g\n-A -f 8 -s rr\n-A -f 8 -6 -s rr\n-A -f 9 -s rr\n\
         mark add 9 --protocol tcp\n",
    );
    assert_eq!(told.lines().filter(|line| line.contains("no rule sets")).count(), 1, "{told}");
    assert!(told.contains("no rule sets mark 7, 8 (weirctl mark add)"), "{told}");
    let missing = warnings(&mut rig);
    assert!(missing[0].starts_with("services whose mark no rule sets") && missing[0].ends_with(": 7, 8"));
    let told = restore(&mut rig, "mark add 7 --protocol udp\nmark add 8 --protocol udp\n");
    assert!(!told.contains("no rule sets"), "{told}");
    assert_eq!(warnings(&mut rig), [""; 0]);
}
