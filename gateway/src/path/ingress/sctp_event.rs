//! The event that an SCTP packet means for its association (RFC 9260, 4). The first chunk decides, except that an ABORT
//! behind a cookie takes precedence.

use crate::net::sctp::{self, chunk};

/// The event of a packet, stored where TCP has its flags.
pub const DATA: u8 = 0;
/// The packet opens an association.
pub const INIT: u8 = 1;
/// The server accepts.
pub const INIT_ACK: u8 = 2;
pub(crate) const COOKIE_ECHO: u8 = 3;
pub(crate) const COOKIE_ACK: u8 = 4;
pub(crate) const SHUTDOWN: u8 = 5;
pub(crate) const SHUTDOWN_ACK: u8 = 6;
/// The association has ended.
pub const SHUTDOWN_COMPLETE: u8 = 7;
pub(crate) const ERROR: u8 = 8;
/// The association is aborted.
pub const ABORT: u8 = 9;
/// The packet has no chunk.
pub const NOTHING: u8 = 10;

/// The event of the chunks behind the common header.
#[must_use]
pub fn event(chunks: &[u8]) -> u8 {
    let Some(&[kind, _, high, low]) = chunks.first_chunk() else { return NOTHING };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let cookie = matches!(kind, chunk::COOKIE_ECHO | chunk::COOKIE_ACK) && length >= sctp::CHUNK_HEADER;
    if cookie && chunks.get(length.next_multiple_of(4)) == Some(&chunk::ABORT) {
        return ABORT;
    }
    match kind {
        chunk::INIT => INIT,
        chunk::INIT_ACK => INIT_ACK,
        chunk::ABORT => ABORT,
        chunk::SHUTDOWN => SHUTDOWN,
        chunk::SHUTDOWN_ACK => SHUTDOWN_ACK,
        chunk::ERROR => ERROR,
        chunk::COOKIE_ECHO => COOKIE_ECHO,
        chunk::COOKIE_ACK => COOKIE_ACK,
        chunk::SHUTDOWN_COMPLETE => SHUTDOWN_COMPLETE,
        _ => DATA,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_count_by_their_first_chunk_or_an_abort_behind_a_cookie() {
        assert_eq!(event(&[1, 0, 0, 20]), INIT);
        assert_eq!(event(&[0, 3, 0, 20, 6, 0, 0, 4]), DATA);
        assert_eq!(event(&[10, 0, 0, 6, 1, 2, 0, 0, 6, 0, 0, 4]), ABORT);
        assert_eq!(event(&[10, 0, 0, 6, 1, 2, 0, 0, 0, 0, 0, 4]), COOKIE_ECHO);
        assert_eq!(
            (event(&[10, 0, 0, 0]), event(&[1, 0, 0]), event(&[99, 0, 0, 4])),
            (COOKIE_ECHO, NOTHING, DATA)
        );
    }
}
