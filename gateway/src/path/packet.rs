//! A packet as the stages pass it on: its frame, the result of parsing, and its origin.

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

/// The origin of a frame. A frame from another worker isn't handed over again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A port's receive queue.
    Port,
    /// Another worker: the packet belongs here even if the hash says otherwise.
    Worker,
}

/// A packet on its way through the worker.
pub(crate) struct Packet<'a, F> {
    /// The frame that holds it.
    pub frame: F,
    /// The port it arrived on.
    pub port: PortId,
    /// Where it came from.
    pub origin: Origin,
    /// The result of parsing.
    pub parsed: &'a Parsed,
    /// Set if it is the first of several fragments.
    pub first: Option<FirstFragment>,
}

impl<F: Frame> Packet<'_, F> {
    /// Its addresses and ports.
    pub fn endpoints(&self) -> Endpoints {
        self.parsed.endpoints(self.frame.data())
    }

    /// The port whose RSS may have steered it to its owner. None for a fragment, whose ports no device knows.
    pub fn queue(&self) -> PortId {
        if self.first.is_some() { PortId::NONE } else { self.port }
    }
}

/// Facts about a packet whose first fragment has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstFragment {
    /// The identification under which it leaves if it needs a new one.
    pub id: u16,
    /// The packet's length without IP headers, if its checksum depends on it.
    pub whole: Option<u16>,
}
