//! Network namespaces: entering one with a thread, and asking whether two are the same.

use std::{fs, fs::File, io, os::linux::fs::MetadataExt, path::Path};

use nix::sched::{CloneFlags, setns};

/// The calling thread's own network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// Moves the calling thread, and only it, into the namespace at `path`.
pub(super) fn enter(path: &Path) -> io::Result<()> {
    setns(File::open(path)?, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

/// Whether the namespace at `path` (none: the thread's own) is the calling thread's.
pub(super) fn is_own(path: Option<&Path>) -> io::Result<bool> {
    let Some(path) = path else { return Ok(true) };
    let (a, b) = (fs::metadata(path)?, fs::metadata(OWN)?);
    Ok((a.st_dev(), a.st_ino()) == (b.st_dev(), b.st_ino()))
}

/// Whether IPv6 is switched off on `interface` of the calling thread's namespace; `None` if the kernel has
/// no IPv6.
pub(super) fn ipv6_disabled(interface: &str) -> Option<bool> {
    fs::read_to_string(ipv6_switch(interface)).ok().map(|s| s.trim() != "0")
}

/// Switches IPv6 on `interface` of the calling thread's namespace off or on.
pub(super) fn set_ipv6_disabled(interface: &str, disabled: bool) -> io::Result<()> {
    fs::write(ipv6_switch(interface), if disabled { "1" } else { "0" })
}

/// Keeps the kernel from giving `interface` a link-local IPv6 address by itself, from now on.
pub(super) fn make_no_link_local(interface: &str) -> io::Result<()> {
    const NONE: &str = "1";
    fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/addr_gen_mode"), NONE)
}

fn ipv6_switch(interface: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_its_own() {
        assert!(is_own(None).unwrap());
        assert!(is_own(Some(Path::new("/proc/self/ns/net"))).unwrap());
        assert!(!is_own(Some(Path::new("/proc/self/ns/mnt"))).unwrap());
        assert!(is_own(Some(Path::new("/nonexistent"))).is_err());
        assert!(enter(Path::new("/dev/null")).is_err());
    }
}
