//! ipvsadm's messages for what the gateway refuses, which depend on the command.

use std::{io, path::Path};

use weir_api::{
    client::ClientError,
    protocol::{Change, ErrorCode, Refusal},
};

use crate::permission;

const NO_SERVICE: &str = "No such service";

/// What ipvsadm says when the gateway refuses `change`; under its `own` name, or of a change that ipvsadm doesn't know,
/// weirctl adds why.
pub(super) fn refusal(change: &Change, refusal: &Refusal, own: bool) -> String {
    let server = of_server(change);
    let message = match refusal.code {
        ErrorCode::ServiceExists => "Service already exists",
        ErrorCode::NoSuchService if server => "Service not defined",
        ErrorCode::NoSuchService => NO_SERVICE,
        ErrorCode::ServerExists => "Destination already exists",
        ErrorCode::NoSuchServer => "No such destination",
        ErrorCode::UnknownScheduler => "Scheduler or persistence engine not found",
        ErrorCode::InvalidOperation if !refusal.detail.is_empty() && (own || !is_ipvsadms(change)) => {
            return format!("Invalid operation: {}", refusal.detail);
        }
        ErrorCode::InvalidOperation => {
            "Invalid operation.  Possibly wrong module version, address not unicast, ..."
        }
        ErrorCode::OutOfRange => "Numerical result out of range",
        ErrorCode::ReadOnly if own && !refusal.detail.is_empty() => {
            return format!("Permission denied: {}", refusal.detail);
        }
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

/// Whether it is about a server.
fn of_server(change: &Change) -> bool {
    use Change as C;
    matches!(
        change,
        C::AddServer { .. }
            | C::EditServer { .. }
            | C::AddMasqueraded { .. }
            | C::EditMasqueraded { .. }
            | C::DeleteServer { .. }
    )
}

/// Whether ipvsadm has the command, too.
fn is_ipvsadms(change: &Change) -> bool {
    use Change as C;
    let other = matches!(
        change,
        C::AddService(_)
            | C::EditService(_)
            | C::DeleteService(_)
            | C::Flush
            | C::Zero(_)
            | C::SetTimeouts(_)
    );
    other || of_server(change)
}

/// What ipvsadm says when a listing is refused.
pub(super) fn list_refusal(refusal: &Refusal) -> String {
    match refusal.code {
        ErrorCode::NoSuchService => NO_SERVICE.into(),
        _ => refusal.to_string(),
    }
}

/// What stands on stderr when the gateway can't be reached, without the closing newline; the status is 2. `own`: not under
/// ipvsadm's names, whose words are ipvsadm's.
#[must_use]
pub fn unreachable(error: &ClientError, socket: &Path, own: bool) -> String {
    if let Some(hint) = permission::hint(error, socket).filter(|_| own) {
        return format!("Can't initialize ipvs: Permission denied\n{hint}");
    }
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
