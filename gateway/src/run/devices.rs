//! The state of the ports' devices: links, and devices that are gone.

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
    /// It passes no frames any more until it has been attached again.
    pub lost: bool,
}

/// Looks after the devices of all ports.
pub(super) struct Devices {
    interfaces: Option<Interfaces>,
    /// By port: the interface under the device when the gateway started.
    under: Vec<Option<(String, Option<Interface>)>>,
    states: Vec<DeviceState>,
    /// By port: why its device can't be attached again.
    refused: Vec<Option<String>>,
}

impl Devices {
    /// The devices as they are now.
    pub fn new(config: &Config, handles: &[&PortHandle]) -> Self {
        let mut interfaces = Interfaces::new()
            .inspect_err(|error| warn!(%error, "can't read the interfaces under the ports"))
            .ok();
        let under = config.ports.iter().map(|port| {
            let name = port.device.interface()?;
            let now = interfaces.as_mut()?.look(name).ok()?;
            Some((name.to_owned(), now))
        });
        let under = under.collect();
        let refused = vec![None; config.ports.len()];
        let mut devices = Self { interfaces, under, states: Vec::new(), refused };
        devices.states = devices.look(handles);
        devices
    }

    /// Each port's, as last seen.
    pub fn states(&self) -> &[DeviceState] {
        &self.states
    }

    /// Whether a lost device could be back: one on an interface if that exists; of others it isn't known.
    pub fn may_be_back(&mut self, n: usize) -> bool {
        let under = self.under.get(n).and_then(Option::as_ref);
        match (&mut self.interfaces, under) {
            (Some(interfaces), Some((name, _))) => interfaces.look(name).is_ok_and(|now| now.is_some()),
            _ => true,
        }
    }

    /// The interface under a port.
    pub fn interface(&self, n: usize) -> Option<&str> {
        self.under.get(n)?.as_ref().map(|(name, _)| name.as_str())
    }

    /// The device of a port was attached again, or why not.
    pub fn attached(&mut self, n: usize, result: Result<(), String>) {
        if let Some(refused) = self.refused.get_mut(n) {
            *refused = result.err();
        }
        if let (Some(interfaces), Some(Some((name, before)))) = (&mut self.interfaces, self.under.get_mut(n))
        {
            *before = interfaces.look(name).ok().flatten();
        }
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
        let fault = |fault: &str| DeviceState { fault: Some(fault.to_owned()), ..DeviceState::default() };
        let lost = |why: &str| DeviceState { lost: true, ..fault(why) };
        let under = self.under.get(n).and_then(Option::as_ref);
        let mut running = true;
        if let (Some(interfaces), Some((name, before))) = (&mut self.interfaces, under) {
            match interfaces.look(name) {
                Ok(None) => return lost(&format!("interface `{name}` is gone")),
                Ok(now) if now.map(|i| i.index) != before.map(|i| i.index) => {
                    let why =
                        self.refused.get(n).and_then(Option::as_deref).unwrap_or("it is being attached");
                    return lost(&format!("interface `{name}` was created again: {why}"));
                }
                Ok(Some(now)) => running = now.running,
                // What isn't known isn't complained of.
                Err(_) => {}
            }
        }
        let Some(port) = handle.port() else {
            let why = self.refused.get(n).and_then(Option::as_deref).unwrap_or("it is being attached");
            return lost(&format!("the device is gone: {why}"));
        };
        if port.is_removed() {
            return lost("the device was removed");
        }
        if port.wants_reset() {
            return lost("the device needs a reset");
        }
        if !running || !handle.is_up() {
            return fault("the link is down");
        }
        DeviceState { up: true, ..DeviceState::default() }
    }
}
