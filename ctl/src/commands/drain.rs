//! `weirctl drain` and `undrain`.
//!
//! Draining is one change, made at once; the rest is watching. However that ends, the server stays drained, and the
//! last line tells what is left and how to undo it.
//!
//! The server is drained when none of its sessions can carry data any more: those in TIME_WAIT and CLOSE only wait to
//! expire. Persistence templates don't count, but still lead clients to the server: they are reported, or ended.

use std::{collections::VecDeque, io, time::Duration};

use weir_api::{
    documents::{
        Body,
        change::{Drain, DrainState, Undrain},
    },
    model::ServiceKey,
    protocol::{Change, ServerRow},
};

use super::{
    Failure, Wake, World,
    cli::{DrainArgs, UndrainArgs},
    fetch, json,
    left::{self, Left},
    names, sessions,
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
    let (address, port) = (row.server.address, row.server.port);
    world.pace.catch_interrupts()?;
    change(Change::Drain { service: key, address, port }, world)?;
    let ended = if args.templates { left::end_templates(key, (address, port), world.transport)? } else { 0 };
    let mut watch = Watch {
        name: format!("{} of {}", names::endpoint(address, port), names::service(&key)),
        undo: format!("weirctl undrain {} {}", names::service(&key), names::endpoint(address, port)),
        start: world.pace.now(),
        first: 0,
        seen: VecDeque::new(),
        written: None,
        json: args.json,
        key,
        row,
        killed: 0,
        templates_ended: ended,
        all: args.all_sessions,
    };
    watch.run(args, world)
}

pub(super) fn undrain(args: &UndrainArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let (key, row) = find(&args.service, args.server, world)?;
    let (address, port) = (row.server.address, row.server.port);
    change(Change::Undrain { service: key, address, port, weight: args.weight }, world).map_err(
        |failure| match failure {
            Failure::Refused(why) => Failure::Refused(format!("{why}; set one with --weight N")),
            other => other,
        },
    )?;
    let listed = fetch::service(world.transport, key)?;
    let weight = fetch::server(&listed, address, Some(port))?.server.weight;
    let (service, server) = (names::service(&key), names::endpoint(address, port));
    if args.json {
        json::write(world.out, Body::Undrain(Undrain { service, server, weight }))?;
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
    templates_ended: u64,
    /// All sessions are waited for, and templates.
    all: bool,
}

impl Watch {
    fn run(&mut self, args: &DrainArgs, world: &mut World<'_>) -> Result<(), Failure> {
        let seconds = |s: Option<u32>| s.map(|s| Duration::from_secs(s.into()));
        let (timeout, kill_after) = (seconds(args.timeout), seconds(args.kill_after));
        let mut killed = false;
        loop {
            let left = self.count(world)?;
            let passed = world.pace.now().saturating_sub(self.start);
            if self.waited_for(left) == 0 {
                return self.end(world, DrainState::Drained, left, passed);
            }
            if kill_after.is_some_and(|after| passed >= after) && !killed {
                let place = (self.row.server.address, self.row.server.port);
                // Else their clients would be back at once.
                self.templates_ended += left::end_templates(self.key, place, world.transport)?;
                let filter = sessions::of_server(self.key, place.0, place.1);
                self.killed += sessions::kill(world.transport, filter)?;
                killed = true;
                continue;
            }
            if timeout.is_some_and(|timeout| passed >= timeout) {
                return self.end(world, DrainState::Timeout, left, passed);
            }
            self.show(world, left, passed)?;
            let until = [timeout, kill_after.filter(|_| !killed)].into_iter().flatten().min();
            let most = until.map_or(STEP, |u| STEP.min(u.saturating_sub(passed)));
            match world.pace.wait(most) {
                Wake::Interrupt => return self.end(world, DrainState::Interrupted, left, passed),
                Wake::Time | Wake::News | Wake::Gone | Wake::Resized => {}
            }
        }
    }

    /// What has to end before the server is done with.
    fn waited_for(&self, left: Left) -> u64 {
        if self.all { left.live + left.closing + left.templates } else { left.live }
    }

    /// What is left; a server that was deleted meanwhile has nothing.
    fn count(&mut self, world: &mut World<'_>) -> Result<Left, Failure> {
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
        let left = left::count(&self.key, &self.row, world.transport)?;
        let (now, waited_for) = (world.pace.now(), self.waited_for(left));
        self.first = self.first.max(waited_for);
        self.seen.push_back((now, waited_for));
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

    fn show(&mut self, world: &mut World<'_>, left: Left, passed: Duration) -> io::Result<()> {
        let now = world.pace.now();
        let due = self.written.is_none_or(|at| now.saturating_sub(at) >= LINE);
        if self.json {
            if due {
                self.written = Some(now);
                self.document(world, DrainState::Draining, left, passed)?;
            }
            return Ok(());
        }
        let waited_for = self.waited_for(left);
        let eta = self.eta(waited_for).map_or("ETA unknown".into(), |s| format!("ETA {}", names::seconds(s)));
        let (rate, live) = (self.rate(), left.live);
        let progress =
            format!("{live} sessions left, {}.{}/s, {eta}{}", rate / 1000, rate / 100 % 10, left.beside());
        if world.progress {
            let done = (self.first - waited_for) * BAR / self.first.max(1);
            let bar: String = (0..BAR).map(|n| if n < done { '#' } else { '.' }).collect();
            write!(world.err, "\r\x1b[K[{bar}] {progress}")?;
            world.err.flush()
        } else if due {
            self.written = Some(now);
            writeln!(world.err, "{}: {progress}", self.name)
        } else {
            Ok(())
        }
    }

    fn document(
        &self,
        world: &mut World<'_>,
        state: DrainState,
        left: Left,
        passed: Duration,
    ) -> io::Result<()> {
        let s = &self.row.server;
        let drain = Drain {
            service: names::service(&self.key),
            server: names::endpoint(s.address, s.port),
            state,
            sessions: left.live,
            closing: left.closing,
            templates: left.templates,
            sessions_at_start: self.first,
            killed: self.killed,
            templates_ended: self.templates_ended,
            elapsed_ms: passed.as_millis() as u64,
            eta_ms: self.eta(self.waited_for(left)).map(|s| s * 1000),
        };
        json::write(world.out, Body::Drain(drain))
    }

    fn end(
        &self,
        world: &mut World<'_>,
        state: DrainState,
        left: Left,
        passed: Duration,
    ) -> Result<(), Failure> {
        if world.progress && !self.json {
            write!(world.err, "\r\x1b[K")?;
        }
        if self.json {
            self.document(world, state, left, passed)?;
        }
        let ended = |what: &str, n| if n == 0 { String::new() } else { format!(", {n} {what} were ended") };
        let killed = ended("sessions", self.killed) + &ended("templates", self.templates_ended);
        let beside = left.beside() + left.advice();
        if state == DrainState::Drained {
            if !self.json {
                let time = names::seconds(passed.as_secs());
                let empty = if left.closing == 0 { "is empty" } else { "carries no more data" };
                writeln!(
                    world.out,
                    "{} {empty} after {time}{killed}{beside}; undo: {}",
                    self.name, self.undo
                )?;
            }
            return Ok(());
        }
        Err(Failure::Unfinished(format!(
            "{}: {} stays drained (weight 0) with {} sessions left{killed}{beside}; undo: {}",
            if state == DrainState::Timeout { "time is up" } else { "interrupted" },
            self.name,
            left.live,
            self.undo
        )))
    }
}
