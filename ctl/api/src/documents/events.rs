//! `weirctl events`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::event::{self, EventPage};

/// Events; with `--follow` a document whenever there are new ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Events {
    /// When the gateway started, in milliseconds since 1970: another one's events have other numbers.
    pub started_ms: u64,
    /// In their order.
    pub events: Vec<Event>,
    /// The number to go on with: `--from`.
    pub next: u64,
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// From 1 with the gateway's start, one more with each event. Where numbers are missing, so are events.
    pub sequence: u64,
    /// Since 1970.
    pub time_ms: u64,
    /// What happened, by a name that stays the same.
    pub event: String,
    /// What it is about.
    pub fields: BTreeMap<String, String>,
    /// The same for people.
    pub text: String,
}

impl From<event::Event> for Event {
    fn from(event: event::Event) -> Self {
        let event::Event { sequence, time, kind, fields, text } = event;
        Self { sequence, time_ms: time, event: kind, fields: fields.into_iter().collect(), text }
    }
}

impl From<EventPage> for Events {
    fn from(page: EventPage) -> Self {
        let events = page.events.into_iter().map(Into::into).collect();
        Self { started_ms: page.started, events, next: page.next }
    }
}
