//! Servers and packets for the schedulers' unit tests.

use std::{net::Ipv4Addr, sync::Arc};

use super::{Flow, Scheduler, Server};
use crate::{
    clock::{Tick, Ticks},
    id::ServerId,
    table::{counters::ServerCountersRef, limit::Limit},
};

/// A server at 10.0.0.`number`:80 with that number as its id.
pub fn server(number: u32, weight: u32, active: u32, inactive: u32) -> Server {
    let server = Server {
        id: ServerId(number),
        address: Ipv4Addr::from(0x0a00_0000 + number).into(),
        port: 80,
        weight,
        upper: 0,
        counters: ServerCountersRef::alone().expect("two megabytes can be mapped"),
        others: Arc::default(),
        limit: None,
    };
    server.counters.active.set(active);
    server.counters.inactive.set(inactive);
    server
}

/// Servers with these (weight, active, inactive), numbered from the list's length down, so that the first was added
/// last.
pub fn servers(numbers: &[(u32, u32, u32)]) -> Vec<Server> {
    let ids = (1..=numbers.len() as u32).rev();
    ids.zip(numbers).map(|(n, &(w, a, i))| server(n, w, a, i)).collect()
}

/// Servers with these weights and no sessions.
pub fn weights(weights: &[u32]) -> Vec<Server> {
    servers(&weights.iter().map(|&w| (w, 0, 0)).collect::<Vec<_>>())
}

/// Gives the server a threshold that is exceeded, or not.
pub fn overload(mut server: Server, over: bool) -> Server {
    server.upper = 1;
    server.limit = Some(Arc::new(Limit::new(1, 0, u32::from(over))));
    server
}

/// A packet from client 10.1.0.`client`:20000 + `client` to 198.51.100.`destination`:80 at `seconds`.
pub fn flow(client: u8, destination: u8, seconds: u32) -> Flow {
    Flow {
        source: [10, 1, 0, client].into(),
        source_port: 20000 + u16::from(client),
        destination: [198, 51, 100, destination].into(),
        destination_port: 80,
        now: Tick::at(Ticks::seconds(seconds)),
    }
}

/// The ids of `n` servers chosen one after the other; 0 for none.
pub fn choose(scheduler: &mut dyn Scheduler, servers: &[Server], n: usize) -> Vec<u32> {
    (0..n).map(|_| scheduler.schedule(servers, &flow(1, 1, 0)).map_or(0, |i| servers[i].id.0)).collect()
}

/// Like [`choose`], but each choice adds an active session.
pub fn open(scheduler: &mut dyn Scheduler, servers: &[Server], n: usize) -> Vec<u32> {
    (0..n)
        .map(|_| {
            scheduler.schedule(servers, &flow(1, 1, 0)).map_or(0, |i| {
                servers[i].counters.active.inc();
                servers[i].id.0
            })
        })
        .collect()
}
