//! The rings between workers and the host side, from the host's point of view.

use crate::{
    host::HostFrames,
    io::{Frame, PortId},
    path::egress::punt::HostEnd,
};

/// Frames a ring holds each way.
const RING: usize = 1024;
/// Punted frames of one worker that are delivered before the next one's turn.
const BATCH: usize = 256;

/// Makes a buffer of a port that holds these bytes.
pub type Allocate<F> = Box<dyn FnMut(PortId, &[u8]) -> Option<F> + Send>;

/// The host side's ends of all workers' rings.
pub struct FrameRings<F> {
    punted: Vec<rtrb::Consumer<(PortId, F)>>,
    injected: Vec<rtrb::Producer<(PortId, F)>>,
    allocate: Allocate<F>,
    joined: Vec<u8>,
}

/// Rings between the host side and `workers` workers: both ends.
#[must_use]
pub fn connect<F: Frame>(workers: usize, allocate: Allocate<F>) -> (FrameRings<F>, Vec<HostEnd<F>>) {
    let mut rings = FrameRings { punted: Vec::new(), injected: Vec::new(), allocate, joined: Vec::new() };
    let ends = (0..workers)
        .map(|_| {
            let (to_host, punted) = rtrb::RingBuffer::new(RING);
            let (injected, from_host) = rtrb::RingBuffer::new(RING);
            rings.punted.push(punted);
            rings.injected.push(injected);
            HostEnd::new(to_host, from_host)
        })
        .collect();
    (rings, ends)
}

impl<F: Frame> HostFrames for FrameRings<F> {
    fn drain(&mut self, deliver: &mut dyn FnMut(PortId, &[u8])) {
        for ring in &mut self.punted {
            for _ in 0..BATCH {
                let Ok((port, frame)) = ring.pop() else { break };
                if frame.total_len() == frame.data().len() {
                    deliver(port, frame.data());
                    continue;
                }
                self.joined.clear();
                for n in 0.. {
                    let Some(segment) = frame.segment(n) else { break };
                    self.joined.extend_from_slice(segment);
                }
                deliver(port, &self.joined);
            }
        }
    }

    /// All frames of a port go by one worker, so that they keep their order.
    fn inject(&mut self, port: PortId, frame: &[u8]) -> bool {
        let n = port.index() % self.injected.len().max(1);
        let Some(ring) = self.injected.get_mut(n).filter(|r| !r.is_full()) else { return false };
        let Some(frame) = (self.allocate)(port, frame) else { return false };
        ring.push((port, frame)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::memory::MemoryFrame;

    #[test]
    fn frames_pass_both_ways_and_a_full_ring_says_so() {
        let (mut rings, mut ends) = connect(2, Box::new(|_, bytes: &[u8]| Some(MemoryFrame::new(bytes))));
        let chained = MemoryFrame::chained(&[&[1, 2], &[3]]);
        ends[1].punted.push((PortId(7), chained)).unwrap();
        let mut got = Vec::new();
        rings.drain(&mut |port, bytes| got.push((port, bytes.to_vec())));
        assert_eq!(got, [(PortId(7), vec![1, 2, 3])]);

        for _ in 0..RING {
            assert!(rings.inject(PortId(1), &[9]));
        }
        assert!(!rings.inject(PortId(1), &[9]));
        assert_eq!(ends[1].injected.pop().unwrap().1.bytes(), [9]);
        assert!(ends[0].injected.pop().is_err());
    }
}
