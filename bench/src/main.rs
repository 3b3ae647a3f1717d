//! Benchmarks of weir beside its peers: packets a second of one worker on the same frames and devices.
//!
//! Each result is measured by one command; README.md lists them. Nothing here ships.
#![forbid(unsafe_code)]

mod capsule;
mod checksum;
mod compare;
mod connections;
mod control;
mod conversations;
mod cycles;
mod error;
mod guard;
mod hugepages;
mod latency;
mod lines;
mod marks;
mod memory;
mod method;
mod methods;
mod panics;
mod path;
mod plots;
mod pool;
mod prefetch;
mod process;
mod profile;
mod replay;
mod report;
mod routes;
mod sample;
mod scale;
mod stages;
mod symbols;
mod table;
mod telemetry;
mod testpmd;
mod traffic;
mod transfer;
mod weir;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "weir-bench", about = "Benchmarks of weir beside its peers", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Packets a second of one worker: weir FULLNAT beside testpmd's 5tswap on the same frames.
    Compare(compare::Options),
    /// New sessions a second of one worker of weir, as its table fills.
    Connections(connections::Options),
    /// Whether the main cases still take as many instructions a packet as bench/instructions.json says.
    Guard(guard::Options),
    /// What checksums cost: changed by the difference, asked of the device, summed again.
    Checksum(checksum::Options),
    /// What restoring, listing, editing and scraping large configurations costs, and what forwarding loses meanwhile.
    Control(control::Options),
    /// Established packets of clients, of servers and of both mixed, in process.
    Directions(transfer::Directions),
    /// Cache lines that a packet touches, and those that two workers share.
    Lines(lines::Options),
    /// How long a packet takes through an idle gateway and back, beside testpmd.
    Latency(latency::Options),
    /// Where a forwarding worker's time goes, by stage.
    Cycles(cycles::Options),
    /// Instructions a packet by stage of the path, by callgrind.
    Profile(profile::Options),
    /// Finding a packet's mark among many rules: a list, weir's bit vectors, DPDK's rte_acl.
    Marks(marks::Options),
    /// Bytes of memory a session, everything included.
    Memory(memory::Options),
    /// Nanoseconds a packet of every method and family, and a new connection of every scheduler, in process.
    Methods(methods::Options),
    /// Checks that would panic, on the way of a packet of an established session.
    Panics(panics::Options),
    /// Nanoseconds a packet of the path alone, in process.
    Path(path::Options),
    /// What a local port costs, in process: taken, given back, refused, as addresses fill up.
    Pool(pool::Options),
    /// How many cache lines may be asked for at once.
    Prefetch(prefetch::Options),
    /// A page with plots of the results that `--json` wrote.
    Report(plots::Options),
    /// What a full table of routes costs, and what forwarding loses while it is loaded, changed and withdrawn.
    Routes(routes::Options),
    /// Two workers beside one, and how testpmd itself scales on the same two CPUs.
    Scale(scale::Options),
    /// Cycles of the path by stage of a burst (with the feature `stages`).
    Stages(stages::Options),
    /// Flow index candidates in process: hits, misses, turnover.
    Table(table::Options),
    /// Whole connections in steady state, in process: connect, transfer, close, expire.
    Transfer(transfer::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().what {
        What::Checksum(options) => checksum::run(&options),
        What::Compare(options) => compare::run(&options),
        What::Connections(options) => connections::run(&options),
        What::Control(options) => control::run(&options),
        What::Directions(options) => transfer::run_directions(&options),
        What::Lines(options) => lines::run(&options),
        What::Latency(options) => latency::run(&options),
        What::Cycles(options) => cycles::run(&options),
        What::Guard(options) => guard::run(&options),
        What::Profile(options) => profile::run(&options),
        What::Marks(options) => marks::run(&options),
        What::Memory(options) => memory::run(&options),
        What::Methods(options) => methods::run(&options),
        What::Panics(options) => panics::run(&options),
        What::Path(options) => path::run(&options),
        What::Pool(options) => pool::run(&options),
        What::Prefetch(options) => prefetch::run(&options),
        What::Report(options) => plots::run(&options),
        What::Routes(options) => routes::run(&options),
        What::Scale(options) => scale::run(&options),
        What::Stages(options) => stages::run(&options),
        What::Table(options) => table::run(&options),
        What::Transfer(options) => transfer::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
