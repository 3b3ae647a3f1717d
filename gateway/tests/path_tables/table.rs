//! Runs a table.

use weir::io::{PortId, memory::MemoryFrame};
use weirctl::ipvsadm::{Environment, ipvsadm, names::SystemNames};

use crate::{
    fragments::{self, Piece},
    packet::{self, Names},
    rig::{LAN, Options, Rig, Sent, WAN, frames},
};

/// A table under way.
struct Run {
    rig: Rig,
    names: Names,
    /// What left since the last packet came, and is yet to be named.
    sent: Vec<Sent>,
    /// All counters before the last packet came.
    before: Vec<(String, u64)>,
    arrivals: usize,
    /// Fragments that left and were named.
    pieces: Vec<Piece>,
}

/// Runs the lines of a table; the first one that doesn't hold.
pub fn run(text: &str) -> Result<(), String> {
    let mut run: Option<Run> = None;
    let mut options = Options::default();
    for (n, line) in text.lines().enumerate().map(|(n, line)| (n + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        let done = match word {
            "table" => {
                if let Some(before) = run.take() {
                    before.nothing_left().map_err(|e| format!("line {n}: {e}"))?;
                }
                options = Options::default();
                set(&mut options, rest)
            }
            _ => {
                let run = run.get_or_insert_with(|| Run::new(&options));
                run.line(word, rest)
            }
        };
        done.map_err(|e| format!("line {n}: {line}\n  {e}"))?;
    }
    run.ok_or("the table is empty")?.nothing_left()
}

fn set(options: &mut Options, words: &str) -> Result<(), String> {
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('=').ok_or(format!("{word} isn't KEY=NUMBER"))?;
        let value = value.parse().map_err(|_| format!("{value} isn't a number"))?;
        match key {
            "workers" => options.workers = value,
            "mtu" => options.lan_mtu = value as u16,
            _ => return Err(format!("there is no {key}")),
        }
    }
    Ok(())
}

fn port(name: &str) -> Result<PortId, String> {
    match name {
        "wan" => Ok(WAN),
        "lan" => Ok(LAN),
        _ => Err(format!("{name} is no port: wan or lan")),
    }
}

/// A frame around a packet.
fn frame(port: PortId, packet: &[u8]) -> Vec<u8> {
    let (source, destination) = frames::arriving(port);
    let kind: [u8; 2] = if packet.first().is_some_and(|b| b >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
    [&destination[..], &source, &kind, packet].concat()
}

impl Run {
    fn new(options: &Options) -> Self {
        let rig = Rig::with(options);
        Self {
            rig,
            names: Names::new(),
            sent: Vec::new(),
            before: Vec::new(),
            arrivals: 0,
            pieces: Vec::new(),
        }
    }

    fn line(&mut self, word: &str, rest: &str) -> Result<(), String> {
        match word {
            ">" => self.arrives(rest),
            "<" => self.leaves(rest),
            "drop" | "event" => self.counted(rest),
            "joined" => self.joined(rest),
            "flood" => self.flood(rest),
            "punted" => {
                let punted = self.rig.take_punted().len();
                if punted == 1 { Ok(()) } else { Err(format!("{punted} were punted")) }
            }
            "sessions" => {
                let held = self.rig.session_count();
                if rest == held.to_string() { Ok(()) } else { Err(format!("there are {held} sessions")) }
            }
            "wait" => {
                self.rig.advance(rest.parse().map_err(|_| format!("{rest} isn't a number"))?);
                Ok(())
            }
            "weirctl" => self.command(rest),
            "sysctl" => {
                let (name, value) = rest.split_once('=').ok_or("not NAME=VALUE")?;
                self.rig.store.set_sysctl(name, value).map_err(|e| format!("{e:?}"))?;
                self.rig.run();
                Ok(())
            }
            _ => Err("what is that?".into()),
        }
    }

    fn nothing_left(&self) -> Result<(), String> {
        let Some(sent) = self.sent.first() else { return Ok(()) };
        Err(format!("left as well: {}", describe(sent)))
    }

    fn command(&mut self, line: &str) -> Result<(), String> {
        // Words are lines of what `-R` reads.
        let options = if line.starts_with('-') { line } else { "-R" };
        let words = std::iter::once("weirctl").chain(options.split_whitespace());
        let args: Vec<_> = words.map(Into::into).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let environment = Environment { names: &SystemNames, own: true };
        let mut input = std::io::Cursor::new(format!("{line}\n"));
        let status = ipvsadm(&args, &mut input, &mut self.rig, &mut out, &mut err, &environment);
        self.rig.run();
        if status == 0 { Ok(()) } else { Err(String::from_utf8_lossy(&err).into_owned()) }
    }

    /// Every packet arrives on the next worker's queue.
    fn arrives(&mut self, rest: &str) -> Result<(), String> {
        self.nothing_left()?;
        let (name, packet) = rest.split_once(char::is_whitespace).ok_or("a packet arrives on a port")?;
        let (port, packet) = (port(name)?, packet::build(packet, &self.names)?);
        let workers = self.rig.counters.len();
        self.before = self.counters();
        self.rig.take_punted();
        let frame = frame(port, &packet);
        let queue = rest.split_whitespace().find_map(|w| w.strip_prefix('@')?.parse().ok());
        let queue: usize = queue.unwrap_or(self.arrivals);
        self.sent = self.rig.send_to(queue % workers, port, MemoryFrame::new(&frame));
        self.arrivals += 1;
        Ok(())
    }

    fn leaves(&mut self, rest: &str) -> Result<(), String> {
        let (name, expected) = rest.split_once(char::is_whitespace).ok_or("a packet leaves by a port")?;
        if self.sent.is_empty() {
            return Err(format!("nothing left; counted were {:?}", self.changes()));
        }
        let sent = self.sent.remove(0);
        self.pieces.extend(Piece::read(&sent.bytes[14..]));
        let actual = describe(&sent);
        let macs = frames::leaving(sent.port);
        if sent.port != port(name)? || sent.bytes[..6] != macs.1 || sent.bytes[6..12] != macs.0 {
            return Err(format!("left by {:?} with {:x?}: {actual}", sent.port, &sent.bytes[..12]));
        }
        let packet = actual.split_once(' ').map_or("", |(_, packet)| packet);
        if packet::matches(expected, packet, &mut self.names) {
            Ok(())
        } else {
            Err(format!("left: {packet}"))
        }
    }

    /// So many packets, each with an identification of its own, none of which may leave.
    fn flood(&mut self, rest: &str) -> Result<(), String> {
        let (count, packet) = rest.split_once(' ').ok_or("so many of what?")?;
        for id in 0..count.parse::<u32>().map_err(|e| e.to_string())? {
            self.arrives(&format!("{packet} id={id}"))?;
        }
        self.nothing_left()
    }

    /// What the fragments that left are together.
    fn joined(&mut self, expected: &str) -> Result<(), String> {
        let packet = packet::read(&fragments::join(std::mem::take(&mut self.pieces))?)?;
        if packet::matches(expected, &packet, &mut self.names) {
            Ok(())
        } else {
            Err(format!("it is: {packet}"))
        }
    }

    fn counted(&self, name: &str) -> Result<(), String> {
        let changes = self.changes();
        if changes.iter().any(|(n, by)| n == name && *by == 1) { Ok(()) } else { Err(format!("{changes:?}")) }
    }

    fn counters(&self) -> Vec<(String, u64)> {
        let mut sums: Vec<(String, u64)> = Vec::new();
        for (name, _, count) in self.rig.counters.iter().flat_map(|c| c.all()) {
            match sums.iter_mut().find(|(n, _)| n == name) {
                Some((_, sum)) => *sum += count,
                None => sums.push((name.to_owned(), count)),
            }
        }
        sums
    }

    /// Counters that the last packet moved.
    fn changes(&self) -> Vec<(String, u64)> {
        let now = self.counters();
        let by = |((name, now), (_, before)): (&(String, u64), &(String, u64))| (name.clone(), now - before);
        now.iter().zip(&self.before).map(by).filter(|(name, by)| *by != 0 && !name.contains("poll")).collect()
    }
}

fn describe(sent: &Sent) -> String {
    let port = if sent.port == WAN { "wan" } else { "lan" };
    let kind = if sent.bytes[14] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
    if sent.bytes[12..14] != kind {
        return format!(
            "{port} EtherType {:x?} before IP version {}",
            &sent.bytes[12..14],
            sent.bytes[14] >> 4
        );
    }
    match packet::read(&sent.bytes[14..]) {
        Ok(packet) => format!("{port} {packet}"),
        Err(e) => format!("{port} unreadable ({e}): {:x?}", &sent.bytes[14..]),
    }
}
