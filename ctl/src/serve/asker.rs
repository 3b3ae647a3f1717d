//! Where questions to the gateway are put. Two threads ask them: one looks, one has documents written. So there are
//! never more than two connections to the gateway, with one question each, and nobody but these threads waits for it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use weir_api::{
    client::{Client, ClientError, Transport},
    documents::Body,
    protocol::{Request, Response},
};

use super::{
    documents,
    look::{Brief, Look, Watcher},
};
use crate::commands::{Failure, cli::Command, fetch, file_write, json, rules};

/// Whoever wants one as new as this gets the one that is there: figures change every 2 s.
const FRESH: Duration = Duration::from_secs(1);
/// How long a look may take all together. Prometheus gives up after 10 s unless told otherwise.
const LOOK_TIME: Duration = Duration::from_secs(25);
/// How long a document may take.
const DOCUMENT_TIME: Duration = Duration::from_secs(25);
/// Looks that may be waited for: one a connection.
const LOOKS: usize = super::connection::MAX_CONNECTIONS;
/// Documents that may be waited for.
const DOCUMENTS: usize = 4;
/// A gateway that can't be reached is tried again so often.
const AGAIN: Duration = Duration::from_secs(1);
/// One that is stopped keeps a connection that waits for it so long. A new one each second would fill the queue of
/// connections that it has not accepted.
const STOPPED: Duration = Duration::from_secs(60);

/// Why there is no answer, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unanswered {
    /// The gateway doesn't answer, or not in time: 503.
    #[error("{0}")]
    Unavailable(String),
    /// The question was wrong: 400.
    #[error("{0}")]
    Wrong(String),
    /// The gateway refuses: 404, as it has no such thing.
    #[error("{0}")]
    Refused(String),
    /// The configuration has another generation: 412.
    #[error("{0}")]
    Stale(String),
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Usage(why) => Self::Wrong(why),
            Failure::Refused(why) => Self::Refused(why),
            Failure::Stale(why) => Self::Stale(why),
            Failure::Unreachable(_) | Failure::Unfinished(_) | Failure::Found { .. } | Failure::Output(_) => {
                Self::Unavailable(failure.to_string())
            }
        }
    }
}

type Answer<T> = Result<T, Unanswered>;

enum Question {
    Brief(oneshot::Sender<Answer<Arc<Brief>>>),
    Look(oneshot::Sender<Answer<Arc<Look>>>),
}

/// What takes long, and nothing is told until it is done.
enum Task {
    /// What a command writes.
    Document(Box<Command>),
    /// The configuration as a file.
    Rules,
    /// The configuration is to become what a file says, if its generation is this one.
    Replace(String, u64),
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub text: String,
    /// The configuration's generation, where it is about that.
    pub generation: u64,
}

struct Order {
    task: Task,
    until: Instant,
    reply: oneshot::Sender<Answer<Written>>,
}

/// What both sides know. It is locked for an instant, never while anybody waits.
#[derive(Default)]
struct Known {
    brief: Option<(Instant, Arc<Brief>)>,
    look: Option<(Instant, Arc<Look>)>,
    /// Why the gateway is known not to answer.
    down: Option<String>,
}

impl Known {
    fn fresh(&self, whole: bool) -> Option<Seen> {
        let new = |at: &Instant| at.elapsed() < FRESH;
        let look = self.look.as_ref().filter(|(at, _)| new(at)).map(|(_, look)| look.clone());
        let brief = self.brief.as_ref().filter(|(at, _)| new(at)).map(|(_, brief)| brief.clone())?;
        (look.is_some() || !whole).then_some(Seen { brief, look })
    }
}

#[derive(Clone, Default)]
struct Cache(Arc<Mutex<Known>>);

impl Cache {
    fn with<T>(&self, f: impl FnOnce(&mut Known) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Takes questions.
pub(super) struct Asker {
    cache: Cache,
    looks: mpsc::Sender<Question>,
    documents: mpsc::Sender<Order>,
}

impl Asker {
    /// For the gateway behind `socket`, which has `patience` for an answer.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn open(socket: &Path, patience: Duration) -> io::Result<Self> {
        let cache = Cache::default();
        let (looks, questions) = mpsc::channel(LOOKS);
        let (documents, orders) = mpsc::channel(DOCUMENTS);
        let looker = AskerThread { cache: cache.clone(), socket: socket.into(), patience };
        let writer = AskerThread { cache: cache.clone(), ..looker.clone() };
        thread::Builder::new().name("looks".into()).spawn(move || looker.look(questions))?;
        thread::Builder::new().name("documents".into()).spawn(move || writer.write(orders))?;
        Ok(Self { cache, looks, documents })
    }

    /// How the gateway is.
    pub(super) async fn brief(&self) -> Answer<Arc<Brief>> {
        if let Some(brief) = self.known(|known| known.brief.as_ref())? {
            return Ok(brief);
        }
        self.ask(Question::Brief).await
    }

    /// How the gateway is, with all services and servers.
    pub(super) async fn look(&self) -> Answer<Arc<Look>> {
        if let Some(look) = self.known(|known| known.look.as_ref())? {
            return Ok(look);
        }
        self.ask(Question::Look).await
    }

    /// What `command` writes.
    pub(super) async fn document(&self, command: Command) -> Answer<String> {
        Ok(self.order(Task::Document(Box::new(command))).await?.text)
    }

    /// The configuration as a file, and its generation.
    pub(super) async fn rules(&self) -> Answer<Written> {
        self.order(Task::Rules).await
    }

    /// Makes the configuration what `text` says, if its generation is `expected`: what was changed, as `apply` says it.
    pub(super) async fn replace(&self, text: String, expected: u64) -> Answer<Written> {
        self.order(Task::Replace(text, expected)).await
    }

    async fn order(&self, task: Task) -> Answer<Written> {
        self.known(|_| None::<&(Instant, Arc<()>)>)?;
        let (reply, answer) = oneshot::channel();
        let order = Order { task, until: Instant::now() + DOCUMENT_TIME, reply };
        let busy = |_| Unanswered::Unavailable("too many documents are being written: try again".into());
        self.documents.try_send(order).map_err(busy)?;
        within(DOCUMENT_TIME, answer).await
    }

    /// What is known and new enough.
    ///
    /// # Errors
    /// The gateway is known not to answer.
    fn known<T>(&self, of: impl Fn(&Known) -> Option<&(Instant, Arc<T>)>) -> Answer<Option<Arc<T>>> {
        self.cache.with(|known| match &known.down {
            Some(why) => Err(Unanswered::Unavailable(why.clone())),
            None => Ok(of(known).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, it)| it.clone())),
        })
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<Answer<T>>) -> Question) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        let busy = |_| Unanswered::Unavailable("too many requests wait for the gateway".into());
        self.looks.try_send(question(reply)).map_err(busy)?;
        within(LOOK_TIME, answer).await
    }
}

async fn within<T>(limit: Duration, answer: oneshot::Receiver<Answer<T>>) -> Answer<T> {
    let late = || Unanswered::Unavailable(format!("the gateway took longer than {} s", limit.as_secs()));
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(Unanswered::Unavailable("the question was given up".into())),
        Err(_) => Err(late()),
    }
}

/// Asks the gateway, on a thread of its own.
#[derive(Clone)]
struct AskerThread {
    cache: Cache,
    socket: PathBuf,
    patience: Duration,
}

impl AskerThread {
    fn look(self, mut questions: mpsc::Receiver<Question>) {
        let mut watcher = Watcher::default();
        while let Some(first) = questions.blocking_recv() {
            // Whoever asks the same meanwhile gets the same answer.
            let mut waiting = vec![first];
            while let Ok(more) = questions.try_recv() {
                waiting.push(more);
            }
            let whole = waiting.iter().any(|q| matches!(q, Question::Look(_)));
            match self.see(&mut watcher, whole) {
                Ok(seen) => waiting.into_iter().for_each(|question| seen.answer(question)),
                Err(failure) => {
                    let error = Unanswered::from(failure);
                    let down = matches!(error, Unanswered::Unavailable(_));
                    if down {
                        self.cache.with(|known| known.down = Some(error.to_string()));
                    }
                    waiting.into_iter().for_each(|question| refuse(question, &error));
                    if down {
                        self.wait_for_gateway(&mut questions, &error);
                    }
                }
            }
        }
    }

    fn see(&self, watcher: &mut Watcher, whole: bool) -> Result<Seen, Failure> {
        // Whoever asked during the last look may have its answer.
        if let Some(seen) = self.cache.with(|known| known.fresh(whole)) {
            return Ok(seen);
        }
        let mut client = Client::connect_for(&self.socket, self.patience)?;
        let (brief, look) = if whole {
            let look = Arc::new(watcher.look(&mut client)?);
            (look.brief.clone(), Some(look))
        } else {
            (Arc::new(watcher.brief(&mut client)?), None)
        };
        let now = Instant::now();
        self.cache.with(|known| {
            known.brief = Some((now, brief.clone()));
            // An old one would take memory for nothing.
            known.look.take_if(|(at, _)| at.elapsed() >= FRESH);
            if let Some(look) = &look {
                known.look = Some((now, look.clone()));
            }
        });
        Ok(Seen { brief, look })
    }

    /// Tries until the gateway answers. Meanwhile everybody is told at once that it doesn't.
    fn wait_for_gateway(&self, questions: &mut mpsc::Receiver<Question>, error: &Unanswered) {
        loop {
            while let Ok(question) = questions.try_recv() {
                refuse(question, error);
            }
            if questions.is_closed() {
                return;
            }
            thread::sleep(AGAIN);
            match Client::connect_for(&self.socket, STOPPED) {
                Ok(_) => break,
                Err(why) => self.cache.with(|known| known.down = Some(why.to_string())),
            }
        }
        self.cache.with(|known| known.down = None);
    }

    fn write(self, mut orders: mpsc::Receiver<Order>) {
        while let Some(Order { task, until, reply }) = orders.blocking_recv() {
            if reply.is_closed() || until <= Instant::now() {
                continue;
            }
            let answer = Client::connect_for(&self.socket, self.patience)
                .map_err(Failure::from)
                .and_then(|client| self.carry_out(&task, client, until, &reply))
                .map_err(Unanswered::from);
            // Whoever asked may have gone.
            let _ = reply.send(answer);
        }
    }
}

impl AskerThread {
    fn carry_out(
        &self,
        task: &Task,
        mut client: Client,
        until: Instant,
        reply: &oneshot::Sender<Answer<Written>>,
    ) -> Result<Written, Failure> {
        // Of what has been begun whoever asked wants to know the end.
        if let Task::Replace(text, expected) = task {
            let applied = rules::replace(text, *expected, &mut client)?;
            let generation = applied.generation;
            let mut text = Vec::new();
            json::write(&mut text, Body::Apply(applied))?;
            return Ok(Written { text: String::from_utf8_lossy(&text).into_owned(), generation });
        }
        let mut bounded = Bounded { client, until, reply, patience: self.patience };
        match task {
            Task::Document(command) => {
                let text = documents::write(command, &mut bounded, &self.socket, self.patience)?;
                Ok(Written { text, generation: 0 })
            }
            _ => {
                let snapshot = fetch::snapshot(&mut bounded)?;
                let text = file_write::write(&snapshot).map_err(Failure::Refused)?;
                Ok(Written { text, generation: snapshot.generation })
            }
        }
    }
}

struct Seen {
    brief: Arc<Brief>,
    look: Option<Arc<Look>>,
}

impl Seen {
    fn answer(&self, question: Question) {
        match (question, &self.look) {
            (Question::Brief(reply), _) => drop(reply.send(Ok(self.brief.clone()))),
            (Question::Look(reply), Some(look)) => drop(reply.send(Ok(look.clone()))),
            // One was asked for, so one was made.
            (Question::Look(_), None) => {}
        }
    }
}

fn refuse(question: Question, error: &Unanswered) {
    match question {
        Question::Brief(reply) => drop(reply.send(Err(error.clone()))),
        Question::Look(reply) => drop(reply.send(Err(error.clone()))),
    }
}

/// Asks no longer than somebody waits for the answer.
struct Bounded<'a> {
    client: Client,
    until: Instant,
    reply: &'a oneshot::Sender<Answer<Written>>,
    patience: Duration,
}

impl Transport for Bounded<'_> {
    fn call(&mut self, request: Request) -> Result<Response, ClientError> {
        // They are only ever made by commands that look.
        if request.changes() || self.reply.is_closed() || self.until <= Instant::now() {
            return Err(ClientError::Silent(self.patience));
        }
        self.client.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn a_gateway_that_is_stopped_is_said_to_be_and_asked_no_more() {
        let path = std::env::temp_dir().join(format!("weirctl-asker-{}", std::process::id()));
        // The kernel connects, and nobody reads.
        let listener = UnixListener::bind(&path).unwrap();
        let asker = Asker::open(&path, Duration::from_millis(100)).unwrap();
        run(async {
            let Err(Unanswered::Unavailable(why)) = asker.brief().await else { panic!() };
            assert!(why.contains("has not answered"), "{why}");
            let start = Instant::now();
            for _ in 0..1000 {
                assert!(asker.look().await.is_err() && asker.brief().await.is_err());
            }
            assert!(start.elapsed() < Duration::from_secs(2));
        });
        std::fs::remove_file(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let connections = std::iter::from_fn(|| listener.accept().ok()).count();
        assert!(connections <= 2, "{connections} connections wait for a stopped gateway");
    }

    #[test]
    fn a_gateway_that_is_not_there_is_said_so_at_once() {
        let asker = Asker::open(Path::new("/nonexistent/weir.sock"), Duration::from_secs(5)).unwrap();
        let start = Instant::now();
        let Err(Unanswered::Unavailable(why)) = run(asker.look()) else { panic!() };
        assert!(why.starts_with("cannot reach the gateway at /nonexistent/weir.sock"), "{why}");
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}
