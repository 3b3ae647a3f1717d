//! Clients' ports where several workers share the clients.
//!
//! A worker chooses servers by itself, so that a recording is to be had only from one. With several, clients have other
//! ports than were recorded, by which all of their connections are one worker's; what leaves is compared with
//! the recorded ports put back.

use std::{collections::HashMap, net::SocketAddr};

use weir::{id::WorkerId, path::flow::owner};

use super::{
    flows::{Endpoint, endpoint},
    format::{Event, Recording, Seen},
};

pub struct Aliases {
    /// How many workers share the clients.
    workers: Option<usize>,
    by_recorded: HashMap<(u8, Endpoint), Endpoint>,
    by_alias: HashMap<Endpoint, Endpoint>,
}

impl Aliases {
    /// None for one worker, or where a scheduler looks at ports: that one's choice is every worker's.
    pub fn new(recording: &Recording, workers: usize) -> Self {
        let by_port = recording.events.iter().any(|event| {
            matches!(event, Event::Cmd { cmd, .. } if ["sh-port", "mh-port", "flag-2"].iter().any(|f| cmd.contains(f)))
        });
        let workers = (workers > 1 && !by_port).then_some(workers);
        Self { workers, by_recorded: HashMap::new(), by_alias: HashMap::new() }
    }

    /// The client that stands for a recorded one.
    pub fn of(&mut self, protocol: u8, client: Endpoint) -> Endpoint {
        let Some(workers) = self.workers else { return client };
        if let Some(alias) = self.by_recorded.get(&(protocol, client)) {
            return *alias;
        }
        // Of as many digits, for the columns of listings.
        let digits = |port: u16| port.to_string().len();
        let here = |port: &u16| {
            digits(*port) == digits(client.1)
                && owner::owner(protocol, (client.0, *port), workers) == WorkerId(0)
                && !self.by_alias.contains_key(&(client.0, *port))
        };
        let port = (client.1..=u16::MAX).chain(1..client.1).find(here).unwrap_or(client.1);
        self.by_recorded.insert((protocol, client), (client.0, port));
        self.by_alias.insert((client.0, port), client);
        (client.0, port)
    }

    /// The recorded client that one stands for.
    pub fn recorded(&self, client: Endpoint) -> Endpoint {
        self.by_alias.get(&client).copied().unwrap_or(client)
    }

    fn recorded_word(&self, word: &str) -> Option<String> {
        let recorded = self.by_alias.get(&endpoint(word)?)?;
        Some(SocketAddr::from(*recorded).to_string())
    }

    /// Puts the recorded ends into a packet.
    pub fn recorded_ends(&self, seen: &mut Seen) {
        for end in [&mut seen.src, &mut seen.dst] {
            if let Some(recorded) = self.recorded_word(end) {
                *end = recorded;
            }
        }
    }

    /// A listed line with the recorded client.
    pub fn recorded_line(&self, line: &str) -> String {
        let client = line.split_whitespace().nth(3).unwrap_or_default();
        match self.recorded_word(client) {
            Some(recorded) => line.replacen(client, &recorded, 1),
            None => line.to_owned(),
        }
    }
}
