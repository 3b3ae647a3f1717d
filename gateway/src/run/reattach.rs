//! Devices that go and come back: an interface that is deleted and made again, a NIC that is removed or needs a
//! reset.
//!
//! ```text
//! there -> leaving: each worker gets a share of nothing -> gone: EAL has forgotten the device
//!   -> it can be attached: each worker gets its new share -> there
//! ```
//!
//! Workers hold queues of a device only while it is attached, so nobody touches it in between. The port keeps its MAC
//! address and its number of queues; a device that comes back with others is refused.

use std::time::{Duration, Instant};

use dpdk::Eal;
use tracing::{error, info, warn};

use super::{devices::Devices, mac_filter::MacFilter};
use crate::{
    config::Config,
    control::workers::Workers,
    host::Host,
    io::{
        PortId,
        ports::{self, PortHandle},
    },
};

/// Between tries to attach a device: each one that fails leaves lines in the log.
const RETRY: Duration = Duration::from_secs(5);

/// Where a device is.
enum DeviceStage {
    There,
    /// Workers are asked for their shares.
    Leaving,
    /// Nobody holds it; when it was last tried.
    Gone(Option<Instant>),
    /// Workers are given new shares.
    Returning,
}

struct Device {
    /// Its first port.
    port: usize,
    stage: DeviceStage,
}

/// All devices, in their order.
pub(super) struct Reattach(Vec<Device>);

/// What it takes.
pub(super) struct Means<'a> {
    pub eal: &'a Eal,
    pub config: &'a Config,
    pub handles: &'a [&'a PortHandle],
    pub host: Option<&'a Host>,
}

impl Reattach {
    /// All devices are there.
    pub fn new(config: &Config) -> Self {
        let mut devices: Vec<Device> = Vec::new();
        for (port, place) in ports::places(&config.ports).iter().enumerate() {
            if usize::from(place.device) == devices.len() {
                devices.push(Device { port, stage: DeviceStage::There });
            }
        }
        Self(devices)
    }

    /// Takes every device a step on.
    pub fn step(
        &mut self,
        means: &Means<'_>,
        devices: &mut Devices,
        workers: &mut Workers,
        filter: &mut MacFilter,
    ) {
        for (n, device) in self.0.iter_mut().enumerate() {
            let Ok(number) = u8::try_from(n).map(PortId) else { return };
            device.step(number, means, devices, workers, filter);
        }
    }
}

impl Device {
    fn step(
        &mut self,
        number: PortId,
        means: &Means<'_>,
        devices: &mut Devices,
        workers: &mut Workers,
        filter: &mut MacFilter,
    ) {
        let Some(handle) = means.handles.get(self.port) else { return };
        let count = means.config.workers.count();
        match &mut self.stage {
            DeviceStage::There => {
                if devices.states().get(self.port).is_some_and(|state| state.lost) {
                    match handle.nothing(means.eal, count) {
                        Ok(hands) => {
                            warn!(port = handle.name(), "the device is taken out of use");
                            workers.exchange(number, hands);
                            self.stage = DeviceStage::Leaving;
                        }
                        Err(error) => error!(%error, "the device can't be taken out of use"),
                    }
                }
            }
            DeviceStage::Leaving => {
                if let Some(hands) = workers.returned(number) {
                    drop(hands);
                    if let Err(error) = handle.detach(means.eal) {
                        warn!(%error, "the device was not removed cleanly");
                    }
                    filter.forget(number);
                    self.stage = DeviceStage::Gone(None);
                }
            }
            DeviceStage::Gone(tried) => {
                let due = tried.is_none_or(|tried| tried.elapsed() >= RETRY);
                if due && devices.may_be_back(self.port) {
                    *tried = Some(Instant::now());
                    let attached = self.bring_back(means, devices, count);
                    if let Some(hands) = attached {
                        workers.exchange(number, hands);
                        self.stage = DeviceStage::Returning;
                    }
                }
            }
            DeviceStage::Returning => {
                if workers.returned(number).is_some() {
                    info!(port = handle.name(), "the device is back");
                    filter.renew();
                    self.stage = DeviceStage::There;
                }
            }
        }
    }

    fn bring_back(
        &self,
        means: &Means<'_>,
        devices: &mut Devices,
        workers: u16,
    ) -> Option<Vec<crate::io::Hand>> {
        let handle = means.handles.get(self.port)?;
        if let (Some(host), Some(interface)) = (means.host, devices.interface(self.port)) {
            host.guard(interface);
        }
        match handle.reattach(means.eal, means.config.ports.get(self.port)?, workers) {
            Ok(hands) => {
                devices.attached(self.port, Ok(()));
                Some(hands)
            }
            Err(error) => {
                devices.attached(self.port, Err(error.to_string()));
                None
            }
        }
    }
}
