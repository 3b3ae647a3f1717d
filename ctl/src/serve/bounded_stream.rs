//! A stream whose peer has to read what it asked for: one that reads too slowly, or no more, is given up on. A peer
//! that still sends when it has its answer is listened to for a while, so that the answer reaches it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// A peer that others wait for has to take [`LEAST`] bytes in each of these.
const WINDOW: Duration = Duration::from_secs(10);
/// Fewer than a modem brings.
const LEAST: usize = 10 << 10;
/// How long what a peer still sends is thrown away after the answer. Closing a socket with bytes that nobody has read
/// resets the connection, and the peer may lose the answer (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(5);

/// Bytes that are thrown away with one call, and calls in a row.
const DISCARD: usize = 16 << 10;
const READS: usize = 16;

/// A stream that ends with `TimedOut` when its peer takes fewer than a kilobyte a second of what waits for it.
#[derive(Debug)]
pub(super) struct BoundedStream<S> {
    stream: S,
    /// The end of the window; there is none while nothing waits.
    until: Option<Pin<Box<Sleep>>>,
    taken: usize,
    /// The end of the time after the answer, once that is sent.
    closing: Option<Pin<Box<Sleep>>>,
}

impl<S> BoundedStream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, until: None, taken: 0, closing: None }
    }

    /// Something waits: `Ready` when it has waited too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let until = self.until.get_or_insert_with(|| {
                self.taken = 0;
                Box::pin(tokio::time::sleep(WINDOW))
            });
            ready!(until.as_mut().poll(cx));
            if self.taken < LEAST {
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            self.taken = 0;
            until.as_mut().reset(Instant::now() + WINDOW);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for BoundedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(written) => {
                self.taken += written.as_ref().copied().unwrap_or_default();
                Poll::Ready(written)
            }
            Poll::Pending => self.poll_patience(cx).map(Err),
        }
    }

    /// Called once all that waited is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.until = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Tells the peer that nothing more comes, then waits until it has nothing more to say either, [`LINGER`] at most.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.closing = Some(Box::pin(tokio::time::sleep(LINGER)));
        }
        let Self { stream, closing, .. } = &mut *self;
        if closing.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [0; DISCARD];
        // Others have their turn between two of these.
        for _ in 0..READS {
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The peer is done, or gone.
                _ => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(work)
    }

    #[test]
    fn what_a_peer_still_sends_is_read_before_the_end() {
        run(async {
            let (mut client, server) = duplex(1 << 10);
            let mut server = BoundedStream::new(server);
            let (closed, ()) = tokio::join!(server.shutdown(), async {
                client.write_all(&[0; 1 << 20]).await.unwrap();
                client.shutdown().await.unwrap();
            });
            closed.unwrap();
        });
    }

    #[test]
    fn a_peer_that_never_ends_is_left_after_a_while() {
        run(async {
            let (mut client, server) = duplex(1 << 10);
            let (mut server, start) = (BoundedStream::new(server), Instant::now());
            tokio::select! {
                closed = server.shutdown() => closed.unwrap(),
                () = async {
                    loop {
                        client.write_all(&[0; 1 << 10]).await.unwrap();
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                } => {}
            }
            let took = start.elapsed();
            assert!(took >= LINGER && took < 2 * LINGER, "{took:?}");
            // It was told at the beginning.
            drop(server);
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        });
    }
}
