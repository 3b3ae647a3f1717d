//! Why a request was refused.

use bincode::{Decode, Encode};

/// The kinds of refusal. `weirctl` turns them into ipvsadm's messages, which depend on the command too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, thiserror::Error)]
pub enum ErrorCode {
    /// A service with this key is configured already.
    #[error("service already exists")]
    ServiceExists,
    /// No service has this key.
    #[error("no such service")]
    NoSuchService,
    /// The service has a server with this address and port already.
    #[error("real server already exists")]
    ServerExists,
    /// The service has no server with this address and port.
    #[error("no such real server")]
    NoSuchServer,
    /// Neither a scheduler nor a persistence engine has this name.
    #[error("scheduler or persistence engine not found")]
    UnknownScheduler,
    /// Something the kernel answers with EINVAL: an address that isn't unicast, a mask out of bounds.
    #[error("invalid operation")]
    InvalidOperation,
    /// A number out of its range: a lower threshold above the upper one.
    #[error("numerical result out of range")]
    OutOfRange,
    /// The service has this local address already.
    #[error("local address already exists")]
    LocalAddressExists,
    /// The service doesn't have this local address.
    #[error("no such local address")]
    NoSuchLocalAddress,
    /// The gateway has no port of this name.
    #[error("no such port")]
    NoSuchPort,
    /// The peer may only look.
    #[error("permission denied")]
    ReadOnly,
    /// The configuration has changed since the generation that the batch expects.
    #[error("the configuration has changed meanwhile")]
    StaleGeneration,
    /// A limit of the gateway is reached.
    #[error("limit reached")]
    TooMany,
    /// The request is malformed or breaks a limit of the protocol.
    #[error("malformed request")]
    BadRequest,
    /// The gateway can't do this.
    #[error("not supported")]
    Unsupported,
    /// A worker hasn't answered in time. Since version 8.
    #[error("timed out")]
    TimedOut,
    /// What was asked about isn't there, or not any more: a worker, a trace. Since version 8.
    #[error("not there")]
    Gone,
}

/// A refusal: nothing of the request has been done.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[error("{code}{}", if detail.is_empty() { String::new() } else { format!(": {detail}") })]
pub struct Refusal {
    /// What kind.
    pub code: ErrorCode,
    /// Index of the change in its batch, for a refused batch.
    pub change: Option<u32>,
    /// What exactly, for people; may be empty.
    pub detail: String,
}

impl Refusal {
    /// A refusal that concerns the whole request.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, change: None, detail: detail.into() }
    }

    /// As a peer that speaks this version understands it.
    #[must_use]
    pub fn in_version(self, version: u16) -> Self {
        match self.code {
            ErrorCode::TimedOut | ErrorCode::Gone if version < 8 => {
                Self { detail: self.to_string(), code: ErrorCode::Unsupported, ..self }
            }
            _ => self,
        }
    }
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::new(code, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_peers_get_a_code_that_they_know() {
        let refusal = Refusal::new(ErrorCode::TimedOut, "worker 1 has not answered for 5 s");
        assert_eq!(refusal.clone().in_version(8), refusal);
        assert_eq!(refusal.to_string(), "timed out: worker 1 has not answered for 5 s");
        let old = refusal.in_version(7);
        assert_eq!(old.code, ErrorCode::Unsupported);
        assert_eq!(old.detail, "timed out: worker 1 has not answered for 5 s");
        let other = Refusal::from(ErrorCode::ReadOnly);
        assert_eq!(other.clone().in_version(1), other);
    }
}
