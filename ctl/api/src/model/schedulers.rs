//! The schedulers by their names: the one list of them. How each chooses, the gateway's `sched` folder says.

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
