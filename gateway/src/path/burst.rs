//! Bursts on their way through the stages, two at a time.
//!
//! ```text
//! burst n+1   parse, hash, prefetch bucket   | candidate, prefetch record
//! burst n                                    | confirm, rewrite, route, tx
//! ```
//!
//! A session's record is asked for a whole burst before it is needed, a packet of one burst in turn with a
//! packet of the other: loads from memory are spread over the work instead of coming all at once, just
//! before the first of them is used. Only a full burst waits for the next one, which is there already then; at
//! less than full load a burst runs through at once.

use arrayvec::ArrayVec;

use super::{
    Origin, Worker,
    parse::{self, Kind, Parsed},
};
use crate::{
    io::{BURST, Burst, Frame, Io, PortId},
    net::ethernet::Mac,
    table::sessions::{Candidate, Sessions},
};

/// A burst that was parsed.
pub(super) struct Staged<F> {
    port: PortId,
    origin: Origin,
    frames: Burst<F>,
    parsed: [Parsed; BURST],
    hashes: [u64; BURST],
    candidates: [Candidate; BURST],
}

impl<F: Frame> Staged<F> {
    fn new() -> Self {
        Self {
            port: PortId(0),
            origin: Origin::Port,
            frames: Burst::new(),
            parsed: [Parsed::NOTHING; BURST],
            hashes: [0; BURST],
            candidates: [Candidate::NONE; BURST],
        }
    }

    /// Takes in a burst: what is each frame, and where would its session be?
    #[inline]
    fn stage(&mut self, port: PortId, origin: Origin, mac: Mac, sessions: &Sessions) {
        self.port = port;
        self.origin = origin;
        for frame in &self.frames {
            frame.prefetch();
        }
        for ((frame, p), hash) in self.frames.iter().zip(&mut self.parsed).zip(&mut self.hashes) {
            parse::parse(frame, mac, p);
            if p.kind == Kind::Transport {
                *hash = sessions.hash(p.tuple, p.protocol);
                sessions.prefetch_bucket(*hash);
            }
        }
    }

    /// Finds the candidate of frame `n` and has its record loaded.
    #[inline]
    fn find(&mut self, n: usize, sessions: &Sessions) {
        if let (Some(p), Some(&hash), Some(candidate)) =
            (self.parsed.get(n), self.hashes.get(n), self.candidates.get_mut(n))
            && p.kind == Kind::Transport
        {
            *candidate = sessions.candidate(hash);
        }
    }
}

/// Room for the bursts on their way, made once.
pub(super) struct Pipeline<F> {
    waiting: Option<Box<Staged<F>>>,
    spare: ArrayVec<Box<Staged<F>>, 2>,
}

impl<F: Frame> Default for Pipeline<F> {
    fn default() -> Self {
        Self { waiting: None, spare: (0..2).map(|_| Box::new(Staged::new())).collect() }
    }
}

impl<F> Pipeline<F> {
    /// Whether a burst waits for the next one.
    #[inline]
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }
}

impl<I: Io> Worker<I> {
    /// Runs a burst through the stages, after the one that waits. What is full waits in its turn.
    pub(super) fn forward(&mut self, port: PortId, burst: &mut Burst<I::Frame>, origin: Origin) {
        let Some(&mac) = self.macs.get(port.index()) else { return burst.clear() };
        // There are two, and one waits at most.
        let Some(mut new) = self.pipeline.spare.pop() else { return burst.clear() };
        std::mem::swap(&mut new.frames, burst);
        new.stage(port, origin, mac, &self.sessions);
        if let Some(old) = self.pipeline.waiting.take() {
            self.finish(old, Some(&mut new));
        } else {
            (0..new.frames.len()).for_each(|n| new.find(n, &self.sessions));
        }
        if new.frames.is_full() {
            self.pipeline.waiting = Some(new);
        } else {
            self.finish(new, None);
        }
    }

    /// Runs the burst that waits to its end.
    #[inline]
    pub(super) fn finish_waiting(&mut self) {
        if let Some(old) = self.pipeline.waiting.take() {
            self.finish(old, None);
        }
    }

    /// Runs the frames of `old` to their end, in turn with looking for the candidates of `new`.
    #[inline]
    fn finish(&mut self, mut old: Box<Staged<I::Frame>>, mut new: Option<&mut Box<Staged<I::Frame>>>) {
        let Staged { port, origin, frames, parsed, hashes, candidates } = &mut *old;
        let mut done = 0;
        for (((frame, p), &hash), &candidate) in
            frames.drain(..).zip(&*parsed).zip(&*hashes).zip(&*candidates)
        {
            if let Some(new) = &mut new {
                new.find(done, &self.sessions);
                done += 1;
            }
            match p.kind {
                Kind::Transport => self.transport(*port, frame, p, (hash, candidate), *origin),
                kind => self.other(*port, frame, p, kind, *origin),
            }
        }
        if let Some(new) = new {
            (done..new.frames.len()).for_each(|n| new.find(n, &self.sessions));
        }
        // It came out of there.
        let _ = self.pipeline.spare.try_push(old);
    }
}
