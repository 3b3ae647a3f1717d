//! A gateway that answers by the protocol and forwards nothing: it can have as many servers as a test likes, and
//! stop answering.

use std::{
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use weir_api::{
    model::{
        Forwarding, MasqueradeSettings, PathCounter, Protocol, Rates, Server, Service, ServiceKey, Stats,
        Timeouts,
        event::EventPage,
        status::{LocalAddressUse, PortStatus, Status, WorkerStatus},
    },
    protocol::{
        Access, Info, ListCursor, Request, Response, Row, ServerRow, ServiceRow, VERSION, frame,
        handshake::{Hello, HelloAnswer},
    },
};

/// What it says.
#[derive(Debug, Default)]
struct State {
    services: u32,
    servers: u32,
    polls: AtomicUsize,
    hangs: AtomicBool,
    stopped: AtomicBool,
    connections: AtomicUsize,
    /// Most connections there have been at a time.
    most: AtomicUsize,
}

/// A gateway at a socket of its own, which goes with it.
#[derive(Debug)]
pub struct Fake {
    pub socket: PathBuf,
    state: Arc<State>,
}

impl Fake {
    /// With so many services of so many servers each.
    pub fn start(name: &str, services: u32, servers: u32) -> Self {
        let socket = std::env::temp_dir().join(format!("weirctl-serve-{name}-{}", std::process::id()));
        let state = Arc::new(State { services, servers, ..State::default() });
        let fake = Self { socket, state };
        fake.listen();
        fake
    }

    fn listen(&self) {
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).expect("a socket");
        let state = self.state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.expect("a connection"), state.clone());
                thread::spawn(move || {
                    let now = state.connections.fetch_add(1, SeqCst) + 1;
                    state.most.fetch_max(now, SeqCst);
                    let _ = talk(stream, &state);
                    state.connections.fetch_sub(1, SeqCst);
                });
            }
        });
    }

    /// From now on it takes connections and says nothing, as a process does that is stopped; or goes on.
    pub fn stop(&self, stopped: bool) {
        self.state.stopped.store(stopped, SeqCst);
    }

    /// From now on its second worker doesn't poll.
    pub fn hang(&self) {
        self.state.hangs.store(true, SeqCst);
    }

    /// Most connections there have been at a time.
    pub fn most_connections(&self) -> usize {
        self.state.most.load(SeqCst)
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn talk(mut stream: UnixStream, state: &State) -> Result<(), frame::FrameError> {
    let wait = || {
        while state.stopped.load(SeqCst) {
            thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    wait();
    let hello = frame::read(&mut stream)?;
    assert!(Hello::from_bytes(&hello).is_ok());
    let answer =
        HelloAnswer::Accepted { version: VERSION, access: Access::ReadOnly, gateway: "0.1.0".into() };
    frame::send_body(&mut stream, &answer.to_bytes())?;
    loop {
        let request = frame::receive(&mut stream)?;
        wait();
        frame::send(&mut stream, &state.answer(request))?;
    }
}

impl State {
    fn answer(&self, request: Request) -> Response {
        match request {
            Request::Status => Response::Status(self.status()),
            Request::Counters => Response::Counters(counters()),
            Request::List(query) => self.rows(query.from, query.max),
            Request::Snat => Response::Snat(Vec::new()),
            Request::Marks => Response::Marks(Vec::new()),
            Request::Masquerade => Response::Masquerade(MasqueradeSettings::default()),
            Request::DefaultLocalAddresses => Response::DefaultLocalAddresses(Vec::new()),
            Request::ClientAddresses => Response::ClientAddresses(Vec::new()),
            Request::Timeouts => Response::Timeouts(Timeouts { tcp: 900, tcp_fin: 120, udp: 300 }),
            Request::Info => Response::Info(Info { version: "0.1.0".into(), generation: 7 }),
            Request::Events { from, .. } => {
                Response::Events(EventPage { started: 1, events: Vec::new(), next: from.max(1) })
            }
            Request::FindSessions { .. } => Response::Found { sessions: Vec::new(), next: None },
            other => panic!("{other:?} was asked"),
        }
    }

    fn status(&self) -> Status {
        let polls = self.polls.fetch_add(1, SeqCst) as u64;
        let worker = |polls| WorkerStatus {
            polls,
            busy_polls: polls / 2,
            received: polls,
            sessions: 5,
            max_sessions: 1000,
        };
        let second = if self.hangs.load(SeqCst) { 0 } else { polls };
        let port = PortStatus {
            name: "wan\"\\\n".into(),
            device: "net_null0".into(),
            up: true,
            mtu: 1500,
            ..PortStatus::default()
        };
        Status {
            version: "0.1.0".into(),
            generation: 7,
            uptime: 60_000 + polls,
            services: self.services,
            servers: self.services * self.servers,
            ports: vec![port],
            workers: vec![worker(polls), worker(second)],
            local_addresses: vec![LocalAddressUse {
                address: [10, 10, 0, 200].into(),
                used: 90,
                busiest: 60,
                ports: 100,
            }],
            warnings: vec!["something <b>isn't</b> well".into()],
        }
    }

    /// Cursors are the numbers of a service and of one of its servers.
    fn rows(&self, from: Option<ListCursor>, max: u32) -> Response {
        let (mut service, mut server) = match from {
            None => (0, None),
            Some(cursor) => (cursor.service as u32, cursor.server.map(|n| n as u32)),
        };
        let mut rows = Vec::new();
        while service < self.services && rows.len() < max as usize {
            match server {
                None => {
                    rows.push(Row::Service(service_row(service)));
                    server = Some(0);
                }
                Some(n) if n < self.servers => {
                    rows.push(Row::Server(server_row(service, n)));
                    server = Some(n + 1);
                }
                Some(_) => (service, server) = (service + 1, None),
            }
        }
        let next = ListCursor { service: service.into(), server: server.map(Into::into) };
        Response::Rows { rows, next: (service < self.services).then_some(next) }
    }
}

fn counters() -> Vec<PathCounter> {
    let counter = |name: &str, advice: Option<&str>, n| PathCounter {
        name: name.into(),
        advice: advice.map(Into::into),
        workers: vec![n, n],
    };
    vec![
        counter("forwarded", None, 1000),
        counter("punted", None, 5),
        counter("handed-over", None, 7),
        counter("no-server", Some("The service has no server with weight above 0: add one."), 3),
        counter("no-route", Some("No route leads to the destination."), 0),
        counter("sessions-opened", None, 20),
        counter("polls", None, 20),
    ]
}

fn stats(n: u64) -> Stats {
    Stats { connections: n, in_packets: 10 * n, out_packets: 9 * n, in_bytes: 1000 * n, out_bytes: 9000 * n }
}

fn service_row(n: u32) -> ServiceRow {
    let address = (0xc612_0000 + n / 100).to_be_bytes().into();
    let key = ServiceKey::Address { protocol: Protocol::Tcp, address, port: 80 + (n % 100) as u16 };
    let service = Service {
        key,
        scheduler: "wlc".into(),
        scheduler_flags: 0,
        persistent: None,
        netmask: u32::MAX,
        one_packet: false,
        engine: None,
    };
    let rates = Rates {
        connections: 3,
        in_packets: 400 + u64::from(n),
        out_packets: 300,
        in_bytes: 50_000,
        out_bytes: 900_000,
    };
    ServiceRow { service, local_addresses: Vec::new(), stats: stats(30), rates }
}

fn server_row(service: u32, n: u32) -> ServerRow {
    let server = Server {
        address: (0x0a14_0001 + n).to_be_bytes().into(),
        port: 8080,
        forwarding: Forwarding::FullNat,
        weight: if service % 7 == 3 && n == 0 { 0 } else { 1 },
        upper: 0,
        lower: 0,
    };
    ServerRow { server, active: 4, inactive: 2, persistent: 0, stats: stats(3), rates: Rates::default() }
}
