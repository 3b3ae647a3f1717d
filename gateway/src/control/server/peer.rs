//! Who is at the other end, and what they may do.

use std::{io, os::unix::net::UnixStream};

use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::{Gid, Group, Uid, User, getgrouplist},
};
use weir_api::protocol::{Access, ErrorCode, OLDEST_VERSION, Refusal, Request, VERSION};

/// A peer, as the kernel vouches for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Process when it connected.
    pub pid: i32,
    /// User when it connected.
    pub uid: u32,
    /// What it may do.
    pub access: Access,
    /// Version of the protocol that it speaks: the oldest until it has said so.
    pub version: u16,
    /// It came by the socket by which nobody may change anything.
    pub reading: bool,
}

impl Peer {
    /// The peer of `stream`, a connection of a socket that belongs to `group`.
    pub fn of(stream: &UnixStream, group: u32) -> io::Result<Self> {
        let credentials = getsockopt(stream, PeerCredentials)?;
        let (uid, gid) = (Uid::from_raw(credentials.uid()), Gid::from_raw(credentials.gid()));
        let writes =
            uid.is_root() || uid == Uid::effective() || gid.as_raw() == group || is_member(uid, gid, group);
        let access = if writes { Access::ReadWrite } else { Access::ReadOnly };
        let (pid, uid) = (credentials.pid(), uid.as_raw());
        Ok(Self { pid, uid, access, version: OLDEST_VERSION, reading: false })
    }

    /// The same by a socket that allows `access` at most.
    pub fn at_most(self, access: Access) -> Self {
        match access {
            Access::ReadWrite => self,
            Access::ReadOnly => Self { access, reading: true, ..self },
        }
    }

    /// For tests of what is done with one.
    #[cfg(test)]
    pub fn example() -> Self {
        Self { pid: 1, uid: 2, access: Access::ReadWrite, version: VERSION, reading: false }
    }

    /// Whether the peer's version has a request. Others, or their answers, are other bytes there, which the peer couldn't read.
    ///
    /// # Errors
    /// The refusal.
    pub fn knows(self, request: &Request) -> Result<(), Refusal> {
        match request.since() {
            since if since > self.version => {
                let detail = self.explain(&format!("this needs version {since} of the control protocol"));
                Err(Refusal::new(ErrorCode::Unsupported, detail))
            }
            _ => Ok(()),
        }
    }

    /// What is wrong with a request, and whether the peer's age may be why.
    pub fn explain(self, wrong: &str) -> String {
        if self.version >= VERSION {
            return wrong.into();
        }
        let (spoken, gateway) = (self.version, env!("CARGO_PKG_VERSION"));
        format!(
            "{wrong}: this client speaks version {spoken}, the gateway (weir {gateway}) {VERSION}; use its weirctl"
        )
    }
}

/// The refusal of a peer that may only look: who may do more, and how to become one of them.
pub(super) fn read_only(peer: Peer, group: u32) -> Refusal {
    if peer.reading {
        let detail = "nobody may change things by `read_socket`: use `socket` of weir.toml".to_owned();
        return Refusal::new(ErrorCode::ReadOnly, detail);
    }
    let detail = match Group::from_gid(Gid::from_raw(group)) {
        Ok(Some(of)) if group != 0 => {
            let user = User::from_uid(Uid::from_raw(peer.uid)).ok().flatten();
            let user = user.map_or(format!("#{}", peer.uid), |user| user.name);
            format!(
                "only root and the socket's group `{0}` may make changes: `usermod -aG {0} {user}` as root, \
                    then log \
                 in again",
                of.name
            )
        }
        _ => "only root may make changes: set `socket_group` in weir.toml to allow a group".to_owned(),
    };
    Refusal::new(ErrorCode::ReadOnly, detail)
}

/// Whether a user belongs to a group by the system's databases. The supplementary groups of the process
/// itself could only be read by its number, which may be somebody else's by then.
fn is_member(uid: Uid, gid: Gid, group: u32) -> bool {
    let Ok(Some(user)) = User::from_uid(uid) else { return false };
    let Ok(name) = std::ffi::CString::new(user.name) else { return false };
    getgrouplist(&name, gid).is_ok_and(|groups| groups.iter().any(|g| g.as_raw() == group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_may_write_to_ourselves() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = Peer::of(&a, u32::MAX).unwrap();
        assert_eq!(peer.access, Access::ReadWrite);
        assert_eq!(peer.pid, std::process::id() as i32);
        assert_eq!(peer.at_most(Access::ReadWrite).access, Access::ReadWrite);
    }

    #[test]
    fn nobody_may_write_by_a_socket_for_reading() {
        let peer = Peer::example().at_most(Access::ReadOnly);
        assert_eq!(peer.access, Access::ReadOnly);
        assert!(read_only(peer, 0).detail.contains("read_socket"));
    }
}
