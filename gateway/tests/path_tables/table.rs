//! Runs a table.

use weir::{io::memory::MemoryFrame, path::ingress::station::Stations};
use weir_api::ipvsadm::names::SystemNames;
use weirctl::ipvsadm::{Environment, ipvsadm};

use crate::{
    build, expect,
    fragments::{self, Piece},
    link::{self, Link},
    log::Reader,
    read,
    rig::{Options, Rig, Sent, WAN},
    words::{self, Names},
};

/// A table under way.
struct Run {
    rig: Rig,
    names: Names,
    /// What left since the last packet came, and is yet to be named.
    sent: Vec<Sent>,
    /// All counters before the last packet came.
    before: Vec<(String, u64)>,
    /// What went to the kernel since then, and wasn't named yet.
    to_kernel: Vec<Sent>,
    /// How many that were.
    punted: usize,
    arrivals: usize,
    /// Fragments that left and were named.
    pieces: Vec<Piece>,
    /// Whoever reads the session log.
    log: Option<Reader>,
}

/// Runs the lines of a table; every one that doesn't hold is told, as `NAME:LINE: ..`. After one the rest of
/// its gateway's lines are passed over. With `logged` the gateway keeps a session log, and every line is compared with it.
pub fn run(name: &str, text: &str, logged: bool) -> Result<(), String> {
    let mut errors = Vec::new();
    let mut run: Option<Run> = None;
    let mut options = Options::default();
    let mut failed = false;
    let mut last = 0;
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim()));
    for (n, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let begins = word == "table";
        if failed && !begins {
            continue;
        }
        let ended = if begins { run.take() } else { None };
        if let Err(e) = ended.filter(|_| !failed).map_or(Ok(()), |run| run.nothing_left()) {
            errors.push(format!("{name}:{last}: {e}"));
        }
        let done = if begins {
            options = Options::default();
            set(&mut options, rest.trim())
        } else {
            run.get_or_insert_with(|| Run::new(&options, logged)).logged_line(word, rest.trim())
        };
        failed = done.is_err();
        errors.extend(done.err().map(|e| format!("{name}:{n}: {line}\n  {e}")));
        last = n;
    }
    match run.filter(|_| !failed).map(|run| run.nothing_left()) {
        None if errors.is_empty() => errors.push(format!("{name}:{last}: there is nothing in the table")),
        Some(Err(e)) => errors.push(format!("{name}:{last}: {e}")),
        _ => {}
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
}

fn set(options: &mut Options, words: &str) -> Result<(), String> {
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('=').ok_or(format!("{word} isn't KEY=NUMBER"))?;
        let value: u16 = value.parse().map_err(|_| format!("{value} isn't a number"))?;
        match key {
            "workers" if value > 0 => options.workers = value.into(),
            "steered" => options.steered = value != 0,
            "mtu" => options.lan_mtu = value,
            "sessions" => options.max_sessions = value.into(),
            "last-port" => options.ports.1 = value,
            "wan-vlan" => options.vlans[0] = Some(value),
            "lan-vlan" => options.vlans[1] = Some(value),
            "one-device" => options.one_device = value != 0,
            "default" => options.default_route = value != 0,
            _ => return Err(format!("there is no {word}")),
        }
    }
    Ok(())
}

/// What a line says of how often, beside the packet.
struct Often {
    times: u32,
    /// Seconds between two.
    every: f64,
    counted: bool,
}

impl Often {
    /// Takes `x N` and `every SECONDS` out of the words.
    fn take(words: &mut Vec<String>) -> Result<Self, String> {
        let mut pair = |key: &str| {
            let at = words.iter().position(|word| word == key)?;
            let value = words.get(at + 1).cloned().unwrap_or_default();
            words.drain(at..(at + 2).min(words.len()));
            Some(value)
        };
        let (times, every) = (pair("x"), pair("every"));
        let wrong = |value: &String| format!("{value} isn't a number");
        Ok(Self {
            counted: times.is_some(),
            times: times.map_or(Ok(1), |n| n.parse().map_err(|_| wrong(&n)))?,
            every: every.map_or(Ok(0.0), |s| seconds(&s))?,
        })
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|s: &f64| s.is_finite() && *s >= 0.0);
    seconds.ok_or(format!("{text} isn't a number of seconds"))
}

/// `N`, or `FROM-TO`.
fn range(text: &str) -> Result<std::ops::RangeInclusive<u64>, String> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let parse = |n: &str| n.parse::<u64>().map_err(|_| format!("{text} isn't N or FROM-TO"));
    Ok(parse(from)?..=parse(to)?)
}

/// A result, or what was expected and what is.
fn expected(what: &str, holds: bool, got: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("expected: {what}\n  got:      {}", got())) }
}

impl Run {
    fn new(options: &Options, logged: bool) -> Self {
        let mut rig = Rig::with(options);
        let log = logged.then(|| Reader::new(&mut rig).expect("a log"));
        Self {
            rig,
            names: Names::new(),
            sent: Vec::new(),
            before: Vec::new(),
            to_kernel: Vec::new(),
            punted: 0,
            arrivals: 0,
            pieces: Vec::new(),
            log,
        }
    }

    fn logged_line(&mut self, word: &str, rest: &str) -> Result<(), String> {
        self.line(word, rest)?;
        self.log.as_mut().map_or(Ok(()), |log| log.read(&mut self.rig))
    }

    fn line(&mut self, word: &str, rest: &str) -> Result<(), String> {
        match word {
            ">" => self.arrives(words::split(rest)?),
            "<" => self.leaves(words::split(rest)?),
            "drop" | "event" => self.counted(rest),
            "counter" => self.counter(rest),
            "joined" => self.joined(rest),
            "flood" => self.flood(rest),
            "left" => self.left(rest),
            "punted" => {
                let due = range(if rest.is_empty() { "1" } else { rest })?;
                expected(&format!("punted: {due:?}"), due.contains(&(self.punted as u64)), || {
                    format!("{}; counted were {:?}", self.punted, self.changes())
                })
            }
            "sessions" => {
                let (due, held) = (range(rest)?, self.rig.session_count());
                expected(rest, due.contains(&(held as u64)), || held.to_string())
            }
            "wait" => {
                self.rig.advance(seconds(rest)?);
                Ok(())
            }
            "station" => {
                let stations: Result<Vec<_>, _> = rest.split_whitespace().map(link::station).collect();
                self.rig.store.plane_mut().set_stations(Stations::new(stations?));
                self.rig.run();
                Ok(())
            }
            "weirctl" => self.command(rest),
            "own" => {
                let parse = |word: &str| word.parse().map_err(|_| format!("{word} is no address"));
                let addresses: Result<Vec<_>, _> = rest.split_whitespace().map(parse).collect();
                self.rig.set_own(&addresses?);
                Ok(())
            }
            "sysctl" => {
                let (name, value) = rest.split_once('=').ok_or("not NAME=VALUE")?;
                self.rig.store.set_sysctl(name, value).map_err(|e| format!("{e:?}"))?;
                self.rig.run();
                Ok(())
            }
            _ => Err(format!("no line begins with {word}")),
        }
    }

    fn nothing_left(&self) -> Result<(), String> {
        let Some(sent) = self.sent.first() else { return Ok(()) };
        Err(format!("left as well, {} in all: {}", self.sent.len(), describe(sent)))
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
    fn arrives(&mut self, mut words: Vec<String>) -> Result<(), String> {
        self.nothing_left()?;
        let often = Often::take(&mut words)?;
        let queue = words.iter().position(|word| word.starts_with('@')).map(|at| words.remove(at));
        let wrong = |queue: &String| format!("{queue} isn't @WORKER");
        let queue: Option<usize> =
            queue.map(|queue| queue[1..].parse().map_err(|_| wrong(&queue))).transpose()?;
        if words.is_empty() {
            return Err("a packet arrives on a port".into());
        }
        let port = link::port(&words.remove(0))?;
        let link = Link::take(&mut words)?;
        self.before = self.counters();
        self.rig.take_punted();
        self.to_kernel.clear();
        self.punted = 0;
        for n in 0..often.times {
            if n > 0 && often.every > 0.0 {
                self.rig.advance(often.every);
            }
            let running: Result<Vec<_>, _> = words.iter().map(|word| words::running(word, n)).collect();
            let frame = link.frame(port, &build::build(&running?, &self.names)?);
            if port.is_twin() {
                self.sent.extend(self.rig.send_from_kernel(port.of_twin(), &frame));
            } else {
                let worker = queue.unwrap_or(self.arrivals) % self.rig.counters.len();
                self.sent.extend(self.rig.send_to(worker, port, MemoryFrame::new(&frame)));
                self.arrivals += 1;
            }
            let punted = self.rig.take_punted();
            self.punted += punted.len();
            self.to_kernel.extend(punted.into_iter().map(|sent| Sent { port: sent.port.twin(), ..sent }));
        }
        Ok(())
    }

    fn leaves(&mut self, mut words: Vec<String>) -> Result<(), String> {
        let often = Often::take(&mut words)?;
        for n in 0..often.times {
            let running: Result<Vec<_>, _> = words.iter().map(|word| words::running(word, n)).collect();
            let known = self.names.clone();
            let which = || if often.counted { format!("number {n}: ") } else { String::new() };
            self.one_leaves(&running?).map_err(|e| which() + &e)?;
            if often.counted {
                // What is met with in one of them may be something else in the next.
                self.names.retain(|name, _| known.contains_key(name) || name.contains('_'));
            }
        }
        Ok(())
    }

    fn one_leaves(&mut self, line: &[String]) -> Result<(), String> {
        let (name, packet) = line.split_first().ok_or("a packet leaves by a port")?;
        let port = link::port(name)?;
        let what = line.join(" ");
        let left = if port.is_twin() { &mut self.to_kernel } else { &mut self.sent };
        if left.is_empty() {
            return expected(&what, false, || format!("nothing; counted were {:?}", self.changes()));
        }
        let sent = left.remove(0);
        self.pieces.extend(Piece::read(link::packet(&sent.bytes)).ok().flatten());
        let is = link::read(&sent).is_ok_and(|actual| expect::matches(packet, &actual, &mut self.names));
        expected(&what, is && port == sent.port, || describe(&sent))
    }

    /// So many left, whatever they are.
    fn left(&mut self, rest: &str) -> Result<(), String> {
        let (due, sent) = (range(rest)?, std::mem::take(&mut self.sent));
        expected(rest, due.contains(&(sent.len() as u64)), || {
            format!("{}; counted were {:?}", sent.len(), self.changes())
        })
    }

    /// So many packets, each with an identification of its own, none of which may leave.
    fn flood(&mut self, rest: &str) -> Result<(), String> {
        let (count, packet) = rest.split_once(' ').ok_or("so many of what?")?;
        self.arrives(words::split(&format!("{packet} id=0+ x {count}"))?)?;
        self.nothing_left()
    }

    /// What the fragments that left are together.
    fn joined(&mut self, line: &str) -> Result<(), String> {
        let packet = read::read(&fragments::join(std::mem::take(&mut self.pieces))?)?;
        let is = expect::matches(&words::split(line)?, &packet, &mut self.names);
        expected(line, is, || shown(&packet))
    }

    fn counted(&self, rest: &str) -> Result<(), String> {
        let (name, due) = rest.split_once(char::is_whitespace).unwrap_or((rest, "1"));
        let due = range(due.trim())?;
        self.known(name)?;
        let by = self.changes().iter().find(|(n, _)| n == name).map_or(0, |(_, by)| *by);
        expected(&format!("{name} moved by {due:?}"), due.contains(&by), || format!("{:?}", self.changes()))
    }

    /// What a counter stands at.
    fn counter(&self, rest: &str) -> Result<(), String> {
        let (name, due) = rest.split_once(char::is_whitespace).ok_or("not counter NAME VALUE")?;
        let (due, is) = (range(due.trim())?, self.known(name)?);
        expected(rest, due.contains(&is), || is.to_string())
    }

    fn known(&self, name: &str) -> Result<u64, String> {
        let found = self.counters().into_iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value).ok_or(format!("there is no counter {name}"))
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
    let port = match sent.port {
        port if port == WAN => "wan",
        port if port == WAN.twin() => "wan-twin",
        port if port.is_twin() => "lan-twin",
        _ => "lan",
    };
    match link::read(sent) {
        Ok(packet) => format!("{port} {}", shown(&packet)),
        Err(e) => format!("{port} {e}"),
    }
}

/// A packet in words, but for payload that is too long to be read.
fn shown(packet: &[Vec<String>]) -> String {
    let mut packet = packet.to_vec();
    for layer in &mut packet {
        layer.retain(|word| word.len() < 140);
    }
    words::line(&packet)
}
