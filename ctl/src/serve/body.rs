//! What an answer consists of.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::body::{Bytes, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// The body of an answer.
pub(super) enum Body {
    /// All of it.
    Whole(Bytes),
    /// Pieces, each made when the one before has been sent: an answer never waits in memory as a whole. The permit
    /// limits how many of these there are.
    Pieces { pieces: Box<dyn Iterator<Item = Bytes> + Send>, _permit: OwnedSemaphorePermit },
    /// Pieces that come when they come.
    Events { events: mpsc::Receiver<Bytes>, _permit: OwnedSemaphorePermit },
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::Whole(text.into())
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::Whole(Bytes::from_static(text.as_bytes()))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => None,
            Self::Whole(bytes) => Some(std::mem::take(bytes)),
            Self::Pieces { pieces, .. } => pieces.next(),
            Self::Events { events, .. } => std::task::ready!(events.poll_recv(cx)),
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            _ => SizeHint::default(),
        }
    }
}
