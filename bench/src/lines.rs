//! `lines`: the cache lines that a packet touches, and whether two workers share any.
//!
//! Two workers under one control play established connections in process, one after the other, while valgrind's
//! lackey writes down every load and store:
//!
//! ```text
//! worker 1, both directions | worker 2, both directions | worker 1: requests | replies | the generator alone
//! ```
//!
//! A phase plays each connection once, so that lines which belong to a connection are counted once a packet and those
//! that all packets touch hardly at all. What two workers share is a line that one of them stores to and the other
//! stores to or loads: such a line would travel between their caches. The stack is left out; each worker has its own
//! where they are threads.

use std::{
    collections::HashMap,
    env,
    io::{self, BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use clap::Args;
use serde_json::json;
use weir::{clock::Tick, path::Worker};

use crate::{
    conversations::{self, Conversations, ScriptedPacket},
    error::{Error, Result},
    replay::{Setup, workers},
    report::write_json,
};

/// What to play.
#[derive(Args, Debug)]
pub struct Options {
    /// Connections of each worker.
    #[arg(long, default_value_t = 1_000)]
    flows: u32,
    /// Play, for valgrind to watch.
    #[arg(long, hide = true)]
    inner: bool,
    /// Also write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Storing to the one of a phase begins it; to the last one, ends.
static MARKS: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];
/// The first word of the line that says where marks and stack are.
const PLACES: &str = "weir-bench-places";
/// What a thread's stack is taken to reach down to, and up, from a variable of an outer function.
const STACK: (u64, u64) = (4 << 20, 1 << 16);
const LINE: u64 = 64;

/// In a line of its own, as what belongs to a thread is.
#[repr(align(128))]
struct Apart<T>(T);

/// Plays.
fn play(flows: u32) -> Result<()> {
    let variable = 0u64;
    // At one go: lackey writes to the same stream.
    let places = format!("{PLACES} {:p} {:p}\n", &MARKS, &raw const variable);
    io::stderr().write_all(places.as_bytes()).map_err(Error::file("standard error"))?;
    let both = (0..2).map(|_| Conversations::new(flows, &conversations::OPENING, false)).collect();
    let (workers, _control) = workers(both, &Setup::default(), flows, Default::default())?;
    let mut workers: Vec<_> = workers.into_iter().map(Apart).collect();
    for Apart(worker) in &mut workers {
        send(worker, flows as usize * conversations::OPENING.len());
        for script in [&conversations::BOTH[..], &conversations::REQUESTS, &conversations::REPLIES] {
            phase(worker, script, flows);
        }
        if worker.io_mut().open() != flows as usize {
            return Err(Error::Unexpected(format!(
                "{} of {flows} connections opened",
                worker.io_mut().open()
            )));
        }
    }
    let [Apart(first), Apart(second)] = &mut workers[..] else { return Ok(()) };
    MARKS[0].store(1, Relaxed);
    phase(first, &conversations::BOTH, flows);
    MARKS[1].store(1, Relaxed);
    phase(second, &conversations::BOTH, flows);
    MARKS[2].store(1, Relaxed);
    phase(first, &conversations::REQUESTS, flows);
    MARKS[3].store(1, Relaxed);
    phase(first, &conversations::REPLIES, flows);
    MARKS[4].store(1, Relaxed);
    first.io_mut().go_on(&conversations::REQUESTS);
    first.io_mut().alone(flows as usize);
    MARKS[5].store(1, Relaxed);
    Ok(())
}

/// Plays a script once in every connection.
fn phase(worker: &mut Worker<Conversations>, script: &'static [ScriptedPacket], flows: u32) {
    worker.io_mut().go_on(script);
    send(worker, script.len() * flows as usize);
}

fn send(worker: &mut Worker<Conversations>, packets: usize) {
    worker.io_mut().allowance = packets;
    while worker.io_mut().allowance > 0 {
        worker.poll(Tick(0));
    }
}

/// Lines by what touched them: two bits a phase, loaded and stored.
#[derive(Default)]
struct Touched {
    lines: HashMap<u64, u16>,
    marks: Option<u64>,
    stack: u64,
    /// 0 before the first.
    phase: usize,
}

impl Touched {
    /// Takes a line of lackey's: ` L 1ffeffff40,8`, ` S`, ` M` (both); or the one that says where things are.
    fn take(&mut self, line: &str) {
        if let Some(places) = line.strip_prefix(PLACES) {
            let hex = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
            let mut places = places.split_whitespace().map_while(hex);
            (self.marks, self.stack) = (places.next(), places.next().unwrap_or(0));
            return;
        }
        let Some(marks) = self.marks else { return };
        let (kind, rest) = match line.as_bytes() {
            [b' ', kind @ (b'L' | b'S' | b'M'), b' ', ..] => (*kind, &line[3..]),
            _ => return,
        };
        let Some((address, size)) = rest.split_once(',') else { return };
        let (Ok(address), Ok(size)) = (u64::from_str_radix(address.trim(), 16), size.trim().parse::<u64>())
        else {
            return;
        };
        if (marks..marks + 8 * MARKS.len() as u64).contains(&address) {
            self.phase = ((address - marks) / 8) as usize + 1;
            return;
        }
        let stack = self.stack - STACK.0..self.stack + STACK.1;
        if self.phase == 0 || self.phase == MARKS.len() || stack.contains(&address) {
            return;
        }
        let bits = match kind {
            b'L' => 1,
            b'S' => 2,
            _ => 3,
        } << (2 * (self.phase - 1));
        for line in address / LINE..=(address + size.max(1) - 1) / LINE {
            *self.lines.entry(line).or_default() |= bits;
        }
    }

    /// Lines of a phase: loaded or stored, and stored.
    fn count(&self, phase: usize) -> [usize; 2] {
        [3, 2].map(|bits| self.lines.values().filter(|&&line| line >> (2 * phase) & bits != 0).count())
    }

    /// Lines that one of the first two phases stores to and the other touches: stored by both, by one.
    fn shared(&self) -> [Vec<u64>; 2] {
        let both = |line: u16| line & 2 != 0 && line & 8 != 0;
        let one = |line: u16| (line & 2 != 0 && line & 12 != 0) || (line & 8 != 0 && line & 3 != 0);
        let of = |wanted: &dyn Fn(u16) -> bool| {
            let mut lines: Vec<u64> =
                self.lines.iter().filter(|(_, bits)| wanted(**bits)).map(|(line, _)| line * LINE).collect();
            lines.sort_unstable();
            lines
        };
        [of(&both), of(&|line| one(line) && !both(line))]
    }
}

/// Counts and prints.
pub fn run(options: &Options) -> Result<()> {
    if options.inner {
        return play(options.flows);
    }
    let program = env::current_exe().map_err(Error::file("this program"))?;
    let mut child = Command::new("valgrind")
        .args(["--tool=lackey", "--trace-mem=yes"])
        .arg(&program)
        .args(["lines", "--inner", "--flows", &options.flows.to_string()])
        // Zeroing tables byte by byte would be most of what is written down.
        .env("GLIBC_TUNABLES", "glibc.cpu.x86_rep_stosb_threshold=4294967295")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Spawn { program: "valgrind".to_owned(), source })?;
    let mut touched = Touched::default();
    if let Some(stderr) = child.stderr.take() {
        let mut reader = BufReader::with_capacity(1 << 20, stderr);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).map_err(Error::file("valgrind"))? > 0 {
            touched.take(str::from_utf8(&line).unwrap_or_default().trim_end_matches('\n'));
            line.clear();
        }
    }
    let status = child.wait().map_err(Error::file("valgrind"))?;
    if !status.success() || touched.phase != MARKS.len() {
        return Err(Error::Unexpected(format!("valgrind: {status}, {} phases", touched.phase)));
    }
    print(&touched, options)
}

fn print(touched: &Touched, options: &Options) -> Result<()> {
    let flows = f64::from(options.flows);
    let generator = touched.count(4);
    println!("{} connections; cache lines a packet, the generator's left out", options.flows);
    println!("{:<12}{:>10}{:>10}", "", "touched", "stored to");
    let mut rows = Vec::new();
    for (phase, name) in [(2, "requests"), (3, "replies")] {
        let of = touched.count(phase);
        let [lines, stored] = [0, 1].map(|n| (of[n] as f64 - generator[n] as f64) / flows);
        println!("{name:<12}{lines:>10.2}{stored:>10.2}");
        rows.push(json!({"packets": name, "lines": lines, "stored": stored}));
    }
    let [both, one] = touched.shared();
    println!(
        "two workers, {} and {} lines: {} stored to by both, {} stored to by one and loaded by the other",
        touched.count(0)[0],
        touched.count(1)[0],
        both.len(),
        one.len()
    );
    rows.push(json!({"stored_by_both": both.len(), "stored_by_one": one.len()}));
    write_json(options.json.as_deref(), &rows)?;
    let shared: Vec<_> = both.iter().chain(&one).map(|address| format!("{address:#x}")).collect();
    if shared.is_empty() {
        return Ok(());
    }
    Err(Error::Unexpected(format!("workers share cache lines: {}", shared.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_distinguished_by_phase_and_access() {
        let mut touched = Touched::default();
        touched.take(" S 1000,8"); // before anything is known
        touched.take(&format!("{PLACES} 0x1000 0x90000000"));
        let feed = |touched: &mut Touched, lines: &[&str]| lines.iter().for_each(|line| touched.take(line));
        feed(&mut touched, &[" S 2000,8", " S 1000,8", " S 2000,8", " L 203c,8", " S 3000,4", "I  2000,3"]);
        feed(&mut touched, &[" S 1008,8", " L 2000,8", " M 3004,4", " S 8fffff00,8", " S 4000,1"]);
        feed(&mut touched, &[" S 1010,8", " S 1018,8", " S 1020,8", " S 1028,8", " S 7000,8"]);
        assert_eq!((touched.count(0), touched.count(1)), ([3, 2], [3, 2]));
        assert_eq!(touched.shared(), [vec![0x3000], vec![0x2000]]);
        assert_eq!(touched.phase, MARKS.len());
    }
}
