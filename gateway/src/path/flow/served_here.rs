//! Which packets belong to servers on the gateway itself.

use super::Flows;
use crate::{
    io::Frame,
    net::ethernet::Mac,
    path::{
        ingress::parse::{self, Kind, Parsed},
        verdict::Reason,
    },
    table::{
        session::{Direction, Session},
        sessions::Found,
    },
};

impl Flows {
    /// Whether a packet that has no next hop for this reason gets its session's other addresses and goes to the kernel. A
    /// session that began when its server was elsewhere has another source than the client's: the kernel takes none of its
    /// own addresses for one.
    pub(crate) fn is_translated_here(&self, found: Found, reason: Reason) -> bool {
        let of_nat = |session: &Session| !session.is_fullnat() && !session.is_snat();
        reason == Reason::ToGateway
            && (found.direction == Direction::Reply || self.sessions.get(found.id).is_some_and(of_nat))
    }

    /// Whether a frame that the kernel sent may be the reply of a server here, whose addresses are translated.
    pub(crate) fn may_be_reply(&self, frame: &impl Frame) -> bool {
        let Some(&to) = frame.data().first_chunk::<6>() else { return false };
        if !self.lookup.serves_here() {
            return false;
        }
        let mut p = Parsed::NOTHING;
        parse::parse(frame, Mac(to), &mut p);
        let (address, port) = p.endpoints(frame.data()).source;
        match p.kind {
            Kind::Transport | Kind::TransportV6 | Kind::Sctp => {
                self.lookup.is_served_here(address)
                    && self.lookup.nat_server(p.protocol, address, port).is_some()
            }
            Kind::Fragment | Kind::IcmpError => self.lookup.is_served_here(address),
            _ => false,
        }
    }
}
