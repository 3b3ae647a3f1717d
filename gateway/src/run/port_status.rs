//! What `weirctl status` shows of a port.

use weir_api::model::status::{PortCounters, PortStatus};

use super::devices::DeviceState;
use crate::{config, host::TwinState, io::ports::PortHandle};

/// A port as it is now. What the driver doesn't tell is left at zero.
pub fn of(
    handle: &PortHandle,
    config: &config::Port,
    device: &DeviceState,
    twin: Option<&TwinState>,
) -> PortStatus {
    let port = handle.port();
    let link = port.as_ref().and_then(|port| port.link().ok());
    let stats = port.as_ref().and_then(|port| port.stats().ok()).unwrap_or_default();
    PortStatus {
        name: config.name.clone(),
        device: config.vlan.map_or(handle.device().into(), |id| format!("{} vlan {id}", handle.device())),
        driver: handle.info.driver.clone(),
        mac: handle.mac().0,
        mtu: handle.mtu_of(config),
        up: device.up,
        speed: link.filter(|_| device.up).and_then(|l| l.speed),
        no_rss: handle.rss.as_ref().err().cloned(),
        rx_queues: handle.rx_queues,
        tx_queues: handle.tx_queues,
        buffers: config.mbufs,
        buffers_used: handle.pool().in_use(),
        counters: PortCounters {
            rx_packets: stats.rx_packets,
            tx_packets: stats.tx_packets,
            rx_bytes: stats.rx_bytes,
            tx_bytes: stats.tx_bytes,
            rx_missed: stats.rx_missed,
            rx_errors: stats.rx_errors,
            tx_errors: stats.tx_errors,
            rx_no_buffer: stats.rx_no_buffer,
        },
        faults: device
            .fault
            .clone()
            .into_iter()
            .chain(twin.into_iter().flat_map(TwinState::faults))
            .collect(),
    }
}
