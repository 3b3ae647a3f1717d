//! Hands a packet over to the worker that owns it.
//!
//! This is needed where a port's RSS doesn't steer packets to their owner: software devices, refused keys, fewer queues
//! than workers. The owner is computed only on a lookup miss, with the function that the NIC would apply. A frame is
//! handed over once. If the ring is full, the frame is dropped and counted: no worker waits for another.

use super::Egress;
use crate::{
    id::WorkerId,
    io::{Io, PortId},
    path::verdict::{Reason, Verdict},
};

/// The capacity, in frames, of a ring between two workers.
const RING: usize = 1024;

/// The rings to each worker; none to itself.
pub type Outgoing<F> = Vec<Option<rtrb::Producer<(PortId, F)>>>;

/// The rings between one worker and all others.
pub struct Peers<F> {
    /// The rings from each other worker.
    pub incoming: Vec<rtrb::Consumer<(PortId, F)>>,
    /// The rings to each worker; none to itself.
    pub outgoing: Outgoing<F>,
}

impl<F> Default for Peers<F> {
    fn default() -> Self {
        Self { incoming: Vec::new(), outgoing: Vec::new() }
    }
}

/// Creates the rings among `workers` workers, one set per worker.
#[must_use]
pub fn connect<F>(workers: usize) -> Vec<Peers<F>> {
    let mut peers: Vec<Peers<F>> = (0..workers).map(|_| Peers::default()).collect();
    for from in 0..workers {
        for to in 0..workers {
            if from == to {
                peers[from].outgoing.push(None);
            } else {
                let (producer, consumer) = rtrb::RingBuffer::new(RING);
                peers[from].outgoing.push(Some(producer));
                peers[to].incoming.push(consumer);
            }
        }
    }
    peers
}

impl<I: Io> Egress<I> {
    /// Gives a frame to the worker that owns it.
    pub(crate) fn hand_over(&mut self, port: PortId, frame: I::Frame, owner: WorkerId) {
        let pushed = match self.peers.get_mut(usize::from(owner.0)) {
            Some(Some(ring)) => ring.push((port, frame)).is_ok(),
            _ => false,
        };
        self.counters.count(if pushed { Verdict::HandedOver } else { Verdict::Drop(Reason::HandOverFull) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_workers_has_a_ring_each_way() {
        let mut peers = connect::<u32>(3);
        assert!(peers[0].outgoing[0].is_none());
        peers[0].outgoing[2].as_mut().unwrap().push((PortId(1), 7)).unwrap();
        let got: Vec<_> = peers[2].incoming.iter_mut().filter_map(|r| r.pop().ok()).collect();
        assert_eq!(got, [(PortId(1), 7)]);
        assert!(connect::<u32>(1)[0].incoming.is_empty());
    }
}
