//! Stage 8: transmits frames, gathered into bursts by port.

use crate::{
    io::{Burst, Io, PortId},
    path::verdict::{PathCounters, Reason, Verdict},
};

/// Frames that wait for the end of a burst, by port.
pub struct TxBuffers<F> {
    ports: Vec<Burst<F>>,
}

impl<F> TxBuffers<F> {
    /// Empty buffers.
    #[must_use]
    pub fn new(ports: usize) -> Self {
        Self { ports: (0..ports).map(|_| Burst::new()).collect() }
    }

    /// Like [`Self::push`], for a frame that wasn't received: it is only counted if it is lost.
    pub fn push_uncounted<I: Io<Frame = F>>(
        &mut self,
        io: &mut I,
        counters: &PathCounters,
        port: PortId,
        frame: F,
    ) {
        if let Err(reason) = self.queue(io, port, frame) {
            counters.count(Verdict::Drop(reason));
        }
    }

    /// Queues a frame for transmission by `port`. A full buffer is transmitted first. A frame that still finds no room
    /// is dropped and counted, as is one for a port that doesn't exist.
    #[inline(always)]
    pub fn push<I: Io<Frame = F>>(&mut self, io: &mut I, counters: &PathCounters, port: PortId, frame: F) {
        // `count` isn't used, because it would have to find out what to count.
        match self.queue(io, port, frame) {
            Ok(()) => counters.count_forwarded(),
            Err(reason) => lost(counters, reason),
        }
    }

    #[inline(always)]
    fn queue<I: Io<Frame = F>>(&mut self, io: &mut I, port: PortId, frame: F) -> Result<(), Reason> {
        let Some(buffer) = self.ports.get_mut(port.index()) else { return Err(Reason::NoRoute) };
        if buffer.is_full() {
            transmit(io, port, buffer);
        }
        buffer.try_push(frame).map_err(|_| Reason::TransmitFull)
    }

    /// The last frame queued on the first port that has any.
    pub(crate) fn newest(&self) -> Option<(PortId, &F)> {
        self.ports.iter().enumerate().find_map(|(n, buffer)| Some((PortId(n as u8), buffer.last()?)))
    }

    /// Transmits the queued frames. Frames that a device doesn't take stay queued.
    #[inline]
    pub fn flush<I: Io<Frame = F>>(&mut self, io: &mut I) {
        for (n, buffer) in self.ports.iter_mut().enumerate() {
            if !buffer.is_empty() {
                io.tx(PortId(n as u8), buffer);
            }
        }
    }
}

/// Drops a frame that couldn't be queued.
#[cold]
#[inline(never)]
fn lost(counters: &PathCounters, reason: Reason) {
    counters.count(Verdict::Drop(reason));
}

/// Out of line: traffic to a single port fills its buffer only with the burst's last packet.
#[cold]
#[inline(never)]
fn transmit<I: Io>(io: &mut I, port: PortId, buffer: &mut Burst<I::Frame>) {
    io.tx(port, buffer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::memory::{MemoryFrame, MemoryIo};

    #[test]
    fn what_a_device_does_not_take_waits_and_overflow_is_counted() {
        let mut io = MemoryIo::new(1);
        let mut tx = TxBuffers::new(1);
        let counters = PathCounters::new().unwrap();
        io.tx_room = 0;
        for n in 0..40 {
            tx.push(&mut io, &counters, PortId(0), MemoryFrame::new(&[n]));
        }
        tx.flush(&mut io);
        assert!(io.take(PortId(0)).is_empty());
        assert_eq!(counters.get(Verdict::Drop(Reason::TransmitFull)), 8);
        io.tx_room = usize::MAX;
        tx.flush(&mut io);
        let out = io.take(PortId(0));
        assert_eq!((out.len(), out[31].bytes()), (32, vec![31]));
        tx.push(&mut io, &counters, PortId(5), MemoryFrame::new(&[1]));
        assert_eq!(counters.get(Verdict::Drop(Reason::NoRoute)), 1);
    }
}
