//! ipvsadm's messages for what the gateway refuses, which depend on the command.

use std::{io, path::Path};

use crate::{
    client::ClientError,
    protocol::{Change, ErrorCode, Refusal},
};

const NO_SERVICE: &str = "No such service";

/// What ipvsadm says when the gateway refuses `change`.
pub(super) fn refusal(change: &Change, refusal: &Refusal) -> String {
    let server =
        matches!(change, Change::AddServer { .. } | Change::EditServer { .. } | Change::DeleteServer { .. });
    let message = match refusal.code {
        ErrorCode::ServiceExists => "Service already exists",
        ErrorCode::NoSuchService if server => "Service not defined",
        ErrorCode::NoSuchService => NO_SERVICE,
        ErrorCode::ServerExists => "Destination already exists",
        ErrorCode::NoSuchServer => "No such destination",
        ErrorCode::UnknownScheduler => "Scheduler or persistence engine not found",
        ErrorCode::InvalidOperation => {
            "Invalid operation.  Possibly wrong module version, address not unicast, ..."
        }
        ErrorCode::OutOfRange => "Numerical result out of range",
        ErrorCode::ReadOnly => "Permission denied (you must be root)",
        ErrorCode::NoSuchPort => "No such device",
        ErrorCode::LocalAddressExists => "Local address already exists",
        ErrorCode::NoSuchLocalAddress => "No such local address",
        ErrorCode::StaleGeneration
        | ErrorCode::TooMany
        | ErrorCode::BadRequest
        | ErrorCode::Unsupported
        | ErrorCode::TimedOut
        | ErrorCode::Gone => return refusal.to_string(),
    };
    message.into()
}

/// What ipvsadm says when a listing is refused.
pub(super) fn list_refusal(refusal: &Refusal) -> String {
    match refusal.code {
        ErrorCode::NoSuchService => NO_SERVICE.into(),
        _ => refusal.to_string(),
    }
}

/// What stands on stderr when the gateway can't be reached, without the closing newline; the status is 2.
#[must_use]
pub fn unreachable(error: &ClientError, socket: &Path) -> String {
    match error {
        ClientError::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            "Can't initialize ipvs: Permission denied (you must be root)\n\
             Are you sure that IP Virtual Server is built in the kernel or as module?"
                .into()
        }
        ClientError::Connect { source, .. } => {
            format!(
                "Can't initialize ipvs: {source}\nAre you sure that weir is running and listening on {}?",
                socket.display()
            )
        }
        other => format!("Can't initialize ipvs: {other}"),
    }
}
