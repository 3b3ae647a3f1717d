//! The control side: configuration, its socket, the workers' updates, statistics.

mod asker;
mod claims;
pub mod explain;
mod in_use;
mod link;
pub mod load;
mod local;
pub mod notices;
mod owners;
pub mod plane;
pub mod rules;
pub mod server;
mod servers;
mod snat;
pub mod store;
pub mod trace;
mod turns;
pub mod warnings;
pub mod workers;
