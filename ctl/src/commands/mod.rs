//! `weirctl`'s own commands: words instead of options, for people and, with `--json`, for programs.
//!
//! ```text
//!  words --cli--> Command --run--> fetch, apply ... over any Transport --> table or JSON on stdout
//! ```
//!
//! What goes to stdout is the answer; progress and complaints go to stderr. The shapes of JSON are documented
//! in `docs/json.md` and versioned by [`weir_api::documents::VERSION`].

pub mod cli;
mod client_address;
pub mod completion;
mod doctor;
mod drain;
mod events;
mod explain;
pub mod fetch;
pub mod file;
pub mod file_error;
pub mod file_marks;
pub mod file_rules;
pub mod file_snat;
pub mod file_write;
pub mod json;
mod left;
mod local_addresses;
mod log;
pub mod man;
mod marks;
mod masquerade;
pub mod names;
mod pace;
mod pcapng;
pub mod plan;
mod plan_snat;
pub mod ready;
pub mod rules;
mod save;
mod sessions;
mod snat;
mod stats;
mod stats_watch;
mod status;
mod style;
pub mod top;
mod trace;

use std::io::{self, Write};

use weir_api::{
    client::{ClientError, Transport},
    protocol::{ErrorCode, Refusal},
};

pub use pace::{Moment, Pace, RealPace, Wake};
pub use style::{Color, Style};

/// Why a command wasn't carried out, or not to its end. Each kind has its exit status.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The gateway refused.
    #[error("{0}")]
    Refused(String),
    /// The configuration isn't the one that the change was made for.
    #[error("{0}")]
    Stale(String),
    /// The command line, or a file that it names, is wrong.
    #[error("{0}")]
    Usage(String),
    /// The gateway can't be reached, or not any more.
    #[error("{0}")]
    Unreachable(String),
    /// The command ended before what it waited for came to be, or, where asked to say so, found a difference, or a gateway that
    /// isn't ready.
    #[error("{0}")]
    Unfinished(String),
    /// `doctor` found something.
    #[error("{summary}")]
    Found {
        /// How much.
        summary: String,
        /// Whether any of it keeps the gateway from forwarding.
        problems: bool,
    },
    /// Nobody reads the output.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The exit status.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Stale(_) | Self::Output(_) => 1,
            Self::Found { problems, .. } => 1 + u8::from(*problems),
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Unfinished(_) => 4,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::TooOld { .. } => Self::Refused(error.to_string()),
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let hint = match refusal.code {
            // A gateway that is older doesn't say who may.
            ErrorCode::ReadOnly if refusal.detail.is_empty() => {
                ": only root and the socket's group may make changes"
            }
            _ => "",
        };
        Self::Refused(format!("{refusal}{hint}"))
    }
}

/// What a command works with.
pub struct World<'a> {
    /// The gateway.
    pub transport: &'a mut dyn Transport,
    /// Answers.
    pub out: &'a mut dyn Write,
    /// Progress and complaints.
    pub err: &'a mut dyn Write,
    /// How answers are dressed.
    pub style: Style,
    /// Whether progress may be redrawn in place.
    pub progress: bool,
    /// Time, news and interrupts.
    pub pace: &'a mut dyn Pace,
    /// For a file called `-`.
    pub input: &'a mut dyn io::Read,
}

/// Carries a command out; those that need no gateway or the whole terminal are for the program.
///
/// # Errors
/// [`Failure`], for stderr and the exit status.
pub fn run(command: &cli::Command, world: &mut World<'_>) -> Result<(), Failure> {
    let done = match command {
        cli::Command::Status(args) => status::run(args, world),
        cli::Command::Ready(args) => ready::run(args, world),
        cli::Command::Doctor(args) => doctor::run(args, world),
        cli::Command::Stats(args) => stats::run(args, world),
        cli::Command::Events(args) => events::run(args, world),
        cli::Command::Sessions(args) => sessions::run(args, world),
        cli::Command::Log(args) => log::run(args, world),
        cli::Command::Apply(args) => rules::apply(args, world),
        cli::Command::Diff(args) => rules::diff(args, world),
        cli::Command::Export(args) => rules::export(args, world),
        cli::Command::Save(args) => save::run(args, world),
        cli::Command::Drain(args) => drain::drain(args, world),
        cli::Command::Undrain(args) => drain::undrain(args, world),
        cli::Command::Masquerade(args) => masquerade::run(args, world),
        cli::Command::ClientAddress(args) => client_address::run(args, world),
        cli::Command::LocalAddress(args) => local_addresses::run(&args.what, world),
        cli::Command::Mark(args) => marks::run(&args.what, world),
        cli::Command::Snat(args) => snat::run(&args.what, world),
        cli::Command::Explain(args) => explain::run(args, world),
        cli::Command::Trace(args) => trace::run(args, world),
        cli::Command::Top(args) => top::snapshot(args, world),
        #[cfg(feature = "serve")]
        cli::Command::Serve(_) => Err(Failure::Usage("serve isn't a command of one answer".into())),
        cli::Command::Completion(args) => completion::run(args, world.out),
    };
    done.and_then(|()| Ok(world.out.flush()?))
}
