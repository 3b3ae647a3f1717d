//! Weir: an L4 gateway in the LVS tradition on DPDK.
//!
//! The packet path (`path`, `net`, `sched`, `table`) knows nothing of DPDK: it runs on any [`io::Io`] and
//! takes its clock as an input, so that the same code forwards frames of a NIC and replays recordings in
//! virtual time.
#![forbid(unsafe_code)]

pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod host;
pub mod id;
pub mod io;
pub mod log;
pub mod mac;
pub mod net;
pub mod path;
pub mod prefix;
pub mod run;
pub mod sched;
pub mod table;
pub mod threads;
pub mod versions;
