//! Frames to additional MAC addresses that the kernel has on a port, such as those of VRRP's virtual routers (RFC 9568,
//! 7.3) on a macvlan over the twin.
//!
//! Such a frame is parsed again as one for that address. It isn't changed, because a macvlan recognises punted frames
//! by their destination.

use std::sync::Arc;

use super::parse::{self, Parsed};
use crate::{
    io::{Frame, PortId},
    net::{
        Header,
        ethernet::{EthernetHeader, Mac},
    },
};

/// The MAC addresses that ports have in addition to their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stations(Vec<(PortId, Mac)>);

impl Stations {
    /// A set of these addresses.
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

/// The gateway's MAC addresses.
pub(crate) struct Macs {
    /// The ports' own, repeated at the numbers of their twins.
    ports: Vec<Mac>,
    /// The additional ones.
    pub beside: Arc<Stations>,
}

impl Macs {
    /// The ports' addresses, at the numbers of the ports and of their twins.
    pub fn new(ports: Vec<Mac>) -> Self {
        let mut all = ports.clone();
        all.resize(PortId(0).twin().index(), Mac([0; 6]));
        all.extend(ports);
        Self { ports: all, beside: Arc::default() }
    }

    /// A port's own MAC address.
    #[inline]
    pub fn of(&self, port: PortId) -> Option<Mac> {
        self.ports.get(port.index()).copied()
    }

    /// Whether a port has this MAC address, its own or an additional one.
    pub fn has(&self, port: PortId, mac: Mac) -> bool {
        self.of(port) == Some(mac) || self.beside.has(port, mac)
    }

    /// Parses a frame that may be for an own or an additional address.
    pub fn parse(&self, port: PortId, frame: &impl Frame) -> Option<Parsed> {
        let to = EthernetHeader::at(frame.data(), 0)?.destination;
        let mac = if self.beside.has(port, to) { to } else { self.of(port)? };
        let mut p = Parsed::NOTHING;
        parse::parse(frame, mac, &mut p);
        Some(p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_their_twins_have_places_of_their_own() {
        let macs = Macs::new(vec![Mac([1; 6]), Mac([2; 6])]);
        for n in 0..2 {
            let (port, mac) = (PortId(n), Mac([n + 1; 6]));
            assert_eq!((macs.of(port), macs.of(port.twin())), (Some(mac), Some(mac)));
            assert!(!port.is_twin() && port.twin().is_twin());
            assert_eq!((port.of_twin(), port.twin().of_twin()), (port, port));
        }
    }
}
