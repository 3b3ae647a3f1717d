//! `control`: what a large configuration costs, and what forwarding loses meanwhile.
//!
//! `weirctl` is timed as operators run it, as a process. Beside it a worker forwards 1 000 flows; packets per
//! on-CPU second with and without the work alternate, so that a busy neighbour hits both alike.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};

use crate::{
    compare::{Testbed, choose_cpus, write_traffic},
    error::{Error, Result},
    hugepages::Memory,
    method::Method,
    process::{Process, check_interrupted, output_of, wait_for},
    report::{Spread, write_json},
    sample::Subject,
    weir,
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Services.
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Servers of each.
    #[arg(long, default_value_t = 10)]
    servers: u32,
    /// Sessions to dump.
    #[arg(long, default_value_t = 1_000_000)]
    sessions: u32,
    /// How often everything is done.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Pairs of samples of the forwarding worker, with and without work.
    #[arg(long, default_value_t = 21)]
    samples: u32,
    /// Length of a sample in milliseconds.
    #[arg(long, default_value_t = 400)]
    period: u64,
    /// CPU of the worker; the last one allowed if absent.
    #[arg(long)]
    cpu: Option<usize>,
    /// Also write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    programs: weir::Programs,
}

/// Flows that are forwarded meanwhile.
const FLOWS: u32 = 1_000;
/// Frame length without frame check sequence.
const FRAME: usize = 60;
/// Edits of one server that are timed in a round.
const EDITS: u32 = 21;
/// Seconds from one of Prometheus's scrapes to the next, if it isn't told otherwise.
const PERIOD: f64 = 15.0;

/// Runs the measurement and prints it.
pub fn run(options: &Options) -> Result<()> {
    let directory = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let found = options.programs.find()?;
    let mut table = Table::new();
    with_gateway(directory.path(), options, FLOWS, &found, |bench| bench.configuration(&mut table))?;
    with_gateway(directory.path(), options, options.sessions, &found, |bench| bench.sessions(&mut table))?;
    write_json(options.json.as_deref(), &table.rows)
}

/// Starts a gateway that forwards so many flows.
fn with_gateway(
    directory: &Path,
    options: &Options,
    flows: u32,
    found: &weir::Found,
    measure: impl FnOnce(&mut Bench) -> Result<()>,
) -> Result<()> {
    let mut testbed = Testbed::new(directory, flows, choose_cpus(options.cpu)?, Method::default());
    let memory = Memory::reserve(testbed.memory_needed(1));
    testbed.ordinary_memory = memory.is_ordinary();
    write_traffic(&testbed, FRAME)?;
    let subject = weir::start(&testbed, found)?;
    measure(&mut Bench { tool: Tool { testbed: &testbed, found }, options, subject })
}

/// weirctl at a gateway.
struct Tool<'a> {
    testbed: &'a Testbed<'a>,
    found: &'a weir::Found,
}

/// A gateway and what is done to it.
struct Bench<'a> {
    tool: Tool<'a>,
    options: &'a Options,
    subject: Subject,
}

impl Tool<'_> {
    fn weirctl(&self, arguments: &[&str]) -> Command {
        let mut command = self.found.weirctl(self.testbed);
        command.args(arguments);
        command
    }

    fn text(&self, arguments: &[&str]) -> Result<String> {
        output_of(&mut self.weirctl(arguments))
    }

    /// Seconds that `weirctl` takes; it must succeed.
    fn time(&self, arguments: &[&str], input: Option<&Path>) -> Result<f64> {
        check_interrupted()?;
        let mut command = self.weirctl(arguments);
        if let Some(path) = input {
            command.stdin(File::open(path).map_err(Error::file(path))?);
        } else {
            command.stdin(Stdio::null());
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let start = Instant::now();
        let spawned = command.output();
        let took = start.elapsed().as_secs_f64();
        let program = command.get_program().to_string_lossy().into_owned();
        let output = spawned.map_err(|source| Error::Spawn { program: program.clone(), source })?;
        if output.status.success() {
            return Ok(took);
        }
        let tail = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Error::Program { program, what: format!("{arguments:?} failed ({})", output.status), tail })
    }
}

impl Bench<'_> {
    /// Restoring, listing, editing and scraping many services.
    fn configuration(&mut self, table: &mut Table) -> Result<()> {
        let Options { services, servers, rounds, .. } = *self.options;
        let all = services * servers;
        let [rules, file, undo] =
            ["many.rules", "many.toml", "undo.rules"].map(|name| self.tool.testbed.path(name));
        write(&rules, &add_lines(services, servers))?;
        write(&undo, &delete_lines(services))?;
        // What is forwarded is part of the file, as it must be: apply takes away what the file hasn't.
        let own = self.tool.text(&["export"])?;
        write(&file, &format!("{own}\n{}", toml(services, servers)))?;
        let mut times: [Vec<f64>; 4] = Default::default();
        for round in 1..=rounds {
            eprintln!("{services} services, round {round} of {rounds}");
            times[0].push(self.tool.time(&["-R"], Some(&rules))?);
            times[1].push(self.tool.time(&["-Ln"], None)?);
            for edit in 0..EDITS {
                let (service, server) = (services / EDITS * edit, edit % servers);
                times[2].push(self.tool.time(&words(&edit_line(service, server, 1 + edit)), None)?);
            }
            self.tool.time(&["-R"], Some(&undo))?;
            times[3].push(self.tool.time(&["apply", &file.to_string_lossy()], None)?);
            self.tool.time(&["-R"], Some(&undo))?;
        }
        let [restore, list, edit, apply] = times;
        table.seconds(&format!("-R of {services} services with {servers} servers each"), &restore);
        table.seconds("apply of the same", &apply);
        table.seconds("-Ln of them", &list);
        table.seconds(&format!("-e of one server among {all}"), &edit);

        self.tool.time(&["-R"], Some(&rules))?;
        let edits = self.tool.testbed.path("edits.rules");
        write(&edits, &edit_lines(services, servers))?;
        let (share, done) = self.loss(|tool| tool.time(&["-R"], Some(&edits)))?;
        table.share(
            "forwarding while servers are edited without end",
            &share,
            done * u64::from(all),
            "edits",
        );
        let (share, done) = self.loss(|tool| tool.time(&["-Ln"], None))?;
        table.share("forwarding while all are listed without end", &share, done, "listings");
        self.scrapes(table)
    }

    /// `weirctl serve` asked for its metrics, as Prometheus asks.
    fn scrapes(&mut self, table: &mut Table) -> Result<()> {
        let serve = Serve::start(&self.tool)?;
        let file = self.tool.testbed.path("metrics");
        let mut times = Vec::new();
        for _ in 0..self.options.rounds {
            times.push(serve.scrape(&file)?);
        }
        table.seconds("a scrape of all", &times);
        let (share, done) = self.loss(|_| serve.scrape(&file))?;
        table.share("forwarding while they are scraped without end", &share, done, "scrapes");
        let took = Spread::of(&times).map_or(0.0, |took| took.median);
        let rare =
            share.iter().map(|share| 1.0 - (1.0 - share) * took / PERIOD.max(took)).collect::<Vec<_>>();
        table.share("the same with one scrape in 15 s, by calculation", &rare, 1, "scrape");
        let bytes = fs::metadata(&file).map_err(Error::file(&file))?.len();
        println!("{} MB a scrape, {} MB of memory", bytes / 1_000_000, serve.process.memory("VmHWM")?);
        Ok(())
    }

    /// Dumping many sessions.
    fn sessions(&mut self, table: &mut Table) -> Result<()> {
        let mut times = Vec::new();
        for round in 1..=self.options.rounds {
            eprintln!("{} sessions, round {round} of {}", self.tool.testbed.flows, self.options.rounds);
            times.push(self.tool.time(&["-Lnc"], None)?);
        }
        table.seconds(&format!("-Lnc of {} sessions", self.tool.testbed.flows), &times);
        let (share, done) = self.loss(|tool| tool.time(&["-Lnc"], None))?;
        table.share("forwarding while they are listed without end", &share, done, "listings");
        Ok(())
    }

    /// Packets a second with `work` as a share of those without, pair by pair; and how often it was done while
    /// samples were taken.
    fn loss(&mut self, work: impl Fn(&Tool) -> Result<f64> + Sync) -> Result<(Vec<f64>, u64)> {
        let period = Duration::from_millis(self.options.period);
        let (busy, stop, done) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
        let mut shares = Vec::new();
        let Self { tool, options, subject } = self;
        thread::scope(|scope| {
            let worker = scope.spawn(|| -> Result<()> {
                while !stop.load(Relaxed) {
                    if busy.load(Relaxed) {
                        work(tool)?;
                        done.fetch_add(1, Relaxed);
                    } else {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                Ok(())
            });
            let mut sampled = || -> Result<()> {
                for _ in 0..options.samples {
                    check_interrupted()?;
                    let quiet = subject.rate(period)?;
                    busy.store(true, Relaxed);
                    thread::sleep(Duration::from_millis(50));
                    let loaded = subject.rate(period)?;
                    let before = done.load(Relaxed);
                    busy.store(false, Relaxed);
                    // What has begun ends before the next quiet sample.
                    while done.load(Relaxed) == before && !worker.is_finished() {
                        thread::sleep(Duration::from_millis(1));
                    }
                    shares.push(loaded / quiet);
                }
                Ok(())
            };
            let result = sampled();
            stop.store(true, Relaxed);
            let worked = worker.join().expect("it doesn't panic");
            result.and(worked)
        })?;
        Ok((shares, done.load(Relaxed)))
    }
}

/// `weirctl serve`, which ends when dropped.
struct Serve {
    process: Process,
    metrics: String,
}

impl Serve {
    fn start(tool: &Tool) -> Result<Self> {
        let mut command = tool.weirctl(&["serve", "--listen", "127.0.0.1:0"]);
        let mut process = Process::spawn(&mut command, &tool.testbed.path("serve.log"))?;
        let site = wait_for(Duration::from_secs(10), || {
            process.check_running()?;
            let said = process.output()?;
            Ok(said
                .lines()
                .find_map(|line| line.split_once("http://"))
                .map(|(_, site)| site.trim().to_owned()))
        })?;
        let site = site.ok_or_else(|| process.failed("doesn't listen"))?;
        Ok(Self { process, metrics: format!("http://{site}metrics") })
    }

    /// Seconds that a scrape takes; its text goes to a file.
    fn scrape(&self, file: &Path) -> Result<f64> {
        let start = Instant::now();
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--output"])
            .arg(file)
            .arg(&self.metrics);
        output_of(&mut curl)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::file(path))
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Virtual address of a service: none of those that are forwarded.
fn vip(service: u32) -> String {
    let [_, _, c, d] = service.to_be_bytes();
    format!("203.0.{c}.{d}:80")
}

fn server(server: u32) -> String {
    format!("198.19.2.{}:80", server + 1)
}

fn add_lines(services: u32, servers: u32) -> String {
    let mut text = String::new();
    for service in 0..services {
        let _ = writeln!(text, "-A -t {} -s wlc", vip(service));
        for n in 0..servers {
            let _ = writeln!(text, "-a -t {} -r {} --fullnat -w 1", vip(service), server(n));
        }
    }
    text
}

fn delete_lines(services: u32) -> String {
    (0..services).map(|service| format!("-D -t {}\n", vip(service))).collect()
}

fn edit_line(service: u32, n: u32, weight: u32) -> String {
    format!("-e -t {} -r {} --fullnat -w {weight}", vip(service), server(n))
}

/// Every server twice, so that however often the lines are read each changes something.
fn edit_lines(services: u32, servers: u32) -> String {
    let mut text = String::new();
    for weight in [2, 1] {
        for n in 0..servers {
            (0..services).step_by(2).for_each(|s| text += &(edit_line(s, n, weight) + "\n"));
        }
    }
    text
}

fn toml(services: u32, servers: u32) -> String {
    let mut text = String::new();
    for service in 0..services {
        let _ = writeln!(text, "[[service]]\nprotocol = \"tcp\"\naddress = {:?}", vip(service));
        for n in 0..servers {
            let _ = writeln!(text, "[[service.server]]\naddress = {:?}\nmethod = \"fullnat\"", server(n));
        }
    }
    text
}

/// The results, printed line by line as they come.
struct Table {
    rows: Vec<Value>,
}

impl Table {
    fn new() -> Self {
        println!("{:<58}  median (quartiles)", "what");
        Self { rows: Vec::new() }
    }

    fn seconds(&mut self, what: &str, samples: &[f64]) {
        let milliseconds: Vec<f64> = samples.iter().map(|s| s * 1e3).collect();
        let Some(spread) = Spread::of(&milliseconds) else { return };
        println!("{what:<58}  {:.1} ms ({:.1}-{:.1})", spread.median, spread.low, spread.high);
        self.rows.push(json!({
            "what": what, "ms": spread.median, "quartiles": [spread.low, spread.high], "samples": samples.len(),
        }));
    }

    fn share(&mut self, what: &str, samples: &[f64], done: u64, of: &str) {
        let Some(spread) = Spread::of(samples) else { return };
        let text = format!("{:.3} ({:.3}-{:.3}) of undisturbed", spread.median, spread.low, spread.high);
        println!("{what:<58}  {text}; {done} {of}");
        self.rows.push(json!({
            "what": what, "share": spread.median, "quartiles": [spread.low, spread.high],
            "samples": samples.len(), "done": done, "of": of,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_file_say_the_same() {
        assert_eq!(add_lines(3, 2).lines().count(), 3 + 6);
        assert_eq!(toml(3, 2).matches("[[service.server]]").count(), 6);
        assert_eq!(edit_lines(4, 2).lines().count(), 8);
        assert_eq!(delete_lines(300).lines().last(), Some("-D -t 203.0.1.43:80"));
    }
}
