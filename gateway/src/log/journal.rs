//! journald by its native protocol: one datagram a line, with its priority.
//!
//! Format: systemd.io/JOURNAL_NATIVE_PROTOCOL. When journald isn't there to be sent to, the line goes to stderr, which is
//! its stream, with the priority in front as sd-daemon(3) has it.

use std::{
    io,
    os::{linux::fs::MetadataExt, unix::net::UnixDatagram},
    path::{Path, PathBuf},
};

use tracing::Level;
use weir_api::model::event::Event;

use super::queue::LogLine;

/// Where journald takes datagrams.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// The program's name in the journal.
const IDENTIFIER: &str = "weir";

/// A way to journald.
pub(super) struct Journald {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Journald {
    /// The way to the journald that listens at `path`, now or later.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), socket: None }
    }

    /// Sends a line; waits while journald has no room. A socket that nobody listens to any more, as journald's was made
    /// again, is replaced.
    pub fn send(&mut self, line: &LogLine) -> io::Result<()> {
        let bytes = datagram(line);
        if let Some(socket) = &self.socket
            && socket.send(&bytes).is_ok()
        {
            return Ok(());
        }
        self.socket = None;
        let socket = UnixDatagram::unbound()?;
        socket.connect(&self.path)?;
        socket.send(&bytes)?;
        self.socket = Some(socket);
        Ok(())
    }
}

/// syslog(3)'s number of a level.
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

fn datagram(line: &LogLine) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(line.text.len() + 128);
    field(&mut bytes, "PRIORITY", &priority(line.level).to_string());
    field(&mut bytes, "SYSLOG_IDENTIFIER", IDENTIFIER);
    if let Some(target) = &line.target {
        field(&mut bytes, "TARGET", target);
    }
    line.fields.iter().for_each(|(name, value)| field(&mut bytes, name, value));
    field(&mut bytes, "MESSAGE", &line.text);
    bytes
}

/// An event's fields as journald has them: `WEIR_EVENT`, `WEIR_SEQUENCE`, `WEIR_SERVICE`.
pub(super) fn fields(event: &Event) -> Vec<(String, String)> {
    let own = [("event", event.kind.clone()), ("sequence", event.sequence.to_string())];
    let own = own.map(|(name, value)| (name.to_owned(), value));
    let named = |(name, value): (String, String)| {
        (format!("WEIR_{}", name.to_ascii_uppercase().replace('-', "_")), value)
    };
    own.into_iter().chain(event.fields.iter().cloned()).map(named).collect()
}

/// A value with line breaks is preceded by its length, 64 bits, little-endian.
fn field(bytes: &mut Vec<u8>, name: &str, value: &str) {
    bytes.extend(name.as_bytes());
    if value.contains('\n') {
        bytes.push(b'\n');
        bytes.extend((value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend(value.as_bytes());
    bytes.push(b'\n');
}

/// Whether the file described by `metadata` is the one that `JOURNAL_STREAM` names: `DEVICE:INODE`.
pub(super) fn is_stream(variable: &str, metadata: &impl MetadataExt) -> bool {
    let named = variable
        .split_once(':')
        .and_then(|(device, inode)| Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?)));
    named == Some((metadata.st_dev(), metadata.st_ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journald_gets_priority_origin_and_message() {
        let path = std::env::temp_dir().join(format!("weir-journal-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let journald = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journald::at(&path);
        let mut buffer = [0; 512];
        let mut sent = |target: Option<&str>, text: &str, fields: &[(&str, &str)]| {
            let target = target.map(str::to_owned);
            let fields =
                fields.iter().map(|(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned())).collect();
            journal.send(&LogLine { level: Level::WARN, target, text: text.to_owned(), fields }).unwrap();
            let length = journald.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        assert_eq!(
            sent(Some("weir::run"), "the link changed", &[]),
            "PRIORITY=4\nSYSLOG_IDENTIFIER=weir\nTARGET=weir::run\nMESSAGE=the link changed\n"
        );
        assert_eq!(
            sent(None, "a\nbc", &[]),
            "PRIORITY=4\nSYSLOG_IDENTIFIER=weir\nMESSAGE\n\u{4}\0\0\0\0\0\0\0a\nbc\n"
        );
        assert_eq!(
            sent(None, "a", &[("WEIR_EVENT", "link-down")]),
            "PRIORITY=4\nSYSLOG_IDENTIFIER=weir\nWEIR_EVENT=link-down\nMESSAGE=a\n"
        );
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_stream_is_known_by_device_and_inode() {
        let metadata = std::fs::metadata("/dev/null").unwrap();
        let of = |device: u64, inode: u64| is_stream(&format!("{device}:{inode}"), &metadata);
        assert!(of(metadata.st_dev(), metadata.st_ino()));
        assert!(!of(metadata.st_dev(), metadata.st_ino() + 1));
        assert!(!is_stream("", &metadata) && !is_stream("1:x", &metadata));
    }
}
