//! The kernel's interfaces that devices take their frames from, such as AF_PACKET's. DPDK's drivers for them say that
//! the link is up at all times.

use std::io;

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
};
use nix::errno::Errno;

use super::socket::Requests;

/// An interface as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number, which a later interface of the same name doesn't have.
    pub index: u32,
    /// Whether it is up and has a carrier.
    pub running: bool,
}

/// Looks at interfaces of the network namespace that it was made in.
pub struct Interfaces(Requests);

impl Interfaces {
    /// For the calling thread's namespace.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn new() -> io::Result<Self> {
        Requests::open().map(Self)
    }

    /// The interface called `name`; none if there is none.
    ///
    /// # Errors
    /// The kernel doesn't tell.
    pub fn look(&mut self, name: &str) -> io::Result<Option<Interface>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.0.get(RouteNetlinkMessage::GetLink(message)) {
            Ok(Some(RouteNetlinkMessage::NewLink(link))) => Ok(Some(Interface {
                index: link.header.index,
                running: link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
            })),
            Ok(_) => Ok(None),
            Err(e) if e.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there_and_others_are_not() {
        let mut interfaces = Interfaces::new().unwrap();
        assert_eq!(interfaces.look("lo").unwrap().map(|i| i.index), Some(1));
        assert_eq!(interfaces.look("weir-nothere").unwrap(), None);
    }
}
