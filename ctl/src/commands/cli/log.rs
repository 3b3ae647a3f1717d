//! Logs: `log`.

use clap::{Args, Subcommand};

use super::SessionChoiceArgs;
use crate::commands::names;

/// `log`
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What to log.
    #[command(subcommand)]
    pub what: LogCommand,
}

/// What `log` logs.
#[derive(Clone, Debug, Subcommand)]
pub enum LogCommand {
    /// Log sessions as they are opened and closed, until interrupted: one JSON object a line, as docs/json.md describes
    /// it. Workers record sessions only while somebody reads. Records for which there is no room are lost; a line says
    /// how many
    Sessions(LogSessionsArgs),
}

/// `log sessions`
#[derive(Args, Clone, Debug, Default)]
pub struct LogSessionsArgs {
    /// Of which sessions.
    #[command(flatten)]
    pub of: SessionChoiceArgs,
    /// Stop after this many records
    #[arg(long, short = 'n', value_name = "N")]
    pub number: Option<u64>,
    /// Stop after this time
    #[arg(long, value_name = "DURATION", value_parser = names::parse_seconds)]
    pub timeout: Option<u32>,
    /// As JSON, which it is anyway: docs/json.md describes it
    #[arg(long)]
    pub json: bool,
}
