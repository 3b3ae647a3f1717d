//! The punt thread: frames from the workers to the kernel, and frames from the kernel to the workers.
//!
//! It sleeps in poll(2). A frame that the kernel sends out of a twin wakes it at once. Workers make no
//! system calls and so can't wake it: their frames are looked for every few milliseconds, every single one
//! while there is traffic.

use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, mpsc::Receiver},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};

use super::{HostFrames, tap::Twin};
use crate::{io::PortId, table::counters::Counter, threads};

/// Milliseconds between looks for punted frames while there is traffic.
const BUSY_WAIT: u8 = 1;
/// Milliseconds between looks for punted frames when there is none.
const IDLE_WAIT: u8 = 4;
/// How long after the last frame traffic counts as over.
const BUSY_FOR: Duration = Duration::from_millis(200);
/// Frames taken from a twin before the others have their turn.
const BATCH: usize = 64;
/// Room for the longest frame: the largest MTU of a TAP device, Ethernet header and two VLAN tags.
const FRAME: usize = 65_536;

/// What passed between one port and the kernel, in frames.
#[derive(Debug, Default)]
pub struct PuntCounters {
    /// Given to the kernel.
    pub to_kernel: Counter,
    /// Not taken by the kernel: the twin is down, gone or full.
    pub to_kernel_dropped: Counter,
    /// Sent by the kernel and passed on to a worker.
    pub from_kernel: Counter,
    /// Sent by the kernel while no worker had room.
    pub from_kernel_dropped: Counter,
}

/// State of the thread.
pub(super) struct Punt {
    /// By port; `None` once a twin is gone.
    pub twins: Vec<Option<Twin>>,
    /// Twins that were created again.
    pub renewals: Receiver<(PortId, Twin)>,
    pub frames: Box<dyn HostFrames>,
    pub counters: Arc<[PuntCounters]>,
    pub stop: Arc<EventFd>,
}

impl Punt {
    /// Works until `stop` is signalled; otherwise says why it ends.
    pub fn run(mut self) -> Result<(), String> {
        let mut buffer = vec![0; FRAME];
        let mut last = Instant::now();
        loop {
            while let Ok((port, twin)) = self.renewals.try_recv() {
                if let Some(place) = self.twins.get_mut(port.index()) {
                    *place = Some(twin);
                }
            }
            let mut moved = self.give_kernel();
            for port in 0..self.twins.len() {
                moved |= self.take_from(port, &mut buffer);
            }
            if moved {
                last = Instant::now();
            }
            let wait = if last.elapsed() < BUSY_FOR { BUSY_WAIT } else { IDLE_WAIT };
            if self.wait(wait)? {
                return Ok(());
            }
            if threads::fault("punt") {
                return Err("ended".to_owned());
            }
        }
    }

    /// Sleeps; true if it is time to stop.
    fn wait(&self, milliseconds: u8) -> Result<bool, String> {
        let twins = self.twins.iter().flatten().map(|t| PollFd::new(t.as_fd(), PollFlags::POLLIN));
        let mut fds: Vec<_> =
            std::iter::once(PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)).chain(twins).collect();
        match poll(&mut fds, PollTimeout::from(milliseconds)) {
            Ok(_) => Ok(fds[0].any().unwrap_or(false)),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(format!("can't poll the TAP twins: {error}")),
        }
    }

    /// Gives the kernel what workers punted; true if there was anything.
    fn give_kernel(&mut self) -> bool {
        let Self { twins, frames, counters, .. } = self;
        let mut moved = false;
        frames.drain(&mut |port: PortId, frame: &[u8]| {
            moved = true;
            let Some(counters) = counters.get(port.index()) else { return };
            let written = twins.get(port.index()).and_then(Option::as_ref).map(|t| t.write(frame));
            match written {
                Some(Ok(())) => counters.to_kernel.add(1),
                Some(Err(_)) | None => counters.to_kernel_dropped.add(1),
            }
        });
        moved
    }

    /// Gives workers what the kernel sent out of a twin; true if there was anything.
    fn take_from(&mut self, port: usize, buffer: &mut [u8]) -> bool {
        let (Some(twin), Ok(id)) = (&self.twins[port], u8::try_from(port)) else { return false };
        let counters = &self.counters[port];
        for n in 0..BATCH {
            match twin.read(buffer) {
                Ok(Some(frame)) if self.frames.inject(PortId(id), frame) => counters.from_kernel.add(1),
                Ok(Some(_)) => counters.from_kernel_dropped.add(1),
                Ok(None) => return n > 0,
                Err(error) => {
                    self.lost(port, &error);
                    return n > 0;
                }
            }
        }
        true
    }

    /// The twin can't be read. A device that is gone is polled readable for ever: it is let go.
    fn lost(&mut self, port: usize, error: &io::Error) {
        tracing::debug!(port, %error, "reading a TAP twin");
        self.twins[port] = None;
    }
}
