//! Follows real packets through the stages (`weirctl trace`).
//!
//! Without a trace, a burst pays one branch. With one, frames take the slow path one by one (with the same result) and
//! leave a stamp at every stage. The result is read from the verdict's counter and from the transmit buffer. The record
//! goes to control through a ring; if the ring is full, the record is lost and counted, and nobody waits.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use arrayvec::ArrayVec;
use weir_api::model::{
    Network,
    trace::{TRACE_SNAP, TraceStage},
};

use crate::{
    io::{Burst, Frame, Io, PortId},
    net::{Header, ipv4::Ipv4Header, ipv6, protocol},
    path::{
        Worker,
        flow::Flows,
        ingress::parse,
        packet::{Origin, Packet},
        verdict::Verdict,
    },
    table::{endpoints::Endpoints, session::Tuple},
};

/// Selects packets. A packet must meet all conditions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// An address in this network as source or destination.
    pub host: Option<Network>,
    /// This source or destination port, host order.
    pub service_port: Option<u16>,
    /// Arrival on this port.
    pub port: Option<PortId>,
    /// The packet was dropped.
    pub dropped: bool,
}

/// The first bytes of a frame.
pub type Head = ArrayVec<u8, TRACE_SNAP>;

/// A packet's record.
#[derive(Clone, Debug)]
pub struct Traced {
    /// Time-stamp counter on arrival.
    pub tsc: u64,
    /// Whether it was handed over by another worker.
    pub handed: bool,
    /// The port that it arrived on.
    pub port: PortId,
    /// The length of the frame.
    pub length: u32,
    /// Its first bytes.
    pub received: Head,
    /// The frame sent because of it, and the port that it left by.
    pub sent: Option<(PortId, Head)>,
    /// How it ended; none if it waits for a neighbour.
    pub verdict: Option<Verdict>,
    /// The stages and the cycles each one took.
    pub stages: ArrayVec<(TraceStage, u32), 12>,
}

/// A worker's end of a trace.
#[derive(Debug)]
pub struct Tracer {
    filter: Filter,
    ring: rtrb::Producer<Traced>,
    lost: Arc<AtomicU64>,
    stages: ArrayVec<(TraceStage, u32), 12>,
    last: u64,
}

impl Tracer {
    /// Follows the packets that match `filter`; `lost` counts records that find no room in `ring`.
    #[must_use]
    pub fn new(filter: Filter, ring: rtrb::Producer<Traced>, lost: Arc<AtomicU64>) -> Self {
        Self { filter, ring, lost, stages: ArrayVec::new(), last: 0 }
    }

    fn stamp(&mut self, stage: TraceStage) {
        let now = cpu::tsc();
        let _ = self.stages.try_push((stage, now.wrapping_sub(self.last) as u32));
        self.last = now;
    }
}

/// The IP protocol and the endpoints of an IP frame.
#[must_use]
pub fn endpoints_of(frame: &[u8]) -> Option<(u8, Endpoints)> {
    if frame.get(12..14) == Some(&[0x86, 0xdd]) {
        return endpoints_of_v6(frame);
    }
    let ip = Ipv4Header::at(frame, 14).filter(|_| frame.get(12..14) == Some(&[8, 0]))?;
    let l4 = 14 + usize::from(frame[14] & 15) * 4;
    let ports = match ip.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP if !ip.is_fragment() => {
            frame.get(l4..)?.first_chunk().map_or(0, |&b| u32::from_le_bytes(b))
        }
        _ => 0,
    };
    Some((ip.protocol, Endpoints::of(Tuple { addresses: ip.address_words(), ports })))
}

fn endpoints_of_v6(frame: &[u8]) -> Option<(u8, Endpoints)> {
    let packet = frame.get(14..)?;
    let pair = parse::pair(frame, 14)?;
    let upper = ipv6::upper(packet).ok()?;
    let whole = upper.fragment.is_none_or(|f| f.offset() == 0);
    let ports = match upper.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP if whole => {
            packet.get(upper.offset..)?.first_chunk().map_or(0, |&b| u32::from_le_bytes(b))
        }
        _ => 0,
    };
    Some((upper.protocol, Endpoints::of_pair(pair, Tuple { addresses: 0, ports })))
}

impl Filter {
    fn wants(&self, record: &Traced) -> bool {
        let sent = record.sent.as_ref().map(|(_, head)| head);
        let facts = [Some(&record.received), sent].map(|head| head.and_then(|h| endpoints_of(h)));
        let any = |is: &dyn Fn(&(u8, Endpoints)) -> bool| facts.iter().flatten().any(is);
        let ends = |e: &Endpoints| [e.source, e.destination];
        self.port.is_none_or(|port| port == record.port)
            && (!self.dropped || matches!(record.verdict, Some(Verdict::Drop(_))))
            && self.protocol.is_none_or(|p| any(&|f| f.0 == p))
            && self.service_port.is_none_or(|p| any(&|f| ends(&f.1).iter().any(|e| e.1 == p)))
            && self.host.is_none_or(|net| any(&|f| ends(&f.1).iter().any(|e| net.contains(e.0))))
    }
}

fn head_of(frame: &impl Frame) -> Head {
    frame.data().iter().take(TRACE_SNAP).copied().collect()
}

impl Flows {
    /// Notes that the current packet has reached a stage, if it is followed.
    #[inline]
    pub(crate) fn stamp(&mut self, stage: TraceStage) {
        if let Some(tracer) = &mut self.trace {
            tracer.stamp(stage);
        }
    }
}

impl<I: Io> Worker<I> {
    /// Runs a burst through the stages, frame by frame.
    #[cold]
    #[inline(never)]
    pub(crate) fn forward_traced(&mut self, port: PortId, burst: &mut Burst<I::Frame>, origin: Origin) {
        for frame in burst.drain(..) {
            self.egress.flush();
            let clear = self.egress.tx.newest().is_none();
            let counted = self.egress.counters.counted();
            let (received, length) = (head_of(&frame), frame.total_len() as u32);
            let tsc = cpu::tsc();
            if let Some(tracer) = &mut self.flows.trace {
                tracer.stages.clear();
                tracer.last = tsc;
            }
            self.follow(port, frame, origin);
            if self.flows.sessions.is_unsettled() {
                self.flows.settle();
            }
            self.flows.stamp(TraceStage::End);
            let sent = self.egress.tx.newest().filter(|_| clear).map(|(out, frame)| (out, head_of(frame)));
            let verdict = self.egress.counters.changed_since(&counted);
            let Some(tracer) = &mut self.flows.trace else { continue };
            let stages = tracer.stages.clone();
            let handed = origin == Origin::Worker;
            let record = Traced { tsc, handed, port, length, received, sent, verdict, stages };
            if tracer.filter.wants(&record) && tracer.ring.push(record).is_err() {
                tracer.lost.fetch_add(1, Relaxed);
            }
        }
    }

    fn follow(&mut self, port: PortId, frame: I::Frame, origin: Origin) {
        let Some(mut p) = self.egress.macs.parse(port, &frame) else { return };
        self.flows.stamp(TraceStage::Parse);
        let whole = matches!(p.kind, parse::Kind::Transport | parse::Kind::TransportV6);
        if whole {
            self.flows.hash_v6(&frame, &mut p);
        }
        let packet = Packet { frame, port, origin, parsed: &p, first: None };
        if !whole {
            return self.other(packet, p.kind);
        }
        let found = self.flows.sessions.find_endpoints(&packet.endpoints(), p.protocol);
        self.flows.stamp(TraceStage::Session);
        match found {
            Some(found) => self.slow(packet, found),
            None => self.unknown(packet),
        }
    }
}
