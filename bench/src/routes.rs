//! `routes`: what a full table of routes costs, and what forwarding loses while it is loaded, changed and withdrawn.
//!
//! The routes are put into the kernel beside a gateway that forwards 1 000 flows, in a network namespace of their own, by
//! `ip -batch`, as fast as it goes: a routing daemon brings them no faster. The kernel's own work slows the worker down,
//! too, where they share a processor's core, its cache or its clock, and such a machine is never steady. So a table
//! goes in parts, each of them into this namespace and into one that has no gateway, in turns; what forwarding
//! does meanwhile is compared part by part. Needs root.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
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
    process::{check_interrupted, output_of},
    report::{Spread, write_json},
    sample::Subject,
    weir,
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// IPv4 routes.
    #[arg(long, default_value_t = 1_000_000)]
    routes: u32,
    /// IPv6 routes.
    #[arg(long, default_value_t = 200_000)]
    routes_v6: u32,
    /// Parts in which a table is loaded, changed and withdrawn.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..))]
    parts: u32,
    /// Milliseconds for which undisturbed forwarding is measured, and for which a part's effects are waited for.
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
/// Changes of neighbours a part.
const NEIGHBOURS: u32 = 20_000;
/// The port whose twin the routes lead through.
const PORT: &str = "servers";

/// Runs the measurement and prints it.
pub fn run(options: &Options) -> Result<()> {
    let directory = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let found = options.programs.find()?;
    let (namespace, aside) = (Namespace::new("")?, Namespace::new("-aside")?);
    aside.ip(&format!("link add {PORT} type veth peer name {PORT}-peer"))?;
    for device in [PORT.to_owned(), format!("{PORT}-peer")] {
        aside.ip(&format!("link set {device} up"))?;
    }
    let mut testbed = Testbed::new(directory.path(), FLOWS, choose_cpus(options.cpu)?, Method::default());
    testbed.twins = Some(namespace.path());
    let memory = Memory::reserve(testbed.memory_needed(1));
    testbed.ordinary_memory = memory.is_ordinary();
    write_traffic(&testbed, FRAME)?;
    let subject = weir::start(&testbed, &found)?;
    let mut bench = Bench {
        options,
        directory: directory.path(),
        namespace: &namespace,
        aside: &aside,
        subject,
        rows: Vec::new(),
    };
    bench.measure()?;
    write_json(options.json.as_deref(), &bench.rows)
}

/// A network namespace, deleted when dropped.
struct Namespace(String);

impl Namespace {
    fn new(suffix: &str) -> Result<Self> {
        let name = format!("weir-bench-{}{suffix}", std::process::id());
        output_of(Command::new("ip").args(["netns", "add", &name]))?;
        Ok(Self(name))
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.0)
    }

    fn ip(&self, line: &str) -> Result<String> {
        output_of(Command::new("ip").args(["-n", &self.0]).args(line.split_whitespace()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

struct Bench<'a> {
    options: &'a Options,
    directory: &'a Path,
    namespace: &'a Namespace,
    /// A namespace that no gateway watches.
    aside: &'a Namespace,
    subject: Subject,
    rows: Vec<Value>,
}

impl Bench<'_> {
    fn measure(&mut self) -> Result<()> {
        let Options { routes, routes_v6, .. } = *self.options;
        for address in ["100.64.0.1/24", "2001:db8:ffff::1/64"] {
            for namespace in [self.namespace, self.aside] {
                namespace.ip(&format!("address add {address} dev {PORT}"))?;
            }
        }
        let before = self.subject.process.memory("VmRSS")?;
        println!(
            "{:<44}  seconds  {:<20}  {:<20}  of kernel alone",
            format!("{routes} + {routes_v6} routes"),
            "forwarding, of quiet",
            "kernel alone"
        );
        for (what, verb, last) in [("loaded", "add", 2), ("changed", "replace", 3), ("withdrawn", "del", 3)] {
            let text = batch(verb, last, routes, routes_v6);
            self.step(what, &text)?;
            if what == "changed" {
                self.neighbours()?;
            }
        }
        let (peak, after) = (self.subject.process.memory("VmHWM")?, self.subject.process.memory("VmRSS")?);
        println!("resident memory: {before} MB without routes, {peak} MB at most, {after} MB after them");
        self.rows.push(json!({ "what": "memory", "before_mb": before, "most_mb": peak, "after_mb": after }));
        Ok(())
    }

    /// Neighbours that come and go beside the full table.
    fn neighbours(&mut self) -> Result<()> {
        let mut text = String::new();
        let changes = self.options.parts * NEIGHBOURS;
        for round in 0..changes {
            let (last, mac) = (10 + round % 100, round % 250);
            let _ = writeln!(
                text,
                "neighbour replace 100.64.0.{last} lladdr 02:00:00:00:01:{mac:02x} nud reachable dev {PORT}"
            );
        }
        self.step(&format!("{changes} changes of neighbours beside them"), &text)
    }

    /// Has `ip` do all this, part by part, in both namespaces, while forwarding is watched.
    fn step(&mut self, what: &str, text: &str) -> Result<()> {
        let lines: Vec<_> = text.lines().collect();
        let (mut here, mut alone, mut pairs, mut took) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
        for (n, part) in lines.chunks(lines.len().div_ceil(self.options.parts as usize).max(1)).enumerate() {
            check_interrupted()?;
            let file = self.directory.join("batch");
            fs::write(&file, part.join("\n")).map_err(Error::file(&file))?;
            // Whoever comes first may be better off.
            let order = if n % 2 == 0 { [self.aside, self.namespace] } else { [self.namespace, self.aside] };
            for namespace in order {
                let (share, seconds) = self.watched(&file, namespace)?;
                if std::ptr::eq(namespace, self.namespace) {
                    here.push(share);
                    took += seconds;
                } else {
                    alone.push(share);
                }
            }
            pairs.extend(here.last().zip(alone.last()).map(|(here, alone)| here / alone));
        }
        let spread = |of: &[f64]| Spread::of(of).ok_or_else(|| Error::Unexpected("no samples".into()));
        let (here, alone, pairs) = (spread(&here)?, spread(&alone)?, spread(&pairs)?);
        let told = |spread: &Spread| format!("{:.3} ({:.3}-{:.3})", spread.median, spread.low, spread.high);
        println!("{what:<44}  {took:>7.1}  {:<20}  {:<20}  {}", told(&here), told(&alone), told(&pairs));
        self.rows.push(json!({
            "what": what, "seconds": took, "of_quiet": here.median, "kernel_alone": alone.median,
            "of_kernel_alone": pairs.median, "quartiles": [pairs.low, pairs.high],
        }));
        Ok(())
    }

    /// What forwarding is, of undisturbed, while `ip` does all that a file says in a namespace; and how long that took.
    fn watched(&mut self, file: &Path, namespace: &Namespace) -> Result<(f64, f64)> {
        let period = Duration::from_millis(self.options.period);
        let quiet = self.subject.rate(period)?;
        let before = self.subject.read()?;
        let start = Instant::now();
        namespace.ip(&format!("-batch {}", file.display()))?;
        let took = start.elapsed().as_secs_f64();
        // The last that the kernel has said is still being taken.
        thread::sleep(period);
        let share = self.subject.read()?.mpps_since(&before) / quiet;
        thread::sleep(period);
        Ok((share, took))
    }
}

/// What `ip -batch` reads: routes of /24 and /48, each the next one, by way of a router that ends in `last`.
fn batch(verb: &str, last: u8, routes: u32, routes_v6: u32) -> String {
    let mut text = String::new();
    for n in 0..routes {
        // From 20.0.0.0 on: none of the networks that are forwarded to.
        let network = Ipv4Addr::from_bits((20 << 24) + (n << 8));
        let _ = writeln!(text, "route {verb} {network}/24 via 100.64.0.{last}");
    }
    for n in 0..routes_v6 {
        let network = Ipv6Addr::from_bits((0x2a00 << 112) | (u128::from(n) << 80));
        let _ = writeln!(text, "route {verb} {network}/48 via 2001:db8:ffff::{last}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_as_many_as_asked_for_and_all_different() {
        let text = batch("add", 2, 1000, 500);
        let lines: std::collections::HashSet<_> = text.lines().collect();
        assert_eq!(lines.len(), 1500);
        assert!(lines.contains("route add 20.0.1.0/24 via 100.64.0.2"));
        assert!(lines.contains("route add 2a00:0:1::/48 via 2001:db8:ffff::2"));
    }
}
