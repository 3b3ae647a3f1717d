//! Follows real packets for one client at a time, as long as it fetches them: `weirctl trace`.
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

use weir_api::{
    model::trace::{MAX_TRACED, TraceFilter, TracedPacket},
    protocol::{Refusal, Response},
};

use super::{Configuration, Query, check_port};
use crate::{
    control::{
        error::{Busy, Gone, PlaneError},
        workers::{Ask, Workers},
    },
    io::PortId,
    net::ipv6,
    path::{
        admin::{
            trace::{Filter, Traced, Tracer, endpoints_of},
            update::Update,
        },
        verdict::Verdict,
    },
};

/// Records that a worker's ring holds.
const RING: usize = 1024;
/// A client that hasn't asked for this long is considered gone.
const SILENCE: Duration = Duration::from_secs(5);

/// The trace under way, and those that were.
#[derive(Default)]
pub(super) struct Traces {
    /// Number of the last one.
    last: u64,
    current: Option<Tracing>,
}

/// A trace under way.
struct Tracing {
    id: u64,
    /// When the client asked last; none while the workers are being told.
    asked: Option<Instant>,
    rings: Vec<rtrb::Consumer<Traced>>,
    lost: Arc<AtomicU64>,
    /// Time-stamp counter and wall clock at one moment.
    began: (u64, u64),
}

/// Has each worker follow packets with its tracer.
pub(super) struct BeginTrace {
    trace: u64,
    tracers: Vec<Tracer>,
}

impl Query for BeginTrace {
    type Request = TraceFilter;
    type Answer = ();

    fn prepare(filter: TraceFilter, held: &mut dyn Configuration) -> Result<Self, Refusal> {
        check_port(filter.port.as_deref(), held)?;
        Ok(held.plane_mut().workers_mut()?.prepare_trace(&filter)?)
    }

    fn ask(&mut self, workers: &dyn Ask) -> Result<(), PlaneError> {
        let tracers = self.tracers.drain(..);
        workers.tell(tracers.map(|tracer| Update::Trace(Some(Box::new(tracer)))).collect())
    }

    fn respond(
        self,
        answer: Result<(), PlaneError>,
        held: &mut dyn Configuration,
    ) -> Result<Response, PlaneError> {
        held.plane_mut().workers_mut()?.trace_begun(self.trace, answer.is_ok());
        answer.map(|()| Response::Tracing { trace: self.trace })
    }
}

/// What was followed since the last call, and the end of it if so.
///
/// # Errors
/// There is no such trace, or not any more.
pub(super) fn take(trace: u64, end: bool, held: &mut dyn Configuration) -> Result<Response, PlaneError> {
    let workers = held.plane_mut().workers_mut().map_err(|_| Gone::Trace(trace))?;
    let (packets, lost) = workers.take_traced(trace, end)?;
    Ok(Response::Traced { packets, lost })
}

impl Workers {
    /// Tracers that follow the packets that `filter` wants, one a worker, and the number of the trace.
    fn prepare_trace(&mut self, filter: &TraceFilter) -> Result<BeginTrace, PlaneError> {
        if self.kept.trace.current.is_some() {
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
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began = (cpu::tsc(), u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX));
        let traces = &mut self.kept.trace;
        traces.last += 1;
        traces.current = Some(Tracing { id: traces.last, asked: None, rings, lost, began });
        Ok(BeginTrace { trace: traces.last, tracers })
    }

    /// Every worker follows packets now, or not every one: then none is to.
    fn trace_begun(&mut self, id: u64, by_all: bool) {
        let current = &mut self.kept.trace.current;
        let Some(tracing) = current.as_mut().filter(|t| t.id == id) else { return };
        tracing.asked = Some(Instant::now());
        if !by_all {
            *current = None;
            self.stop_tracers();
        }
    }

    /// What was followed since the last call, and how many packets were lost since the trace began.
    fn take_traced(&mut self, id: u64, end: bool) -> Result<(Vec<TracedPacket>, u64), PlaneError> {
        let mut tracing = self.kept.trace.current.take_if(|t| t.id == id).ok_or(Gone::Trace(id))?;
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
            self.kept.trace.current = Some(tracing);
        }
        Ok((packets, lost))
    }

    /// Ends a trace whose client is gone.
    pub(in crate::control) fn end_silent_trace(&mut self) {
        let silent = |t: &mut Tracing| t.asked.is_some_and(|at| at.elapsed() > SILENCE);
        if self.kept.trace.current.take_if(silent).is_some() {
            tracing::info!("a trace ended: no client fetches its packets");
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
        let (before, sent) = (endpoints_of(&record.received), record.sent.as_ref());
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
            after: sent.and_then(|(_, head)| endpoints_of(head)).map(|(_, e)| (e.source, e.destination)),
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
