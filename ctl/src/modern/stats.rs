//! `weirctl stats`: what was counted, how fast, and why packets were dropped.

use std::{io, io::Write, time::Duration};

use serde_json::{Value, json};

use super::{
    Failure, Wake, World,
    cli::StatsArgs,
    fetch::{self, Listed},
    json, names,
    style::{Style, Table, Tone, clean},
};
use crate::{
    model::ServiceKey,
    protocol::{PathCounter, Rates, Stats},
};

/// How long to wait for news before looking anyway.
const PATIENCE: Duration = Duration::from_secs(2);

/// News that follow each other faster are taken together.
const BREATH: Duration = Duration::from_millis(100);

pub(super) fn run(args: &StatsArgs, world: &mut World<'_>) -> Result<(), Failure> {
    let only = args.service.map(|name| fetch::resolve(world.transport, &name)).transpose()?;
    if args.watch {
        world.pace.follow_news();
    }
    loop {
        show(args, only, world)?;
        if !args.watch {
            return Ok(());
        }
        match world.pace.wait(PATIENCE) {
            Wake::Interrupt => return Ok(()),
            Wake::Gone => return Err(Failure::Unreachable("the gateway has closed the connection".into())),
            Wake::News => while world.pace.wait(BREATH) == Wake::News {},
            Wake::Time => {}
        }
    }
}

fn show(args: &StatsArgs, only: Option<ServiceKey>, world: &mut World<'_>) -> Result<(), Failure> {
    let services = match only {
        Some(key) => vec![fetch::service(world.transport, key)?],
        None => fetch::services(world.transport, None)?,
    };
    let counters = fetch::counters(world.transport)?;
    if args.json {
        json::write(world.out, "stats", document(&services, &counters))?;
        return Ok(());
    }
    let mut text = Vec::new();
    if only.is_none() {
        path(&counters, args.all, world.style, &mut text)?;
    }
    tables(&services, world.style, &mut text)?;
    if args.watch && world.style.redraw {
        world.out.write_all(b"\x1b[H\x1b[2J")?;
    } else if args.watch {
        world.out.write_all(b"\n")?;
    }
    world.out.write_all(&text)?;
    Ok(world.out.flush()?)
}

/// A line a counter: name, sum, each worker's share if there are several. Reasons to drop packets are shown
/// where there have been any, with advice.
fn path(counters: &[PathCounter], all: bool, style: Style, out: &mut dyn Write) -> io::Result<()> {
    for counter in counters {
        let sum = sum(counter);
        if counter.advice.is_some() && sum == 0 && !all {
            continue;
        }
        let mut line = format!("{:<24} {sum:>16}", clean(&counter.name));
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

fn sum(counter: &PathCounter) -> u64 {
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
        let count = |f: fn(&crate::protocol::ServerRow) -> u32| servers.iter().map(|s| u64::from(f(s))).sum();
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

fn cells_of(name: String, s: &crate::protocol::ServerRow) -> Vec<String> {
    cells(name, s.active.into(), s.inactive.into(), &s.stats, &s.rates)
}

fn cells(name: String, active: u64, inactive: u64, s: &Stats, r: &Rates) -> Vec<String> {
    let figures = [active, inactive, s.connections, s.in_packets, s.out_packets, s.in_bytes, s.out_bytes];
    let rates = [r.connections, r.in_packets, r.out_packets, r.in_bytes, r.out_bytes];
    [name].into_iter().chain(figures.iter().chain(&rates).map(u64::to_string)).collect()
}

fn document(services: &[Listed], counters: &[PathCounter]) -> Value {
    let counter = |c: &PathCounter| {
        let mut object = json!({ "name": c.name, "total": sum(c), "workers": c.workers });
        if let Some(advice) = &c.advice {
            object["advice"] = advice.clone().into();
        }
        object
    };
    let (drops, others): (Vec<&PathCounter>, Vec<&PathCounter>) =
        counters.iter().partition(|c| c.advice.is_some());
    json!({
        "counters": others.into_iter().map(counter).collect::<Vec<_>>(),
        "drops": drops.into_iter().map(counter).collect::<Vec<_>>(),
        "services": services.iter().map(|(row, servers)| json::service(row, servers)).collect::<Vec<_>>(),
    })
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
            path(&counters, all, Style::default(), &mut out).unwrap();
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
        assert_eq!(document["drops"][0]["total"], 3);
        assert_eq!(document["counters"][0]["workers"][0], 5);
    }
}
