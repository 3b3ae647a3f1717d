//! The log. Logging never waits and never fails: a line goes into a bounded queue, and one thread writes it to stderr
//! or to journald. Lines that find the queue full or can't be written (nobody reads, the disk is full) are lost and
//! counted.
//!
//! `WEIR_LOG` chooses what is logged, as tracing's `EnvFilter` reads it: `info` by default.

use std::{
    io::{self, Write},
    sync::{Arc, OnceLock},
    thread::Builder,
    time::Duration,
};

use nix::{
    sched::{sched_getaffinity, sched_setaffinity},
    unistd::{Pid, gettid},
};
use tracing::{Level, Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    fmt::{
        MakeWriter,
        format::Writer,
        layer,
        time::{FormatTime, SystemTime},
    },
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

mod journal;
mod output;
mod queue;

use output::Output;
use queue::{LogLine, LogQueue};
use weir_api::model::event::Event;

/// Lines that wait to be written.
const ROOM: usize = 1024;
/// Bytes of a line; the rest is cut off.
const LONGEST: usize = 8192;

/// The log of this process, once it has been set up.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    queue: Arc<LogQueue>,
    /// Lines go to journald, which takes fields.
    journal: bool,
    writer: OnceLock<Pid>,
}

/// Sets the log up. Once a process.
///
/// # Errors
/// There is no thread to be had.
pub fn init() -> io::Result<()> {
    let output = Output::find();
    let journal = output.is_journal();
    let log =
        LOG.get_or_init(|| Log { queue: Arc::new(LogQueue::new(ROOM)), journal, writer: OnceLock::new() });
    let tell_lost = if journal { lost_plainly } else { lost_with_time };
    let write = move || {
        let _ = log.writer.set(gettid());
        output::run(&log.queue, output, tell_lost);
    };
    Builder::new().name("weir-log".into()).spawn(write)?;
    let filter = EnvFilter::try_from_env("WEIR_LOG")
        .unwrap_or_else(|_| EnvFilter::default().add_directive(LevelFilter::INFO.into()));
    let layer = layer().with_writer(LogLines).with_ansi(false).log_internal_errors(false);
    let layer = match journal {
        true => layer.without_time().with_level(false).with_target(false).boxed(),
        false => layer.boxed(),
    };
    // Only a second call fails here, and the first one's is as good.
    let _ = tracing_subscriber::registry().with(layer).with(filter).try_init();
    Ok(())
}

/// Lets the writing thread run where the calling thread may: not on the CPUs of workers.
pub fn follow_caller() {
    let Some(writer) = LOG.get().and_then(|log| log.writer.get()) else { return };
    let moved = sched_getaffinity(Pid::from_raw(0)).and_then(|cpus| sched_setaffinity(*writer, &cpus));
    if let Err(error) = moved {
        tracing::debug!(%error, "can't move the log's thread to the caller's CPUs");
    }
}

/// A complaint to whoever started the program, as it is: to the log's output, or to stderr while there is no log.
pub fn complain(level: Level, text: &str) {
    for line in text.lines() {
        match LOG.get() {
            Some(log) => {
                let text = cut(line).to_owned();
                log.queue.push(LogLine { level, target: None, text, fields: Vec::new() });
            }
            // Nobody could be told that this failed.
            None => _ = writeln!(io::stderr(), "{line}"),
        }
    }
}

/// Sends an event to journald with a field for each of its own, if the log goes there: as a warning if it is `trouble`. The log
/// itself has a line about the same from the code that noticed it.
pub fn event(event: &Event, trouble: bool) {
    let Some(log) = LOG.get().filter(|log| log.journal) else { return };
    let level = if trouble { Level::WARN } else { Level::INFO };
    log.queue.push(LogLine { level, target: None, text: event.text.clone(), fields: journal::fields(event) });
}

/// Waits until all lines are written, for `limit` at most; whether they are.
pub fn flush(limit: Duration) -> bool {
    LOG.get().is_none_or(|log| log.queue.flush(limit))
}

fn lost(lines: u64) -> String {
    if lines == 1 { "1 line lost".to_owned() } else { format!("{lines} lines lost") }
}

fn lost_plainly(lines: u64) -> LogLine {
    let target = Some(module_path!().to_owned());
    LogLine { level: Level::WARN, target, text: lost(lines), fields: Vec::new() }
}

fn lost_with_time(lines: u64) -> LogLine {
    let mut text = String::new();
    // A line without its time is better than none.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    LogLine { text: format!("{text}  WARN {}: {}", module_path!(), lost(lines)), ..lost_plainly(lines) }
}

/// What of a line is written.
fn cut(line: &str) -> &str {
    let mut end = line.len().min(LONGEST);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    &line[..end]
}

/// Makes an event's text a line of the queue.
struct LogLines;

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = LogEvent;

    fn make_writer(&'a self) -> LogEvent {
        LogEvent { level: Level::INFO, target: None }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> LogEvent {
        LogEvent { level: *meta.level(), target: Some(meta.target().to_owned()) }
    }
}

/// What is said at once on its way into the queue: written by a single call.
struct LogEvent {
    level: Level,
    target: Option<String>,
}

impl Write for LogEvent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(log) = LOG.get() {
            let text = String::from_utf8_lossy(bytes);
            let text = cut(text.trim_end_matches('\n')).to_owned();
            let target = self.target.clone();
            log.queue.push(LogLine { level: self.level, target, text, fields: Vec::new() });
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
