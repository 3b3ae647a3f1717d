//! The surroundings of one recording: network and mount namespaces as the recording machine was, and a
//! gateway's control socket in them, served by this process.
//!
//! Nothing of it outlives the test: the namespaces belong to one child that ends with its stdin.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use serde_json::Value;
use weir::control::{
    notices::Notices,
    plane::AddressKind,
    server::{ConnectionLimits, ControlServer, Handler},
    store::Store,
};
use weir_api::{
    model::{Rates, Stats},
    protocol::{Access, Request, Response, Row},
};
use weirctl::program::IPVSADM_NAMES;

use crate::fake::FakePlane;

/// Makes the namespaces: `$1` this executable, `$2` the socket's folder, `$3` the recordings' `env` folder.
/// Folders that something is put into become tmpfs full of links to what they held.
const SETUP: &str = r#"
set -eu
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/weir /mnt/env /mnt/sbin /mnt/etc
touch /mnt/exe
mount --bind "$1" /mnt/exe
mount --bind "$2" /mnt/weir
mount --bind "$3" /mnt/env
for folder in /usr/sbin:sbin /etc:etc; do
    mount --bind "${folder%:*}" "/mnt/${folder#*:}"
    mount -t tmpfs tmpfs "${folder%:*}"
    cp -s -r -t "${folder%:*}" /mnt/"${folder#*:}"/* 2>/dev/null || true
done
for name in ipvsadm ipvsadm-save ipvsadm-restore weirctl; do
    ln -sf /mnt/exe "/usr/sbin/$name"
    [ -e "/sbin/$name" ] || ln -sf /mnt/exe "/sbin/$name"
done
for file in hosts services protocols nsswitch.conf; do
    if [ -e "/mnt/env/$file" ]; then rm -f "/etc/$file"; cp "/mnt/env/$file" "/etc/$file"; fi
done
mount -t tmpfs -o mode=1777 tmpfs /tmp
ip link set lo up
for dev in eth0 eth1; do
    ip link add $dev type dummy 2>/dev/null || { ip link add $dev type veth peer name peer-$dev; ip link set peer-$dev up; }
    ip link set $dev up
done
ip addr add 192.0.2.1/24 dev eth0
ip addr add 2001:db8::1/64 dev eth0 nodad
ip addr add 198.51.100.1/24 dev eth1
echo ready
exec cat
"#;

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    /// As a shell reports it.
    pub status: i64,
    /// Its output.
    pub stdout: String,
    /// Its complaints.
    pub stderr: String,
}

/// A lab.
pub struct Lab {
    holder: Child,
    gateway: Arc<Gateway>,
    folder: PathBuf,
    _server: ControlServer,
}

/// The control side of a gateway, with counters that a test may choose.
struct Gateway {
    store: Mutex<Store<FakePlane>>,
    numbers: Mutex<Option<[u64; 10]>>,
}

impl Handler for Gateway {
    fn handle(&self, request: Request, access: Access) -> Response {
        let mut response = self.store.lock().handle(request, access);
        if let (Response::Rows { rows, .. }, Some(n)) = (&mut response, *self.numbers.lock()) {
            let s = Stats {
                connections: n[0],
                in_packets: n[1],
                out_packets: n[2],
                in_bytes: n[3],
                out_bytes: n[4],
            };
            let r = Rates {
                connections: n[5],
                in_packets: n[6],
                out_packets: n[7],
                in_bytes: n[8],
                out_bytes: n[9],
            };
            for row in rows {
                match row {
                    Row::Service(row) => (row.stats, row.rates) = (s, r),
                    Row::Server(row) => (row.stats, row.rates) = (s, r),
                }
            }
        }
        response
    }

    fn notices(&self) -> Arc<Notices> {
        self.store.lock().notices()
    }
}

impl Lab {
    /// Builds one.
    pub fn new(golden: &Path) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("golden-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let holder = hold(&folder, &golden.join("env"))?;
        let pid = holder.id();
        let plane = FakePlane { kinds: Box::new(move |address| kind(pid, address)), ..FakePlane::default() };
        let gateway = Arc::new(Gateway { store: Mutex::new(Store::new(plane)), numbers: Mutex::new(None) });
        let server =
            ControlServer::start(&folder.join("weir.sock"), gateway.clone(), ConnectionLimits::default());
        let server = server.map_err(|e| e.to_string())?;
        Ok(Self { holder, gateway, folder, _server: server })
    }

    /// Runs one command.
    pub fn run(&mut self, command: &str) -> Result<Outcome, String> {
        if let Some(setting) = command.strip_prefix("sysctl -w net.ipv4.vs.") {
            return self.sysctl(setting);
        }
        let command = self.take_numbers(command)?;
        let mut bash = enter(self.holder.id(), &["-m", "-n"]);
        // As it was recorded: the shell names itself in its messages.
        bash.args(["/bin/bash", "-c", &command]).stdin(Stdio::null()).current_dir("/");
        bash.env_clear().env("LC_ALL", "C").env("WEIR_SOCKET", "/mnt/weir/weir.sock");
        bash.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        let output = bash.output().map_err(|e| format!("nsenter: {e}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let status = i64::from(output.status.code().unwrap_or(-1));
        Ok(Outcome { status, stdout: text(&output.stdout), stderr: text(&output.stderr) })
    }

    fn sysctl(&self, setting: &str) -> Result<Outcome, String> {
        let (name, value) = setting.split_once('=').ok_or(format!("no value in {setting}"))?;
        self.gateway.store.lock().set_sysctl(name, value).map_err(|e| e.to_string())?;
        let stdout = format!("net.ipv4.vs.{name} = {value}\n");
        Ok(Outcome { status: 0, stdout, stderr: String::new() })
    }

    /// `LD_PRELOAD=... NUMS=a,b,... ipvsadm ...` was recorded with the numbers a, b, ...
    fn take_numbers(&self, command: &str) -> Result<String, String> {
        *self.gateway.numbers.lock() = None;
        let Some(rest) = command.strip_prefix("LD_PRELOAD=") else { return Ok(command.into()) };
        let parts = rest.split_once(" NUMS=").and_then(|(_, rest)| rest.split_once(' '));
        let (numbers, rest) = parts.ok_or(format!("no NUMS in {command}"))?;
        let numbers: Result<Vec<u64>, _> = numbers.split(',').map(str::parse).collect();
        let numbers = numbers.map_err(|e| format!("{command}: {e}"))?;
        let ten = numbers.try_into().map_err(|_| format!("not ten numbers in {command}"))?;
        *self.gateway.numbers.lock() = Some(ten);
        Ok(rest.into())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // It ends with its stdin; if it can't be waited for it is gone.
        let _ = self.holder.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Starts the child that holds the namespaces.
fn hold(folder: &Path, env: &Path) -> Result<Child, String> {
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut unshare = Command::new("unshare");
    unshare
        .args(["-m", "-n", "--propagation", "private", "bash", "-c", SETUP, "lab"])
        .arg(exe)
        .arg(folder)
        .arg(env);
    let child = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| format!("unshare: {e}"))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.as_mut() {
        BufReader::new(stdout).read_line(&mut line).map_err(|e| e.to_string())?;
    }
    if line == "ready\n" {
        return Ok(child);
    }
    drop(child.stdin.take());
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    Err(format!("no namespaces (this needs root): {}", String::from_utf8_lossy(&output.stderr)))
}

fn enter(pid: u32, namespaces: &[&str]) -> Command {
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["-t", &pid.to_string()]).args(namespaces);
    nsenter
}

/// What an address is in the lab's network, as its kernel sees it.
fn kind(pid: u32, address: IpAddr) -> AddressKind {
    let Ok(output) = enter(pid, &["-n"]).args(["ip", "-j", "addr"]).output() else {
        return AddressKind::Other;
    };
    let links: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let addresses =
        links.as_array().into_iter().flatten().filter_map(|l| l["addr_info"].as_array()).flatten();
    for own in addresses {
        let Some(local) = own["local"].as_str().and_then(|a| a.parse::<IpAddr>().ok()) else { continue };
        if local == address {
            return AddressKind::Own;
        }
        let length = own["prefixlen"].as_u64().unwrap_or(32);
        if let (IpAddr::V4(local), IpAddr::V4(address), ..=30) = (local, address, length)
            && address == broadcast(local, length)
        {
            return AddressKind::Broadcast;
        }
    }
    AddressKind::Other
}

fn broadcast(local: Ipv4Addr, length: u64) -> Ipv4Addr {
    (u32::from(local) | (u32::MAX >> length)).into()
}

const _: () = assert!(IPVSADM_NAMES.len() == 3, "SETUP links all of them");
