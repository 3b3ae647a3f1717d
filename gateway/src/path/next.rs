//! The decision about a packet ([`Next`]), and what a session learns from carrying it out.

use std::net::IpAddr;

use super::{
    flow::{service::Chosen, stream::Stream, toa_state},
    verdict::Reason,
};
use crate::{
    id::{HopId, WorkerId},
    net::{icmp::Inner, reply::Problem},
    table::{endpoints::Endpoints, session::SessionId, sessions::Found},
};

/// The decision about a packet, made without touching a device or a ring and without keeping a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// It is forwarded in its session to this next hop; the session needs no further look.
    Plain(Found, HopId),
    /// It is forwarded in its session.
    Forward(Found, Exit, As),
    /// It goes to a server that was chosen for this packet alone; `true` if it is a later fragment.
    Once(Chosen, Exit, bool),
    /// A router's error about a tunnel's packet is passed on to the client that sent the inner packet.
    TellClient(TunnelError),
    /// It isn't forwarded, and its sender gets a reply.
    Reply(Reply),
    /// It goes to the kernel.
    Punt,
    /// The kernel sent it, and it leaves unchanged.
    AsSent,
    /// It belongs to another worker.
    HandOver(WorkerId),
    /// It is dropped.
    Drop(Reason),
}

/// How a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// To this next hop.
    Hop(HopId),
    /// To the kernel: the server is on the gateway itself.
    Local,
    /// Back in again: it goes from inside to an external address.
    Hairpin,
}

/// The form in which a packet is forwarded in its session.
#[derive(Clone, Copy, Debug)]
pub(crate) enum As {
    /// A whole packet, or its first fragment.
    Packet,
    /// A later fragment, with the identification under which it leaves if it needs a new one.
    Fragment(u16),
    /// An ICMP echo.
    Echo,
    /// An ICMP error about a packet of the session.
    Error(Inner),
}

/// An ICMP error about a packet in a tunnel, in the form that the client gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TunnelError {
    /// The client's packet.
    pub inner: Inner,
    /// Where it begins in the quote.
    pub at: usize,
    /// The reply to the client.
    pub problem: Problem,
    /// The next hop towards the client.
    pub hop: HopId,
}

/// The reply to the sender of a packet that isn't forwarded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    /// Why it isn't forwarded.
    pub reason: Reason,
    /// The answer that the sender gets.
    pub answer: ReplyKind,
}

/// An answer by the gateway itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReplyKind {
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
    /// The new state of its PROXY stream.
    Stream(SessionId, Stream),
    /// What its server has learned by TOA.
    Told(SessionId, toa_state::ToaServer),
}

/// Where later fragments of a packet go, if their ports don't determine it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RestGoes {
    /// To a server that was chosen for this packet alone.
    Once(Chosen),
    /// In the session whose replies have these endpoints; its requests can't be looked up.
    BySession(Endpoints),
    /// They are dropped.
    Nowhere(Reason),
}
