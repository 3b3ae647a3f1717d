//! Passes a router's ICMP error about a tunnelled packet on to the client that sent the inner packet, as an error about
//! the inner packet.

use super::Egress;
use crate::{
    io::{Frame, Io},
    net::{
        ethernet::Mac,
        ipv6::MIN_MTU,
        reply::{self, ReplyLink},
    },
    path::{
        flow::{Flows, icmp::quote_of},
        next::TunnelError,
        packet::Packet,
        verdict::Reason,
    },
};

/// The longest answer: 1280 bytes of IPv6 behind an Ethernet header.
const LONGEST: usize = 14 + MIN_MTU;

impl<I: Io> Egress<I> {
    /// Tells a client, from the virtual service, what a router reported about its packet.
    pub(crate) fn send_tunnel_error(
        &mut self,
        flows: &Flows,
        packet: Packet<'_, I::Frame>,
        error: &TunnelError,
    ) {
        let Packet { mut frame, parsed: p, .. } = packet;
        let quoted = quote_of(frame.data(), p).get(error.at..).unwrap_or_default();
        let mut out = [0; LONGEST];
        let nobody = Mac([0; 6]);
        let link = ReplyLink { destination: nobody, source: nobody, vlan: None };
        let made = reply::icmp_error(&mut out, &link, error.inner.destination, error.problem, quoted).ok();
        let made = made.and_then(|len| out.get(..len));
        let Some(made) = made.filter(|made| frame.reset(made.len())) else {
            return self.drop(frame, Reason::IcmpTunnel);
        };
        frame.data_mut().copy_from_slice(made);
        self.counters.events.icmp_translated.add(1);
        self.leave(flows, frame, error.hop, (made.len() - 14) as u16);
    }
}
