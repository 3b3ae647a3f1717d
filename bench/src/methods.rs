//! `methods`: what each method, family and way to tell the client's address costs a packet, and each scheduler a new
//! connection, beside FULLNAT of IPv4 in the same run.
//!
//! In process on ordinary memory, as `path`: without devices differences between methods are larger than they are on
//! any. Rows take turns, so that other load on the machine affects all of them alike.

use std::path::PathBuf;

use clap::{Args, ValueEnum as _};
use serde_json::json;
use weir_api::model::ClientAddress;
use weir_api::model::SCHEDULERS;

use crate::{
    error::{Error, Result},
    method::Method,
    path::timed,
    process::check_interrupted,
    replay::{Replay, Setup},
    report::{Spread, write_json},
};

/// What to measure.
#[derive(Args, Debug)]
pub struct Options {
    /// These rows of established sessions only, by name, and no schedulers.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Flows of established sessions.
    #[arg(long, default_value_t = 1_000)]
    flows: u32,
    /// Distinct clients of new connections.
    #[arg(long, default_value_t = 200_000)]
    connections: u32,
    /// Samples.
    #[arg(long, default_value_t = 11)]
    samples: u32,
    /// Packets a sample.
    #[arg(long, default_value_t = 1_000_000)]
    packets: usize,
    /// Also write the results to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The rows of established sessions. The first is what the others are compared with.
fn rows() -> Vec<(String, Setup)> {
    let each =
        Method::value_variants().iter().map(|&method| (method.name(), Setup { method, ..Setup::default() }));
    let proxied = Setup { client_address: ClientAddress::ProxyV2, ..Setup::default() };
    each.chain([("fullnat-proxy-v2".to_owned(), proxied)]).collect()
}

/// Runs and prints.
pub fn run(options: &Options) -> Result<()> {
    let mut rows = rows();
    if let Some(unknown) = options.only.iter().find(|only| !rows.iter().any(|(name, _)| name == *only)) {
        let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
        return Err(Error::Unexpected(format!("no row is called {unknown}: there are {}", names.join(", "))));
    }
    rows.retain(|(name, _)| options.only.is_empty() || options.only.contains(name));
    println!(
        "{} flows, ns a packet: median (quartiles), packets a second beside the first row's",
        options.flows
    );
    let mut replays = Vec::new();
    for (_, setup) in &rows {
        let mut replay = Replay::open_as(setup, options.flows, 60)?;
        replay.run((options.flows as usize).max(100_000));
        replays.push(replay);
    }
    let mut samples = vec![Vec::new(); rows.len()];
    for _ in 0..options.samples {
        for (replay, samples) in replays.iter_mut().zip(&mut samples) {
            check_interrupted()?;
            samples.push(timed(replay, options.packets)?.as_nanos() as f64 / options.packets as f64);
        }
    }
    drop(replays);
    let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    let mut json = print("method", &names, &samples);
    if !options.only.is_empty() {
        return write_json(options.json.as_deref(), &json);
    }

    println!("\n{} new connections, 4 servers, ns each", options.connections);
    // wlc first, as the default: the others are compared with it.
    let mut schedulers: Vec<&'static str> = SCHEDULERS.to_vec();
    schedulers.sort_by_key(|name| *name != "wlc");
    let mut samples = vec![Vec::new(); schedulers.len()];
    for _ in 0..options.samples {
        for (scheduler, samples) in schedulers.iter().zip(&mut samples) {
            check_interrupted()?;
            // ovf would have no server left with less.
            let setup = Setup { scheduler, weight: 1_000_000, ..Setup::default() };
            let mut replay = Replay::begin(&setup, options.connections, 60)?;
            let spent = timed(&mut replay, options.connections as usize)?;
            samples.push(spent.as_nanos() as f64 / f64::from(options.connections));
        }
    }
    json.extend(print("scheduler", &schedulers, &samples));
    write_json(options.json.as_deref(), &json)
}

/// Prints a table and returns its rows.
fn print(what: &str, names: &[&str], samples: &[Vec<f64>]) -> Vec<serde_json::Value> {
    let spreads: Vec<_> = samples.iter().filter_map(|s| Spread::of(s)).collect();
    let first = spreads.first().map_or(1.0, |s| s.median);
    let rows = names.iter().zip(&spreads).map(|(name, spread)| {
        let ratio = first / spread.median;
        println!("{name:<22}  {spread}  {ratio:.2}");
        json!({what: name, "ns": spread.median, "ratio": ratio})
    });
    rows.collect()
}
