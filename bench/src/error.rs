//! Errors of measurements.

use std::{io, path::PathBuf};

/// Why a measurement wasn't made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file couldn't be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program didn't start.
    #[error("can't run {program}: {source}")]
    Spawn {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A program ended, or didn't get ready, and what it said last.
    #[error("{program} {what}; it said:\n{tail}")]
    Program {
        /// Which.
        program: String,
        /// What happened.
        what: String,
        /// The last lines of its log.
        tail: String,
    },
    /// An answer that makes no sense, or none.
    #[error("{0}")]
    Unexpected(String),
    /// SIGINT or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

/// What measuring functions return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Names the file that an I/O error is about.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
