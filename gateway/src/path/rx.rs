//! Stage 1: where frames come in.

use arrayvec::ArrayVec;

use super::{Worker, packet::Origin, stages::Stage};
use crate::io::{Burst, Io, PortId};

impl<I: Io> Worker<I> {
    /// A burst from the worker's queue of a port.
    #[inline]
    pub(super) fn take_from_port(&mut self, port: PortId) -> usize {
        let mut burst = Burst::new();
        self.io.rx(port, &mut burst);
        self.stages.end(Stage::Rx);
        let n = burst.len();
        if n != 0 {
            self.counters.events.received.add(n as u64);
            self.forward(port, &mut burst, Origin::Port);
        }
        n
    }

    /// What other workers handed over: at most one burst a ring.
    pub(super) fn take_from_workers(&mut self) -> usize {
        let mut taken = 0;
        for n in 0..self.peers.incoming.len() {
            let mut frames: ArrayVec<(PortId, I::Frame), { crate::io::BURST }> = ArrayVec::new();
            if let Some(ring) = self.peers.incoming.get_mut(n) {
                while !frames.is_full() {
                    let Ok(frame) = ring.pop() else { break };
                    frames.push(frame);
                }
            }
            taken += frames.len();
            self.forward_handed(frames);
        }
        taken
    }

    /// Frames of one ring may have come in on several ports: runs of one port go together.
    fn forward_handed(&mut self, frames: ArrayVec<(PortId, I::Frame), { crate::io::BURST }>) {
        let mut burst = Burst::new();
        let mut of = PortId(0);
        for (port, frame) in frames {
            if port != of && !burst.is_empty() {
                self.forward(of, &mut burst, Origin::Worker);
            }
            of = port;
            burst.push(frame);
        }
        if !burst.is_empty() {
            self.forward(of, &mut burst, Origin::Worker);
        }
    }
}
