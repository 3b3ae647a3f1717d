//! The control protocol of weir, its client, and (feature `cli`) the operator's tool.
#![forbid(unsafe_code)]

pub mod client;
pub mod model;
pub mod protocol;
