//! How packets leave. The decision has been made before: nothing here changes what the worker knows. If a session
//! learns something while its packet leaves, that is returned as an [`Edit`]. If a packet can't leave as it is, it is
//! returned with the reply to its sender.

use std::sync::Arc;

use arrayvec::ArrayVec;

use self::{hairpin::TURNED_BACK, handover::Outgoing, punt::HostEnd, tx::TxBuffers};
use super::{
    flow::Flows,
    ingress::station::Macs,
    next::{As, Edit, Next, Reply},
    packet::Packet,
    verdict::{PathCounters, Reason, Verdict},
};
use crate::{
    id::WorkerId,
    io::{Frame, Io, PortId},
    net::ethernet::Mac,
};

pub mod answer;
pub(crate) mod direct;
pub(crate) mod fragment;
pub(crate) mod hairpin;
pub mod handover;
pub(crate) mod leave;
pub(crate) mod local;
pub(crate) mod nat64;
pub(crate) mod nat64_error;
pub(crate) mod once;
pub(crate) mod proxy;
pub mod punt;
pub mod punt_kind;
pub(crate) mod quote;
pub(crate) mod readdress;
pub mod rewrite;
pub(crate) mod tell_client;
pub(crate) mod toa;
pub mod tunnel;
pub mod tx;
pub(crate) mod unproxy;

/// Frames whose next hop's MAC address isn't known that one packet leaves behind: more than may wait for a neighbour.
const UNRESOLVED: usize = 64;

/// A packet that can't leave as it is, and the reply to its sender.
pub(crate) struct Refused<F> {
    /// The frame, as it arrived.
    pub frame: F,
    /// The reply to its sender.
    pub reply: Reply,
}

/// What a packet that has left, or ended, leaves behind.
pub(crate) type Carried<F> = Result<Edit, Refused<F>>;

/// A frame whose next hop's MAC address isn't known.
pub(crate) struct Unresolved<F> {
    /// Finished but for its MAC addresses.
    pub frame: F,
    /// The next hop.
    pub hop: u16,
    /// Whether it is a received frame, whose end is counted.
    pub received: bool,
}

/// A worker's way out: devices, rings, and what it numbers packets with that it makes.
pub(crate) struct Egress<I: Io> {
    pub(crate) io: I,
    /// The gateway's MAC addresses.
    pub(crate) macs: Macs,
    pub(crate) tx: TxBuffers<I::Frame>,
    pub(crate) counters: Arc<PathCounters>,
    pub(crate) host: Option<HostEnd<I::Frame>>,
    /// To each other worker.
    pub(crate) peers: Outgoing<I::Frame>,
    pub(crate) answers: answer::RateLimits,
    /// Identification of the last outer packet.
    pub(crate) tunnel_id: u16,
    /// Identification of the last IPv6 packet that left in fragments of the gateway's making.
    pub(crate) fragment_ids: u32,
    /// Packets from inside to external addresses, on their way back in.
    pub(crate) turned_back: ArrayVec<(PortId, I::Frame), TURNED_BACK>,
    /// Frames that have to wait for their next hop.
    pub(crate) unresolved: ArrayVec<Unresolved<I::Frame>, UNRESOLVED>,
}

impl<I: Io> Egress<I> {
    /// The way out of worker `id`, over its queues of the ports with these MAC addresses.
    pub(crate) fn new(
        id: WorkerId,
        io: I,
        macs: Vec<Mac>,
        counters: Arc<PathCounters>,
        (host, peers): (Option<HostEnd<I::Frame>>, Outgoing<I::Frame>),
    ) -> Self {
        let tx = TxBuffers::new(io.ports());
        Self {
            io,
            macs: Macs::new(macs),
            tx,
            counters,
            host,
            peers,
            answers: answer::RateLimits::default(),
            tunnel_id: id.0 << 12,
            fragment_ids: (u32::from(id.0) + 1) << 24,
            turned_back: ArrayVec::new(),
            unresolved: ArrayVec::new(),
        }
    }

    /// Does with a packet what has been decided.
    #[inline(always)]
    pub(crate) fn carry_out(
        &mut self,
        flows: &Flows,
        packet: Packet<'_, I::Frame>,
        next: &Next,
    ) -> Carried<I::Frame> {
        match *next {
            Next::Plain(found, hop) => self.send_plain(flows, packet, found, hop),
            _ => self.carry_out_other(flows, packet, next),
        }
    }

    #[inline(never)]
    fn carry_out_other(
        &mut self,
        flows: &Flows,
        packet: Packet<'_, I::Frame>,
        next: &Next,
    ) -> Carried<I::Frame> {
        let Packet { port, .. } = packet;
        match *next {
            Next::Plain(found, hop) => return self.send_plain(flows, packet, found, hop),
            Next::Forward(found, exit, As::Packet) => return self.send(flows, packet, found, exit),
            Next::Forward(found, exit, As::Fragment(id)) => {
                return self.send_fragment(flows, packet, (found, id), exit);
            }
            Next::Forward(found, exit, As::Echo) => return self.send_echo(flows, packet, found, exit),
            Next::Forward(found, exit, As::Error(inner)) => {
                return self.send_error(flows, packet, (found, &inner), exit);
            }
            Next::Once(chosen, exit, later) => {
                return self.send_once(flows, packet, chosen, (exit, later));
            }
            Next::TellClient(error) => self.send_tunnel_error(flows, packet, &error),
            Next::Reply(reply) => return Err(Refused { frame: packet.frame, reply }),
            Next::Punt => self.punt(flows, port, packet.frame),
            Next::AsSent => self.leave_as_sent(port, packet.frame),
            Next::HandOver(owner) => self.hand_over(port, packet.frame, owner),
            Next::Drop(reason) => self.drop(packet.frame, reason),
        }
        Ok(Edit::Nothing)
    }

    /// Puts a finished frame on its way out of a port.
    #[inline(always)]
    pub(crate) fn transmit(&mut self, port: PortId, frame: I::Frame) {
        self.tx.push(&mut self.io, &self.counters, port, frame);
    }

    /// As [`Self::transmit`] for a frame that isn't a received one.
    pub(crate) fn transmit_uncounted(&mut self, port: PortId, frame: I::Frame) {
        self.tx.push_uncounted(&mut self.io, &self.counters, port, frame);
    }

    /// Transmits what waits for the end of a burst.
    #[inline]
    pub(crate) fn flush(&mut self) {
        self.tx.flush(&mut self.io);
    }

    /// Counts and drops.
    #[cold]
    #[inline(never)]
    pub(crate) fn drop(&self, frame: I::Frame, reason: Reason) {
        self.counters.count(Verdict::Drop(reason));
        drop(frame);
    }

    /// As [`Self::drop`], where an [`Edit`] is asked for.
    pub(crate) fn dropped(&self, frame: I::Frame, reason: Reason) -> Carried<I::Frame> {
        self.drop(frame, reason);
        Ok(Edit::Nothing)
    }
}

/// Refuses a packet that is larger than its way takes.
pub(crate) fn too_big<F: Frame>(flows: &Flows, packet: Packet<'_, F>, mtu: u16) -> Carried<F> {
    let reply = flows.too_big(packet.port, &packet.frame, packet.parsed, mtu);
    Err(Refused { frame: packet.frame, reply })
}
