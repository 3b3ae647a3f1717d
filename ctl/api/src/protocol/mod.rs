//! The control protocol between `weir` and its clients, over a Unix stream socket.
//!
//! ```text
//!   client                                   gateway
//!     | hello   "WEIR" oldest newest  ------->  |   handshake, see [`handshake`]
//!     | <-------  accepted version, access      |
//!     | request  -------------------------->    |   one response to each request, in order;
//!     | <--------------------------  response   |   several requests may be on their way
//! ```
//!
//! After [`Request::Subscribe`] the gateway alone speaks: notices, until either side closes the connection.
//!
//! Every message is one frame: a little-endian 32-bit length, then that many bytes of bincode 2 in its
//! standard configuration ([`frame`]). Every length is limited before anything is allocated for it.
//! The encoding of each message is pinned by golden bytes in the tests: a change of them is a new
//! [`VERSION`].

mod error;
pub mod frame;
pub mod handshake;
mod message;
pub mod older;
mod stage;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod golden_log;
#[cfg(test)]
mod golden_since_10;

pub use error::{ErrorCode, Refusal};
pub use message::{
    Batch, Change, Info, ListCursor, ListQuery, Request, Response, Row, ServerRow, ServiceRow, SessionCursor,
};
pub use stage::StagedChanges;

/// Version of the messages that this library speaks.
pub const VERSION: u16 = 10;

/// Oldest version that this library still speaks.
pub const OLDEST_VERSION: u16 = 1;

/// Largest frame body in bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// Most changes in one frame.
pub const MAX_BATCH: usize = 4096;

/// Most changes in one transaction, of several frames.
pub const MAX_TRANSACTION: usize = 1 << 19;

/// Most rows, or sessions, in one page.
pub const MAX_PAGE: u32 = 1024;

/// Most requests that a client may have sent without having read their answers.
pub const MAX_PIPELINE: usize = 1024;

/// Longest name of a scheduler or persistence engine, in bytes: what ipvsadm keeps of one.
pub const MAX_NAME: usize = 16;

/// Longest name of a port, in bytes.
pub const MAX_INTERFACE: usize = 63;

/// Most local addresses of one service.
pub const MAX_LOCAL_ADDRESSES: usize = 1024;

/// Most mark rules.
pub const MAX_MARKS: usize = 4096;

/// What a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Access {
    /// Look only.
    ReadOnly,
    /// Look and change.
    ReadWrite,
}
