//! EAL's command line, composed from the caller's configuration and the machine's resources.

use std::fmt::Write as _;

use crate::{
    device,
    eal::{Cpus, EalConfig, Memory},
    error::Error,
    hugepages,
};

/// The memory that EAL and drivers need in addition to the caller's own.
const OVERHEAD: u64 = 64 << 20;

/// EAL's command line, and the decisions made on the way.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// The arguments, beginning with the program's name.
    pub list: Vec<String>,
    /// The memory that they request.
    pub memory: Memory,
    /// The bytes of memory that they request, or that will be requested.
    pub need: u64,
    /// Whether the prefix of EAL's files was chosen here, for this process alone.
    pub own_prefix: bool,
}

/// The properties of the machine that the arguments depend on.
struct Machine {
    /// CPUs the process may use.
    cpus: Vec<usize>,
    /// Bytes of free huge pages, or why there aren't enough, given the number of bytes needed.
    huge: fn(u64) -> Result<u64, String>,
    /// Whether hugetlbfs is mounted.
    huge_mount: bool,
    /// A string that no other process on the machine has.
    unique: String,
}

/// Composes EAL's command line.
pub(crate) fn build(config: &EalConfig) -> Result<Arguments, Error> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let machine = Machine {
        cpus: allowed_cpus(),
        huge: hugepages::usable,
        huge_mount: std::fs::read_to_string("/proc/mounts")
            .is_ok_and(|m| m.lines().any(|l| l.split(' ').nth(2) == Some("hugetlbfs"))),
        // Processes in different pid namespaces may share the directory for EAL's files.
        unique: format!("{}-{:x}", std::process::id(), now.subsec_nanos()),
    };
    compose(config, &machine)
}

/// The warning that there aren't enough huge pages for EAL, and its consequences; none if there are, or if none are
/// requested.
#[must_use]
pub fn lacks_huge_pages(config: &EalConfig) -> Option<String> {
    let arguments = build(config).ok()?;
    match arguments.memory {
        Memory::Huge { .. } => None,
        Memory::Ordinary { .. } if given(&config.args, &["--no-huge"]) => None,
        Memory::Ordinary { why, .. } => {
            Some(format!("{why}; ordinary memory takes their place, and packets cost more"))
        }
        Memory::AsArguments => {
            let why = hugepages::usable(arguments.need).err()?;
            Some(format!("{why}; by its arguments EAL can have no other memory, and doesn't start"))
        }
    }
}

fn compose(config: &EalConfig, machine: &Machine) -> Result<Arguments, Error> {
    let args = &config.args;
    if let Some(kind) = value(args, "--proc-type").filter(|k| *k != "primary") {
        let reason = "this is always DPDK's primary process".to_owned();
        return Err(Error::Argument { argument: format!("--proc-type={kind}"), reason });
    }
    let mut list = vec![config.name.clone()];
    if !given(args, &["--lcores", "-l", "-c"]) {
        list.push("--lcores".to_owned());
        list.push(lcores(&config.cpus, &machine.cpus)?);
    }
    let (memory, need, more) = memory(config, machine);
    list.extend(more);
    let own_prefix = !given(args, &["--file-prefix"]);
    if own_prefix {
        list.push(format!("--file-prefix={}-{}", config.name, machine.unique));
    }
    // Without the prefix nobody can use the files that EAL shares, and a killed process would leave them behind.
    let shares = ["--in-memory", "--no-shconf"];
    if own_prefix && !given(args, &shares) && !given(&list, &shares) {
        list.push("--no-shconf".to_owned());
    }
    if !given(args, &["--telemetry", "--no-telemetry"]) {
        list.push("--no-telemetry".to_owned());
    }
    if !given(args, &["--no-pci", "-a", "--allow", "-b", "--block"]) {
        let pci: Vec<&String> = config.devices.iter().filter(|d| device::is_pci_address(d)).collect();
        if pci.is_empty() {
            list.push("--no-pci".to_owned());
        }
        for address in pci {
            list.push("-a".to_owned());
            list.push(address.clone());
        }
    }
    list.extend(args.iter().cloned());
    Ok(Arguments { list, memory, need, own_prefix })
}

/// The memory to use, its size, and the arguments that request it.
fn memory(config: &EalConfig, machine: &Machine) -> (Memory, u64, Vec<String>) {
    let args = &config.args;
    let megabytes = value(args, "-m").and_then(|m| m.parse::<u64>().ok());
    let need = megabytes.map_or(config.memory + OVERHEAD, |m| m << 20);
    // A buffer doesn't cross a page boundary, and ordinary pages have 4 KB: a pool of 2 KB buffers takes twice its
    // size. Unused memory isn't touched.
    let ordinary_need = megabytes.map_or(2 * config.memory + OVERHEAD, |m| m << 20);
    let ordinary = |why: String| {
        let mut more = Vec::new();
        if !given(args, &["--no-huge"]) {
            more.push("--no-huge".to_owned());
        }
        if megabytes.is_none() {
            more.extend(["-m".to_owned(), ordinary_need.div_ceil(1 << 20).to_string()]);
        }
        (Memory::Ordinary { bytes: ordinary_need, why }, ordinary_need, more)
    };
    if given(args, &["--no-huge"]) {
        return ordinary("the EAL arguments say so".to_owned());
    }
    let settled = [
        "--in-memory",
        "--huge-dir",
        "--socket-mem",
        "--legacy-mem",
        "--huge-unlink",
        "--single-file-segments",
    ];
    if given(args, &settled) {
        return (Memory::AsArguments, need, Vec::new());
    }
    match (machine.huge)(need) {
        Err(why) => ordinary(why),
        // Naming the files means that other processes (dpdk-pdump) should find them, which needs a mount.
        Ok(free) if given(args, &["--file-prefix"]) && machine.huge_mount => {
            (Memory::Huge { free }, need, Vec::new())
        }
        Ok(free) => (Memory::Huge { free }, need, vec!["--in-memory".to_owned()]),
    }
}

/// EAL's lcore map: lcore 0 is the main one, the workers follow.
fn lcores(cpus: &Cpus, allowed: &[usize]) -> Result<String, Error> {
    let refuse =
        |argument: String, reason: &str| Err(Error::Argument { argument, reason: reason.to_owned() });
    let workers = cpus.workers();
    // One of the RTE_MAX_LCORE lcores is the main one.
    if workers >= dpdk_sys::RTE_MAX_LCORE as usize {
        return refuse(format!("{workers} workers"), "more than this DPDK was built for");
    }
    if allowed.is_empty() {
        return refuse("--lcores".to_owned(), "the CPUs of the process can't be found out");
    }
    let all = set(allowed.iter());
    let mut map = String::new();
    match cpus {
        Cpus::Floating(n) => {
            _ = write!(map, "0@{all}");
            (1..=*n).for_each(|w| _ = write!(map, ",{w}@{all}"));
        }
        Cpus::Spread(n) => {
            _ = write!(map, "0@{all}");
            (1..=*n).for_each(|w| _ = write!(map, ",{w}@{}", allowed[(w - 1) % allowed.len()]));
        }
        Cpus::Pinned(list) => {
            if let Some(cpu) = list.iter().find(|c| !allowed.contains(c)) {
                return refuse(format!("core {cpu}"), "the process may not use that CPU");
            }
            let others = set(allowed.iter().filter(|c| !list.contains(c)));
            _ = write!(map, "0@{}", if others == "()" { &all } else { &others });
            list.iter().zip(1..).for_each(|(cpu, w)| _ = write!(map, ",{w}@{cpu}"));
        }
    }
    Ok(map)
}

/// Formats a set such as `(0,1,4)`.
fn set<'a>(cpus: impl Iterator<Item = &'a usize>) -> String {
    let list: Vec<String> = cpus.map(usize::to_string).collect();
    format!("({})", list.join(","))
}

/// Whether one of `options` is among `args`, with or without its value attached.
fn given(args: &[String], options: &[&str]) -> bool {
    options.iter().any(|o| args.iter().any(|a| strip(a, o).is_some()))
}

/// The value of an option, attached or in the next argument.
fn value<'a>(args: &'a [String], option: &str) -> Option<&'a str> {
    let at = args.iter().position(|a| strip(a, option).is_some())?;
    match strip(&args[at], option)? {
        "" => args.get(at + 1).map(String::as_str),
        attached => Some(attached),
    }
}

/// The part of `arg` after `option`: nothing, or an attached value.
fn strip<'a>(arg: &'a str, option: &str) -> Option<&'a str> {
    let rest = arg.strip_prefix(option)?;
    if option.starts_with("--") && !rest.is_empty() { rest.strip_prefix('=') } else { Some(rest) }
}

/// The CPUs this process may use.
fn allowed_cpus() -> Vec<usize> {
    // SAFETY: an all-zero set is a valid, empty one; the kernel writes at most the size given, and CPU_ISSET
    // is asked for bits inside it only.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &set)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cpus: &[usize]) -> Machine {
        Machine {
            cpus: cpus.to_vec(),
            huge: |need| if need <= 1 << 30 { Ok(1 << 30) } else { Err("too few".to_owned()) },
            huge_mount: true,
            unique: "77".to_owned(),
        }
    }

    fn config(args: &[&str]) -> EalConfig {
        EalConfig {
            name: "weir".to_owned(),
            cpus: Cpus::Spread(2),
            devices: vec!["net_null0".to_owned()],
            memory: 100 << 20,
            args: args.iter().map(ToString::to_string).collect(),
            log: None,
        }
    }

    fn line(config: &EalConfig, machine: &Machine) -> String {
        compose(config, machine).unwrap().list.join(" ")
    }

    #[test]
    fn huge_pages_are_used_where_they_suffice() {
        let arguments = compose(&config(&[]), &machine(&[0, 1])).unwrap();
        assert_eq!(
            arguments.list.join(" "),
            "weir --lcores 0@(0,1),1@0,2@1 --in-memory --file-prefix=weir-77 --no-telemetry --no-pci"
        );
        assert_eq!(arguments.memory, Memory::Huge { free: 1 << 30 });
        assert!(arguments.own_prefix);
    }

    #[test]
    fn ordinary_memory_takes_their_place() {
        let mut config = config(&[]);
        config.memory = 2 << 30;
        let arguments = compose(&config, &machine(&[0])).unwrap();
        assert_eq!(
            arguments.list.join(" "),
            "weir --lcores 0@(0),1@0,2@0 --no-huge -m 4160 --file-prefix=weir-77 --no-shconf --no-telemetry --no-pci"
        );
        assert_eq!(arguments.memory, Memory::Ordinary { bytes: 4160 << 20, why: "too few".to_owned() });
    }

    #[test]
    fn the_caller_s_arguments_win() {
        let m = machine(&[0, 1]);
        assert_eq!(
            line(&config(&["-m", "512", "--no-huge"]), &m),
            "weir --lcores 0@(0,1),1@0,2@1 --file-prefix=weir-77 --no-shconf --no-telemetry --no-pci -m 512 --no-huge"
        );
        assert_eq!(
            line(&config(&["-m4096"]), &m),
            "weir --lcores 0@(0,1),1@0,2@1 --no-huge --file-prefix=weir-77 --no-shconf --no-telemetry --no-pci -m4096"
        );
        assert_eq!(
            line(&config(&["-l0-2", "--in-memory", "--file-prefix=x", "--no-pci", "--telemetry"]), &m),
            "weir -l0-2 --in-memory --file-prefix=x --no-pci --telemetry"
        );
        assert_eq!(
            line(&config(&["--lcores=0,1,2", "--file-prefix", "shared"]), &m),
            "weir --no-telemetry --no-pci --lcores=0,1,2 --file-prefix shared"
        );
    }

    #[test]
    fn pci_devices_are_the_only_ones_allowed() {
        let mut config = config(&[]);
        config.devices = vec!["0000:3b:00.0".to_owned(), "net_null0".to_owned(), "3b:00.1,x=1".to_owned()];
        let line = line(&config, &machine(&[0, 1]));
        assert!(line.ends_with(" -a 0000:3b:00.0 -a 3b:00.1,x=1"), "{line}");
        assert!(!line.contains("--no-pci"));
    }

    #[test]
    fn workers_are_mapped_to_cpus() {
        assert_eq!(lcores(&Cpus::Spread(3), &[2, 4]).unwrap(), "0@(2,4),1@2,2@4,3@2");
        assert_eq!(lcores(&Cpus::Floating(2), &[2, 4]).unwrap(), "0@(2,4),1@(2,4),2@(2,4)");
        assert_eq!(lcores(&Cpus::Pinned(vec![4]), &[2, 4]).unwrap(), "0@(2),1@4");
        assert_eq!(lcores(&Cpus::Pinned(vec![4, 2]), &[2, 4]).unwrap(), "0@(2,4),1@4,2@2");
        assert!(lcores(&Cpus::Pinned(vec![7]), &[2, 4]).is_err());
        assert!(lcores(&Cpus::Spread(128), &[0]).is_err());
    }

    #[test]
    fn secondary_processes_are_refused() {
        assert!(compose(&config(&["--proc-type=secondary"]), &machine(&[0])).is_err());
        assert!(compose(&config(&["--proc-type", "auto"]), &machine(&[0])).is_err());
        assert!(compose(&config(&["--proc-type=primary"]), &machine(&[0])).is_ok());
    }

    #[test]
    fn missing_huge_pages_are_reported() {
        let of = |args: &[&str]| lacks_huge_pages(&EalConfig { memory: 1 << 50, ..config(args) });
        assert!(of(&[]).unwrap().ends_with("; ordinary memory takes their place, and packets cost more"));
        assert_eq!(of(&["--no-huge", "-m", "64"]), None);
        for insisting in ["--in-memory", "--socket-mem=64", "--legacy-mem", "--huge-dir=/x", "--huge-unlink"]
        {
            let told = of(&[insisting]).unwrap();
            assert!(
                told.contains(" MB of huge pages are needed, ") && told.ends_with("doesn't start"),
                "{told}"
            );
        }
    }

    #[test]
    fn this_process_may_use_some_cpu() {
        assert!(!allowed_cpus().is_empty());
    }
}
