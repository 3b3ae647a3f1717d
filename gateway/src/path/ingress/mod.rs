//! How packets come in: parsed, for whose MAC address, with which checksums.

pub mod parse;
pub(crate) mod sctp_event;
pub mod station;
pub(crate) mod sums;
