//! `weirctl status`. The load is that of a fraction of a second, seen by looking twice.

use std::{io, io::Write, time::Duration};

use weir_api::{
    documents::{Body, parts::mac, status},
    model::status::{PortStatus, Status, WorkerStatus},
};

use super::{
    Failure, World,
    cli::JsonArgs,
    fetch, json, names,
    style::{Style, Table, Tone, clean},
};

/// How far apart the two looks are.
const SAMPLE: Duration = Duration::from_millis(200);

/// Local addresses that are listed for people.
const ADDRESSES: usize = 10;

pub(super) fn run(args: &JsonArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let first = fetch::status(world.transport)?;
    let start = world.pace.now();
    world.pace.wait(SAMPLE);
    let status = fetch::status(world.transport)?;
    let time = world.pace.now().saturating_sub(start);
    let loads: Vec<Load> =
        (0..).zip(&status.workers).map(|(n, w)| Load::between(first.workers.get(n), w, time)).collect();
    if args.json {
        json::write(world.out, Body::Status(document(&status, &loads)))?;
        return Ok(());
    }
    Ok(table(&status, &loads, world.style, world.out)?)
}

/// What a worker did between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    polls: u64,
    busy_polls: u64,
    received: u64,
    milliseconds: u64,
}

impl Load {
    pub(super) fn between(before: Option<&WorkerStatus>, now: &WorkerStatus, time: Duration) -> Self {
        let zero = WorkerStatus::default();
        let before = before.unwrap_or(&zero);
        Self {
            polls: now.polls.saturating_sub(before.polls),
            busy_polls: now.busy_polls.saturating_sub(before.busy_polls),
            received: now.received.saturating_sub(before.received),
            milliseconds: time.as_millis() as u64,
        }
    }

    /// Polls that found something, of a thousand.
    pub(super) fn busy_permille(&self) -> u64 {
        (self.busy_polls * 1000).checked_div(self.polls).unwrap_or(0)
    }

    /// Frames that a busy poll found on average, in thousandths.
    pub(super) fn frames_millis(&self) -> u64 {
        (self.received * 1000).checked_div(self.busy_polls).unwrap_or(0)
    }

    pub(super) fn packets_per_second(&self) -> u64 {
        (self.received * 1000).checked_div(self.milliseconds).unwrap_or(0)
    }
}

fn table(status: &Status, loads: &[Load], style: Style, out: &mut dyn Write) -> io::Result<()> {
    let sessions: u64 = status.workers.iter().map(|w| u64::from(w.sessions)).sum();
    let limit: u64 = status.workers.iter().map(|w| u64::from(w.max_sessions)).sum();
    let title = format!("weir {}", clean(&status.version));
    let degraded =
        if is_degraded(status) { format!(", {}", style.paint(Tone::Bad, "degraded")) } else { String::new() };
    writeln!(
        out,
        "{} up {}, generation {}{degraded}",
        style.paint(Tone::Strong, &title),
        names::seconds(status.uptime / 1000),
        status.generation
    )?;
    writeln!(
        out,
        "{} services, {} servers, {sessions} of {limit} sessions",
        status.services, status.servers
    )?;
    ports(&status.ports, style, out)?;
    workers(&status.workers, loads, style, out)?;
    addresses(status, style, out)?;
    if !status.warnings.is_empty() {
        writeln!(out, "\n{}", style.paint(Tone::Strong, "Warnings"))?;
    }
    for warning in &status.warnings {
        writeln!(out, "  {}", style.paint(Tone::Care, &clean(warning)))?;
    }
    Ok(())
}

/// Whether a port can't do its work.
fn is_degraded(status: &Status) -> bool {
    status.ports.iter().any(|port| !port.faults.is_empty())
}

fn ports(ports: &[PortStatus], style: Style, out: &mut dyn Write) -> io::Result<()> {
    if ports.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", style.paint(Tone::Strong, "Ports"))?;
    let titles = [
        "NAME", "LINK", ">MTU", "MAC", "DRIVER", "QUEUES", "RSS", ">BUFFERS", ">RX", ">TX", ">MISSED",
        ">ERRORS",
    ];
    let mut table = Table::new(2, &titles);
    for port in ports {
        let link = match (port.up, port.speed) {
            (false, _) => "down".into(),
            (true, None) => "up".into(),
            (true, Some(speed)) if speed % 1000 == 0 => format!("{} Gb/s", speed / 1000),
            (true, Some(speed)) => format!("{speed} Mb/s"),
        };
        let c = &port.counters;
        let cells = vec![
            clean(&port.name),
            link,
            port.mtu.to_string(),
            mac(port.mac),
            clean(&port.driver),
            format!("{}/{}", port.rx_queues, port.tx_queues),
            if port.no_rss.is_none() { "yes" } else { "no" }.into(),
            format!("{}/{}", port.buffers_used, port.buffers),
            names::short(c.rx_packets),
            names::short(c.tx_packets),
            names::short(c.rx_missed + c.rx_no_buffer),
            names::short(c.rx_errors + c.tx_errors),
        ];
        table.row(if port.faults.is_empty() { Tone::Plain } else { Tone::Bad }, cells);
    }
    table.write(out, style)
}

fn workers(workers: &[WorkerStatus], loads: &[Load], style: Style, out: &mut dyn Write) -> io::Result<()> {
    if workers.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", style.paint(Tone::Strong, "Workers"))?;
    let titles = [">WORKER", ">BUSY", ">IDLE", ">PKTS/POLL", ">PKTS/S", ">SESSIONS", ">LIMIT", ">USED"];
    let mut table = Table::new(2, &titles);
    for (n, (worker, load)) in workers.iter().zip(loads).enumerate() {
        let busy = load.busy_permille();
        let used = u64::from(worker.sessions) * 1000 / u64::from(worker.max_sessions.max(1));
        let cells = vec![
            n.to_string(),
            tenth(busy),
            tenth(1000 - busy.min(1000)),
            format!("{}.{}", load.frames_millis() / 1000, load.frames_millis() / 100 % 10),
            load.packets_per_second().to_string(),
            worker.sessions.to_string(),
            worker.max_sessions.to_string(),
            tenth(used),
        ];
        let tone = match used.max(busy) {
            950.. => Tone::Bad,
            800.. => Tone::Care,
            _ => Tone::Plain,
        };
        table.row(tone, cells);
    }
    table.write(out, style)
}

fn addresses(status: &Status, style: Style, out: &mut dyn Write) -> io::Result<()> {
    if status.local_addresses.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{}", style.paint(Tone::Strong, "Local addresses"))?;
    let mut table = Table::new(2, &["ADDRESS", ">PORTS USED", ">BUSIEST SERVER", ">OF"]);
    for row in status.local_addresses.iter().take(ADDRESSES) {
        let full = u64::from(row.busiest) * 1000 / u64::from(row.ports.max(1));
        let tone = if full >= 900 { Tone::Bad } else { Tone::Plain };
        let cells = [row.used, row.busiest, row.ports].map(|n| n.to_string());
        table.row(tone, [row.address.to_string()].into_iter().chain(cells).collect());
    }
    table.write(out, style)?;
    match status.local_addresses.len().saturating_sub(ADDRESSES) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more: --json has them"),
    }
}

pub(super) fn tenth(permille: u64) -> String {
    format!("{}.{}%", permille / 10, permille % 10)
}

fn document(status: &Status, loads: &[Load]) -> status::Status {
    let workers = status.workers.iter().zip(loads).enumerate();
    status::Status {
        weir: status.version.clone(),
        generation: status.generation,
        uptime_ms: status.uptime,
        degraded: is_degraded(status),
        services: status.services,
        servers: status.servers,
        ports: status.ports.iter().map(Into::into).collect(),
        workers: workers.map(|(n, (w, load))| worker(n, w, *load)).collect(),
        local_addresses: status.local_addresses.iter().map(Into::into).collect(),
        warnings: status.warnings.clone(),
    }
}

fn worker(n: usize, w: &WorkerStatus, load: Load) -> status::Worker {
    status::Worker {
        worker: n,
        polls: w.polls,
        busy_polls: w.busy_polls,
        received: w.received,
        sessions: w.sessions,
        max_sessions: w.max_sessions,
        sample: status::Sample {
            milliseconds: load.milliseconds,
            polls: load.polls,
            busy_polls: load.busy_polls,
            received: load.received,
            busy_permille: load.busy_permille(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_what_happened_between_two_looks() {
        let at = |polls, busy_polls, received| WorkerStatus {
            polls,
            busy_polls,
            received,
            ..WorkerStatus::default()
        };
        let load = Load::between(Some(&at(1000, 10, 20)), &at(2000, 260, 1020), Duration::from_millis(500));
        assert_eq!(
            (load.busy_permille(), load.frames_millis(), load.packets_per_second()),
            (250, 4000, 2000)
        );
        let idle = Load::between(None, &at(0, 0, 0), Duration::ZERO);
        assert_eq!((idle.busy_permille(), idle.frames_millis(), idle.packets_per_second()), (0, 0, 0));
    }
}
