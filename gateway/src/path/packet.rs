//! What every stage says of a packet: where it came from, and what is to be done with it.

use super::parse::Parsed;
use crate::io::Frame;

/// Frames up to this length keep their link-layer padding.
const MIN_FRAME: usize = 64;

/// Cuts off what follows the packet in its frame.
#[inline]
pub(super) fn trim(frame: &mut impl Frame, p: &Parsed) {
    let len = frame.total_len();
    let packet_end = usize::from(p.l3) + usize::from(p.ip_len);
    if len > MIN_FRAME && packet_end < len {
        frame.truncate(packet_end);
    }
}

/// Where a frame came from: what another worker handed over isn't handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A port's receive queue.
    Port,
    /// Another worker: it's ours, whatever the hash says.
    Worker,
}

/// What is to be done with a packet of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is the kernel's.
    Punted,
    /// Its time to live is used up.
    TtlExpired,
    /// The session ends, and the packet is taken as one without.
    Anew,
    /// Its server was deleted.
    ServerDeleted,
    /// It goes the session's way.
    Goes,
}
