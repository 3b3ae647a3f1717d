//! How packets come in: parsing, MAC address filter, checksums.

pub mod parse;
pub(crate) mod sctp_event;
pub mod station;
pub(crate) mod sums;
