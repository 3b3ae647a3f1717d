//! The packet's way.

pub mod settings;
