//! Control's requests to a worker between two bursts: changes, lists, explanations, traces, the session log.

pub mod census;
pub mod explain;
pub mod hops_in_use;
pub mod search;
pub mod session_log;
pub mod trace;
pub mod update;
