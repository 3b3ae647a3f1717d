//! Why a query of the data plane failed.

use std::time::Duration;

use weir_api::protocol::{ErrorCode, Refusal};

/// Why there is no answer. The end of a list is none of these: a list that ends has an answer without a cursor.
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
    #[error(transparent)]
    Gone(#[from] Gone),
    /// Another one is being served.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The plane can't do this.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

/// What isn't there, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gone {
    /// A worker's thread has ended.
    #[error("worker {0} has ended")]
    Worker(u16),
    /// There never was such a worker.
    #[error("there is no worker {worker}: the last is {last}")]
    NoWorker {
        /// The one that was asked for.
        worker: u16,
        /// The number of the last one.
        last: u16,
    },
    /// A trace has ended, or never was.
    #[error("trace {0} no longer exists")]
    Trace(u64),
    /// The session log has ended.
    #[error("the session log has ended")]
    SessionLog,
}

/// What only one client at a time can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// A trace.
    #[error("another trace is running")]
    Trace,
}

/// What a plane can't do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// It has no workers.
    #[error("no packets are forwarded here")]
    NoPackets,
    /// The path doesn't know packets of this kind.
    #[error("packets of this kind can't be explained")]
    PacketKind,
    /// Each worker says that another one has the packet.
    #[error("the workers disagree on which of them owns the packet")]
    NoOwner,
    /// A worker gave back something else than it was asked: a fault of the gateway.
    #[error("worker {0} answered another question")]
    OtherAnswer(u16),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_code_and_names_its_subject() {
        let patience = Duration::from_millis(1500);
        let cases: [(PlaneError, ErrorCode, &str); 5] = [
            (
                PlaneError::TimedOut { worker: 3, patience },
                ErrorCode::TimedOut,
                "timed out: worker 3 has not answered for 1.5 s",
            ),
            (Gone::Worker(2).into(), ErrorCode::Gone, "not there: worker 2 has ended"),
            (
                Gone::NoWorker { worker: 4, last: 3 }.into(),
                ErrorCode::Gone,
                "not there: there is no worker 4: the last is 3",
            ),
            (Busy::Trace.into(), ErrorCode::TooMany, "limit reached: another trace is running"),
            (
                Unsupported::NoPackets.into(),
                ErrorCode::Unsupported,
                "not supported: no packets are forwarded here",
            ),
        ];
        for (error, code, said) in cases {
            let refusal = Refusal::from(error);
            assert_eq!((refusal.code, refusal.to_string().as_str()), (code, said));
        }
    }
}
