//! Parses lines of ipvsadm 1.31, option by option, with its error messages byte for byte.
//!
//! ```text
//!  words --scan--> options and arguments --parse--> Entry --check--> Action
//!        as popt                       first complaints    legality
//! ```
//!
//! [`parse_line`] reads the changes that a line stands for, [`line()`] writes the line that stands for a change. The
//! program ipvsadm, which carries actions out, is weirctl's.

mod address;
mod check;
pub mod names;
mod numbers;
mod options;
mod parse;
mod restore;
mod scan;
pub mod wording;

pub use restore::Lines;
pub use wording::line;

use self::{names::Resolve, parse::ParsedCommand, scan::Dialect};
use crate::{model::ServiceKey, protocol::Change};

/// ipvsadm's status for its own errors.
pub const FAILED: i32 = 2;

/// ipvsadm's status for errors of the option parser and the kernel, -1 as a shell sees it.
pub const REFUSED: i32 = 255;

/// Why a line can't be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Halt {
    /// For stderr, without the closing newline.
    pub message: String,
    /// Exit status.
    pub status: i32,
    /// Whether the process ends, even if `-R` has more lines.
    pub ends: bool,
}

impl Halt {
    /// An error of ipvsadm's own, which ends the process.
    #[must_use]
    pub fn fail(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: FAILED, ends: true }
    }

    /// An error of the option parser or the gateway, which ends the line.
    #[must_use]
    pub fn refuse(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: REFUSED, ends: false }
    }

    /// A line that asks for nothing, which ends the process.
    #[must_use]
    pub fn try_help(program: &str) -> Self {
        let message = format!("Try `{program} -h' or '{program} --help' for more information.");
        Self { message, status: REFUSED, ends: true }
    }
}

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A change of the gateway's configuration.
    Change(Change),
    /// `-L`
    List(List, Format),
    /// `-S`
    Save {
        /// `-n`
        numeric: bool,
    },
    /// `-R`
    Restore,
    /// `-G`
    LocalAddresses {
        /// Of this service.
        service: ServiceKey,
        /// `-n`
        numeric: bool,
    },
    /// `--start-daemon`
    StartDaemon {
        /// Sending, not receiving.
        master: bool,
    },
    /// `--stop-daemon`
    StopDaemon {
        /// Sending, not receiving.
        master: bool,
    },
    /// `-h`
    Help,
    /// `-v`
    Version,
}

/// What `-L` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// All services.
    All,
    /// One service.
    Service(ServiceKey),
    /// `-c`
    Connections,
    /// `--timeout`
    Timeouts,
    /// `--daemon`
    Daemons,
}

/// How `-L` lists it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "they are ipvsadm's options")]
pub struct Format {
    /// `-n`
    pub numeric: bool,
    /// `--stats`
    pub stats: bool,
    /// `--rate`
    pub rate: bool,
    /// `--thresholds`
    pub thresholds: bool,
    /// `--persistent-conn`
    pub persistent: bool,
    /// `--tun-info`
    pub tunnels: bool,
    /// `--exact`
    pub exact: bool,
    /// `--nosort`
    pub unsorted: bool,
}

/// Reads one line as a program of one of ipvsadm's names does: `words` without the program's name, which only stands in
/// messages.
///
/// # Errors
/// What ipvsadm would complain of.
pub fn parse_line(program: &str, words: &[String], names: &dyn Resolve) -> Result<Action, Halt> {
    action(parse::parse(program, words, names, Dialect::Server)?)
}

/// As [`parse_line`], under weirctl's own name, which has `--nat` besides.
///
/// # Errors
/// What ipvsadm would complain of.
pub fn parse_own_line(program: &str, words: &[String], names: &dyn Resolve) -> Result<Action, Halt> {
    action(parse::parse(program, words, names, Dialect::OwnServer)?)
}

fn action(parsed: ParsedCommand) -> Result<Action, Halt> {
    match parsed {
        ParsedCommand::Help => Ok(Action::Help),
        ParsedCommand::Version => Ok(Action::Version),
        ParsedCommand::Entry(entry) => check::action(&entry),
    }
}
