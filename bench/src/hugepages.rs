//! Hugepages for the time of a measurement.
//!
//! Both programs should run on the same kind of memory. Pages are reserved through
//! `/proc/sys/vm/nr_hugepages` and given back afterwards; where that isn't possible the caller runs both
//! programs with `--no-huge` and says so in its report.

use std::{fs, path::PathBuf};

use crate::error::{Error, Result};

const POOL: &str = "/proc/sys/vm/nr_hugepages";
const COMPACT: &str = "/proc/sys/vm/compact_memory";

/// Bytes of a page in the default pool; 2 MiB on x86-64 unless the kernel was booted otherwise.
fn page_bytes() -> u64 {
    meminfo("Hugepagesize:").map_or(2 << 20, |kib| kib * 1024)
}

fn meminfo(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

fn pool() -> Option<u64> {
    fs::read_to_string(POOL).ok()?.trim().parse().ok()
}

/// What both programs' memory comes from.
#[derive(Debug)]
pub enum Memory {
    /// Hugepages; those that were reserved for the measurement are given back on drop.
    Huge {
        /// Pages added to the pool.
        added: u64,
    },
    /// Ordinary pages (`--no-huge`).
    Ordinary,
}

/// Bytes on pages of the pool that a process has touched, by what the kernel writes into `smaps_rollup`.
fn held(rollup: &str) -> u64 {
    let lines = rollup.lines().filter_map(|line| line.split_once("_Hugetlb:"));
    lines.filter_map(|(_, size)| size.split_whitespace().next()?.parse::<u64>().ok()).sum::<u64>() * 1024
}

impl Memory {
    /// Whether a program that was started for a report runs on what the report says: it may have found that the
    /// reserved pages aren't enough for what it needs.
    pub fn check(ordinary: bool, pid: u32) -> Result<()> {
        let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
        if ordinary || held(&fs::read_to_string(&path).map_err(Error::file(&path))?) != 0 {
            return Ok(());
        }
        Err(Error::Unexpected(format!("process {pid} does without the hugepages that were reserved for it")))
    }

    /// Reserves free hugepages for `bytes`, or settles for ordinary memory.
    pub fn reserve(bytes: u64) -> Self {
        let wanted = bytes.div_ceil(page_bytes());
        let Some(before) = pool() else { return Self::Ordinary };
        let missing = || wanted.saturating_sub(meminfo("HugePages_Free:").unwrap_or(0));
        for _ in 0..4 {
            let more = missing();
            if more == 0 || fs::write(POOL, (pool().unwrap_or(before) + more).to_string()).is_err() {
                break;
            }
            // The kernel gives what it finds at once; moving pages about makes more.
            let _ = fs::write(COMPACT, "1");
        }
        let memory = Self::Huge { added: pool().unwrap_or(before).saturating_sub(before) };
        if missing() == 0 { memory } else { Self::Ordinary } // which gives back what was had
    }

    /// As the report names it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Huge { .. } => "hugepages",
            Self::Ordinary => "ordinary pages (--no-huge)",
        }
    }

    /// Whether EAL gets `--no-huge`.
    pub fn is_ordinary(&self) -> bool {
        matches!(self, Self::Ordinary)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Self::Huge { added } = self else { return };
        if *added > 0
            && let Some(now) = pool()
        {
            // Others may have changed the pool meanwhile: take off what was added, no more.
            let _ = fs::write(POOL, now.saturating_sub(*added).to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_hugepages_is_reported() {
        let own = std::process::id();
        assert!(Memory::check(false, own).is_err() && Memory::check(true, own).is_ok());
        let rollup = "00400000-7ffe rollup\nAnonHugePages: 8 kB\nShared_Hugetlb: 2048 kB\nPrivate_Hugetlb: 4096 kB\nSwap: 1 kB";
        assert_eq!(held(rollup), 6 << 20);
    }

    #[test]
    fn page_size_is_a_power_of_two() {
        assert!(page_bytes().is_power_of_two());
    }
}
