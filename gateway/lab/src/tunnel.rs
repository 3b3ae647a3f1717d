//! The servers' end of tunnels, where the kernel has none: takes the outer headers off.
//!
//! ```text
//! switch ── [this] ── server     outer IP, GRE or UDP and GUE ──> the packet inside; all else unchanged
//! ```

use std::sync::{
    Arc,
    atomic::{AtomicU16, AtomicU64, Ordering::Relaxed},
};

use crate::{
    Namespace,
    narrow::too_big,
    trunk::{Relay, tap},
};

/// UDP port of GUE, assigned by IANA.
pub const GUE_PORT: u16 = 6080;
const ETHERNET: usize = 14;

/// A running tunnel end.
#[derive(Debug)]
pub struct TunnelEnd {
    unwrapped: Arc<AtomicU64>,
    mtu: Arc<AtomicU16>,
    _relay: Relay,
}

impl TunnelEnd {
    /// Joins the link `outer` in one namespace with `inner` in another, and creates both.
    ///
    /// # Panics
    /// If a link can't be created.
    #[must_use]
    pub fn start(outer: (&Namespace, &str), inner: (&Namespace, &str)) -> Self {
        let links = vec![tap(outer.0, outer.1), tap(inner.0, inner.1)];
        let unwrapped = Arc::new(AtomicU64::new(0));
        let mtu = Arc::new(AtomicU16::new(u16::MAX));
        let (counted, limit) = (Arc::clone(&unwrapped), Arc::clone(&mtu));
        let relay = Relay::start(links, move |links| {
            let mut buffer = [0; 2048];
            while let Ok(len) = links[0].recv(&mut buffer) {
                if let Some(error) = too_big(&buffer[..len], limit.load(Relaxed)) {
                    let _ = links[0].send(&error);
                    continue;
                }
                let frame = match unwrap(&buffer[..len]) {
                    Some(packet) => {
                        counted.fetch_add(1, Relaxed);
                        packet
                    }
                    None => buffer[..len].to_vec(),
                };
                // A link that is down loses frames, as links do.
                let _ = links[1].send(&frame);
            }
            while let Ok(len) = links[1].recv(&mut buffer) {
                let _ = links[0].send(&buffer[..len]);
            }
        });
        Self { unwrapped, mtu, _relay: relay }
    }

    /// Limits the path to the server to packets of this many bytes from now on: a router sends ICMP errors about larger
    /// ones.
    pub fn narrow(&self, mtu: u16) {
        self.mtu.store(mtu, Relaxed);
    }

    /// Packets that came through the tunnel.
    #[must_use]
    pub fn unwrapped(&self) -> u64 {
        self.unwrapped.load(Relaxed)
    }
}

/// The frame with the packet inside the tunnel packet of `frame`; none if it isn't a tunnel packet.
fn unwrap(frame: &[u8]) -> Option<Vec<u8>> {
    let half = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let (protocol, at) = match half(12)? {
        0x0800 => (*frame.get(ETHERNET + 9)?, ETHERNET + usize::from(frame.get(ETHERNET)? & 15) * 4),
        0x86dd => (*frame.get(ETHERNET + 6)?, ETHERNET + 40),
        _ => return None,
    };
    let (ether_type, at) = match protocol {
        4 => (0x0800, at),
        41 => (0x86dd, at),
        47 => (half(at + 2)?, at + if half(at)? & 0x8000 == 0 { 4 } else { 8 }),
        17 if half(at + 2)? == GUE_PORT => {
            (if *frame.get(at + 9)? == 4 { 0x0800_u16 } else { 0x86dd }, at + 12)
        }
        _ => return None,
    };
    Some([&frame[..12], &ether_type.to_be_bytes(), frame.get(at..)?].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_tunnel_is_opened() {
        let inner = [0x45, 1, 2, 3];
        let outer = |protocol: u8| {
            let mut head = vec![9; 12];
            head.extend([8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
            head.extend([0; 8]);
            head
        };
        let wanted = [&[9; 12][..], &[8, 0], &inner].concat();
        for (protocol, between) in [
            (4, vec![]),
            (47, vec![0, 0, 8, 0]),
            (47, vec![0x80, 0, 8, 0, 1, 2, 3, 4]),
            (17, vec![0x80, 0, 0x17, 0xc0, 0, 0, 0, 0, 0, 4, 0, 0]),
        ] {
            let frame = [&outer(protocol)[..], &between, &inner].concat();
            assert_eq!(unwrap(&frame).as_deref(), Some(&wanted[..]), "{protocol} {between:?}");
        }
        assert_eq!(unwrap(&[outer(17), vec![0; 40]].concat()), None, "another datagram");
        assert_eq!(unwrap(&outer(47)), None, "cut off");
    }
}
