//! Waiting: for time to pass, for news of the gateway, for somebody to press Ctrl-C. Tests bring their own.

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::client::Client;

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The time is over.
    Time,
    /// The configuration has changed or rates were estimated.
    News,
    /// Somebody wants the program to end.
    Interrupt,
    /// The gateway has closed the connection that brings news.
    Gone,
}

/// Time, as a command sees it.
pub trait Pace {
    /// Time since some moment.
    fn now(&self) -> Duration;

    /// Waits for `most` at most.
    fn wait(&mut self, most: Duration) -> Wake;

    /// From now on interrupts end a wait instead of the process.
    ///
    /// # Errors
    /// The system's.
    fn catch_interrupts(&mut self) -> io::Result<()>;

    /// From now on news end a wait. An older gateway has none; time has to do then.
    fn follow_news(&mut self);
}

/// The real thing.
pub struct RealPace {
    start: Instant,
    socket: PathBuf,
    /// How long the gateway may take to answer.
    patience: Duration,
    tell: mpsc::Sender<Wake>,
    told: mpsc::Receiver<Wake>,
}

impl RealPace {
    /// For the gateway behind `socket`, which may take `patience` to answer.
    #[must_use]
    pub fn new(socket: &Path, patience: Duration) -> Self {
        let (tell, told) = mpsc::channel();
        Self { start: Instant::now(), socket: socket.into(), patience, tell, told }
    }
}

impl Pace for RealPace {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn wait(&mut self, most: Duration) -> Wake {
        self.told.recv_timeout(most).unwrap_or(Wake::Time)
    }

    fn catch_interrupts(&mut self) -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let tell = self.tell.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for _ in signals.forever() {
                if tell.send(Wake::Interrupt).is_err() {
                    return;
                }
            }
        })?;
        Ok(())
    }

    fn follow_news(&mut self) {
        let connected = Client::connect_for(&self.socket, self.patience).and_then(Client::subscribe);
        let Ok(mut news) = connected else { return };
        let tell = self.tell.clone();
        let follow = move || {
            while news.wait().is_ok() {
                if tell.send(Wake::News).is_err() {
                    return;
                }
            }
            // If nobody listens any more, nobody needs to know.
            let _ = tell.send(Wake::Gone);
        };
        // Without a thread there are no news, as with an older gateway.
        drop(thread::Builder::new().name("news".into()).spawn(follow));
    }
}
