//! Beside the way: what is the kernel's goes to the port's twin, and what the kernel sends goes out.
//!
//! A bounded ring each way. The punt ring is rate-limited too, so that a scan of the gateway's own addresses
//! costs the path no more than a counter.

use super::{
    Worker,
    verdict::{Reason, Verdict},
};
use crate::{
    clock::{TICKS_PER_SECOND, Tick},
    io::{Io, PortId},
};

/// Frames a worker may punt in a second, and at once.
const PUNT_RATE: u32 = 50_000;
const PUNT_BURST: u32 = 4096;
/// Frames from the kernel that one poll takes.
const HOST_BURST: usize = 32;

/// A token bucket on the worker's clock.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    tokens: u32,
    rate: u32,
    burst: u32,
    filled: Tick,
}

impl Bucket {
    /// `rate` a second (at least one a tick), `burst` at once; full.
    #[must_use]
    pub const fn new(rate: u32, burst: u32) -> Self {
        Self { tokens: burst, rate, burst, filled: Tick(0) }
    }

    /// Takes a token; false if there's none.
    #[inline]
    pub fn take(&mut self, now: Tick) -> bool {
        let passed = now.since(self.filled);
        if passed != 0 {
            self.filled = now;
            let new = u64::from(passed) * u64::from(self.rate.div_ceil(TICKS_PER_SECOND));
            self.tokens = self.tokens.saturating_add(new.min(u64::from(self.burst)) as u32).min(self.burst);
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        true
    }
}

/// A worker's ends of the rings to and from the twins.
pub struct HostEnd<F> {
    /// To the kernel.
    pub punted: rtrb::Producer<(PortId, F)>,
    /// From the kernel.
    pub injected: rtrb::Consumer<(PortId, F)>,
    /// Limits the former.
    pub limit: Bucket,
}

impl<F> HostEnd<F> {
    /// With the usual limit.
    #[must_use]
    pub fn new(punted: rtrb::Producer<(PortId, F)>, injected: rtrb::Consumer<(PortId, F)>) -> Self {
        Self { punted, injected, limit: Bucket::new(PUNT_RATE, PUNT_BURST) }
    }
}

impl<I: Io> Worker<I> {
    /// Gives a frame to the kernel.
    pub(super) fn punt(&mut self, port: PortId, frame: I::Frame) {
        let verdict = match &mut self.host {
            None => Verdict::Drop(Reason::NoHost),
            Some(host) => {
                if host.limit.take(self.now) && host.punted.push((port, frame)).is_ok() {
                    Verdict::Punted
                } else {
                    Verdict::Drop(Reason::PuntLimited)
                }
            }
        };
        self.counters.count(verdict);
    }

    /// Sends what the kernel put out of the twins.
    pub(super) fn take_from_host(&mut self) -> usize {
        let Some(host) = &mut self.host else { return 0 };
        for n in 0..HOST_BURST {
            let Ok((port, frame)) = host.injected.pop() else { return n };
            self.counters.events.from_host.add(1);
            self.tx.push_uncounted(&mut self.io, &self.counters, port, frame);
        }
        HOST_BURST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(200, 5);
        assert_eq!((0..10).filter(|_| bucket.take(Tick(0))).count(), 5);
        assert_eq!((0..10).filter(|_| bucket.take(Tick(1))).count(), 2);
        assert_eq!((0..10).filter(|_| bucket.take(Tick(1_000_000))).count(), 5);
    }
}
