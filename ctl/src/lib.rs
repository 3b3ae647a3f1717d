//! The control protocol of weir, its client, and ipvsadm's command line. Feature `cli` adds the program:
//! listings, messages, the modern commands and the `weirctl` binary.
#![forbid(unsafe_code)]

pub mod client;
pub mod client_address;
pub mod ipvsadm;
pub mod mark;
pub mod model;
#[cfg(feature = "cli")]
pub mod modern;
#[cfg(feature = "cli")]
pub mod permission;
#[cfg(feature = "cli")]
pub mod program;
pub mod protocol;
pub mod snat;
pub mod words;
