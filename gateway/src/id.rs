//! Small numbers that name things across rooms.

/// A virtual service, as long as it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// Services a worker has room for.
pub const MAX_SERVICES: usize = 65_536;

/// A real server of one service. The number stays with (service key, address, port) while the server is
/// configured *or* any session refers to it, so that a server that is deleted and added again finds its
/// sessions and counters; only then is it reused. It indexes the workers' counter slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u32);

/// Servers a worker has room for.
pub const MAX_SERVERS: usize = 1_048_576;

/// A worker: one pinned lcore with one queue pair of every port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);
