//! The error of configuration files.

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", line.map(|l| format!("line {l}: ")).unwrap_or_default())]
pub struct FileError {
    /// Line, from 1.
    pub line: Option<usize>,
    /// What is wrong with it.
    pub message: String,
}
