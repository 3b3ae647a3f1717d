//! Keeps the kernel from answering the port's frames in parallel with the gateway.
//!
//! AF_PACKET and AF_XDP devices copy or take frames from an interface of the kernel, which sees them too:
//! with the twins in the same namespace it owns the addresses and would answer a SYN to a virtual service
//! with RST; in a namespace of its own it would route them if it is a router. A chain at nftables' netdev ingress hook whose policy is `drop` stops that; packet sockets get
//! their copy before it.
//!
//! ```text
//! table netdev weir_PID_N { flags owner; chain INTERFACE {
//!     type filter hook ingress device INTERFACE priority 0; policy drop; } }
//! ```
//!
//! The table has an owner, the netlink socket that made it (Linux 5.12): the kernel removes it with the
//! socket, however the process ends. Message formats: `linux/netfilter/nf_tables.h`, `nfnetlink.h`.

use std::{
    io, process,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NLMSG_ERROR};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::{
    error::HostError,
    namespace::{ipv6_disabled, set_ipv6_disabled},
    socket::{messages, receive},
};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFNL_SUBSYS_NFTABLES`, in the high byte of a message's type.
const NFTABLES: u16 = 10;
const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
/// `NFPROTO_NETDEV`.
const NETDEV: u8 = 5;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `NFT_TABLE_F_OWNER`.
const OWNED: u32 = 2;

static TABLES: AtomicU32 = AtomicU32::new(0);

/// Interfaces whose frames the kernel drops, until this goes.
pub(super) struct IngressDrop {
    _owner: Socket,
}

impl IngressDrop {
    /// Has the kernel drop what `interfaces` of the calling thread's namespace receive.
    pub fn install(interfaces: &[&str]) -> Result<Self, HostError> {
        let first = interfaces.first().copied().unwrap_or_default();
        let failed = |source| HostError::Ingress { interface: first.to_owned(), source };
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
        let table = format!("weir_{}_{}", process::id(), TABLES.fetch_add(1, Relaxed));
        let batch = batch(&table, interfaces);
        socket.send(&batch, 0).map_err(failed)?;
        // One acknowledgement for the table and one for each chain; a failure undoes the whole batch.
        for n in 0..=interfaces.len() {
            let interface = interfaces.get(n.saturating_sub(1)).copied().unwrap_or(first);
            acknowledged(&socket)
                .map_err(|source| HostError::Ingress { interface: interface.to_owned(), source })?;
        }
        Ok(Self { _owner: socket })
    }
}

/// Waits for the next acknowledgement.
fn acknowledged(socket: &Socket) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(8192);
    loop {
        receive(socket, &mut buffer)?;
        for message in messages(&buffer) {
            if message[4..6] == NLMSG_ERROR.to_ne_bytes()
                && let Some(code) = message.get(16..20).and_then(|c| c.first_chunk())
            {
                let code = i32::from_ne_bytes(*code);
                return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
        }
    }
}

/// The transaction: a table and a chain for each interface.
fn batch(table: &str, interfaces: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let limit = |kind| (kind, NLM_F_REQUEST, 0, NFTABLES, Vec::new());
    let create = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    message(&mut bytes, 0, limit(BATCH_BEGIN));
    let attributes = [string(1, table), attribute(2, &OWNED.to_be_bytes())].concat();
    message(&mut bytes, 1, (NEW_TABLE, create, NETDEV, 0, attributes));
    for (n, interface) in (2..).zip(interfaces) {
        message(&mut bytes, n, (NEW_CHAIN, create, NETDEV, 0, chain(table, interface)));
    }
    let last = u32::try_from(interfaces.len()).unwrap_or(u32::MAX - 2) + 2;
    message(&mut bytes, last, limit(BATCH_END));
    bytes
}

/// Attributes of a chain: hook ingress (0), priority 0, policy drop (0).
fn chain(table: &str, interface: &str) -> Vec<u8> {
    let zero = 0u32.to_be_bytes();
    let hook = [attribute(1, &zero), attribute(2, &zero), string(3, interface)].concat();
    let parts = [
        string(1, table),
        string(3, interface),
        attribute(4 | NESTED, &hook),
        attribute(5, &zero),
        string(7, "filter"),
    ];
    parts.concat()
}

/// Appends a message: `nlmsghdr`, `nfgenmsg`, attributes.
fn message(
    bytes: &mut Vec<u8>,
    sequence: u32,
    (kind, flags, family, resource, attributes): (u16, u16, u8, u16, Vec<u8>),
) {
    let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
}

/// One attribute, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn string(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// An interface under a port whose IPv6 is switched off as long as this lives.
///
/// The interface and the twin have the same hardware address, so both would take the same link-local
/// address and each would find the other's to be a duplicate.
pub(super) struct QuietIpv6 {
    interface: String,
}

impl QuietIpv6 {
    /// Switches IPv6 off on `interface`, unless it is off already or carries addresses that an
    /// administrator gave it. What can't be switched is only warned of: IPv4 works all the same.
    pub fn new(interface: &str) -> Option<Self> {
        if ipv6_disabled(interface)? {
            return None;
        }
        if has_global_ipv6(interface) {
            tracing::warn!(interface, "has IPv6 addresses of its own: they belong on the port's twin");
            return None;
        }
        match set_ipv6_disabled(interface, true) {
            Ok(()) => Some(Self { interface: interface.to_owned() }),
            Err(error) => {
                tracing::warn!(interface, %error, "can't switch off IPv6 on the interface");
                None
            }
        }
    }
}

impl Drop for QuietIpv6 {
    fn drop(&mut self) {
        if let Err(error) = set_ipv6_disabled(&self.interface, false) {
            tracing::debug!(interface = self.interface, %error, "can't switch IPv6 on again");
        }
    }
}

/// Whether `/proc/net/if_inet6` lists an address of global scope (00) for `interface`.
fn has_global_ipv6(interface: &str) -> bool {
    let table = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    table.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(5) == Some(&interface) && fields.get(3) == Some(&"00")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_batch_is_well_formed() {
        let batch = batch("weir_1", &["veth0", "veth1"]);
        let kinds: Vec<_> = messages(&batch).map(|m| u16::from_ne_bytes([m[4], m[5]])).collect();
        assert_eq!(kinds, [BATCH_BEGIN, NEW_TABLE, NEW_CHAIN, NEW_CHAIN, BATCH_END]);
        assert_eq!(messages(&batch).map(<[u8]>::len).sum::<usize>(), batch.len());
        assert!(batch.windows(7).any(|w| w == b"filter\0"));
    }

    #[test]
    fn attributes_are_padded() {
        assert_eq!(attribute(1, &[7]), [5, 0, 1, 0, 7, 0, 0, 0]);
        assert_eq!(string(3, "abc").len(), 8);
    }
}
