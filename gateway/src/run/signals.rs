//! Signals: which stop the gateway, and which are ignored although they would end it by default.
//!
//! SIGQUIT and the signals of a crash keep their defaults, for the core dump; real-time signals are the drivers'.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use signal_hook::{
    consts::{
        SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPIPE, SIGPROF, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU,
        SIGXFSZ,
    },
    low_level::signal_name,
};
use tracing::warn;

/// What stops the gateway.
const STOPPING: [i32; 2] = [SIGTERM, SIGINT];
/// What operators' scripts and timers send to daemons that know what to do with it. Each is ignored with a line in the log.
const IGNORED: [i32; 8] = [SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGXCPU];
/// What a failed write brings, of the log's perhaps: a line about it would bring the next one.
const SILENT: [i32; 2] = [SIGPIPE, SIGXFSZ];

/// What signals ask for.
pub(super) struct Signals {
    /// SIGTERM, SIGINT: stop. So does a failure.
    pub stop: Arc<AtomicBool>,
    ignored: Vec<(i32, Arc<AtomicBool>)>,
}

impl Signals {
    /// Takes over the signals of this process.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn handle() -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in STOPPING {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        for signal in SILENT {
            signal_hook::flag::register(signal, Arc::default())?;
        }
        let mut ignored = Vec::new();
        for signal in IGNORED {
            let seen = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register(signal, Arc::clone(&seen))?;
            ignored.push((signal, seen));
        }
        Ok(Self { stop, ignored })
    }

    /// Logs the signals that came since the last call and are ignored.
    pub fn log_ignored(&self) {
        self.take_ignored().for_each(|signal| warn!("{}", complaint(signal)));
    }

    fn take_ignored(&self) -> impl Iterator<Item = i32> {
        self.ignored.iter().filter(|(_, seen)| seen.swap(false, Relaxed)).map(|(signal, _)| *signal)
    }
}

fn complaint(signal: i32) -> String {
    match signal {
        SIGHUP => "SIGHUP is ignored: the gateway can't reload its configuration while it runs".to_owned(),
        _ => {
            format!("{} is ignored: the gateway has no use for it", signal_name(signal).unwrap_or("a signal"))
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    fn raised(signal: i32) {
        raise(Signal::try_from(signal).unwrap()).unwrap();
    }

    /// The signals that end a process by default and that others send, or timers and limits do. The rest of them are
    /// for a core dump or can't be handled.
    #[test]
    fn signals_that_daemons_get_don_t_end_the_gateway() {
        let signals = Signals::handle().unwrap();
        for signal in SILENT {
            raised(signal);
            assert_eq!(signals.take_ignored().count(), 0, "{signal}");
        }
        for signal in [SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGXCPU] {
            raised(signal);
            raised(signal);
            assert_eq!(signals.take_ignored().collect::<Vec<_>>(), [signal]);
            assert!(complaint(signal).starts_with(signal_name(signal).unwrap()));
        }
        assert_eq!(signals.take_ignored().count(), 0);
        assert!(!signals.stop.load(Relaxed));
        for signal in STOPPING {
            signals.stop.store(false, Relaxed);
            raised(signal);
            assert!(signals.stop.load(Relaxed), "{signal}");
        }
    }
}
