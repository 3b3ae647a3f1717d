//! Replays a recording of the real IPVS against the real packet path and control code, in virtual time.
//!
//! What may differ, and why:
//! - Timers: within a second. Recordings ran on a real clock.
//! - An entry listed with 00:00 may be gone here: Linux's timer wheel looks at long timers up to an eighth of
//!   their time late. Its server's counts are taken one lower then, until the next sleep.
//! - The 2 s tick of the estimator is not phase-locked to a scenario: a recording passes if its figures
//!   are right for one phase.
//! - A SYN that begins a finished connection anew ends the old entry; Linux counts it a moment longer.
//! - Packets that the recording machine's own stack sent are matched by a punted packet: resets for a virtual
//!   address without service, and replies that left untranslated.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde_json::Value;
use weir::{clock::TICKS_PER_SECOND, io::PortId};

use crate::rig::{
    LAN, Rig, Sent, WAN,
    frames::{self, Tcp, Transport},
};

mod format;
mod shell;

use format::{Counts, Event, Matrix, Proto, Recording, SctpStep, Seen, Start, Step};

/// One end of a connection.
type Endpoint = (IpAddr, u16);

/// One connection of a recording.
#[derive(Clone, Debug)]
struct Conn {
    udp: bool,
    client: Endpoint,
    vip: Endpoint,
    server: Option<Endpoint>,
    sequence: [u32; 2],
}

/// Where recordings are: `WEIR_GOLDEN`, or beside the repository.
pub fn folder() -> PathBuf {
    std::env::var_os("WEIR_GOLDEN")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden"), PathBuf::from)
}

/// The recordings of a kind, by name.
pub fn recordings(kind: &str) -> Vec<(String, PathBuf)> {
    let dir = folder().join(kind);
    let Ok(entries) = std::fs::read_dir(&dir) else { return Vec::new() };
    let mut all: Vec<_> = entries
        .filter_map(|e| {
            let path = e.ok()?.path();
            let name = path.file_stem()?.to_str()?.to_owned();
            (path.extension()? == "json").then_some((name, path))
        })
        .collect();
    all.sort();
    all
}

/// Replays a recording; the first difference, if any.
pub fn replay(path: &std::path::Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let recording: Recording = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let timed = text.contains("--rate") || text.contains("--stats") || text.contains("\"rate\"");
    let phases = if timed { 40 } else { 1 };
    let mut furthest = (0, String::new());
    for phase in 0..phases {
        match Replay::new(&recording, f64::from(phase) * 0.05).run() {
            Ok(()) => return Ok(()),
            Err((at, difference)) if at >= furthest.0 => furthest = (at, difference),
            Err(_) => {}
        }
    }
    Err(furthest.1)
}

struct Replay<'a> {
    recording: &'a Recording,
    rig: Rig,
    conns: HashMap<String, Conn>,
    lingering: HashMap<String, i64>,
    matrix_client: u16,
    /// An entry that was replaced by the last packet: its server.
    replaced: Option<String>,
    /// Background traffic of a rate scenario.
    traffic: Option<Traffic>,
    start: f64,
}

/// So many connections a second for a while, each of a SYN, a SYN-ACK, an ACK and a segment of 60 bytes.
struct Traffic {
    a_second: f64,
    seconds: f64,
    opened: u32,
}

impl Traffic {
    /// From a recording's description.
    fn of(desc: &str) -> Option<Self> {
        let words: Vec<&str> = desc.split_whitespace().collect();
        let at = words.iter().position(|w| *w == "connections/s")?;
        let a_second = words.get(at.checked_sub(1)?)?.parse().ok()?;
        let mut after = words.iter().skip(at).skip_while(|w| **w != "for");
        Some(Self { a_second, seconds: after.nth(1)?.parse().ok()?, opened: 0 })
    }
}

fn name(conn: &Value) -> String {
    conn.as_str().map_or_else(|| conn.to_string(), str::to_owned)
}

fn endpoint(text: &str) -> Option<Endpoint> {
    text.parse::<SocketAddr>().ok().map(|a| (a.ip(), a.port()))
}

fn seconds(expire: &str) -> i64 {
    expire.split(':').fold(0, |total, part| total * 60 + part.parse::<i64>().unwrap_or(0))
}

fn same_time(ours: u32, recorded: &str) -> bool {
    (i64::from(ours / TICKS_PER_SECOND) - seconds(recorded)).abs() <= 1
}

impl<'a> Replay<'a> {
    fn new(recording: &'a Recording, phase: f64) -> Self {
        let mut rig = Rig::new();
        shell::settings(&mut rig, recording);
        rig.advance(2.0 + phase);
        let start = f64::from(rig.now().0) / f64::from(TICKS_PER_SECOND);
        Self {
            recording,
            rig,
            conns: HashMap::new(),
            lingering: HashMap::new(),
            matrix_client: 0,
            replaced: None,
            traffic: Traffic::of(&recording.desc),
            start,
        }
    }

    /// The number of the first event that differs, and how.
    fn run(mut self) -> Result<(), (usize, String)> {
        for (n, event) in self.recording.events.iter().enumerate() {
            self.event(event).map_err(|e| (n, format!("{} event {n}: {e}", self.recording.name)))?;
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Cmd { cmd, status, stdout, stderr } => {
                let ours = shell::run(&mut self.rig, cmd);
                let recorded = (*status, stdout.clone(), stderr.clone());
                if cmd.contains("-Lc") {
                    // Linux lists in the order of its hash table, and timers may differ by a second.
                    return same(cmd, &connections(&ours.1), &connections(stdout));
                }
                same(cmd, &ours, &recorded)
            }
            Event::Open(start) => self.open(start, true),
            Event::Syn(start) => self.open(start, false),
            Event::Udp(start) => self.datagram(start),
            Event::Close { conn, how, after } => self.close(&name(conn), how, after.as_ref()),
            Event::Packet(step) => self.step(step),
            Event::Sctp(step) => self.sctp(step),
            Event::Conns { lines, header } => self.conns(lines, header.as_deref()),
            Event::Sleep { seconds } => {
                self.lingering.clear();
                self.rig.advance(*seconds);
                Ok(())
            }
            Event::Snapshot { servers } => self.counts(servers),
            Event::Matrix(matrix) => self.matrix(matrix),
            Event::Rate { t, lines } => self.rate(*t, lines),
        }
    }

    fn open(&mut self, start: &Start, complete: bool) -> Result<(), String> {
        let conn = self.begin(start, false)?;
        let id = name(&start.conn);
        self.conns.insert(id.clone(), conn);
        let sent = self.packet(&id, "c2s", "S", 0);
        self.chosen(&id, &sent, start)?;
        if complete && start.server.is_some() {
            self.packet(&id, "s2c", "SA", 0);
            self.packet(&id, "c2s", "A", 0);
        }
        self.counts(&start.after)
    }

    fn datagram(&mut self, start: &Start) -> Result<(), String> {
        let conn = self.begin(start, true)?;
        let id = name(&start.conn);
        self.conns.insert(id.clone(), conn);
        let sent = self.packet(&id, "c2s", "", 32);
        self.chosen(&id, &sent, start)?;
        self.counts(&start.after)
    }

    fn begin(&self, start: &Start, udp: bool) -> Result<Conn, String> {
        let client = endpoint(&start.client).ok_or("client")?;
        let vip = endpoint(&start.vip).ok_or("vip")?;
        Ok(Conn { udp, client, vip, server: None, sequence: [1000, 5000] })
    }

    /// Checks which server a first packet went to.
    fn chosen(&mut self, id: &str, sent: &[Sent], start: &Start) -> Result<(), String> {
        let to: Vec<Endpoint> =
            sent.iter().filter(|s| s.port == LAN).map(|s| destination(&s.bytes)).collect();
        let ours = to.first().map(|(a, p)| SocketAddr::new(*a, *p).to_string());
        same("server", &ours, &start.server)?;
        if let Some(conn) = self.conns.get_mut(id) {
            conn.server = to.first().copied();
        }
        Ok(())
    }

    fn close(&mut self, id: &str, how: &str, after: Option<&Counts>) -> Result<(), String> {
        let steps: &[(&str, &str)] = match how {
            "client" => &[("c2s", "FA"), ("s2c", "FA"), ("c2s", "A")],
            "server" => &[("s2c", "FA"), ("c2s", "FA"), ("s2c", "A")],
            "client-rst" => &[("c2s", "R")],
            "server-rst" => &[("s2c", "R")],
            "client-half" => &[("c2s", "FA")],
            "server-half" => &[("s2c", "FA")],
            other => return Err(format!("no way to close called {other}")),
        };
        for (dir, flags) in steps {
            self.packet(id, dir, flags, 0);
        }
        after.map_or(Ok(()), |a| self.counts(a))
    }

    /// Sends one packet of a connection and returns what left.
    fn packet(&mut self, id: &str, dir: &str, flags: &str, payload: usize) -> Vec<Sent> {
        let Some(conn) = self.conns.get_mut(id) else { return Vec::new() };
        let me = usize::from(dir == "s2c");
        let server = conn.server.unwrap_or((IpAddr::from([10, 0, 0, 1]), conn.vip.1));
        let (port, from, to) =
            if me == 0 { (WAN, conn.client, conn.vip) } else { (LAN, server, conn.client) };
        let body = vec![0x55; payload];
        let frame = if conn.udp {
            frames::udp(port, from, to, &body)
        } else {
            let ack = if flags.contains('A') { conn.sequence[1 - me] } else { 0 };
            let tcp = Tcp { flags, seq: conn.sequence[me], ack };
            let control = flags.chars().filter(|c| matches!(c, 'S' | 'F')).count();
            conn.sequence[me] += (payload + control) as u32;
            frames::tcp(port, from, to, tcp, &body)
        };
        self.rig.send(port, &frame)
    }

    /// Sends a SIP message in a packet of `len` bytes. The recorder named its connections after their
    /// Call-IDs: those of `a` and `a2` are `aaa@host`, `bad` has none.
    fn sip(&mut self, id: &str, len: usize) -> Vec<Sent> {
        let Some(conn) = self.conns.get(id) else { return Vec::new() };
        let mut message = String::from("OPTIONS sip:x\r\n");
        if id != "bad" {
            message += &format!("Call-ID: {}@host\r\n", id[..1].repeat(3));
        }
        let mut message = message.into_bytes();
        message.resize(len - 28, b'\n');
        self.rig.send(WAN, &frames::udp(WAN, conn.client, conn.vip, &message))
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let id = name(&step.conn);
        self.know(&id, step)?;
        self.unrecorded(&id, step);
        self.replaced = self.finished(&id).filter(|_| step.flags == "S" && step.dir == "c2s");
        let sent = if self.recording.desc.contains("Call-ID") {
            self.sip(&id, step.ip_len)
        } else {
            self.packet(&id, &step.dir, &step.flags, step.payload)
        };
        let punted = self.rig.take_punted();
        self.left(LAN, &sent, &step.to_server, &punted)?;
        self.left(WAN, &sent, &step.to_client, &punted)?;
        if let (Some(first), Some(conn)) = (sent.iter().find(|s| s.port == LAN), self.conns.get_mut(&id)) {
            conn.server = Some(destination(&first.bytes));
        }
        self.state(&id, step.state.as_deref(), step.expire.as_deref())?;
        self.counts(&step.after)
    }

    /// One packet of an association with a single chunk. The recorder numbered its clients by association.
    fn sctp(&mut self, step: &SctpStep) -> Result<(), String> {
        let id = name(&step.conn);
        let vip = self.configured_service("--sctp-service ").ok_or("no service")?;
        if !self.conns.contains_key(&id) {
            let client = (IpAddr::from([10, 1, 0, self.conns.len() as u8 + 1]), 5000);
            let conn = Conn { udp: false, client, vip, server: None, sequence: [0, 0] };
            self.conns.insert(id.clone(), conn);
        }
        let conn = self.conns[&id].clone();
        let server = conn.server.unwrap_or((IpAddr::from([10, 0, 0, 1]), vip.1));
        let (port, from, to) =
            if step.dir == "c2s" { (WAN, conn.client, vip) } else { (LAN, server, conn.client) };
        const CHUNKS: [&str; 15] = [
            "DATA",
            "INIT",
            "INIT_ACK",
            "SACK",
            "HEARTBEAT",
            "HEARTBEAT_ACK",
            "ABORT",
            "SHUTDOWN",
            "SHUTDOWN_ACK",
            "ERROR",
            "COOKIE_ECHO",
            "COOKIE_ACK",
            "ECNE",
            "CWR",
            "SHUTDOWN_COMPLETE",
        ];
        let kind = CHUNKS.iter().position(|c| *c == step.chunk).ok_or(format!("chunk {}", step.chunk))?;
        let len = step.ip_len - 20;
        let mut packet = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
        packet.extend([0, 0, 0, 7, 0, 0, 0, 0, kind as u8, 0, 0, (len - 12) as u8]);
        packet.resize(len, 0x5a);
        let sum = checksum(&packet);
        packet[8..12].copy_from_slice(&sum);
        let sent = self.rig.send(port, &frames::other(port, from.0, to.0, 132, &packet));
        let punted = self.rig.take_punted();
        self.left(LAN, &sent, &step.to_server, &punted)?;
        self.left(WAN, &sent, &step.to_client, &punted)?;
        if let (Some(first), Some(conn)) = (sent.iter().find(|s| s.port == LAN), self.conns.get_mut(&id)) {
            conn.server = endpoint(&seen(&first.bytes).dst);
        }
        let sessions = self.rig.sessions();
        let ours = sessions.iter().find(|s| s.client == conn.client && s.protocol == 132);
        same("state", &ours.map(|s| s.state.name()), &step.state.as_deref())?;
        if let (Some(ours), Some(expire)) = (ours, &step.expire)
            && !same_time(ours.expires, expire)
        {
            return Err(format!("expires in {} ticks, recorded {expire}", ours.expires));
        }
        self.counts(&step.after)
    }

    /// Some recordings leave the server's SYN-ACK and FIN out; the numbers of the next packet show them.
    fn unrecorded(&mut self, id: &str, step: &Step) {
        let seen = if step.dir == "c2s" {
            step.to_server.first().and_then(|p| p.ack)
        } else {
            step.to_client.first().and_then(|p| p.seq)
        };
        for (sequence, flags) in [(5000, "SA"), (5001, "FA")] {
            let here = self.conns.get(id).filter(|c| !c.udp && c.sequence[1] == sequence);
            if here.is_some_and(|c| c.sequence[0] > 1000) && seen.is_some_and(|s| s > sequence && s < 5003) {
                self.packet(id, "s2c", flags, 0);
            }
        }
    }

    /// The server of a connection whose session is in TIME_WAIT or CLOSE.
    fn finished(&mut self, id: &str) -> Option<String> {
        let client = self.conns.get(id)?.client;
        let sessions = self.rig.sessions();
        let s = sessions.iter().find(|s| s.client == client)?;
        matches!(s.state.name(), "TIME_WAIT" | "CLOSE")
            .then(|| SocketAddr::new(s.server.0, s.server.1).to_string())
    }

    /// Takes a connection's endpoints from whichever packets of the recording show them.
    fn know(&mut self, id: &str, step: &Step) -> Result<(), String> {
        if self.conns.contains_key(id) {
            return Ok(());
        }
        let udp = step.flags.is_empty() && !id.is_empty() && self.proto(id).is_some_and(|p| p.is("udp"))
            || step.flags.is_empty() && self.proto(id).is_none();
        let (mut client, mut vip) = (None, None);
        for s in self.steps(id) {
            for p in &s.to_server {
                client = client.or(endpoint(&p.src));
            }
            for p in &s.to_client {
                if !(p.proto.is("icmp") || p.proto.is("icmp6")) {
                    client = client.or(endpoint(&p.dst));
                    vip = vip.or(endpoint(&p.src).filter(|e| !is_server(e.0)));
                } else {
                    client = client.or(p.dst.parse().ok().map(|a| (a, 20063)));
                }
            }
        }
        let client =
            client.or_else(|| self.listed_client()).ok_or_else(|| format!("nothing tells who {id} is"))?;
        let vip = vip.or_else(|| self.configured_vip(udp)).ok_or("no virtual address is known")?;
        let conn = Conn { udp, client, vip, server: None, sequence: [1000, 5000] };
        self.conns.insert(id.to_owned(), conn);
        Ok(())
    }

    /// The client of the first listed connection: all that shows who it is where packets leave in tunnels.
    fn listed_client(&self) -> Option<Endpoint> {
        let (address, port) = self.recording.events.iter().find_map(|e| match e {
            Event::Conns { lines, .. } => endpoint(lines.first()?.split_whitespace().nth(3)?),
            _ => None,
        })?;
        // A template's is no port.
        Some((address, if port == 0 { 20063 } else { port }))
    }

    fn steps(&self, id: &str) -> impl Iterator<Item = &'a Step> {
        let id = id.to_owned();
        self.recording.events.iter().filter_map(move |e| match e {
            Event::Packet(step) if name(&step.conn) == id => Some(step),
            _ => None,
        })
    }

    fn proto(&self, id: &str) -> Option<Proto> {
        self.steps(id)
            .flat_map(|s| s.to_server.iter().chain(&s.to_client))
            .find(|p| !p.proto.is("icmp"))
            .map(|p| p.proto.clone())
    }

    fn configured_vip(&self, udp: bool) -> Option<Endpoint> {
        self.configured_service(if udp { "-u " } else { "-t " })
    }

    fn configured_service(&self, option: &str) -> Option<Endpoint> {
        self.recording.events.iter().find_map(|e| match e {
            Event::Cmd { cmd, .. } if cmd.contains("-A ") => {
                let rest = cmd.split_once(option)?.1;
                endpoint(rest.split(' ').next()?)
            }
            _ => None,
        })
    }

    /// Compares what left by a port with what the recording saw there.
    fn left(&self, port: PortId, sent: &[Sent], recorded: &[Seen], punted: &[Sent]) -> Result<(), String> {
        let ours: Vec<Seen> = sent.iter().filter(|s| s.port == port).map(|s| seen(&s.bytes)).collect();
        let from_server = |p: &Seen| endpoint(&p.src).is_some_and(|e| is_server(e.0));
        // The recording machine's kernel had no SCTP: it called the protocol unreachable.
        let unreachable = |p: &Seen| (p.kind, p.code) == (Some(3), Some(2));
        let by_stack = |p: &Seen| {
            from_server(p) || unreachable(p) || p.flags.as_deref().is_some_and(|f| f.starts_with('R'))
        };
        if ours.is_empty() && !recorded.is_empty() && recorded.iter().all(by_stack) && !punted.is_empty() {
            return Ok(());
        }
        same("packets out", &ours, &recorded.to_vec())
    }

    /// The state and timer of a connection's session.
    fn state(&mut self, id: &str, state: Option<&str>, expire: Option<&str>) -> Result<(), String> {
        let Some(conn) = self.conns.get(id).cloned() else { return Ok(()) };
        let protocol = if conn.udp { 17 } else { 6 };
        let ours =
            self.rig.sessions().into_iter().find(|s| s.client == conn.client && s.protocol == protocol);
        same("state", &ours.as_ref().map(|s| s.state.name()), &state)?;
        match (ours, expire) {
            (Some(s), Some(e)) if !same_time(s.expires, e) => {
                Err(format!("expires in {} ticks, recorded {e}", s.expires))
            }
            _ => Ok(()),
        }
    }

    fn counts(&mut self, recorded: &Counts) -> Result<(), String> {
        let ours = shell::counts(&mut self.rig, recorded.by_service());
        let mut expected = recorded.flat();
        for (server, n) in &self.lingering {
            if let Some(c) = expected.get_mut(server) {
                c[2] -= n;
            }
        }
        let moment = self.replaced.take().and_then(|s| Some((s.clone(), *expected.get(&s)?)));
        if let Some((server, [weight, active, inactive])) = moment
            && ours != expected
        {
            expected.insert(server, [weight, active, inactive - 1]);
        }
        same("counts", &ours, &expected)
    }

    fn conns(&mut self, recorded: &[String], header: Option<&str>) -> Result<(), String> {
        let command = if header.is_some() { "ipvsadm -Lnc --persistent-conn" } else { "ipvsadm -Lnc" };
        let (status, stdout, _) = shell::run(&mut self.rig, command);
        if let Some(header) = header {
            same("header", &stdout.lines().nth(1), &Some(header))?;
        }
        let mut ours: Vec<String> = stdout.lines().skip(2).map(|l| l.trim_end().to_owned()).collect();
        same("status of -Lnc", &status, &0)?;
        let key = |l: &str| {
            let mut words: Vec<&str> = l.split_whitespace().collect();
            let expire = words.remove(1).to_owned();
            (words.join(" "), expire)
        };
        for line in recorded {
            let (who, expire) = key(line);
            match ours.iter().position(|l| key(l).0 == who) {
                Some(at) => {
                    let (_, our_expire) = key(&ours.remove(at));
                    if (seconds(&our_expire) - seconds(&expire)).abs() > 1 {
                        return Err(format!("{line:?} here expires in {our_expire}"));
                    }
                }
                None if expire == "00:00" => {
                    let server = who.rsplit(' ').next().unwrap_or_default();
                    *self.lingering.entry(server.to_owned()).or_default() += 1;
                }
                None => return Err(format!("no session {line:?} here")),
            }
        }
        if ours.is_empty() { Ok(()) } else { Err(format!("sessions here only: {ours:?}")) }
    }

    fn matrix(&mut self, m: &Matrix) -> Result<(), String> {
        self.matrix_client += 1;
        let client = (IpAddr::from([10, 1, 9, 1]), 30000 + self.matrix_client);
        let vip = self.configured_vip(false).ok_or("no service")?;
        let id = format!("matrix {}", self.matrix_client);
        self.conns.insert(id.clone(), Conn { udp: false, client, vip, server: None, sequence: [1000, 5000] });
        for step in &m.path {
            let (dir, flags) = step.split_once(' ').ok_or("path")?;
            self.packet(&id, dir, flags, 0);
        }
        let sent = self.packet(&id, &m.dir, &m.flags, 0);
        for (port, recorded) in [(LAN, &m.to_server), (WAN, &m.to_client)] {
            let ours: Vec<String> = sent
                .iter()
                .filter(|s| s.port == port)
                .map(|s| sorted(frames::read(&s.bytes).tcp().2))
                .collect();
            let recorded: Vec<String> = recorded.iter().map(|f| sorted(f)).collect();
            same(&format!("{:?} {} {}", m.path, m.dir, m.flags), &ours, &recorded)?;
        }
        self.state(&id, m.state.as_deref(), m.expire.as_deref())
            .map_err(|e| format!("{:?} {} {}: {e}", m.path, m.dir, m.flags))
    }

    /// Moves on to `t` seconds after the start, opening the connections of the background traffic on time.
    fn traffic_until(&mut self, t: f64) {
        while let Some(traffic) = &mut self.traffic {
            let at = f64::from(traffic.opened) / traffic.a_second;
            if at > t || at >= traffic.seconds {
                break;
            }
            traffic.opened += 1;
            let n = traffic.opened;
            self.advance_to(at);
            let client = (IpAddr::from(Ipv4Addr::from(0x0a01_0800 + n)), 20000);
            let Some(vip) = self.configured_vip(false) else { return };
            let id = format!("traffic {n}");
            let conn = Conn { udp: false, client, vip, server: None, sequence: [1000, 5000] };
            self.conns.insert(id.clone(), conn);
            for (dir, flags, payload) in
                [("c2s", "S", 0), ("s2c", "SA", 0), ("c2s", "A", 0), ("c2s", "PA", 60)]
            {
                self.packet(&id, dir, flags, payload);
            }
        }
        self.advance_to(t);
    }

    fn advance_to(&mut self, t: f64) {
        let now = f64::from(self.rig.now().0) / f64::from(TICKS_PER_SECOND);
        if self.start + t > now {
            self.rig.advance(self.start + t - now);
        }
    }

    /// Listed rates at a moment of the scenario.
    fn rate(&mut self, t: f64, recorded: &[String]) -> Result<(), String> {
        self.traffic_until(t);
        let (_, stdout, _) = shell::run(&mut self.rig, "ipvsadm -Ln --rate --exact");
        let ours: Vec<String> = stdout.lines().skip(3).map(str::to_owned).collect();
        same("rates", &ours, &recorded.to_vec())
    }
}

/// A listing of connections in an order of its own, without timers.
fn connections(listing: &str) -> Vec<String> {
    let without_timer = |line: &str| match line.split_once(' ') {
        Some((protocol, rest)) => format!("{protocol} {}", rest.get(5..).unwrap_or_default()),
        None => line.to_owned(),
    };
    let mut lines: Vec<String> = listing.lines().map(without_timer).collect();
    lines.sort();
    lines
}

/// Where a packet towards the servers goes: a tunnel's has no port.
fn destination(frame: &[u8]) -> Endpoint {
    if is_ipv6(frame) {
        let seen = seen_v6(&frame[14..]);
        return endpoint(&seen.dst).unwrap_or_else(|| (seen.dst.parse().expect("an address"), 0));
    }
    let read = frames::read(frame);
    let (address, port) = match read.transport {
        Transport::Tcp { .. } => read.tcp().1,
        Transport::Udp { .. } => read.udp().1,
        _ => (read.destination, 0),
    };
    (address.into(), port)
}

/// Whether an address is one of the recordings' servers'.
fn is_server(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.octets()[0] == 10,
        IpAddr::V6(a) => a.segments()[..3] == [0x2001, 0xdb8, 1],
    }
}

fn is_ipv6(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xdd]
}

/// An IPv6 packet as the recordings write packets.
fn seen_v6(packet: &[u8]) -> Seen {
    let sliced = etherparse::SlicedPacket::from_ip(packet).expect("a packet that can be read");
    let Some(etherparse::NetSlice::Ipv6(ip)) = &sliced.net else { panic!("no IPv6") };
    let header = ip.header();
    let (from, to) = (header.source_addr(), header.destination_addr());
    let named = |name: &str| Proto::Name(name.into());
    let text = |address, port| SocketAddr::new(IpAddr::V6(address), port).to_string();
    let mut seen = Seen {
        len: packet.len(),
        proto: Proto::Number(ip.payload().ip_number.0),
        src: from.to_string(),
        dst: to.to_string(),
        flags: None,
        seq: None,
        ack: None,
        kind: None,
        code: None,
        chunk: None,
    };
    match &sliced.transport {
        Some(etherparse::TransportSlice::Tcp(tcp)) => {
            let h = tcp.to_header();
            let due = h.calc_checksum_ipv6_raw(from.octets(), to.octets(), tcp.payload());
            assert_eq!(Ok(h.checksum), due, "TCP checksum");
            (seen.proto, seen.flags) = (named("tcp"), Some(frames::flags(&h)));
            (seen.seq, seen.ack) = (Some(h.sequence_number), Some(h.acknowledgment_number));
            (seen.src, seen.dst) = (text(from, h.source_port), text(to, h.destination_port));
        }
        Some(etherparse::TransportSlice::Udp(udp)) => {
            seen.proto = named("udp");
            (seen.src, seen.dst) = (text(from, udp.source_port()), text(to, udp.destination_port()));
        }
        Some(etherparse::TransportSlice::Icmpv6(icmp)) => {
            let due = icmp.icmp_type().calc_checksum(from.octets(), to.octets(), icmp.payload());
            assert_eq!(Ok(icmp.checksum()), due, "ICMPv6 checksum");
            (seen.proto, seen.kind, seen.code) = (named("icmp6"), Some(icmp.type_u8()), Some(icmp.code_u8()));
        }
        _ => {}
    }
    seen
}

/// Flag letters in one order.
fn sorted(flags: &str) -> String {
    let mut letters: Vec<char> = flags.chars().collect();
    letters.sort_unstable();
    letters.into_iter().collect()
}

/// A frame as the recordings write packets.
fn seen(frame: &[u8]) -> Seen {
    if is_ipv6(frame) {
        return seen_v6(&frame[14..]);
    }
    let read = frames::read(frame);
    let named = |name: &str| Proto::Name(name.into());
    let (proto, ports, flags, seq, ack, kind) = match &read.transport {
        Transport::Tcp { source, destination, flags, seq, ack, .. } => {
            (named("tcp"), Some((*source, *destination)), Some(flags.clone()), Some(*seq), Some(*ack), None)
        }
        Transport::Udp { source, destination, .. } => {
            (named("udp"), Some((*source, *destination)), None, None, None, None)
        }
        Transport::Icmp { kind, .. } => (named("icmp"), None, None, None, None, Some(kind.header_bytes())),
        Transport::Other { protocol: 132, payload } => return seen_sctp(&read, payload),
        Transport::Other { protocol, .. } => (Proto::Number(*protocol), None, None, None, None, None),
    };
    let text = |address: Ipv4Addr, port: Option<u16>| {
        port.map_or_else(|| address.to_string(), |p| format!("{address}:{p}"))
    };
    Seen {
        len: read.total_len.into(),
        proto,
        src: text(read.source, ports.map(|p| p.0)),
        dst: text(read.destination, ports.map(|p| p.1)),
        flags,
        seq,
        ack,
        kind: kind.map(|k| k.0),
        code: kind.map(|k| k.1),
        chunk: None,
    }
}

/// An SCTP packet, its checksum verified.
fn seen_sctp(read: &frames::Read, packet: &[u8]) -> Seen {
    assert_eq!(packet[8..12], checksum(packet), "SCTP checksum");
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    Seen {
        len: read.total_len.into(),
        proto: Proto::Name("sctp".into()),
        src: format!("{}:{}", read.source, port(0)),
        dst: format!("{}:{}", read.destination, port(2)),
        flags: None,
        seq: None,
        ack: None,
        kind: None,
        code: None,
        chunk: Some(packet[12]),
    }
}

/// SCTP's checksum as it lies in the header.
fn checksum(packet: &[u8]) -> [u8; 4] {
    let mut packet = packet.to_vec();
    packet[8..12].fill(0);
    crc32c::crc32c(&packet).to_le_bytes()
}

trait HeaderBytes {
    fn header_bytes(&self) -> (u8, u8);
}

impl HeaderBytes for etherparse::Icmpv4Type {
    fn header_bytes(&self) -> (u8, u8) {
        let bytes = etherparse::Icmpv4Header::new(self.clone()).to_bytes();
        (bytes[0], bytes[1])
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, ours: &T, recorded: &T) -> Result<(), String> {
    if ours == recorded { Ok(()) } else { Err(format!("{what}: ours {ours:?}, recorded {recorded:?}")) }
}
