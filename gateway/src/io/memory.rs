//! Frames in ordinary memory: for tests, fuzzing and replays.

use std::collections::VecDeque;

use super::{Burst, Frame, Io, PortId};

/// The room before the data of a fresh frame, like DPDK's headroom.
const HEADROOM: usize = 128;
/// The room for data in the first segment.
const DATAROOM: usize = 2048;

/// A frame as a list of segments.
#[derive(Clone, Debug)]
pub struct MemoryFrame {
    first: Vec<u8>,
    start: usize,
    rest: Vec<Vec<u8>>,
}

impl MemoryFrame {
    /// A frame of one segment holding `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self::chained(&[bytes])
    }

    /// A frame of several segments.
    #[must_use]
    pub fn chained(segments: &[&[u8]]) -> Self {
        let (head, rest) = segments.split_first().map_or((&[][..], &[][..]), |(h, r)| (*h, r));
        let mut first = vec![0; HEADROOM];
        first.extend_from_slice(head);
        Self { first, start: HEADROOM, rest: rest.iter().map(|s| s.to_vec()).collect() }
    }

    /// All bytes, joined.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.first[self.start..].to_vec();
        self.rest.iter().for_each(|s| out.extend_from_slice(s));
        out
    }
}

impl Frame for MemoryFrame {
    fn data(&self) -> &[u8] {
        &self.first[self.start..]
    }
    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.first[self.start..]
    }
    fn total_len(&self) -> usize {
        self.data().len() + self.rest.iter().map(Vec::len).sum::<usize>()
    }
    fn segment(&self, n: usize) -> Option<&[u8]> {
        if n == 0 { Some(self.data()) } else { self.rest.get(n - 1).map(Vec::as_slice) }
    }
    fn truncate(&mut self, len: usize) {
        let head = self.data().len();
        if len <= head {
            self.first.truncate(self.start + len);
            self.rest.clear();
            return;
        }
        let mut left = len - head;
        for s in &mut self.rest {
            s.truncate(left);
            left -= s.len();
        }
        self.rest.retain(|s| !s.is_empty());
    }
    fn reset(&mut self, len: usize) -> bool {
        if len > DATAROOM {
            return false;
        }
        self.rest.clear();
        self.start = HEADROOM;
        self.first.resize(HEADROOM + len, 0);
        true
    }
    fn prepend(&mut self, n: usize) -> bool {
        if n > self.start {
            return false;
        }
        self.start -= n;
        true
    }
    fn trim_front(&mut self, n: usize) -> bool {
        if n > self.data().len() {
            return false;
        }
        self.start += n;
        true
    }
    fn prefetch(&self) {}
}

/// Ports with two queues each: frames to receive, and frames transmitted.
#[derive(Debug, Default)]
pub struct MemoryIo {
    received: Vec<VecDeque<MemoryFrame>>,
    transmitted: Vec<Vec<MemoryFrame>>,
    /// The most frames that a transmit call accepts; lower it to test full queues.
    pub tx_room: usize,
}

impl MemoryIo {
    /// `ports` idle ports.
    #[must_use]
    pub fn new(ports: usize) -> Self {
        Self {
            received: (0..ports).map(|_| VecDeque::new()).collect(),
            transmitted: (0..ports).map(|_| Vec::new()).collect(),
            tx_room: usize::MAX,
        }
    }

    /// Queues a frame to be received on `port`.
    pub fn push(&mut self, port: PortId, frame: MemoryFrame) {
        self.received[port.index()].push_back(frame);
    }

    /// Takes the frames that were transmitted on `port`.
    pub fn take(&mut self, port: PortId) -> Vec<MemoryFrame> {
        std::mem::take(&mut self.transmitted[port.index()])
    }

    /// Whether nothing is left to receive.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.received.iter().all(VecDeque::is_empty)
    }
}

impl Io for MemoryIo {
    type Frame = MemoryFrame;

    fn ports(&self) -> usize {
        self.received.len()
    }
    fn rx(&mut self, port: PortId, burst: &mut Burst<MemoryFrame>) {
        let queue = &mut self.received[port.index()];
        while !burst.is_full() {
            let Some(frame) = queue.pop_front() else { break };
            burst.push(frame);
        }
    }
    fn tx(&mut self, port: PortId, burst: &mut Burst<MemoryFrame>) {
        let n = burst.len().min(self.tx_room);
        self.transmitted[port.index()].extend(burst.drain(..n));
    }
    fn alloc(&mut self) -> Option<MemoryFrame> {
        Some(MemoryFrame::new(&[]))
    }
}
