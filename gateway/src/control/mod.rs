//! The control side: configuration, its socket, the workers' updates, statistics.

pub mod change;
pub mod error;
pub mod events;
pub mod notices;
pub mod plane;
pub mod queries;
pub mod rules;
pub mod server;
pub mod store;
pub mod workers;
