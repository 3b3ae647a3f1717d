//! A packet as the stages pass it on: its frame, what it is, and where it came from.

use super::ingress::parse::Parsed;
use crate::{
    io::{Frame, PortId},
    table::endpoints::Endpoints,
};

/// Frames up to this length keep their link-layer padding.
const MIN_FRAME: usize = 64;

/// Cuts off what follows the packet in its frame.
#[inline]
pub(super) fn trim(frame: &mut impl Frame, p: &Parsed) {
    let len = frame.total_len();
    let packet_end = usize::from(p.l3) + usize::from(p.ip_len);
    if len > MIN_FRAME && packet_end < len {
        frame.truncate(packet_end);
    }
}

/// Where a frame came from: what another worker handed over isn't handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A port's receive queue.
    Port,
    /// Another worker: the packet is ours even if the hash says otherwise.
    Worker,
}

/// A packet on its way through the worker.
pub(crate) struct Packet<'a, F> {
    /// The frame that holds it.
    pub frame: F,
    /// The port it arrived by.
    pub port: PortId,
    /// Where it came from.
    pub origin: Origin,
    /// What parsing found.
    pub parsed: &'a Parsed,
    /// If it is the first of several fragments.
    pub first: Option<FirstFragment>,
}

impl<F: Frame> Packet<'_, F> {
    /// Its addresses and ports.
    pub fn endpoints(&self) -> Endpoints {
        self.parsed.endpoints(self.frame.data())
    }

    /// The port whose RSS may have brought it to its owner: a fragment's ports no device knows.
    pub fn queue(&self) -> PortId {
        if self.first.is_some() { PortId::NONE } else { self.port }
    }
}

/// Facts about a packet whose first fragment has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstFragment {
    /// The identification it leaves under where it needs a new one.
    pub id: u16,
    /// The packet's length without IP headers, where its checksum depends on it.
    pub whole: Option<u16>,
}
