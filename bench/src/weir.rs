//! weir itself: configuration, rules, start, and waiting until every session is there.
//!
//! Three ports: `once` plays a file with each flow's first packet, `clients` repeats the file of ACKs without end,
//! `servers` takes what goes to the servers and counts it. Nobody answers, so connections begin with an ACK in their
//! middle (`sloppy_tcp`); measuring begins once weir lists as many active connections as there are flows.

use std::{
    env,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clap::Args;
use weir_api::model::Forwarding;

use crate::{
    compare::{ACK_DEVICE, DESCRIPTORS, SYN_DEVICE, Testbed},
    error::{Error, Result},
    hugepages::Memory,
    method::Method,
    process::{Process, output_of, wait_for},
    sample::{Subject, Thread},
    telemetry::Telemetry,
    traffic::{self, PORT},
};

/// Where weir's programs are.
#[derive(Args, Debug)]
pub struct Programs {
    /// weir's program; built by cargo in release if absent.
    #[arg(long)]
    weir: Option<PathBuf>,
    /// weirctl's program; built by cargo in release if absent.
    #[arg(long)]
    weirctl: Option<PathBuf>,
}

/// weir's programs.
#[derive(Clone, Debug)]
pub struct Found {
    weir: PathBuf,
    weirctl: PathBuf,
}

impl Found {
    /// weirctl, at the testbed's gateway.
    pub fn weirctl(&self, testbed: &Testbed) -> Command {
        let mut command = Command::new(&self.weirctl);
        command.env("WEIR_SOCKET", testbed.path("weir.sock"));
        command
    }
}

impl Programs {
    /// The given programs, or freshly built ones: a stale binary is never measured by accident.
    pub fn find(&self) -> Result<Found> {
        if self.weir.is_none() || self.weirctl.is_none() {
            build(&["weir", "weirctl"])?;
        }
        let beside = env::current_exe().map_err(Error::file("this program"))?;
        let built = |name: &str| beside.with_file_name(name);
        Ok(Found {
            weir: self.weir.clone().unwrap_or_else(|| built("weir")),
            weirctl: self.weirctl.clone().unwrap_or_else(|| built("weirctl")),
        })
    }
}

/// Builds packages of this workspace in release, beside this program.
pub fn build(packages: &[&str]) -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--release"]).current_dir(workspace);
    command.args(packages.iter().flat_map(|package| ["-p", package]));
    // The programs are looked for beside this one, wherever it was built.
    if let Some(target) = env::current_exe().ok().as_deref().and_then(|exe| exe.parent()?.parent()) {
        command.env("CARGO_TARGET_DIR", target);
    }
    output_of(&mut command).map(drop)
}

/// Flows up to which weir's default session table is left as it is.
const ROOMY: u32 = 900_000;

/// What weir is to forward.
pub struct Setup<'a> {
    /// Files, CPUs, memory.
    pub testbed: &'a Testbed<'a>,
    /// Files to repeat endlessly, one a receive queue, and the number of their device.
    pub endless: Option<(Vec<PathBuf>, u8)>,
    /// Files to play once, one a receive queue, and the number of their device.
    pub once: Option<(Vec<PathBuf>, u8)>,
    /// Devices instead of files and of what swallows frames: the clients' and the servers'.
    pub wires: Option<[String; 2]>,
    /// Sessions that the table has room for; if not said, for all flows and a quarter more.
    pub room: Option<u32>,
}

impl Setup<'_> {
    /// The servers' device.
    fn out(&self) -> &str {
        self.wires.as_ref().map_or("net_null0,no-rx=1", |[_, servers]| servers)
    }

    fn configuration(&self) -> String {
        let testbed = self.testbed;
        let mut text = String::new();
        let head = format!(
            "socket = {:?}\nrules = {:?}\ncores = {:?}\nhost = {}\nidle = \"poll\"\neal = [\"--no-pci\", \"--telemetry\"]\n",
            testbed.path("weir.sock"),
            testbed.path("rules.save"),
            testbed.worker_cpus(),
            testbed.twins.is_some(),
        );
        text.push_str(&head);
        if let Some(twins) = &testbed.twins {
            let _ = writeln!(text, "host_namespace = {twins:?}");
        }
        let ample = (testbed.sessions() > ROOMY).then(|| u64::from(testbed.sessions()) * 5 / 4);
        if let Some(room) = self.room.map(u64::from).or(ample) {
            let _ = writeln!(text, "[sessions]\nmax_per_worker = {room}");
        }
        if testbed.idle != 0 {
            // Those that see no other packet stay until the measurement is over.
            text.push_str("[timeouts]\nsyn_recv = 36000\nestablished = 36000\n");
        }
        // Where nobody answers SYNs, connections are taken up in their middle, and established at once.
        text.push_str("[ipvs]\nsloppy_tcp = true\n");
        let mut port = |name: &str, device: String, mbufs: u32| {
            let _ = writeln!(
                text,
                "[[port]]\nname = {name:?}\ndevice = {device:?}\nmbufs = {mbufs}\n\
                 rx_desc = {DESCRIPTORS}\ntx_desc = {DESCRIPTORS}"
            );
        };
        if let Some((files, device)) = &self.once {
            port("once", format!("net_pcap{device},{}", traffic::rx_pcap(files)), 16_384);
        }
        match (&self.wires, &self.endless) {
            (Some([clients, _]), _) => port("clients", clients.clone(), 16_384),
            (None, Some((files, device))) => {
                let device = format!("net_pcap{device},{},infinite_rx=1", traffic::rx_pcap(files));
                port("clients", device, testbed.mbufs());
            }
            (None, None) => port("clients", "net_null1,no-rx=1".to_owned(), 16_384),
        }
        port("servers", self.out().to_owned(), 16_384);
        // What tunnels are sent from.
        let own = Ipv4Addr::new(192, 0, 2, 254);
        let _ = writeln!(text, "addresses = [\"{own}/32\", \"{}/128\"]", traffic::six(own));
        let mut hop = |to: &str, via: IpAddr, mac: [u8; 6], port: &str| {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            let _ = writeln!(text, "[[route]]\nto = \"{to}\"\nvia = \"{via}\"\nport = \"{port}\"");
            let _ = writeln!(text, "[[neighbour]]\naddress = \"{via}\"\nmac = \"{mac}\"\nport = \"{port}\"");
        };
        for (network, prefix, via, mac, name) in [
            ([10, 0, 0, 0], 8, [192, 0, 2, 1], traffic::CLIENT_MAC, "clients"),
            ([198, 19, 0, 0], 16, [192, 0, 2, 129], traffic::SERVER_MAC, "servers"),
        ] {
            hop(&format!("{}/{prefix}", Ipv4Addr::from(network)), IpAddr::from(via), mac, name);
            let six = |v4: [u8; 4]| traffic::six(v4.into());
            hop(&format!("{}/{}", six(network), prefix + 96), six(via).into(), mac, name);
        }
        text
    }
}

/// What `weirctl -S` would print.
fn rules(sessions: u32, method: Method, (services, servers): (u16, u8), scheduler: &str) -> String {
    let mut text = String::new();
    for address in traffic::virtual_addresses(services) {
        let service = SocketAddr::new(method.client_side(address), PORT);
        let _ = writeln!(text, "-A -t {service} -s {scheduler}");
        if method.forwarding() == Forwarding::FullNat {
            for address in traffic::local_addresses(sessions) {
                let _ = writeln!(text, "-P -t {service} -z {}", method.server_side(address));
            }
        }
        for server in traffic::servers(servers) {
            let server = SocketAddr::new(method.server_side(server), PORT);
            let weight = if scheduler == "ovf" { sessions } else { 1 };
            let _ = writeln!(text, "-a -t {service} -r {server} {} -w {weight}", method.options());
        }
    }
    text
}

/// Starts weir and waits until it says that it is ready.
pub fn launch(setup: &Setup, found: &Found) -> Result<Subject> {
    let testbed = setup.testbed;
    let configuration = testbed.path("weir.toml");
    fs::write(&configuration, setup.configuration()).map_err(Error::file(&configuration))?;
    let rules_file = testbed.path("rules.save");
    let text =
        rules(testbed.sessions(), testbed.method, (testbed.services, testbed.servers), testbed.scheduler);
    fs::write(&rules_file, text).map_err(Error::file(&rules_file))?;
    let mut command = Command::new(&found.weir);
    command.arg("--config").arg(&configuration).env("RUNTIME_DIRECTORY", testbed.directory);
    let mut process = Process::spawn(&mut command, &testbed.path("weir.log"))?;
    let ready = wait_for(Duration::from_secs(120), || {
        process.check_running()?;
        Ok(process.output()?.lines().any(|line| line == "ready").then_some(()))
    })?;
    let telemetry = ready.and_then(|()| Telemetry::connect(process.pid(), testbed.directory));
    let Some(mut telemetry) = telemetry else {
        return Err(process.failed("isn't ready, or has no telemetry"));
    };
    Memory::check(testbed.ordinary_memory, process.pid())?;
    let out = telemetry.port(setup.out().split(',').next().unwrap_or_default())?;
    let workers = Thread::busiest(process.pid(), testbed.workers)?;
    Ok(Subject { process, telemetry, out, workers })
}

/// Starts weir on the testbed's ACKs and returns it forwarding, every flow a session.
pub fn start(testbed: &Testbed, found: &Found) -> Result<Subject> {
    let setup = Setup {
        testbed,
        endless: Some((testbed.acks(), ACK_DEVICE)),
        once: Some((testbed.openings(), SYN_DEVICE)),
        wires: None,
        room: None,
    };
    let mut subject = launch(&setup, found)?;
    let mut listed = Listed::default();
    let all = Listed { active: testbed.sessions().into(), inactive: 0 };
    let opened = wait_for(Duration::from_secs(50 + u64::from(testbed.idle) / 100_000), || {
        subject.process.check_running()?;
        listed = connections(testbed, found)?;
        Ok((listed == all).then_some(()))
    })?;
    if opened.is_none() {
        let what = format!("has {listed:?} connections and not {all:?}");
        return Err(subject.process.failed(what));
    }
    subject.wait_for_traffic(Duration::from_secs(10))?;
    Ok(subject)
}

/// Connections that `weirctl -Ln` lists, over all servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// ActiveConn.
    pub active: u64,
    /// InActConn.
    pub inactive: u64,
}

/// Asks weir for its connections.
pub fn connections(testbed: &Testbed, found: &Found) -> Result<Listed> {
    parse_listing(&output_of(found.weirctl(testbed).arg("-Ln"))?)
}

/// Reads lines such as `  -> 198.19.0.1:80  FullNat 1  250  0`.
fn parse_listing(text: &str) -> Result<Listed> {
    let mut sum = Listed::default();
    let servers = text.lines().filter_map(|l| l.trim_start().strip_prefix("-> "));
    for line in servers.filter(|l| !l.starts_with("RemoteAddress")) {
        let mut last = line.split_whitespace().rev().map(str::parse::<u64>);
        let (Some(Ok(inactive)), Some(Ok(active))) = (last.next(), last.next()) else {
            return Err(Error::Unexpected(format!("weirctl -Ln: {line:?}")));
        };
        sum.active += active;
        sum.inactive += inactive;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_summed() {
        let text = "IP Virtual Server version 1.2.1 (size=4096)\n\
            Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n\
            TCP  198.18.0.1:80 wlc\n  -> 198.19.0.1:80                FullNat 1      250        3         \n  \
            -> 198.19.0.2:80                FullNat 1      249        0         \n";
        assert_eq!(parse_listing(text).unwrap(), Listed { active: 499, inactive: 3 });
    }

    #[test]
    fn what_trex_is_given_of_weir_can_be_read() {
        let trex = Path::new(env!("CARGO_MANIFEST_DIR")).join("trex");
        for (file, ports) in [("weir.toml", 2), ("one_arm.toml", 1)] {
            let config = weir::config::Config::load(&trex.join(file)).unwrap();
            assert_eq!((config.ports.len(), config.routes.len()), (ports, 2), "{file}");
        }
        let rules = fs::read_to_string(trex.join("rules.save")).unwrap();
        assert_eq!(rules.lines().filter(|line| line.starts_with("-P ")).count(), 12);
    }

    #[test]
    fn rules_name_every_server_and_local_address() {
        let text = rules(2_000_000, Method::Fullnat, (3, 5), "rr");
        assert_eq!(text.lines().count(), 3 * (1 + 5 + 12));
    }
}
