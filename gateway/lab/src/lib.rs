//! The laboratory: real processes on the network stacks of real kernels, in their own network namespaces.
//!
//! A [`Lab`] owns namespaces and a scratch directory. Both have the process id in their names, so that labs of parallel
//! tests never meet. Everything is removed when the lab is dropped, also by a panic; leftovers of a killed test are
//! removed by the next lab. Children die with the test that started them.
//!
//! Nothing here simply sleeps: waits are for a line, a listening port or the end of a process, and report what was
//! missing when the time limit is over. Failures are panics: a lab has no use for half a network.
#![forbid(unsafe_code)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

pub mod clients;
pub mod gateway;
pub mod guest;
pub mod keepalived;
pub mod ldirectord;
pub mod namespace;
mod narrow;
pub mod process;
pub mod servers;
pub mod stranger;
pub mod topology;
pub mod trunk;
pub mod tunnel;

pub use namespace::Namespace;

/// The prefix of every lab's namespaces.
const PREFIX: &str = "weirlab-";

/// The number of labs made by this process so far.
static MADE: AtomicU32 = AtomicU32::new(0);

/// Namespaces and a scratch directory, removed when dropped.
#[derive(Debug)]
pub struct Lab {
    id: String,
    directory: PathBuf,
    namespaces: Vec<Namespace>,
    ipv6: bool,
}

impl Lab {
    /// An empty lab.
    ///
    /// # Panics
    /// If there is no permission to create network namespaces, or the scratch directory can't be created.
    #[must_use]
    pub fn new() -> Self {
        sweep();
        let id = format!("{PREFIX}{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed));
        let directory = std::env::temp_dir().join(&id);
        fs::create_dir_all(&directory)
            .unwrap_or_else(|e| panic!("cannot make the scratch directory {}: {e}", directory.display()));
        Self { id, directory, namespaces: Vec::new(), ipv6: false }
    }

    /// An empty lab whose namespaces use IPv6 too, including neighbour discovery.
    #[must_use]
    pub fn with_ipv6() -> Self {
        let mut lab = Self::new();
        lab.ipv6 = true;
        lab
    }

    /// A new namespace called `role` in this lab, with loopback up, and without IPv6 unless the lab uses it.
    pub fn namespace(&mut self, role: &str) -> Namespace {
        let made = Namespace::create(format!("{}-{role}", self.id), self.ipv6);
        self.namespaces.push(made.clone());
        made
    }

    /// Whether its namespaces use IPv6.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.ipv6
    }

    /// The scratch directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A new directory `name` inside the scratch directory.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    pub fn subdirectory(&self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|e| panic!("cannot make {}: {e}", path.display()));
        path
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in self.namespaces.drain(..) {
            namespace.delete();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Removes what the labs of this process have created, for a process that is about to be ended by a signal. The
/// processes in them end with their parent.
pub fn remove_own() {
    remove(|owner| owner == std::process::id());
}

/// Removes leftovers of labs whose process is gone.
fn sweep() {
    remove(|owner| !Path::new("/proc").join(owner.to_string()).exists());
}

/// Removes namespaces and scratch directories of labs if `chosen` selects their process id.
fn remove(chosen: impl Fn(u32) -> bool) {
    for (root, is_namespace) in [(PathBuf::from("/run/netns"), true), (std::env::temp_dir(), false)] {
        let Ok(entries) = fs::read_dir(root) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !owner(&name).is_some_and(&chosen) {
                continue;
            }
            if is_namespace {
                Namespace::existing(name).delete();
            } else {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// The process id in a lab's name.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}
