//! How the ports' devices are: links, and devices that are gone.

use tracing::{error, info, warn};

use crate::{
    config::Config,
    host::interface::{Interface, Interfaces},
    io::ports::PortHandle,
};

/// A port's device as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceState {
    /// Whether there is a link.
    pub up: bool,
    /// What keeps it from passing frames, as a phrase.
    pub fault: Option<String>,
}

/// Looks after the devices of all ports.
pub(super) struct Devices {
    interfaces: Option<Interfaces>,
    /// By port: the interface under the device when the gateway started.
    under: Vec<Option<(String, Option<Interface>)>>,
    states: Vec<DeviceState>,
}

impl Devices {
    /// The devices as they are now.
    pub fn new(config: &Config, handles: &[&PortHandle]) -> Self {
        let mut interfaces = Interfaces::new()
            .inspect_err(|error| warn!(%error, "interfaces under ports can't be looked at"))
            .ok();
        let under = config.ports.iter().map(|port| {
            let name = port.device.interface()?;
            let now = interfaces.as_mut()?.look(name).ok()?;
            Some((name.to_owned(), now))
        });
        let under = under.collect();
        let mut devices = Self { interfaces, under, states: Vec::new() };
        devices.states = devices.look(handles);
        devices
    }

    /// Each port's, as last seen.
    pub fn states(&self) -> &[DeviceState] {
        &self.states
    }

    /// Looks again, and logs what is new.
    pub fn look_again(&mut self, config: &Config, handles: &[&PortHandle]) {
        let now = self.look(handles);
        for ((new, old), port) in now.iter().zip(&self.states).zip(&config.ports) {
            let port = &port.name;
            match &new.fault {
                _ if new == old => {}
                Some(fault) if new.up == old.up => error!(port, "{fault}"),
                Some(fault) => warn!(port, up = new.up, "the link changed: {fault}"),
                None => info!(port, up = new.up, "the link changed"),
            }
        }
        self.states = now;
    }

    fn look(&mut self, handles: &[&PortHandle]) -> Vec<DeviceState> {
        handles.iter().enumerate().map(|(n, handle)| self.look_at(n, handle)).collect()
    }

    fn look_at(&mut self, n: usize, handle: &PortHandle) -> DeviceState {
        let fault = |fault: &str| DeviceState { up: false, fault: Some(fault.to_owned()) };
        let port = handle.port();
        if port.is_removed() {
            return fault("the device was removed");
        }
        if port.wants_reset() {
            return fault("the device wants to be reset: restart the gateway");
        }
        if !handle.is_up() {
            return fault("the link is down");
        }
        let under = self.under.get(n).and_then(Option::as_ref);
        if let (Some(interfaces), Some((name, before))) = (&mut self.interfaces, under) {
            match interfaces.look(name) {
                Ok(None) => return fault(&format!("interface `{name}` is gone")),
                Ok(now) if now.map(|i| i.index) != before.map(|i| i.index) => {
                    return fault(&format!("interface `{name}` is another one now: restart the gateway"));
                }
                Ok(Some(now)) if !now.running => return fault("the link is down"),
                // What isn't known isn't complained of.
                Ok(Some(_)) | Err(_) => {}
            }
        }
        DeviceState { up: true, fault: None }
    }
}
