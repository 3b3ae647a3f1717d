//! Waiting: for time to pass, for news of the gateway, for somebody to press Ctrl-C. Tests bring their own.

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH},
    iterator::Signals,
};
use time::{OffsetDateTime, UtcOffset};
use weir_api::client::Client;

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The time is over.
    Time,
    /// The configuration has changed or rates were estimated.
    News,
    /// Somebody wants the program to end.
    Interrupt,
    /// The terminal has another size.
    Resized,
    /// The gateway has closed the connection that brings news.
    Gone,
}

/// A moment as clocks on walls show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Since 1970, UTC.
    pub since_1970: Duration,
    /// Local time less UTC, in seconds; absent where it isn't known.
    pub offset: Option<i32>,
}

impl Moment {
    /// `2026-11-30`, local time, or UTC where that isn't known.
    #[must_use]
    pub fn date(&self) -> String {
        let local = (self.since_1970.as_secs() as i64).saturating_add(self.offset.unwrap_or(0).into());
        // Years beyond those that it knows are nobody's.
        let at = OffsetDateTime::from_unix_timestamp(local).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        format!("{:04}-{:02}-{:02}", at.year(), u8::from(at.month()), at.day())
    }

    /// `12:34:56`, local time; `12:34:56 UTC` where that isn't known.
    #[must_use]
    pub fn time_of_day(&self) -> String {
        const DAY: i64 = 86_400;
        let local = self.since_1970.as_secs() as i64 + i64::from(self.offset.unwrap_or(0));
        let second = local.rem_euclid(DAY);
        let zone = if self.offset.is_none() { " UTC" } else { "" };
        format!("{:02}:{:02}:{:02}{zone}", second / 3600, second / 60 % 60, second % 60)
    }
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

    /// The time of day.
    fn moment(&self) -> Moment {
        Moment { since_1970: self.now(), offset: Some(0) }
    }

    /// Columns and rows of the terminal, if there is one.
    fn screen(&self) -> Option<(u16, u16)> {
        None
    }

    /// From now on another size of the terminal ends a wait.
    ///
    /// # Errors
    /// The system's.
    fn follow_resizes(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The real thing.
pub struct RealPace {
    start: Instant,
    /// Local time less UTC, in seconds.
    offset: Option<i32>,
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
        // It can be asked for safely as long as there is no second thread.
        let offset = UtcOffset::current_local_offset().ok().map(UtcOffset::whole_seconds);
        Self { start: Instant::now(), offset, socket: socket.into(), patience, tell, told }
    }

    /// From now on these signals end a wait.
    fn follow(&self, signals: &[i32], wake: Wake) -> io::Result<()> {
        let mut signals = Signals::new(signals)?;
        let tell = self.tell.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for _ in signals.forever() {
                if tell.send(wake).is_err() {
                    return;
                }
            }
        })?;
        Ok(())
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
        self.follow(&[SIGINT, SIGTERM, SIGHUP], Wake::Interrupt)
    }

    fn follow_resizes(&mut self) -> io::Result<()> {
        self.follow(&[SIGWINCH], Wake::Resized)
    }

    fn moment(&self) -> Moment {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { since_1970, offset: self.offset }
    }

    fn screen(&self) -> Option<(u16, u16)> {
        ratatui::crossterm::terminal::size().ok()
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
            // A failure doesn't matter if nobody listens any more.
            let _ = tell.send(Wake::Gone);
        };
        // Without a thread there are no news, as with an older gateway.
        drop(thread::Builder::new().name("news".into()).spawn(follow));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day() {
        for (since_1970, offset, expected) in [
            (0, Some(0), "00:00:00"),
            (45_296, Some(0), "12:34:56"),
            (45_296, Some(-13 * 3600), "23:34:56"),
            (86_400 * 365 + 86_399, Some(5 * 3600 + 1800), "05:29:59"),
            (45_296, None, "12:34:56 UTC"),
        ] {
            let moment = Moment { since_1970: Duration::from_secs(since_1970), offset };
            assert_eq!(moment.time_of_day(), expected);
            assert_eq!(moment.date().len(), 10);
        }
    }
}
