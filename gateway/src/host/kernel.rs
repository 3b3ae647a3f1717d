//! Netlink requests about the twins: links, addresses, neighbours, whole tables.

use std::{io, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
        RouteScope, RouteType,
    },
};

use super::{StaticRoute, mirror::Mirror, socket::Requests};
use crate::{mac::Mac, prefix::Prefix};

/// Who put a route there (`proto` of `ip route`): the gateway. No routing daemon has this number.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(87);
/// Higher than that of any other's route to the same network: theirs counts.
const METRIC: u32 = 1 << 20;

const fn family(address: &IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Changes attributes of a link.
pub(super) fn set_link(
    requests: &mut Requests,
    index: u32,
    attributes: Vec<LinkAttribute>,
) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    requests.apply(RouteNetlinkMessage::SetLink(message), 0)
}

/// A link's hardware address as it is now; `None` if there is no such link.
pub(super) fn mac(requests: &mut Requests, index: u32) -> io::Result<Option<Mac>> {
    let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let mut found = None;
    requests.dump(
        &all,
        &mut found,
        |f| *f = None,
        |found, message| {
            let RouteNetlinkMessage::NewLink(link) = message else { return };
            if link.header.index == index {
                *found = link.attributes.iter().find_map(|a| match a {
                    LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok().map(Mac),
                    _ => None,
                });
            }
        },
    )?;
    Ok(found)
}

/// Sets a link's hardware address.
pub(super) fn set_mac(requests: &mut Requests, index: u32, mac: Mac) -> io::Result<()> {
    set_link(requests, index, vec![LinkAttribute::Address(mac.0.to_vec())])
}

/// Sets a link's MTU.
pub(super) fn set_mtu(requests: &mut Requests, index: u32, mtu: u16) -> io::Result<()> {
    set_link(requests, index, vec![LinkAttribute::Mtu(mtu.into())])
}

/// Gives a TAP device a carrier or takes it away (the kernel's `ndo_change_carrier`).
pub(super) fn set_carrier(requests: &mut Requests, index: u32, carrier: bool) -> io::Result<()> {
    set_link(requests, index, vec![LinkAttribute::Carrier(carrier.into())])
}

/// Sets a link administratively up.
pub(super) fn set_up(requests: &mut Requests, index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    requests.apply(RouteNetlinkMessage::SetLink(message), 0)
}

fn address_message(index: u32, prefix: Prefix) -> AddressMessage {
    let address = prefix.address();
    let mut message = AddressMessage::default();
    message.header.family = family(&address);
    message.header.prefix_len = prefix.length();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

/// Puts an address on a link. IPv6 addresses skip duplicate address detection, as a gateway that is ready
/// must own its addresses at once. `AlreadyExists` if the link has it.
pub(super) fn add_address(requests: &mut Requests, index: u32, prefix: Prefix) -> io::Result<()> {
    let mut message = address_message(index, prefix);
    if prefix.address().is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    requests.apply(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Takes an address off a link.
pub(super) fn delete_address(requests: &mut Requests, index: u32, prefix: Prefix) -> io::Result<()> {
    requests.apply(RouteNetlinkMessage::DelAddress(address_message(index, prefix)), 0)
}

/// Puts a route over a link, which counts where there is no other to the same network. `AlreadyExists` if it is there.
pub(super) fn add_route(requests: &mut Requests, index: u32, route: &StaticRoute) -> io::Result<()> {
    let address = |address| match address {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    };
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(&route.to.address());
    header.destination_prefix_length = route.to.length();
    header.table = RouteHeader::RT_TABLE_MAIN;
    header.protocol = PROTOCOL;
    header.kind = RouteType::Unicast;
    header.scope = RouteScope::Universe;
    message.attributes = vec![
        RouteAttribute::Destination(address(route.to.address())),
        RouteAttribute::Oif(index),
        RouteAttribute::Priority(METRIC),
    ];
    match route.via {
        Some(via) => {
            message.header.flags = RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Gateway(address(via)));
        }
        None => message.header.scope = RouteScope::Link,
    }
    if let Some(mtu) = route.mtu {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu.into())]));
    }
    requests.apply(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Has the kernel resolve a neighbour, and keep it resolved if `managed`.
///
/// `NTF_EXT_MANAGED` (Linux 5.16) makes the kernel probe for as long as the entry stands. `NTF_USE` beside
/// it is what an older kernel, which doesn't know the former, understands: resolve once. Without `managed`
/// the entry becomes an ordinary one that ages. Must not be used on PERMANENT entries: it would undo them.
pub(super) fn resolve(requests: &mut Requests, index: u32, address: IpAddr, managed: bool) -> io::Result<()> {
    let mut message = NeighbourMessage::default();
    message.header.family = family(&address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::None;
    message.header.flags = NeighbourFlags::Use;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    if managed {
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    }
    let flags = if managed { NLM_F_CREATE } else { NLM_F_REPLACE };
    requests.apply(RouteNetlinkMessage::NewNeighbour(message), flags)
}

/// Reads which links are over others into the mirror.
pub(super) fn dump_links(requests: &mut Requests, mirror: &mut Mirror) -> io::Result<()> {
    let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
    requests.dump(&all, mirror, Mirror::clear_links, |m, message| m.dumped(&message))?;
    mirror.follow_above();
    Ok(())
}

/// Reads the addresses of both families into the mirror.
pub(super) fn dump_addresses(requests: &mut Requests, mirror: &mut Mirror) -> io::Result<()> {
    let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    requests.dump(&all, mirror, Mirror::clear_addresses, |m, message| m.dumped(&message))
}

/// Reads the neighbours of both families into the mirror.
pub(super) fn dump_neighbours(requests: &mut Requests, mirror: &mut Mirror) -> io::Result<()> {
    let all = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    requests.dump(&all, mirror, Mirror::clear_neighbours, |m, message| m.dumped(&message))
}

/// Reads the routes of both families into the mirror.
pub(super) fn dump_routes(requests: &mut Requests, mirror: &mut Mirror) -> io::Result<()> {
    let all = RouteNetlinkMessage::GetRoute(RouteMessage::default());
    requests.dump(&all, mirror, Mirror::clear_routes, |m, message| m.dumped(&message))
}
