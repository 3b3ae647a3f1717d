//! The control socket: accepts peers, decides what they may do, and gives each a thread.
//!
//! What a hostile peer can do is bounded: connections are counted and readers can't take the slots of
//! those who may write; every frame has a limit and a deadline ([`connection`]); the store is locked for one
//! request at a time, never while a peer is read from or written to, nor while a worker is waited for.

mod audit;
mod connection;
mod peer;
mod socket;

use std::{
    collections::HashMap,
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::{Condvar, Mutex};
use tracing::{debug, warn};
use weir_api::protocol::{Access, Request, Response, frame, handshake::HelloAnswer};

pub use self::socket::SocketPermissions;
use self::{peer::Peer, socket::SocketFile};
use super::{notices::Notices, plane::Plane, queries::QueryStep, store::Store};
use crate::threads;

/// How long requests that are being answered may take when the socket is closed.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// Answers requests, from many threads.
pub trait Handler: Send + Sync + 'static {
    /// One request of a peer that may do what `access` says.
    fn handle(&self, request: Request, access: Access) -> Response;

    /// Requests that came together, answered in their order.
    fn handle_all(&self, requests: Vec<Request>, access: Access) -> Vec<Response> {
        requests.into_iter().map(|request| self.handle(request, access)).collect()
    }

    /// Where subscribers learn what is new.
    fn notices(&self) -> Arc<Notices>;
}

impl<P: Plane + 'static> Handler for Mutex<Store<P>> {
    fn handle(&self, request: Request, access: Access) -> Response {
        let step = self.lock().begin(request, access);
        match step {
            QueryStep::Answered(response) => response,
            QueryStep::Asks(inquiry) => {
                let told = inquiry.ask();
                self.lock().finish(told)
            }
        }
    }

    /// Changes that follow each other are made at once.
    fn handle_all(&self, requests: Vec<Request>, access: Access) -> Vec<Response> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut changes = Vec::new();
        for request in requests {
            if matches!(request, Request::Apply(_)) {
                changes.push(request);
                continue;
            }
            answers.extend(self.lock().handle_all(std::mem::take(&mut changes), access));
            answers.push(self.handle(request, access));
        }
        answers.extend(self.lock().handle_all(changes, access));
        answers
    }

    fn notices(&self) -> Arc<Notices> {
        self.lock().notices()
    }
}

/// Bounds on what peers may take.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections at a time.
    pub connections: usize,
    /// Of these, connections of peers that may only look.
    pub readers: usize,
    /// How long a peer may take to say hello.
    pub hello: Duration,
    /// How long a frame may take from its first byte to its last, either way.
    pub frame: Duration,
    /// How long a connection may be silent.
    pub idle: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 512,
            readers: 256,
            hello: Duration::from_secs(5),
            frame: Duration::from_secs(10),
            idle: Duration::from_secs(600),
        }
    }
}

/// Why the socket couldn't be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody answers there already.
    #[error("another gateway is listening on {}", .0.display())]
    InUse(PathBuf),
    /// Something else than a socket is there.
    #[error("{} exists and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("cannot open the control socket {}: {source}", path.display())]
    Io {
        /// Socket path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The open socket. Dropping it closes the socket and every connection, lets requests that are being answered
/// finish, and removes the file.
#[derive(Debug)]
pub struct ControlServer {
    /// Closing this end wakes the accepting thread.
    wake: Option<UnixStream>,
    acceptor: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    file: SocketFile,
    reading: Option<SocketFile>,
}

/// What the threads share.
struct Shared {
    handler: Arc<dyn Handler>,
    limits: ConnectionLimits,
    /// Group that the socket belongs to.
    group: u32,
    peers: Mutex<HashMap<u64, (Peer, UnixStream)>>,
    /// Told when a peer's thread ends.
    gone: Condvar,
    complaints: Mutex<(Instant, u32)>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A socket that is ours and listens, but isn't served yet: peers that connect wait. Taken before anything
/// else is touched, it keeps a second gateway out of the first one's way. Dropping it removes the files.
#[derive(Debug)]
pub struct ClaimedSocket {
    listener: UnixListener,
    file: SocketFile,
    /// Where everybody may only look.
    reading: Option<(UnixListener, SocketFile)>,
}

impl ClaimedSocket {
    /// Opens the socket at `path` for whom `permissions` say. A socket file that nobody listens on is replaced.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn new(path: &Path, permissions: SocketPermissions) -> Result<Self, ServerError> {
        let (listener, file) = socket::open(path, permissions)?;
        Ok(Self { listener, file, reading: None })
    }

    /// Opens a second socket by which everybody may only look, root too.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn and_reading(self, path: &Path, permissions: SocketPermissions) -> Result<Self, ServerError> {
        Ok(Self { reading: Some(socket::open(path, permissions)?), ..self })
    }

    /// Serves the socket from threads of the server's own.
    ///
    /// # Errors
    /// [`ServerError::Io`].
    pub fn serve(
        self,
        handler: Arc<dyn Handler>,
        limits: ConnectionLimits,
    ) -> Result<ControlServer, ServerError> {
        let Self { listener, file, reading } = self;
        let (reader, reading) = reading.unzip();
        let failed = |source| ServerError::Io { path: file.path.clone(), source };
        let (wake, woken) = UnixStream::pair().map_err(failed)?;
        let complaints = Mutex::new((Instant::now(), 0));
        let (group, peers, gone) = (file.group, Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { handler, limits, group, peers, gone, complaints });
        let accepting = shared.clone();
        let listeners: Vec<(UnixListener, Access)> = std::iter::once((listener, Access::ReadWrite))
            .chain(reader.map(|reader| (reader, Access::ReadOnly)))
            .collect();
        let run = move || accept_loop(&listeners, &woken, &accepting);
        let acceptor = threads::spawn("socket", run).map_err(failed)?;
        Ok(ControlServer { wake: Some(wake), acceptor: Some(acceptor), shared, file, reading })
    }
}

impl ControlServer {
    /// Opens the socket at `path`, mode 0660, and serves it from threads of its own. A socket file that
    /// nobody listens on is replaced.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn start(
        path: &Path,
        handler: Arc<dyn Handler>,
        limits: ConnectionLimits,
    ) -> Result<Self, ServerError> {
        ClaimedSocket::new(path, SocketPermissions::default())?.serve(handler, limits)
    }

    /// Path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.file.remove();
        self.reading.iter().for_each(SocketFile::remove);
        drop(self.wake.take());
        if let Some(thread) = self.acceptor.take() {
            // It ended by itself or by a panic that is on stderr already.
            let _ = thread.join();
        }
        let mut peers = self.shared.peers.lock();
        for (_, stream) in peers.values() {
            // A connection that is gone needs no closing.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        let patience = Instant::now() + LAST_REQUESTS;
        while !peers.is_empty() && !self.shared.gone.wait_until(&mut peers, patience).timed_out() {}
    }
}

/// A peer's place in the list, left when its thread ends, however it ends.
struct ConnectionSlot {
    number: u64,
    shared: Arc<Shared>,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.shared.peers.lock().remove(&self.number);
        self.shared.gone.notify_all();
    }
}

/// Ends when it is told to; otherwise says why. Each socket's peers may do at most what stands beside it.
fn accept_loop(
    listeners: &[(UnixListener, Access)],
    woken: &UnixStream,
    shared: &Arc<Shared>,
) -> Result<(), String> {
    let sockets = listeners.iter().map(|(listener, _)| listener.as_fd());
    let awaited: Vec<_> = std::iter::once(woken.as_fd()).chain(sockets).collect();
    let mut numbers = 0..;
    loop {
        let mut fds: Vec<_> = awaited.iter().map(|&fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        if let Err(e) = poll(&mut fds, PollTimeout::NONE)
            && e != nix::errno::Errno::EINTR
        {
            return Err(format!("can't wait for the control socket: {e}"));
        }
        if fds[0].any().unwrap_or(true) {
            return Ok(());
        }
        if threads::fault("socket") {
            return Err("ended".to_owned());
        }
        for ((listener, most), number) in listeners.iter().zip(&mut numbers) {
            match listener.accept() {
                Ok((stream, _)) => admit(number, stream, *most, shared),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => {
                    warn!(error = %e, "a control connection can't be accepted");
                    // Out of descriptors, most likely: wait for one rather than spin.
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
}

fn admit(number: u64, stream: UnixStream, most: Access, shared: &Arc<Shared>) {
    let peer = match Peer::of(&stream, shared.group) {
        Ok(peer) => peer.at_most(most),
        Err(e) => return debug!(error = %e, "a control client disconnected at once"),
    };
    if shared.is_full(peer.access) {
        shared.complain(|| warn!(pid = peer.pid, uid = peer.uid, "too many control connections"));
        return turn_away(&stream);
    }
    let copy = match stream.try_clone() {
        Ok(copy) => copy,
        Err(e) => return warn!(error = %e, "a control connection can't be kept"),
    };
    shared.peers.lock().insert(number, (peer, copy));
    let place = ConnectionSlot { number, shared: shared.clone() };
    // Without a thread the place goes with the closure.
    let serve = move || connection::serve(stream, peer, &place.shared);
    let run = move || {
        // What a panic of its means has been seen to.
        let _ = threads::catch("control-peer", serve);
    };
    if let Err(e) = Builder::new().name("control-peer".into()).spawn(run) {
        warn!(error = %e, "can't start a thread for a control connection");
    }
}

/// Says that there are too many. A fresh socket has room for this, so nothing waits.
fn turn_away(mut stream: &UnixStream) {
    let mut answer = Vec::new();
    let fits = frame::send_body(&mut answer, &HelloAnswer::Busy.to_bytes());
    if fits.is_ok() && stream.set_nonblocking(true).is_ok() {
        // A peer that doesn't hear this sees the connection close.
        let _ = stream.write_all(&answer);
    }
}

impl Shared {
    fn is_full(&self, access: Access) -> bool {
        let peers = self.peers.lock();
        let readers = peers.values().filter(|(p, _)| p.access == Access::ReadOnly).count();
        peers.len() >= self.limits.connections
            || (access == Access::ReadOnly && readers >= self.limits.readers)
    }

    /// Logs, at most ten times a second: peers must not be able to fill the log.
    fn complain(&self, log: impl FnOnce()) {
        let mut window = self.complaints.lock();
        if window.0.elapsed() >= Duration::from_secs(1) {
            *window = (Instant::now(), 0);
        }
        window.1 += 1;
        let allowed = window.1 <= 10;
        drop(window);
        if allowed {
            log();
        }
    }
}
