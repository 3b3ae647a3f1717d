//! A host that the test itself plays, packet by packet: it may send what no kernel would send.

use std::{
    net::Ipv4Addr,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tappers::linux::Tap;

use crate::{Namespace, trunk::tap};

/// The stranger's link in the namespace that it is attached to, and both ends' MAC addresses.
const LINK: &str = "stranger0";
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const NEAR: [u8; 6] = [2, 0, 0, 0, 0, 0x78];
/// The length of an Ethernet header.
const ETHERNET: usize = 14;

/// A host behind another one; to everybody else it seems to be in the same network.
pub struct Stranger {
    tap: Tap,
}

impl Stranger {
    /// A host with `address` behind `host`, which answers ARP for it on its link `link`.
    ///
    /// # Panics
    /// If the link can't be created.
    #[must_use]
    pub fn behind(host: &Namespace, link: &str, address: Ipv4Addr) -> Self {
        let tap = tap(host, LINK);
        let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        host.ip(&format!("link set {LINK} address {}", mac(NEAR)));
        host.ip(&format!("route add {address}/32 dev {LINK}"));
        host.ip(&format!("neighbour add {address} lladdr {} dev {LINK}", mac(OWN)));
        host.forward();
        host.sysctl(&format!("net.ipv4.conf.{link}.proxy_arp"), 1);
        Self { tap }
    }

    /// Sends an IPv4 packet.
    ///
    /// # Panics
    /// If the link doesn't accept it.
    pub fn send(&self, packet: &[u8]) {
        let frame = [&NEAR[..], &OWN, &[8, 0], packet].concat();
        self.tap.send(&frame).unwrap_or_else(|e| panic!("the stranger can't send: {e}"));
    }

    /// The next IPv4 packet; none if none arrives within `limit`.
    #[must_use]
    pub fn receive(&self, limit: Duration) -> Option<Vec<u8>> {
        let until = Instant::now() + limit;
        let mut buffer = [0; 2048];
        loop {
            while let Ok(len) = self.tap.recv(&mut buffer) {
                if len > ETHERNET && buffer[12..ETHERNET] == [8, 0] {
                    return Some(buffer[ETHERNET..len].to_vec());
                }
            }
            let left = until.checked_duration_since(Instant::now())?;
            let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)], wait);
        }
    }
}
