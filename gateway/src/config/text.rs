//! Reads files that operators name, but no device and no named pipe, from which reading might never end.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
};

use nix::fcntl::OFlag;
use weir_api::input;

/// Opens what `path` leads to for reading; what isn't a regular file is an error. Never waits.
///
/// # Errors
/// As [`File::open`]; [`ErrorKind::InvalidInput`] says what there is in place of a file.
pub fn open(path: &Path) -> io::Result<File> {
    // Without this flag the opening of a pipe would wait for whoever writes to it.
    let file =
        OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).map_err(socket)?;
    let kind = file.metadata()?.file_type();
    let what = match kind {
        _ if kind.is_file() => return Ok(file),
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "something else",
    };
    Err(io::Error::new(ErrorKind::InvalidInput, format!("it is {what}, not a regular file")))
}

/// The kernel's words for the attempt to open a socket are "No such device or address".
fn socket(error: io::Error) -> io::Error {
    if error.raw_os_error() != Some(nix::errno::Errno::ENXIO as i32) {
        return error;
    }
    io::Error::new(ErrorKind::InvalidInput, "it is a socket or a device without driver, not a regular file")
}

/// The text of the regular file at `path`.
///
/// # Errors
/// As [`open`]; [`ErrorKind::FileTooLarge`] beyond 64 MiB, [`ErrorKind::InvalidData`] for what isn't UTF-8.
pub fn read(path: &Path) -> io::Result<String> {
    read_up_to(path, input::LONGEST)
}

fn read_up_to(path: &Path, longest: u64) -> io::Result<String> {
    let file = open(path)?;
    if file.metadata()?.len() > longest {
        return Err(input::too_long(longest));
    }
    // What a file's length says isn't all that can be read from it: it may grow, or be one of /proc.
    input::read_text(file, longest)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    fn refused(path: &Path) -> String {
        read_up_to(path, 10).unwrap_err().to_string()
    }

    #[test]
    fn only_regular_files_are_read() {
        let folder = std::env::temp_dir().join(format!("weir-text-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (pipe, socket, link) = (folder.join("pipe"), folder.join("socket"), folder.join("link"));
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        for (path, what) in [
            (Path::new("/dev/zero"), "a device"),
            (Path::new("/dev/null"), "a device"),
            (&link, "a device"),
            (&folder, "a directory"),
            (&pipe, "a pipe"),
            (&socket, "a socket or a device without driver"),
        ] {
            assert_eq!(refused(path), format!("it is {what}, not a regular file"), "{}", path.display());
        }
        assert_eq!(refused(&folder.join("none")), "No such file or directory (os error 2)");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_is_read_up_to_a_limit() {
        let path = std::env::temp_dir().join(format!("weir-text-file-{}", std::process::id()));
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read_up_to(&path, 10).unwrap(), "0123456789");
        fs::write(&path, "0123456789a").unwrap();
        assert_eq!(refused(&path), "it is longer than 10 bytes");
        fs::write(&path, b"\xff").unwrap();
        assert_eq!(refused(&path), "it isn't UTF-8 text");
        // Sparse: were it read, this would take minutes.
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::FileTooLarge);
        fs::remove_file(&path).unwrap();
        // The kernel doesn't say how long these are.
        assert_eq!(refused(Path::new("/proc/self/status")), "it is longer than 10 bytes");
    }
}
