//! DPDK's telemetry socket: the same counters, read the same way, of whichever program runs the ports.
//!
//! A sequenced-packet socket in DPDK's run-time directory. It greets with a JSON object that has the pid;
//! then one JSON answer a request (DPDK's "Telemetry User Guide").

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, recv, send, setsockopt,
        socket,
        sockopt::{PeerCredentials, ReceiveTimeout, SendTimeout},
    },
    time::{TimeVal, TimeValLike},
};
use serde_json::Value;

use crate::error::{Error, Result};

/// A connection to one process's telemetry.
pub struct Telemetry {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Telemetry {
    /// Connects to the process `pid`, if its telemetry is up; `run` is the run-time directory it was given.
    pub fn connect(pid: u32, run: &Path) -> Option<Self> {
        sockets(run).iter().find_map(|path| Self::open(path, pid))
    }

    fn open(path: &Path, pid: u32) -> Option<Self> {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).ok()?;
        // One that is paused may have as many waiting as it takes.
        setsockopt(&socket, SendTimeout, &TimeVal::milliseconds(20)).ok()?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path).ok()?).ok()?;
        // Others may be paused, and never say who they are.
        let listener = getsockopt(&socket, PeerCredentials).ok()?.pid();
        if u32::try_from(listener) != Ok(pid) {
            return None;
        }
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(10)).ok()?;
        let mut this = Self { socket, buffer: vec![0; 65_536] };
        this.receive().ok()?;
        Some(this)
    }

    fn receive(&mut self) -> Result<Value> {
        let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())
            .map_err(|e| Error::Unexpected(format!("telemetry: {e}")))?;
        serde_json::from_slice(&self.buffer[..length])
            .map_err(|e| Error::Unexpected(format!("telemetry: not JSON: {e}")))
    }

    /// Asks for `path`, with a parameter if not empty, and returns the answer's contents.
    fn ask(&mut self, path: &str, parameter: &str) -> Result<Value> {
        let request = if parameter.is_empty() { path.to_owned() } else { format!("{path},{parameter}") };
        send(self.socket.as_raw_fd(), request.as_bytes(), MsgFlags::MSG_NOSIGNAL)
            .map_err(|e| Error::Unexpected(format!("telemetry: {e}")))?;
        Ok(self.receive()?[path].take())
    }

    /// The number of the port whose device name starts with `device`.
    pub fn port(&mut self, device: &str) -> Result<u16> {
        let list = self.ask("/ethdev/list", "")?;
        for id in list.as_array().into_iter().flatten().filter_map(Value::as_u64) {
            let info = self.ask("/ethdev/info", &id.to_string())?;
            if info["name"].as_str().is_some_and(|name| name.starts_with(device)) {
                return Ok(id as u16);
            }
        }
        Err(Error::Unexpected(format!("telemetry: no port on {device}")))
    }

    /// Packets that `port` transmitted since it was started.
    pub fn transmitted(&mut self, port: u16) -> Result<u64> {
        let stats = self.ask("/ethdev/stats", &port.to_string())?;
        stats["opackets"].as_u64().ok_or_else(|| Error::Unexpected(format!("telemetry: no stats in {stats}")))
    }
}

/// Telemetry sockets of all DPDK processes: `<run-time directory>/dpdk/<file prefix>/dpdk_telemetry.v2[:n]`, where
/// that directory is `run` if the process heeds `RUNTIME_DIRECTORY`.
fn sockets(run: &Path) -> Vec<PathBuf> {
    [run, Path::new("/var/run"), Path::new("/tmp")]
        .into_iter()
        .filter_map(|root| fs::read_dir(root.join("dpdk")).ok())
        .flatten()
        .flatten()
        .filter_map(|prefix| fs::read_dir(prefix.path()).ok())
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("dpdk_telemetry.v2"))
        .map(|entry| entry.path())
        .collect()
}
