//! The command line of ipvsadm 1.31, option for option and byte for byte, in front of a weir gateway.
//!
//! ```text
//!  words --scan--> options and arguments --parse--> Entry --check--> Action --run--> gateway, output
//!        as popt                       first complaints    legality        (feature `cli`)
//! ```
//!
//! [`parse_line`] is for whoever wants the changes that a line stands for; [`ipvsadm`] is the program.
//! It ends in one of two ways, as the original does: errors of its own end the process, also in the middle
//! of `-R`; errors of the option parser or the gateway only end the line.

mod address;
mod check;
pub mod names;
mod numbers;
mod options;
mod parse;
mod restore;
mod scan;
mod wording;

#[cfg(feature = "cli")]
mod connections;
#[cfg(feature = "cli")]
mod foreign;
#[cfg(feature = "cli")]
mod help;
#[cfg(feature = "cli")]
mod list;
#[cfg(feature = "cli")]
mod messages;
#[cfg(feature = "cli")]
mod print;
#[cfg(feature = "cli")]
mod run;
#[cfg(feature = "cli")]
mod save;
#[cfg(feature = "cli")]
mod scripts;
#[cfg(feature = "cli")]
mod sort;

use self::{names::Resolve, parse::Parsed};
use crate::{model::ServiceKey, protocol::Change};

pub use restore::Lines;
pub use wording::line;
#[cfg(feature = "cli")]
pub use {
    help::EXTENSIONS,
    messages::unreachable,
    run::{Environment, ipvsadm},
    scripts::{ipvsadm_restore, ipvsadm_save},
};

/// ipvsadm's status for its own errors.
const FAILED: i32 = 2;

/// ipvsadm's status for errors of the option parser and the kernel, -1 as a shell sees it.
const REFUSED: i32 = 255;

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
    fn fail(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: FAILED, ends: true }
    }

    fn refuse(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: REFUSED, ends: false }
    }

    fn try_help(program: &str) -> Self {
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

/// Reads one line: `words` without the program's name, which only stands in messages.
///
/// # Errors
/// What ipvsadm would complain of.
pub fn parse_line(program: &str, words: &[String], names: &dyn Resolve) -> Result<Action, Halt> {
    match parse::parse(program, words, names)? {
        Parsed::Help => Ok(Action::Help),
        Parsed::Version => Ok(Action::Version),
        Parsed::Entry(entry) => check::action(&entry),
    }
}
