//! Setting twins up, and the local addresses on them.

use std::{collections::HashMap, io, net::IpAddr};

use nix::errno::Errno;

use super::{
    HostPort, StaticRoute,
    error::HostError,
    kernel,
    mirror::Mirror,
    namespace::{ipv6_disabled, make_no_link_local, set_ipv6_disabled},
    socket::Requests,
};
use crate::{io::PortId, mac::Mac, prefix::Prefix};

/// A twin as the kernel knows it.
pub(super) struct TwinLink {
    pub name: String,
    /// Interface index.
    pub index: u32,
    /// The port's hardware address, which it must keep.
    pub mac: Mac,
    /// Administratively up.
    pub up: bool,
    /// Up, with a carrier.
    pub running: bool,
}

/// The local addresses that services use, whichever ports they were asked for on.
#[derive(Default)]
pub(super) struct Locals(HashMap<IpAddr, Local>);

struct Local {
    /// How many asked for it and haven't given it back.
    users: u32,
    /// The twin that we put it on; none if it was there by configuration or by hand.
    ours: Option<PortId>,
}

impl Locals {
    /// Puts `address` on the twin of `port` unless a twin has it; true if it was put there now.
    pub fn add(
        &mut self,
        requests: &mut Requests,
        (links, mirror): (&[TwinLink], &Mirror),
        port: PortId,
        address: IpAddr,
    ) -> Result<bool, HostError> {
        let link = links.get(port.index()).ok_or(HostError::NoPort(port))?;
        if let Some(local) = self.0.get_mut(&address) {
            local.users += 1;
            return Ok(false);
        }
        let ours = mirror.holder(address).is_none().then_some(port);
        if ours.is_some() {
            put(requests, link, Prefix::host(address))?;
        }
        self.0.insert(address, Local { users: 1, ours });
        Ok(ours.is_some())
    }

    /// Puts back what was on the twin of `port` before it lost its addresses.
    pub fn restore(&self, requests: &mut Requests, link: &TwinLink, port: PortId) -> Result<(), HostError> {
        let lost = self.0.iter().filter(|(_, local)| local.ours == Some(port));
        lost.map(|(address, _)| Prefix::host(*address)).try_for_each(|a| put(requests, link, a))
    }

    /// Gives `address` back, asked for on `port` once; true if it was taken off its twin now.
    pub fn remove(
        &mut self,
        requests: &mut Requests,
        links: &[TwinLink],
        port: PortId,
        address: IpAddr,
    ) -> Result<bool, HostError> {
        links.get(port.index()).ok_or(HostError::NoPort(port))?;
        let Some(local) = self.0.get_mut(&address) else { return Ok(false) };
        local.users -= 1;
        if local.users > 0 {
            return Ok(false);
        }
        let ours = local.ours;
        self.0.remove(&address);
        let Some(link) = ours.and_then(|port| links.get(port.index())) else { return Ok(false) };
        let prefix = Prefix::host(address);
        match kernel::delete_address(requests, link.index, prefix) {
            Ok(()) => Ok(true),
            // Somebody was quicker.
            Err(e) if e.raw_os_error() == Some(Errno::EADDRNOTAVAIL as i32) => Ok(false),
            Err(source) => Err(HostError::Address { name: link.name.clone(), address: prefix, source }),
        }
    }
}

/// Gives a fresh twin the port's properties and addresses.
pub(super) fn set_up(requests: &mut Requests, port: &HostPort, link: &TwinLink) -> Result<(), HostError> {
    let failed = |action| {
        let name = port.name.clone();
        move |source| HostError::Twin { name, action, source }
    };
    kernel::set_mac(requests, link.index, port.mac).map_err(failed("its hardware address"))?;
    kernel::set_mtu(requests, link.index, port.mtu).map_err(failed("its MTU"))?;
    kernel::set_carrier(requests, link.index, port.carrier).map_err(failed("its carrier"))?;
    let ipv6 = ipv6_disabled(&link.name) == Some(false);
    if ipv6 {
        make_no_link_local(&link.name).map_err(failed("its IPv6 mode"))?;
    }
    kernel::set_up(requests, link.index).map_err(failed("up"))?;
    put_all(requests, port, link)
}

/// Puts the port's addresses and routes on its twin, where they aren't there: a twin that is set down loses its routes and
/// its addresses of IPv6.
pub(super) fn put_all(requests: &mut Requests, port: &HostPort, link: &TwinLink) -> Result<(), HostError> {
    if ipv6_disabled(&link.name) == Some(false) {
        put_as_it_is(requests, link, link_local(port.mac))?;
    }
    port.addresses.iter().try_for_each(|address| put(requests, link, *address))?;
    for route in &port.routes {
        put_route(requests, link, route);
    }
    Ok(())
}

/// Puts a route of the configuration on the twin. The path has it in any case: the gateway works without it, and logs
/// that.
fn put_route(requests: &mut Requests, link: &TwinLink, route: &StaticRoute) {
    let put = let_ipv6(requests, link, route.to);
    let put = put.and_then(|()| match kernel::add_route(requests, link.index, route) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => {
            other.map_err(|source| HostError::Twin { name: link.name.clone(), action: "a route", source })
        }
    });
    if let Err(error) = put {
        tracing::warn!(to = %route.to, %error, "the kernel rejects a [[route]]");
    }
}

/// Puts an address on the twin.
fn put(requests: &mut Requests, link: &TwinLink, address: Prefix) -> Result<(), HostError> {
    let_ipv6(requests, link, address)?;
    put_as_it_is(requests, link, address)
}

/// Switches IPv6 on there, if that is off and this needs it.
fn let_ipv6(requests: &mut Requests, link: &TwinLink, address: Prefix) -> Result<(), HostError> {
    if address.address().is_ipv6() && ipv6_disabled(&link.name) == Some(true) {
        make_no_link_local(&link.name)
            .and_then(|()| set_ipv6_disabled(&link.name, false))
            .map_err(|source| HostError::Address { name: link.name.clone(), address, source })?;
        put_as_it_is(requests, link, link_local(link.mac))?;
    }
    Ok(())
}

/// The address that neighbour discovery asks from, as the kernel would make it (RFC 4291, appendix A). The kernel's own
/// would not be used for the second or two in which it looks for duplicates, and the first packets would find no
/// neighbour.
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Prefix {
    let address = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let host = Prefix::host(address.into());
    Prefix::new(host.address(), 64).unwrap_or(host)
}

fn put_as_it_is(requests: &mut Requests, link: &TwinLink, address: Prefix) -> Result<(), HostError> {
    let failed = |source| HostError::Address { name: link.name.clone(), address, source };
    match kernel::add_address(requests, link.index, address) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_are_made_of_the_port_s_own() {
        let made = link_local(Mac([0x9e, 0x39, 0x0d, 0x60, 0x25, 0xc4]));
        assert_eq!(made.to_string(), "fe80::9c39:dff:fe60:25c4/64");
    }
}
