//! How packets leave. All decisions have been made before: nothing here changes the worker's state. If a session learns
//! something while its packet leaves, this is returned as an [`Edit`]. If a packet can't leave, it is returned with the
//! reply to its sender.

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
    id::{HopId, WorkerId},
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

/// The most frames that one packet may leave behind while a next hop's MAC address is unknown: more than may wait for a
/// neighbour.
const UNRESOLVED: usize = 64;

/// A packet that can't leave, with the reply to its sender.
pub(crate) struct Refused<F> {
    /// The frame, as it arrived.
    pub frame: F,
    /// The reply to its sender.
    pub reply: Reply,
}

/// The result of sending or dropping a packet.
pub(crate) type Carried<F> = Result<Edit, Refused<F>>;

/// A frame whose next hop's MAC address is unknown.
pub(crate) struct Unresolved<F> {
    /// The frame, complete except for its MAC addresses.
    pub frame: F,
    /// The next hop.
    pub hop: HopId,
    /// Whether it is a received frame, which is counted when it leaves or is dropped.
    pub received: bool,
}

/// A worker's way out: devices, rings, and identifications for the packets it makes.
pub(crate) struct Egress<I: Io> {
    pub(crate) io: I,
    /// The gateway's MAC addresses.
    pub(crate) macs: Macs,
    pub(crate) tx: TxBuffers<I::Frame>,
    pub(crate) counters: Arc<PathCounters>,
    pub(crate) host: Option<HostEnd<I::Frame>>,
    /// The rings to each other worker.
    pub(crate) peers: Outgoing<I::Frame>,
    pub(crate) answers: answer::RateLimits,
    /// The identification of the last outer packet.
    pub(crate) tunnel_id: u16,
    /// The identification of the last IPv6 packet that the gateway itself fragmented.
    pub(crate) fragment_ids: u32,
    /// Packets from inside to external addresses, on their way back in.
    pub(crate) turned_back: ArrayVec<(PortId, I::Frame), TURNED_BACK>,
    /// Frames that must wait for their next hop.
    pub(crate) unresolved: ArrayVec<Unresolved<I::Frame>, UNRESOLVED>,
}

impl<I: Io> Egress<I> {
    /// The way out of worker `id`, through its queues of the ports with these MAC addresses.
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

    /// Carries out the decision on a packet.
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

    /// Queues a finished frame for transmission by a port.
    #[inline(always)]
    pub(crate) fn transmit(&mut self, port: PortId, frame: I::Frame) {
        self.tx.push(&mut self.io, &self.counters, port, frame);
    }

    /// Like [`Self::transmit`], for a frame that wasn't received.
    pub(crate) fn transmit_uncounted(&mut self, port: PortId, frame: I::Frame) {
        self.tx.push_uncounted(&mut self.io, &self.counters, port, frame);
    }

    /// Transmits the frames that were gathered during a burst.
    #[inline]
    pub(crate) fn flush(&mut self) {
        self.tx.flush(&mut self.io);
    }

    /// Counts and drops a frame.
    #[cold]
    #[inline(never)]
    pub(crate) fn drop(&self, frame: I::Frame, reason: Reason) {
        self.counters.count(Verdict::Drop(reason));
        drop(frame);
    }

    /// Like [`Self::drop`], where an [`Edit`] must be returned.
    pub(crate) fn dropped(&self, frame: I::Frame, reason: Reason) -> Carried<I::Frame> {
        self.drop(frame, reason);
        Ok(Edit::Nothing)
    }
}

/// Refuses a packet that exceeds the MTU of its next hop.
pub(crate) fn too_big<F: Frame>(flows: &Flows, packet: Packet<'_, F>, mtu: u16) -> Carried<F> {
    let reply = flows.too_big(packet.port, &packet.frame, packet.parsed, mtu);
    Err(Refused { frame: packet.frame, reply })
}
