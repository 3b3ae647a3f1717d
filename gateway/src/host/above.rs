//! The kernel's interfaces over the twins: macvlans with VRRP's virtual MAC addresses, VLANs, and what is over those.
//!
//! ```text
//! vrrp.51 (macvlan, 00:00:5e:00:01:33) -- wan (twin): its addresses and routes are the port's, frames for its MAC, too
//! wan.7 (VLAN) -- wan (twin):                         another network; frames for its MAC are the port's all the same
//! ```
//!
//! Interfaces that were moved to another namespace aren't seen.

use std::collections::HashMap;

use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::decode::Twins;
use crate::{io::PortId, mac::Mac};

/// Interfaces upon interfaces are followed so far down.
const DEPTH: usize = 8;

/// An interface that is over another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UpperInterface {
    /// Index of the one below.
    lower: u32,
    /// It is in a network of its own.
    vlan: bool,
    /// What it receives frames for, while it is up.
    mac: Option<Mac>,
}

/// All interfaces over others, by index.
#[derive(Default)]
pub(super) struct Above(HashMap<u32, UpperInterface>);

impl Above {
    /// Notes what an interface is like now; true if that is new.
    pub fn note(&mut self, message: &LinkMessage) -> bool {
        let index = message.header.index;
        match upper(message) {
            Some(upper) => self.0.insert(index, upper) != Some(upper),
            None => self.gone(index),
        }
    }

    /// An interface is gone; true if it was over another one.
    pub fn gone(&mut self, index: u32) -> bool {
        self.0.remove(&index).is_some()
    }

    /// Forgets all, before a dump.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The port whose twin an interface is over, and whether they are in the same network.
    fn port(&self, upper: UpperInterface, twins: &Twins) -> Option<(PortId, bool)> {
        let (mut at, mut same) = (upper, !upper.vlan);
        for _ in 0..DEPTH {
            if let Some(port) = twins.get(&at.lower) {
                return Some((*port, same));
            }
            at = *self.0.get(&at.lower)?;
            same &= !at.vlan;
        }
        None
    }

    /// MAC addresses on interfaces over twins, ordered.
    pub fn stations(&self, twins: &Twins) -> Vec<(PortId, Mac)> {
        let each = self.0.values().filter_map(|upper| Some((self.port(*upper, twins)?.0, upper.mac?)));
        let mut stations: Vec<_> = each.collect();
        stations.sort_unstable();
        stations.dedup();
        stations
    }

    /// The twins, and interfaces over them that are in the same network.
    pub fn same_network(&self, twins: &Twins) -> Twins {
        let over = self.0.iter().filter_map(|(index, upper)| {
            let (port, same) = self.port(*upper, twins)?;
            same.then_some((*index, port))
        });
        over.chain(twins.iter().map(|(index, port)| (*index, *port))).collect()
    }
}

/// What the message says, if it is of an interface that is over another one of the same namespace.
fn upper(message: &LinkMessage) -> Option<UpperInterface> {
    let (mut lower, mut kind, mut mac) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Link(index) => lower = Some(*index),
            LinkAttribute::LinkNetNsId(_) => return None,
            LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::LinkInfo(infos) => {
                kind =
                    infos.iter().find_map(|info| if let LinkInfo::Kind(k) = info { Some(k) } else { None });
            }
            _ => {}
        }
    }
    let vlan = match kind? {
        InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan => false,
        InfoKind::Vlan => true,
        _ => return None,
    };
    let mac = mac.filter(|mac| mac.is_unicast() && message.header.flags.contains(LinkFlags::Up));
    Some(UpperInterface { lower: lower?, vlan, mac })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAN: PortId = PortId(0);

    fn link(index: u32, lower: u32, kind: InfoKind, last: u8, up: bool) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.attributes = vec![
            LinkAttribute::Link(lower),
            LinkAttribute::Address(vec![0, 0, 0x5e, 0, 1, last]),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
        ];
        message
    }

    #[test]
    fn interfaces_over_twins_and_over_those() {
        let twins = Twins::from([(10, WAN)]);
        let mut above = Above::default();
        assert!(above.note(&link(20, 10, InfoKind::MacVlan, 1, true)));
        assert!(!above.note(&link(20, 10, InfoKind::MacVlan, 1, true)), "nothing new");
        above.note(&link(21, 10, InfoKind::MacVlan, 2, false));
        above.note(&link(22, 10, InfoKind::Vlan, 3, true));
        above.note(&link(23, 22, InfoKind::MacVlan, 4, true));
        above.note(&link(24, 99, InfoKind::MacVlan, 5, true));
        above.note(&link(25, 10, InfoKind::Veth, 6, true));
        // A ring, which the kernel wouldn't make.
        above.note(&link(26, 26, InfoKind::MacVlan, 7, true));
        let stations = |above: &Above| above.stations(&twins).iter().map(|s| s.1.0[5]).collect::<Vec<_>>();
        assert_eq!(stations(&above), [1, 3, 4], "the one that is down receives nothing");
        let mut near: Vec<_> = above.same_network(&twins).into_keys().collect();
        near.sort_unstable();
        assert_eq!(near, [10, 20, 21]);
        assert!(above.gone(20) && !above.gone(20));
        assert_eq!(stations(&above), [3, 4]);
    }
}
