//! One peer's requests, one after the other, each with a deadline.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{debug, warn};
use weir_api::protocol::{
    Access, ErrorCode, MAX_PIPELINE, Refusal, Request, Response, StagedChanges,
    frame::{self, FrameError},
    handshake::{Hello, HelloAnswer, NotWeir},
    older,
};

use super::{
    Shared,
    audit::{Asked, Audit},
    peer::{self, Peer},
};
use crate::threads;

/// Serves a peer until it closes the connection, breaks the protocol or is too slow.
pub(super) fn serve(stream: UnixStream, peer: Peer, shared: &Shared) {
    let mut stream = BufReader::with_capacity(BUFFER, Timed { stream, until: Instant::now() });
    let served = greet(&mut stream, peer, shared).and_then(|version| match version {
        Some(version) => requests(&mut stream, Peer { version, ..peer }, shared),
        None => Ok(()),
    });
    match served {
        Ok(()) | Err(ConnectionEnd::Frame(FrameError::Closed)) => {}
        Err(ConnectionEnd::Frame(e @ (FrameError::TooLong(_) | FrameError::Malformed(_)))) => {
            shared.complain(|| {
                warn!(pid = peer.pid, uid = peer.uid, error = %e, "a control client violates the protocol");
            });
        }
        Err(e) => debug!(pid = peer.pid, uid = peer.uid, error = %e, "a control connection ended"),
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum ConnectionEnd {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    NotWeir(#[from] NotWeir),
}

type Stream = BufReader<Timed>;

/// The handshake; the version to speak, if there is a common one.
fn greet(stream: &mut Stream, peer: Peer, shared: &Shared) -> Result<Option<u16>, ConnectionEnd> {
    stream.get_mut().allow(shared.limits.hello);
    // The thread that serves a peer may end, but not panic.
    let _ = threads::fault("control-peer");
    let hello = Hello::from_bytes(&frame::read(stream)?)?;
    let common = Hello::OURS.common(hello);
    let answer = match common {
        Some(version) => {
            HelloAnswer::Accepted { version, access: peer.access, gateway: env!("CARGO_PKG_VERSION").into() }
        }
        None => HelloAnswer::NoCommonVersion { oldest: Hello::OURS.oldest, newest: Hello::OURS.newest },
    };
    frame::send_body(stream.get_mut(), &answer.to_bytes())?;
    Ok(common)
}

/// Bytes of requests that are read ahead.
const BUFFER: usize = 1 << 16;

/// How often a subscriber that isn't told anything is looked at.
const LOOK: Duration = Duration::from_millis(250);

fn requests(stream: &mut Stream, peer: Peer, shared: &Shared) -> Result<(), ConnectionEnd> {
    let mut stage = StagedChanges::default();
    loop {
        stream.get_mut().allow(shared.limits.idle);
        if stream.fill_buf().map_err(FrameError::Io)?.is_empty() {
            return Ok(());
        }
        stream.get_mut().allow(shared.limits.frame);
        let request = match frame::receive(stream) {
            Ok(request) => request,
            Err(FrameError::Malformed(why)) => {
                let refused = Response::Refused(Refusal::new(ErrorCode::BadRequest, peer.explain(&why)));
                answer(stream, &refused, peer, shared)?;
                return Err(FrameError::Malformed(why).into());
            }
            Err(e) => return Err(e.into()),
        };
        if request == Request::Subscribe {
            return notify(stream, peer, shared);
        }
        let mut together = vec![request];
        while together.len() < MAX_PIPELINE
            && let Some(next) = applied_next(stream)
        {
            together.push(next);
        }
        answer_all(stream, together, &mut stage, peer, shared)?;
    }
}

/// A request to apply changes that has arrived whole already: a client that doesn't wait for answers. What
/// else arrives is read in its turn.
fn applied_next(stream: &mut Stream) -> Option<Request> {
    let mut waiting = stream.buffer();
    let all = waiting.len();
    let request = match frame::receive(&mut waiting) {
        Ok(request @ Request::Apply(_)) => request,
        _ => return None,
    };
    let used = all - waiting.len();
    stream.consume(used);
    Some(request)
}

fn answer_all(
    stream: &mut Stream,
    mut requests: Vec<Request>,
    stage: &mut StagedChanges,
    peer: Peer,
    shared: &Shared,
) -> Result<(), FrameError> {
    if let [_] = requests[..]
        && let Some(request) = requests.pop()
    {
        return answer(stream, &ask(request, stage, peer, shared), peer, shared);
    }
    let mut frames = Vec::new();
    for response in ask_all(requests, stage, peer, shared) {
        frames.extend(encoded(&response, peer)?);
    }
    stream.get_mut().allow(shared.limits.frame);
    Ok(stream.get_mut().write_all(&frames)?)
}

/// Tells a subscriber what is new until it leaves.
fn notify(stream: &mut Stream, peer: Peer, shared: &Shared) -> Result<(), ConnectionEnd> {
    let notices = shared.handler.notices();
    let mut known = None;
    while stream.buffer().is_empty() && stream.get_ref().is_quiet()? {
        let latest = notices.wait(known, LOOK);
        if known != Some(latest) {
            answer(stream, &Response::Notice(latest), peer, shared)?;
            known = Some(latest);
        }
    }
    Ok(())
}

/// Passes a request that is to be carried out; of others the answer.
// The answer is what is sent next; it is as large as any other.
#[allow(clippy::result_large_err)]
fn taken(request: Request, stage: &mut StagedChanges, peer: Peer) -> Result<Request, Response> {
    peer.knows(&request).map_err(Response::Refused)?;
    stage.take(request, peer.access)
}

fn ask(request: Request, stage: &mut StagedChanges, peer: Peer, shared: &Shared) -> Response {
    let changes = request.changes();
    let response = match taken(request, stage, peer) {
        Ok(request) => {
            let mut audit = Audit::new(peer);
            let asked = audit.note(&request);
            let response = shared.handler.handle(request, peer.access);
            audit.tell(asked, &response);
            response
        }
        Err(answer) => answer,
    };
    noted(response, changes, peer, shared)
}

/// Logs a refusal that an operator should know of. The response as the peer understands it.
fn noted(response: Response, changes: bool, peer: Peer, shared: &Shared) -> Response {
    let Response::Refused(refusal) = response else { return response };
    if changes || peer.access == Access::ReadOnly {
        let (pid, uid) = (peer.pid, peer.uid);
        shared.complain(|| warn!(pid, uid, %refusal, "a control request was refused"));
    }
    let refusal =
        if refusal.code == ErrorCode::ReadOnly { peer::read_only(peer, shared.group) } else { refusal };
    Response::Refused(refusal.in_version(peer.version))
}

/// As [`ask`], of requests that came together. Those before one that the stage answers are carried out first.
fn ask_all(requests: Vec<Request>, stage: &mut StagedChanges, peer: Peer, shared: &Shared) -> Vec<Response> {
    let mut answers = Vec::with_capacity(requests.len());
    let mut passed = Vec::with_capacity(requests.len());
    let mut audit = Audit::new(peer);
    let mut carry_out = |passed: &mut Vec<Request>| {
        let asked: Vec<_> = passed.iter().map(|r| (r.changes(), audit.note(r))).collect();
        let answers = shared.handler.handle_all(std::mem::take(passed), peer.access);
        let tell = |(answer, (changes, asked)): (Response, (bool, Asked))| {
            audit.tell(asked, &answer);
            noted(answer, changes, peer, shared)
        };
        answers.into_iter().zip(asked).map(tell).collect::<Vec<_>>()
    };
    for request in requests {
        let changes = request.changes();
        match taken(request, stage, peer) {
            Ok(request) => passed.push(request),
            Err(answer) => {
                answers.extend(carry_out(&mut passed));
                answers.push(noted(answer, changes, peer, shared));
            }
        }
    }
    answers.extend(carry_out(&mut passed));
    answers
}

fn encoded(response: &Response, peer: Peer) -> Result<Vec<u8>, FrameError> {
    match older::encode(response, peer.version) {
        Err(FrameError::TooLong(n)) => {
            let detail = format!("the answer would take {n} bytes: ask for a smaller page");
            frame::encode(&Response::Refused(Refusal::new(ErrorCode::TooMany, detail)))
        }
        other => other,
    }
}

fn answer(stream: &mut Stream, response: &Response, peer: Peer, shared: &Shared) -> Result<(), FrameError> {
    let frame = encoded(response, peer)?;
    stream.get_mut().allow(shared.limits.frame);
    stream.get_mut().write_all(&frame)?;
    Ok(())
}

/// A stream that has to be done by a moment, however many reads or writes it takes.
struct Timed {
    stream: UnixStream,
    until: Instant,
}

impl Timed {
    fn allow(&mut self, time: Duration) {
        self.until = Instant::now() + time;
    }

    /// Whether the peer neither said anything nor hung up.
    fn is_quiet(&self) -> Result<bool, FrameError> {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(_) => Ok(!fds[0].any().unwrap_or(true)),
            Err(nix::errno::Errno::EINTR) => Ok(true),
            Err(e) => Err(FrameError::Io(e.into())),
        }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
