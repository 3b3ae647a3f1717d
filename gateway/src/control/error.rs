//! Why the data plane has no answer.

use std::time::Duration;

use weir_api::protocol::{ErrorCode, Refusal};

/// Why a question has no answer. The end of a list is none of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaneError {
    /// A worker took too long: it hangs, or has very much to do.
    #[error("worker {worker} has not answered for {} s", patience.as_secs_f64())]
    TimedOut {
        /// Which one.
        worker: u16,
        /// How long it was waited for.
        patience: Duration,
    },
    /// What was asked about isn't there, or not any more.
    #[error("{0}")]
    Gone(String),
    /// Another one is being served.
    #[error("{0}")]
    Busy(&'static str),
    /// The plane can't do this.
    #[error("{0}")]
    Unsupported(&'static str),
}

impl From<PlaneError> for Refusal {
    fn from(error: PlaneError) -> Self {
        let code = match error {
            PlaneError::TimedOut { .. } => ErrorCode::TimedOut,
            PlaneError::Gone(_) => ErrorCode::Gone,
            PlaneError::Busy(_) => ErrorCode::TooMany,
            PlaneError::Unsupported(_) => ErrorCode::Unsupported,
        };
        Self::new(code, error.to_string())
    }
}
