//! The services with their servers, in pieces.

use std::{fmt::Display, net::SocketAddr, sync::Arc};

use hyper::body::Bytes;
use weir_api::protocol::ServerRow;

use super::{
    super::look::Look,
    html::{Html, State},
};
use weir_api::documents::parts::Method;

use crate::commands::{fetch::Listed, names::short};

/// Services on one page.
pub(super) const MAX_SERVICES: usize = 1000;
/// Servers of one service on a page.
const MAX_SERVERS: usize = 1000;
/// With more services than these, each is folded at first.
const OPEN: usize = 10;
/// Bytes of a piece, roughly.
const PIECE: usize = 32 << 10;

/// Makes the pieces.
pub(super) struct Services {
    look: Arc<Look>,
    /// Indices of those that are shown.
    shown: std::vec::IntoIter<usize>,
    open: bool,
    /// How many the filter has found.
    found: usize,
    step: Step,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Head,
    Rows,
    Done,
}

impl Services {
    pub(super) fn new(look: Arc<Look>, filter: String) -> Self {
        let matches = |listed: &Listed| filter.is_empty() || has(listed, &filter);
        let found: Vec<usize> =
            look.services.iter().enumerate().filter(|(_, listed)| matches(listed)).map(|(n, _)| n).collect();
        let count = found.len();
        let shown: Vec<usize> = found.into_iter().take(MAX_SERVICES).collect();
        Self { look, open: shown.len() <= OPEN, shown: shown.into_iter(), found: count, step: Step::Head }
    }

    fn head(&self, html: &mut Html) {
        html.raw("<section id=\"services\"><h2>Virtual services</h2><p>");
        let shown = self.shown.len();
        let all = self.look.brief.status.services;
        html.text(format!("{shown} of {all}. "));
        if shown < self.found {
            html.text("Filter to see others. ");
        }
        html.raw(
            "<button type=\"button\" class=\"fold\" hidden>Unfold all</button></p>\n<div class=\"s h\" aria-hidden=\"true\">\
             <span>service</span><span>state</span><span>scheduler</span><span class=\"n\">active</span>\
             <span class=\"n\">inactive</span><span class=\"n\">conns/s</span><span class=\"n\">packets/s</span>\
             <span class=\"n\">bits/s</span><span>last minutes</span></div>\n",
        );
    }
}

impl Iterator for Services {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut html = Html::default();
        if self.step == Step::Done {
            return None;
        }
        if self.step == Step::Head {
            self.head(&mut html);
            self.step = Step::Rows;
        }
        while html.len() < PIECE {
            let Some(listed) = self.shown.next().and_then(|n| self.look.services.get(n)) else {
                html.raw("</section>\n");
                self.step = Step::Done;
                break;
            };
            service(listed, self.open, &mut html);
        }
        Some(html.into_bytes())
    }
}

/// Whether a service or one of its servers has `filter` in its name.
fn has((row, servers): &Listed, filter: &str) -> bool {
    row.service.key.to_string().to_lowercase().contains(filter)
        || row.service.scheduler.to_lowercase().contains(filter)
        || servers.iter().any(|server| endpoint(server).to_string().contains(filter))
}

fn endpoint(row: &ServerRow) -> SocketAddr {
    SocketAddr::new(row.server.address, row.server.port)
}

fn service(listed: &Listed, open: bool, html: &mut Html) {
    let (row, servers) = listed;
    let (rates, name) = (&row.rates, row.service.key.to_string());
    html.raw("<details class=\"s\" data-k=\"");
    html.text(&name);
    html.raw("\" data-r=\"");
    html.text(rates.in_packets.saturating_add(rates.out_packets));
    html.raw(if open { "\" open><summary><span class=\"k\">" } else { "\"><summary><span class=\"k\">" });
    html.text(&name);
    html.raw("</span><span>");
    let (state, text) = service_state(servers);
    html.badge(state, text);
    html.raw("</span><span>");
    html.text(&row.service.scheduler);
    html.raw("</span>");
    let sum = |of: fn(&ServerRow) -> u32| servers.iter().map(|s| u64::from(of(s))).sum::<u64>();
    let bits = rates.in_bytes.saturating_add(rates.out_bytes).saturating_mul(8);
    for (what, number) in [
        ("active", sum(|s| s.active)),
        ("inactive", sum(|s| s.inactive)),
        ("conns/s", rates.connections),
        ("packets/s", rates.in_packets.saturating_add(rates.out_packets)),
        ("bits/s", bits),
    ] {
        html.raw("<span class=\"n\"><i>");
        html.text(what);
        html.raw(" </i>");
        html.text(short(number));
        html.raw("</span>");
    }
    html.raw("<span class=\"spark\"></span></summary>\n");
    table(servers, html);
    html.raw("</details>\n");
}

fn service_state(servers: &[ServerRow]) -> (State, String) {
    let up = servers.iter().filter(|s| server_state(s).0 == State::Good).count();
    let state = match (up, servers.len()) {
        (0, _) => State::Bad,
        (up, all) if up < all => State::Care,
        _ => State::Good,
    };
    let text = match servers.len() {
        0 => "no server".to_owned(),
        all => format!("{up} of {all} take sessions"),
    };
    (state, text)
}

fn server_state(row: &ServerRow) -> (State, &'static str) {
    let sessions = u64::from(row.active) + u64::from(row.inactive);
    match row.server {
        ref server if server.weight == 0 && sessions > 0 => (State::Care, "draining"),
        ref server if server.weight == 0 => (State::Care, "weight 0"),
        ref server if server.upper > 0 && sessions >= server.upper.into() => (State::Care, "full"),
        _ => (State::Good, "takes sessions"),
    }
}

fn table(servers: &[ServerRow], html: &mut Html) {
    if servers.is_empty() {
        return html.raw("<p>It has no server: weirctl -a adds one.</p>");
    }
    html.table(&[
        "server",
        "state",
        "method",
        ">weight",
        ">active",
        ">inactive",
        ">limit",
        ">sessions",
        ">packets in",
        ">out",
        ">bytes in",
        ">out",
        ">conns/s",
        ">packets/s",
    ]);
    for row in servers.iter().take(MAX_SERVERS) {
        let (stats, rates) = (&row.stats, &row.rates);
        html.raw("<tr>");
        html.cell(endpoint(row));
        let (state, text) = server_state(row);
        html.state(state, text);
        html.cell(Method::from(row.server.forwarding).name());
        let limit: &dyn Display = if row.server.upper == 0 { &"\u{2013}" } else { &row.server.upper };
        html.number(row.server.weight);
        html.number(row.active);
        html.number(row.inactive);
        html.number(limit);
        for count in [stats.connections, stats.in_packets, stats.out_packets, stats.in_bytes, stats.out_bytes]
        {
            html.number(short(count));
        }
        html.number(short(rates.connections));
        html.number(short(rates.in_packets.saturating_add(rates.out_packets)));
        html.raw("</tr>\n");
    }
    html.end_table();
    if let Some(more @ 1..) = servers.len().checked_sub(MAX_SERVERS) {
        html.raw("<p>And ");
        html.text(more);
        html.raw(" more servers: weirctl stats has them.</p>");
    }
}
