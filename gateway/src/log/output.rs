//! Where lines end up: stderr, or journald where stderr is its stream.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    path::Path,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    journal::{self, Journald},
    queue::{LogLine, LogQueue, NextLine},
};

/// Where lines go.
pub(super) struct Output {
    stderr: Option<Stream>,
    journal: Option<Journald>,
}

impl Output {
    /// stderr, or the journal if stderr is its stream. stderr is written to by a descriptor of our own: whoever uses
    /// the standard library's must not wait for us.
    pub fn find() -> Self {
        let stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from).ok();
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let is_journal = stderr
            .as_ref()
            .and_then(|file| file.metadata().ok())
            .is_some_and(|metadata| journal::is_stream(&stream, &metadata));
        let journal = is_journal.then(|| Journald::at(Path::new(journal::SOCKET)));
        Self { stderr: stderr.map(|file| Stream { file, torn: false, is_journal }), journal }
    }

    /// Whether the journal notes time and priority of each line, so that the line needn't.
    pub fn is_journal(&self) -> bool {
        self.stderr.as_ref().is_some_and(|stderr| stderr.is_journal)
    }

    /// Writes a line, however long that takes.
    fn write(&mut self, line: &LogLine) -> io::Result<()> {
        if let Some(journal) = &mut self.journal
            && journal.send(line).is_ok()
        {
            return Ok(());
        }
        self.stderr.as_mut().ok_or(io::ErrorKind::NotConnected)?.write(line)
    }
}

/// stderr.
struct Stream {
    file: File,
    /// The last line was cut off: the next one starts on a line of its own.
    torn: bool,
    /// What reads it takes the priority from the line's beginning.
    is_journal: bool,
}

impl Stream {
    fn write(&mut self, line: &LogLine) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(line.text.len() + 8);
        if self.torn {
            bytes.push(b'\n');
        }
        if self.is_journal {
            bytes.extend(format!("<{}>", journal::priority(line.level)).into_bytes());
        }
        bytes.extend(line.text.as_bytes());
        bytes.push(b'\n');
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    rest = rest.get(n..).unwrap_or_default();
                    self.torn = !rest.is_empty();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Whoever shares the stream may have made it non-blocking.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut fds, PollTimeout::NONE)?;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// What tells of lost lines is made by this.
pub(super) type TellLost = fn(u64) -> LogLine;

/// Writes lines for ever. Those that can't be written are counted; the count is told before the next one that can.
pub(super) fn run(queue: &LogQueue, mut output: Output, tell_lost: TellLost) {
    let mut missing = 0;
    loop {
        missing = write_next(queue.next(), missing, tell_lost, |line| output.write(line));
    }
}

/// Writes what is next; returns how many lines are missing now.
fn write_next(
    NextLine { lost, line }: NextLine,
    missing: u64,
    tell_lost: TellLost,
    mut write: impl FnMut(&LogLine) -> io::Result<()>,
) -> u64 {
    let missing = missing.saturating_add(lost);
    let own = u64::from(line.is_some());
    if missing > 0 && write(&tell_lost(missing)).is_err() {
        return missing + own;
    }
    match line {
        Some(line) if write(&line).is_err() => own,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, pipe},
        os::unix::net::UnixDatagram,
    };

    use tracing::Level;

    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine { level: Level::WARN, target: None, text: text.to_owned(), fields: Vec::new() }
    }

    fn lost(lines: u64) -> LogLine {
        line(&format!("{lines} lost"))
    }

    #[test]
    fn lost_lines_are_reported_once_writing_works() {
        let next = |lost, text: &str| NextLine { lost, line: Some(line(text)) };
        let broken = |_: &LogLine| Err(io::ErrorKind::BrokenPipe.into());
        let missing = write_next(next(0, "a"), 0, lost, broken);
        assert_eq!(missing, 1);
        let missing = write_next(next(3, "b"), missing, lost, broken);
        assert_eq!(missing, 5);
        let mut written = Vec::new();
        let mut write = |l: &LogLine| {
            written.push(l.text.clone());
            Ok(())
        };
        assert_eq!(write_next(next(0, "c"), missing, lost, &mut write), 0);
        assert_eq!(write_next(next(0, "d"), 0, lost, &mut write), 0);
        assert_eq!(write_next(NextLine { lost: 2, line: None }, 0, lost, &mut write), 0);
        assert_eq!(written, ["5 lost", "c", "d", "2 lost"]);
    }

    /// journald's socket is created again: lines that came while there was none are counted, and the next one arrives.
    #[test]
    fn journald_is_found_again() {
        let path = std::env::temp_dir().join(format!("weir-journal-anew-{}", std::process::id()));
        let mut output = Output { stderr: None, journal: Some(Journald::at(&path)) };
        let mut missing = 0;
        let mut write = |text: &str| {
            let next = NextLine { lost: 0, line: Some(line(text)) };
            missing = write_next(next, missing, lost, |line| output.write(line));
            missing
        };
        let received = |journald: &UnixDatagram| {
            let mut buffer = [0; 512];
            let length = journald.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            text.lines().find_map(|line| line.strip_prefix("MESSAGE=").map(str::to_owned))
        };
        assert_eq!(write("before journald"), 1);
        for round in ["first", "second", "third"] {
            let journald = UnixDatagram::bind(&path).unwrap();
            assert_eq!(write(round), 0);
            assert!(received(&journald).unwrap().ends_with(" lost"));
            assert_eq!(received(&journald).as_deref(), Some(round));
            assert_eq!(write("more"), 0);
            assert_eq!(received(&journald).as_deref(), Some("more"));
            std::fs::remove_file(&path).unwrap();
            // Restarted at once, without a line in between that shows it.
            let anew = UnixDatagram::bind(&path).unwrap();
            drop(journald);
            assert_eq!(write("anew"), 0);
            assert_eq!(received(&anew).as_deref(), Some("anew"));
            std::fs::remove_file(&path).unwrap();
            drop(anew);
            assert_eq!((write("lost"), write("lost")), (1, 2));
        }
    }

    #[test]
    fn a_line_after_a_truncated_one_starts_fresh() {
        let (mut reader, writer) = pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut stream = Stream { file, torn: true, is_journal: true };
        stream.write(&line("whole")).unwrap();
        stream.write(&line("next")).unwrap();
        drop(stream);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "\n<4>whole\n<4>next\n");
    }
}
