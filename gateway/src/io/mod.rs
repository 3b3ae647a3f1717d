//! Where frames come from and go to: the only interface between the packet path and DPDK.
//!
//! `ports` sets real ports up and `dpdk` drives them; `memory` serves tests, fuzzing and replays. A frame is owned:
//! its holder forwards it, hands it on or drops it, and dropping frees the buffer.

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

    /// As an array index.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The place where the kernel's frames come in that leave this port's twin for the path. There are 32 ports at most,
    /// so the numbers above are free.
    #[must_use]
    pub const fn twin(self) -> Self {
        Self(self.0 | Self::TWIN)
    }

    /// Whether it is such a place.
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

/// Where a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPlace {
    /// The device, counted from 0.
    pub device: u8,
    /// Its VLAN there, 1 to 4094; none: what has no tag.
    pub vlan: Option<u16>,
}

/// The places of ports: each on a device of its own unless an earlier port has the same `device`.
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
    /// The bytes of the first segment, to be rewritten.
    fn data_mut(&mut self) -> &mut [u8];
    /// Length over all segments.
    fn total_len(&self) -> usize;
    /// Bytes of segment `n` (0 = the first); `None` past the last.
    fn segment(&self, n: usize) -> Option<&[u8]>;
    /// Cuts the frame to `len` bytes in all; later segments go. Longer than the frame is a no-op.
    fn truncate(&mut self, len: usize);
    /// Gives the frame `len` bytes in its first segment, contents unspecified, dropping what it held.
    /// False, and nothing changed, if the first segment has no such room.
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
    /// Transmits `burst` on the worker's queue of `port`, taking the accepted frames out of it; what the
    /// device had no room for stays.
    fn tx(&mut self, port: PortId, burst: &mut Burst<Self::Frame>);
    /// A fresh buffer with an empty first segment, for frames that the gateway makes itself.
    fn alloc(&mut self) -> Option<Self::Frame>;
    /// Exchanges the worker's share of device `device` for the one in `hand`: control takes a device away, or brings it
    /// back. Without devices there is nothing to exchange.
    fn exchange(&mut self, device: PortId, hand: &mut Hand) {
        let _ = (device, hand);
    }
}
