//! (net)

pub mod address;
pub mod toeplitz;
