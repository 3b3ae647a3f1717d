//! Network namespaces and a stand-in for the workers, for tests of the host side. They need root.
#![allow(dead_code, reason = "not every test uses everything")]

use std::{
    collections::VecDeque,
    path::PathBuf,
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use weir::{
    host::{Host, HostError, HostFrames, HostOptions, HostPort, NetState},
    io::PortId,
    mac::Mac,
};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The port's hardware address.
pub const PORT_MAC: Mac = Mac([2, 0, 0, 0, 0xab, 1]);
/// Somebody else's on the port's network.
pub const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0xab, 2]);

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// A network namespace of this test process, deleted on drop.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new() -> Self {
        let name = format!("weir-host-{}-{}", std::process::id(), NAMESPACES.fetch_add(1, Relaxed));
        succeed(Command::new("ip").args(["netns", "add", &name]));
        Self { name }
    }

    pub fn path(&self) -> PathBuf {
        format!("/run/netns/{}", self.name).into()
    }

    /// Runs a command line in the namespace.
    pub fn try_run(&self, line: &str) -> Output {
        self.command(line).output().expect("ip netns exec")
    }

    /// Runs a command line in the namespace, which must succeed; returns what it printed.
    pub fn run(&self, line: &str) -> String {
        succeed(&mut self.command(line))
    }

    /// The command line, to be run in the namespace.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(line.split_whitespace());
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("command starts (ip from iproute2 is needed)");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors} (these tests need root)");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Frames on their way to the kernel.
pub type ToKernel = Arc<Mutex<VecDeque<(PortId, Vec<u8>)>>>;

struct Workers {
    to_kernel: ToKernel,
    from_kernel: Sender<(PortId, Vec<u8>)>,
}

impl HostFrames for Workers {
    fn drain(&mut self, deliver: &mut dyn FnMut(PortId, &[u8])) {
        let frames = std::mem::take(&mut *self.to_kernel.lock().unwrap());
        frames.iter().for_each(|(port, frame)| deliver(*port, frame));
    }
    fn inject(&mut self, port: PortId, frame: &[u8]) -> bool {
        self.from_kernel.send((port, frame.to_vec())).is_ok()
    }
}

/// A host side with this test in the place of the workers.
pub struct Bench {
    pub host: Host,
    pub to_kernel: ToKernel,
    pub from_kernel: Receiver<(PortId, Vec<u8>)>,
    pub states: Receiver<Arc<NetState>>,
    /// While this is locked the netlink thread is kept from going on.
    pub gate: Arc<Mutex<()>>,
}

/// A port called `name` with `addresses` and no kernel interface under it.
pub fn port(name: &str, addresses: &[&str]) -> HostPort {
    HostPort {
        name: name.into(),
        mac: PORT_MAC,
        mtu: 1400,
        carrier: true,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        routes: Vec::new(),
        interface: None,
    }
}

impl Bench {
    pub fn try_start(namespace: Option<PathBuf>, ports: Vec<HostPort>) -> Result<Self, HostError> {
        let (to_kernel, (sender, from_kernel)) = (ToKernel::default(), channel());
        let (publish, states) = channel();
        let workers = Workers { to_kernel: to_kernel.clone(), from_kernel: sender };
        let gate = Arc::new(Mutex::new(()));
        let held = gate.clone();
        let publish = Box::new(move |state: &Arc<NetState>| {
            drop(publish.send(state.clone()));
            drop(held.lock());
        });
        let host = Host::start(HostOptions { namespace, ports }, Box::new(workers), publish)?;
        Ok(Self { host, to_kernel, from_kernel, states, gate })
    }

    pub fn start(namespace: &Namespace, ports: Vec<HostPort>) -> Self {
        Self::try_start(Some(namespace.path()), ports).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A frame comes in by `port` and is punted.
    pub fn receive(&self, port: PortId, frame: Vec<u8>) {
        self.to_kernel.lock().unwrap().push_back((port, frame));
    }

    /// The next frame that the kernel sends out for which `wanted` finds something.
    pub fn sent<T>(&self, mut wanted: impl FnMut(PortId, &[u8]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (port, frame) = self.from_kernel.recv_timeout(left).expect("a frame from the kernel");
            if let Some(found) = wanted(port, &frame) {
                return found;
            }
        }
    }

    /// Waits for a state that `wanted` accepts; returns it and how long that took.
    pub fn state(&self, wanted: impl Fn(&NetState) -> bool) -> (Arc<NetState>, Duration) {
        let begin = Instant::now();
        let mut state = self.host.state();
        while !wanted(&state) {
            let left = PATIENCE.saturating_sub(begin.elapsed());
            // What waits in the channel may be older than what was seen already: it only wakes.
            self.states.recv_timeout(left).unwrap_or_else(|_| panic!("in vain: {state:#?}"));
            state = self.host.state();
        }
        (state, begin.elapsed())
    }
}
