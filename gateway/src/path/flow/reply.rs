//! Which reply the sender of a dropped packet gets.

use std::net::IpAddr;

use super::Flows;
use crate::{
    io::{Frame, PortId},
    net::reply::Problem,
    path::{
        ingress::parse::Parsed,
        next::{Reply, ReplyKind},
        packet::Packet,
        verdict::Reason,
    },
};

impl Reply {
    /// TCP without session: a reset.
    pub const RESET: Self = Self { reason: Reason::NoSession, answer: ReplyKind::Reset };

    /// No server: port unreachable, from the virtual address.
    pub fn no_server<F: Frame>(packet: &Packet<'_, F>) -> Self {
        let answer = ReplyKind::Icmp(packet.endpoints().destination.0, Problem::PortUnreachable);
        Self { reason: Reason::NoServer, answer }
    }
}

impl Flows {
    /// An address of the gateway's own on `port`, of the family of `like`, to answer from.
    pub(crate) fn own_address(&self, port: PortId, like: IpAddr) -> Option<IpAddr> {
        self.routing.table().port(port)?.address_like(like)
    }

    /// Not for want of a way: forbidden, or no resources (RFC 5508 REQ-8, RFC 6888 REQ-11).
    pub(crate) fn prohibited<F: Frame>(&self, packet: &Packet<'_, F>, reason: Reason) -> Reply {
        self.told_by(packet.port, packet.endpoints().destination.0, reason, Problem::Prohibited)
    }

    /// TTL used up.
    pub(crate) fn ttl_expired<F: Frame>(&self, packet: &Packet<'_, F>) -> Reply {
        self.told_by(packet.port, packet.endpoints().destination.0, Reason::TtlExpired, Problem::TtlExceeded)
    }

    /// Larger than the next hop takes.
    pub(crate) fn too_big(&self, port: PortId, frame: &impl Frame, p: &Parsed, mtu: u16) -> Reply {
        let asked = p.endpoints(frame.data()).destination.0;
        self.told_by(port, asked, Reason::TooBig, Problem::TooBig { mtu: mtu.into() })
    }

    /// An ICMP error from the gateway's own address on a port, else from the one that was asked.
    fn told_by(&self, port: PortId, asked: IpAddr, reason: Reason, problem: Problem) -> Reply {
        let from = self.own_address(port, asked).unwrap_or(asked);
        Reply { reason, answer: ReplyKind::Icmp(from, problem) }
    }
}
