//! Whether the session tables' memory is provided at start, and providing it.
//!
//! A table may be configured far larger than it will ever be, and what is asked for here is taken at once. So it isn't
//! asked for where the machine, or the control group that the gateway is in, wouldn't have it left.

use std::{fs, path::Path};

use tracing::{info, warn};

use crate::{io::Io, path::Worker};

/// Of the memory that is free this part stays so: what else starts needs some.
const SPARE: u64 = 4;

/// Whether `bytes` in all are to be provided now.
#[must_use]
pub fn is_affordable(bytes: u64) -> bool {
    let free = available(Path::new("/proc/meminfo"), Path::new("/sys/fs/cgroup"));
    let affordable = free.is_none_or(|free| fits(bytes, free));
    if !affordable {
        warn!(
            bytes,
            free, "not enough memory to allocate the session tables in advance: pages come as they are used"
        );
    }
    affordable
}

fn fits(bytes: u64, free: u64) -> bool {
    bytes <= free - free / SPARE
}

/// Bytes that can still be had, as the machine and, with its second version, the control group say; none if neither does.
fn available(meminfo: &Path, group: &Path) -> Option<u64> {
    let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    // "max" is no number: no limit.
    let in_group =
        number("memory.max").map(|most| most.saturating_sub(number("memory.current").unwrap_or(0)));
    let text = fs::read_to_string(meminfo).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let on_machine = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    [in_group, on_machine.map(|kilobytes| kilobytes * 1024)].into_iter().flatten().min()
}

/// Has the kernel provide a worker's tables, on the CPU at hand.
pub fn provide<I: Io>(worker: &mut Worker<I>) {
    let bytes = worker.sessions().populated_bytes();
    match worker.populate() {
        Ok(()) => info!(bytes, "the session table's memory is allocated"),
        Err(error) => warn!(bytes, %error, "the session table's memory comes as it is used"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_machine_and_group_counts() {
        let dir = std::env::temp_dir().join(format!("weir-prefault-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let meminfo = dir.join("meminfo");
        fs::write(&meminfo, "MemTotal: 9 kB\nMemAvailable:    1000 kB\n").unwrap();
        let limits = |max: &str| {
            fs::write(dir.join("memory.max"), max).unwrap();
            fs::write(dir.join("memory.current"), "4096\n").unwrap();
            available(&meminfo, &dir)
        };
        assert_eq!(limits("max\n"), Some(1_024_000));
        assert_eq!(limits("8192\n"), Some(4096));
        assert_eq!(limits("1000\n"), Some(0));
        assert_eq!(available(&dir.join("none"), &dir.join("none")), None);
        fs::remove_dir_all(&dir).unwrap();
        assert!(fits(75, 100) && !fits(76, 100) && fits(0, 0));
    }
}
