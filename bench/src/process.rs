//! Child processes that never outlive the measurement, and waiting for what they do.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::error::{Error, Result};

/// Set by SIGINT and SIGTERM.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&flag)).expect("both signals can be handled");
    }
    flag
});

/// Fails once the user has asked to stop.
pub fn check_interrupted() -> Result<()> {
    if INTERRUPTED.load(Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}

/// Calls `probe` every few milliseconds until it has something; `None` when `limit` is over.
pub fn wait_for<T>(limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let start = Instant::now();
    loop {
        check_interrupted()?;
        if let Some(found) = probe()? {
            return Ok(Some(found));
        }
        if start.elapsed() > limit {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running program. It is ended on drop, stopped or not.
pub struct Process {
    child: Child,
    program: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in a process group of its own (a terminal's SIGINT is ours to act on), its output
    /// going to the file `log`, its standard input held open.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        LazyLock::force(&INTERRUPTED);
        let program = command.get_program().to_string_lossy().into_owned();
        let out = File::create(log).map_err(Error::file(log))?;
        let err = out.try_clone().map_err(Error::file(log))?;
        let child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|source| Error::Spawn { program: program.clone(), source })?;
        Ok(Self { child, program, log: log.to_owned() })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A line of its status (`VmRSS`, `VmHWM`), in megabytes.
    pub fn memory(&self, line: &str) -> Result<u64> {
        let path = PathBuf::from(format!("/proc/{}/status", self.pid()));
        let text = fs::read_to_string(&path).map_err(Error::file(&path))?;
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':'));
        let kilobytes = found.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        kilobytes
            .map(|kb| kb / 1024)
            .ok_or_else(|| Error::Unexpected(format!("no {line} in {}", path.display())))
    }

    /// All that it printed.
    pub fn output(&self) -> Result<String> {
        let mut text = Vec::new();
        File::open(&self.log).and_then(|mut f| f.read_to_end(&mut text)).map_err(Error::file(&self.log))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// An error that quotes the last lines it printed.
    pub fn failed(&self, what: impl Into<String>) -> Error {
        let text = self.output().unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        Error::Program { program: self.program.clone(), what: what.into(), tail }
    }

    /// Fails if it has ended.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(format!("ended early ({status})"))),
            Err(e) => Err(self.failed(format!("can't be waited for ({e})"))),
        }
    }

    /// Suspends it.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        // It can only fail if the process has ended, and that shows elsewhere.
        let _ = kill(Pid::from_raw(self.pid() as i32), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // testpmd waits for Enter, and its SIGTERM handler doesn't end that
        self.signal(Signal::SIGTERM);
        self.signal(Signal::SIGCONT);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end and returns what it printed; an error has its standard error in it.
pub fn output_of(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Spawn { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let tail = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::Program { program, what: format!("failed ({})", output.status), tail })
}

/// CPUs this process may use, in order (`Cpus_allowed_list`).
pub fn allowed_cpus() -> Result<Vec<usize>> {
    let path = "/proc/self/status";
    let status = fs::read_to_string(path).map_err(Error::file(path))?;
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap_or("0").trim();
    parse_cpus(list).ok_or_else(|| Error::Unexpected(format!("{path}: CPU list {list:?}")))
}

fn parse_cpus(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpus("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse_cpus("x"), None);
    }

    #[test]
    fn a_paused_process_is_ended_on_drop() {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::spawn(Command::new("sleep").arg("60"), &dir.path().join("log")).unwrap();
        let proc_dir = PathBuf::from(format!("/proc/{}", process.pid()));
        process.pause();
        assert!(proc_dir.exists());
        drop(process);
        assert!(!proc_dir.exists());
    }

    #[test]
    fn an_early_end_quotes_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        let mut process =
            Process::spawn(command.args(["-c", "echo why; exit 3"]), &dir.path().join("log")).unwrap();
        let ended = wait_for(Duration::from_secs(5), || Ok(process.check_running().err())).unwrap().unwrap();
        let text = ended.to_string();
        assert!(text.contains("exit status: 3") && text.contains("why"), "{text}");
    }
}
