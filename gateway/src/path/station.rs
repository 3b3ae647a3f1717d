//! Beside the way: frames to MAC addresses that the kernel has on a port beside the port's own, such as those of VRRP's
//! virtual routers (RFC 9568, 7.3) on a macvlan over the twin.
//!
//! Such a frame is parsed again as one for that address. It isn't changed: a macvlan takes what is punted by its
//! destination.

use super::{
    Worker,
    packet::Origin,
    parse::{self, Kind, Parsed},
};
use crate::{
    io::{Frame, Io, PortId},
    net::{
        Header,
        ethernet::{EthernetHeader, Mac},
    },
};

/// MAC addresses that ports have beside their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stations(Vec<(PortId, Mac)>);

impl Stations {
    /// These addresses.
    #[must_use]
    pub fn new(addresses: impl IntoIterator<Item = (PortId, Mac)>) -> Self {
        let mut addresses: Vec<_> = addresses.into_iter().collect();
        addresses.sort_unstable();
        Self(addresses)
    }

    fn has(&self, port: PortId, mac: Mac) -> bool {
        self.0.binary_search(&(port, mac)).is_ok()
    }
}

impl<I: Io> Worker<I> {
    /// The address that the frame is for, if the port has it beside its own.
    fn other_mac(&self, port: PortId, frame: &I::Frame) -> Option<Mac> {
        let to = EthernetHeader::at(frame.data(), 0)?.destination;
        self.stations.has(port, to).then_some(to)
    }

    /// Whether a port has an address, as its own or beside it.
    pub(super) fn has_mac(&self, port: PortId, mac: Mac) -> bool {
        self.macs.get(port.index()) == Some(&mac) || self.stations.has(port, mac)
    }

    /// Reads a frame that may be for either kind of address.
    pub(super) fn parse_for_any(&self, port: PortId, frame: &I::Frame) -> Option<Parsed> {
        let mac = self.other_mac(port, frame).or_else(|| self.macs.get(port.index()).copied())?;
        let mut p = Parsed::NOTHING;
        parse::parse(frame, mac, &mut p);
        Some(p)
    }

    /// A frame for a station that isn't the port's own.
    #[cold]
    #[inline(never)]
    pub(super) fn for_another_mac(&mut self, port: PortId, frame: I::Frame, origin: Origin) {
        let Some(mut p) = self.parse_for_any(port, &frame) else { return };
        match p.kind {
            Kind::Bad(reason) => self.drop_frame(frame, reason),
            Kind::Transport => {
                let hash = self.flows.sessions.hash(p.tuple, p.protocol);
                self.transport_sought(port, frame, &p, hash, origin);
            }
            Kind::TransportV6 => {
                let hash = self.flows.hash_v6(&frame, &mut p);
                let candidate = self.flows.sessions.candidate_wide(hash);
                self.transport_v6(port, frame, &p, (hash, candidate), origin);
            }
            kind => self.other(port, frame, &p, kind, origin),
        }
    }
}
