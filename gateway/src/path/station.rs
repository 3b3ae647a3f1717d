//! Frames to MAC addresses that the kernel has on a port beside the port's own, such as those of VRRP's
//! virtual routers (RFC 9568, 7.3) on a macvlan over the twin.
//!
//! Such a frame is parsed again as one for that address. It isn't changed: a macvlan takes what is punted by its
//! destination.

use super::{
    Egress,
    parse::{self, Parsed},
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

    pub(super) fn has(&self, port: PortId, mac: Mac) -> bool {
        self.0.binary_search(&(port, mac)).is_ok()
    }
}

impl<I: Io> Egress<I> {
    /// The address that the frame is for, if the port has it beside its own.
    fn other_mac(&self, port: PortId, frame: &I::Frame) -> Option<Mac> {
        let to = EthernetHeader::at(frame.data(), 0)?.destination;
        self.stations.has(port, to).then_some(to)
    }

    /// Reads a frame that may be for either kind of address.
    pub(super) fn parse_for_any(&self, port: PortId, frame: &I::Frame) -> Option<Parsed> {
        let mac = self.other_mac(port, frame).or_else(|| self.macs.get(port.index()).copied())?;
        let mut p = Parsed::NOTHING;
        parse::parse(frame, mac, &mut p);
        Some(p)
    }
}
