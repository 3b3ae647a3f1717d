//! The page's parts but for the services.

use std::time::{SystemTime, UNIX_EPOCH};

use weir_api::model::event::EVENT_KINDS;

use super::{
    super::{
        health,
        look::{Brief, Look, total},
    },
    html::{Html, State},
};
use crate::commands::names::{seconds, short};

/// Events that the page shows.
const EVENTS: usize = 5;

pub(super) fn write(look: &Look, html: &mut Html) {
    let brief = &look.brief;
    summary(brief, html);
    warnings(brief, html);
    drops(brief, html);
    ports(brief, html);
    workers(brief, html);
    local_addresses(brief, html);
    snat(brief, html);
    events(brief, html);
}

fn section(html: &mut Html, id: &str, title: &str) {
    html.raw("<section id=\"");
    html.text(id);
    html.raw("\"><h2>");
    html.text(title);
    html.raw("</h2>\n");
}

fn end(html: &mut Html) {
    html.raw("</section>\n");
}

fn summary(brief: &Brief, html: &mut Html) {
    let status = &brief.status;
    section(html, "summary", "Gateway");
    html.raw("<p>");
    let reasons = health::readiness(brief);
    match reasons.as_slice() {
        [] => html.badge(State::Good, "ready"),
        some => html.badge(State::Bad, format!("not ready: {}", some.join("; "))),
    }
    html.raw("</p><dl>");
    let sessions: u64 = status.workers.iter().map(|w| u64::from(w.sessions)).sum();
    let limit: u64 = status.workers.iter().map(|w| u64::from(w.max_sessions)).sum();
    let dropped: u64 = brief.counters.iter().filter(|c| c.advice.is_some()).map(total).sum();
    let rate: f64 = brief.loads.iter().map(|load| load.rate).sum();
    for (name, value) in [
        ("version", status.version.clone()),
        ("up", seconds(status.uptime / 1000)),
        ("generation", status.generation.to_string()),
        ("services", status.services.to_string()),
        ("servers", status.servers.to_string()),
        ("sessions", format!("{} of {}", short(sessions), short(limit))),
        ("packets/s", short(rate as u64)),
        ("forwarded", short(brief.counter("forwarded"))),
        ("handed over", short(brief.counter("handed-over"))),
        ("to the kernel", short(brief.counter("punted"))),
        ("dropped", short(dropped)),
    ] {
        html.raw("<div><dt>");
        html.text(name);
        html.raw("</dt><dd>");
        html.text(value);
        html.raw("</dd></div>");
    }
    html.raw("</dl>");
    end(html);
}

fn warnings(brief: &Brief, html: &mut Html) {
    section(html, "warnings", "Warnings");
    if brief.status.warnings.is_empty() {
        html.raw("<p>None.</p>");
    } else {
        html.raw("<ul>");
        for warning in &brief.status.warnings {
            html.raw("<li>");
            html.badge(State::Care, warning);
            html.raw("</li>");
        }
        html.raw("</ul>");
    }
    end(html);
}

/// The latest ones, the newest first.
fn events(brief: &Brief, html: &mut Html) {
    section(html, "events", "Events");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    if brief.events.events.is_empty() {
        html.raw("<p>None.</p>");
        return end(html);
    }
    html.table(&[">ago", "event", "what happened"]);
    for event in brief.events.events.iter().rev().take(EVENTS) {
        html.raw("<tr>");
        html.number(seconds(now.saturating_sub(event.time) / 1000));
        let trouble = EVENT_KINDS.iter().any(|(kind, name, _)| *name == event.kind && kind.is_trouble());
        html.state(if trouble { State::Bad } else { State::Good }, &event.kind);
        html.cell(&event.text);
        html.raw("</tr>\n");
    }
    html.end_table();
    end(html);
}

fn drops(brief: &Brief, html: &mut Html) {
    section(html, "drops", "Dropped packets");
    let mut drops: Vec<_> =
        brief.counters.iter().filter_map(|c| Some((c, c.advice.as_ref()?, total(c)))).collect();
    drops.retain(|(_, _, count)| *count > 0);
    drops.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
    if drops.is_empty() {
        html.raw("<p>None.</p>");
        return end(html);
    }
    html.table(&["reason", ">packets", ">/s", "what it means and what to do"]);
    for (counter, advice, count) in drops {
        html.raw("<tr data-drop=\"");
        html.text(&counter.name);
        html.raw("\" data-total=\"");
        html.text(count);
        html.raw("\">");
        html.cell(&counter.name);
        html.number(count);
        // The script knows what there was before.
        html.raw("<td class=\"n rate\"></td>");
        html.cell(advice);
        html.raw("</tr>\n");
    }
    html.end_table();
    end(html);
}

fn ports(brief: &Brief, html: &mut Html) {
    section(html, "ports", "Ports");
    html.table(&[
        "port",
        "state",
        "device",
        "driver",
        ">MTU",
        ">queues",
        "RSS",
        ">buffers",
        ">received",
        ">sent",
        ">missed",
        ">errors",
    ]);
    for port in &brief.status.ports {
        let c = &port.counters;
        html.raw("<tr>");
        html.cell(&port.name);
        match (port.faults.as_slice(), port.up, port.speed) {
            ([], true, Some(megabits)) => {
                html.state(State::Good, format!("up, {}b/s", short(u64::from(megabits) * 1_000_000)));
            }
            ([], true, None) => html.state(State::Good, "up"),
            ([], false, _) => html.state(State::Bad, "no link"),
            (faults, ..) => html.state(State::Bad, faults.join("; ")),
        }
        html.cell(&port.device);
        html.cell(&port.driver);
        html.number(port.mtu);
        html.number(port.rx_queues);
        match &port.no_rss {
            None => html.cell("yes"),
            Some(why) => html.cell(format!("no: {why}")),
        }
        html.number(format!("{} of {}", short(port.buffers_used.into()), short(port.buffers.into())));
        for count in [c.rx_packets, c.tx_packets, c.rx_missed + c.rx_no_buffer, c.rx_errors + c.tx_errors] {
            html.number(short(count));
        }
        html.raw("</tr>\n");
    }
    html.end_table();
    end(html);
}

fn workers(brief: &Brief, html: &mut Html) {
    section(html, "workers", "Workers");
    html.table(&["worker", "state", ">busy", ">packets/poll", ">packets/s", ">sessions", ">limit"]);
    for (n, worker) in brief.status.workers.iter().enumerate() {
        let load = brief.loads.get(n).copied().unwrap_or_default();
        html.raw("<tr>");
        html.cell(n);
        match State::of_use(worker.sessions.into(), worker.max_sessions.into()) {
            _ if brief.hanging.contains(&n) => html.state(State::Bad, "polls no more"),
            State::Good => html.state(State::Good, "polls"),
            state => html.state(state, "session table nearly full"),
        }
        html.number(format!("{:.1} %", load.busy * 100.0));
        html.number(format!("{:.1}", load.frames));
        html.number(short(load.rate as u64));
        html.number(worker.sessions);
        html.number(worker.max_sessions);
        html.raw("</tr>\n");
    }
    html.end_table();
    end(html);
}

/// Local addresses that are listed: the fullest come first.
const ADDRESSES: usize = 50;

fn local_addresses(brief: &Brief, html: &mut Html) {
    let uses = &brief.status.local_addresses;
    if uses.is_empty() {
        return;
    }
    section(html, "local-addresses", "Local addresses");
    html.table(&["address", "state", ">ports used", ">busiest server", ">of"]);
    for row in uses.iter().take(ADDRESSES) {
        html.raw("<tr>");
        html.cell(row.address);
        match State::of_use(row.busiest.into(), row.ports.into()) {
            State::Good => html.state(State::Good, "room"),
            state => html.state(state, "nearly full"),
        }
        html.number(row.used);
        html.number(row.busiest);
        html.number(row.ports);
        html.raw("</tr>\n");
    }
    html.end_table();
    if let Some(more @ 1..) = uses.len().checked_sub(ADDRESSES) {
        html.raw("<p>And ");
        html.text(more);
        html.raw(" that are less full.</p>");
    }
    end(html);
}

fn snat(brief: &Brief, html: &mut Html) {
    if brief.snat.is_empty() {
        return;
    }
    section(html, "snat", "SNAT rules");
    html.table(&[
        "rule",
        "inside",
        "port",
        ">sessions",
        ">opened",
        ">packets out",
        ">in",
        ">bytes out",
        ">in",
    ]);
    for row in &brief.snat {
        html.raw("<tr>");
        html.cell(&row.rule.name);
        html.cell(format!("{}/{}", row.rule.inside.0, row.rule.inside.1));
        html.cell(&row.rule.port);
        html.number(row.sessions);
        let s = &row.stats;
        for count in [s.connections, s.in_packets, s.out_packets, s.in_bytes, s.out_bytes] {
            html.number(short(count));
        }
        html.raw("</tr>\n");
    }
    html.end_table();
    end(html);
}
