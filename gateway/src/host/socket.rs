//! Netlink sockets, spoken to synchronously: requests with their acknowledgement, dumps, notifications.
//!
//! Message layout: RFC 3549 section 2.3.2. All numbers are in host order.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

/// Room for one datagram: the kernel fills at most 32 KB when it dumps.
const BUFFER: usize = 64 * 1024;
/// Room for notifications not read yet: a full routing table changing at once shouldn't overrun it.
const NOTIFICATIONS: usize = 8 * 1024 * 1024;
/// How often a dump that the tables changed under is tried.
const DUMP_TRIES: usize = 5;

/// Multicast groups of `NETLINK_ROUTE` (`RTNLGRP_*`): links, neighbours, IPv4 and IPv6 addresses and routes.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];

/// A netlink message with its header's flags.
pub(super) type Message = (u16, RouteNetlinkMessage);

/// A socket for requests, belonging to the network namespace it was opened in.
pub(super) struct Requests {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Requests {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER), sequence: 0 })
    }

    /// Sends `message` and waits for the kernel's verdict. `flags` are added to request and acknowledge.
    pub fn apply(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, flags | NLM_F_REQUEST | NLM_F_ACK)?;
        loop {
            receive(&self.socket, &mut self.buffer)?;
            for bytes in messages(&self.buffer) {
                let message = decode(bytes)?;
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                if let NetlinkPayload::Error(e) = message.payload {
                    return if e.code.is_some() { Err(e.to_io()) } else { Ok(()) };
                }
            }
        }
    }

    /// Asks for one entry, which the kernel may not have.
    pub fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST)?;
        loop {
            receive(&self.socket, &mut self.buffer)?;
            for bytes in messages(&self.buffer) {
                let message = decode(bytes)?;
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(m) => return Ok(Some(m)),
                    NetlinkPayload::Error(e) if e.code.is_some() => return Err(e.to_io()),
                    _ => return Ok(None),
                }
            }
        }
    }

    /// Asks for a table and gives its entries to `each`. Entries that can't be decoded are skipped. `reset`
    /// is called before each attempt: a table that changes while it is dumped is dumped again.
    pub fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        target: &mut T,
        reset: impl Fn(&mut T),
        mut each: impl FnMut(&mut T, RouteNetlinkMessage),
    ) -> io::Result<()> {
        for _ in 0..DUMP_TRIES {
            reset(target);
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            if self.dumped(|m| each(target, m))? {
                return Ok(());
            }
        }
        // The last attempt's entries are used: changes during the dump are notified, too.
        Ok(())
    }

    /// Reads a dump to its end; false if it was interrupted by changes.
    fn dumped(&mut self, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<bool> {
        let mut whole = true;
        loop {
            receive(&self.socket, &mut self.buffer)?;
            for bytes in messages(&self.buffer) {
                let Ok(message) = decode(bytes) else { continue };
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(m) => each(m),
                    NetlinkPayload::Done(_) => return Ok(whole),
                    NetlinkPayload::Error(e) if e.code.is_some() => return Err(e.to_io()),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }
}

/// A socket that is notified of every change of links, addresses, routes and neighbours.
pub(super) struct Notifications {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Notifications {
    /// Subscribes in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        // Without the privilege the limit of ordinary users has to do: an overrun is noticed and mended.
        if setsockopt(&socket, RcvBufForce, &NOTIFICATIONS).is_err() {
            socket.set_rx_buf_sz(i32::try_from(NOTIFICATIONS).unwrap_or(i32::MAX))?;
        }
        socket.bind_auto()?;
        GROUPS.iter().try_for_each(|g| socket.add_membership(*g))?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Takes one datagram and forgets it. `Ok(false)`: nothing was waiting.
    ///
    /// # Errors
    /// As of [`Self::read`].
    pub fn skip(&mut self) -> io::Result<bool> {
        match receive(&self.socket, &mut self.buffer) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Takes one datagram's messages. `Ok(false)`: nothing was waiting.
    ///
    /// # Errors
    /// `ENOBUFS`: notifications were lost, so everything must be read again.
    pub fn read(&mut self, mut each: impl FnMut(Message)) -> io::Result<bool> {
        if !self.skip()? {
            return Ok(false);
        }
        for bytes in messages(&self.buffer) {
            match decode(bytes).map(|m| (m.header.flags, m.payload)) {
                Ok((flags, NetlinkPayload::InnerMessage(message))) => each((flags, message)),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "netlink notification not understood"),
            }
        }
        Ok(true)
    }
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads one datagram into `buffer`, replacing what it holds.
pub(super) fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    loop {
        match socket.recv(&mut &mut *buffer, 0) {
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn decode(bytes: &[u8]) -> io::Result<NetlinkMessage<RouteNetlinkMessage>> {
    NetlinkMessage::deserialize(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
}

/// The messages in a datagram, each with its header; stops at the first length that can't be.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*datagram.first_chunk()?) as usize;
        let message = datagram.get(..length).filter(|m| m.len() >= 16)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_datagrams() {
        let message = |length: u32, size: usize| {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.resize(size, 0);
            bytes
        };
        let both = [message(17, 20), message(16, 16)].concat();
        assert_eq!(messages(&both).map(<[u8]>::len).collect::<Vec<_>>(), [17, 16]);
        for bad in [message(0, 16), message(15, 16), message(17, 16), message(u32::MAX, 16), vec![1, 2]] {
            assert_eq!(messages(&bad).count(), 0, "{bad:?}");
        }
    }

    #[test]
    fn dumps_links_without_privileges() {
        let mut requests = Requests::open().unwrap();
        let mut links = 0;
        let all = RouteNetlinkMessage::GetLink(Default::default());
        requests.dump(&all, &mut links, |n| *n = 0, |n, _| *n += 1).unwrap();
        assert!(links > 0);
    }
}
