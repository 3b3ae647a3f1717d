//! What devices receive: frames for the MAC addresses that the kernel has over the twins, by the device's filter where it
//! has one, else by receiving everything.

use std::sync::Arc;

use tracing::{info, warn};

use crate::{
    config::Config,
    io::{
        PortId,
        ports::{self, PortHandle},
    },
    mac::Mac,
};

/// What was asked of the devices.
pub(super) struct MacFilter {
    /// By port, its device.
    devices: Vec<PortId>,
    told: Option<Arc<[(PortId, Mac)]>>,
    entries: Vec<Entry>,
}

struct Entry {
    /// The device, which several ports may be on.
    device: PortId,
    mac: Mac,
    /// The first port that wanted it.
    port: PortId,
    /// The device has it in its filter; otherwise it receives everything.
    filtered: bool,
}

impl MacFilter {
    /// Nothing was asked of the devices of these ports.
    pub fn new(config: &Config) -> Self {
        let devices = ports::places(&config.ports).iter().map(|place| PortId(place.device)).collect();
        Self { devices, told: None, entries: Vec::new() }
    }

    /// A device is gone, and its filters with it: they are set again once it is back.
    pub fn forget(&mut self, device: PortId) {
        self.entries.retain(|entry| entry.device != device);
    }

    /// Asks again next time: a device is back.
    pub fn renew(&mut self) {
        self.told = None;
    }

    /// Has the devices of `handles`, by port, receive frames for exactly these addresses beside their own.
    pub fn follow(&mut self, stations: &Arc<[(PortId, Mac)]>, handles: &[&PortHandle]) {
        if self.told.as_ref().is_some_and(|told| Arc::ptr_eq(told, stations)) {
            return;
        }
        self.told = Some(Arc::clone(stations));
        let mut wanted = Vec::new();
        for (port, mac) in stations.iter().copied() {
            let Some(handle) = handles.get(port.index()) else { continue };
            let Some(device) = self.devices.get(port.index()).copied() else { continue };
            // A VLAN over the twin has the port's own.
            if handle.mac() != mac && wanted.iter().all(|(d, m, _)| (*d, *m) != (device, mac)) {
                wanted.push((device, mac, port));
            }
        }
        let is_wanted = |e: &Entry| wanted.iter().any(|(d, m, _)| (*d, *m) == (e.device, e.mac));
        let (kept, gone) = std::mem::take(&mut self.entries).into_iter().partition(is_wanted);
        self.entries = kept;
        for entry in gone {
            self.remove(&entry, handles);
        }
        for (device, mac, port) in wanted {
            if self.entries.iter().all(|e| (e.device, e.mac) != (device, mac)) {
                self.add(Entry { device, mac, port, filtered: false }, handles);
            }
        }
    }

    fn receives_all(&self, device: PortId) -> bool {
        self.entries.iter().any(|e| e.device == device && !e.filtered)
    }

    fn add(&mut self, mut entry: Entry, handles: &[&PortHandle]) {
        let Some(handle) = handles.get(entry.port.index()) else { return };
        let (Some(port), name, mac) = (handle.port(), handle.name(), entry.mac) else { return };
        entry.filtered = port.add_mac(mac.0).is_ok();
        if entry.filtered {
            info!(port = name, %mac, "the device receives frames for another MAC address");
        } else {
            let receives_all = self.receives_all(entry.device);
            match if receives_all { Ok(()) } else { port.set_promiscuous(true) } {
                Ok(()) => info!(port = name, %mac, "the device receives all frames, for another MAC address"),
                Err(error) => {
                    warn!(port = name, %mac, %error, "the device may not receive frames for another MAC address");
                }
            }
        }
        self.entries.push(entry);
    }

    fn remove(&self, entry: &Entry, handles: &[&PortHandle]) {
        let Some(handle) = handles.get(entry.port.index()) else { return };
        let (Some(port), name, mac) = (handle.port(), handle.name(), entry.mac) else { return };
        let done = if entry.filtered {
            port.remove_mac(mac.0)
        } else if self.receives_all(entry.device) {
            Ok(())
        } else {
            port.set_promiscuous(false)
        };
        match done {
            Ok(()) => info!(port = name, %mac, "the MAC address is gone"),
            Err(error) => warn!(port = name, %mac, %error, "the device goes on receiving frames for it"),
        }
    }
}
