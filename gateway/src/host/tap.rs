//! TAP twins: the kernel's end of each port.
//!
//! A twin isn't persistent: it lives as long as its file descriptor, so it goes with the process however
//! that ends, and its addresses and routes with it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::errno::Errno;
use tappers::{Interface, linux::Tap};

use super::error::HostError;

/// A TAP device, non-blocking, carrying bare Ethernet frames (`IFF_NO_PI`).
pub(super) struct Twin {
    tap: Tap,
}

impl Twin {
    /// Makes the device `name` in the calling thread's network namespace; returns it and its interface index.
    pub fn create(name: &str) -> Result<(Self, u32), HostError> {
        let failed =
            |action| move |source: io::Error| HostError::Twin { name: name.to_owned(), action, source };
        let interface = Interface::new(name).map_err(failed("its name"))?;
        // Exclusive: fails with EBUSY if an interface of that name exists.
        let tap = Tap::create_named(interface).map_err(|e| match e.raw_os_error() {
            Some(e) if e == Errno::EBUSY as i32 => HostError::NameTaken(name.to_owned()),
            _ => failed("can't be created through /dev/net/tun")(e),
        })?;
        tap.set_nonblocking(true).map_err(failed("non-blocking mode"))?;
        let index = nix::net::if_::if_nametoindex(name).map_err(|e| failed("its index")(e.into()))?;
        Ok((Self { tap }, index))
    }

    /// Takes the next frame that the kernel sent out, into `buffer`; `None` if there is none.
    ///
    /// # Errors
    /// The device is gone (`EBADFD`) or failed otherwise.
    pub fn read<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        loop {
            match self.tap.recv(buffer) {
                Ok(length) => return Ok(buffer.get(..length)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Gives the kernel a frame as if it had come in by the twin.
    ///
    /// # Errors
    /// `EIO` while the twin is down, `EINVAL` if the frame is too short, `EBADFD` if the device is gone.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            match self.tap.send(frame) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for Twin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }
}
