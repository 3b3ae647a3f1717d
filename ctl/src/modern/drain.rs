//! `weirctl drain` and `undrain`.
//!
//! Draining is one change, made at once; all the rest is watching. However the watching ends, the server
//! stays drained, and the last line says what is left and how to undo it.

use std::{collections::VecDeque, io, time::Duration};

use serde_json::json;

use super::{
    Failure, Wake, World,
    cli::{DrainArgs, UndrainArgs},
    fetch, json, names, sessions,
};
use crate::{
    model::ServiceKey,
    protocol::{Change, ServerRow},
};

/// How often sessions are counted.
const STEP: Duration = Duration::from_millis(500);
/// How often a line is written where nothing can be redrawn.
const LINE: Duration = Duration::from_secs(10);
/// Over how long the rate is measured.
const WINDOW: Duration = Duration::from_secs(15);
/// Cells of the bar.
const BAR: u64 = 30;

pub(super) fn drain(args: &DrainArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let (key, row) = find(&args.service, args.server, world)?;
    let server = &row.server;
    world.pace.catch_interrupts()?;
    change(Change::Drain { service: key, address: server.address, port: server.port }, world)?;
    let mut watch = Watch {
        name: format!("{} of {}", names::endpoint(server.address, server.port), names::service(&key)),
        undo: format!(
            "weirctl undrain {} {}",
            names::service(&key),
            names::endpoint(server.address, server.port)
        ),
        start: world.pace.now(),
        first: sessions_of(&row),
        seen: VecDeque::new(),
        written: None,
        json: args.json,
        key,
        row,
        killed: 0,
    };
    watch.run(args, world)
}

pub(super) fn undrain(args: &UndrainArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let (key, row) = find(&args.service, args.server, world)?;
    let (address, port) = (row.server.address, row.server.port);
    change(Change::Undrain { service: key, address, port, weight: args.weight }, world).map_err(
        |failure| match failure {
            Failure::Refused(why) => Failure::Refused(format!("{why}; --weight N gives it one")),
            other => other,
        },
    )?;
    let listed = fetch::service(world.transport, key)?;
    let weight = fetch::server(&listed, address, Some(port))?.server.weight;
    let (service, server) = (names::service(&key), names::endpoint(address, port));
    if args.json {
        json::write(world.out, "undrain", json!({ "service": service, "server": server, "weight": weight }))?;
    } else {
        writeln!(world.out, "{server} of {service} has weight {weight}")?;
    }
    Ok(())
}

fn find(
    service: &names::ServiceName,
    server: (std::net::IpAddr, Option<u16>),
    world: &mut World<'_>,
) -> Result<(ServiceKey, ServerRow), Failure> {
    let key = fetch::resolve(world.transport, service)?;
    let listed = fetch::service(world.transport, key)?;
    Ok((key, fetch::server(&listed, server.0, server.1)?))
}

fn change(change: Change, world: &mut World<'_>) -> Result<(), Failure> {
    match fetch::apply(world.transport, &[change], None)? {
        Ok(_) => Ok(()),
        Err(refusal) => Err(refusal.into()),
    }
}

fn sessions_of(row: &ServerRow) -> u64 {
    u64::from(row.active) + u64::from(row.inactive) + u64::from(row.persistent)
}

struct Watch {
    name: String,
    undo: String,
    start: Duration,
    /// Sessions at the start.
    first: u64,
    /// When how many were left.
    seen: VecDeque<(Duration, u64)>,
    written: Option<Duration>,
    json: bool,
    key: ServiceKey,
    row: ServerRow,
    killed: u64,
}

impl Watch {
    fn run(&mut self, args: &DrainArgs, world: &mut World<'_>) -> Result<(), Failure> {
        let seconds = |s: Option<u32>| s.map(|s| Duration::from_secs(s.into()));
        let (timeout, kill_after) = (seconds(args.timeout), seconds(args.kill_after));
        let mut killed = false;
        loop {
            let left = self.count(world)?;
            let passed = world.pace.now().saturating_sub(self.start);
            if left == 0 {
                return self.end(world, "drained", 0, passed);
            }
            if kill_after.is_some_and(|after| passed >= after) && !killed {
                let filter = sessions::of_server(self.key, self.row.server.address, self.row.server.port);
                self.killed += sessions::kill(world.transport, filter)?;
                // Persistence templates aren't sessions: what is left now is waited for.
                killed = true;
                continue;
            }
            if timeout.is_some_and(|timeout| passed >= timeout) {
                return self.end(world, "timeout", left, passed);
            }
            self.show(world, left, passed)?;
            let until = [timeout, kill_after.filter(|_| !killed)].into_iter().flatten().min();
            let most = until.map_or(STEP, |u| STEP.min(u.saturating_sub(passed)));
            match world.pace.wait(most) {
                Wake::Interrupt => return self.end(world, "interrupted", left, passed),
                Wake::Time | Wake::News | Wake::Gone => {}
            }
        }
    }

    /// Sessions left; a server that was deleted meanwhile has none.
    fn count(&mut self, world: &mut World<'_>) -> Result<u64, Failure> {
        let listed = fetch::service(world.transport, self.key)?;
        let (address, port) = (self.row.server.address, self.row.server.port);
        self.row = fetch::server(&listed, address, Some(port))
            .map_err(|_| Failure::Refused(format!("{} was deleted meanwhile", self.name)))?;
        if self.row.server.weight != 0 {
            let message = format!(
                "somebody gave {} weight {} meanwhile: it isn't drained any more",
                self.name, self.row.server.weight
            );
            return Err(Failure::Refused(message));
        }
        let (now, left) = (world.pace.now(), sessions_of(&self.row));
        self.first = self.first.max(left);
        self.seen.push_back((now, left));
        while self.seen.front().is_some_and(|(at, _)| now.saturating_sub(*at) > WINDOW) {
            self.seen.pop_front();
        }
        Ok(left)
    }

    /// Sessions that end a second, in thousandths.
    fn rate(&self) -> u64 {
        let (Some((t0, n0)), Some((t1, n1))) = (self.seen.front(), self.seen.back()) else { return 0 };
        let time = t1.saturating_sub(*t0).as_millis() as u64;
        (n0.saturating_sub(*n1) * 1_000_000).checked_div(time).unwrap_or(0)
    }

    /// Seconds until none is left, if it goes on like this.
    fn eta(&self, left: u64) -> Option<u64> {
        (left * 1000).checked_div(self.rate())
    }

    fn show(&mut self, world: &mut World<'_>, left: u64, passed: Duration) -> io::Result<()> {
        let now = world.pace.now();
        let due = self.written.is_none_or(|at| now.saturating_sub(at) >= LINE);
        if self.json {
            if due {
                self.written = Some(now);
                self.document(world, "draining", left, passed)?;
            }
            return Ok(());
        }
        let eta = self.eta(left).map_or("ETA unknown".into(), |s| format!("ETA {}", names::seconds(s)));
        let rate = self.rate();
        let figures = format!("{left} sessions left, {}.{}/s, {eta}", rate / 1000, rate / 100 % 10);
        if world.progress {
            let done = (self.first - left) * BAR / self.first.max(1);
            let bar: String = (0..BAR).map(|n| if n < done { '#' } else { '.' }).collect();
            write!(world.err, "\r\x1b[K[{bar}] {figures}")?;
            world.err.flush()
        } else if due {
            self.written = Some(now);
            writeln!(world.err, "{}: {figures}", self.name)
        } else {
            Ok(())
        }
    }

    fn document(&self, world: &mut World<'_>, state: &str, left: u64, passed: Duration) -> io::Result<()> {
        let s = &self.row.server;
        let body = json!({
            "service": names::service(&self.key),
            "server": names::endpoint(s.address, s.port),
            "state": state,
            "sessions": left,
            "sessions_at_start": self.first,
            "killed": self.killed,
            "elapsed_ms": passed.as_millis() as u64,
            "eta_ms": self.eta(left).map(|s| s * 1000),
        });
        json::write(world.out, "drain", body)
    }

    fn end(&self, world: &mut World<'_>, state: &str, left: u64, passed: Duration) -> Result<(), Failure> {
        if world.progress && !self.json {
            write!(world.err, "\r\x1b[K")?;
        }
        if self.json {
            self.document(world, state, left, passed)?;
        }
        let killed = match self.killed {
            0 => String::new(),
            n => format!(", {n} sessions were ended"),
        };
        if left == 0 {
            if !self.json {
                let time = names::seconds(passed.as_secs());
                writeln!(world.out, "{} is empty after {time}{killed}; undo: {}", self.name, self.undo)?;
            }
            return Ok(());
        }
        Err(Failure::Unfinished(format!(
            "{}: {} stays drained (weight 0) with {left} sessions left{killed}; undo: {}",
            if state == "timeout" { "time is up" } else { state },
            self.name,
            self.undo
        )))
    }
}
