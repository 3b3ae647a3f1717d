//! Control's requests to a worker between two bursts: changes, lists, explanations, traces.

pub mod census;
pub mod explain;
pub mod hops_in_use;
pub mod search;
pub mod trace;
pub mod update;
