//! Beside the way: servers of the gateway itself, as IPVS's "local node".
//!
//! ```text
//! to the server     wire -> its session -> punt -> the port's twin -> kernel
//! from the server   kernel -> a twin -> its session, as a packet that arrives at the twin's place -> wire
//! ```
//!
//! That a server is here shows when its next hop is looked up: there is none ([`Reason::ToGateway`]), so packets of other
//! sessions pay nothing for it. DR's and TUN's packets reach the kernel as they came, and what the server answers leaves as
//! the kernel sent it. NAT's get the server's address and port; the client's stay, as the kernel takes nothing from its own
//! addresses: control gives workers FULLNAT servers of this kind as those of NAT. Their replies leave by the twin that the kernel's routes name, and
//! come to their session's owner as any reply does; where they have none, they leave as the kernel sent them.

use super::{
    Flows, Worker,
    packet::Origin,
    packet::trim,
    parse::{self, Kind, Parsed},
    punt_kind::PuntKind,
    service::Chosen,
    verdict::Reason,
};
use crate::{
    io::{Burst, Frame, Io, PortId},
    net::ethernet::Mac,
    sched::Flow,
    table::{
        session::{Direction, Session},
        sessions::Found,
    },
};
use weirctl::model::Forwarding;

/// The ports' addresses at the places of the ports and of their twins.
pub(super) fn with_twins(ports: Vec<Mac>) -> Vec<Mac> {
    let mut all = ports.clone();
    all.resize(PortId(0).twin().index(), Mac([0; 6]));
    all.extend(ports);
    all
}

impl Flows {
    /// Whether a packet that has no next hop for this reason gets its session's other addresses and goes to the kernel. A
    /// session that began when its server was elsewhere has another source than the client's: the kernel takes none of its
    /// own addresses for one.
    fn is_translated_here(&self, found: Found, reason: Reason) -> bool {
        let of_nat = |session: &Session| !session.is_fullnat() && !session.is_snat();
        reason == Reason::ToGateway
            && (found.direction == Direction::Reply || self.sessions.get(found.id).is_some_and(of_nat))
    }

    fn may_be_reply(&self, frame: &impl Frame) -> bool {
        let Some(&to) = frame.data().first_chunk::<6>() else { return false };
        if !self.lookup.serves_here() {
            return false;
        }
        let mut p = Parsed::NOTHING;
        parse::parse(frame, Mac(to), &mut p);
        let (address, port) = p.ends(frame.data()).source;
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

impl<I: Io> Worker<I> {
    /// A packet of a session that has no next hop, for this reason: where its server is here, the kernel gets it.
    #[cold]
    pub(super) fn send_here(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        found: Found,
        reason: Reason,
    ) {
        if !self.flows.is_translated_here(found, reason) {
            return self.drop_frame(frame, reason);
        }
        trim(&mut frame, p);
        if !self.flows.rewrite(&mut frame, p, found) {
            return self.drop_frame(frame, Reason::Truncated);
        }
        self.deliver(port, frame, p);
    }

    /// As [`Self::send_here`] for a fragment behind the first.
    #[cold]
    pub(super) fn rest_here(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        found: Found,
        reason: Reason,
    ) {
        if !self.flows.is_translated_here(found, reason) {
            return self.drop_frame(frame, reason);
        }
        trim(&mut frame, p);
        if !self.flows.readdress(&mut frame, p, found) {
            return self.drop_frame(frame, Reason::Truncated);
        }
        self.deliver(port, frame, p);
    }

    /// As [`Self::send_here`] for an ICMP error about a session, which has its addresses already.
    #[cold]
    pub(super) fn error_here(
        &mut self,
        port: PortId,
        frame: I::Frame,
        p: &Parsed,
        found: Found,
        reason: Reason,
    ) {
        if !self.flows.is_translated_here(found, reason) {
            return self.drop_frame(frame, reason);
        }
        self.counters.events.icmp_translated.add(1);
        self.deliver(port, frame, p);
    }

    /// A packet of DR or TUN that has no next hop, for this reason: where its server is here, the kernel gets it as it is.
    #[cold]
    pub(super) fn direct_here(&mut self, port: PortId, frame: I::Frame, p: &Parsed, reason: Reason) {
        match reason {
            Reason::ToGateway => self.deliver(port, frame, p),
            _ => self.drop_frame(frame, reason),
        }
    }

    /// A datagram of a one-packet service that has no next hop.
    #[cold]
    pub(super) fn once_here(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        (flow, chosen): (&Flow, Chosen),
        reason: Reason,
    ) {
        if reason == Reason::ToGateway && chosen.method == Forwarding::Nat {
            trim(&mut frame, p);
            if !self.flows.rewrite_once(&mut frame, p, flow, chosen) {
                return self.drop_frame(frame, Reason::Truncated);
            }
        }
        self.direct_here(port, frame, p, reason);
    }

    /// Its fragments behind the first.
    #[cold]
    pub(super) fn fragment_here(
        &mut self,
        port: PortId,
        mut frame: I::Frame,
        p: &Parsed,
        chosen: Chosen,
        reason: Reason,
    ) {
        if reason == Reason::ToGateway && chosen.method == Forwarding::Nat {
            trim(&mut frame, p);
            if !Flows::readdress_once(&mut frame, p, chosen) {
                return self.drop_frame(frame, Reason::Truncated);
            }
        }
        self.direct_here(port, frame, p, reason);
    }

    /// Gives the kernel a finished frame whose destination it has, by the twin that it would answer the sender by.
    fn deliver(&mut self, port: PortId, mut frame: I::Frame, p: &Parsed) {
        if port.is_twin() {
            return self.drop_frame(frame, Reason::ToGateway);
        }
        let sender = p.ends(frame.data()).source.0;
        let route = self.flows.routing.table().lookup(sender);
        let ways = || route.iter().flat_map(|route| route.via.iter()).map(|via| via.port);
        let twin = if ways().any(|way| way == port) { port } else { ways().next().unwrap_or(port) };
        match (frame.data_mut().first_chunk_mut::<6>(), self.macs.get(twin.index())) {
            (Some(field), Some(mac)) => *field = mac.0,
            _ => return self.drop_frame(frame, Reason::Truncated),
        }
        self.punt_as(PuntKind::Local, twin, frame);
    }

    /// An answer to a packet of the kernel's goes there.
    pub(super) fn answer_here(&mut self, port: PortId, frame: I::Frame) {
        let pushed = self.host.as_mut().is_some_and(|host| {
            let port = if port.is_twin() { port.of_twin() } else { port };
            host.push(port, frame, PuntKind::Local, self.flows.now)
        });
        if !pushed {
            self.counters.events.answers_suppressed.add(1);
        }
    }

    /// A frame that the kernel sent out of the twin of `port`: given back unless it may be the reply of a server here, whose
    /// addresses are translated.
    pub(super) fn take_reply(&mut self, port: PortId, mut frame: I::Frame) -> Option<I::Frame> {
        if !self.flows.may_be_reply(&frame) {
            return Some(frame);
        }
        let (Some(us), Some(&to)) = (self.macs.get(port.index()), frame.data().first_chunk::<6>()) else {
            return Some(frame);
        };
        let us = us.0;
        if let Some(field) = frame.data_mut().first_chunk_mut::<12>() {
            field[..6].copy_from_slice(&us);
            field[6..].copy_from_slice(&to);
        }
        let mut burst = Burst::new();
        burst.push(frame);
        self.forward(port.twin(), &mut burst, Origin::Port);
        None
    }

    /// A frame of the kernel's that is no reply after all leaves as it was sent.
    pub(super) fn leave_as_sent(&mut self, port: PortId, mut frame: I::Frame) {
        if let Some(field) = frame.data_mut().first_chunk_mut::<12>() {
            field.rotate_left(6);
        }
        self.tx.push_uncounted(&mut self.io, &self.counters, port.of_twin(), frame);
    }

    /// A packet whose source may not open anything. What the kernel sends from its own addresses leaves.
    #[cold]
    pub(super) fn refuse_source(&mut self, port: PortId, frame: I::Frame, reason: Reason) {
        if port.is_twin() { self.leave_as_sent(port, frame) } else { self.drop_frame(frame, reason) }
    }

    /// A packet of a session that came by a port behind which its sender isn't. The kernel is asked no questions: the
    /// twin that it sends by is the one from now on.
    #[cold]
    pub(super) fn arrived_wrong(
        &mut self,
        port: PortId,
        frame: I::Frame,
        p: &Parsed,
        found: Found,
        origin: Origin,
    ) {
        let session = self.flows.sessions.get_mut(found.id).filter(|_| port.is_twin());
        let Some(session) = session else { return self.drop_frame(frame, Reason::Martian) };
        session.set_arrival(found.direction, port);
        self.known_rarely(port, frame, p, found, origin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_their_twins_have_places_of_their_own() {
        let macs = with_twins(vec![Mac([1; 6]), Mac([2; 6])]);
        for n in 0..2 {
            let (port, mac) = (PortId(n), Mac([n + 1; 6]));
            assert_eq!((macs[port.index()], macs[port.twin().index()]), (mac, mac));
            assert!(!port.is_twin() && port.twin().is_twin());
            assert_eq!((port.of_twin(), port.twin().of_twin()), (port, port));
        }
    }
}
