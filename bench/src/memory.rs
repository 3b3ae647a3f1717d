//! `memory`: what a session costs, everything included.
//!
//! A gateway with the smallest table and one session beside one that holds so many: the difference of resident
//! memory and huge pages (`VmRSS` and `HugetlbPages` in `/proc/PID/status`) is index, records, timers and local ports.
//! Packet buffers are the same in both. Sessions are opened by a file of SYNs that is played once.

use std::{fs, path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;

use crate::{
    compare::{SYN_DEVICE, Testbed, choose_cpus},
    error::{Error, Result},
    hugepages::Memory,
    method::Method,
    process::wait_for,
    report::write_json,
    traffic, weir,
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Sessions to hold.
    #[arg(long, default_value_t = 10_000_000)]
    sessions: u32,
    /// Families, comma-separated: FULLNAT by IPv4, by IPv6.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Method::Fullnat, Method::FullnatV6])]
    methods: Vec<Method>,
    /// CPU of the worker; the last one allowed if absent.
    #[arg(long)]
    cpu: Option<usize>,
    /// Also write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    programs: weir::Programs,
}

/// Sessions that the table of the gateway without sessions has room for.
const LEAST_ROOM: u32 = 1024;

/// Runs the measurement and prints it.
pub fn run(options: &Options) -> Result<()> {
    let directory = tempfile::tempdir().map_err(Error::file(std::env::temp_dir()))?;
    let cpus = choose_cpus(options.cpu)?;
    let found = options.programs.find()?;
    // Three pools of packet buffers.
    let memory = Memory::reserve(256 << 20);
    println!("Bytes a session, everything included; packet buffers in {}", memory.name());
    println!("{:<16} {:>10} {:>12} {:>12} {:>8}", "method", "sessions", "MiB without", "MiB with", "bytes");
    let mut rows = Vec::new();
    for &method in &options.methods {
        let mut testbed = Testbed::new(directory.path(), options.sessions, cpus, method);
        testbed.ordinary_memory = memory.is_ordinary();
        let without = holding(&testbed, 1, LEAST_ROOM, &found)?;
        let with = holding(&testbed, options.sessions, options.sessions, &found)?;
        let each = with.saturating_sub(without) as f64 / f64::from(options.sessions);
        let mib = |bytes: u64| bytes >> 20;
        let name = method.name();
        println!("{name:<16} {:>10} {:>12} {:>12} {each:>8.1}", options.sessions, mib(without), mib(with));
        rows.push(json!({
            "method": name,
            "sessions": options.sessions,
            "bytes_without": without,
            "bytes_with": with,
            "bytes_per_session": (each * 10.0).round() / 10.0,
        }));
    }
    write_json(options.json.as_deref(), &rows)
}

/// Bytes of a gateway with room for so many sessions, once it holds some.
fn holding(testbed: &Testbed, sessions: u32, room: u32, found: &weir::Found) -> Result<u64> {
    let syns = testbed.path("syns.pcap");
    let shape = (!testbed.method.v6()).then_some(60);
    traffic::write(
        &syns,
        traffic::Flows::all(sessions, 1),
        traffic::Kind::Syn,
        traffic::pcap_mac(SYN_DEVICE),
        shape,
        1,
    )
    .map_err(Error::file(&syns))?;
    let once = Some((vec![syns], SYN_DEVICE));
    let setup = weir::Setup { testbed, endless: None, once, wires: None, room: Some(room) };
    let mut subject = weir::launch(&setup, found)?;
    let mut listed = weir::Listed::default();
    let opened = wait_for(Duration::from_secs(50), || {
        subject.process.check_running()?;
        listed = weir::connections(testbed, found)?;
        Ok((listed.active + listed.inactive == u64::from(sessions)).then_some(()))
    })?;
    if opened.is_none() {
        return Err(subject.process.failed(format!("lists {listed:?} and not {sessions} connections")));
    }
    resident(subject.process.pid())
}

/// Bytes of a process in memory, huge pages included.
fn resident(pid: u32) -> Result<u64> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let text = fs::read_to_string(&path).map_err(Error::file(&path))?;
    parse_status(&text).ok_or_else(|| Error::Unexpected(format!("{}: no VmRSS", path.display())))
}

fn parse_status(text: &str) -> Option<u64> {
    let kib = |field: &str| -> Option<u64> {
        text.lines().find_map(|l| l.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
    };
    Some((kib("VmRSS:")? + kib("HugetlbPages:").unwrap_or(0)) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_count_too() {
        let text = "Name:\tweir\nVmRSS:\t    1000 kB\nThreads:\t3\nHugetlbPages:\t    2048 kB\n";
        assert_eq!(parse_status(text), Some(3048 * 1024));
        assert_eq!(parse_status("VmRSS:\t 7 kB\n"), Some(7 * 1024));
        assert_eq!(parse_status(""), None);
    }

    #[test]
    fn this_process_has_some() {
        assert!(resident(std::process::id()).unwrap() > 1 << 20);
    }
}
