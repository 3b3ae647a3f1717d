//! The only interface between the packet path and DPDK: where frames come from and go to.
//!
//! `ports` sets up real ports and `dpdk` drives them; `memory` serves tests, fuzzing and replays. A frame is owned: its
//! holder forwards it, hands it on or drops it, and dropping frees the buffer.

use std::any::Any;

use arrayvec::ArrayVec;

pub mod dpdk;
mod handle;
pub mod memory;
pub mod ports;
mod rss;
mod unfinished;
pub mod vlan;

/// Frames in one receive or transmit burst.
pub const BURST: usize = 32;

/// A burst of frames.
pub type Burst<F> = ArrayVec<F, BURST>;

/// Index of a port in configuration order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u8);

impl PortId {
    /// No port.
    pub const NONE: Self = Self(u8::MAX);

    /// The array index.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The port number under which frames arrive that the kernel sends out of this port's twin. There are at most 32
    /// ports, so the numbers above are free.
    #[must_use]
    pub const fn twin(self) -> Self {
        Self(self.0 | Self::TWIN)
    }

    /// Whether it is the number of a twin.
    #[must_use]
    pub const fn is_twin(self) -> bool {
        self.0 & Self::TWIN != 0
    }

    /// The port whose twin it is.
    #[must_use]
    pub const fn of_twin(self) -> Self {
        Self(self.0 & !Self::TWIN)
    }

    const TWIN: u8 = 0x80;
}

/// The location of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPlace {
    /// The device's number.
    pub device: u8,
    /// Its VLAN on the device, 1 to 4094; none for frames without a tag.
    pub vlan: Option<u16>,
}

/// The locations of ports: each has its own device unless an earlier port has the same `device`.
pub fn places<'a, D: PartialEq + 'a>(ports: impl Iterator<Item = (&'a D, Option<u16>)>) -> Vec<PortPlace> {
    let mut devices: Vec<&D> = Vec::new();
    let place = |(device, vlan)| {
        let known = devices.iter().position(|d| *d == device);
        let number = known.unwrap_or_else(|| {
            devices.push(device);
            devices.len() - 1
        });
        PortPlace { device: u8::try_from(number).unwrap_or(u8::MAX), vlan }
    };
    ports.map(place).collect()
}

/// One frame in a buffer that may be a chain of segments.
pub trait Frame: Send + 'static {
    /// The bytes of the first segment.
    fn data(&self) -> &[u8];
    /// The bytes of the first segment, mutable.
    fn data_mut(&mut self) -> &mut [u8];
    /// The length over all segments.
    fn total_len(&self) -> usize;
    /// Bytes of segment `n` (0 = the first); `None` past the last.
    fn segment(&self, n: usize) -> Option<&[u8]>;
    /// Truncates the frame to `len` bytes in all and drops segments beyond. Does nothing if the frame is shorter.
    fn truncate(&mut self, len: usize);
    /// Replaces the frame's contents by `len` unspecified bytes in its first segment. Without such room it returns
    /// false and changes nothing.
    fn reset(&mut self, len: usize) -> bool;
    /// Adds `n` bytes in front and returns whether there was room.
    fn prepend(&mut self, n: usize) -> bool;
    /// Takes `n` bytes off the front of the first segment; false if it has fewer.
    fn trim_front(&mut self, n: usize) -> bool;
    /// Starts loading the first bytes into the cache.
    fn prefetch(&self);
}

/// One worker's share of a device, as control and the worker hand it to each other.
pub type Hand = Box<dyn Any + Send>;

/// A worker's queue pair on every port.
pub trait Io {
    /// The buffer type.
    type Frame: Frame;
    /// Number of ports.
    fn ports(&self) -> usize;
    /// Receives up to the free room of `burst` from the worker's queue of `port`.
    fn rx(&mut self, port: PortId, burst: &mut Burst<Self::Frame>);
    /// Transmits `burst` on the worker's queue of `port` and removes the accepted frames from it; frames that the
    /// device had no room for stay.
    fn tx(&mut self, port: PortId, burst: &mut Burst<Self::Frame>);
    /// A fresh buffer with an empty first segment, for frames that the gateway makes itself.
    fn alloc(&mut self) -> Option<Self::Frame>;
    /// Exchanges the worker's share of device `device` for the one in `hand`: control takes a device away, or brings it
    /// back. Does nothing if there are no devices.
    fn exchange(&mut self, device: PortId, hand: &mut Hand) {
        let _ = (device, hand);
    }
}
