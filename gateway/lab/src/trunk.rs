//! A switch for networks with VLANs, where the kernel has none: frames with a tag on one side, without on the others.
//!
//! ```text
//! trunk (802.1Q tags) ── [this] ─┬─ access link of VLAN 100
//!                                └─ access link of VLAN 200
//! ```
//! All its links are TAP devices, made in the namespaces that they lead to.

use std::{
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tappers::{Interface, linux::Tap};

use crate::Namespace;

/// The length of the MAC addresses in front of a tag, and of the tag.
const ADDRESSES: usize = 12;
const TAG: usize = 4;
/// How long a switch may sleep after it is told to stop, in milliseconds.
const ROUND: u8 = 50;

/// A thread that forwards what its links receive, until it is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Calls `pass` whenever one of `links` has a frame.
    pub(crate) fn start(links: Vec<Tap>, pass: impl Fn(&[Tap]) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !told.load(Relaxed) {
                let mut waits: Vec<_> =
                    links.iter().map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN)).collect();
                let _ = poll(&mut waits, PollTimeout::from(ROUND));
                pass(&links);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A running switch.
#[derive(Debug)]
pub struct Trunk {
    _relay: Relay,
}

impl Trunk {
    /// Creates the link `trunk` and the access links, each in its namespace and for its VLAN, and joins them.
    ///
    /// # Panics
    /// If a link can't be created.
    #[must_use]
    pub fn start(trunk: (&Namespace, &str), access: &[(&Namespace, &str, u16)]) -> Self {
        let vlans: Vec<u16> = access.iter().map(|(.., vlan)| *vlan).collect();
        let links = access.iter().map(|(at, name, _)| tap(at, name));
        let links = std::iter::once(tap(trunk.0, trunk.1)).chain(links).collect();
        let relay = Relay::start(links, move |links| {
            let (trunk, access) = links.split_first().expect("there is a trunk");
            from_trunk(trunk, access, &vlans);
            access.iter().zip(&vlans).for_each(|(tap, vlan)| to_trunk(tap, *vlan, trunk));
        });
        Self { _relay: relay }
    }
}

/// Creates a link whose other end this process holds.
pub(crate) fn tap(namespace: &Namespace, name: &str) -> Tap {
    let tap = namespace.within(|| {
        let tap = Interface::new(name).and_then(Tap::create_named)?;
        tap.set_nonblocking(true).map(|()| tap)
    });
    let tap = tap.unwrap_or_else(|e| panic!("the link {name} of {} can't be made: {e}", namespace.name()));
    namespace.ip(&format!("link set {name} up"));
    tap
}

/// Forwards the frames that wait on the trunk, each to its VLAN; others are dropped.
fn from_trunk(trunk: &Tap, access: &[Tap], vlans: &[u16]) {
    let mut buffer = [0; 2048];
    while let Ok(len) = trunk.recv(&mut buffer) {
        let frame = &mut buffer[..len];
        if len < ADDRESSES + TAG + 2 || frame[ADDRESSES..ADDRESSES + 2] != [0x81, 0] {
            continue;
        }
        let id = u16::from_be_bytes([frame[ADDRESSES + 2], frame[ADDRESSES + 3]]) & 0x0fff;
        frame.copy_within(..ADDRESSES, TAG);
        for (tap, _) in access.iter().zip(vlans).filter(|(_, vlan)| **vlan == id) {
            // A link that is down loses frames, as links do.
            let _ = tap.send(&frame[TAG..]);
        }
    }
}

/// Forwards the frames that wait on an access link.
fn to_trunk(access: &Tap, vlan: u16, trunk: &Tap) {
    let mut buffer = [0; 2048];
    while let Ok(len) = access.recv(&mut buffer[TAG..]) {
        buffer.copy_within(TAG..TAG + ADDRESSES, 0);
        buffer[ADDRESSES..ADDRESSES + 2].copy_from_slice(&[0x81, 0]);
        buffer[ADDRESSES + 2..ADDRESSES + TAG].copy_from_slice(&vlan.to_be_bytes());
        let _ = trunk.send(&buffer[..TAG + len]);
    }
}
