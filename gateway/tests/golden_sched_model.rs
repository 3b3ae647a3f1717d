//! Replays recordings of IPVS's scheduling against the schedulers alone.
//!
//! Each recording under `$WEIR_GOLDEN/sched` (default `../shared/golden` from the repository's root) is a
//! list of events. A small model applies the commands and keeps the servers' connection counts as the
//! recording itself gives them after every event; every choice is then compared. Without a packet path
//! there is no persistence: recordings with `-p` are named as skipped.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use libtest_mimic::{Arguments, Trial};
use serde_json::Value;
use weir::{
    clock::{Tick, Ticks},
    id::{ServerId, WorkerId},
    path::settings::Settings,
    sched::{FLAG_FALLBACK, FLAG_PORT, Flow, Scheduler, Server, prepare},
    table::{
        counters::{OtherWorkers, ServerCountersRef},
        limit::Limit,
    },
};

/// Seconds that a UDP session lives.
const UDP_LIFE: u32 = 300;

/// Why a recording can't be replayed here.
struct NeedsPacketPath(String);

/// A server that was ever configured: its counts outlive its deletion.
struct Known {
    id: ServerId,
    counters: ServerCountersRef,
    others: Arc<OtherWorkers>,
    limit: Option<Arc<Limit>>,
}

struct Service {
    scheduler: String,
    flags: u8,
    one_packet: bool,
    port: Option<u16>,
    known: HashMap<SocketAddr, Known>,
    servers: Vec<Server>,
    changes: u64,
    instance: Box<dyn Scheduler>,
}

#[derive(Default)]
struct Model {
    services: HashMap<String, Service>,
    /// Marks by destination network.
    marks: Vec<(IpAddr, u32, String)>,
    settings: Settings,
    now: u32,
    /// UDP sessions: server and last use, by protocol, client and virtual address.
    sessions: HashMap<String, (String, u32)>,
    next_id: u32,
}

fn golden() -> PathBuf {
    let named = std::env::var_os("WEIR_GOLDEN").filter(|name| !name.is_empty());
    let named = named.unwrap_or_else(|| "../shared/golden".into());
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(named)
}

/// The value after one of `options` in a command's words.
fn option<'a>(words: &[&'a str], options: &[&str]) -> Option<&'a str> {
    let at = words.iter().position(|w| options.contains(w))?;
    words.get(at + 1).copied()
}

fn number(words: &[&str], options: &[&str], default: u32) -> u32 {
    option(words, options).map_or(default, |n| n.parse().expect("number"))
}

fn flags(names: &str) -> u8 {
    let flag = |name: &str| match name {
        "sh-fallback" | "mh-fallback" | "flag-1" => FLAG_FALLBACK,
        "sh-port" | "mh-port" | "flag-2" => FLAG_PORT,
        "flag-3" => 4,
        _ => panic!("scheduler flag {name}"),
    };
    names.split(',').map(flag).fold(0, |all, flag| all | flag)
}

impl Service {
    fn new(settings: &Settings) -> Self {
        let instance = prepare("none", 0, &[], WorkerId(0), settings, 0).expect("known scheduler");
        Self {
            scheduler: "none".into(),
            flags: 0,
            one_packet: false,
            port: None,
            known: HashMap::new(),
            servers: Vec::new(),
            changes: 0,
            instance,
        }
    }

    /// Puts a prepared instance for `servers` in place, as a worker does.
    fn replace(&mut self, servers: Vec<Server>, fresh: bool, settings: &Settings) {
        let mut new = prepare(&self.scheduler, self.flags, &servers, WorkerId(0), settings, self.changes)
            .unwrap_or_else(|| panic!("scheduler {}", self.scheduler));
        if !fresh {
            new.inherit(&mut *self.instance, &self.servers, &servers);
        }
        (self.instance, self.servers) = (new, servers);
    }

    /// Counts after an event, with the overload flag as IPVS derives it from them.
    fn set_counts(&self, address: &str, active: u32, inactive: u32) {
        let known = self.known.get(&address.parse().expect("server")).expect("a server that was added");
        known.counters.active.set(active);
        known.counters.inactive.set(inactive);
        if let Some(limit) = &known.limit {
            limit.join(limit.sessions(), active + inactive);
            limit.look(false);
        }
    }
}

impl Model {
    fn command(&mut self, line: &str) -> Result<(), NeedsPacketPath> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["sysctl", .., setting] => self.sysctl(setting),
            ["nft", ..] if line.contains("mark set") => self.mark(&words, line)?,
            ["nft", "add" | "'add", ..] => {}
            ["ipvsadm", "-A" | "-E", ..] => self.set_service(&words)?,
            ["ipvsadm", "-D", ..] => drop(self.services.remove(&key(&words))),
            ["ipvsadm", "-C"] => self.services.clear(),
            ["ipvsadm", "-a" | "-e" | "-d", ..] => self.set_server(&words),
            ["ipvsadm", "-L" | "-Ln" | "-l" | "-Z", ..] => {}
            _ => return Err(NeedsPacketPath(format!("the command {line:?}"))),
        }
        Ok(())
    }

    fn sysctl(&mut self, setting: &str) {
        let (name, value) = setting.split_once('=').expect("name=value");
        let value = value.parse().expect("number");
        match name.rsplit('.').next() {
            Some("lblc_expiration") => self.settings.lblc_expiration = value,
            Some("lblcr_expiration") => self.settings.lblcr_expiration = value,
            _ => {}
        }
        for service in self.services.values_mut() {
            service.replace(service.servers.clone(), false, &self.settings);
        }
    }

    fn mark(&mut self, words: &[&str], line: &str) -> Result<(), NeedsPacketPath> {
        let unknown = || NeedsPacketPath(format!("the mark rule {line:?}"));
        if ["port", "saddr", "protocol", "l4proto", "{"].iter().any(|w| line.contains(w)) {
            return Err(unknown());
        }
        let (address, length) =
            option(words, &["daddr"]).ok_or_else(unknown)?.split_once('/').ok_or_else(unknown)?;
        let mark: u32 = option(words, &["set"])
            .and_then(|mark| mark.trim_matches(['\'', '"']).parse().ok())
            .ok_or_else(unknown)?;
        let (address, length) =
            (address.parse().map_err(|_| unknown())?, length.parse().map_err(|_| unknown())?);
        self.marks.push((address, length, mark.to_string()));
        Ok(())
    }

    fn set_service(&mut self, words: &[&str]) -> Result<(), NeedsPacketPath> {
        if words.contains(&"-p") || words.contains(&"--persistent") {
            return Err(NeedsPacketPath("persistence".into()));
        }
        let Self { services, settings, .. } = self;
        let service = services.entry(key(words)).or_insert_with(|| Service::new(settings));
        service.scheduler = option(words, &["-s"]).unwrap_or("wlc").into();
        service.flags = option(words, &["-b"]).map_or(0, flags);
        service.one_packet = words.contains(&"-o");
        service.port = option(words, &["-t", "-u"]).map(|a| a.parse::<SocketAddr>().expect("service").port());
        service.replace(service.servers.clone(), words[1] == "-A", settings);
        Ok(())
    }

    fn set_server(&mut self, words: &[&str]) {
        let service = self.services.get_mut(&key(words)).expect("a service that was added");
        let mut address: SocketAddr = option(words, &["-r"]).expect("-r").parse().expect("server");
        if let (Some(port), false) = (service.port, words.contains(&"-m")) {
            address.set_port(port);
        }
        let known = service.known.entry(address).or_insert_with(|| {
            self.next_id += 1;
            let counters = ServerCountersRef::alone().unwrap();
            Known { id: ServerId(self.next_id), counters, others: Arc::default(), limit: None }
        });
        let upper = number(words, &["-x"], 0);
        let lower = number(words, &["-y"], 0);
        // A threshold that is raised or lifted ends the overload; one that is reached already begins it.
        known.limit = match (upper, known.limit.take()) {
            (0, _) => None,
            (_, Some(limit)) => {
                limit.edit(upper, lower);
                Some(limit)
            }
            _ => {
                let sessions = known.counters.active.get() + known.counters.inactive.get();
                Some(Arc::new(Limit::new(upper, lower, sessions)))
            }
        };
        let server = Server {
            id: known.id,
            address: address.ip(),
            port: address.port(),
            weight: number(words, &["-w"], 1),
            upper,
            counters: known.counters.clone(),
            others: known.others.clone(),
            limit: known.limit.clone(),
        };
        let mut servers = service.servers.clone();
        let at = servers.iter().position(|s| s.id == server.id);
        match (words[1], at) {
            ("-a", None) => servers.insert(0, server),
            ("-e", Some(at)) => servers[at] = server,
            ("-d", Some(at)) => drop(servers.remove(at)),
            _ => panic!("{words:?} can't have succeeded"),
        }
        service.changes += 1;
        service.replace(servers, false, &self.settings);
    }

    /// The key of the service that a packet belongs to.
    fn service_of(&self, protocol: &str, vip: SocketAddr) -> Option<String> {
        let marked = self.marks.iter().rev().find(|(net, length, _)| covers(*net, *length, vip.ip()));
        let marked = marked.map(|(.., mark)| format!("-f {mark}"));
        let exact = format!("{protocol} {vip}");
        let any_port = format!("{protocol} {}", SocketAddr::new(vip.ip(), 0));
        marked.into_iter().chain([exact, any_port]).find(|key| self.services.contains_key(key))
    }

    /// Schedules one packet; the server as the recording writes it, or `None` for refused.
    fn schedule(
        &mut self,
        protocol: &str,
        client: &str,
        vip: &str,
    ) -> Result<Option<String>, NeedsPacketPath> {
        let session = format!("{protocol} {client} {vip}");
        if protocol == "-u"
            && let Some((server, used)) = self.sessions.get_mut(&session)
            && self.now - *used < UDP_LIFE
        {
            *used = self.now;
            return Ok(Some(server.clone()));
        }
        let (client, vip): (SocketAddr, SocketAddr) = (client.parse().unwrap(), vip.parse().unwrap());
        let none = || NeedsPacketPath(format!("{protocol} {vip}, which has no service,"));
        let key = self.service_of(protocol, vip).ok_or_else(none)?;
        let service = self.services.get_mut(&key).expect("found");
        let flow = Flow {
            source: client.ip(),
            source_port: client.port(),
            destination: vip.ip(),
            destination_port: vip.port(),
            now: Tick::at(Ticks::seconds(self.now)),
        };
        let Some(chosen) = service.instance.schedule(&service.servers, &flow) else { return Ok(None) };
        let server = &service.servers[chosen];
        let port = if server.port == 0 { vip.port() } else { server.port };
        let chosen = SocketAddr::new(server.address, port).to_string();
        if protocol == "-u" && !service.one_packet {
            self.sessions.insert(session, (chosen.clone(), self.now));
        }
        Ok(Some(chosen))
    }

    /// Takes the counts over from an `after` or `snapshot`, which names services only if there are several.
    fn counts(&self, counts: &Value) {
        for (name, value) in counts.as_object().expect("object") {
            if let Some(numbers) = value.as_array() {
                let number = |i: usize| numbers[i].as_u64().expect("number") as u32;
                let service = self.services.values().next().expect("a service");
                service.set_counts(name, number(1), number(2));
                continue;
            }
            let (protocol, rest) = name.split_once(' ').expect("protocol and address");
            let option = match protocol {
                "TCP" => "-t",
                "UDP" => "-u",
                "FWM" => "-f",
                _ => panic!("service {name}"),
            };
            let mark = u32::from_str_radix(rest, 16).ok().filter(|_| option == "-f");
            let rest = mark.map_or_else(|| rest.to_owned(), |mark| mark.to_string());
            let service = self.services.get(&format!("{option} {rest}")).expect("a service that was added");
            for (address, numbers) in value.as_object().expect("object") {
                let number = |i: usize| numbers[i].as_u64().expect("number") as u32;
                service.set_counts(address, number(1), number(2));
            }
        }
    }
}

/// How a command names its service: the option and its value.
fn key(words: &[&str]) -> String {
    let at = words.iter().position(|w| ["-t", "-u", "-f"].contains(w)).expect("a service");
    format!("{} {}", words[at], words[at + 1])
}

fn covers(network: IpAddr, length: u32, address: IpAddr) -> bool {
    let bits = |a: IpAddr| match a {
        IpAddr::V4(a) => (u128::from(a.to_bits()) << 96, true),
        IpAddr::V6(a) => (a.to_bits(), false),
    };
    let ((network, a), (address, b)) = (bits(network), bits(address));
    a == b && (network ^ address).checked_shr(128 - length).is_none_or(|rest| rest == 0)
}

/// Replays a recording; the number of choices compared.
fn replay(recording: &Value) -> Result<usize, NeedsPacketPath> {
    let name = recording["name"].as_str().expect("name");
    let mut model = Model::default();
    let mut compared = 0;
    for (index, event) in recording["events"].as_array().expect("events").iter().enumerate() {
        let text = |field: &str| event[field].as_str().unwrap_or_else(|| panic!("{name} {index}: {field}"));
        match text("op") {
            "cmd" if event["status"] == 0 => model.command(text("cmd"))?,
            op @ ("open" | "syn" | "udp") => {
                let protocol = if op == "udp" { "-u" } else { "-t" };
                let chosen = model.schedule(protocol, text("client"), text("vip"))?;
                assert_eq!(chosen.as_deref(), event["server"].as_str(), "{name}, event {index}: {event}");
                compared += 1;
            }
            "sleep" => model.now += event["seconds"].as_f64().expect("seconds").round() as u32,
            "snapshot" => model.counts(&event["servers"]),
            "cmd" | "close" | "conns" => {}
            op => return Err(NeedsPacketPath(format!("the event {op:?}"))),
        }
        if event["after"].is_object() {
            model.counts(&event["after"]);
        }
    }
    Ok(compared)
}

fn main() -> ExitCode {
    let folder = golden().join("sched");
    let entries = fs::read_dir(&folder).into_iter().flatten();
    let mut files: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "json"));
    files.sort();
    let trial = |file: PathBuf| {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Trial::test(format!("golden_sched_model_{name}"), move || {
            let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
            let recording: Value =
                serde_json::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))?;
            match replay(&recording) {
                Ok(compared) => println!("{name}: {compared} choices equal"),
                Err(NeedsPacketPath(what)) => println!("{name}: SKIPPED, {what} needs the packet path"),
            }
            Ok(())
        })
    };
    libtest_mimic::run(&Arguments::from_args(), files.into_iter().map(trial).collect()).exit_code()
}
