//! `weirctl stats`: what was counted, how fast, and why packets were dropped.

use std::{collections::HashMap, io, io::Write, time::Duration};

use weir_api::{
    documents::{Body, stats},
    model::{PathCounter, Rates, ServiceKey, Stats},
};

use super::{
    Failure, World,
    cli::StatsArgs,
    fetch::{self, Listed},
    json, names,
    pace::Moment,
    stats_watch,
    style::{Style, Table, Tone, clean},
};

/// What the gateway has counted, at some moment.
pub(super) struct Look {
    /// When, by [`super::Pace::now`] and by the clock on the wall.
    pub at: Duration,
    pub moment: Moment,
    pub services: Vec<Listed>,
    pub counters: Vec<PathCounter>,
    /// Since the look before, and how fast counters have grown since; absent at first.
    pub interval: Option<Duration>,
    pub counter_rates: HashMap<String, u64>,
}

impl Look {
    pub(super) fn new(at: Duration, services: Vec<Listed>, counters: Vec<PathCounter>) -> Self {
        let moment = Moment { since_1970: at, offset: Some(0) };
        Self { at, moment, services, counters, interval: None, counter_rates: HashMap::new() }
    }

    /// A document, with the moment and rates.
    pub(super) fn document(&self) -> Result<String, Failure> {
        let mut body = document(&self.services, &self.counters);
        body.time_ms = Some(self.moment.since_1970.as_millis() as u64);
        body.interval_ms = Some(self.interval.map(|i| i.as_millis() as u64));
        for counter in body.counters.iter_mut().chain(&mut body.drops) {
            counter.rate = Some(self.counter_rates.get(&counter.name).copied());
        }
        let mut text = Vec::new();
        json::write(&mut text, Body::Stats(body))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// For people: the time, then as without `--watch`, with rates.
    pub(super) fn block(
        &self,
        args: &StatsArgs,
        only: Option<ServiceKey>,
        style: Style,
    ) -> Result<String, Failure> {
        let mut text = Vec::new();
        let over =
            self.interval.map(|i| format!("  rates over {:.1} s", i.as_secs_f64())).unwrap_or_default();
        writeln!(text, "{}{over}", style.paint(Tone::Strong, &self.moment.time_of_day()))?;
        if only.is_none() {
            path(&self.counters, args.all, self.interval.map(|_| &self.counter_rates), style, &mut text)?;
        }
        tables(&self.services, style, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

pub(super) fn run(args: &StatsArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let only = args.service.map(|name| fetch::resolve(world.transport, &name)).transpose()?;
    if args.watch {
        return stats_watch::run(args, only, world);
    }
    let Look { services, counters, .. } = look(only, world)?;
    if args.json {
        return Ok(json::write(world.out, Body::Stats(document(&services, &counters)))?);
    }
    if only.is_none() {
        path(&counters, args.all, None, world.style, world.out)?;
    }
    Ok(tables(&services, world.style, world.out)?)
}

/// Asks the gateway.
pub(super) fn look(only: Option<ServiceKey>, world: &mut World<'_>) -> Result<Look, Failure> {
    let services = match only {
        Some(key) => vec![fetch::service(world.transport, key)?],
        None => fetch::services(world.transport, None)?,
    };
    let counters = fetch::counters(world.transport)?;
    let look = Look::new(world.pace.now(), services, counters);
    Ok(Look { moment: world.pace.moment(), ..look })
}

/// A line a counter: name, sum, its rate if rates are known, each worker's share if there are several. Reasons to drop
/// packets are shown where there have been any, with advice.
fn path(
    counters: &[PathCounter],
    all: bool,
    rates: Option<&HashMap<String, u64>>,
    style: Style,
    out: &mut dyn Write,
) -> io::Result<()> {
    for counter in counters {
        let sum = sum(counter);
        if counter.advice.is_some() && sum == 0 && !all {
            continue;
        }
        let mut line = format!("{:<24} {sum:>16}", clean(&counter.name));
        if let Some(rates) = rates {
            line += &format!(" {:>12}/s", rates.get(&counter.name).copied().unwrap_or_default());
        }
        if counter.workers.len() > 1 {
            let shares: Vec<_> = counter.workers.iter().map(u64::to_string).collect();
            line += &format!("  ({})", shares.join(" + "));
        }
        match &counter.advice {
            Some(advice) => writeln!(out, "{}  {}", style.paint(Tone::Care, &line), clean(advice))?,
            None => writeln!(out, "{line}")?,
        }
    }
    Ok(())
}

/// Over all workers.
pub(super) fn sum(counter: &PathCounter) -> u64 {
    counter.workers.iter().fold(0, |sum, n| sum.wrapping_add(*n))
}

fn tables(services: &[Listed], style: Style, out: &mut dyn Write) -> io::Result<()> {
    if services.is_empty() {
        return Ok(());
    }
    let titles = [
        "SERVICE",
        ">ACTIVE",
        ">INACTIVE",
        ">CONNS",
        ">IN PKTS",
        ">OUT PKTS",
        ">IN BYTES",
        ">OUT BYTES",
        ">CONNS/S",
        ">IN PKTS/S",
        ">OUT PKTS/S",
        ">IN B/S",
        ">OUT B/S",
    ];
    let mut table = Table::new(0, &titles);
    for (row, servers) in services {
        let count =
            |f: fn(&weir_api::protocol::ServerRow) -> u32| servers.iter().map(|s| u64::from(f(s))).sum();
        let cells = cells(
            names::service(&row.service.key),
            count(|s| s.active),
            count(|s| s.inactive),
            &row.stats,
            &row.rates,
        );
        table.row(Tone::Strong, cells);
        for s in servers {
            let name = format!("  {}", names::endpoint(s.server.address, s.server.port));
            let tone = if s.server.weight == 0 { Tone::Faint } else { Tone::Plain };
            table.row(tone, cells_of(name, s));
        }
    }
    writeln!(out)?;
    table.write(out, style)
}

fn cells_of(name: String, s: &weir_api::protocol::ServerRow) -> Vec<String> {
    cells(name, s.active.into(), s.inactive.into(), &s.stats, &s.rates)
}

fn cells(name: String, active: u64, inactive: u64, s: &Stats, r: &Rates) -> Vec<String> {
    let counters = [active, inactive, s.connections, s.in_packets, s.out_packets, s.in_bytes, s.out_bytes];
    let rates = [r.connections, r.in_packets, r.out_packets, r.in_bytes, r.out_bytes];
    [name].into_iter().chain(counters.iter().chain(&rates).map(u64::to_string)).collect()
}

fn document(services: &[Listed], counters: &[PathCounter]) -> stats::Statistics {
    let (drops, others): (Vec<&PathCounter>, Vec<&PathCounter>) =
        counters.iter().partition(|c| c.advice.is_some());
    stats::Statistics {
        time_ms: None,
        interval_ms: None,
        counters: others.into_iter().map(Into::into).collect(),
        drops: drops.into_iter().map(Into::into).collect(),
        services: services.iter().map(Into::into).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(name: &str, advice: Option<&str>, workers: &[u64]) -> PathCounter {
        PathCounter { name: name.into(), advice: advice.map(Into::into), workers: workers.into() }
    }

    #[test]
    fn counters_are_summed_and_reasons_come_with_advice() {
        let counters = [
            counter("forwarded", None, &[5]),
            counter("punted", None, &[0]),
            counter("no-route", Some("Look at the routes."), &[1, 2]),
            counter("truncated", Some("Nothing to see."), &[0, 0]),
        ];
        let shown = |all| {
            let mut out = Vec::new();
            path(&counters, all, None, Style::default(), &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let lines = [
            "forwarded                               5",
            "punted                                  0",
            "no-route                                3  (1 + 2)  Look at the routes.",
        ];
        assert_eq!(shown(false), lines.map(|l| format!("{l}\n")).concat());
        assert!(
            shown(true).ends_with("truncated                               0  (0 + 0)  Nothing to see.\n")
        );
        let document = document(&[], &counters);
        assert_eq!(document.drops[0].total, 3);
        assert_eq!(document.counters[0].workers[0], 5);
    }
}
