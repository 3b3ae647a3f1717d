//! The directory of EAL's files for this process, and those that dead processes have left.
//!
//! The directory is `/run/dpdk/PREFIX` for root, with a prefix `NAME-PID-HEX` that this crate chooses. It is empty
//! unless the caller's arguments request files that EAL shares with others. An empty directory is removed at once, so
//! that a killed process leaves nothing. Otherwise a lock on it tells others that its owner is alive, even if they see
//! other process numbers.

use std::{
    ffi::CStr,
    fs::{self, File},
    path::{Path, PathBuf},
};

/// A directory that belongs to this process alone.
pub(crate) struct RuntimeDirectory {
    path: PathBuf,
    /// Holds a lock on it.
    _lock: Option<File>,
}

impl RuntimeDirectory {
    /// The directory that EAL uses.
    pub fn of_eal() -> Option<Self> {
        // SAFETY: returns a NUL-terminated text in static memory, written during initialisation.
        let text = unsafe { CStr::from_ptr(dpdk_sys::rte_eal_get_runtime_dir()) };
        let path = PathBuf::from(text.to_str().ok()?);
        path.is_absolute().then(|| Self::new(path))
    }

    fn new(path: PathBuf) -> Self {
        // Fails unless it is empty.
        let gone = fs::remove_dir(&path).is_ok();
        let lock = if gone { None } else { File::open(&path).ok().filter(|file| file.try_lock().is_ok()) };
        Self { path, _lock: lock }
    }

    /// Its path, whether it exists or not.
    #[cfg(test)]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with its contents.
    pub fn remove(self) {
        // An error about a directory that is already gone can be ignored.
        _ = fs::remove_dir_all(&self.path);
    }

    /// Removes the neighbouring directories that ended processes of the program `name` have left.
    pub fn clear_those_of_the_dead(&self, name: &str) {
        let alive = |pid: u32| Path::new("/proc").join(pid.to_string()).exists();
        if let Some(parent) = self.path.parent() {
            clear(parent, name, alive);
        }
    }
}

fn clear(parent: &Path, name: &str, alive: impl Fn(u32) -> bool) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.filter_map(Result::ok) {
        let owner = entry.file_name().to_str().and_then(|entry| owner(entry, name));
        if owner.is_some_and(|pid| !alive(pid)) && is_abandoned(&entry.path()) {
            // Another process may be removing it at the same time.
            _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process that owns the directory `entry`, if it is one of the program `name`.
fn owner(entry: &str, name: &str) -> Option<u32> {
    let (pid, unique) = entry.strip_prefix(name)?.strip_prefix('-')?.split_once('-')?;
    let is_ours = !unique.is_empty() && unique.bytes().all(|b| b.is_ascii_hexdigit());
    pid.bytes().all(|b| b.is_ascii_digit()).then(|| pid.parse().ok()).flatten().filter(|_| is_ours)
}

/// Whether nobody holds its lock.
fn is_abandoned(directory: &Path) -> bool {
    File::open(directory).is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_recognised_by_name() {
        assert_eq!(owner("weir-123-1a2b", "weir"), Some(123));
        for other in ["weir-test-nic-123-1a2b", "weir-123", "weir-123-", "weir-x-1", "dpdk-123-1", "weir-1-z"]
        {
            assert_eq!(owner(other, "weir"), None, "{other}");
        }
    }

    #[test]
    fn only_what_the_dead_have_left_is_removed() {
        let parent = std::env::temp_dir().join(format!("weir-runtime-{}", std::process::id()));
        let make = |name: &str| {
            let path = parent.join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("config"), "x").unwrap();
            path
        };
        let dead = make("weir-7-a");
        let kept = ["weir-1-b", "testpmd", "weir-bench-7-c"].map(make);
        let elsewhere = RuntimeDirectory::new(make("weir-8-d"));
        clear(&parent, "weir", |pid| pid == 1);
        assert!(!dead.exists());
        assert!(kept.iter().chain([&elsewhere.path]).all(|path| path.exists()));
        elsewhere.remove();
        assert!(!parent.join("weir-8-d").exists());
        fs::remove_dir_all(&parent).unwrap();
    }
}
