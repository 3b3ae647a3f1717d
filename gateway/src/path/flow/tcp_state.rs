//! TCP states of a session as IPVS keeps them (Linux `ip_vs_proto_tcp.c`; the recordings in the golden
//! folder are the oracle).
//!
//! A packet has one class: RST before SYN before FIN before ACK; a packet with none of these closes. The
//! tables give the next state by direction, class and present state. They see both directions (NAT,
//! FULLNAT) or only requests (DR, TUN), where a client's FIN must be believed.

use weir_api::model::SessionState::{self, *};

use crate::{
    net::tcp as tcp_flags,
    table::session::{Direction, STATE, TIMEOUTS},
};

/// TCP's flags that may change a session's state.
pub(crate) const CONTROL: u8 = tcp_flags::FIN | tcp_flags::SYN | tcp_flags::RST | tcp_flags::ACK;

/// By the state's number (and with [`crate::table::session::SNAT`]) which of [`CONTROL`] a packet has that changes
/// nothing: TCP's own acknowledgement, and any datagram of UDP. Of the other states no packet does.
pub(crate) static QUIET: [u8; TIMEOUTS] = {
    let mut quiet = [u8::MAX; TIMEOUTS];
    let mut group = 0;
    while group < TIMEOUTS {
        quiet[group + SessionState::Established as usize] = tcp_flags::ACK;
        quiet[group + SessionState::Udp as usize] = 0;
        group += STATE as usize + 1;
    }
    quiet
};

/// Rows: SYN, FIN, ACK, RST. Columns: NONE, ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT, TIME_WAIT, CLOSE,
/// CLOSE_WAIT, LAST_ACK, LISTEN, SYNACK.
type Table = [[SessionState; 11]; 4];

#[rustfmt::skip]
const REQUESTS: Table = [
    [SynRecv, Established, Established, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv],
    [Close, CloseWait, SynSent, TimeWait, TimeWait, TimeWait, Close, CloseWait, LastAck, Listen, TimeWait],
    [Established, Established, SynSent, Established, FinWait, TimeWait, Close, CloseWait, Close, Listen, Established],
    [Close, Close, Close, SynRecv, Close, Close, Close, Close, LastAck, Listen, SynRecv],
];

#[rustfmt::skip]
const REPLIES: Table = [
    [SynSent, Established, SynSent, SynRecv, SynSent, SynSent, SynSent, SynSent, SynSent, Listen, SynRecv],
    [TimeWait, FinWait, SynSent, TimeWait, FinWait, TimeWait, Close, TimeWait, LastAck, Listen, TimeWait],
    [Established, Established, SynSent, Established, FinWait, TimeWait, Close, CloseWait, LastAck, Established, Established],
    [Close, Close, SynSent, Close, Close, TimeWait, Close, Close, Close, Close, Close],
];

#[rustfmt::skip]
const REQUESTS_ONLY: Table = [
    [SynRecv, Established, Established, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv, SynRecv],
    [Close, FinWait, SynSent, TimeWait, FinWait, TimeWait, Close, CloseWait, LastAck, Listen, TimeWait],
    [Established, Established, SynSent, Established, FinWait, TimeWait, Close, CloseWait, Close, Listen, Established],
    [Close, Close, Close, SynRecv, Close, Close, Close, Close, LastAck, Listen, Close],
];

/// Row of a packet with these flags; none if it has no flag that counts.
fn class(flags: u8) -> Option<usize> {
    [tcp_flags::RST, tcp_flags::SYN, tcp_flags::FIN, tcp_flags::ACK]
        .iter()
        .position(|flag| flags & flag != 0)
        .map(|n| [3, 0, 1, 2][n])
}

/// The state after a client's packet with these flags where the server's never pass (DR, TUN).
#[must_use]
pub fn next_unanswered(state: SessionState, flags: u8) -> SessionState {
    let row = class(flags).and_then(|class| REQUESTS_ONLY.get(class));
    row.and_then(|row| row.get(state as usize)).copied().unwrap_or(Close)
}

/// The state after a packet with these flags, seen both ways.
///
/// With a local address (`fullnat`) a bare ACK of the server in SYN_RECV is the challenge that a server in
/// TIME_WAIT sends when a port was used again (RFC 5961, RFC 9293 3.10.7.4): it changes nothing, so that the
/// client's RST and its next SYN find the same server port.
#[must_use]
pub fn next(state: SessionState, direction: Direction, flags: u8, fullnat: bool) -> SessionState {
    let Some(class) = class(flags) else { return Close };
    let table = match direction {
        Direction::Request => &REQUESTS,
        Direction::Reply => &REPLIES,
    };
    if fullnat && direction == Direction::Reply && class == 2 && state == SynRecv {
        return SynRecv;
    }
    table[class].get(state as usize).copied().unwrap_or(Close)
}

/// Whether a session in this state counts as active at its server.
#[must_use]
pub fn is_active(state: SessionState) -> bool {
    matches!(state, Established | SynSent | SynRecv | Synack)
}

#[cfg(test)]
mod tests {
    use super::{tcp_flags::*, *};
    use crate::table::session::Direction::{Reply, Request};

    fn run(fullnat: bool, steps: &[(Direction, u8)]) -> SessionState {
        steps.iter().fold(None, |s, &(d, f)| next(s, d, f, fullnat))
    }

    #[test]
    fn client_and_server_close_and_reset() {
        let open = [(Request, SYN), (Reply, SYN | ACK), (Request, ACK)];
        let with = |more: &[(Direction, u8)]| run(false, &[&open, more].concat());
        assert_eq!(with(&[]), Established);
        assert_eq!(with(&[(Request, FIN | ACK)]), CloseWait);
        assert_eq!(with(&[(Request, FIN | ACK), (Reply, FIN | ACK)]), TimeWait);
        assert_eq!(with(&[(Reply, FIN | ACK)]), FinWait);
        assert_eq!(with(&[(Reply, FIN | ACK), (Request, FIN | ACK)]), TimeWait);
        assert_eq!(with(&[(Reply, RST)]), Close);
        assert_eq!(with(&[(Request, 0)]), Close);
    }

    #[test]
    fn a_client_s_fin_is_believed_where_the_server_s_never_passes() {
        let run = |steps: &[u8]| steps.iter().fold(None, |s, &f| next_unanswered(s, f));
        assert_eq!(run(&[SYN]), SynRecv);
        assert_eq!(run(&[SYN, RST]), SynRecv);
        assert_eq!(run(&[SYN, ACK]), Established);
        assert_eq!(run(&[SYN, ACK, FIN | ACK]), FinWait);
        assert_eq!(run(&[SYN, ACK, FIN | ACK, ACK]), FinWait);
        assert_eq!(run(&[SYN, ACK, RST]), Close);
        assert_eq!(run(&[SYN, ACK, 0]), Close);
    }

    #[test]
    fn a_challenge_ack_leaves_a_fullnat_session_in_syn_recv() {
        let steps = [(Request, SYN), (Reply, ACK), (Request, RST), (Request, SYN)];
        assert_eq!(run(true, &steps), SynRecv);
        assert_eq!(run(false, &steps[..2]), Established);
    }
}
