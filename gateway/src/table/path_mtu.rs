//! The path MTU to a tunnel's server, as routers report it by ICMP.
//!
//! The worker that gets the ICMP error writes it, all workers read it. It expires after ten minutes, as in Linux
//! (`mtu_expires`), since the path may have improved; until then it only decreases.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{
    clock::{Tick, Ticks},
    net::{ipv4, ipv6},
};

/// How long an MTU is remembered.
pub const LIFETIME: Ticks = Ticks::seconds(600);
/// Every IPv4 link takes packets of this size (RFC 791, 3.2): a smaller MTU can't be true.
const SMALLEST: u32 = 68;

/// An MTU, and when it was last reported.
#[derive(Debug, Default)]
pub struct PathMtu(AtomicU64);

impl PathMtu {
    /// The MTU, if one is known.
    #[must_use]
    pub fn get(&self, now: Tick) -> Option<u16> {
        let word = self.0.load(Relaxed);
        let (mtu, since) = ((word >> 32) as u16, Tick(word as u32));
        (mtu != 0 && now.since(since) < LIFETIME).then_some(mtu)
    }

    /// Remembers an MTU, unless a lower one is known.
    pub fn learn(&self, mtu: u16, now: Tick) {
        if self.get(now).is_none_or(|known| known >= mtu) {
            self.0.store(u64::from(mtu) << 32 | u64::from(now.0), Relaxed);
        }
    }
}

/// The MTU to remember if a router reports `told` about packets to `server`; none if that can't be true. A value below
/// what every host takes is raised to that, so that forged errors can't make packets arbitrarily small.
#[must_use]
pub fn plausible(told: u32, server: IpAddr) -> Option<u16> {
    let (smallest, least) = match server {
        IpAddr::V4(_) => (SMALLEST, ipv4::MIN_REASSEMBLY),
        IpAddr::V6(_) => (ipv6::MIN_MTU as u32, ipv6::MIN_MTU),
    };
    (told >= smallest).then_some(told.clamp(least as u32, u16::MAX.into()) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mtu_is_known_for_ten_minutes() {
        let path = PathMtu::default();
        assert_eq!(path.get(Tick(5)), None);
        path.learn(1400, Tick(5));
        assert_eq!(path.get(Tick(5)), Some(1400));
        assert_eq!(path.get(Tick(4).after(LIFETIME)), Some(1400));
        assert_eq!(path.get(Tick(5).after(LIFETIME)), None);
        assert_eq!(LIFETIME, Ticks::seconds(600));
    }

    #[test]
    fn it_only_becomes_lower_until_it_is_forgotten() {
        let path = PathMtu::default();
        path.learn(1400, Tick(0));
        path.learn(1401, Tick(10));
        assert_eq!((path.get(Tick(10)), path.get(Tick::at(LIFETIME))), (Some(1400), None), "not told again");
        path.learn(1400, Tick(20));
        assert_eq!(path.get(Tick::at(LIFETIME)), Some(1400), "told again");
        path.learn(1399, Tick(30));
        assert_eq!(path.get(Tick(30)), Some(1399));
        path.learn(1500, Tick(30).after(LIFETIME));
        assert_eq!(path.get(Tick(30).after(LIFETIME)), Some(1500));
    }

    #[test]
    fn what_no_link_has_is_not_believed_and_little_only_half() {
        let v4 = |told| plausible(told, [10, 0, 0, 1].into());
        assert_eq!(
            [0, 67, 68, 575, 576, 577].map(v4),
            [None, None, Some(576), Some(576), Some(576), Some(577)]
        );
        assert_eq!([65_535, 65_536, u32::MAX].map(v4), [Some(65_535); 3]);
        let v6 = |told| plausible(told, "2001:db8::1".parse().unwrap());
        assert_eq!([0, 1279, 1280, 1281].map(v6), [None, None, Some(1280), Some(1281)]);
    }
}
