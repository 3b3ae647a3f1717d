//! Passes packets to the kernel through the port's TAP twin (punting), and sends the kernel's packets out.
//!
//! There is a bounded ring in each direction. Each kind of frame to the kernel ([`PuntKind`]) has its own rate limit
//! and leaves room in the ring for more important kinds. A scan of the gateway's own addresses therefore costs the path
//! no more than a counter, and doesn't displace ARP or a routing protocol.

use super::{
    Egress,
    punt_kind::{KINDS, PuntKind},
};
use crate::{
    clock::Tick,
    io::{Frame, Io, PortId},
    path::{
        bucket::TokenBucket,
        flow::{Flows, destination},
        verdict::{Reason, Verdict},
    },
};

/// The most frames from the kernel taken in one poll.
pub(crate) const HOST_BURST: usize = 32;

/// A worker's ends of the rings to and from the twins.
pub struct HostEnd<F> {
    /// The ring to the kernel.
    pub punted: rtrb::Producer<(PortId, F)>,
    /// The ring from the kernel.
    pub injected: rtrb::Consumer<(PortId, F)>,
    /// The rate limits of frames to the kernel, by kind.
    limits: [TokenBucket; KINDS],
}

impl<F: Frame> HostEnd<F> {
    /// Ring ends with the usual limits.
    #[must_use]
    pub fn new(punted: rtrb::Producer<(PortId, F)>, injected: rtrb::Consumer<(PortId, F)>) -> Self {
        let limits = PuntKind::ALL.map(|kind| {
            let (rate, burst) = kind.limit();
            TokenBucket::new(rate, burst)
        });
        Self { punted, injected, limits }
    }

    /// Puts a frame into the ring to the kernel if its kind may have another one there; otherwise drops it.
    pub(crate) fn push(&mut self, port: PortId, frame: F, kind: PuntKind, now: Tick) -> bool {
        let reserved = self.punted.buffer().capacity() * kind.reserved_eighths() / 8;
        let limit = self.limits.get_mut(kind as usize);
        self.punted.slots() > reserved
            && limit.is_some_and(|limit| limit.take(now))
            && self.punted.push((port, frame)).is_ok()
    }
}

impl<I: Io> Egress<I> {
    /// Gives a frame to the kernel; a frame that came from the kernel leaves as it was sent.
    pub(crate) fn punt(&mut self, flows: &Flows, port: PortId, frame: I::Frame) {
        if port.is_twin() {
            return self.leave_as_sent(port, frame);
        }
        if destination::of_frame(frame.data()).is_some_and(destination::is_martian) {
            return self.drop(frame, Reason::MartianDestination);
        }
        let kind = PuntKind::of(frame.data());
        self.punt_as(flows, kind, port, frame);
    }

    /// Gives a frame to the kernel, counted as this kind.
    pub(crate) fn punt_as(&mut self, flows: &Flows, kind: PuntKind, port: PortId, frame: I::Frame) {
        let Some(host) = &mut self.host else { return self.drop(frame, Reason::NoHost) };
        let events = &self.counters.events;
        let (verdict, of_kind) = if host.push(port, frame, kind, flows.now) {
            (Verdict::Punted, &events.punted)
        } else {
            (Verdict::Drop(Reason::PuntLimited), &events.punt_limited)
        };
        if let Some(counter) = of_kind.get(kind as usize) {
            counter.add(1);
        }
        self.counters.count(verdict);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::memory::MemoryFrame;

    fn end(room: usize) -> (HostEnd<MemoryFrame>, rtrb::Consumer<(PortId, MemoryFrame)>) {
        let (punted, kernel) = rtrb::RingBuffer::new(room);
        let (_, injected) = rtrb::RingBuffer::new(1);
        (HostEnd::new(punted, injected), kernel)
    }

    fn pushed(end: &mut HostEnd<MemoryFrame>, kind: PuntKind, tries: u32, now: Tick) -> usize {
        (0..tries).filter(|_| end.push(PortId(0), MemoryFrame::new(&[]), kind, now)).count()
    }

    #[test]
    fn each_kind_has_its_own_rate_and_burst() {
        let (mut end, _kernel) = end(100_000);
        for kind in PuntKind::ALL {
            let (rate, burst) = kind.limit();
            assert_eq!(pushed(&mut end, kind, burst + 1, Tick(0)), burst as usize, "{kind:?} at once");
            assert_eq!(pushed(&mut end, kind, burst, Tick(1)), rate as usize / 100, "{kind:?} in a tick");
        }
    }

    #[test]
    fn room_in_the_ring_is_kept_for_what_matters_more() {
        let (mut end, mut kernel) = end(64);
        let mut fill = |kind, now| pushed(&mut end, kind, 100, Tick(now));
        assert_eq!(fill(PuntKind::Other, 1), 32, "half the ring");
        assert_eq!(fill(PuntKind::Echo, 1), 8);
        assert_eq!(fill(PuntKind::Bgp, 1), 8);
        assert_eq!(fill(PuntKind::Ospf, 1), 8);
        assert_eq!((fill(PuntKind::Bfd, 1), fill(PuntKind::Vrrp, 1)), (0, 0));
        assert_eq!((fill(PuntKind::Nd, 1), fill(PuntKind::Arp, 1)), (8, 0));
        kernel.pop().unwrap();
        assert_eq!((fill(PuntKind::Ospf, 2), fill(PuntKind::Arp, 2)), (0, 1));
    }

    #[test]
    fn what_finds_no_room_takes_no_token() {
        let (mut end, mut kernel) = end(8);
        let (_, burst) = PuntKind::Other.limit();
        let mut given = 0;
        for _ in 0..burst {
            given += pushed(&mut end, PuntKind::Other, 10, Tick(0));
            while kernel.pop().is_ok() {}
        }
        assert_eq!(given, burst as usize);
    }
}
