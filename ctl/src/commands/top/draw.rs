//! The screen, from 80 by 24 on.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line as Text, Span},
    widgets::{Paragraph, Row, Sparkline, Table},
};
use weir_api::model::Rates;

use super::{
    board::{Board, BoardLine},
    draw_panes,
    panes::Pane,
};
use crate::commands::{cli::SortKey, names};

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Width of a service's sparkline.
const SPARK: usize = 8;

/// One of the rates.
type RateOf = fn(&Rates) -> u64;

/// Draws everything.
pub fn draw(board: &mut Board, frame: &mut Frame<'_>) {
    let [head, graphs, table, help] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(4),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    board.room = usize::from(table.height.saturating_sub(1));
    frame.render_widget(Paragraph::new(headline(board)), head);
    draw_graphs(board, frame, graphs);
    match board.pane {
        Pane::Services => draw_table(board, frame, table),
        Pane::Drops => draw_panes::drops(board, frame, table),
        Pane::Workers => draw_panes::workers(board, frame, table),
    }
    frame.render_widget(Paragraph::new(help_line(board)), help);
}

fn headline(board: &Board) -> Vec<Text<'static>> {
    let s = &board.status;
    let (sessions, limit) = board.sessions();
    let (busy, polls) = s.workers.iter().fold((0, 0), |(b, p), w| (b + w.busy_polls, p + w.polls));
    let share = (busy * 100).checked_div(polls).unwrap_or(0);
    let first = format!(
        "weir {}  up {}  generation {}  {} services  {} servers",
        s.version,
        names::seconds(s.uptime / 1000),
        s.generation,
        s.services,
        s.servers
    );
    let second =
        format!("{sessions} of {limit} sessions  {} workers  {share}% of polls busy", s.workers.len());
    let mut second = vec![Span::raw(second)];
    if !s.warnings.is_empty() {
        let text = format!("  {} warnings: see weirctl status", s.warnings.len());
        second.push(Span::styled(text, board.tone(Color::Yellow)));
    }
    vec![Text::styled(first, Modifier::BOLD), Text::from(second)]
}

fn draw_graphs(board: &Board, frame: &mut Frame<'_>, area: Rect) {
    let columns: [Rect; 3] = Layout::horizontal([Constraint::Ratio(1, 3); 3]).spacing(1).areas(area);
    let graphs: [(&str, RateOf); 3] = [
        ("connections/s", |r| r.connections),
        ("packets/s", |r| r.in_packets + r.out_packets),
        ("bytes/s", |r| r.in_bytes + r.out_bytes),
    ];
    for (column, (name, of)) in columns.into_iter().zip(graphs) {
        let [title, bars] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(column);
        let latest = board.totals().next_back().map_or(0, of);
        frame.render_widget(Paragraph::new(format!("{} {name}", names::short(latest))), title);
        let mut data: Vec<u64> = board.totals().map(of).collect();
        data.drain(..data.len().saturating_sub(bars.width.into()));
        frame.render_widget(Sparkline::default().data(&data).style(board.tone(Color::Green)), bars);
    }
}

fn draw_table(board: &Board, frame: &mut Frame<'_>, area: Rect) {
    let title = |name: &str, sort: Option<SortKey>| {
        let chosen = sort == Some(board.sort);
        format!(
            "{name}{}",
            if !chosen {
                ""
            } else if board.reverse {
                "^"
            } else {
                "v"
            }
        )
    };
    let right = |text: String| Text::from(text).right_aligned();
    let head = Row::new([
        Text::from(title("SERVICE / SERVER", Some(SortKey::Name))),
        right(title("WEIGHT", None)),
        right(title("ACTIVE", Some(SortKey::Active))),
        right(title("INACT", None)),
        right(title("CONN/S", Some(SortKey::Connections))),
        right(title("PKT/S", Some(SortKey::Packets))),
        right(title("BYTE/S", Some(SortKey::Bytes))),
        Text::from(""),
    ]);
    let rows = board.lines(board.room).into_iter().map(|line| row(board, &line));
    let widths = [
        Constraint::Min(25),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(SPARK as u16),
    ];
    let table = Table::new(rows, widths).header(head.style(Modifier::REVERSED)).column_spacing(1);
    frame.render_widget(table, area);
}

fn row(board: &Board, line: &BoardLine) -> Row<'static> {
    let number = |n: u64| Text::from(names::short(n)).right_aligned();
    let r = &line.rates;
    let name = if line.is_server { format!("  {}", line.name) } else { line.name.clone() };
    let style = match line.weight {
        None => Style::new().add_modifier(Modifier::BOLD),
        Some(0) => board.tone(Color::Yellow),
        Some(_) => Style::new(),
    };
    Row::new([
        Text::from(name),
        Text::from(line.weight.map(|w| w.to_string()).unwrap_or_default()).right_aligned(),
        number(line.active),
        number(line.inactive),
        number(r.connections),
        number(r.in_packets + r.out_packets),
        number(r.in_bytes + r.out_bytes),
        Text::from(spark(&line.history)),
    ])
    .style(style)
}

/// The last looks as a row of bars, the greatest full.
fn spark(history: &[u64]) -> String {
    let last = &history[history.len().saturating_sub(SPARK)..];
    let most = last.iter().max().copied().unwrap_or(0).max(1);
    let bar = |n: &u64| BARS[(u128::from(*n) * (BARS.len() as u128 - 1) / u128::from(most)) as usize];
    last.iter().map(bar).collect()
}

fn help_line(board: &Board) -> Text<'static> {
    let sort = match board.sort {
        SortKey::Connections => "connections",
        SortKey::Packets => "packets",
        SortKey::Bytes => "bytes",
        SortKey::Active => "active",
        SortKey::Name => "name",
    };
    let state = if board.paused { "PAUSED " } else { "" };
    let table = match board.pane {
        Pane::Services => format!("tab drops  s sort: {sort}  r reverse  v servers"),
        Pane::Drops => "tab workers  weirctl stats has the whole advice".to_owned(),
        Pane::Workers => "tab services".to_owned(),
    };
    let text = format!("{state}q quit  {table}  p pause  up/down");
    Text::styled(text, Modifier::REVERSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparks_are_scaled_to_the_greatest() {
        assert_eq!(spark(&[0, 7, 14]), "▁▄█");
        assert_eq!(spark(&[0, 0]), "▁▁");
        assert_eq!(spark(&[u64::MAX; 20]).chars().count(), SPARK);
        assert_eq!(spark(&[]), "");
    }
}
