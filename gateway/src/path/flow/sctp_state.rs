//! SCTP states of a session, as IPVS keeps them (Linux `ip_vs_proto_sctp.c`; RFC 9260, 4; the recordings in
//! the golden folder are the oracle).
//!
//! The states are the server's, as far as packets show them. INIT1, INIT, C-SENT and C-REPLIED are the
//! server's CLOSED while the client opens an association; C-WAIT, COOKIE and C-ECHOED are the states of an
//! association that the server opens. A packet counts by its first chunk, except that an ABORT behind a
//! cookie counts before it.

use weir_api::model::SessionState::{
    self, Established as ES, None as NO, SctpClosed as CL, SctpCookie as CO, SctpCookieEchoed as CE,
    SctpCookieReplied as CR, SctpCookieSent as CS, SctpCookieWait as CW, SctpInit as IN, SctpInit1 as I1,
    SctpRejected as RJ, SctpShutdownAckSent as SA, SctpShutdownReceived as SR, SctpShutdownSent as SS,
};

use crate::{clock::Ticks, table::session::Direction};

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

/// Time-outs. An INIT that is unanswered or rejected is forgotten soon. Any other state short of an
/// established association lasts 60 s (RTO.Max) and one more.
#[must_use]
pub fn timeout(state: SessionState) -> Ticks {
    match state {
        NO => Ticks::seconds(2),
        I1 | RJ => Ticks::seconds(4),
        ES => Ticks::seconds(900),
        _ => Ticks::seconds(61),
    }
}

/// The states that have time-outs here and in no other protocol.
pub fn own_states() -> impl Iterator<Item = SessionState> {
    STATES.into_iter().filter(|state| !matches!(state, NO | ES))
}

/// The state after a packet. With `one_way` only requests are seen, because the server's packets don't pass
/// the gateway.
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
    use crate::path::ingress::sctp_event::{
        ABORT, COOKIE_ACK, COOKIE_ECHO, DATA, INIT, INIT_ACK, NOTHING, SHUTDOWN, SHUTDOWN_ACK,
    };

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
}
