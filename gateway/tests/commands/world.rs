//! What a command works with, without terminal and clock.

use std::{cell::RefCell, collections::VecDeque, io, rc::Rc, time::Duration};

use clap::Parser;
use weir::control::store::Store;
use weir_api::{
    client::{ClientError, Transport},
    model::{Forwarding, Protocol, Server, Service, ServiceKey},
    protocol::{Access, Change, Request, Response},
};
use weirctl::commands::{self, Pace, Style, Wake, World, cli::Cli};

use crate::{
    fake::FakePlane,
    rig::{self, Rig},
};

/// What came of a command.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub status: u8,
    pub out: String,
    pub err: String,
}

impl Outcome {
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.status, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

/// A clock that only waiting moves, and what happens meanwhile.
pub struct Script {
    pub now: Duration,
    pub wakes: VecDeque<Wake>,
    pub meanwhile: Box<dyn FnMut(Duration)>,
}

impl Default for Script {
    fn default() -> Self {
        Self { now: Duration::ZERO, wakes: VecDeque::new(), meanwhile: Box::new(|_| {}) }
    }
}

impl Pace for Script {
    fn now(&self) -> Duration {
        self.now
    }

    fn wait(&mut self, most: Duration) -> Wake {
        self.now += most;
        (self.meanwhile)(most);
        self.wakes.pop_front().unwrap_or(Wake::Time)
    }

    fn catch_interrupts(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn follow_news(&mut self) {}
}

/// Runs a command; what clap refuses has status 2, as in the program.
pub fn run(transport: &mut dyn Transport, pace: &mut Script, line: &str, input: &str) -> Outcome {
    let words = ["weirctl"].into_iter().chain(line.split_whitespace());
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => return Outcome { status: 2, out: String::new(), err: error.to_string() },
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut world = World {
        transport,
        out: &mut out,
        err: &mut err,
        style: Style::default(),
        progress: false,
        pace,
        input: &mut input.as_bytes(),
    };
    let done = commands::run(&cli.command, &mut world);
    let mut err = String::from_utf8(err).unwrap();
    let status = done.map_or_else(
        |failure| {
            err += &format!("{failure}\n");
            failure.status()
        },
        |()| 0,
    );
    Outcome { status, out: String::from_utf8(out).unwrap(), err }
}

/// A store without packets.
pub fn store() -> Store<FakePlane> {
    Store::new(FakePlane::default())
}

/// Runs a command on a store.
pub fn on(store: &mut Store<FakePlane>, line: &str, input: &str) -> Outcome {
    run(store, &mut Script::default(), line, input)
}

/// A rig for two: whoever asks it and whoever lets its time pass.
#[derive(Clone)]
pub struct Shared(pub Rc<RefCell<Rig>>);

impl Transport for Shared {
    fn call(&mut self, request: Request) -> Result<Response, ClientError> {
        Ok(self.0.borrow_mut().store.handle(request, Access::ReadWrite))
    }
}

impl Shared {
    pub fn new(rig: Rig) -> Self {
        Self(Rc::new(RefCell::new(rig)))
    }

    /// A clock that is the rig's too.
    pub fn pace(&self) -> Script {
        let rig = self.0.clone();
        let meanwhile = Box::new(move |time: Duration| rig.borrow_mut().advance(time.as_secs_f64()));
        Script { meanwhile, ..Script::default() }
    }

    pub fn run(&self, line: &str) -> Outcome {
        run(&mut self.clone(), &mut self.pace(), line, "")
    }

    /// Runs a command and lets something happen whenever it waits.
    pub fn run_while(&self, line: &str, mut happens: impl FnMut(&mut Rig) + 'static) -> Outcome {
        let rig = self.0.clone();
        let meanwhile = Box::new(move |time: Duration| {
            rig.borrow_mut().advance(time.as_secs_f64());
            happens(&mut rig.borrow_mut());
        });
        run(&mut self.clone(), &mut Script { meanwhile, ..Script::default() }, line, "")
    }
}

pub const VIP: [u8; 4] = [192, 0, 2, 10];

pub fn tcp(port: u16) -> ServiceKey {
    rig::key(Protocol::Tcp, VIP, port)
}

pub fn service(key: ServiceKey) -> Service {
    Service {
        key,
        scheduler: "rr".into(),
        scheduler_flags: 0,
        persistent: None,
        netmask: u32::MAX,
        one_packet: false,
        engine: None,
    }
}

pub fn server(n: u8, weight: u32) -> Server {
    rig::server([10, 0, 0, n], 8080, Forwarding::FullNat, weight)
}

/// TCP 80 with two servers.
pub fn shop(store: &mut Store<FakePlane>) {
    let add = |n, weight| Change::AddServer { service: tcp(80), server: server(n, weight) };
    for change in [Change::AddService(service(tcp(80))), add(1, 5), add(2, 7)] {
        store.apply(&change.into()).unwrap();
    }
}
