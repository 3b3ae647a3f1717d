//! Connections and what they may cost.

use std::{io, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::{
    bounded_stream::BoundedStream,
    route::{self, Site},
};

/// Most connections at a time.
pub(super) const MAX_CONNECTIONS: usize = 200;
/// A request's line and header fields together, in bytes. Longer ones are answered with 431.
const MAX_HEAD: usize = 16 << 10;
/// Most header fields.
const MAX_FIELDS: usize = 64;
/// How long a client may take for a request's head, and a connection may wait for its next request.
const HEAD_TIME: Duration = Duration::from_secs(20);

const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 21\r\n\
    retry-after: 1\r\nconnection: close\r\n\r\ntoo many connections\n";

/// Connections that are told so at a time. More are closed without a word.
const TURNED_AWAY: usize = 50;

/// How many connections there may still be.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    served: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
}

impl Default for Connections {
    fn default() -> Self {
        let semaphore = |n| Arc::new(Semaphore::new(n));
        Self { served: semaphore(MAX_CONNECTIONS), turned_away: semaphore(TURNED_AWAY) }
    }
}

/// Accepts for ever.
pub(super) async fn accept(listener: TcpListener, connections: Connections, site: Arc<Site>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // No file descriptor, mostly. Connections that end give some back.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let site = site.clone();
        // What goes wrong on a connection is its client's business.
        if let Ok(permit) = connections.served.clone().try_acquire_owned() {
            tokio::spawn(async move {
                let _ = serve(stream, site).await;
                drop(permit);
            });
        } else if let Ok(permit) = connections.turned_away.clone().try_acquire_owned() {
            tokio::spawn(async move {
                let _ = turn_away(stream).await;
                drop(permit);
            });
        }
    }
}

async fn turn_away(stream: TcpStream) -> io::Result<()> {
    let mut stream = BoundedStream::new(stream);
    stream.write_all(FULL).await?;
    stream.shutdown().await
}

async fn serve(stream: TcpStream, site: Arc<Site>) -> Result<(), hyper::Error> {
    let _: io::Result<()> = stream.set_nodelay(true);
    let answer = service_fn(move |request| route::answer(site.clone(), request));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        // A client that has said all it will still gets its answer.
        .half_close(true)
        .serve_connection(TokioIo::new(BoundedStream::new(stream)), answer)
        .await
}
