//! One network namespace: links, addresses, routes, and ways to run something inside.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};

use crate::process;

/// A named network namespace. Cloning copies the name; the [`Lab`](crate::Lab) deletes it.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    ipv6: bool,
}

impl Namespace {
    /// Creates the namespace.
    pub(crate) fn create(name: String, ipv6: bool) -> Self {
        process::must(Command::new("ip").args(["netns", "add", &name]));
        let made = Self { name, ipv6 };
        made.ip("link set lo up");
        // Neighbour discovery and router solicitations would appear among the counted frames.
        made.sysctl("net.ipv6.conf.all.disable_ipv6", u32::from(!ipv6));
        made.sysctl("net.ipv6.conf.default.disable_ipv6", u32::from(!ipv6));
        // Nobody else is there, so duplicate address detection would only cost time.
        made.sysctl("net.ipv6.conf.all.accept_dad", 0);
        made.sysctl("net.ipv6.conf.default.accept_dad", 0);
        made
    }

    /// A namespace that somebody else created.
    pub(crate) fn existing(name: String) -> Self {
        Self { name, ipv6: false }
    }

    /// Deletes the name; the namespace itself ends with its last process.
    pub(crate) fn delete(&self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }

    /// Its name, as in `ip netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it uses IPv6.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.ipv6
    }

    /// Its file, for `host_namespace`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command for `program` inside the namespace. The process is killed when the thread that starts it ends, so
    /// anything that must survive must be started from the test's own thread.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "setpriv", "--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    /// Runs the words of `line` inside the namespace and returns the output.
    ///
    /// # Panics
    /// If the exit status isn't 0.
    pub fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().expect("a command line has a first word"));
        process::must(command.args(words))
    }

    /// Runs `ip` with the words of `line` in the namespace.
    ///
    /// # Panics
    /// If the exit status isn't 0.
    pub fn ip(&self, line: &str) -> String {
        process::must(Command::new("ip").args(["-n", &self.name]).args(line.split_whitespace()))
    }

    /// Sets a kernel parameter of the namespace.
    pub fn sysctl(&self, key: &str, value: u32) {
        self.run(&format!("sysctl -qw {key}={value}"));
    }

    /// Lets the kernel of this namespace route between its links.
    pub fn forward(&self) {
        self.sysctl("net.ipv4.ip_forward", 1);
        self.sysctl("net.ipv6.conf.all.forwarding", 1);
        self.sysctl("net.ipv4.conf.all.rp_filter", 0);
        self.sysctl("net.ipv4.conf.default.rp_filter", 0);
    }

    /// Connects link `near` here to link `far` in `other`, and brings both up. Checksums are computed in software on
    /// both ends, because on DPDK's side no device would complete them.
    pub fn cable(&self, near: &str, other: &Self, far: &str) {
        self.ip(&format!("link add {near} type veth peer name {far} netns {}", other.name));
        for (side, link) in [(self, near), (other, far)] {
            side.run(&format!("ethtool -K {link} tx off"));
            side.ip(&format!("link set {link} up"));
        }
    }

    /// Gives `link` an address with its prefix length.
    pub fn address(&self, link: &str, address: &str) {
        self.ip(&format!("addr add {address} dev {link}"));
    }

    /// Runs `f` on its own thread inside the namespace. Sockets that `f` creates stay in the namespace wherever they
    /// are used later. `f` must not start processes: they would end with the thread.
    ///
    /// # Panics
    /// If `f` panics or the namespace can't be entered.
    pub fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            let file = File::open(self.path()).expect("the namespace has its file");
            setns(file, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
            f()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Connects from inside the namespace, from any local port.
    pub fn connect(&self, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        self.within(|| TcpStream::connect_timeout(&to, limit))
    }

    /// Listens inside the namespace.
    ///
    /// # Panics
    /// If the address doesn't exist or is in use.
    #[must_use]
    pub fn listen(&self, at: SocketAddr) -> TcpListener {
        self.within(|| TcpListener::bind(at))
            .unwrap_or_else(|e| panic!("{} cannot listen on {at}: {e}", self.name))
    }

    /// Waits until something listens on TCP `port`.
    ///
    /// # Panics
    /// If nothing does within ten seconds.
    pub fn wait_for_tcp(&self, port: u16) {
        self.wait_for_socket("-ltn", port);
    }

    /// Waits until something is bound to UDP `port`.
    ///
    /// # Panics
    /// If nothing is within ten seconds.
    pub fn wait_for_udp(&self, port: u16) {
        self.wait_for_socket("-lun", port);
    }

    fn wait_for_socket(&self, kind: &str, port: u16) {
        let what = format!("port {port} in {}", self.name);
        process::wait_until(&what, Duration::from_secs(10), || {
            self.run(&format!("ss -H {kind} sport = :{port}")).lines().next().map(drop)
        });
    }
}
