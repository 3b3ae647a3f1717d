//! What has happened, kept for whoever asks: a ring, so that nobody who makes events waits or takes memory without end.

use std::{
    collections::VecDeque,
    fmt::Display,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use weir_api::model::event::{Event, EventKind, EventPage, MAX_EVENTS};

use crate::log;

/// Bytes of a value or sentence: an answer with a page of events has to fit in a frame.
const LONGEST: usize = 256;

/// The latest events.
#[derive(Debug)]
pub struct EventLog {
    started: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// How many there have been.
    count: u64,
    latest: VecDeque<Event>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self { started: now(), kept: Mutex::default() }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl EventLog {
    /// Something has happened: to what, by names and values, and the same for people. journald gets it, too.
    pub fn tell(&self, kind: EventKind, fields: &[(&str, &dyn Display)], text: impl Display) {
        let field = |(name, value): &(&str, &dyn Display)| ((*name).to_owned(), cut(value.to_string()));
        let fields = fields.iter().map(field).collect();
        let text = cut(text.to_string());
        let mut kept = self.kept.lock();
        kept.count += 1;
        let event = Event { sequence: kept.count, time: now(), kind: kind.name().to_owned(), fields, text };
        log::event(&event, kind.is_trouble());
        if kept.latest.len() == MAX_EVENTS {
            kept.latest.pop_front();
        }
        kept.latest.push_back(event);
    }

    /// Events from a number on, as far as they are kept, so many at most.
    #[must_use]
    pub fn page(&self, from: u64, max: usize) -> EventPage {
        let kept = self.kept.lock();
        let events: Vec<Event> =
            kept.latest.iter().skip_while(|event| event.sequence < from).take(max).cloned().collect();
        let next = events.last().map_or(kept.count, |event| event.sequence) + 1;
        EventPage { started: self.started, events, next }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_and_numbers_go_on() {
        let events = EventLog::default();
        assert_eq!((events.page(0, 9).events.len(), events.page(7, 9).next), (0, 1));
        for n in 1..=MAX_EVENTS + 5 {
            events.tell(EventKind::LinkUp, &[("port", &"wan"), ("n", &n)], format!("port wan: {n}"));
        }
        let page = events.page(1, 3);
        let numbers: Vec<u64> = page.events.iter().map(|event| event.sequence).collect();
        assert_eq!((numbers, page.next), (vec![6, 7, 8], 9));
        let event = &page.events[0];
        assert_eq!((event.kind.as_str(), event.text.as_str()), ("link-up", "port wan: 6"));
        assert_eq!(event.fields, [("port", "wan"), ("n", "6")].map(|(n, v)| (n.to_owned(), v.to_owned())));
        let last = events.page(MAX_EVENTS as u64 + 5, 9);
        assert_eq!((last.events.len(), last.next), (1, MAX_EVENTS as u64 + 6));
        assert_eq!(events.page(last.next, 9).next, last.next);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("short".into()), "short");
        assert_eq!(cut("\u{e4}".repeat(LONGEST)).len(), LONGEST);
        assert_eq!(cut(format!("a{}", "\u{e4}".repeat(LONGEST))).len(), LONGEST - 1);
    }
}
