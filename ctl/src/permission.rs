//! The message for a user who may not use the control socket: whose it is, and how to become one of them.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use nix::unistd::{Gid, Group, Uid, User};
use weir_api::client::ClientError;

/// The hint for a user whom the system keeps from the socket; none for other errors.
#[must_use]
pub fn hint(error: &ClientError, socket: &Path) -> Option<String> {
    match error {
        ClientError::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            let group = fs::metadata(socket).ok().map(|file| file.gid());
            let user = User::from_uid(Uid::current()).ok().flatten().map(|user| user.name);
            Some(say(socket, group, &user.unwrap_or_else(|| format!("#{}", Uid::current()))))
        }
        _ => None,
    }
}

fn say(socket: &Path, group: Option<u32>, user: &str) -> String {
    let socket = socket.display();
    let name = |gid| Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name);
    match group {
        Some(0) => {
            format!("only root may use {socket}: set `socket_group` in weir.toml to allow a group")
        }
        Some(gid) => {
            let group = name(gid).unwrap_or_else(|| format!("#{gid}"));
            format!(
                "only root and the group `{group}` may use {socket}: `usermod -aG {group} {user}` as root, \
                    then log in again"
            )
        }
        None => format!(
            "only root and the group of {socket} may use it: `socket_group` in weir.toml names the group"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_and_the_way_into_it_are_named() {
        let socket = Path::new("/run/weir/weir.sock");
        let said = say(socket, Some(0), "alice");
        assert!(
            said.starts_with("only root may use /run/weir/weir.sock: set `socket_group` in weir.toml"),
            "{said}"
        );
        let said = say(socket, Some(1), "alice");
        assert!(
            said.contains(
                "the group `daemon` may use /run/weir/weir.sock: `usermod -aG daemon alice` as root"
            ),
            "{said}"
        );
        assert!(say(socket, Some(54_321), "alice").contains("the group `#54321`"));
        assert!(say(socket, None, "alice").contains("root and the group of /run/weir/weir.sock"));
    }

    #[test]
    fn others_errors_have_none() {
        let failed = |kind| ClientError::Connect { path: "/s".into(), source: io::Error::from(kind) };
        assert_eq!(hint(&failed(io::ErrorKind::NotFound), Path::new("/s")), None);
        assert!(hint(&failed(io::ErrorKind::PermissionDenied), Path::new("/nonexistent/s")).is_some());
    }
}
