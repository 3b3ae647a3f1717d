//! Which packets may change a session; their numbers are weighed in [`super::tcp_numbers`] and [`super::sctp_tags`].
//!
//! Anyone who knows a connection's addresses and ports can forge its packets. A packet that its receiver would
//! discard must neither end the session here nor extend it (RFC 5961, whose idea this is; RFC 9260, 8.5, for SCTP). A
//! packet counts if
//!
//! ```text
//! it arrives by a port behind which its sender is     else it is dropped, a martian
//! its transport checksum is right                     else it passes and changes nothing
//! it fits both sides' numbers:                        else it passes and changes nothing
//!   RST    begins where the other side expects        a little off: the session ends if only silence follows
//!   FIN    begins near, and acknowledges near
//!   ACK    that completes the handshake: acknowledges the server's SYN, begins behind the client's
//!   SYN    opens what is over; on what lives it waits for the server's answer
//!   ABORT  carries the verification tag
//! ```
//!
//! Sequence numbers are known from the handshake and then from what both sides acknowledge; every packet updates
//! them. If a number isn't known (a connection picked up in the middle, a SYN-ACK that doesn't answer the SYN seen
//! here), it isn't checked. Sessions of NAT behave as in IPVS until the server has answered, unless `nat_strict_tcp`
//! is set. Of DR and TUN only one side passes, so only checksums and flags count.

use weir_api::model::SessionState;

/// What a packet may change about its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belief {
    /// Nothing, not even when it ends.
    Nothing,
    /// When it ends: later than before.
    Quiet,
    /// If only silence follows, the session is over.
    Doubtful,
    /// What it says.
    Counts,
    /// The state, to this one.
    Becomes(SessionState),
}

impl Belief {
    /// Whether the packet is what it says.
    pub fn counts(self) -> bool {
        matches!(self, Self::Counts | Self::Becomes(_))
    }
}
