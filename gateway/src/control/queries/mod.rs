//! What is asked of the data plane.

pub mod explain;
mod hops_in_use;
pub mod status;
pub mod trace;

pub(super) use hops_in_use::Inquiry;
