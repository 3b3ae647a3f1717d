//! Sends a datagram without a session to the server that was chosen for it (one-packet scheduling).

use weir_api::model::Forwarding;

use super::{Carried, Egress, readdress::readdress, rewrite, too_big};
use crate::{
    io::{Frame, Io},
    path::{
        flow::{Flows, deltas::deltas_of, service::Chosen},
        ingress::parse::Parsed,
        next::{Edit, Exit},
        packet::{Packet, trim},
        verdict::Reason,
    },
    table::{
        endpoints::Endpoints,
        session::{Direction, INACTIVE, NewSession, Session},
        v6_record::V6Record,
    },
};

impl<I: Io> Egress<I> {
    /// Sends a datagram, or a later fragment of one (`later`), to the server that was chosen for it.
    pub(crate) fn send_once(
        &mut self,
        flows: &Flows,
        mut packet: Packet<'_, I::Frame>,
        chosen: Chosen,
        (exit, later): (Exit, bool),
    ) -> Carried<I::Frame> {
        let translates = matches!(chosen.method, Forwarding::Nat | Forwarding::FullNat);
        if let (Exit::Hop(hop), Forwarding::Tunnel(_)) = (exit, chosen.method) {
            return self.send_tunnelled(flows, packet, (chosen.address, chosen.server), hop);
        }
        if let (Exit::Hop(hop), false) = (exit, translates) {
            return self.send_direct(flows, packet, hop);
        }
        if let Exit::Hop(hop) = exit {
            let Some(next) = flows.routing.hop(hop) else {
                return self.dropped(packet.frame, Reason::NoRoute);
            };
            if packet.parsed.ip_len > next.mtu && packet.parsed.dont_fragment {
                return too_big(flows, packet, next.mtu);
            }
        }
        let p = packet.parsed;
        if translates {
            trim(&mut packet.frame, p);
            let rewritten = match later {
                true => readdress_once(&mut packet.frame, p, chosen),
                false => rewrite_once(flows, &mut packet.frame, p, chosen),
            };
            if !rewritten {
                return self.dropped(packet.frame, Reason::Truncated);
            }
        }
        match exit {
            Exit::Hop(hop) => self.leave(flows, packet.frame, hop, p.ip_len),
            _ => self.deliver(flows, packet.port, packet.frame, p),
        }
        Ok(Edit::Nothing)
    }
}

/// Gives a later fragment the server's address.
fn readdress_once(frame: &mut impl Frame, p: &Parsed, chosen: Chosen) -> bool {
    let leaving = Endpoints { destination: (chosen.address, 0), ..p.endpoints(frame.data()) };
    readdress(frame.data_mut(), p, &leaving)
}

/// Gives a datagram the server's address and port.
fn rewrite_once(flows: &Flows, frame: &mut impl Frame, p: &Parsed, chosen: Chosen) -> bool {
    let request = p.endpoints(frame.data());
    let port = if chosen.port == 0 { request.destination.1 } else { chosen.port };
    let reply = Endpoints { source: (chosen.address, port), destination: request.source };
    let mut session = Session::new(
        &NewSession {
            request: p.tuple,
            reply: reply.tuple(),
            protocol: p.protocol,
            slot: chosen.server.slot(),
            flags: INACTIVE,
        },
        flows.now,
    );
    let (ip, l4) = deltas_of(&request, &reply.reversed());
    session.set_deltas(ip, l4);
    let data = frame.data_mut();
    match V6Record::of(&request, &reply) {
        Some(v6) => rewrite::rewrite_v6(data, p, &session, &v6, Direction::Request),
        None => rewrite::rewrite(data, p, &session, Direction::Request),
    }
}
