//! What an SCTP packet may change about its session, by its verification tag (RFC 9260, 8.5): see
//! [`super::belief`].
//!
//! Each side sets in its INIT or INIT-ACK the tag that the other's packets must carry. A session remembers
//! the tag for each direction, where TCP sessions have sequence numbers.

use weir_api::model::SessionState;

use super::belief::Belief;
use crate::{
    path::ingress::{parse::Parsed, sctp_event},
    table::session::{Direction, Session},
};

/// The tags of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tags {
    /// The verification tag.
    pub tag: u32,
    /// The initiate tag of an INIT or INIT-ACK, meaningless in other packets; 0 if there is none.
    pub own: u32,
    /// The T bit: the verification tag is the one that the sender itself received.
    pub reflected: bool,
}

impl Tags {
    /// Reads the tags of the packet in `data`.
    pub fn read(data: &[u8], p: &Parsed) -> Self {
        let l4 = usize::from(p.l4);
        let word = |at: usize| {
            data.get(l4 + at..).and_then(|b| b.first_chunk()).map_or(0, |&b| u32::from_be_bytes(b))
        };
        // The first chunk's header is at 12: type, flags, length.
        let (chunk, len) = (word(12), word(12) & 0xffff);
        let own = if len >= 20 { word(16) } else { 0 };
        Self { tag: word(4), own, reflected: chunk >> 16 & 1 != 0 }
    }
}

/// What an SCTP packet may change, by its verification tag (RFC 9260, 8.5).
pub(crate) fn weigh_chunk(session: &Session, direction: Direction, event: u8, tags: Tags) -> Belief {
    let known = session.expected_by(direction);
    let other = session.expected_by(direction.opposite());
    let lax = session.is_one_way() || (!session.is_answered() && !session.is_fullnat());
    match event {
        sctp_event::DATA | sctp_event::NOTHING => Belief::Quiet,
        // There has been no INIT that it could answer.
        sctp_event::INIT_ACK if !lax && known == 0 && other != 0 => Belief::Nothing,
        _ if lax || known == 0 || event == sctp_event::INIT || tags.tag == known => Belief::Counts,
        // With the T bit, the sender has no association and reflects the tag that it received.
        sctp_event::ABORT | sctp_event::SHUTDOWN_COMPLETE
            if tags.reflected && other != 0 && tags.tag == other =>
        {
            Belief::Counts
        }
        _ => Belief::Nothing,
    }
}

/// Stores the tags of an INIT or INIT-ACK in the session.
pub(crate) fn learn_chunk(session: &mut Session, direction: Direction, event: u8, tags: Tags) {
    let over = session.state() == SessionState::SctpClosed;
    match event {
        sctp_event::INIT
            if over || (!session.is_answered() && session.expected_by(direction.opposite()) == 0) =>
        {
            session.expect(direction.opposite(), tags.own);
            session.expect(direction, 0);
            session.set_answered(false);
        }
        sctp_event::INIT_ACK
            if session.expected_by(direction) == 0 && session.expected_by(direction.opposite()) != 0 => {}
        sctp_event::INIT_ACK if !session.is_answered() => {
            // Without its sender's tag it answers another INIT, and it is unknown whose tags are right.
            let right = tags.tag == session.expected_by(direction);
            session.expect(direction.opposite(), if right { tags.own } else { 0 });
            session.expect(direction, if right { tags.tag } else { 0 });
            session.set_answered(right);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Tick,
        id::SlotId,
        path::ingress::sctp_event::{ABORT, DATA, INIT, INIT_ACK, SHUTDOWN_COMPLETE},
        table::session::{
            Direction::{Reply, Request},
            FULLNAT, NewSession, ONE_WAY, Tuple,
        },
    };

    const SHUTDOWN: u8 = 5;

    fn session(flags: u8) -> Session {
        let nobody = Tuple::default();
        let new = NewSession { request: nobody, reply: nobody, protocol: 132, slot: SlotId(0), flags };
        Session::new(&new, Tick(0))
    }

    fn tags(tag: u32, own: u32, reflected: bool) -> Tags {
        Tags { tag, own, reflected }
    }

    /// The client's tag is 11, the server's is 22.
    fn answered(flags: u8) -> Session {
        let mut s = session(flags);
        learn_chunk(&mut s, Request, INIT, tags(0, 11, false));
        learn_chunk(&mut s, Request, INIT, tags(0, 99, false));
        learn_chunk(&mut s, Reply, INIT_ACK, tags(11, 22, false));
        assert_eq!((s.is_answered(), s.expected_by(Request), s.expected_by(Reply)), (true, 22, 11));
        s
    }

    #[test]
    fn what_ends_an_association_carries_its_tag() {
        for flags in [0, FULLNAT] {
            let s = answered(flags);
            let of = |direction, event, tag, t| weigh_chunk(&s, direction, event, tags(tag, 0, t)).counts();
            assert!(
                of(Request, ABORT, 22, false) && of(Reply, ABORT, 11, false) && of(Reply, ABORT, 22, true)
            );
            assert!(
                !of(Request, ABORT, 11, false) && !of(Reply, ABORT, 22, false) && !of(Reply, ABORT, 3, true)
            );
            assert!(of(Request, SHUTDOWN, 22, false) && !of(Request, SHUTDOWN, 11, true));
            assert!(of(Reply, SHUTDOWN_COMPLETE, 22, true) && !of(Reply, SHUTDOWN_COMPLETE, 22, false));
            assert!(of(Request, INIT, 0, false));
            assert_eq!(weigh_chunk(&s, Request, DATA, tags(3, 0, false)), Belief::Quiet);
        }
    }

    #[test]
    fn unknown_tags_aren_t_asked_for() {
        assert!(weigh_chunk(&session(FULLNAT), Reply, ABORT, tags(3, 0, false)).counts());
        assert!(weigh_chunk(&answered(ONE_WAY), Request, ABORT, tags(3, 0, false)).counts());
        // An INIT-ACK that answers another INIT.
        let mut s = session(FULLNAT);
        learn_chunk(&mut s, Request, INIT, tags(0, 11, false));
        assert!(!weigh_chunk(&s, Reply, ABORT, tags(3, 0, false)).counts());
        learn_chunk(&mut s, Reply, INIT_ACK, tags(12, 22, false));
        assert!(!s.is_answered() && weigh_chunk(&s, Reply, ABORT, tags(3, 0, false)).counts());
        // NAT follows IPVS until the server has answered.
        let mut s = session(0);
        learn_chunk(&mut s, Request, INIT, tags(0, 11, false));
        assert!(weigh_chunk(&s, Reply, ABORT, tags(3, 0, false)).counts());
    }

    #[test]
    fn an_init_ack_comes_from_whom_an_init_went_to() {
        for flags in [0, FULLNAT] {
            for tag in [0, 11, 3] {
                let mut s = session(flags);
                learn_chunk(&mut s, Request, INIT, tags(0, 11, false));
                let forged = tags(tag, 99, false);
                assert_eq!(
                    weigh_chunk(&s, Request, INIT_ACK, forged).counts(),
                    flags == 0,
                    "as IPVS for NAT"
                );
                learn_chunk(&mut s, Request, INIT_ACK, forged);
                assert_eq!((s.is_answered(), s.expected_by(Request), s.expected_by(Reply)), (false, 0, 11));
                learn_chunk(&mut s, Reply, INIT_ACK, tags(11, 22, false));
                assert_eq!((s.is_answered(), s.expected_by(Request), s.expected_by(Reply)), (true, 22, 11));
            }
        }
    }

    #[test]
    fn who_has_sent_no_tag_has_none_given_back() {
        let mut s = session(FULLNAT);
        learn_chunk(&mut s, Request, INIT, tags(0, 11, false));
        for tag in [0, 3] {
            assert_eq!(weigh_chunk(&s, Reply, ABORT, tags(tag, 0, true)), Belief::Nothing);
        }
        assert!(
            weigh_chunk(&s, Reply, ABORT, tags(11, 0, false)).counts(),
            "what refuses an INIT has its tag"
        );
    }

    #[test]
    fn an_init_on_what_is_over_begins_with_other_tags() {
        let mut s = answered(FULLNAT);
        learn_chunk(&mut s, Request, INIT, tags(0, 33, false));
        assert_eq!(s.expected_by(Reply), 11);
        s.set_state(SessionState::SctpClosed);
        learn_chunk(&mut s, Request, INIT, tags(0, 33, false));
        assert_eq!((s.is_answered(), s.expected_by(Request), s.expected_by(Reply)), (false, 0, 33));
    }
}
