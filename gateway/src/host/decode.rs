//! Netlink messages as entries of [`super::state`]: what concerns the TAP twins, and nothing else.

use std::{collections::HashMap, net::IpAddr};

use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType,
        RouteVia,
    },
};

use super::state::{KernelAddress, KernelNeighbour, KernelRoute, NextHop, Reachability, RouteAction, Table};
use crate::{io::PortId, mac::Mac, prefix::Prefix};

/// Numbers of the tables that the kernel asks, unless somebody makes rules of their own (`RT_TABLE_*`).
const DEFAULT: u32 = 253;
const MAIN: u32 = 254;
const LOCAL: u32 = 255;

/// The twins by interface index.
pub(super) type Twins = HashMap<u32, PortId>;

/// The address in `message` if it is a twin's; one that duplicate address detection has refused isn't.
pub(super) fn address(message: &AddressMessage, twins: &Twins) -> Option<KernelAddress> {
    let port = *twins.get(&message.header.index)?;
    Some(KernelAddress { port, prefix: Prefix::new(own_address(message)?, message.header.prefix_len)? })
}

/// The address in `message`, of whichever interface.
pub(super) fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link ADDRESS is the peer's and LOCAL ours; elsewhere they are equal, and
            // IPv6 has ADDRESS only.
            AddressAttribute::Local(a) => found = Some(*a),
            AddressAttribute::Address(a) => found = found.or(Some(*a)),
            AddressAttribute::Flags(f) if f.contains(AddressFlags::Dadfailed) => return None,
            _ => {}
        }
    }
    found
}

/// Which route `message` is about, if it is one that the kernel decides by: table, destination and metric. Routes for a
/// type of service or a source prefix, and other tables, are policy routing, which isn't mirrored; link-local addresses and
/// groups are on every link.
pub(super) fn key(message: &RouteMessage) -> Option<(Table, Prefix, u32)> {
    let header = &message.header;
    let (mut number, mut metric, mut to) = (u32::from(header.table), 0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => number = *table,
            RouteAttribute::Destination(address) => to = Some(ip(address)?),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    if header.tos != 0 || header.source_prefix_length != 0 || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let unspecified = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(0.into()),
        AddressFamily::Inet6 => IpAddr::V6(0.into()),
        _ => return None,
    };
    let to = to.unwrap_or(unspecified);
    let table = match number {
        MAIN => Table::Main,
        LOCAL if !to.is_multicast() => Table::Local,
        DEFAULT if to.is_ipv4() => Table::Default,
        _ => return None,
    };
    Some((table, Prefix::new(to, header.destination_prefix_length)?.network(), metric))
}

/// The route in `message`, if the kernel would use it. What leads neither through twins nor to the twins' own addresses
/// leads elsewhere.
pub(super) fn route(message: &RouteMessage, twins: &Twins) -> Option<KernelRoute> {
    let (table, to, metric) = key(message)?;
    let mtu = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        }),
        _ => None,
    });
    let action = match message.header.kind {
        RouteType::Unicast => next_hops(message, twins)?,
        RouteType::BlackHole => RouteAction::Blackhole,
        // What isn't in the tables that are asked after it, either.
        RouteType::Unreachable | RouteType::Throw => RouteAction::Unreachable,
        RouteType::Prohibit => RouteAction::Prohibit,
        RouteType::Local | RouteType::Anycast | RouteType::Broadcast => {
            let interface = interface(message)?;
            (!twins.contains_key(&interface)).then_some(RouteAction::Elsewhere(interface))?
        }
        _ => return None,
    };
    let everywhere = match to.address() {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local() || a.is_multicast(),
    };
    if everywhere && matches!(action, RouteAction::Elsewhere(_)) {
        return None;
    }
    Some(KernelRoute { table, to, metric, mtu: mtu.filter(|m| *m > 0), action })
}

/// The interface that a route names.
fn interface(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(i) => Some(*i),
        _ => None,
    })
}

/// The address that a route has packets sent from, if it names one.
pub(super) fn source(message: &RouteMessage) -> Option<IpAddr> {
    let named = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::PrefSource(address) => Some(address),
        _ => None,
    });
    named.and_then(ip)
}

/// The next hops through twins, if there are any that are alive; `None` if none is.
fn next_hops(message: &RouteMessage, twins: &Twins) -> Option<RouteAction> {
    let multipath = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let Some(hops) = multipath else {
        let interface = interface(message)?;
        if message.header.flags.contains(RouteFlags::Dead) {
            return None;
        }
        let hop = next_hop(interface, 1, &message.attributes, twins);
        return Some(hop.map_or(RouteAction::Elsewhere(interface), |hop| RouteAction::Forward([hop].into())));
    };
    let usable = |avoid: RouteNextHopFlags| {
        let alive: Vec<_> = hops.iter().filter(|h| !h.flags.intersects(avoid)).collect();
        let mine = alive
            .iter()
            .filter_map(|h| next_hop(h.interface_index, u16::from(h.hops) + 1, &h.attributes, twins));
        let mine: Vec<NextHop> = mine.collect();
        let first = alive.first()?;
        let elsewhere = RouteAction::Elsewhere(first.interface_index);
        Some(if mine.is_empty() { elsewhere } else { RouteAction::Forward(mine.into()) })
    };
    // A hop whose link has no carrier is still better than none: its neighbour may be fixed.
    usable(RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown).or_else(|| usable(RouteNextHopFlags::Dead))
}

fn next_hop(interface: u32, weight: u16, attributes: &[RouteAttribute], twins: &Twins) -> Option<NextHop> {
    let port = *twins.get(&interface)?;
    let mut gateway = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Gateway(a) => gateway = Some(ip(a)?),
            RouteAttribute::Via(RouteVia::Inet(a)) => gateway = Some(IpAddr::V4(*a)),
            RouteAttribute::Via(RouteVia::Inet6(a)) => gateway = Some(IpAddr::V6(*a)),
            // Packets of such a route must be encapsulated (MPLS, SRv6...), which the path can't do.
            RouteAttribute::Via(_) | RouteAttribute::EncapType(_) => return None,
            _ => {}
        }
    }
    Some(NextHop { port, gateway, weight })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

/// The neighbour in `message` if it is on a twin, and whether the entry is an administrator's (PERMANENT,
/// NOARP). Proxy entries and multicast mappings aren't neighbours.
pub(super) fn neighbour(message: &NeighbourMessage, twins: &Twins) -> Option<(KernelNeighbour, bool)> {
    let port = *twins.get(&message.header.ifindex)?;
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            _ => {}
        }
    }
    let address = address.filter(|a: &IpAddr| !a.is_multicast())?;
    let state = message.header.state;
    let reachability = match (state, mac) {
        (NeighbourState::Failed, _) => Reachability::Failed,
        (NeighbourState::None | NeighbourState::Incomplete, _) | (_, None) => Reachability::Pending,
        (_, Some(mac)) => Reachability::Usable(mac),
    };
    let fixed = matches!(state, NeighbourState::Permanent | NeighbourState::Noarp);
    Some((KernelNeighbour { port, address, reachability }, fixed))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use netlink_packet_route::route::{RouteHeader, RouteNextHop};

    use super::*;

    const WAN: PortId = PortId(0);
    const LAN: PortId = PortId(1);

    fn twins() -> Twins {
        HashMap::from([(10, WAN), (11, LAN)])
    }

    fn route_message(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = kind;
        message.attributes = attributes;
        message
    }

    fn gateway(a: [u8; 4]) -> RouteAttribute {
        RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::from(a)))
    }

    #[test]
    fn a_default_route() {
        let mtu = RouteAttribute::Metrics(vec![RouteMetric::Advmss(9), RouteMetric::Mtu(1400)]);
        let attributes =
            vec![RouteAttribute::Oif(10), gateway([10, 0, 0, 1]), RouteAttribute::Priority(7), mtu];
        let route = route(&route_message(RouteType::Unicast, attributes), &twins()).unwrap();
        assert_eq!(route.to.to_string(), "0.0.0.0/0");
        assert_eq!((route.metric, route.mtu), (7, Some(1400)));
        let hop = NextHop { port: WAN, gateway: Some([10, 0, 0, 1].into()), weight: 1 };
        assert_eq!(route.action, RouteAction::Forward([hop].into()));
    }

    #[test]
    fn routes_that_do_not_concern_the_twins() {
        let mut message = route_message(RouteType::Unicast, vec![RouteAttribute::Oif(12)]);
        assert_eq!(
            route(&message, &twins()).unwrap().action,
            RouteAction::Elsewhere(12),
            "another interface"
        );
        message.attributes = vec![RouteAttribute::Oif(10), RouteAttribute::Table(100)];
        assert_eq!(route(&message, &twins()), None, "another table");
        let of = |table| {
            let mut message = message.clone();
            message.attributes = vec![RouteAttribute::Oif(12), RouteAttribute::Table(table)];
            message
        };
        let table = |number| route(&of(number), &twins()).map(|route| route.table);
        assert_eq!([253, 254, 255].map(table), [Table::Default, Table::Main, Table::Local].map(Some));
        message.attributes = vec![RouteAttribute::Oif(10)];
        message.header.tos = 16;
        assert_eq!(route(&message, &twins()), None, "a type of service");
        message.header.tos = 0;
        message.header.kind = RouteType::Local;
        assert_eq!(route(&message, &twins()), None, "a twin's address");
        message.header.kind = RouteType::BlackHole;
        assert_eq!(route(&message, &twins()).unwrap().action, RouteAction::Blackhole);
    }

    fn hop(interface_index: u32, hops: u8, flags: RouteNextHopFlags, last: u8) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        hop.interface_index = interface_index;
        hop.hops = hops;
        hop.flags = flags;
        hop.attributes = vec![gateway([10, 0, 0, last])];
        hop
    }

    #[test]
    fn equal_cost_next_hops() {
        let none = RouteNextHopFlags::empty();
        let hops = |hops| {
            let message = route_message(RouteType::Unicast, vec![RouteAttribute::MultiPath(hops)]);
            match route(&message, &twins())?.action {
                RouteAction::Forward(hops) => {
                    Some(hops.iter().map(|h| (h.port, h.weight)).collect::<Vec<_>>())
                }
                _ => None,
            }
        };
        let three = vec![hop(10, 0, none, 1), hop(11, 4, none, 2), hop(12, 0, none, 3)];
        assert_eq!(hops(three), Some(vec![(WAN, 1), (LAN, 5)]));
        let down = RouteNextHopFlags::Linkdown;
        assert_eq!(hops(vec![hop(10, 0, down, 1), hop(11, 0, none, 2)]), Some(vec![(LAN, 1)]));
        assert_eq!(hops(vec![hop(10, 0, down, 1)]), Some(vec![(WAN, 1)]));
        assert_eq!(hops(vec![hop(10, 0, RouteNextHopFlags::Dead, 1)]), None);
        assert_eq!(hops(vec![hop(12, 0, none, 1)]), None, "elsewhere");
    }

    #[test]
    fn neighbour_states() {
        let message = |state, mac: Option<[u8; 6]>| {
            let mut message = NeighbourMessage::default();
            message.header.ifindex = 11;
            message.header.state = state;
            message.attributes.push(NeighbourAttribute::Destination(Ipv4Addr::new(10, 0, 0, 2).into()));
            message.attributes.extend(mac.map(|m| NeighbourAttribute::LinkLayerAddress(m.to_vec())));
            neighbour(&message, &twins()).unwrap()
        };
        let mac = [2, 0, 0, 0, 0, 9];
        for state in [
            NeighbourState::Reachable,
            NeighbourState::Stale,
            NeighbourState::Delay,
            NeighbourState::Probe,
            NeighbourState::Permanent,
            NeighbourState::Noarp,
        ] {
            let (neighbour, fixed) = message(state, Some(mac));
            assert_eq!(neighbour.reachability, Reachability::Usable(Mac(mac)), "{state:?}");
            assert_eq!(fixed, matches!(state, NeighbourState::Permanent | NeighbourState::Noarp));
        }
        assert_eq!(message(NeighbourState::Failed, Some(mac)).0.reachability, Reachability::Failed);
        assert_eq!(message(NeighbourState::Incomplete, None).0.reachability, Reachability::Pending);
    }

    #[test]
    fn addresses() {
        let mut message = AddressMessage::default();
        message.header.index = 10;
        message.header.prefix_len = 24;
        message.attributes = vec![
            AddressAttribute::Address([10, 0, 0, 2].into()),
            AddressAttribute::Local([10, 0, 0, 1].into()),
        ];
        assert_eq!(address(&message, &twins()).unwrap().prefix.to_string(), "10.0.0.1/24");
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Dadfailed));
        assert_eq!(address(&message, &twins()), None);
    }
}
