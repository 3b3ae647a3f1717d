//! DPDK's log lines: passed to the caller's log or to stderr, and added to the errors they explain.
//!
//! EAL explains failures only in its log, and by default it logs to *stdout*, which belongs to the program's output.
//! DPDK is therefore given a stream of this crate's before anything else. If the caller has a log, C code's output on
//! stdout and stderr goes there, too: a stderr that nobody reads must not block the threads that print.

use std::{
    ffi::{c_char, c_void},
    io::Write,
    panic::catch_unwind,
    ptr, slice,
    sync::{Mutex, Once, PoisonError},
};

use crate::error::{Error, meaning};

/// Lines written while somebody listens.
static CAPTURED: Mutex<Option<String>> = Mutex::new(None);

/// The level of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something may be wrong.
    Warning,
    /// Information.
    Info,
    /// Details for debugging DPDK.
    Debug,
}

impl LogLevel {
    /// Converts DPDK's level numbers: 1 is an emergency, 8 is debugging.
    fn of(number: i32) -> Self {
        match number {
            ..=4 => Self::Error,
            5 => Self::Warning,
            6 | 7 => Self::Info,
            _ => Self::Debug,
        }
    }
}

/// Receives log lines; must not block.
pub type LogSink = fn(LogLevel, &str);

/// The destination of log lines, apart from errors.
static SINK: Mutex<Option<LogSink>> = Mutex::new(None);

/// How long an aborting process waits for its last lines to be written.
static LAST_WORDS: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Gives DPDK's log a stream of this crate's, and keeps C code's output off stdout. Called once per process.
pub(crate) fn install(sink: Option<LogSink>) -> Result<(), Error> {
    static ONCE: Once = Once::new();
    let mut result = 0;
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = sink;
    ONCE.call_once(|| {
        let functions =
            dpdk_sys::cookie_io_functions_t { read: None, write: Some(write), seek: None, close: None };
        // SAFETY: the mode is a valid text, the functions need no cookie, and the stream is never closed, so
        // that DPDK may write to it for ever.
        result = unsafe {
            let stream = dpdk_sys::fopencookie(ptr::null_mut(), c"w".as_ptr(), functions);
            if stream.is_null() {
                -libc::ENOMEM
            } else {
                dpdk_sys::shim_print_to(stream, sink.is_some().into());
                dpdk_sys::rte_openlog_stream(stream)
            }
        };
        if sink.is_some() {
            // SAFETY: the handler is a function that any thread may run at any time.
            unsafe { libc::signal(libc::SIGABRT, wait_for_last_words as *const () as libc::sighandler_t) };
        }
    });
    if result == 0 { Ok(()) } else { Err(Error::Init { reason: format!("its log: {}", meaning(result)) }) }
}

/// DPDK logs why it aborts and then aborts at once, while the sink may leave writing to another thread.
extern "C" fn wait_for_last_words(_signal: libc::c_int) {
    // SAFETY: async-signal-safe; the time is a constant, and the remaining time isn't requested.
    unsafe { libc::nanosleep(&raw const LAST_WORDS, ptr::null_mut()) };
}

/// The stream's write function: called by stdio with whole log lines, from any thread.
unsafe extern "C" fn write(_cookie: *mut c_void, buffer: *const c_char, size: usize) -> libc::c_long {
    // SAFETY: stdio passes `size` readable bytes.
    let bytes = unsafe { slice::from_raw_parts(buffer.cast::<u8>(), size) };
    let text = String::from_utf8_lossy(bytes);
    if let Some(captured) = CAPTURED.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        captured.push_str(&text);
    }
    let sink = *SINK.lock().unwrap_or_else(PoisonError::into_inner);
    match sink {
        Some(sink) => {
            // SAFETY: reads a variable of the calling thread's or lcore's.
            let level = LogLevel::of(unsafe { dpdk_sys::rte_log_cur_msg_loglevel() });
            // At the very end of a process a sink may have lost what it needs, and a panic must not unwind into C code.
            _ = catch_unwind(|| text.lines().for_each(|line| sink(level, line)));
        }
        // If stderr fails, there is nowhere to report it.
        None => _ = std::io::stderr().write_all(bytes),
    }
    size as libc::c_long
}

/// Runs `f` and returns its result with DPDK's log lines from that time.
pub(crate) fn listen<T>(f: impl FnOnce() -> T) -> (T, String) {
    *CAPTURED.lock().unwrap_or_else(PoisonError::into_inner) = Some(String::new());
    let result = f();
    let text = CAPTURED.lock().unwrap_or_else(PoisonError::into_inner).take();
    (result, text.unwrap_or_default())
}

/// Turns log lines and an error number into one reason: the first complaints, in order (the cause comes before its
/// consequences), or the number's meaning.
pub(crate) fn reason(log: &str, code: i32) -> String {
    let mut lines: Vec<&str> =
        log.lines().map(str::trim).filter(|l| !l.is_empty() && !is_chatter(l)).collect();
    lines.dedup();
    if lines.iter().any(|l| l.starts_with("EAL: failed to parse device")) {
        return "neither a PCI address nor the name of a driver's device".to_owned();
    }
    if lines.len() > 1 {
        lines.retain(|l| !l.starts_with("EAL: Driver cannot attach the device"));
    }
    lines.truncate(3);
    // If there are log lines, the number is often a mere -1.
    if lines.is_empty() { meaning(code) } else { lines.join("; ") }
}

/// Whether EAL logs the line on every start.
fn is_chatter(line: &str) -> bool {
    const CHATTER: [&str; 12] = [
        "EAL: Detected ",
        "EAL: Multi-process socket",
        "EAL: Selected IOVA mode",
        "EAL: VFIO support",
        "EAL: No available ",
        "EAL: No free ",
        "EAL: Static memory layout",
        "EAL: Probe PCI driver",
        "EAL: Failed to attach device on primary process",
        "TELEMETRY: ",
        "EAL: FATAL: Cannot init",
        "EAL: Cannot init",
    ];
    CHATTER.iter().any(|c| line.starts_with(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_made_of_the_complaints() {
        let log = "EAL: Detected CPU lcores: 2\n\nfoo: no interface x\nfoo: no interface x\n";
        assert_eq!(reason(log, -libc::ENODEV), "foo: no interface x");
        assert_eq!(reason("", -libc::ENODEV), "No such device");
    }

    #[test]
    fn what_is_written_meanwhile_is_heard() {
        let ((), text) = listen(|| {
            let line = "heard\n";
            // SAFETY: the pointer and length are those of a text.
            unsafe { write(ptr::null_mut(), line.as_ptr().cast(), line.len()) };
        });
        // Other tests of the process may log at the same time.
        assert!(text.contains("heard\n"));
    }
}
