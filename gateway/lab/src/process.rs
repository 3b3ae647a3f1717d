//! Processes that can't be lost: each one ends with its handle, and within a time limit.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The time limit of [`must`] and [`output`].
const LIMIT: Duration = Duration::from_secs(60);

/// Polls `event` until it returns something.
///
/// # Panics
/// If it hasn't within `limit`; the message names `what`.
pub fn wait_until<T>(what: &str, limit: Duration, mut event: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = event() {
            return value;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command that must succeed and returns its output.
///
/// # Panics
/// If it can't be started, fails, or takes longer than a minute.
pub fn must(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{}: {}\n{}", line(command), output.status, text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command to its end.
///
/// # Panics
/// If it can't be started or takes longer than a minute.
pub fn output(command: &mut Command) -> Output {
    output_within(command, LIMIT)
}

/// Runs a command to its end, for at most `limit`.
///
/// # Panics
/// If it can't be started or takes longer.
pub fn output_within(command: &mut Command, limit: Duration) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", line(command)));
    let end = Instant::now() + limit;
    let streams = [drain(child.stdout.take()), drain(child.stderr.take())];
    let [out, err] = streams.map(|stream| stream.recv_timeout(end.saturating_duration_since(Instant::now())));
    let (Ok(stdout), Ok(stderr)) = (out, err) else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("{} took longer than {limit:?}", line(command));
    };
    let status = child.wait().expect("a child can be waited for");
    Output { status, stdout, stderr }
}

/// Reads a stream to its end on its own thread.
fn drain(stream: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

/// The command itself, without the command that enters the namespace.
fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let own = words.iter().position(|w| w == "--").map_or(0, |at| at + 1);
    words[own..].join(" ")
}

/// Both streams as one text.
#[must_use]
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A running process. Dropping it kills it; during a panic, the end of its log is shown.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    lines: Receiver<String>,
}

impl Process {
    /// Starts `command`; its stderr goes to the file `log`.
    ///
    /// # Panics
    /// If it can't be started.
    #[must_use]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = File::create(log).unwrap_or_else(|e| panic!("cannot write {}: {e}", log.display()));
        let mut process = Self::start_to(name, command, file.into());
        log.clone_into(&mut process.log);
        process
    }

    /// Starts `command` with this stderr; [`Self::log`] is empty.
    ///
    /// # Panics
    /// If it can't be started.
    #[must_use]
    pub fn start_to(name: &str, command: &mut Command, stderr: Stdio) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", line(command)));
        let lines = lines(child.stdout.take().expect("stdout is piped"));
        Self { name: name.to_owned(), child, log: PathBuf::new(), lines }
    }

    /// Waits for a line on stdout.
    ///
    /// # Errors
    /// The process ended first, with what was read instead; or the limit is over.
    pub fn wait_for_line(&mut self, wanted: &str, limit: Duration) -> Result<(), String> {
        self.wait_for(wanted, limit, |line| (line == wanted).then_some(()))
    }

    /// Waits for a line on stdout for which `wanted` returns something; `what` names it in errors.
    ///
    /// # Errors
    /// As for [`Self::wait_for_line`].
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Result<T, String> {
        let end = Instant::now() + limit;
        let mut seen = String::new();
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => match wanted(&line) {
                    Some(found) => return Ok(found),
                    None => seen.push_str(&format!("{line}\n")),
                },
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("{}: no line {what:?} within {limit:?}, only {seen:?}", self.name));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().expect("a child can be waited for");
                    return Err(format!("{} ended ({status}) before {what:?}, saying {seen:?}", self.name));
                }
            }
        }
    }

    /// The rest of its stdout, up to its end.
    ///
    /// # Panics
    /// If it still runs after `limit`.
    pub fn rest(&mut self, limit: Duration) -> String {
        let end = Instant::now() + limit;
        let mut text = String::new();
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => text.push_str(&format!("{line}\n")),
                Err(RecvTimeoutError::Disconnected) => return text,
                Err(RecvTimeoutError::Timeout) => panic!("{} still runs after {limit:?}", self.name),
            }
        }
    }

    /// The lines written to stdout so far that nobody has waited for.
    pub fn unread(&self) -> impl Iterator<Item = String> + '_ {
        self.lines.try_iter()
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The contents of its stderr so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If the process has ended.
    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are small"));
        kill(id, signal).unwrap_or_else(|e| panic!("{signal} to {}: {e}", self.name));
    }

    /// Waits for the process to end by itself.
    ///
    /// # Panics
    /// If it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_until(&what, limit, || self.child.try_wait().expect("a child can be waited for"))
    }

    /// Kills it at once, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let log = self.log();
        if thread::panicking() && !log.is_empty() {
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- the end of what {} logged\n{}\n---", self.name, tail.join("\n"));
        }
    }
}

/// The lines of a stream, as they arrive.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
