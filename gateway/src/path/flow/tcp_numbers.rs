//! What a TCP segment may change about its session, judged by its flags and numbers: see [`super::belief`].
//!
//! For each direction a session remembers the other side's next sequence number: `expected_by(Reply)` is the
//! number that the server expects from the client. A SYN determines what its answer must acknowledge; the
//! SYN-ACK makes the numbers of both sides known.

use weir_api::model::SessionState::{
    self, Close, CloseWait, Established, FinWait, LastAck, SynRecv, SynSent, TimeWait,
};

use super::belief::Belief;
use crate::{
    net::{
        Header,
        tcp::{ACK, FIN, RST, SYN, TcpHeader},
    },
    path::ingress::parse::Parsed,
    table::session::{
        Direction::{self, Reply, Request},
        Session,
    },
};

/// How far a number may be from the expected one: more than most connections have in flight, while a made-up
/// number hits it once in 128 times.
const NEAR: i32 = 1 << 24;
/// The most bytes a SYN may carry (RFC 7413).
const EARLY: u32 = 0xffff;
/// A TCP segment with its numbers as the client counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientSegment {
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgement: u32,
    /// Bytes of data.
    pub len: u32,
}

impl ClientSegment {
    /// Reads the segment from the packet in `data`.
    pub fn read(data: &[u8], p: &Parsed) -> Option<Self> {
        let (header, _) = data.get(usize::from(p.l4)..).and_then(TcpHeader::split)?;
        let headers = usize::from(p.l4.wrapping_sub(p.l3)) + header.header_len();
        Some(Self {
            flags: p.flags,
            sequence: header.sequence(),
            acknowledgement: header.acknowledgement(),
            len: u32::from(p.ip_len).saturating_sub(headers as u32),
        })
    }

    fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

/// A number as it is remembered: 0 stands for none.
pub(crate) fn known(number: u32) -> u32 {
    number.max(1)
}

/// Whether a number is the expected one, or none is known.
fn is(number: u32, expected: u32) -> bool {
    expected == 0 || known(number) == expected
}

/// Whether a number is near the expected one, or none is known.
fn is_near(number: u32, expected: u32) -> bool {
    expected == 0 || (-NEAR..=NEAR).contains(&(number.wrapping_sub(expected) as i32))
}

/// Whether a server's acknowledgement answers the SYN before this number, possibly including the data in the
/// SYN.
fn answers(acknowledgement: u32, expected: u32) -> bool {
    expected != 0 && known(acknowledgement).wrapping_sub(expected) <= EARLY
}

/// Whether the session requires the handshake of both sides.
fn is_strict(session: &Session, nat_strict: bool) -> bool {
    session.is_fullnat() || session.is_snat() || nat_strict
}

/// Whether acknowledgements leave the session's state unchanged.
fn is_idle(session: &Session) -> bool {
    match session.state() {
        Established | FinWait | CloseWait | TimeWait => true,
        // A SNAT session comes back to life (RFC 7857, 2.1).
        Close => !session.is_snat(),
        _ => false,
    }
}

/// What a segment may change about a session, by its flags and numbers.
pub(crate) fn weigh(session: &Session, direction: Direction, s: &ClientSegment, nat_strict: bool) -> Belief {
    let (strict, state) = (is_strict(session, nat_strict), session.state());
    if s.flags & (SYN | FIN | RST | ACK) == ACK && is_idle(session) {
        return Belief::Quiet;
    }
    if session.is_one_way() || (!strict && !session.is_answered()) {
        return Belief::Counts;
    }
    match s.flags & (SYN | FIN | RST | ACK) {
        flags if flags & RST != 0 => weigh_reset(session, direction, s),
        // IPVS would end a session by a segment without any flag, but no receiver accepts such a segment.
        0 if strict => Belief::Nothing,
        0 => weigh_reset(session, direction, s),
        flags if flags & SYN != 0 && strict => weigh_syn(state, direction, s),
        flags if flags & SYN != 0 => Belief::Counts,
        flags if flags & FIN != 0 => {
            let shaking = strict && matches!(state, SynSent | SynRecv);
            let fits = if shaking { completes(session, direction, s) } else { fits(session, direction, s) };
            if fits && (!strict || flags & ACK != 0) { Belief::Counts } else { Belief::Nothing }
        }
        _ if !strict => Belief::Counts,
        _ => weigh_acknowledgement(session, direction, s),
    }
}

/// Whether a segment's numbers are near those of both sides.
fn fits(session: &Session, direction: Direction, s: &ClientSegment) -> bool {
    is_near(s.sequence, session.expected_by(direction.opposite()))
        && (!s.has(ACK) || is_near(s.acknowledgement, session.expected_by(direction)))
}

/// Whether a segment acknowledges the other side's SYN and begins right after its sender's own.
fn completes(session: &Session, direction: Direction, s: &ClientSegment) -> bool {
    session.is_answered()
        && is(s.sequence, session.expected_by(direction.opposite()))
        && is(s.acknowledgement, session.expected_by(direction))
}

fn weigh_reset(session: &Session, direction: Direction, s: &ClientSegment) -> Belief {
    let state = session.state();
    if !session.is_answered() && matches!(state, SynSent | SynRecv) {
        // The answer to a SYN has no sequence number of its own that anybody could know.
        let refuses = match direction {
            Request => !session.is_snat() || is(s.sequence, session.expected_by(Reply)),
            Reply => s.has(ACK) && answers(s.acknowledgement, session.expected_by(Reply)),
        };
        return if refuses { Belief::Counts } else { Belief::Doubtful };
    }
    let expected = session.expected_by(direction.opposite());
    match () {
        () if is(s.sequence, expected) => Belief::Counts,
        () if is_near(s.sequence, expected) => Belief::Doubtful,
        () => Belief::Nothing,
    }
}

/// Judges a SYN on a live session. The server decides: it answers with a challenge ACK (RFC 5961, 4), or
/// starts again.
fn weigh_syn(state: SessionState, direction: Direction, s: &ClientSegment) -> Belief {
    match (direction, state) {
        (Request, FinWait | CloseWait | LastAck) => Belief::Nothing,
        (_, Established) => Belief::Quiet,
        (Reply, FinWait | CloseWait | LastAck | TimeWait | Close) if s.has(ACK) => Belief::Becomes(SynRecv),
        (Reply, FinWait | CloseWait | LastAck | TimeWait | Close) => Belief::Nothing,
        _ => Belief::Counts,
    }
}

fn weigh_acknowledgement(session: &Session, direction: Direction, s: &ClientSegment) -> Belief {
    if session.state() == Close && !fits(session, direction, s) {
        return Belief::Quiet;
    }
    match direction {
        _ if !matches!(session.state(), SynRecv | SynSent) => Belief::Counts,
        Request if completes(session, direction, s) => Belief::Counts,
        // A server's bare acknowledgement may be a challenge; it only sends data to a client it has accepted.
        Reply if session.is_answered() && s.len != 0 && fits(session, direction, s) => {
            Belief::Becomes(Established)
        }
        _ => Belief::Quiet,
    }
}

/// Takes the numbers of an accepted segment into the session, before its state changes.
pub(crate) fn learn(session: &mut Session, direction: Direction, s: &ClientSegment) {
    let end = known(s.sequence.wrapping_add(1).wrapping_add(s.len));
    match s.flags & (SYN | FIN | RST | ACK) {
        flags if flags & RST != 0 => {}
        flags if flags & SYN != 0 => learn_syn(session, direction, s),
        flags if flags & FIN != 0 => {
            if is(s.sequence, session.expected_by(direction.opposite())) {
                session.expect(direction.opposite(), end);
            }
            note(session, direction, s);
        }
        _ => note(session, direction, s),
    }
}

/// Notes what a segment acknowledges.
pub(crate) fn note(session: &mut Session, direction: Direction, s: &ClientSegment) {
    if s.has(ACK) {
        session.expect(direction, s.acknowledgement);
    }
}

fn learn_syn(session: &mut Session, direction: Direction, s: &ClientSegment) {
    let first = known(s.sequence.wrapping_add(1));
    let shaking = matches!(session.state(), SessionState::None | SynSent | SynRecv);
    match direction {
        _ if session.state() == Established => {}
        Request if shaking && session.is_answered() => {}
        Request if s.has(ACK) && session.is_snat() => learn_answer(session, direction, s, shaking),
        Request => {
            // Of several SYNs, the server may answer either of the last two.
            let before = if shaking { session.expected_by(Reply) } else { 0 };
            if before != first {
                session.expect(Request, before);
                session.expect(Reply, first);
            }
            session.set_answered(false);
        }
        Reply if !s.has(ACK) => {
            session.expect(Request, first);
            session.set_answered(session.expected_by(Reply) != 0);
        }
        Reply => learn_answer(session, direction, s, shaking),
    }
}

/// Learns the numbers of the SYN-ACK from the sender in this direction.
fn learn_answer(session: &mut Session, direction: Direction, s: &ClientSegment, shaking: bool) {
    let other = direction.opposite();
    let (before, last) = (session.expected_by(other), session.expected_by(direction));
    let (first, number) = (known(s.sequence.wrapping_add(1)), s.acknowledgement);
    let begun = session.is_answered() || !shaking;
    if begun || answers(number, last) || answers(number, before) {
        session.expect(other, first);
        session.expect(direction, known(number));
        session.set_answered(true);
    } else if before == 0 {
        // It answers another SYN than the one seen here: the numbers of either may be right.
        session.expect(other, 0);
        session.expect(direction, 0);
        session.set_answered(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Tick,
        id::SlotId,
        table::session::{FULLNAT, NewSession, Tuple},
    };

    fn session(flags: u8, state: SessionState) -> Session {
        let nobody = Tuple::default();
        let new = NewSession { request: nobody, reply: nobody, protocol: 6, slot: SlotId(0), flags };
        let mut session = Session::new(&new, Tick(0));
        session.set_state(state);
        session
    }

    fn segment(flags: u8, sequence: u32, acknowledgement: u32, len: u32) -> ClientSegment {
        ClientSegment { flags, sequence, acknowledgement, len }
    }

    /// A FULLNAT session whose client began at 1000 and whose server began at 5000.
    fn answered(state: SessionState) -> Session {
        let mut s = session(FULLNAT, SynRecv);
        learn(&mut s, Request, &segment(SYN, 1000, 0, 0));
        assert!(!s.is_answered());
        learn(&mut s, Reply, &segment(SYN | ACK, 5000, 1001, 0));
        assert_eq!((s.is_answered(), s.expected_by(Request), s.expected_by(Reply)), (true, 5001, 1001));
        s.set_state(state);
        s
    }

    fn of(s: &Session, direction: Direction, flags: u8, sequence: u32, acknowledgement: u32) -> Belief {
        weigh(s, direction, &segment(flags, sequence, acknowledgement, 0), false)
    }

    #[test]
    fn a_reset_counts_where_the_other_side_expects_it() {
        let s = answered(Established);
        let near = NEAR as u32;
        for (direction, expected) in [(Request, 1001u32), (Reply, 5001)] {
            let reset = |sequence| of(&s, direction, RST, sequence, 0);
            assert_eq!(reset(expected), Belief::Counts);
            for off in [1, near, 1u32.wrapping_neg(), near.wrapping_neg()] {
                assert_eq!(reset(expected.wrapping_add(off)), Belief::Doubtful, "{off}");
            }
            for off in [near + 1, (near + 1).wrapping_neg(), 1 << 31] {
                assert_eq!(reset(expected.wrapping_add(off)), Belief::Nothing, "{off}");
            }
            assert_eq!(of(&s, direction, 0, expected, 0), Belief::Nothing, "no flag at all");
        }
    }

    #[test]
    fn a_fin_has_to_be_near_on_both_sides() {
        let near = NEAR as u32;
        let s = answered(Established);
        let fin = |sequence, acknowledgement| of(&s, Request, FIN | ACK, sequence, acknowledgement).counts();
        assert!(fin(1001, 5001) && fin(1001 + near, 5001 + near) && fin(1001u32.wrapping_sub(near), 5001));
        assert!(!fin(1002 + near, 5001) && !fin(1001, 5002 + near) && !fin(1001, 5000u32.wrapping_sub(near)));
        assert_eq!(of(&s, Request, FIN, 1001, 0), Belief::Nothing, "without acknowledgement nobody takes it");
        let before = session(FULLNAT, SynRecv);
        assert_eq!(of(&before, Request, FIN | ACK, 1001, 5001), Belief::Nothing);
    }

    #[test]
    fn a_fin_that_is_the_next_moves_what_is_expected() {
        let mut s = answered(Established);
        learn(&mut s, Request, &segment(FIN | ACK, 1001, 5001, 10));
        assert_eq!(s.expected_by(Reply), 1012);
        learn(&mut s, Reply, &segment(FIN | ACK, 5009, 1012, 0));
        assert_eq!((s.expected_by(Request), s.expected_by(Reply)), (5001, 1012), "one that isn't, doesn't");
    }

    #[test]
    fn the_client_completes_the_handshake_by_both_numbers() {
        let s = answered(SynRecv);
        assert_eq!(of(&s, Request, ACK, 1001, 5001), Belief::Counts);
        for (sequence, acknowledgement) in [(1000, 5001), (1002, 5001), (1001, 5000), (1001, 5002)] {
            assert_eq!(of(&s, Request, ACK, sequence, acknowledgement), Belief::Quiet);
            assert_eq!(of(&s, Request, FIN | ACK, sequence, acknowledgement), Belief::Nothing);
        }
        assert_eq!(of(&s, Reply, ACK, 5001, 1001), Belief::Quiet, "a challenge");
        let data = |s: &Session| weigh(s, Reply, &segment(ACK, 5001, 1001, 1), false);
        assert_eq!(data(&s), Belief::Becomes(Established));
        assert_eq!(data(&session(FULLNAT, SynRecv)), Belief::Quiet, "of a server that hasn't answered");
        let unanswered = {
            let mut s = session(FULLNAT, SynRecv);
            learn(&mut s, Request, &segment(SYN, 1000, 0, 0));
            s
        };
        assert_eq!(of(&unanswered, Request, ACK, 1001, 0), Belief::Quiet);
    }

    #[test]
    fn a_syn_on_what_lives_is_the_server_s_to_judge() {
        for (state, by_client, by_server) in [
            (Established, Belief::Quiet, Belief::Quiet),
            (FinWait, Belief::Nothing, Belief::Becomes(SynRecv)),
            (CloseWait, Belief::Nothing, Belief::Becomes(SynRecv)),
            (LastAck, Belief::Nothing, Belief::Becomes(SynRecv)),
            (TimeWait, Belief::Counts, Belief::Becomes(SynRecv)),
            (Close, Belief::Counts, Belief::Becomes(SynRecv)),
            (SynRecv, Belief::Counts, Belief::Counts),
        ] {
            let s = answered(state);
            assert_eq!(of(&s, Request, SYN, 42, 0), by_client, "{state:?}");
            assert_eq!(of(&s, Reply, SYN | ACK, 42, 43), by_server, "{state:?}");
        }
        let mut s = answered(CloseWait);
        learn(&mut s, Reply, &segment(SYN | ACK, 42, 43, 0));
        assert_eq!((s.expected_by(Request), s.expected_by(Reply)), (43, 43));
    }

    #[test]
    fn the_server_answers_one_of_the_last_two_syns() {
        for (acknowledged, right) in
            [(1001, true), (700_001, true), (1001 + EARLY, true), (1002 + EARLY, false)]
        {
            let mut s = session(FULLNAT, SynRecv);
            learn(&mut s, Request, &segment(SYN, 1000, 0, 0));
            learn(&mut s, Request, &segment(SYN, 1000, 0, 0));
            learn(&mut s, Request, &segment(SYN, 700_000, 0, 0));
            learn(&mut s, Reply, &segment(SYN | ACK, 5000, acknowledged, 0));
            assert_eq!(s.is_answered(), right, "{acknowledged}");
        }
        // A number that would be 0, which stands for none.
        let mut s = session(FULLNAT, SynRecv);
        learn(&mut s, Request, &segment(SYN, u32::MAX, 0, 0));
        learn(&mut s, Reply, &segment(SYN | ACK, u32::MAX, 0, 0));
        assert_eq!(of(&s, Request, ACK, 0, 0), Belief::Counts);
        assert_eq!(of(&s, Request, ACK, 5, 0), Belief::Quiet);
        assert_eq!(of(&s, Request, ACK, 0, 5), Belief::Quiet);
    }

    #[test]
    fn an_unanswered_syn_leaves_numbers_unchecked() {
        let mut s = session(FULLNAT, SynRecv);
        learn(&mut s, Request, &segment(SYN, 1000, 0, 0));
        learn(&mut s, Reply, &segment(SYN | ACK, 5000, 77, 0));
        assert_eq!(of(&s, Request, ACK, 9, 9), Belief::Counts);
        s.set_state(Established);
        assert_eq!(of(&s, Reply, RST, 9, 0), Belief::Counts);
    }

    #[test]
    fn a_reset_that_answers_a_syn_acknowledges_it() {
        let mut s = session(FULLNAT, SynRecv);
        learn(&mut s, Request, &segment(SYN, 1000, 0, 0));
        for (flags, acknowledgement, belief) in [
            (RST | ACK, 1001, Belief::Counts),
            (RST | ACK, 1001 + EARLY, Belief::Counts),
            (RST | ACK, 1000, Belief::Doubtful),
            (RST, 1001, Belief::Doubtful),
        ] {
            assert_eq!(of(&s, Reply, flags, 0, acknowledgement), belief, "{flags} {acknowledgement}");
        }
        assert_eq!(of(&s, Request, RST, 77, 0), Belief::Counts, "the answer to a challenge");
        s.set_snat();
        assert_eq!(
            (of(&s, Request, RST, 77, 0), of(&s, Request, RST, 1001, 0)),
            (Belief::Doubtful, Belief::Counts)
        );
    }

    #[test]
    fn nat_is_ipvs_s_until_the_server_has_answered_and_by_setting_never() {
        let before = session(0, SynRecv);
        for flags in [0, ACK, FIN, RST, SYN] {
            assert_eq!(of(&before, Request, flags, 9, 9), Belief::Counts);
        }
        assert_eq!(weigh(&before, Request, &segment(ACK, 9, 9, 0), true), Belief::Quiet);
        let mut s = session(0, SynRecv);
        learn(&mut s, Request, &segment(SYN, 1000, 0, 0));
        learn(&mut s, Reply, &segment(SYN | ACK, 5000, 1001, 0));
        s.set_state(Established);
        assert_eq!(of(&s, Request, RST, 1_000_000_000, 0), Belief::Nothing);
        assert_eq!(
            (of(&s, Request, 0, 1001, 0), of(&s, Request, 0, 1002, 0)),
            (Belief::Counts, Belief::Doubtful)
        );
        assert_eq!(of(&s, Request, FIN, 1001, 0), Belief::Counts, "IPVS asks for no acknowledgement");
        s.set_state(FinWait);
        assert_eq!(of(&s, Request, SYN, 42, 0), Belief::Counts);
    }

    #[test]
    fn acknowledgements_leave_most_states_alone() {
        for state in [Established, FinWait, CloseWait, TimeWait, Close] {
            assert_eq!(of(&answered(state), Request, ACK, 9, 9), Belief::Quiet, "{state:?}");
        }
        // A SNAT session that was reset comes back to life by a segment that fits.
        let mut s = answered(Close);
        s.set_snat();
        assert_eq!(
            (of(&s, Request, ACK, 1001, 5001), of(&s, Request, ACK, 1 << 30, 5001)),
            (Belief::Counts, Belief::Quiet)
        );
    }

    #[test]
    fn a_peer_of_snat_s_may_begin_and_both_may_at_once() {
        let mut inbound = session(0, SessionState::None);
        inbound.set_snat();
        learn(&mut inbound, Reply, &segment(SYN, 7000, 0, 0));
        inbound.set_state(SynRecv);
        learn(&mut inbound, Request, &segment(SYN | ACK, 1000, 7001, 0));
        assert_eq!((inbound.is_answered(), of(&inbound, Request, ACK, 1001, 7001)), (true, Belief::Counts));
        let mut both = session(0, SynSent);
        both.set_snat();
        learn(&mut both, Request, &segment(SYN, 1000, 0, 0));
        learn(&mut both, Reply, &segment(SYN, 7000, 0, 0));
        assert_eq!(
            (both.is_answered(), both.expected_by(Request), both.expected_by(Reply)),
            (true, 7001, 1001)
        );
    }
}
