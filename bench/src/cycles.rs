//! `cycles`: where a forwarding worker's time goes, by stage of the path and by driver.
//!
//! weir forwards as in `compare` while `perf record` samples its worker by CPU time (`cpu-clock`, which
//! virtual machines have too). Samples in weir are attributed to the source file of the stage, those in DPDK's
//! shared objects to their function.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clap::Args;

use crate::{
    compare::{Testbed, choose_cpus, write_traffic},
    error::{Error, Result},
    hugepages::Memory,
    method::Method,
    process::output_of,
    sample::Subject,
    symbols::Symbols,
    weir,
};

/// What to look at.
#[derive(Args, Debug)]
pub struct Options {
    /// Numbers of flows, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 100_000])]
    flows: Vec<u32>,
    /// Method and family.
    #[arg(long, value_enum, default_value_t)]
    method: Method,
    /// Virtual services, among which flows are divided.
    #[arg(long, default_value_t = 1)]
    services: u16,
    /// Servers of each service.
    #[arg(long, default_value_t = 4)]
    servers: u8,
    /// Seconds to sample.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Samples a second.
    #[arg(long, default_value_t = 4_000)]
    frequency: u32,
    /// Frame length without frame check sequence.
    #[arg(long, default_value_t = 60)]
    frame: usize,
    /// Shares below this many per cent aren't listed.
    #[arg(long, default_value_t = 0.5)]
    least: f64,
    /// Tell the lines of a stage apart.
    #[arg(long)]
    lines: bool,
    /// CPU of the worker; the last one allowed if absent.
    #[arg(long)]
    cpu: Option<usize>,
    #[command(flatten)]
    programs: weir::Programs,
}

/// Runs, samples and prints.
pub fn run(options: &Options) -> Result<()> {
    let directory = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let cpus = choose_cpus(options.cpu)?;
    let found = options.programs.find()?;
    for &flows in &options.flows {
        let mut testbed = Testbed::new(directory.path(), flows, cpus, options.method);
        (testbed.services, testbed.servers) = (options.services, options.servers);
        let memory = Memory::reserve(testbed.memory_needed(1));
        testbed.ordinary_memory = memory.is_ordinary();
        write_traffic(&testbed, options.frame)?;
        let mut subject = weir::start(&testbed, &found)?;
        let rate = subject.measure(Duration::from_millis(200), Duration::from_secs(1))?;
        subject.process.resume();
        let record = directory.path().join("perf.data");
        record_samples(&subject, options, &record)?;
        let shares = attribute(&record, subject.process.pid(), options.lines)?;
        print(flows, (rate, memory.name()), &shares, options.least);
    }
    Ok(())
}

fn record_samples(subject: &Subject, options: &Options, record: &Path) -> Result<()> {
    let mut perf = Command::new("perf");
    perf.args(["record", "--quiet", "-e", "cpu-clock", "-F", &options.frequency.to_string()])
        .args(["-t", &subject.workers[0].tid()?, "-o"])
        .arg(record)
        .args(["--", "sleep", &options.seconds.to_string()]);
    output_of(&mut perf).map(drop)
}

/// Samples by what they are attributed to.
fn attribute(record: &Path, pid: u32, lines: bool) -> Result<BTreeMap<String, u64>> {
    let mut perf = Command::new("perf");
    perf.args(["script", "-F", "ip,sym,dso", "-i"]).arg(record);
    let text = output_of(&mut perf)?;
    let link = PathBuf::from(format!("/proc/{pid}/exe"));
    let program = fs::read_link(&link).map_err(Error::file(&link))?;
    let base = load_address(pid, &program)?;
    let mut symbols = Symbols::open(&program, lines)?;
    let mut cache: HashMap<&str, String> = HashMap::new();
    let mut shares = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let name = cache.entry(line).or_insert_with(|| {
            let (ip, symbol, object) = parse_sample(line);
            if Path::new(object) == program {
                symbols.stage(ip.wrapping_sub(base)).to_owned()
            } else {
                let object = Path::new(object).file_name().map_or(object.into(), |n| n.to_string_lossy());
                format!("{symbol} ({object})")
            }
        });
        *shares.entry(name.clone()).or_insert(0) += 1;
    }
    Ok(shares)
}

/// Takes apart `55d0c0ffee some::symbol (/path/of/object)`.
fn parse_sample(line: &str) -> (u64, &str, &str) {
    let (ip, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (symbol, object) = rest.rsplit_once(" (").unwrap_or((rest, ""));
    (u64::from_str_radix(ip, 16).unwrap_or(0), symbol.trim(), object.trim_end_matches(')'))
}

/// Where the program's first byte is mapped.
fn load_address(pid: u32, program: &Path) -> Result<u64> {
    let path = PathBuf::from(format!("/proc/{pid}/maps"));
    let maps = fs::read_to_string(&path).map_err(Error::file(&path))?;
    let program = program.to_string_lossy();
    let line = maps.lines().find(|l| l.ends_with(program.as_ref()));
    let start = line.and_then(|l| u64::from_str_radix(l.split_once('-')?.0, 16).ok());
    start.ok_or_else(|| Error::Unexpected(format!("{}: {program} isn't mapped", path.display())))
}

fn print(flows: u32, (mpps, memory): (f64, &str), shares: &BTreeMap<String, u64>, least: f64) {
    let total: u64 = shares.values().sum();
    println!("{flows} flows: {mpps:.2} Mpps, {:.1} ns a packet, {total} samples; {memory}", 1e3 / mpps);
    let mut sorted: Vec<_> = shares.iter().collect();
    sorted.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    for (name, n) in sorted {
        let share = *n as f64 / total as f64;
        if share * 100.0 >= least {
            println!("{:>6.1} % {:>7.1} ns  {name}", share * 100.0, share * 1e3 / mpps);
        }
    }
    println!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_taken_apart() {
        let line = "7f00deadbeef eth_null_tx+0x10 (/usr/lib/dpdk/librte_net_null.so.23.0)";
        let expected = (0x7f00_dead_beef, "eth_null_tx+0x10", "/usr/lib/dpdk/librte_net_null.so.23.0");
        assert_eq!(parse_sample(line), expected);
        assert_eq!(parse_sample("10 [unknown] ([unknown])"), (16, "[unknown]", "[unknown]"));
    }
}
