//! Stage 4: whether a packet's source address is valid on its port.
//!
//! Checked for every packet that would open a session, a template or a SNAT mapping. Packets of a session
//! aren't checked again, except for ICMP errors and fragments, which can be forged without knowing the
//! session's ports.

use std::net::IpAddr;

use super::{
    Flows,
    behind::{Behind, RpFilter},
    snat::SnatRole,
};
use crate::{
    io::PortId,
    path::{packet::Origin, verdict::Reason},
    table::endpoints::Endpoints,
};

impl Flows {
    /// The reason why a packet from `source` that arrived on `port` may not open anything, if there is one.
    #[inline(always)]
    pub(crate) fn source_refusal(&self, port: PortId, source: IpAddr) -> Option<Reason> {
        let behind = self.routing.table().behind(source);
        if behind.is_by(port) && !self.lookup.may_be_ours(source) && self.snat.is_none() {
            return None;
        }
        self.refusal_of_others(port, source, behind)
    }

    #[cold]
    #[inline(never)]
    fn refusal_of_others(&self, port: PortId, source: IpAddr, behind: Behind) -> Option<Reason> {
        let ours = behind.is_martian()
            || self.lookup.is_local(source)
            || self.lookup.is_virtual(source)
            || self.is_external(source);
        match self.routing.table().rp_filter(port) {
            _ if ours => Some(Reason::Martian),
            _ if behind.is_by(port) => None,
            _ if self.server_addresses.contains_key(&source) => Some(Reason::Martian),
            RpFilter::Strict => Some(Reason::NoWayBack),
            RpFilter::Loose if behind.is_nowhere() => Some(Reason::NoWayBack),
            RpFilter::Loose | RpFilter::Off => None,
        }
    }

    /// Like [`Self::source_refusal`], for a packet that SNAT claims. An inside network must not be reached
    /// through the default route of its outside port, behind which anybody may be. A packet that turned back
    /// comes from an external address.
    pub(crate) fn snat_source_refusal(
        &self,
        port: PortId,
        ends: &Endpoints,
        claim: SnatRole,
        origin: Origin,
    ) -> Option<Reason> {
        let source = ends.source.0;
        if origin == Origin::Worker && self.is_external(source) {
            return None;
        }
        let table = self.routing.table();
        let outside = match claim {
            SnatRole::Out(rule) => self.snat.as_ref().and_then(|nat| nat.outside_port(rule)),
            SnatRole::In => None,
        };
        let everywhere = outside == Some(port)
            && table.rp_filter(port) == RpFilter::Strict
            && table.behind(source).is_by_default();
        self.source_refusal(port, source).or(everywhere.then_some(Reason::NoWayBack))
    }

    /// The reason why an ICMP error or a fragment from `source` that arrived on `port` isn't passed on, if
    /// there is one. Routers often have addresses that no route leads to; their errors are accepted. The
    /// kernel's own packets come through twins, from the gateway's addresses. Packets that another worker
    /// handed over, or that have turned back, were checked before.
    pub(crate) fn beside_refusal(&self, port: PortId, source: IpAddr, origin: Origin) -> Option<Reason> {
        if port.is_twin() || origin == Origin::Worker {
            return None;
        }
        let behind = self.routing.table().behind(source);
        match self.refusal_of_others(port, source, behind) {
            Some(Reason::NoWayBack) if behind.is_nowhere() => None,
            reason => reason,
        }
    }

    /// The reason why a router's error about the path to `server` isn't accepted, if there is one: it must
    /// arrive on the port that leads to the server.
    pub(crate) fn router_refusal(&self, port: PortId, router: IpAddr, server: IpAddr) -> Option<Reason> {
        let table = self.routing.table();
        let strict = table.rp_filter(port) == RpFilter::Strict;
        let beside = strict && !table.behind(server).is_by(port);
        self.beside_refusal(port, router, Origin::Port).or(beside.then_some(Reason::NoWayBack))
    }
}
