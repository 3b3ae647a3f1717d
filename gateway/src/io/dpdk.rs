//! Frames of DPDK's ports.
//!
//! Worker w drives queue w of every port. If a device has fewer send queues than there are workers, a worker without
//! one passes its frames to a worker that has one, which sends them when it next polls that port:
//!
//! ```text
//! worker 0: tx -> queue 0 of the device <-+
//! worker 1: tx -> ring -------------------+ taken by worker 0's rx
//! ```
//!
//! If it has fewer receive queues, the other workers receive nothing from it. Frames then reach their owners by
//! hand-over, as they do from ports that spread them by another function.

use arrayvec::ArrayVec;
use dpdk::{
    Mbuf, Mempool, RxQueue, TxQueue,
    ring::{Receiver, SharedSender},
};

use super::{Burst, Frame, Hand, Io, PortId};

impl Frame for Mbuf {
    #[inline(always)]
    fn data(&self) -> &[u8] {
        Self::data(self)
    }
    #[inline(always)]
    fn data_mut(&mut self) -> &mut [u8] {
        Self::data_mut(self)
    }
    #[inline(always)]
    fn total_len(&self) -> usize {
        self.len()
    }
    #[inline(always)]
    fn segment(&self, n: usize) -> Option<&[u8]> {
        Self::segment(self, n)
    }
    #[inline(always)]
    fn truncate(&mut self, len: usize) {
        Self::truncate(self, len);
    }
    #[inline]
    fn reset(&mut self, len: usize) -> bool {
        Self::reset(self, len)
    }
    #[inline(always)]
    fn prepend(&mut self, n: usize) -> bool {
        Self::prepend(self, n)
    }
    #[inline(always)]
    fn trim_front(&mut self, n: usize) -> bool {
        self.adj(n)
    }
    #[inline(always)]
    fn prefetch(&self) {
        cpu::prefetch(Self::data(self));
    }
}

/// How a worker's frames leave by a port.
pub(super) enum TxPath {
    /// Through its own queue, which may also send the frames of workers without one.
    Queue(TxQueue, Option<Box<Relay>>),
    /// Through the queue of another worker.
    Ring(SharedSender),
}

/// Frames to be sent through another worker's queue.
pub(super) struct Relay {
    ring: Receiver,
    /// Frames that the device had no room for yet.
    waiting: Burst<Mbuf>,
}

impl Relay {
    pub(super) fn new(ring: Receiver) -> Self {
        Self { ring, waiting: ArrayVec::new() }
    }

    /// Sends frames that other workers have passed on, at most one burst.
    fn pump(&mut self, queue: &mut TxQueue) {
        self.ring.receive(&mut self.waiting);
        queue.tx(&mut self.waiting);
    }
}

/// One worker's share of a port.
pub(super) struct PortQueues {
    pub(super) rx: Option<RxQueue>,
    pub(super) way: TxPath,
    pub(super) pool: Mempool,
}

/// One worker's share of all ports.
pub struct DpdkIo {
    ports: Vec<PortQueues>,
}

impl DpdkIo {
    pub(super) fn new(ports: Vec<PortQueues>) -> Self {
        Self { ports }
    }
}

impl Io for DpdkIo {
    type Frame = Mbuf;

    #[inline(always)]
    fn ports(&self) -> usize {
        self.ports.len()
    }

    #[inline(always)]
    fn rx(&mut self, port: PortId, burst: &mut Burst<Mbuf>) {
        let share = &mut self.ports[port.index()];
        if let TxPath::Queue(queue, Some(relay)) = &mut share.way {
            relay.pump(queue);
        }
        if let Some(queue) = &mut share.rx {
            queue.rx(burst);
        }
    }

    #[inline(always)]
    fn tx(&mut self, port: PortId, burst: &mut Burst<Mbuf>) {
        match &mut self.ports[port.index()].way {
            TxPath::Queue(queue, _) => queue.tx(burst),
            TxPath::Ring(sender) => sender.send(burst),
        };
    }

    #[inline]
    fn alloc(&mut self) -> Option<Mbuf> {
        self.ports.iter().find_map(|share| share.pool.alloc())
    }

    fn exchange(&mut self, device: PortId, hand: &mut Hand) {
        let own = self.ports.get_mut(device.index());
        if let (Some(own), Some(other)) = (own, hand.downcast_mut::<PortQueues>()) {
            std::mem::swap(own, other);
        }
    }
}
