//! Stages 1 to 3 of a burst: frames come in, are parsed and looked up together, and then go on one by one.

use arrayvec::ArrayVec;

use super::{
    Worker,
    egress::punt::HOST_BURST,
    flow::Flows,
    ingress::parse::{self, Kind},
    next::Next,
    packet::{Origin, Packet},
    stages::Stage,
    verdict::Reason,
};
use crate::{
    io::{BURST, Burst, Frame, Io, PortId},
    table::sessions::Candidate,
};

/// What the stages pass on about a burst's packets. All bursts share it, because clearing it costs more than a small burst.
/// The `AHEAD` notes behind the last packet's keep the look-ahead within the array.
#[repr(align(64))]
pub(super) struct Notes([Note; BURST + AHEAD]);

/// What the stages pass on about one packet: together, so that one register leads to all of it.
#[derive(Clone, Copy)]
struct Note {
    parsed: parse::Parsed,
    hash: u64,
    candidate: Candidate,
}

impl Default for Notes {
    fn default() -> Self {
        let nothing = Note { parsed: parse::Parsed::NOTHING, hash: 0, candidate: Candidate::NONE };
        Self([nothing; BURST + AHEAD])
    }
}

/// How many packets ahead of the one at hand cache lines are asked for. One takes some 150 ns to come, as long as a
/// handful of packets, and processors have room for some 20 on their way. Measured on AMD's Zen 4 (`weir-bench path`):
/// 24 and 12 beat 12 and 6 by 9 % at 100 000 flows and by 14 % at a million; with fewer they are alike.
const AHEAD: usize = 24;

/// How many packets ahead the server's counters are asked for: the record that says which server has come by then.
const NEAR: usize = 12;

impl Flows {
    /// Whose session a packet probably belongs to; its record is being loaded from now on.
    #[inline]
    fn candidate(&self, p: &parse::Parsed, hash: u64) -> Candidate {
        if p.kind == parse::Kind::Transport {
            self.sessions.candidate(hash)
        } else {
            self.other_candidate(p, hash)
        }
    }

    #[inline(never)]
    fn other_candidate(&self, p: &parse::Parsed, hash: u64) -> Candidate {
        if p.kind == parse::Kind::TransportV6 { self.sessions.candidate_v6(hash) } else { Candidate::NONE }
    }
}

impl<I: Io> Worker<I> {
    /// A burst from the worker's queue of a port.
    #[inline]
    pub(super) fn take_from_port(&mut self, port: PortId) -> usize {
        let mut burst = Burst::new();
        self.egress.io.rx(port, &mut burst);
        self.stages.end(Stage::Rx);
        let n = burst.len();
        if n != 0 {
            self.egress.counters.events.received.add(n as u64);
            self.forward(port, &mut burst, Origin::Port);
        }
        n
    }

    /// What other workers handed over: at most one burst a ring.
    pub(super) fn take_from_workers(&mut self) -> usize {
        let mut taken = 0;
        for n in 0..self.handed.len() {
            let mut frames: ArrayVec<(PortId, I::Frame), BURST> = ArrayVec::new();
            if let Some(ring) = self.handed.get_mut(n) {
                while !frames.is_full() {
                    let Ok(frame) = ring.pop() else { break };
                    frames.push(frame);
                }
            }
            taken += frames.len();
            self.forward_handed(frames);
        }
        taken
    }

    /// Frames of one ring may have come in on several ports: runs of one port go together.
    fn forward_handed(&mut self, frames: ArrayVec<(PortId, I::Frame), BURST>) {
        let mut burst = Burst::new();
        let mut of = PortId(0);
        for (port, frame) in frames {
            if port != of && !burst.is_empty() {
                self.forward(of, &mut burst, Origin::Worker);
            }
            of = port;
            burst.push(frame);
        }
        if !burst.is_empty() {
            self.forward(of, &mut burst, Origin::Worker);
        }
    }

    /// Runs what has turned back through the stages, in the order in which it came.
    pub(super) fn take_turned_back(&mut self) {
        for (port, frame) in std::mem::take(&mut self.egress.turned_back) {
            let mut burst: Burst<I::Frame> = Burst::new();
            burst.push(frame);
            self.forward(port, &mut burst, Origin::Worker);
        }
    }

    /// Sends what the kernel put out of the twins. What may be the reply of a server here comes in by the twin.
    pub(super) fn take_from_host(&mut self) -> usize {
        for n in 0..HOST_BURST {
            let Some(host) = &mut self.egress.host else { return n };
            let Ok((port, mut frame)) = host.injected.pop() else { return n };
            self.egress.counters.events.from_host.add(1);
            if self.flows.may_be_reply(&frame) && self.egress.turn_round(port, &mut frame) {
                let mut burst = Burst::new();
                burst.push(frame);
                self.forward(port.twin(), &mut burst, Origin::Port);
            } else {
                self.egress.transmit_uncounted(port, frame);
            }
        }
        HOST_BURST
    }

    /// Runs a burst through the stages.
    fn forward(&mut self, port: PortId, burst: &mut Burst<I::Frame>, origin: Origin) {
        if self.flows.trace.is_some() {
            return self.forward_traced(port, burst, origin);
        }
        let Some(mut notes) = self.notes.take() else { return };
        self.forward_noted(port, burst, origin, &mut notes);
        self.notes = Some(notes);
    }

    #[inline(always)]
    fn forward_noted(
        &mut self,
        port: PortId,
        burst: &mut Burst<I::Frame>,
        origin: Origin,
        Notes(notes): &mut Notes,
    ) {
        let Some(mac) = self.egress.macs.of(port) else { return };
        burst.iter().take(AHEAD).for_each(Frame::prefetch);
        for (n, (frame, Note { parsed: p, hash, .. })) in burst.iter().zip(&mut *notes).enumerate() {
            if let Some(later) = burst.get(n + AHEAD) {
                later.prefetch();
            }
            if parse::parse(frame, mac, p) {
                *hash = self.flows.sessions.hash(p.tuple, p.protocol);
                self.flows.sessions.prefetch_bucket(*hash);
            } else if p.kind == parse::Kind::TransportV6 {
                *hash = self.flows.hash_v6(frame, p);
            }
        }
        self.stages.end(Stage::Parse);
        let frames = burst.len();
        for note in notes.iter_mut().take(frames.min(AHEAD)) {
            note.candidate = self.flows.candidate(&note.parsed, note.hash);
        }
        self.stages.end(Stage::Candidates);
        for (n, frame) in burst.drain(..).enumerate() {
            let Some(notes) = notes[n % BURST..].first_chunk_mut::<{ AHEAD + 1 }>() else { return };
            if n + AHEAD < frames {
                let ahead = &mut notes[AHEAD];
                ahead.candidate = self.flows.candidate(&ahead.parsed, ahead.hash);
            }
            let near = self.flows.sessions.record(notes[NEAR].candidate);
            self.flows.server_counters.prefetch(near.slot());
            let Note { parsed: p, hash, candidate } = &notes[0];
            match p.kind {
                parse::Kind::Transport => self.transport(frame, p, (port, origin), (*hash, *candidate)),
                _ => self.transport_v6(frame, p, (port, origin), (*hash, *candidate)),
            }
        }
        if self.flows.sessions.is_unsettled() {
            self.flows.settle();
        }
        self.stages.end(Stage::Sessions);
    }

    /// A frame that carries no whole TCP or UDP header.
    pub(super) fn other(&mut self, packet: Packet<'_, I::Frame>, kind: Kind) {
        let next = match kind {
            Kind::Bad(Reason::NotOurMac) => return self.for_another_mac(packet),
            Kind::Bad(reason) => Next::Drop(reason),
            Kind::IcmpError => self.flows.icmp_error(&packet),
            Kind::Echo => self.flows.echo(&packet),
            Kind::Fragment => return self.reassemble(packet),
            Kind::Sctp => self.flows.sctp(&packet),
            Kind::Group => self.flows.group_frame(&packet),
            _ => Next::Punt,
        };
        self.carry_out(packet, next);
    }

    /// A frame for a station that isn't the port's own.
    #[cold]
    #[inline(never)]
    fn for_another_mac(&mut self, packet: Packet<'_, I::Frame>) {
        let Some(mut p) = self.egress.macs.parse(packet.port, &packet.frame) else { return };
        match p.kind {
            Kind::Bad(reason) => self.egress.drop(packet.frame, reason),
            Kind::Transport => {
                let hash = self.flows.sessions.hash(p.tuple, p.protocol);
                self.transport_sought(packet.frame, &p, (packet.port, packet.origin), hash);
            }
            Kind::TransportV6 => {
                let hash = self.flows.hash_v6(&packet.frame, &mut p);
                let candidate = self.flows.sessions.candidate_v6(hash);
                self.transport_v6(packet.frame, &p, (packet.port, packet.origin), (hash, candidate));
            }
            kind => self.other(Packet { parsed: &p, ..packet }, kind),
        }
    }
}
