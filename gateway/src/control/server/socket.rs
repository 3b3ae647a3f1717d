//! The socket's file, opened without a race between two gateways.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};

use super::ServerError;

/// Who may connect: who may write to the file. Its group may change things, others only look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketPermissions {
    /// The file's mode.
    pub mode: u32,
    /// Its group, if it isn't to be the gateway's own.
    pub group: Option<u32>,
}

impl Default for SocketPermissions {
    /// Owner and group.
    fn default() -> Self {
        Self { mode: 0o660, group: None }
    }
}

/// A socket file that is ours; dropping it removes the file.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub path: PathBuf,
    /// Group that it belongs to.
    pub group: u32,
    identity: (u64, u64),
}

impl SocketFile {
    /// Removes the file, unless another one has taken its place.
    pub fn remove(&self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity) {
            // Somebody else may have removed it between the two calls; then it is gone, as it should be.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Opens a listening socket at `path`, non-blocking.
pub(super) fn open(
    path: &Path,
    permissions: SocketPermissions,
) -> Result<(UnixListener, SocketFile), ServerError> {
    let failed = |source| ServerError::Io { path: path.into(), source };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(failed)?;
    // Held while we look whether somebody listens and put our socket there.
    let _lock = lock(folder).map_err(failed)?;
    refuse_if_in_use(path)?;
    let (listener, metadata) = bind(folder, path, permissions).map_err(failed)?;
    let identity = (metadata.dev(), metadata.ino());
    Ok((listener, SocketFile { path: path.into(), group: metadata.gid(), identity }))
}

fn lock(folder: &Path) -> io::Result<Flock<File>> {
    let mut file = File::open(folder)?;
    for _ in 0..100 {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, nix::errno::Errno::EWOULDBLOCK)) => file = same,
            Err((_, e)) => return Err(e.into()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(io::Error::new(
        io::ErrorKind::WouldBlock,
        format!("{} is locked by another process", folder.display()),
    ))
}

fn refuse_if_in_use(path: &Path) -> Result<(), ServerError> {
    let failed = |source| ServerError::Io { path: path.into(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(m) if !m.file_type().is_socket() => return Err(ServerError::NotASocket(path.into())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ServerError::InUse(path.into())),
        Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

/// Binds under a passing name and renames, so that the file has group and mode from the first moment and takes
/// the place of a stale one at once.
fn bind(
    folder: &Path,
    path: &Path,
    permissions: SocketPermissions,
) -> io::Result<(UnixListener, fs::Metadata)> {
    let passing = folder.join(format!(".{}", std::process::id()));
    match fs::remove_file(&passing) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&passing)?;
    let ready = || {
        listener.set_nonblocking(true)?;
        // Before the mode: a change of the group takes bits away.
        std::os::unix::fs::lchown(&passing, None, permissions.group)?;
        fs::set_permissions(&passing, Permissions::from_mode(permissions.mode))?;
        fs::rename(&passing, path)?;
        fs::symlink_metadata(path)
    };
    match ready() {
        Ok(metadata) => Ok((listener, metadata)),
        Err(e) => {
            // The first error is the one to tell.
            let _ = fs::remove_file(&passing);
            Err(e)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("weir-socket-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_stale_file_is_replaced_and_a_live_one_respected() {
        let folder = folder("stale");
        let path = folder.join("weir.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, file) = open(&path, SocketPermissions::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(open(&path, SocketPermissions::default()), Err(ServerError::InUse(_))));
        drop(listener);
        file.remove();
        assert!(!path.exists());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir(&folder).unwrap();
    }

    #[test]
    fn the_file_is_for_whom_it_is_meant() {
        let folder = folder("group");
        let path = folder.join("weir.sock");
        let own = SocketPermissions::default();
        let before = open(&path, own).unwrap().1.group;
        // Root may give it to any group; others to their own.
        let group = if nix::unistd::Uid::effective().is_root() { 12_345 } else { before };
        for (mode, group) in [(0o600, None), (0o666, Some(group))] {
            let (_listener, file) = open(&path, SocketPermissions { mode, group }).unwrap();
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, mode);
            assert_eq!((metadata.gid(), file.group), (group.unwrap_or(before), group.unwrap_or(before)));
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = folder("other");
        let path = folder.join("file");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(open(&path, SocketPermissions::default()), Err(ServerError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn another_gateways_file_isnt_removed() {
        let folder = folder("another");
        let path = folder.join("weir.sock");
        let (_listener, file) = open(&path, SocketPermissions::default()).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        // Numbers of files are used again at once on some file systems: make sure that this one isn't.
        if fs::metadata(&path).unwrap().ino() != file.identity.1 {
            file.remove();
            assert!(path.exists());
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
