//! Packets are followed for one client at a time, as long as it asks for them.
//!
//! Each worker gets a tracer with a ring to here; a client that has gone away is noticed by its silence, and the
//! workers' tracers are taken back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use weir_api::model::trace::{MAX_TRACED, TraceFilter, TracedPacket};

use crate::{
    control::{
        error::{Busy, Gone, PlaneError},
        workers::Workers,
    },
    io::PortId,
    net::ipv6,
    path::{
        admin::{
            trace::{Filter, Traced, Tracer, ends_of},
            update::Update,
        },
        verdict::Verdict,
    },
};

/// Records that a worker's ring holds.
const RING: usize = 1024;
/// A client that hasn't asked for so long is taken to be gone.
const SILENCE: Duration = Duration::from_secs(5);

/// A trace under way.
pub struct Tracing {
    id: u64,
    /// When the client asked last; none while the workers are being told.
    asked: Option<Instant>,
    rings: Vec<rtrb::Consumer<Traced>>,
    lost: Arc<AtomicU64>,
    /// Time-stamp counter and wall clock at one moment.
    began: (u64, u64),
}

/// Packets followed, and how many were lost since the trace began.
pub type Haul = (Vec<TracedPacket>, u64);

impl Workers {
    /// Tracers that follow the packets that `filter` wants, one a worker, and the number of the trace.
    pub(in crate::control) fn prepare_trace(
        &mut self,
        filter: &TraceFilter,
    ) -> Result<(u64, Vec<Tracer>), PlaneError> {
        if self.tracing().is_some() {
            return Err(Busy::Trace.into());
        }
        let port = filter.port.as_ref().and_then(|name| self.port_names().iter().position(|n| n == name));
        let filter = Filter {
            protocol: filter.protocol.map(|p| p as u8),
            host: filter.host,
            service_port: filter.service_port,
            port: port.map(|n| PortId(n as u8)),
            dropped: filter.dropped,
        };
        let lost = Arc::new(AtomicU64::new(0));
        let (mut tracers, mut rings) = (Vec::new(), Vec::new());
        for _ in 0..self.links().len() {
            let (to_control, from_worker) = rtrb::RingBuffer::new(RING);
            tracers.push(Tracer::new(filter, to_control, lost.clone()));
            rings.push(from_worker);
        }
        let id = self.ticket();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began = (cpu::tsc(), u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX));
        *self.tracing() = Some(Tracing { id, asked: None, rings, lost, began });
        Ok((id, tracers))
    }

    /// Every worker follows packets now, or not every one: then the trace ends.
    pub(in crate::control) fn note_begun(&mut self, id: u64, by_all: bool) {
        let Some(tracing) = self.tracing().as_mut().filter(|t| t.id == id) else { return };
        tracing.asked = Some(Instant::now());
        if !by_all {
            *self.tracing() = None;
            self.stop_tracers();
        }
    }

    /// What was followed since the last call.
    pub(in crate::control) fn take_traced(&mut self, id: u64, end: bool) -> Result<Haul, PlaneError> {
        let mut tracing = self.tracing().take_if(|t| t.id == id).ok_or(Gone::Trace(id))?;
        tracing.asked = Some(Instant::now());
        let (mut records, mut left) = (Vec::new(), MAX_TRACED);
        // What arrives while the rings are read waits for the next call, so that packets that several workers
        // have to do with come in their order.
        let until = cpu::tsc();
        for (worker, ring) in tracing.rings.iter_mut().enumerate() {
            while left > 0
                && ring.peek().is_ok_and(|record| record.tsc <= until)
                && let Ok(record) = ring.pop()
            {
                records.push((worker as u16, record));
                left -= 1;
            }
        }
        records.sort_by_key(|(_, record)| record.tsc);
        let packets = records.iter().map(|(n, record)| self.packet(*n, record, tracing.began)).collect();
        let lost = tracing.lost.load(Relaxed);
        if end {
            self.stop_tracers();
        } else {
            *self.tracing() = Some(tracing);
        }
        Ok((packets, lost))
    }

    /// Ends a trace whose client is gone.
    pub(in crate::control) fn end_silent_trace(&mut self) {
        if self.tracing().take_if(|t| t.asked.is_some_and(|at| at.elapsed() > SILENCE)).is_some() {
            tracing::info!("a trace ends: nobody asks for its packets");
            self.stop_tracers();
        }
    }

    fn stop_tracers(&mut self) {
        let none: Vec<_> = self.links().iter().map(|_| vec![Update::Trace(None)]).collect();
        self.send_each(none.into_iter());
    }

    fn packet(&self, worker: u16, record: &Traced, (tsc, wall): (u64, u64)) -> TracedPacket {
        let name = |port: PortId| self.port_names().get(port.index()).cloned().unwrap_or_default();
        let cycles = u128::from(record.tsc.saturating_sub(tsc));
        let since = cycles * 1_000_000_000 / u128::from(cpu::tsc_hz().max(1));
        let (before, sent) = (ends_of(&record.received), record.sent.as_ref());
        let (verdict, advice) = match record.verdict {
            Some(Verdict::Forwarded) => ("forwarded", None),
            Some(Verdict::Punted) => ("punted", None),
            Some(Verdict::HandedOver) => ("handed-over", None),
            Some(Verdict::Drop(reason)) => (reason.name(), Some(reason.advice().into())),
            None => ("waiting", None),
        };
        let tcp = before.is_some_and(|(p, _)| p == crate::net::protocol::TCP);
        TracedPacket {
            time: wall + u64::try_from(since).unwrap_or(0),
            worker,
            handed: record.handed,
            port: name(record.port),
            protocol: before.map_or(0, |(p, _)| p),
            flags: if tcp { flags(&record.received) } else { 0 },
            length: record.length,
            before: before.map(|(_, e)| (e.source, e.destination)),
            after: sent.and_then(|(_, head)| ends_of(head)).map(|(_, e)| (e.source, e.destination)),
            out: sent.map(|(port, _)| name(*port)),
            verdict: verdict.into(),
            advice,
            stages: record.stages.to_vec(),
            received: record.received.to_vec(),
            sent: sent.map(|(_, head)| head.to_vec()).unwrap_or_default(),
        }
    }
}

/// The flags of a TCP frame.
fn flags(frame: &[u8]) -> u8 {
    let l4 = match frame.get(14) {
        Some(b) if b >> 4 == 6 => 14 + ipv6::upper(&frame[14..]).map_or(usize::from(u8::MAX), |u| u.offset),
        Some(b) => 14 + usize::from(b & 15) * 4,
        None => 0,
    };
    frame.get(l4 + 13).copied().unwrap_or(0)
}
