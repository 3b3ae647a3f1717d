//! The decision about a packet ([`Next`]), and what a session learns from carrying it out.

use std::net::IpAddr;

use super::{
    flow::{service::Chosen, stream::Stream, toa_state},
    verdict::Reason,
};
use crate::{
    id::WorkerId,
    net::{icmp::Inner, reply::Problem},
    table::{endpoints::Endpoints, session::SessionId, sessions::Found},
};

/// The decision about a packet, made without touching a device or a ring and without keeping a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// It goes on in its session, of which nothing has to be asked any more, towards this next hop.
    Plain(Found, u16),
    /// It goes on in its session.
    Forward(Found, Exit, As),
    /// It goes to a server that was chosen for it alone; `true`: as a fragment behind the first.
    Once(Chosen, Exit, bool),
    /// A router's word about a tunnel's packet goes on to the client whose packet was inside.
    TellClient(TunnelError),
    /// It isn't forwarded, and its sender gets a reply.
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
    /// The reply to the client.
    pub problem: Problem,
    /// The next hop towards the client.
    pub hop: u16,
}

/// The reply to the sender of a packet that isn't forwarded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    /// Why it isn't forwarded.
    pub reason: Reason,
    /// What its sender gets.
    pub answer: ReplyKind,
}

/// An answer of the gateway's own.
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
    /// How far its PROXY stream is.
    Stream(SessionId, Stream),
    /// What its server knows by TOA.
    Told(SessionId, toa_state::ToaServer),
}

/// Where a packet's fragments go after its first, if their ports don't say it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RestGoes {
    /// To a server that was chosen for the packet alone.
    Once(Chosen),
    /// By the session whose replies have these ends; its requests aren't found.
    BySession(Endpoints),
    /// Nowhere.
    Nowhere(Reason),
}
