//! The tables of drops and workers.

use ratatui::{
    Frame,
    layout::{Constraint, Rect},
    style::{Color, Modifier, Style},
    text::Text,
    widgets::{Row, Table},
};

use super::{
    board::Board,
    panes::{Drop, Worker},
};
use crate::commands::{names, status::tenth, style::clean};

fn number(n: u64) -> Text<'static> {
    Text::from(names::short(n)).right_aligned()
}

fn right(text: impl Into<String>) -> Text<'static> {
    Text::from(text.into()).right_aligned()
}

/// Reasons for which packets were dropped, with advice as far as it fits.
pub(super) fn drops(board: &Board, frame: &mut Frame<'_>, area: Rect) {
    let head = Row::new([Text::from("DROPPED"), right("PKT/S"), right("PKTS"), Text::from("ADVICE")]);
    let row = |drop: &Drop| {
        let style = if drop.rate > 0 { board.tone(Color::Yellow) } else { Style::new() };
        let cells = [
            Text::from(clean(&drop.name)),
            number(drop.rate),
            number(drop.total),
            Text::from(clean(&drop.advice)),
        ];
        Row::new(cells).style(style)
    };
    let rows = board.panes.drops.iter().skip(board.top).take(board.room).map(row);
    let widths = [Constraint::Length(24), Constraint::Length(7), Constraint::Length(7), Constraint::Min(20)];
    let table = Table::new(rows, widths).header(head.style(Modifier::REVERSED)).column_spacing(1);
    frame.render_widget(table, area);
}

/// Each worker's load, sessions and drops.
pub(super) fn workers(board: &Board, frame: &mut Frame<'_>, area: Rect) {
    let titles = ["WORKER", "BUSY", "PKT/S", "PKT/POLL", "DROP/S", "SESSIONS", "LIMIT", "USED"];
    let head = Row::new(titles.map(right));
    let row = |(n, worker): (usize, &Worker)| {
        let (busy, status) = (worker.load.busy_permille(), &worker.status);
        let used = u64::from(status.sessions) * 1000 / u64::from(status.max_sessions.max(1));
        let frames = worker.load.frames_millis();
        let style = match busy.max(used) {
            950.. => board.tone(Color::Red),
            800.. => board.tone(Color::Yellow),
            _ => Style::new(),
        };
        let cells = [
            right(n.to_string()),
            right(tenth(busy)),
            number(worker.load.packets_per_second()),
            right(format!("{}.{}", frames / 1000, frames / 100 % 10)),
            number(worker.drops),
            number(status.sessions.into()),
            number(status.max_sessions.into()),
            right(tenth(used)),
        ];
        Row::new(cells).style(style)
    };
    let rows = board.panes.workers.iter().enumerate().skip(board.top).take(board.room).map(row);
    let table = Table::new(rows, [Constraint::Length(9); 8]).header(head.style(Modifier::REVERSED));
    frame.render_widget(table.column_spacing(1), area);
}
