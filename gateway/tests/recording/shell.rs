//! The commands of a recording, carried out on the rig: ipvsadm and sysctl.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use weirctl::{
    client::Transport,
    ipvsadm::{
        Environment, ipvsadm,
        names::{Names, Resolve, SystemNames},
    },
    model::{MarkRule, Protocol, ServiceKey},
    protocol::{Change, ListQuery, Request, Response, Row},
};

use super::{Event, Recording};
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

/// Status, stdout and stderr of a command line.
pub fn run(rig: &mut Rig, line: &str) -> (i32, String, String) {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["nft", rest @ ..] => nft(rig, rest),
        ["sysctl", "-w", setting] => sysctl(rig, setting),
        ["ipvsadm", ..] => {
            let args: Vec<_> = words.iter().map(Into::into).collect();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let environment = Environment { names: &RecordedNames, own: false };
            let status = ipvsadm(&args, &mut std::io::empty(), rig, &mut out, &mut err, &environment);
            let text = |bytes| String::from_utf8(bytes).expect("text");
            (status, text(out), text(err))
        }
        _ => (127, String::new(), "not a command of this test\n".into()),
    }
}

/// Netfilter marks packets for the kernel; here a mark rule does.
fn nft(rig: &mut Rig, words: &[&str]) -> (i32, String, String) {
    if let ["add", "rule", "ip", _, _, "ip", "daddr", network, "meta", "mark", "set", mark] = words {
        let (address, bits) = network.split_once('/').unwrap_or((network, "32"));
        rig.change(Change::AddMark(MarkRule {
            mark: mark.parse().expect("a mark"),
            priority: 0,
            protocol: None,
            source: None,
            destination: Some((address.parse().expect("an address"), bits.parse().expect("a length"))),
            source_ports: None,
            destination_ports: None,
            port: None,
        }));
    } else {
        assert!(matches!(words, ["add", "table", ..] | ["'add", "chain", ..]), "{words:?}");
    }
    (0, String::new(), String::new())
}

fn sysctl(rig: &mut Rig, setting: &str) -> (i32, String, String) {
    let (name, value) = setting.split_once('=').expect("name=value");
    let name = name.strip_prefix("net.ipv4.vs.").expect("an IPVS setting");
    rig.store.set_sysctl(name, value).expect("a setting that Weir has");
    rig.run();
    rig.run();
    (0, format!("net.ipv4.vs.{name} = {value}\n"), String::new())
}

/// Servers with [weight, active, inactive]; prefixed by their service if `by_service`.
pub fn counts(rig: &mut Rig, by_service: bool) -> HashMap<String, [i64; 3]> {
    let query = ListQuery { service: None, from: None, max: 1000 };
    let Ok(Response::Rows { rows, .. }) = rig.call(Request::List(query)) else { panic!("a listing") };
    let mut counts = HashMap::new();
    let mut service = String::new();
    for row in rows {
        match row {
            Row::Service(s) => service = describe(s.service.key),
            Row::Server(s) => {
                let server = SocketAddr::new(s.server.address, s.server.port).to_string();
                let name = if by_service { format!("{service} {server}") } else { server };
                counts.insert(name, [s.server.weight.into(), s.active.into(), s.inactive.into()]);
            }
        }
    }
    counts
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
pub fn settings(rig: &mut Rig, recording: &Recording) {
    let changed = |name: &str| {
        recording.events.iter().any(|e| {
            matches!(e, Event::Cmd { cmd, .. } if cmd.starts_with("sysctl") && cmd.contains(&format!(".{name}=")))
        })
    };
    for (name, value) in recording.sysctl.iter().filter(|(name, _)| !changed(name)) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        // A setting that Weir lacks is refused; the recordings leave those alone.
        let _ = rig.store.set_sysctl(name, &value);
    }
}
