//! The schedulers by name: the only list of them. The gateway's `sched` folder implements them.

/// Every scheduler that `-s` takes, as IPVS names them.
pub const SCHEDULERS: [&str; 13] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh"];

/// IPVS's name for no scheduler at all, which `-s` takes, too.
pub const NO_SCHEDULER: &str = "none";

/// Whether `-s` takes a name.
#[must_use]
pub fn is_scheduler(name: &str) -> bool {
    name == NO_SCHEDULER || SCHEDULERS.contains(&name)
}
