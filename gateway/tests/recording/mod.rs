//! Replays a recording of the real IPVS against the real packet path and control code, in virtual time.
//!
//! Compared is all that a recording shows, and beside it that whatever leaves is what arrived ([`carried`]), that
//! what goes to the kernel is untouched, and every packet of `open`, `close` and `refused`. What may differ, and why:
//! - Timers are cut to seconds, and the recording's real clock went on between a packet and its listing: by less
//!   than a quarter of a second. A persistence template may be later, by what Linux's timer wheel is late.
//! - An entry listed with 00:00 may be gone here: Linux's timer wheel looks at long timers up to an eighth of
//!   their time late. Its server's counts are taken one lower then, until the next sleep.
//! - The 2 s tick of the estimator is not phase-locked to a scenario: a recording passes if its counts
//!   are right for one phase.
//! - A SYN that begins a finished connection anew ends the old entry; Linux counts it a moment longer.
//! - Packets that the recording machine's own stack sent are matched by a punted packet: resets for a virtual
//!   address without service, and replies that left untranslated.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use weir::{clock::TICKS_PER_SECOND, io::PortId};

use crate::rig::{LAN, Options, Rig, Sent, WAN};

mod aliases;
mod carried;
mod flows;
mod format;
mod listing;
mod nft;
mod rates;
pub mod samples;
mod seen;
mod shell;

use carried::same;
use flows::{Conn, destination, name};
use format::{Counts, Event, Matrix, Recording, SctpStep, Seen, Start, Step};
use seen::{packet, seen};

/// The folder of recordings: `WEIR_GOLDEN`, or beside the repository; a relative one is relative to its root.
pub fn folder() -> PathBuf {
    let named = std::env::var_os("WEIR_GOLDEN").filter(|name| !name.is_empty());
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(named.unwrap_or_else(|| "../shared/golden".into()))
}

/// The recordings of a kind in a folder, by name.
pub fn recordings(folder: &Path, kind: &str) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder.join(kind)) else { return Vec::new() };
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

/// Replays a recording with so many workers; the first difference, if any.
pub fn replay(path: &Path, workers: usize) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    replay_text(&text, workers).map_err(|e| format!("{}: {e}", path.display()))
}

fn replay_text(text: &str, workers: usize) -> Result<(), String> {
    let recording: Recording = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let timed = ["--rate", "--stats", "\"rate\"", "\"stats\""].iter().any(|word| text.contains(word));
    let phases = if timed { 40 } else { 1 };
    let mut furthest = (0, String::new());
    for phase in 0..phases {
        match Replay::new(&recording, f64::from(phase) * 0.05, workers).and_then(Replay::run) {
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
    workers: usize,
    arrivals: usize,
    /// Whether the last packet went to the kernel.
    punted: bool,
    conns: HashMap<String, Conn>,
    aliases: aliases::Aliases,
    lingering: HashMap<String, i64>,
    templates: listing::Templates,
    matrix_client: u16,
    /// How many commands of nft there were.
    nft: usize,
    /// An entry that was replaced by the last packet: its server.
    replaced: Option<String>,
    /// Background traffic of a rate scenario.
    traffic: Option<rates::Traffic>,
    start: f64,
}

impl<'a> Replay<'a> {
    fn new(recording: &'a Recording, phase: f64, workers: usize) -> Result<Self, (usize, String)> {
        let mut rig = Rig::with(&Options { workers, default_route: true, ..Options::default() });
        shell::settings(&mut rig, recording).map_err(|e| (0, e))?;
        rig.advance(2.0 + phase);
        let start = f64::from(rig.now().0) / f64::from(TICKS_PER_SECOND);
        Ok(Self {
            recording,
            rig,
            workers,
            arrivals: 0,
            punted: false,
            conns: HashMap::new(),
            aliases: aliases::Aliases::new(recording, workers),
            lingering: HashMap::new(),
            templates: listing::Templates::default(),
            matrix_client: 0,
            nft: 0,
            replaced: None,
            traffic: rates::Traffic::of(&recording.desc),
            start,
        })
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
            Event::Cmd { cmd, status, stdout, stderr } => self.command(cmd, *status, stdout, stderr),
            Event::Open(start) => self.open(start, true),
            Event::Syn(start) => self.open(start, false),
            Event::Udp(start) => self.datagram(start),
            Event::Close { conn, how, after } => self.close(&name(conn), how, after.as_ref()),
            Event::Packet(step) => self.step(step),
            Event::Sctp(step) => self.sctp(step),
            Event::Conns { lines, header } => {
                let command =
                    if header.is_some() { "ipvsadm -Lnc --persistent-conn" } else { "ipvsadm -Lnc" };
                let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
                self.listing(command, &lines, header.as_deref().as_slice())
            }
            Event::Sleep { seconds } => {
                self.lingering.clear();
                self.rig.advance(*seconds);
                Ok(())
            }
            Event::Snapshot { servers } => self.counts(servers),
            Event::Matrix(matrix) => self
                .matrix(matrix)
                .map_err(|e| format!("{:?} {} {}: {e}", matrix.path, matrix.dir, matrix.flags)),
            Event::Rate { t, lines } => self.counters(*t, "--rate", lines),
            Event::Stats { t, lines } => self.counters(*t, "--stats", lines),
        }
    }

    fn command(&mut self, cmd: &str, status: i32, stdout: &str, stderr: &str) -> Result<(), String> {
        if status == 0 && stdout.starts_with("IPVS connection entries\n") {
            let lines: Vec<&str> = stdout.lines().collect();
            let (header, lines) = lines.split_at(2.min(lines.len()));
            return self.listing(cmd, lines, header).map_err(|e| format!("{cmd}: {e}"));
        }
        let ours = shell::run(&mut self.rig, cmd, &mut self.nft)?;
        same(cmd, &ours, &(status, stdout.to_owned(), stderr.to_owned()))
    }

    fn open(&mut self, start: &Start, complete: bool) -> Result<(), String> {
        let id = self.begin(start, false)?;
        let sent = self.packet(&id, "c2s", "S", 0)?;
        self.chosen(&id, &sent, start)?;
        if complete && start.server.is_some() {
            self.whole_packet(&id, "s2c", "SA")?;
            self.whole_packet(&id, "c2s", "A")?;
        }
        start.after.as_ref().map_or(Ok(()), |after| self.counts(after))
    }

    fn datagram(&mut self, start: &Start) -> Result<(), String> {
        let id = self.begin(start, true)?;
        let sent = self.packet(&id, "c2s", "", 32)?;
        self.chosen(&id, &sent, start)?;
        start.after.as_ref().map_or(Ok(()), |after| self.counts(after))
    }

    /// Checks which server a first packet went to, and what the client got if to none.
    fn chosen(&mut self, id: &str, sent: &[Sent], start: &Start) -> Result<(), String> {
        let to = sent.iter().find(|s| s.port == LAN).map(|s| destination(&s.bytes)).transpose()?;
        // What is routed directly or in a tunnel doesn't show the server's port: the session does.
        let server = to.map(|shown| self.session_server(id).unwrap_or(shown));
        let ours = server.map(|end| std::net::SocketAddr::from(end).to_string());
        same("server", &ours, &start.server)?;
        self.conns.get_mut(id).ok_or("no connection")?.server = server;
        if server.is_some() {
            return self.went(id, "c2s", sent);
        }
        start.refused.as_ref().map_or(Ok(()), |refused| self.refused(id, sent, refused))
    }

    fn session_server(&mut self, id: &str) -> Option<flows::Endpoint> {
        let conn = self.conns.get(id).cloned()?;
        let sessions = self.rig.sessions();
        let of = |s: &&weir_api::model::Session| {
            (s.protocol, s.client, s.virtual_) == (conn.protocol, conn.client, conn.vip)
        };
        sessions.iter().find(of).map(|s| s.server)
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
            self.whole_packet(id, dir, flags)?;
        }
        after.map_or(Ok(()), |a| self.counts(a))
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let id = name(&step.conn);
        self.know(&id, step)?;
        self.unrecorded(&id, step)?;
        self.replaced = self.finished(&id).filter(|_| step.flags == "S" && step.dir == "c2s");
        let sent = if self.recording.desc.contains("Call-ID") {
            self.sip(&id, step.ip_len)?
        } else {
            self.packet(&id, &step.dir, &step.flags, step.payload)?
        };
        self.left_both(&id, &sent, &step.to_server, &step.to_client)?;
        self.state(&id, step.state.as_deref(), step.expire.as_deref())?;
        step.after.as_ref().map_or(Ok(()), |after| self.counts(after))
    }

    /// One packet of an association with a single chunk.
    fn sctp(&mut self, step: &SctpStep) -> Result<(), String> {
        let id = name(&step.conn);
        let sent = self.chunk(&id, step)?;
        self.left_both(&id, &sent, &step.to_server, &step.to_client)?;
        self.state(&id, step.state.as_deref(), step.expire.as_deref())?;
        step.after.as_ref().map_or(Ok(()), |after| self.counts(after))
    }

    fn left_both(&mut self, id: &str, sent: &[Sent], server: &[Seen], client: &[Seen]) -> Result<(), String> {
        self.left(LAN, sent, server)?;
        self.left(WAN, sent, client)?;
        if let (Some(first), Some(conn)) = (sent.iter().find(|s| s.port == LAN), self.conns.get_mut(id)) {
            conn.server = Some(destination(&first.bytes)?);
        }
        Ok(())
    }

    /// Compares what left by a port with what the recording saw there.
    fn left(&self, port: PortId, sent: &[Sent], recorded: &[Seen]) -> Result<(), String> {
        let ours: Result<Vec<Seen>, _> =
            sent.iter().filter(|s| s.port == port).map(|s| seen(packet(&s.bytes))).collect();
        let mut ours = ours?;
        ours.iter_mut().for_each(|seen| self.aliases.recorded_ends(seen));
        let from_server = |p: &Seen| flows::endpoint(&p.src).is_some_and(|e| flows::is_server(e.0));
        // The recording machine's kernel had no SCTP: it called the protocol unreachable.
        let unreachable = |p: &Seen| (p.kind, p.code) == (Some(3), Some(2));
        let by_stack = |p: &Seen| {
            from_server(p) || unreachable(p) || p.flags.as_deref().is_some_and(|f| f.starts_with('R'))
        };
        if ours.is_empty() && !recorded.is_empty() && recorded.iter().all(by_stack) && self.punted {
            return Ok(());
        }
        let all = ours.len() == recorded.len() && ours.iter().zip(recorded).all(|(o, r)| o.is(r));
        if all { Ok(()) } else { Err(format!("packets out: ours {ours:?}, recorded {recorded:?}")) }
    }

    /// The state and timer of a connection's session.
    fn state(&mut self, id: &str, state: Option<&str>, expire: Option<&str>) -> Result<(), String> {
        let Some(conn) = self.conns.get(id).cloned() else { return Ok(()) };
        let ours = self.rig.sessions();
        let ours = ours.iter().find(|s| s.client == conn.client && s.protocol == conn.protocol);
        same("state", &ours.map(|s| s.state.name()), &state)?;
        match (ours, expire) {
            (Some(s), Some(e)) => listing::same_time(s.expires, e, 0),
            _ => Ok(()),
        }
    }

    fn counts(&mut self, recorded: &Counts) -> Result<(), String> {
        let ours = shell::counts(&mut self.rig, recorded.by_service()).sorted();
        let mut expected = recorded.clone().sorted();
        for (server, n) in &self.lingering {
            if let Some(c) = expected.server(server) {
                c[2] -= n;
            }
        }
        if let Some(server) = self.replaced.take()
            && ours != expected
            && let Some(counts) = expected.server(&server)
        {
            counts[2] -= 1;
        }
        same("counts", &ours, &expected)
    }

    fn matrix(&mut self, m: &Matrix) -> Result<(), String> {
        self.matrix_client += 1;
        let client = (std::net::IpAddr::from([10, 1, 9, 1]), 30000 + self.matrix_client);
        let vip = self.configured_vip(false).ok_or("no service")?;
        let id = format!("matrix {}", self.matrix_client);
        let client = self.aliases.of(6, client);
        self.conns.insert(id.clone(), Conn::new(6, client, vip));
        for step in &m.path {
            let (dir, flags) = step.split_once(' ').ok_or("path")?;
            self.packet(&id, dir, flags, 0)?;
        }
        if m.start.is_some() {
            self.state(&id, m.start.as_deref(), m.start_expire.as_deref())
                .map_err(|e| format!("before the packet: {e}"))?;
        }
        let sent = self.packet(&id, &m.dir, &m.flags, 0)?;
        for (port, recorded) in [(LAN, &m.to_server), (WAN, &m.to_client)] {
            let Some(recorded) = recorded else { continue };
            let left = sent.iter().filter(|s| s.port == port);
            let ours: Result<Vec<String>, String> =
                left.map(|s| Ok(sorted(&seen(packet(&s.bytes))?.flags.unwrap_or_default()))).collect();
            same("packets out", &ours?, &recorded.iter().map(|f| sorted(f)).collect())?;
        }
        self.state(&id, m.state.as_deref(), m.expire.as_deref())
    }
}

/// Flag letters in one order.
fn sorted(flags: &str) -> String {
    let mut letters: Vec<char> = flags.chars().collect();
    letters.sort_unstable();
    letters.into_iter().collect()
}

/// With how many workers a recording is replayed: with several unless a persistent service's clients are some
/// other's by their addresses.
pub fn workers_of(path: &Path) -> Vec<usize> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    if text.contains(" -p ") || text.contains("--persistent ") || text.contains(" -p\"") {
        vec![1]
    } else {
        vec![1, 3]
    }
}
