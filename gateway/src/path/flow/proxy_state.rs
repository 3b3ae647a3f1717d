//! What a packet of a session with PROXY must fulfil before it may change the session, and which header its server
//! gets. All stages read this, none changes it.

use super::{
    Flows,
    proxy_header::{Text, fill_up, header},
    stream::{Segment, Step},
};
use crate::{
    io::Frame,
    net::{protocol, tcp},
    path::{
        ingress::{parse::Parsed, sums::transport_checksum_ok},
        packet::Packet,
        verdict::Reason,
    },
    table::{
        session::{Direction, Session},
        sessions::Found,
    },
};

impl Flows {
    /// Why a segment of a session with PROXY doesn't go on, if it doesn't: it changes nothing then.
    pub(crate) fn held_back<F: Frame>(&self, packet: &Packet<'_, F>, found: Found) -> Option<Reason> {
        let (frame, p) = (&packet.frame, packet.parsed);
        let proxied = self.sessions.get(found.id).is_some_and(Session::is_proxied);
        if !proxied || p.protocol != protocol::TCP {
            return None;
        }
        let segment = Segment::of(frame.data(), p)?;
        if packet.first.is_some() {
            let passes = self.streams.get(found.id.0).piece(&segment, found.direction, self.now);
            return passes.is_none().then_some(Reason::Fragment);
        }
        let mut stream = self.streams.get(found.id.0);
        let request = found.direction == Direction::Request;
        let weighed = if request { stream.is_weighed(&segment) } else { segment.flags & tcp::SYN != 0 };
        if weighed && !transport_checksum_ok(frame, p) {
            return Some(Reason::BadChecksum);
        }
        match request.then(|| stream.request(&segment, 0, self.now)) {
            Some(Step::Drop(reason)) => Some(reason),
            None if !stream.expects(&segment) => Some(Reason::SecondSyn),
            _ => None,
        }
    }

    /// As [`Self::held_back`] for a packet in words, whose numbers are those that its sender would send next, or again.
    pub(crate) fn would_hold_back(&self, p: &Parsed, found: Found) -> Option<Reason> {
        let proxied = self.sessions.get(found.id).is_some_and(Session::is_proxied);
        if !proxied || p.protocol != protocol::TCP {
            return None;
        }
        let mut stream = self.streams.get(found.id.0);
        let segment = stream.next(p.flags);
        match (found.direction == Direction::Request).then(|| stream.request(&segment, 0, self.now)) {
            Some(Step::Drop(reason)) => Some(reason),
            None if !stream.expects(&segment) => Some(Reason::SecondSyn),
            _ => None,
        }
    }

    /// By how much the header moves what follows the first fragment of a datagram.
    pub(crate) fn moved_by_header(&self, p: &Parsed, found: Found) -> Option<u16> {
        let tells = p.protocol == protocol::UDP && found.direction == Direction::Request;
        let mut text = tells.then(|| self.header_for(found, p.protocol)).flatten()?;
        fill_up(&mut text);
        Some(text.len() as u16)
    }

    /// Bytes of the header that the client's next packet may get.
    pub(crate) fn header_to_come(&self, found: Found, protocol: u8) -> u16 {
        let stream = self.streams.get(found.id.0);
        if protocol == protocol::TCP && stream.is_settled() {
            return 0;
        }
        self.header_for(found, protocol).map_or(0, |text| text.len() as u16)
    }

    /// The header that the server gets with a session's packets, if it gets one.
    pub(crate) fn header_for(&self, found: Found, protocol: u8) -> Option<Text> {
        let ends = self.sessions.arriving(found.id, Direction::Request)?;
        header(self.streams.get(found.id.0).version(), &ends, protocol)
    }
}
