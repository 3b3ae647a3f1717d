//! The client's side: a [`Transport`] that takes a request to the gateway, and the one over its socket.

use std::{
    io::{self, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::{
    model::status::Notice,
    protocol::{
        Access, Request, Response,
        frame::{self, FrameError},
        handshake::{Hello, HelloAnswer, NotWeir},
        older,
    },
};

/// Where the gateway listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weir/weir.sock";

/// Environment variable with another socket path.
pub const SOCKET_VARIABLE: &str = "WEIR_SOCKET";

/// How long the gateway may take for one answer unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Takes requests to a gateway: over a socket, or straight into a store in tests.
pub trait Transport {
    /// One request, one response.
    ///
    /// # Errors
    /// The gateway can't be reached any more, or doesn't speak the protocol.
    fn call(&mut self, request: Request) -> Result<Response, ClientError>;

    /// Many requests, their responses in the same order. Each is carried out even if an earlier one failed it; a
    /// gateway may carry several out before it answers the first. At most
    /// [`MAX_PIPELINE`](crate::protocol::MAX_PIPELINE).
    ///
    /// # Errors
    /// As [`Transport::call`]; some of the requests may have been carried out then.
    fn call_all(&mut self, requests: Vec<Request>) -> Result<Vec<Response>, ClientError> {
        requests.into_iter().map(|request| self.call(request)).collect()
    }

    /// The gateway's process, if that is known.
    fn process(&self) -> Option<u32> {
        None
    }
}

/// Why the gateway couldn't be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket can't be connected to.
    #[error("cannot reach the gateway at {}: {source}", path.display())]
    Connect {
        /// Socket path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Client and gateway have no protocol version in common.
    #[error(
        "the gateway speaks protocol versions {oldest} to {newest}, this program {} to {}",
        Hello::OURS.oldest,
        Hello::OURS.newest
    )]
    Version {
        /// Oldest version of the gateway.
        oldest: u16,
        /// Newest version of the gateway.
        newest: u16,
    },
    /// The gateway is too old for this request.
    #[error(
        "this needs protocol version {needed}, the gateway speaks {spoken}: it is an older weir ({gateway})"
    )]
    TooOld {
        /// Version that has the request.
        needed: u16,
        /// Version that was agreed on.
        spoken: u16,
        /// Version of the gateway.
        gateway: String,
    },
    /// Too many connections.
    #[error("the gateway has too many connections")]
    Busy,
    /// The program that listens there isn't weir.
    #[error(transparent)]
    NotWeir(#[from] NotWeir),
    /// No answer came in time.
    #[error("the gateway has not answered for {} s: its process may be stopped or busy", .0.as_secs_f64())]
    Silent(Duration),
    /// The connection broke.
    #[error("talking to the gateway: {0}")]
    Frame(#[from] FrameError),
}

impl ClientError {
    /// What a frame's error means on a stream that waits for `patience`.
    fn of_frame(error: FrameError, patience: Duration) -> Self {
        match error {
            FrameError::Io(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Self::Silent(patience)
            }
            error => Self::Frame(error),
        }
    }
}

/// The socket to use: `explicit`, else `$WEIR_SOCKET`, else [`DEFAULT_SOCKET`].
#[must_use]
pub fn socket_path(explicit: Option<PathBuf>) -> PathBuf {
    let variable = || std::env::var_os(SOCKET_VARIABLE).filter(|v| !v.is_empty());
    explicit.or_else(|| variable().map(Into::into)).unwrap_or_else(|| DEFAULT_SOCKET.into())
}

/// A connection to a gateway.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    access: Access,
    gateway: String,
    version: u16,
    patience: Duration,
}

impl Client {
    /// Connects to the socket at `path` and shakes hands.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::connect_for(path, PATIENCE)
    }

    /// As [`Client::connect`], with a gateway that may take `patience` for each answer, which isn't nothing.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn connect_for(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { path: path.into(), source };
        let mut stream = UnixStream::connect(path).map_err(failed)?;
        stream.set_read_timeout(Some(patience)).map_err(failed)?;
        stream.set_write_timeout(Some(patience)).map_err(failed)?;
        // A gateway that turns us away may have closed its end already; its answer is there to be read.
        let greeted = frame::send_body(&mut stream, &Hello::OURS.to_bytes());
        let mut stream = BufReader::new(stream);
        let answer = frame::read(&mut stream)
            .map_err(|unread| ClientError::of_frame(greeted.err().unwrap_or(unread), patience))?;
        match HelloAnswer::from_bytes(&answer)? {
            HelloAnswer::Accepted { access, gateway, version } => {
                Ok(Self { stream, access, gateway, version, patience })
            }
            HelloAnswer::NoCommonVersion { oldest, newest } => Err(ClientError::Version { oldest, newest }),
            HelloAnswer::Busy => Err(ClientError::Busy),
        }
    }

    /// What this peer may do.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Version of the gateway.
    #[must_use]
    pub fn gateway_version(&self) -> &str {
        &self.gateway
    }

    fn check_version(&self, request: &Request) -> Result<(), ClientError> {
        let (needed, spoken) = (request.since(), self.version);
        if needed > spoken {
            return Err(ClientError::TooOld { needed, spoken, gateway: self.gateway.clone() });
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Response, FrameError> {
        older::decode(&frame::read(&mut self.stream)?, self.version)
    }

    /// Turns the connection into one that tells what is new.
    ///
    /// # Errors
    /// The gateway can't be reached any more, or is too old for this.
    pub fn subscribe(mut self) -> Result<Subscription, ClientError> {
        self.check_version(&Request::Subscribe)?;
        frame::send(self.stream.get_mut(), &Request::Subscribe)?;
        // Nothing may happen for as long as it likes.
        self.stream.get_ref().set_read_timeout(None).map_err(FrameError::Io)?;
        Ok(Subscription { stream: self.stream })
    }
}

/// A connection on which the gateway tells what is new.
#[derive(Debug)]
pub struct Subscription {
    stream: BufReader<UnixStream>,
}

impl Subscription {
    /// Waits for the next news; the first is there at once.
    ///
    /// # Errors
    /// The gateway is gone.
    pub fn wait(&mut self) -> Result<Notice, ClientError> {
        match frame::receive(&mut self.stream)? {
            Response::Notice(notice) => Ok(notice),
            other => Err(FrameError::Malformed(format!("{other:?} instead of a notice")).into()),
        }
    }

    /// Ends waiting, from another thread too.
    ///
    /// # Errors
    /// The system's.
    pub fn closer(&self) -> io::Result<UnixStream> {
        self.stream.get_ref().try_clone()
    }
}

impl Transport for Client {
    fn call(&mut self, request: Request) -> Result<Response, ClientError> {
        let request = older::request(request, self.version);
        self.check_version(&request)?;
        let patience = self.patience;
        frame::send(self.stream.get_mut(), &request)
            .and_then(|()| self.receive())
            .map_err(|e| ClientError::of_frame(e, patience))
    }

    /// Everything is written before anything is read, which can't block for ever: so few answers fit in the
    /// socket's buffer.
    fn call_all(&mut self, requests: Vec<Request>) -> Result<Vec<Response>, ClientError> {
        let mut frames = Vec::new();
        let count = requests.len();
        for request in requests {
            let request = older::request(request, self.version);
            self.check_version(&request)?;
            frames.extend(frame::encode(&request)?);
        }
        let patience = self.patience;
        let failed = |e| ClientError::of_frame(e, patience);
        self.stream.get_mut().write_all(&frames).map_err(|e| failed(FrameError::Io(e)))?;
        (0..count).map(|_| self.receive().map_err(failed)).collect()
    }

    fn process(&self) -> Option<u32> {
        let peer = getsockopt(self.stream.get_ref(), PeerCredentials).ok()?;
        // 0 stands for a process that can't be seen from this PID namespace.
        u32::try_from(peer.pid()).ok().filter(|pid| *pid != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_gateway() {
        let path = Path::new("/nonexistent/weir.sock");
        let Err(ClientError::Connect { source, .. }) = Client::connect(path) else { panic!("connected") };
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn an_older_gateway_is_recognised_before_the_request() {
        let path = std::env::temp_dir().join(format!("weirctl-client-{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let old = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            frame::read(&mut stream).unwrap();
            let answer =
                HelloAnswer::Accepted { version: 1, access: Access::ReadWrite, gateway: "0.0.9".into() };
            frame::send_body(&mut stream, &answer.to_bytes()).unwrap();
            // Nothing that it wouldn't understand arrives.
            frame::read(&mut stream).map(|body| body.len())
        });
        let mut client = Client::connect(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let error = client.call(Request::Status).unwrap_err().to_string();
        let expected = "this needs protocol version 2, the gateway speaks 1: it is an older weir (0.0.9)";
        assert_eq!(error, expected);
        drop(client);
        assert!(matches!(old.join().unwrap(), Err(FrameError::Closed)));
    }

    #[test]
    fn a_gateway_that_is_stopped_is_given_up_on() {
        let path = std::env::temp_dir().join(format!("weirctl-silent-{}", std::process::id()));
        // The kernel accepts connections for a listening program even if it doesn't read.
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = Client::connect_for(&path, Duration::from_millis(20)).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(error, ClientError::Silent(_)), "{error}");
        assert!(error.to_string().starts_with("the gateway has not answered for 0.02 s"), "{error}");
    }

    #[test]
    fn an_explicit_path_wins() {
        assert_eq!(socket_path(Some("/tmp/x".into())), Path::new("/tmp/x"));
    }
}
