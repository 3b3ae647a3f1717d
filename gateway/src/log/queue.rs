//! The backlog of lines to be written: a bounded queue whose sender never waits.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tracing::Level;

/// A line, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogLine {
    pub level: Level,
    /// The module that speaks; none for what isn't an event, such as the configuration's mistakes.
    pub target: Option<String>,
    pub text: String,
    /// Fields for journald beside that, by their names there.
    pub fields: Vec<(String, String)>,
}

/// What is to be written next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NextLine {
    /// Lines lost for want of room before `line`.
    pub lost: u64,
    /// None: there is only this loss to be told.
    pub line: Option<LogLine>,
}

/// The queue between those who log and the thread that writes.
pub(super) struct LogQueue {
    state: Mutex<QueueState>,
    filled: Condvar,
    written: Condvar,
}

struct QueueState {
    waiting: VecDeque<(u64, LogLine)>,
    /// Lines lost since the last one that found room.
    lost: u64,
    /// Whether a line is being written.
    writing: bool,
}

impl LogQueue {
    /// A queue with room for so many lines.
    pub fn new(room: usize) -> Self {
        let state = QueueState { waiting: VecDeque::with_capacity(room), lost: 0, writing: false };
        Self { state: Mutex::new(state), filled: Condvar::new(), written: Condvar::new() }
    }

    /// Hands a line over; without room it is counted as lost. Never waits for the writer.
    pub fn push(&self, line: LogLine) {
        let mut state = self.state.lock();
        if state.waiting.len() == state.waiting.capacity() {
            state.lost += 1;
            return;
        }
        let lost = std::mem::take(&mut state.lost);
        state.waiting.push_back((lost, line));
        drop(state);
        self.filled.notify_one();
    }

    /// What is to be written next; waits for it. What was taken before counts as written from here on.
    pub fn next(&self) -> NextLine {
        let mut state = self.state.lock();
        state.writing = false;
        loop {
            if let Some((lost, line)) = state.waiting.pop_front() {
                state.writing = true;
                return NextLine { lost, line: Some(line) };
            }
            if state.lost > 0 {
                state.writing = true;
                return NextLine { lost: std::mem::take(&mut state.lost), line: None };
            }
            self.written.notify_all();
            self.filled.wait(&mut state);
        }
    }

    /// Waits until everything is written, for `limit` at most; whether it is.
    pub fn flush(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.state.lock();
        while state.writing || !state.waiting.is_empty() || state.lost > 0 {
            if self.written.wait_until(&mut state, end).timed_out() {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine { level: Level::INFO, target: None, text: text.to_owned(), fields: Vec::new() }
    }

    #[test]
    fn lines_without_room_are_counted_where_they_are_missing() {
        let queue = LogQueue::new(2);
        for text in ["a", "b", "lost", "lost"] {
            queue.push(line(text));
        }
        assert_eq!(queue.next(), NextLine { lost: 0, line: Some(line("a")) });
        queue.push(line("c"));
        queue.push(line("lost"));
        assert_eq!(queue.next(), NextLine { lost: 0, line: Some(line("b")) });
        assert_eq!(queue.next(), NextLine { lost: 2, line: Some(line("c")) });
        assert_eq!(queue.next(), NextLine { lost: 1, line: None });
    }

    #[test]
    fn a_flush_waits_for_the_line_being_written_and_no_longer_than_it_may() {
        let queue = Arc::new(LogQueue::new(2));
        assert!(queue.flush(Duration::ZERO));
        queue.push(line("a"));
        assert!(!queue.flush(Duration::ZERO), "nobody writes");
        queue.next();
        assert!(!queue.flush(Duration::from_millis(1)), "it is still being written");
        let writer = Arc::clone(&queue);
        // Never joined: a writer waits for lines for ever.
        thread::spawn(move || writer.next());
        assert!(queue.flush(Duration::from_secs(10)));
    }
}
