//! Whether a session's server has learned the client's address by TOA.
//!
//! It has when the client acknowledges data that the server sent after its SYN: the server accepts a
//! connection only with an acknowledgement of its SYN, and all of those carried the option. Only segments
//! with a correct checksum count, so that a forged segment, which the server discards, can't end this phase.
//! A SYN-ACK with another number starts over.

use std::net::IpAddr;

use super::stream::Segment;
use crate::{
    id::HopId,
    net::tcp,
    table::{
        session::{Direction, Session},
        sessions::Found,
    },
};

/// The length of the TOA option with an IPv4 address, and with an IPv6 address.
pub(crate) const LEN: usize = 8;
pub(crate) const LEN_V6: usize = 20;
/// Bits that count how far a server has sent.
const FAR: u32 = 30;

/// What a segment of a session with TOA needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToaStep {
    /// The option is inserted.
    Tell,
    /// The MSS is lowered.
    Lower,
    /// No change.
    Pass,
}

/// The state of a session's server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ToaServer {
    /// The sequence number of its first byte of data.
    first: u32,
    /// The number of bytes it has sent since, below 2^30.
    sent: u32,
    /// Its SYN-ACK has arrived.
    answered: bool,
    told: bool,
}

impl ToaServer {
    fn unpack(word: u64) -> Self {
        let sent = (word >> 32) as u32 & ((1 << FAR) - 1);
        Self { first: word as u32, sent, answered: word >> 62 & 1 != 0, told: word >> 63 != 0 }
    }

    fn pack(self) -> u64 {
        u64::from(self.first)
            | u64::from(self.sent) << 32
            | u64::from(self.answered) << 62
            | u64::from(self.told) << 63
    }

    /// The server knows the client's address: the option is no longer added.
    pub fn is_told(self) -> bool {
        self.told
    }

    /// Takes a segment; changes are only kept if its checksum is correct.
    pub fn take(&mut self, s: &Segment, direction: Direction) -> ToaStep {
        if direction == Direction::Reply { self.reply(s) } else { self.request(s) }
    }

    fn reply(&mut self, s: &Segment) -> ToaStep {
        if s.has(tcp::SYN) {
            if !s.has(tcp::ACK) {
                return ToaStep::Pass;
            }
            let first = s.sequence.wrapping_add(1);
            if !self.answered || first != self.first {
                *self = Self { first, answered: true, ..Self::default() };
            }
            return ToaStep::Lower;
        }
        let sent = s.sequence.wrapping_add(s.len()).wrapping_sub(self.first);
        if self.answered && !self.told && !s.has(tcp::RST) && sent >> FAR == 0 {
            self.sent = self.sent.max(sent);
        }
        ToaStep::Pass
    }

    fn request(&mut self, s: &Segment) -> ToaStep {
        if s.has(tcp::SYN) {
            return if s.has(tcp::ACK) { ToaStep::Pass } else { ToaStep::Tell };
        }
        if self.told || !self.answered || !s.has(tcp::ACK) || s.has(tcp::RST) {
            return ToaStep::Pass;
        }
        match s.acknowledgement.wrapping_sub(self.first) {
            0 => ToaStep::Tell,
            taken => {
                self.told = taken <= self.sent;
                ToaStep::Pass
            }
        }
    }
}

/// The length of the TOA option for a client's address.
pub(crate) fn option_len(client: IpAddr) -> u16 {
    (if client.is_ipv6() { LEN_V6 } else { LEN }) as u16
}

/// The servers of all sessions. The memory isn't touched until a session of a service with TOA is opened.
pub(crate) struct Told(Vec<u64>);

impl Told {
    /// Room for the sessions of a worker.
    pub fn new(sessions: usize) -> Self {
        Self(vec![0; sessions])
    }

    /// Forgets the state of an earlier session in the same slot.
    pub fn forget(&mut self, session: u32) {
        self.set(session, ToaServer::default());
    }

    /// The state of a session's server.
    pub fn get(&self, session: u32) -> ToaServer {
        self.0.get(session as usize).map_or_else(ToaServer::default, |&word| ToaServer::unpack(word))
    }

    /// Replaces the state of a session's server.
    pub fn set(&mut self, session: u32, server: ToaServer) {
        if let Some(word) = self.0.get_mut(session as usize) {
            *word = server.pack();
        }
    }

    /// Whether the TCP options of a direction's packets must be inspected although the server is known to have heard of the
    /// client; none as long as it isn't known, when all packets must.
    #[inline]
    pub fn inspects(&self, session: &Session, found: Found) -> Option<bool> {
        if !session.tells_client() {
            return Some(false);
        }
        self.get(found.id.0).told.then_some(found.direction == Direction::Request)
    }

    /// The next hop as a session may remember it for a direction; none if it may not remember one yet.
    #[inline]
    pub fn to_remember(&self, session: &Session, found: Found, hop: HopId) -> Option<HopId> {
        let inspects = self.inspects(session, found)?;
        Some(if inspects { hop.inspected() } else { hop })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: u8, sequence: u32, acknowledgement: u32, payload: u16) -> Segment {
        Segment { sequence, acknowledgement, flags, payload }
    }

    /// A server whose first byte of data has the number `first`, and which has sent `sent` more.
    fn server(first: u32, sent: u16) -> ToaServer {
        let mut server = ToaServer::default();
        let syn = segment(tcp::SYN | tcp::ACK, first.wrapping_sub(1), 1, 0);
        assert_eq!(server.take(&syn, Direction::Reply), ToaStep::Lower);
        server.take(&segment(tcp::ACK, first, 1, sent), Direction::Reply);
        server
    }

    #[test]
    fn what_is_known_survives_being_packed() {
        for (sent, answered, told) in [(0, true, false), ((1 << FAR) - 1, true, true), (7, false, true)] {
            let server = ToaServer { first: u32::MAX, sent, answered, told };
            assert_eq!(ToaServer::unpack(server.pack()), server);
        }
        let mut told = Told::new(1);
        told.set(0, server(5, 9));
        told.set(1, server(5, 9));
        assert_eq!((told.get(0), told.get(1)), (server(5, 9), ToaServer::default()));
        told.forget(0);
        assert_eq!(told.get(0), ToaServer::default());
    }

    #[test]
    fn the_server_has_been_told_once_its_data_is_acknowledged() {
        for first in [5001, 0, u32::MAX, 1 << 31] {
            for (taken, told) in [(-1, false), (0, false), (1, true), (100, true), (101, false)] {
                let mut server = server(first, 100);
                let number = first.wrapping_add_signed(taken);
                let step = server.take(&segment(tcp::ACK, 1, number, 0), Direction::Request);
                assert_eq!(step, if taken == 0 { ToaStep::Tell } else { ToaStep::Pass });
                assert_eq!(server.told, told, "{taken} from {first}");
            }
        }
    }

    #[test]
    fn an_end_counts_and_what_the_server_did_not_send_does_not() {
        let ack = segment(tcp::ACK, 1, 5002, 0);
        let mut server = server(5001, 0);
        server.take(&segment(tcp::ACK | tcp::RST, 5001, 1, 50), Direction::Reply);
        server.take(&segment(tcp::ACK, 5000, 1, 1), Direction::Reply);
        server.take(&segment(tcp::ACK, 5001 - 60, 1, 50), Direction::Reply);
        server.take(&ack, Direction::Request);
        assert!(!server.told);
        server.take(&segment(tcp::ACK | tcp::FIN, 5001, 1, 0), Direction::Reply);
        server.take(&segment(tcp::ACK | tcp::RST, 1, 5002, 0), Direction::Request);
        assert!(!server.told);
        server.take(&ack, Direction::Request);
        assert!(server.told);
    }

    #[test]
    fn another_syn_ack_begins_the_telling_again_and_the_same_does_not() {
        let mut server = server(5001, 10);
        server.take(&segment(tcp::ACK, 1, 5002, 0), Direction::Request);
        let syn_ack = |sequence| segment(tcp::SYN | tcp::ACK, sequence, 1, 0);
        server.take(&syn_ack(5000), Direction::Reply);
        assert!(server.told);
        server.take(&syn_ack(6000), Direction::Reply);
        assert_eq!(server, ToaServer { first: 6001, sent: 0, answered: true, told: false });
    }
}
