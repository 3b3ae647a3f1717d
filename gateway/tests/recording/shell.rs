//! The commands of a recording, carried out on the rig: ipvsadm and sysctl.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use weir_api::{
    client::Transport,
    ipvsadm::names::{Names, Resolve, SystemNames},
    model::{Forwarding, Protocol, ServiceKey},
    protocol::{Access, Change, ListQuery, Request, Response, Row},
};
use weirctl::ipvsadm::{Environment, ipvsadm};

use super::{Counts, Event, Recording, nft};
use crate::rig::Rig;

/// The names of the recording machine.
struct RecordedNames;

impl RecordedNames {
    fn lines(file: &str) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(super::folder().join("env").join(file)).unwrap_or_default();
        text.lines().map(|l| l.split_whitespace().map(str::to_owned).collect()).collect()
    }
}

impl Resolve for RecordedNames {
    fn host(&self, name: &str) -> Option<Ipv4Addr> {
        SystemNames.host(name)
    }
    fn port(&self, service: &str, protocol: Protocol) -> Option<u16> {
        SystemNames.port(service, protocol)
    }
}

impl Names for RecordedNames {
    fn host_name(&self, address: IpAddr) -> Option<String> {
        let address = address.to_string();
        Self::lines("hosts").into_iter().find(|l| l.first() == Some(&address))?.into_iter().nth(1)
    }
    fn service_name(&self, port: u16, protocol: Protocol) -> Option<String> {
        let wanted = format!("{port}/{}", format!("{protocol:?}").to_lowercase());
        Self::lines("services").into_iter().find(|l| l.get(1) == Some(&wanted))?.into_iter().next()
    }
}

/// The settings of the kernel that Weir lacks, with the values that they have where nobody sets them.
const LACKING: [(&str, &str); 22] = [
    ("am_droprate", "10"),
    ("amemthresh", "1024"),
    ("backup_only", "0"),
    ("cache_bypass", "0"),
    ("conntrack", "0"),
    ("drop_entry", "0"),
    ("drop_packet", "0"),
    ("ignore_tunneled", "0"),
    ("nat_icmp_send", "0"),
    ("pmtu_disc", "1"),
    ("run_estimation", "1"),
    ("schedule_icmp", "0"),
    ("secure_tcp", "0"),
    ("snat_reroute", "1"),
    ("sync_persist_mode", "0"),
    ("sync_ports", "1"),
    ("sync_qlen_max", "5361"),
    ("sync_refresh_period", "0"),
    ("sync_retries", "0"),
    ("sync_sock_size", "0"),
    ("sync_threshold", "3 50"),
    ("sync_version", "1"),
];

/// Status, stdout and stderr of a command line, as `/bin/bash -c` has them. `nft` counts that program's calls.
///
/// # Errors
/// What this test can't carry out.
pub fn run(rig: &mut Rig, line: &str, nft_calls: &mut usize) -> Result<(i32, String, String), String> {
    let words = nft::shell_words(line)?;
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["nft", ..] => {
            *nft_calls += 1;
            for rule in nft::rules(&words[1..], *nft_calls)? {
                let response =
                    rig.store.handle(Request::Apply(Change::AddMark(rule).into()), Access::ReadWrite);
                if !matches!(response, Response::Done { .. }) {
                    return Err(format!("{line}: {response:?}"));
                }
            }
            rig.run();
            Ok((0, String::new(), String::new()))
        }
        ["sysctl", "-w", settings @ ..] | ["sysctl", settings @ ..] => {
            let out: Result<String, String> = settings.iter().map(|setting| sysctl(rig, setting)).collect();
            Ok((0, out?, String::new()))
        }
        ["ipvsadm", ..] => {
            let args: Vec<_> = words.iter().map(Into::into).collect();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let environment = Environment { names: &RecordedNames, own: false };
            let status = ipvsadm(&args, &mut std::io::empty(), rig, &mut out, &mut err, &environment);
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            Ok((status, text(out), text(err)))
        }
        [other, ..] => Ok((127, String::new(), format!("/bin/bash: line 1: {other}: command not found\n"))),
        [] => Ok((0, String::new(), String::new())),
    }
}

fn sysctl(rig: &mut Rig, setting: &str) -> Result<String, String> {
    let wrong = || format!("{setting} isn't net.ipv4.vs.NAME=VALUE");
    let (name, value) = setting.split_once('=').ok_or_else(wrong)?;
    let name = name.strip_prefix("net.ipv4.vs.").ok_or_else(wrong)?;
    rig.store.set_sysctl(name, value).map_err(|e| format!("{setting}: {e}"))?;
    rig.run();
    rig.run();
    Ok(format!("net.ipv4.vs.{name} = {value}\n"))
}

fn rows(rig: &mut Rig) -> Vec<Row> {
    let mut all = Vec::new();
    let mut from = None;
    loop {
        let query = ListQuery { service: None, from, max: 1000 };
        let Ok(Response::Rows { rows, next, .. }) = rig.call(Request::List(query)) else {
            panic!("a listing")
        };
        all.extend(rows);
        if next.is_none() {
            return all;
        }
        from = next;
    }
}

/// Servers with [weight, active, inactive]; by service if `by_service`.
pub fn counts(rig: &mut Rig, by_service: bool) -> Counts {
    let mut counts = Vec::new();
    if !by_service {
        counts.push((None, Vec::new()));
    }
    for row in rows(rig) {
        match row {
            Row::Service(s) if by_service => counts.push((Some(describe(s.service.key)), Vec::new())),
            Row::Service(_) => {}
            Row::Server(s) => {
                let server = SocketAddr::new(s.server.address, s.server.port).to_string();
                let three = [s.server.weight.into(), s.active.into(), s.inactive.into()];
                if let Some((_, servers)) = counts.last_mut() {
                    servers.push((server, three));
                }
            }
        }
    }
    Counts(counts)
}

/// How packets get to a server, if it is configured; one of a port-less service has any port.
pub fn forwarding(rig: &mut Rig, (address, port): (IpAddr, u16)) -> Option<Forwarding> {
    let mut servers = rows(rig).into_iter().filter_map(|row| match row {
        Row::Server(s) => Some(s.server),
        Row::Service(_) => None,
    });
    let of =
        |s: &weir_api::model::Server| s.address == address && (s.port == port || s.port == 0 || port == 0);
    servers.find(of).map(|s| s.forwarding)
}

fn describe(key: ServiceKey) -> String {
    match key {
        ServiceKey::Address { protocol, address, port } => {
            format!("{} {}", format!("{protocol:?}").to_uppercase(), SocketAddr::new(address, port))
        }
        ServiceKey::Mark { mark, .. } => format!("FWM {mark:08X}"),
    }
}

/// Puts the settings of a recording in force. The recording shows them as they were at its end: those that it
/// changes on the way begin at the kernel's default.
///
/// # Errors
/// A setting that Weir lacks, unless it has the value that it has where nobody sets it.
pub fn settings(rig: &mut Rig, recording: &Recording) -> Result<(), String> {
    let changed = |name: &str| {
        recording.events.iter().any(|e| {
            matches!(e, Event::Cmd { cmd, .. } if cmd.starts_with("sysctl") && cmd.contains(&format!(".{name}=")))
        })
    };
    for (name, value) in recording.sysctl.iter().filter(|(name, _)| !changed(name)) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        match rig.store.set_sysctl(name, &value) {
            Err(_) if LACKING.contains(&(name.trim_start_matches("net.ipv4.vs."), &value)) => {}
            done => done.map_err(|e| format!("{name}={value}: {e}"))?,
        }
    }
    Ok(())
}
