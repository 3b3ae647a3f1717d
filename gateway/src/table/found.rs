//! The result of an index look-up: a candidate, and the session once its record has confirmed it.

use super::session::{Direction, SessionId};

/// The session that a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The session.
    pub id: SessionId,
    /// The packet's direction.
    pub direction: Direction,
}

/// An index entry that must be confirmed by its record.
#[derive(Clone, Copy, Debug)]
pub struct Candidate(pub(super) u32);

impl Candidate {
    /// A candidate of no session.
    pub const NONE: Self = Self(u32::MAX);

    /// Number of its record.
    #[inline]
    pub(super) fn record(self) -> usize {
        (self.0 >> 1) as usize
    }

    /// The session and direction, provided the candidate is confirmed.
    #[inline]
    pub(super) fn found(self) -> Found {
        found(self.0)
    }
}

#[inline]
pub(super) fn entry(id: u32, direction: Direction) -> u32 {
    id << 1 | direction.index() as u32
}

#[inline]
pub(super) fn found(entry: u32) -> Found {
    let direction = if entry & 1 == 0 { Direction::Request } else { Direction::Reply };
    Found { id: SessionId(entry >> 1), direction }
}
