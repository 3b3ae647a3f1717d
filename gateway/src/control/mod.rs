//! The control side: configuration, its socket, the workers' updates, statistics.

mod claims;
pub mod explain;
pub mod load;
pub mod notices;
pub mod plane;
pub mod rules;
pub mod server;
mod snat;
pub mod store;
pub mod trace;
pub mod workers;
