//! `profile`: instructions a packet by stage of the path, counted by callgrind and so the same in every run.
//!
//! The path runs in process on ordinary memory (see `replay`) under `valgrind --tool=callgrind`, once over
//! `packets` and once over twice as many packets; the difference is what the packets cost, whatever start-up
//! cost. Callgrind's simulated caches say where the misses are; the time they take is `cycles`'s business.

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;

use crate::{
    error::{Error, Result},
    method::Method,
    process::output_of,
    replay::{Replay, Setup},
    symbols::Symbols,
};

/// What to count.
#[derive(Args, Debug)]
pub struct Options {
    /// Numbers of flows, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 100_000])]
    flows: Vec<u32>,
    /// Packets of the shorter run.
    #[arg(long, default_value_t = 100_000)]
    packets: usize,
    /// Frame length without frame check sequence, at most 64.
    #[arg(long, default_value_t = 60)]
    frame: usize,
    /// Less than so many instructions a packet aren't listed.
    #[arg(long, default_value_t = 0.5)]
    least: f64,
    /// Tell the lines of a stage apart.
    #[arg(long)]
    lines: bool,
    /// Method and family.
    #[arg(long, value_enum, default_value_t = Method::Fullnat)]
    method: Method,
    /// Packets that open connections, instead of packets of open ones.
    #[arg(long)]
    opening: bool,
    /// Run the packets instead of counting (what callgrind is given to run).
    #[arg(long, hide = true)]
    inner: bool,
}

impl Options {
    /// What a packet of `method` costs with 1 000 flows, or one that opens a connection.
    pub fn of(method: Method, opening: bool) -> Self {
        let (flows, packets) = (vec![1_000], if opening { 20_000 } else { 50_000 });
        Self { flows, packets, frame: 60, least: 0.5, lines: false, method, opening, inner: false }
    }

    /// Instructions that one packet takes.
    pub fn instructions(&self) -> Result<f64> {
        let directory = tempfile::tempdir().map_err(Error::file(env::temp_dir()))?;
        let flows = self.flows.first().copied().unwrap_or(1_000);
        let once = count(self, flows, self.packets, &directory.path().join("once"))?;
        let twice = count(self, flows, self.packets * 2, &directory.path().join("twice"))?;
        Ok(difference(&once, &twice, self.packets).iter().map(|(_, cost)| cost.instructions).sum())
    }
}

/// How often a packet of `method` runs each of this program's instructions, by their addresses in its file; what a packet
/// never runs is absent.
pub fn executed(method: Method) -> Result<BTreeMap<u64, f64>> {
    let directory = tempfile::tempdir().map_err(Error::file(env::temp_dir()))?;
    let options = Options::of(method, false);
    let flows = options.flows.first().copied().unwrap_or(1_000);
    let run = |packets, name: &str| {
        let text = callgrind(&options, flows, packets, &directory.path().join(name))?;
        let program = this_program()?;
        let mut counts: BTreeMap<u64, f64> = BTreeMap::new();
        for_each_cost(&text, |place, address, cost| {
            if Path::new(place.object) == program {
                *counts.entry(address).or_default() += cost.instructions;
            }
        });
        Ok::<_, Error>(counts)
    };
    let once = run(options.packets, "once")?;
    let twice = run(options.packets * 2, "twice")?;
    let each = twice.into_iter().map(|(address, more)| {
        (address, (more - once.get(&address).copied().unwrap_or_default()) / options.packets as f64)
    });
    Ok(each.filter(|(_, times)| *times > 0.0).collect())
}

/// The program that is running.
pub fn this_program() -> Result<PathBuf> {
    env::current_exe().map_err(Error::file("this program"))
}

/// Connections that there are to be opened.
const OPENINGS: u32 = 60_000;

/// Costs of one stage: instructions, and misses of the simulated first-level data cache and last-level cache.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cost {
    instructions: f64,
    first_level: f64,
    last_level: f64,
}

/// Counts and prints.
pub fn run(options: &Options) -> Result<()> {
    if options.inner {
        for &flows in &options.flows {
            let setup = Setup { method: options.method, ..Setup::default() };
            if options.opening {
                Replay::begin(&setup, OPENINGS, options.frame)?.run(options.packets);
                continue;
            }
            let mut replay = Replay::open_as(&setup, flows, options.frame)?;
            // Sessions become established on the first lap.
            replay.run((flows as usize).max(1_000));
            replay.run(options.packets);
        }
        return Ok(());
    }
    let directory = tempfile::tempdir().map_err(Error::file(env::temp_dir()))?;
    for &flows in &options.flows {
        let once = count(options, flows, options.packets, &directory.path().join("once"))?;
        let twice = count(options, flows, options.packets * 2, &directory.path().join("twice"))?;
        print(flows, &difference(&once, &twice, options.packets), options.least);
    }
    Ok(())
}

fn count(options: &Options, flows: u32, packets: usize, out: &Path) -> Result<BTreeMap<String, Cost>> {
    let text = callgrind(options, flows, packets, out)?;
    attribute(&text, &this_program()?, options.lines)
}

/// Runs the packets under callgrind and returns what it wrote.
fn callgrind(options: &Options, flows: u32, packets: usize, out: &Path) -> Result<String> {
    let program = this_program()?;
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--dump-instr=yes", "--compress-strings=no", "--compress-pos=no"])
        .args(["--cache-sim=yes", "--combine-dumps=yes"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(&program)
        .args(["profile", "--inner", "--flows", &flows.to_string(), "--packets", &packets.to_string()])
        .args(["--frame", &options.frame.to_string(), "--method", &options.method.name()])
        .args(options.opening.then_some("--opening"));
    output_of(&mut valgrind)?;
    fs::read_to_string(out).map_err(Error::file(out))
}

/// Where a cost accrued.
struct Place<'a> {
    object: &'a str,
    function: &'a str,
}

/// Reads callgrind's output format: `ob=` and `fn=` set the place, cost lines are `0xADDRESS LINE COSTS...`, and
/// the cost line after `calls=` is the callee's.
fn for_each_cost(text: &str, mut take: impl FnMut(&Place, u64, Cost)) {
    let mut place = Place { object: "", function: "" };
    let mut is_call = false;
    let mut events = Events::default();
    for line in text.lines() {
        if let Some(list) = line.strip_prefix("events:") {
            events = Events::read(list);
        } else if let Some(name) = line.strip_prefix("ob=") {
            place.object = name;
        } else if let Some(name) = line.strip_prefix("fn=") {
            place.function = name;
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with("0x")
            && !std::mem::take(&mut is_call)
            && let Some((address, cost)) = events.cost(line)
        {
            take(&place, address, cost);
        }
    }
}

fn attribute(text: &str, program: &Path, lines: bool) -> Result<BTreeMap<String, Cost>> {
    let mut symbols = Symbols::open(program, lines)?;
    let mut names: HashMap<u64, String> = HashMap::new();
    let mut costs: BTreeMap<String, Cost> = BTreeMap::new();
    for_each_cost(text, |place, address, cost| {
        let stage = if Path::new(place.object) == program {
            names.entry(address).or_insert_with(|| symbols.stage(address).to_owned()).clone()
        } else {
            let object = Path::new(place.object).file_name().map_or("?".into(), |n| n.to_string_lossy());
            format!("{} ({object})", place.function)
        };
        let sum = costs.entry(stage).or_default();
        sum.instructions += cost.instructions;
        sum.first_level += cost.first_level;
        sum.last_level += cost.last_level;
    });
    Ok(costs)
}

/// Columns of the costs.
#[derive(Clone, Debug, Default)]
struct Events(Vec<String>);

impl Events {
    fn read(list: &str) -> Self {
        Self(list.split_whitespace().map(str::to_owned).collect())
    }

    /// Address and costs of a cost line; absent trailing costs are 0.
    fn cost(&self, line: &str) -> Option<(u64, Cost)> {
        let mut words = line.split_whitespace();
        let address = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
        let mut cost = Cost::default();
        for (event, value) in self.0.iter().zip(words.skip(1)) {
            let value: f64 = value.parse().ok()?;
            match event.as_str() {
                "Ir" => cost.instructions += value,
                "D1mr" | "D1mw" => cost.first_level += value,
                "DLmr" | "DLmw" => cost.last_level += value,
                _ => {}
            }
        }
        Some((address, cost))
    }
}

/// Costs a packet.
fn difference(
    once: &BTreeMap<String, Cost>,
    twice: &BTreeMap<String, Cost>,
    packets: usize,
) -> Vec<(String, Cost)> {
    let n = packets as f64;
    let each = |(name, more): (&String, &Cost)| {
        let less = once.get(name).copied().unwrap_or_default();
        let cost = Cost {
            instructions: (more.instructions - less.instructions) / n,
            first_level: (more.first_level - less.first_level) / n,
            last_level: (more.last_level - less.last_level) / n,
        };
        (name.clone(), cost)
    };
    let mut list: Vec<_> = twice.iter().map(each).collect();
    list.sort_by(|a, b| b.1.instructions.total_cmp(&a.1.instructions));
    list
}

fn print(flows: u32, costs: &[(String, Cost)], least: f64) {
    let sum = |f: fn(&Cost) -> f64| costs.iter().map(|(_, c)| f(c)).sum::<f64>();
    println!("{flows} flows: a packet takes");
    println!("{:>12} {:>8} {:>8}", "instructions", "D1 miss", "LL miss");
    for (name, c) in costs.iter().filter(|(_, c)| c.instructions >= least) {
        println!("{:>12.1} {:>8.2} {:>8.2}  {name}", c.instructions, c.first_level, c.last_level);
    }
    let total = (sum(|c| c.instructions), sum(|c| c.first_level), sum(|c| c.last_level));
    println!("{:>12.1} {:>8.2} {:>8.2}  in all\n", total.0, total.1, total.2);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_lines_are_read_by_the_events_that_were_announced() {
        let events = Events::read(" Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw");
        let (address, cost) = events.cost("0x1a2b 17 5 1 1 0 1 2 0 1").unwrap();
        assert_eq!(address, 0x1a2b);
        assert_eq!(cost, Cost { instructions: 5.0, first_level: 3.0, last_level: 1.0 });
    }

    #[test]
    fn start_up_cancels_out() {
        let costs = |instructions| Cost { instructions, ..Cost::default() };
        let once = BTreeMap::from([("a".to_owned(), costs(1300.0)), ("b".to_owned(), costs(500.0))]);
        let twice = BTreeMap::from([("a".to_owned(), costs(1600.0)), ("b".to_owned(), costs(500.0))]);
        let list = difference(&once, &twice, 100);
        assert_eq!(list[0], ("a".to_owned(), costs(3.0)));
        assert_eq!(list[1], ("b".to_owned(), costs(0.0)));
    }
}
