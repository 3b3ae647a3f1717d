//! What `top` shows, and what keys do to it.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
};

use ratatui::style::{Color, Style};
use weir_api::{
    client::Transport,
    model::{Rates, ServiceKey, status::Status},
    protocol::ServerRow,
};

use super::panes::{Pane, Panes};
use crate::commands::{
    Failure,
    cli::SortKey,
    fetch::{self, Listed},
    names,
};

/// Looks that are remembered for sparklines.
pub const HISTORY: usize = 60;

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Enough.
    Quit,
    /// Sort by the next thing.
    Sort,
    /// The other way round.
    Reverse,
    /// Servers too, or not.
    Servers,
    /// The next table.
    NextPane,
    /// This table.
    Pane(Pane),
    /// Stand still, or go on.
    Pause,
    /// A line up.
    Up,
    /// A line down.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardLine {
    /// Service or server.
    pub name: String,
    /// Whether it is a server.
    pub is_server: bool,
    /// Weight, of a server.
    pub weight: Option<u32>,
    /// Active sessions.
    pub active: u64,
    /// Inactive sessions.
    pub inactive: u64,
    /// Rates.
    pub rates: Rates,
    /// What it is sorted by, over time, the latest last; of services only.
    pub history: Vec<u64>,
}

/// Everything that is shown.
pub struct Board {
    /// The gateway.
    pub status: Status,
    /// Services in the order shown.
    pub services: Vec<Listed>,
    /// Sorted by this.
    pub sort: SortKey,
    /// The least first.
    pub reverse: bool,
    /// The table.
    pub pane: Pane,
    /// Drops and workers.
    pub panes: Panes,
    /// Whether servers are shown.
    pub servers: bool,
    /// Whether it stands still.
    pub paused: bool,
    /// Whether there are colours.
    pub colour: bool,
    /// First line shown.
    pub top: usize,
    /// Lines that fit, as the last drawing found.
    pub room: usize,
    history: HashMap<ServiceKey, VecDeque<Rates>>,
    totals: VecDeque<Rates>,
}

impl Board {
    /// An empty one.
    #[must_use]
    pub fn new(sort: SortKey) -> Self {
        Self {
            status: Status::default(),
            services: Vec::new(),
            sort,
            reverse: false,
            pane: Pane::default(),
            panes: Panes::default(),
            servers: true,
            paused: false,
            colour: false,
            top: 0,
            room: 10,
            history: HashMap::new(),
            totals: VecDeque::new(),
        }
    }

    /// Asks the gateway.
    ///
    /// # Errors
    /// It is gone.
    pub fn look(&mut self, transport: &mut dyn Transport) -> Result<(), Failure> {
        self.status = fetch::status(transport)?;
        self.panes.look(&self.status, &fetch::counters(transport)?);
        self.services = fetch::services(transport, None)?;
        let mut history = HashMap::with_capacity(self.services.len());
        let mut total = Rates::default();
        for (row, _) in &self.services {
            let mut past = self.history.remove(&row.service.key).unwrap_or_default();
            remember(&mut past, row.rates);
            total = sum(&total, &row.rates);
            history.insert(row.service.key, past);
        }
        self.history = history;
        remember(&mut self.totals, total);
        self.arrange();
        Ok(())
    }

    /// Does what a key asks for.
    pub fn press(&mut self, key: Key) {
        match key {
            Key::Quit => {}
            Key::Sort => {
                self.sort = next(self.sort);
                self.arrange();
            }
            Key::Reverse => {
                self.reverse = !self.reverse;
                self.arrange();
            }
            Key::Servers => self.servers = !self.servers,
            Key::NextPane => self.show(self.pane.next()),
            Key::Pane(pane) => self.show(pane),
            Key::Pause => self.paused = !self.paused,
            Key::Up => self.top = self.top.saturating_sub(1),
            Key::Down => self.top += 1,
            Key::PageUp => self.top = self.top.saturating_sub(self.room),
            Key::PageDown => self.top += self.room,
        }
        let most = self.line_count().saturating_sub(self.room);
        self.top = self.top.min(most);
    }

    fn show(&mut self, pane: Pane) {
        (self.pane, self.top) = (pane, 0);
    }

    fn line_count(&self) -> usize {
        match self.pane {
            Pane::Services => self.service_lines(),
            Pane::Drops => self.panes.drops.len(),
            Pane::Workers => self.panes.workers.len(),
        }
    }

    fn service_lines(&self) -> usize {
        self.services.iter().map(|(_, servers)| 1 + if self.servers { servers.len() } else { 0 }).sum()
    }

    fn arrange(&mut self) {
        let (sort, reverse) = (self.sort, self.reverse);
        self.services.sort_by_cached_key(|(row, servers)| {
            let weight = sort_value(sort, &row.rates, active(servers));
            (Reverse(weight), names::service(&row.service.key))
        });
        for (_, servers) in &mut self.services {
            servers.sort_by_cached_key(|s| {
                let weight = sort_value(sort, &s.rates, s.active.into());
                (Reverse(weight), s.server.address, s.server.port)
            });
            if reverse {
                servers.reverse();
            }
        }
        if reverse {
            self.services.reverse();
        }
    }

    /// The table's lines from the first one shown on, as many as `room`.
    #[must_use]
    pub fn lines(&self, room: usize) -> Vec<BoardLine> {
        let each = self.services.iter().flat_map(|listed| {
            let servers = listed.1.iter().filter(|_| self.servers);
            [(listed, None)].into_iter().chain(servers.map(move |s| (listed, Some(s))))
        });
        each.skip(self.top).take(room).map(|(listed, server)| self.line(listed, server)).collect()
    }

    fn line(&self, (row, servers): &Listed, server: Option<&ServerRow>) -> BoardLine {
        match server {
            Some(s) => BoardLine {
                name: names::endpoint(s.server.address, s.server.port),
                is_server: true,
                weight: Some(s.server.weight),
                active: s.active.into(),
                inactive: s.inactive.into(),
                rates: s.rates,
                history: Vec::new(),
            },
            None => BoardLine {
                name: names::service(&row.service.key),
                is_server: false,
                weight: None,
                active: active(servers),
                inactive: servers.iter().map(|s| u64::from(s.inactive)).sum(),
                rates: row.rates,
                history: self.history.get(&row.service.key).map(|h| self.past(h)).unwrap_or_default(),
            },
        }
    }

    fn past(&self, history: &VecDeque<Rates>) -> Vec<u64> {
        history.iter().map(|r| sort_value(self.sort, r, 0)).collect()
    }

    /// All services' rates together, over time, the latest last.
    pub fn totals(&self) -> impl DoubleEndedIterator<Item = &Rates> {
        self.totals.iter()
    }

    /// What is drawn in this colour, where there are colours.
    pub(super) fn tone(&self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    /// Sessions there are, and that there is room for.
    #[must_use]
    pub fn sessions(&self) -> (u64, u64) {
        let workers = &self.status.workers;
        (
            workers.iter().map(|w| u64::from(w.sessions)).sum(),
            workers.iter().map(|w| u64::from(w.max_sessions)).sum(),
        )
    }
}

fn remember(past: &mut VecDeque<Rates>, now: Rates) {
    if past.len() == HISTORY {
        past.pop_front();
    }
    past.push_back(now);
}

fn active(servers: &[ServerRow]) -> u64 {
    servers.iter().map(|s| u64::from(s.active)).sum()
}

fn sum(a: &Rates, b: &Rates) -> Rates {
    Rates {
        connections: a.connections + b.connections,
        in_packets: a.in_packets + b.in_packets,
        out_packets: a.out_packets + b.out_packets,
        in_bytes: a.in_bytes + b.in_bytes,
        out_bytes: a.out_bytes + b.out_bytes,
    }
}

/// What a thing is sorted by. History has no sessions: it shows connections instead.
fn sort_value(sort: SortKey, rates: &Rates, active: u64) -> u64 {
    match sort {
        SortKey::Connections => rates.connections,
        SortKey::Packets => rates.in_packets + rates.out_packets,
        SortKey::Bytes => rates.in_bytes + rates.out_bytes,
        SortKey::Active => active.max(rates.connections),
        SortKey::Name => 0,
    }
}

fn next(sort: SortKey) -> SortKey {
    match sort {
        SortKey::Connections => SortKey::Packets,
        SortKey::Packets => SortKey::Bytes,
        SortKey::Bytes => SortKey::Active,
        SortKey::Active => SortKey::Name,
        SortKey::Name => SortKey::Connections,
    }
}
