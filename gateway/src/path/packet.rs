//! What every stage says of a packet: what it is, where it came from, and what is to be done with it.

use std::net::IpAddr;

use super::{parse::Parsed, service::Chosen, stream::Stream, told, verdict::Reason};
use crate::{
    id::WorkerId,
    io::{Frame, PortId},
    net::{icmp::Inner, reply::Problem},
    table::{ends::Ends, session::SessionId, sessions::Found},
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
    /// Another worker: it's ours, whatever the hash says.
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
    pub fn ends(&self) -> Ends {
        self.parsed.ends(self.frame.data())
    }

    /// The port whose RSS may have brought it to its owner: a fragment's ports no device knows.
    pub fn queue(&self) -> PortId {
        if self.first.is_some() { PortId::NONE } else { self.port }
    }
}

/// What is known of a packet whose first fragment is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstFragment {
    /// The identification it leaves under where it needs a new one.
    pub id: u16,
    /// The packet's length without IP headers, where its checksum depends on it.
    pub whole: Option<u16>,
}

/// What is to become of a packet: decided without touching a device or a ring, and without keeping a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// It goes on in its session.
    Forward(Found, Exit, As),
    /// It goes to a server that was chosen for it alone; `true`: as a fragment behind the first.
    Once(Chosen, Exit, bool),
    /// A router's word about a tunnel's packet goes on to the client whose packet was inside.
    TellClient(TunnelError),
    /// It isn't forwarded, and its sender is told why.
    Reply(Reply),
    /// It is the kernel's.
    Punt,
    /// The kernel sent it, and it leaves as it was sent.
    AsSent,
    /// It is another worker's.
    HandOver(WorkerId),
    /// It ends here.
    Drop(Reason),
}

/// How a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Towards this next hop.
    Hop(u16),
    /// To the kernel: the server is the gateway itself.
    Local,
    /// It comes in again, from inside to an external address.
    Hairpin,
}

/// As what a packet goes on in its session.
#[derive(Clone, Copy, Debug)]
pub(crate) enum As {
    /// A whole packet, or its first fragment.
    Packet,
    /// A fragment behind the first, with the identification it leaves under where it needs a new one.
    Fragment(u16),
    /// An ICMP echo.
    Echo,
    /// An ICMP error about a packet of the session.
    Error(Inner),
}

/// An ICMP error about a packet in a tunnel, as the client is to get it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TunnelError {
    /// The client's packet.
    pub inner: Inner,
    /// Where in the quote it begins.
    pub at: usize,
    /// What the client is told.
    pub problem: Problem,
    /// The next hop towards the client.
    pub hop: u16,
}

/// What the sender of a packet that isn't forwarded is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    /// Why it isn't forwarded.
    pub reason: Reason,
    /// What its sender gets.
    pub answer: Answer,
}

/// An answer of the gateway's own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// A TCP reset.
    Reset,
    /// An ICMP error from this address.
    Icmp(IpAddr, Problem),
}

/// What a session learns when a packet leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Edit {
    /// Nothing.
    Nothing,
    /// How far its PROXY stream is.
    Stream(SessionId, Stream),
    /// What its server knows by TOA.
    Told(SessionId, told::Server),
}
