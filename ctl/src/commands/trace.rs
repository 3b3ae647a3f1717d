//! `weirctl trace`: real packets, followed through the stages.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    time::Duration,
};

use weir_api::{
    client::Transport,
    documents::{Body, parts::protocol_name, trace::flags},
    model::{
        Tuple,
        trace::{TraceFilter, TraceStage, TracedPacket},
    },
    protocol::{Request, Response},
};

use super::{
    Failure, Wake, World,
    cli::TraceArgs,
    json, names,
    pcapng::{CapturedPacket, Writer},
    style::{Style, Tone, clean},
};

/// How often the gateway is asked what it has.
const INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn run(args: &TraceArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let mut file = args.pcap.as_ref().map(|path| {
        let failed = |e: io::Error| Failure::Usage(format!("{}: {e}", path.display()));
        let file = File::create(path).map_err(failed)?;
        Writer::new(BufWriter::new(file)).map_err(failed)
    });
    let mut file = match file.take() {
        Some(opened) => Some(opened?),
        None => None,
    };
    world.pace.catch_interrupts()?;
    let filter = TraceFilter {
        protocol: args.protocol.map(Into::into),
        host: args.host,
        service_port: args.service_port,
        port: args.port.clone(),
        dropped: args.dropped,
    };
    let trace = match world.transport.call(Request::Trace(filter))? {
        Response::Tracing { trace } => trace,
        Response::Refused(refusal) => return Err(refusal.into()),
        _ => return Err(unexpected()),
    };
    let mut left = args.number.unwrap_or(u64::MAX);
    let followed = follow(args, world, trace, &mut left, &mut file);
    // Whatever came between: the workers are to have their peace again.
    let ended = ask(world.transport, Request::EndTrace { trace });
    followed?;
    let (last, lost) = ended?;
    tell(&last, args, world, &mut left, &mut file)?;
    if let Some(file) = &mut file {
        file.flush()?;
    }
    if lost > 0 {
        writeln!(world.err, "weirctl: {lost} packets were missed: narrow the filter")?;
    }
    Ok(())
}

fn unexpected() -> Failure {
    Failure::Refused("the gateway's answer doesn't match the request".into())
}

fn ask(transport: &mut dyn Transport, request: Request) -> Result<(Vec<TracedPacket>, u64), Failure> {
    match transport.call(request)? {
        Response::Traced { packets, lost } => Ok((packets, lost)),
        Response::Refused(refusal) => Err(refusal.into()),
        _ => Err(unexpected()),
    }
}

/// Shows packets until there were enough, time is up, or somebody interrupts.
fn follow(
    args: &TraceArgs,
    world: &mut World<'_>,
    trace: u64,
    left: &mut u64,
    file: &mut Option<Writer<BufWriter<File>>>,
) -> Result<(), Failure> {
    writeln!(world.err, "weirctl: tracing packets, interrupt to stop")?;
    let end = args.timeout.map(|s| world.pace.now() + Duration::from_secs(s.into()));
    loop {
        let (packets, _) = ask(world.transport, Request::Traced { trace })?;
        tell(&packets, args, world, left, file)?;
        if *left == 0 || end.is_some_and(|end| world.pace.now() >= end) {
            return Ok(());
        }
        if packets.is_empty() && world.pace.wait(INTERVAL) == Wake::Interrupt {
            return Ok(());
        }
    }
}

/// Shows and saves packets, at most as many as are `left`.
fn tell(
    packets: &[TracedPacket],
    args: &TraceArgs,
    world: &mut World<'_>,
    left: &mut u64,
    file: &mut Option<Writer<BufWriter<File>>>,
) -> Result<(), Failure> {
    for packet in packets.iter().take(usize::try_from(*left).unwrap_or(usize::MAX)) {
        *left -= 1;
        if let Some(file) = file {
            save(packet, file)?;
        }
        if args.json {
            json::write(world.out, Body::Trace(packet.into()))?;
        } else {
            show(packet, world.out, world.style)?;
        }
    }
    Ok(world.out.flush()?)
}

fn ends(tuple: Option<Tuple>) -> String {
    let end = |(address, port)| names::endpoint(address, port);
    tuple.map_or("not IP".into(), |(from, to)| format!("{} -> {}", end(from), end(to)))
}

fn stage(stage: TraceStage) -> &'static str {
    match stage {
        TraceStage::Parse => "parse",
        TraceStage::Session => "session",
        TraceStage::Service => "service",
        TraceStage::Schedule => "schedule",
        TraceStage::Open => "open",
        TraceStage::Track => "track",
        TraceStage::Route => "route",
        TraceStage::End => "end",
    }
}

/// What became of it, in a line.
fn verdict(p: &TracedPacket) -> String {
    let left = match (&p.out, p.verdict.as_str()) {
        (Some(out), "forwarded") => format!(" by {out} as {}", ends(p.after)),
        (Some(out), _) => format!(", answered by {out} with {}", ends(p.after)),
        (None, _) => String::new(),
    };
    let advice = p.advice.as_ref().map_or(String::new(), |a| format!(". {a}"));
    let verdict = if p.advice.is_some() { format!("dropped as {}", p.verdict) } else { p.verdict.clone() };
    format!("{verdict}{left}{advice}")
}

fn show(p: &TracedPacket, out: &mut dyn Write, style: Style) -> io::Result<()> {
    let (seconds, micros) = (p.time / 1_000_000_000 % 86_400, p.time / 1000 % 1_000_000);
    let clock = format!("{:02}:{:02}:{:02}.{micros:06}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let kind = match p.protocol {
        6 => format!("tcp {}", flags(p.flags)),
        other => protocol_name(other),
    };
    let handed = if p.handed { ", handed over" } else { "" };
    let head = format!("{clock} {} {kind} {} ({} bytes)", p.port, ends(p.before), p.length);
    writeln!(out, "{}, worker {}{handed}", style.paint(Tone::Strong, &clean(&head)), p.worker)?;
    let stages: Vec<String> = p.stages.iter().map(|(s, cycles)| format!("{} {cycles}", stage(*s))).collect();
    writeln!(out, "    {} cycles", stages.join(", "))?;
    let tone = match p.verdict.as_str() {
        "forwarded" => Tone::Good,
        "punted" | "handed-over" | "waiting" => Tone::Care,
        _ => Tone::Bad,
    };
    writeln!(out, "    {}", style.paint(tone, &clean(&verdict(p))))
}

fn save(p: &TracedPacket, file: &mut Writer<impl Write>) -> io::Result<()> {
    let comment = format!("weir worker {}: {}", p.worker, verdict(p));
    let whole = CapturedPacket {
        port: &p.port,
        time: p.time,
        outbound: false,
        length: p.length,
        bytes: &p.received,
        comment: &comment,
    };
    file.packet(&whole)?;
    let Some(out) = &p.out else { return Ok(()) };
    let comment = format!("weir worker {}: sent for the packet before", p.worker);
    let length = if p.sent.len() < p.received.len() { p.sent.len() as u32 } else { p.length };
    file.packet(&CapturedPacket {
        port: out,
        outbound: true,
        length,
        bytes: &p.sent,
        comment: &comment,
        ..whole
    })
}
