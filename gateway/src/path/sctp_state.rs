//! SCTP states of a session as IPVS keeps them (Linux `ip_vs_proto_sctp.c`; RFC 9260, 4; the recordings in the golden
//! folder are the oracle).
//!
//! The states are the server's, as far as packets show them: INIT1, INIT, C-SENT and C-REPLIED are its CLOSED on the way
//! to an association that the client opens, C-WAIT, COOKIE and C-ECHOED are those of one that the server opens. A packet
//! counts by its first chunk; an ABORT behind a cookie counts before it.

use weirctl::model::SessionState::{
    self, Established as ES, None as NO, SctpClosed as CL, SctpCookie as CO, SctpCookieEchoed as CE,
    SctpCookieReplied as CR, SctpCookieSent as CS, SctpCookieWait as CW, SctpInit as IN, SctpInit1 as I1,
    SctpRejected as RJ, SctpShutdownAckSent as SA, SctpShutdownReceived as SR, SctpShutdownSent as SS,
};

use crate::{
    clock::seconds,
    net::sctp::{self, chunk},
    table::session::Direction,
};

/// What a packet is to the state; kept where TCP has its flags.
pub const DATA: u8 = 0;
/// An association is opened.
pub const INIT: u8 = 1;
/// The server agrees.
pub const INIT_ACK: u8 = 2;
const COOKIE_ECHO: u8 = 3;
const COOKIE_ACK: u8 = 4;
const SHUTDOWN: u8 = 5;
const SHUTDOWN_ACK: u8 = 6;
/// The association is over.
pub const SHUTDOWN_COMPLETE: u8 = 7;
const ERROR: u8 = 8;
/// The association is given up.
pub const ABORT: u8 = 9;
/// No chunk at all.
pub const NOTHING: u8 = 10;

/// Rows by event, columns by state.
type Table = [[SessionState; 14]; 10];

/// The columns.
const STATES: [SessionState; 14] = [NO, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL];

#[rustfmt::skip]
const REQUESTS: Table = [
    [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, IN],
    [CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL],
    [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
    [CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL],
    [CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL],
    [CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL],
    [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
];

#[rustfmt::skip]
const REPLIES: Table = [
    [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW],
    [CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL],
    [ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL],
    [SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL],
    [SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL],
    [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL],
];

#[rustfmt::skip]
const REQUESTS_ONLY: Table = [
    [ES, I1, IN, CS, CR, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
    [I1, IN, IN, IN, IN, IN, CO, CE, ES, SS, SR, SA, IN, IN],
    [CE, CE, CE, CE, CE, CE, CO, CE, ES, SS, SR, SA, RJ, CL],
    [ES, ES, ES, ES, ES, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
    [ES, I1, IN, ES, ES, CW, ES, ES, ES, SS, SR, SA, RJ, CL],
    [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
    [CL, IN, IN, CS, CR, CW, CO, CE, CL, CL, SR, CL, RJ, CL],
    [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, CL, CL, RJ, CL],
    [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
];

/// Time-outs: an INIT that isn't answered, or is rejected, is forgotten soon; else 60 s, RTO.Max, and one more.
#[must_use]
pub fn timeout(state: SessionState) -> u32 {
    match state {
        NO => seconds(2),
        I1 | RJ => seconds(4),
        ES => seconds(900),
        _ => seconds(61),
    }
}

/// The states that have time-outs here and no others.
pub fn own_states() -> impl Iterator<Item = SessionState> {
    STATES.into_iter().filter(|state| !matches!(state, NO | ES))
}

/// What the chunks behind the common header are to the state.
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

/// The state after a packet: seen both ways, or requests only where the server's never pass (`one_way`).
#[must_use]
pub fn next(state: SessionState, direction: Direction, event: u8, one_way: bool) -> SessionState {
    let table = match direction {
        _ if one_way => &REQUESTS_ONLY,
        Direction::Request => &REQUESTS,
        Direction::Reply => &REPLIES,
    };
    let column = STATES.iter().position(|s| *s == state);
    column.and_then(|c| table.get(usize::from(event))?.get(c)).copied().unwrap_or(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(steps: &[(Direction, u8)]) -> SessionState {
        steps.iter().fold(NO, |state, &(direction, event)| next(state, direction, event, false))
    }

    #[test]
    fn an_association_is_set_up_and_shut_down() {
        use Direction::{Reply, Request};
        let up = [(Request, INIT), (Reply, INIT_ACK), (Request, COOKIE_ECHO), (Reply, COOKIE_ACK)];
        let states: Vec<_> = (1..=4).map(|n| run(&up[..n])).collect();
        assert_eq!(states, [I1, CS, CR, ES]);
        let after = |more: &[(Direction, u8)]| run(&[&up[..], more].concat());
        assert_eq!(after(&[(Request, DATA), (Reply, DATA), (Reply, NOTHING)]), ES);
        assert_eq!(after(&[(Request, SHUTDOWN), (Reply, SHUTDOWN_ACK)]), SA);
        assert_eq!(after(&[(Reply, SHUTDOWN), (Request, SHUTDOWN_ACK)]), CL);
        assert_eq!(after(&[(Reply, ABORT)]), CL);
        assert_eq!(run(&[(Request, INIT), (Reply, ABORT)]), RJ);
        assert_eq!(next(I1, Request, COOKIE_ECHO, true), ES, "only requests pass");
    }

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
