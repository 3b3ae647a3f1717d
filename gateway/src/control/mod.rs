//! The control side: configuration, its socket, the workers' updates, statistics.

pub mod explain;
pub mod load;
pub mod notices;
pub mod plane;
pub mod rules;
pub mod server;
pub mod store;
pub mod workers;
