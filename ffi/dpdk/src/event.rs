//! Events that devices report: that they were removed, or that they need a reset.

use std::{
    ffi::c_void,
    ptr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::{Error, Port};

/// Every port number there can be.
const PORTS: usize = dpdk_sys::RTE_MAX_ETHPORTS as usize;

static REMOVED: [AtomicBool; PORTS] = [const { AtomicBool::new(false) }; PORTS];
static RESET: [AtomicBool; PORTS] = [const { AtomicBool::new(false) }; PORTS];

/// Notes an event; drivers call it on any thread.
unsafe extern "C" fn note(
    port: u16,
    event: dpdk_sys::rte_eth_event_type,
    _argument: *mut c_void,
    _result: *mut c_void,
) -> i32 {
    let flags = match event {
        dpdk_sys::RTE_ETH_EVENT_INTR_RMV => &REMOVED,
        dpdk_sys::RTE_ETH_EVENT_INTR_RESET => &RESET,
        _ => return 0,
    };
    if let Some(flag) = flags.get(usize::from(port)) {
        flag.store(true, Relaxed);
    }
    0
}

impl Port {
    /// Starts noting the device's events.
    pub(crate) fn listen_to_events(&self) -> Result<(), Error> {
        // The number may have belonged to another device before.
        for flags in [&REMOVED, &RESET] {
            if let Some(flag) = flags.get(usize::from(self.id())) {
                flag.store(false, Relaxed);
            }
        }
        for event in [dpdk_sys::RTE_ETH_EVENT_INTR_RMV, dpdk_sys::RTE_ETH_EVENT_INTR_RESET] {
            // SAFETY: `note` is a function for any thread that needs no argument.
            let code = unsafe {
                dpdk_sys::rte_eth_dev_callback_register(self.id(), event, Some(note), ptr::null_mut())
            };
            self.check("subscribe to events", code)?;
        }
        Ok(())
    }

    /// Whether the device was removed from the machine.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        REMOVED.get(usize::from(self.id())).is_some_and(|flag| flag.load(Relaxed))
    }

    /// Whether the device has requested a reset: it passes no frames until then.
    #[must_use]
    pub fn wants_reset(&self) -> bool {
        RESET.get(usize::from(self.id())).is_some_and(|flag| flag.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn events_are_noted_by_port() {
        let eal = testing::eal(1);
        let (one, other) = (eal.attach("net_null0").unwrap(), eal.attach("net_null1").unwrap());
        assert!(!one.is_removed() && !one.wants_reset());
        // SAFETY: called as a driver would call it.
        unsafe {
            note(one.id(), dpdk_sys::RTE_ETH_EVENT_INTR_RMV, ptr::null_mut(), ptr::null_mut());
            note(other.id(), dpdk_sys::RTE_ETH_EVENT_INTR_RESET, ptr::null_mut(), ptr::null_mut());
            note(u16::MAX, dpdk_sys::RTE_ETH_EVENT_INTR_RMV, ptr::null_mut(), ptr::null_mut());
        }
        assert!(one.is_removed() && !one.wants_reset());
        assert!(!other.is_removed() && other.wants_reset());
    }
}
