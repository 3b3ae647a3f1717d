//! The gateway process.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use weir::{cli, log, run, threads};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    if let Err(error) = log::init() {
        log::complain(tracing::Level::ERROR, &format!("weir: no thread for the log: {error}"));
        return cli::EXIT_FAILURE.into();
    }
    threads::log_panics();
    let exit = cli::main(&cli, run::check_rules, |config| run::run(&config));
    log::flush(threads::LAST_LINES);
    exit
}
