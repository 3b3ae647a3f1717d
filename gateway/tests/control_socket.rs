//! The control socket against peers that are broken, hostile, slow or many.

mod fake;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use fake::FakePlane;
use parking_lot::Mutex;
use proptest::prelude::*;
use weir::control::{
    server::{ClaimedSocket, ConnectionLimits, ControlServer, ServerError, SocketPermissions},
    store::Store,
};
use weir_api::{
    client::{Client, ClientError, Transport},
    ipvsadm::{
        names::{Resolve, SystemNames},
        parse_line,
    },
    model::{
        Forwarding, Protocol, Server as RealServer, Service, ServiceKey, explain::Question,
        status::PortStatus,
    },
    protocol::{
        Batch, Change, ErrorCode, ListQuery, MAX_PAGE, Request, Response, Row, VERSION, frame,
        handshake::{Hello, HelloAnswer},
        older,
    },
};
use weirctl::ipvsadm::{Environment, ipvsadm};

/// A gateway's control side on a socket of its own.
struct Gateway {
    server: Option<ControlServer>,
    store: Arc<Mutex<Store<FakePlane>>>,
    folder: PathBuf,
}

impl Gateway {
    fn start(limits: ConnectionLimits) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("control-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let store = Arc::new(Mutex::new(Store::new(FakePlane::default())));
        let permissions = SocketPermissions::default();
        let claim = ClaimedSocket::new(&folder.join("s"), permissions).unwrap();
        let claim = claim.and_reading(&folder.join("r"), permissions).unwrap();
        let server = claim.serve(store.clone(), limits).unwrap();
        Self { server: Some(server), store, folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("s")
    }

    fn client(&self) -> Client {
        Client::connect(&self.path()).unwrap()
    }

    /// A stream that has shaken hands.
    fn raw(&self) -> UnixStream {
        self.raw_of(Hello::OURS.newest)
    }

    /// The same, of a client that speaks no version after this one.
    fn raw_of(&self, newest: u16) -> UnixStream {
        let mut stream = UnixStream::connect(self.path()).unwrap();
        frame::send_body(&mut stream, &Hello { newest, ..Hello::OURS }.to_bytes()).unwrap();
        frame::read(&mut stream).unwrap();
        stream
    }

    fn services(&self) -> usize {
        let Response::Rows { rows, .. } = self.client().call(list(None)).unwrap() else { panic!("no rows") };
        rows.len()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.server.take());
        let left = std::fs::read_dir(&self.folder).unwrap().count();
        std::fs::remove_dir_all(&self.folder).unwrap();
        assert_eq!(left, 0, "files left behind");
    }
}

/// Not even whoever may change everything by the other socket.
#[test]
fn nobody_changes_anything_by_the_socket_for_reading() {
    let gateway = Gateway::start(ConnectionLimits::default());
    let mut reader = Client::connect(&gateway.folder.join("r")).unwrap();
    assert!(matches!(reader.call(Request::Info).unwrap(), Response::Info(_)));
    for request in [Request::Apply(add(80).into()), Request::Stage(vec![add(80)])] {
        let Response::Refused(refusal) = reader.call(request).unwrap() else { panic!("it was carried out") };
        assert_eq!(refusal.code, ErrorCode::ReadOnly);
        assert!(refusal.detail.contains("read_socket"), "{refusal}");
    }
    assert_eq!(gateway.services(), 0);
    let done = gateway.client().call(Request::Apply(add(80).into())).unwrap();
    assert_eq!(done, Response::Done { generation: 1 });
    let Response::Rows { rows, .. } = reader.call(list(None)).unwrap() else { panic!("no rows") };
    assert_eq!(rows.len(), 1);
}

/// A second gateway is kept out by the second socket, too, and leaves the first one's alone.
#[test]
fn the_socket_for_reading_has_one_gateway() {
    let gateway = Gateway::start(ConnectionLimits::default());
    let claim = ClaimedSocket::new(&gateway.folder.join("other"), SocketPermissions::default()).unwrap();
    let refused = claim.and_reading(&gateway.folder.join("r"), SocketPermissions::default());
    assert!(matches!(refused, Err(ServerError::InUse(_))), "{refused:?}");
    assert!(!gateway.folder.join("other").exists() && gateway.folder.join("r").exists());
}

fn list(service: Option<ServiceKey>) -> Request {
    Request::List(ListQuery { service, from: None, max: MAX_PAGE })
}

fn key(port: u16) -> ServiceKey {
    ServiceKey::Address { protocol: Protocol::Tcp, address: [192, 0, 2, 10].into(), port }
}

fn add(port: u16) -> Change {
    Change::AddService(Service {
        key: key(port),
        scheduler: "rr".into(),
        scheduler_flags: 0,
        persistent: None,
        netmask: u32::MAX,
        one_packet: false,
        engine: None,
    })
}

fn quick() -> ConnectionLimits {
    let short = Duration::from_millis(300);
    ConnectionLimits {
        hello: short,
        frame: short,
        idle: Duration::from_secs(5),
        ..ConnectionLimits::default()
    }
}

/// Reads until the gateway closes the connection; how long that took.
fn closed_after(mut stream: UnixStream) -> Duration {
    let start = Instant::now();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut sink = [0; 4096];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return start.elapsed(),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return start.elapsed(),
            Err(e) => panic!("not closed: {e}"),
        }
    }
}

#[test]
fn one_gateway_a_socket() {
    let gateway = Gateway::start(ConnectionLimits::default());
    let second = ControlServer::start(&gateway.path(), gateway.store.clone(), ConnectionLimits::default());
    assert!(matches!(second, Err(ServerError::InUse(_))));
    assert_eq!(gateway.services(), 0, "the first one goes on");
}

#[test]
fn closing_ends_connections_and_removes_the_file() {
    let mut gateway = Gateway::start(ConnectionLimits::default());
    let mut client = gateway.client();
    assert!(client.call(Request::Info).is_ok());
    drop(gateway.server.take());
    assert!(client.call(Request::Info).is_err());
    assert!(matches!(Client::connect(&gateway.path()), Err(ClientError::Connect { .. })));
}

#[test]
fn strangers_and_other_versions_get_a_clear_answer() {
    let gateway = Gateway::start(quick());
    let mut http = UnixStream::connect(gateway.path()).unwrap();
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(closed_after(http) < Duration::from_secs(2));
    let mut newer = UnixStream::connect(gateway.path()).unwrap();
    frame::send_body(&mut newer, &Hello { oldest: 900, newest: 901 }.to_bytes()).unwrap();
    let answer = HelloAnswer::from_bytes(&frame::read(&mut newer).unwrap()).unwrap();
    assert_eq!(
        answer,
        HelloAnswer::NoCommonVersion { oldest: Hello::OURS.oldest, newest: Hello::OURS.newest }
    );
}

#[test]
fn older_clients_read_the_status_and_get_clear_refusals() {
    let gateway = Gateway::start(quick());
    gateway.store.lock().plane_mut().ports = vec![PortStatus {
        name: "wan".into(),
        faults: vec!["the link is down".into()],
        ..PortStatus::default()
    }];
    for version in 2..=VERSION {
        let mut stream = gateway.raw_of(version);
        frame::send(&mut stream, &Request::Status).unwrap();
        let body = frame::read(&mut stream).unwrap();
        let Response::Status(status) = older::decode(&body, version).unwrap() else { panic!("no status") };
        assert_eq!(status.ports[0].faults.len(), usize::from(version >= 7), "version {version}");
    }
    let question = Question {
        protocol: Protocol::Tcp,
        source: ([10, 0, 0, 1].into(), 1),
        destination: ([192, 0, 2, 10].into(), 80),
        port: None,
        opens: true,
    };
    // Each by itself, and two that come together.
    let too_new = [
        (7, vec![Request::Explain(question)], "needs version 8"),
        (6, vec![Request::Snat], "needs version 7"),
        (5, vec![Request::Stage(vec![Change::ClearSnat])], "needs version 6"),
        (
            1,
            vec![Request::Apply(Change::ClearMarks.into()), Request::Apply(Change::ClearMarks.into())],
            "needs version 2",
        ),
    ];
    for (version, requests, expected) in too_new {
        let mut stream = gateway.raw_of(version);
        let frames: Vec<u8> = requests.iter().flat_map(|r| frame::encode(r).unwrap()).collect();
        stream.write_all(&frames).unwrap();
        for request in &requests {
            let Ok(Response::Refused(refusal)) = frame::receive(&mut stream) else { panic!("{request:?}") };
            assert_eq!(refusal.code, ErrorCode::Unsupported);
            assert!(refusal.detail.contains(expected), "{refusal}");
            assert!(refusal.detail.contains(&format!("this client speaks version {version},")), "{refusal}");
        }
    }
}

#[test]
fn silence_and_trickles_are_cut_off() {
    let gateway = Gateway::start(quick());
    let silent = UnixStream::connect(gateway.path()).unwrap();
    assert!(closed_after(silent) >= Duration::from_millis(200));
    let mut trickle = gateway.raw();
    let frame = frame::encode(&Request::Apply(add(80).into())).unwrap();
    let start = Instant::now();
    let cut = frame.iter().cycle().take(100).any(|byte| {
        thread::park_timeout(Duration::from_millis(50));
        trickle.write_all(std::slice::from_ref(byte)).is_err()
    });
    assert!(cut && start.elapsed() < Duration::from_secs(5));
    assert_eq!(gateway.services(), 0);
}

#[test]
fn giant_and_truncated_frames_change_nothing() {
    let gateway = Gateway::start(quick());
    let mut giant = gateway.raw();
    giant.write_all(&u32::MAX.to_le_bytes()).unwrap();
    assert!(closed_after(giant) < Duration::from_secs(2));
    let frame = frame::encode(&Request::Apply(add(80).into())).unwrap();
    for cut in 1..frame.len() {
        let mut stream = gateway.raw();
        stream.write_all(&frame[..cut]).unwrap();
    }
    assert_eq!(gateway.services(), 0);
}

#[test]
fn a_client_killed_in_mid_batch_leaves_nothing_half_done() {
    let gateway = Gateway::start(quick());
    let batch = Batch { changes: (1..=1000).map(add).collect(), expect_generation: None };
    let frame = frame::encode(&Request::Apply(batch)).unwrap();
    let mut stream = gateway.raw();
    stream.write_all(&frame[..frame.len() - 1]).unwrap();
    drop(stream);
    assert_eq!(gateway.services(), 0);
    // Killed after the last byte: all or nothing, and the gateway goes on.
    let mut stream = gateway.raw();
    stream.write_all(&frame).unwrap();
    drop(stream);
    let start = Instant::now();
    while gateway.services() == 0 && start.elapsed() < Duration::from_secs(5) {
        thread::yield_now();
    }
    assert_eq!(gateway.services(), 1000);
}

#[test]
fn requests_that_do_not_wait_for_answers_get_each_their_own() {
    let gateway = Gateway::start(quick());
    let ports = [1, 2, 1, 3, 2, 4];
    let mut requests: Vec<Request> = ports.map(|port| Request::Apply(add(port).into())).into();
    requests.insert(3, list(None));
    let answers = gateway.client().call_all(requests).unwrap();
    let told: Vec<String> = answers
        .iter()
        .map(|answer| match answer {
            Response::Done { generation } => format!("{generation}"),
            Response::Rows { rows, .. } => format!("{} rows", rows.len()),
            Response::Refused(refusal) => format!("{:?}", refusal.code),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["1", "2", "ServiceExists", "2 rows", "3", "ServiceExists", "4"]);
}

#[test]
fn lines_of_rules_go_together_and_keep_their_messages_and_order() {
    let gateway = Gateway::start(quick());
    let mut rules = String::new();
    for port in 1..=3000 {
        rules += &format!("-A -t 192.0.2.10:{port} -s rr\n");
    }
    rules += "-A -t 192.0.2.10:7 -s rr\n-D -t 192.0.2.10:9999\n-A -t 192.0.2.10:4000\n";
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let environment = Environment { names: &SystemNames, own: false };
    let mut run = |rules: &str| {
        let args = ["ipvsadm".into(), "-R".into()];
        ipvsadm(&args, &mut rules.as_bytes(), &mut gateway.client(), &mut out, &mut err, &environment)
    };
    assert_eq!(run(&rules), 0);
    // The last line decides.
    assert_eq!(run("-A -t 192.0.2.10:4001\n-D -t 192.0.2.10:9999\n"), 255);
    // An unusable first word ends the program after the lines before it and before those behind it.
    assert_eq!(run("-A -t 192.0.2.10:4002\nbogus\n-A -t 192.0.2.10:4003\n"), 255);
    let err = String::from_utf8(err).unwrap();
    let lines: Vec<&str> = err.lines().take(3).collect();
    assert_eq!(lines, ["Service already exists", "No such service", "No such service"]);
    assert_eq!(gateway.services(), 1024, "the first page is full");
    assert_eq!(gateway.store.lock().generation(), 3003);
}

#[test]
fn a_malformed_request_is_refused_and_ends_the_connection() {
    let gateway = Gateway::start(quick());
    let mut stream = gateway.raw();
    frame::send_body(&mut stream, &[250; 40]).unwrap();
    let Ok(Response::Refused(refusal)) = frame::receive(&mut stream) else { panic!("not refused") };
    assert_eq!(refusal.code, ErrorCode::BadRequest);
    assert!(closed_after(stream) < Duration::from_secs(2));
}

#[test]
fn a_slow_reader_blocks_nobody() {
    let gateway = Gateway::start(quick());
    gateway
        .store
        .lock()
        .apply(&Batch { changes: (1..=1000).map(add).collect(), expect_generation: None })
        .unwrap();
    let mut slow = gateway.raw();
    let request = frame::encode(&list(None)).unwrap();
    // It asks and asks, and never reads.
    slow.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let flood = thread::spawn(move || while slow.write_all(&request).is_ok() {});
    let start = Instant::now();
    let mut client = gateway.client();
    for _ in 0..50 {
        assert!(matches!(client.call(list(None)), Ok(Response::Rows { .. })));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    flood.join().unwrap();
}

#[test]
fn two_hundred_clients_at_once() {
    let gateway = Gateway::start(ConnectionLimits::default());
    thread::scope(|scope| {
        for n in 0..200 {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut client = gateway.client();
                for i in 0..5 {
                    let done = client.call(Request::Apply(add(1 + n * 5 + i).into())).unwrap();
                    assert!(matches!(done, Response::Done { .. }), "{done:?}");
                }
                assert!(matches!(client.call(list(Some(key(1 + n * 5)))), Ok(Response::Rows { .. })));
            });
        }
    });
    assert_eq!(gateway.services(), 1000);
    assert_eq!(gateway.store.lock().generation(), 1000);
}

#[test]
fn too_many_clients_are_turned_away() {
    let gateway = Gateway::start(ConnectionLimits { connections: 3, ..ConnectionLimits::default() });
    let clients: Vec<Client> = (0..3).map(|_| gateway.client()).collect();
    assert!(matches!(Client::connect(&gateway.path()), Err(ClientError::Busy)));
    drop(clients);
    let start = Instant::now();
    while Client::connect(&gateway.path()).is_err() {
        assert!(start.elapsed() < Duration::from_secs(5), "no place becomes free");
    }
}

#[test]
fn a_million_sessions_are_listed_while_others_work() {
    let gateway = Gateway::start(ConnectionLimits::default());
    gateway.store.lock().plane_mut().sessions = 1_000_000;
    let lister = thread::spawn({
        let mut client = gateway.client();
        move || {
            let (mut from, mut seen) = (None, 0);
            loop {
                let answer = client.call(Request::Sessions { from, max: MAX_PAGE }).unwrap();
                let Response::Sessions { sessions, next } = answer else { panic!("no sessions") };
                seen += sessions.len();
                from = next;
                if from.is_none() {
                    return seen;
                }
            }
        }
    });
    let mut client = gateway.client();
    let mut longest = Duration::ZERO;
    for port in 1..=200 {
        let start = Instant::now();
        client.call(Request::Apply(add(port).into())).unwrap();
        longest = longest.max(start.elapsed());
    }
    assert!(longest < Duration::from_secs(1), "a change waited {longest:?}");
    assert_eq!(lister.join().unwrap(), 1_000_000);
}

#[test]
fn a_big_service_is_listed_in_pages() {
    let gateway = Gateway::start(ConnectionLimits::default());
    let server = |n: u32| RealServer {
        address: std::net::Ipv4Addr::from(0x0a00_0000 + n).into(),
        port: 80,
        forwarding: Forwarding::FullNat,
        weight: 1,
        upper: 0,
        lower: 0,
    };
    let servers = (1..=5000).map(|n| Change::AddServer { service: key(80), server: server(n) });
    let changes: Vec<Change> = [add(80)].into_iter().chain(servers).collect();
    let mut client = gateway.client();
    for part in changes.chunks(2000) {
        let batch = Batch { changes: part.to_vec(), expect_generation: None };
        assert!(matches!(client.call(Request::Apply(batch)), Ok(Response::Done { .. })));
    }
    let (mut from, mut seen) = (None, Vec::new());
    loop {
        let query = ListQuery { service: None, from, max: MAX_PAGE };
        let Response::Rows { rows, next } = client.call(Request::List(query)).unwrap() else {
            panic!("no rows")
        };
        seen.extend(
            rows.into_iter().filter_map(|r| if let Row::Server(s) = r { Some(s.server) } else { None }),
        );
        from = next;
        if from.is_none() {
            break;
        }
    }
    assert!(seen.iter().eq((1..=5000).rev().map(server).collect::<Vec<_>>().iter()));
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(body: Vec<u8>) {
        // Whether they mean something doesn't matter here.
        let _ = frame::decode::<Request>(&body);
        let _ = frame::decode::<Response>(&body);
        let _ = Hello::from_bytes(&body);
        let _ = HelloAnswer::from_bytes(&body);
    }

    #[test]
    fn no_words_make_the_parser_panic(words in prop::collection::vec("-{0,2}[A-Za-z0-9=:.,\\[\\] -]{0,12}|\\PC{0,8}", 0..8)) {
        // Hosts are left out: their names would be asked of the system.
        struct Nobody;
        impl Resolve for Nobody {
            fn host(&self, _: &str) -> Option<std::net::Ipv4Addr> {
                None
            }
            fn port(&self, service: &str, protocol: Protocol) -> Option<u16> {
                SystemNames.port(service, protocol)
            }
        }
        let _ = parse_line("ipvsadm", &words, &Nobody);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_leave_the_gateway_standing(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..4), greet: bool) {
        let gateway = Gateway::start(quick());
        let mut stream = if greet { gateway.raw() } else { UnixStream::connect(gateway.path()).unwrap() };
        for chunk in chunks {
            let framed = [&(chunk.len() as u32).to_le_bytes()[..], &chunk].concat();
            if stream.write_all(if chunk.len() % 2 == 0 { &framed } else { &chunk }).is_err() {
                break;
            }
        }
        drop(stream);
        prop_assert!(gateway.client().call(Request::Info).is_ok());
    }
}
