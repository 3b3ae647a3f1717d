//! The control side: configuration, its socket, the workers' updates, statistics.

pub mod plane;
pub mod store;
pub mod workers;
