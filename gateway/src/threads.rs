//! The threads that the gateway needs: when one of them panics, or ends without being asked to, the process ends as
//! well. A gateway that half works is worse than none, since no standby takes over from it.
//!
//! Workers and the control loop are told to stop first; the control loop takes everything down and the process ends with
//! the reason. Where that doesn't work out in time, the process ends all the same.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    cell::RefCell,
    io,
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind, set_hook},
    process,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, Builder, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use thiserror::Error;
use tracing::Level;

use crate::log;

/// Something failed that worked before, or that only a start shows.
pub const EXIT_FAILURE: u8 = 1;
/// How long everything may take to be taken down after a failure.
const GRACE: Duration = Duration::from_secs(5);
/// How long the last lines may take to be written.
pub const LAST_LINES: Duration = Duration::from_millis(500);

/// A thread that ended when it shouldn't have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the thread `{thread}` {why}: the gateway ends")]
pub struct Failure {
    /// Its name.
    pub thread: String,
    /// What happened, to follow the name.
    pub why: String,
}

/// Set while a gateway runs: what tells workers and the control loop to stop.
static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
/// The first failure.
static FAILED: Mutex<Option<Failure>> = Mutex::new(None);

thread_local! {
    /// What the thread's panic said. None outside of [`catch`].
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on a failure sets `stop` and ends the process. Without this, panics just go on: in tests.
pub fn watch(stop: &Arc<AtomicBool>) {
    // A second gateway in one process isn't provided for.
    let _ = STOP.set(Arc::clone(stop));
}

/// The first failure there was.
#[must_use]
pub fn failure() -> Option<Failure> {
    FAILED.lock().clone()
}

/// Makes panics go to the log, which doesn't wait.
pub fn log_panics() {
    set_hook(Box::new(on_panic));
}

fn on_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message");
    let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
    let text = format!("panicked{place}: {message}");
    let caught = PANIC.try_with(|panic| {
        panic.try_borrow_mut().is_ok_and(|mut p| match p.as_mut() {
            Some(p) => {
                p.clone_from(&text);
                true
            }
            None => false,
        })
    });
    if !caught.unwrap_or(false) {
        let thread = thread::current();
        log::complain(Level::ERROR, &format!("weir: the thread `{}` {text}", thread.name().unwrap_or("?")));
    }
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        log::complain(Level::ERROR, &backtrace.to_string());
    }
}

/// Starts a thread that the gateway can't do without. Its body returns `Ok` if it was told to end.
///
/// # Errors
/// There is no thread to be had.
pub fn spawn(
    name: &'static str,
    body: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name(format!("weir-{name}")).spawn(move || {
        if let Some(Err(why)) = catch(name, body) {
            fail(name, why);
        }
    })
}

/// Runs `body`, in whichever thread. A panic in it is a failure of the thread `name`; then there is no result.
pub fn catch<T>(name: &str, body: impl FnOnce() -> T) -> Option<T> {
    PANIC.set(Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(body));
    let said = PANIC.take();
    match result {
        Ok(value) => Some(value),
        Err(panic) if STOP.get().is_none() => resume_unwind(panic),
        Err(_) => {
            fail(name, said.filter(|text| !text.is_empty()).unwrap_or_else(|| "panicked".to_owned()));
            None
        }
    }
}

/// Notes that the thread `name` ended, for the reason `why`, and has the process end.
pub fn fail(name: &str, why: String) {
    let Some(stop) = STOP.get() else { return };
    let mut failed = FAILED.lock();
    let first = failed.is_none();
    if first {
        *failed = Some(Failure { thread: name.to_owned(), why });
    }
    drop(failed);
    stop.store(true, Relaxed);
    if first && Builder::new().name("weir-last".into()).spawn(end_in_any_case).is_err() {
        end_in_any_case();
    }
}

/// Ends the process if the gateway isn't taken down in time.
fn end_in_any_case() {
    thread::sleep(GRACE);
    if let Some(failure) = failure() {
        log::complain(Level::ERROR, &format!("weir: {failure}"));
    }
    log::flush(LAST_LINES);
    process::exit(EXIT_FAILURE.into());
}

/// For tests: whether the thread `name` is to end here. With `WEIR_FAULT=THREAD:end:FILE` it is once FILE exists; with
/// `panic` in the place of `end` it panics here, with `hang` it stays here until FILE is gone. Builds without debug assertions
/// know nothing of this.
///
/// # Panics
/// If it is told to.
#[cfg(debug_assertions)]
#[must_use]
pub fn fault(name: &str) -> bool {
    static FAULT: OnceLock<Option<(String, String, std::path::PathBuf)>> = OnceLock::new();
    let fault = FAULT.get_or_init(|| {
        let text = std::env::var("WEIR_FAULT").ok()?;
        let mut parts = text.splitn(3, ':');
        Some((parts.next()?.to_owned(), parts.next()?.to_owned(), parts.next()?.into()))
    });
    let Some((_, how, file)) = fault.as_ref().filter(|(thread, _, file)| thread == name && file.exists())
    else {
        return false;
    };
    assert!(how != "panic", "a fault for a test");
    if how == "hang" {
        while file.exists() {
            thread::sleep(Duration::from_millis(10));
        }
        return false;
    }
    true
}

/// There are no faults in builds without debug assertions.
#[cfg(not(debug_assertions))]
#[inline(always)]
#[must_use]
pub fn fault(_name: &str) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_gateway_a_panic_goes_on() {
        assert_eq!(catch("test", || 7), Some(7));
        let panic = catch_unwind(|| catch("test", || -> u8 { panic!("as it should") }));
        assert!(panic.is_err());
        assert_eq!(failure(), None);
    }

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure { thread: "netlink".into(), why: "panicked at a.rs:7: why".into() };
        assert_eq!(failure.to_string(), "the thread `netlink` panicked at a.rs:7: why: the gateway ends");
    }
}
