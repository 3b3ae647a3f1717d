//! Control operations on a running port: addresses, link, modes, counters.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{Error, Port, log};

/// State of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether the link is up.
    pub up: bool,
    /// Mb/s, if known.
    pub speed: Option<u32>,
    /// Whether both sides may send at once.
    pub full_duplex: bool,
}

/// A port's own counters.
#[allow(missing_docs, reason = "DPDK's names, which say it")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_missed: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_no_buffer: u64,
}

impl Port {
    /// The device's MAC address.
    ///
    /// # Errors
    /// The driver doesn't report it.
    pub fn mac(&self) -> Result<[u8; 6], Error> {
        let mut address = dpdk_sys::rte_ether_addr::default();
        // SAFETY: room for the address.
        self.check("read MAC address", unsafe {
            dpdk_sys::rte_eth_macaddr_get(self.id(), &raw mut address)
        })?;
        Ok(address.addr_bytes)
    }

    /// Gives the device another MAC address.
    ///
    /// # Errors
    /// It refuses.
    pub fn set_mac(&self, mac: [u8; 6]) -> Result<(), Error> {
        let mut address = dpdk_sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: a port, which this is, and an address that outlives the call.
        self.check("set the MAC address", unsafe {
            dpdk_sys::rte_eth_dev_default_mac_addr_set(self.id(), &raw mut address)
        })
    }

    /// The MTU in bytes of IP packet.
    ///
    /// # Errors
    /// The driver doesn't report it.
    pub fn mtu(&self) -> Result<u16, Error> {
        let mut mtu = 0;
        // SAFETY: room for the number.
        self.check("read MTU", unsafe { dpdk_sys::rte_eth_dev_get_mtu(self.id(), &raw mut mtu) })?;
        Ok(mtu)
    }

    /// Sets the MTU, in bytes of IP packet. Many devices only support this before [`Port::start`]; use
    /// [`PortConfig::mtu`].
    ///
    /// # Errors
    /// The device refuses it, or doesn't support the change and has another MTU.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), Error> {
        // SAFETY: no preconditions but a port, which this is.
        let (code, said) = log::listen(|| unsafe { dpdk_sys::rte_eth_dev_set_mtu(self.id(), mtu) });
        // A driver without this function takes the MTU from the configuration.
        if code == 0 || code == -libc::ENOTSUP && self.mtu()? == mtu {
            return Ok(());
        }
        Err(self.error("set MTU", log::reason(&said, code)))
    }

    /// The current state of the link.
    ///
    /// # Errors
    /// The driver doesn't report it.
    pub fn link(&self) -> Result<Link, Error> {
        let (mut speed, mut up, mut full_duplex) = (0, 0, 0);
        // SAFETY: room for the three numbers.
        let code =
            unsafe { dpdk_sys::shim_link(self.id(), &raw mut speed, &raw mut up, &raw mut full_duplex) };
        self.check("read link", code)?;
        let known = speed != 0 && speed != u32::MAX;
        Ok(Link { up: up != 0, speed: known.then_some(speed), full_duplex: full_duplex != 0 })
    }

    /// Waits at most for `limit` until the link is up; returns its final state.
    ///
    /// # Errors
    /// The driver doesn't report it.
    pub fn wait_link(&self, limit: Duration) -> Result<Link, Error> {
        let end = Instant::now() + limit;
        loop {
            let link = self.link()?;
            if link.up || Instant::now() >= end {
                return Ok(link);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sets whether frames for any MAC address are received.
    ///
    /// # Errors
    /// The device refuses.
    pub fn set_promiscuous(&self, on: bool) -> Result<(), Error> {
        // SAFETY: no preconditions but a port, which this is.
        let code = unsafe {
            if on {
                dpdk_sys::rte_eth_promiscuous_enable(self.id())
            } else {
                dpdk_sys::rte_eth_promiscuous_disable(self.id())
            }
        };
        self.check("set promiscuous mode", code)
    }

    /// Receives frames for this MAC address, too.
    ///
    /// # Errors
    /// The device has no filter for addresses, or the filter is full.
    pub fn add_mac(&self, mac: [u8; 6]) -> Result<(), Error> {
        let mut address = dpdk_sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: a port, which this is, and an address that outlives the call.
        let code = unsafe { dpdk_sys::rte_eth_dev_mac_addr_add(self.id(), &raw mut address, 0) };
        self.check("add a MAC address", code)
    }

    /// No longer receives frames for an address that was added.
    ///
    /// # Errors
    /// The device refuses; the port's own address stays.
    pub fn remove_mac(&self, mac: [u8; 6]) -> Result<(), Error> {
        let mut address = dpdk_sys::rte_ether_addr { addr_bytes: mac };
        // SAFETY: as above.
        let code = unsafe { dpdk_sys::rte_eth_dev_mac_addr_remove(self.id(), &raw mut address) };
        self.check("remove a MAC address", code)
    }

    /// Sets whether frames for any group address are received.
    ///
    /// # Errors
    /// The device refuses.
    pub fn set_all_multicast(&self, on: bool) -> Result<(), Error> {
        // SAFETY: no preconditions but a port, which this is.
        let code = unsafe {
            if on {
                dpdk_sys::rte_eth_allmulticast_enable(self.id())
            } else {
                dpdk_sys::rte_eth_allmulticast_disable(self.id())
            }
        };
        self.check("set all-multicast mode", code)
    }

    /// The port's counters since its start.
    ///
    /// # Errors
    /// The driver has no counters.
    pub fn stats(&self) -> Result<Stats, Error> {
        let mut s = dpdk_sys::rte_eth_stats::default();
        // SAFETY: room for the structure.
        self.check("read statistics", unsafe { dpdk_sys::rte_eth_stats_get(self.id(), &raw mut s) })?;
        Ok(Stats {
            rx_packets: s.ipackets,
            tx_packets: s.opackets,
            rx_bytes: s.ibytes,
            tx_bytes: s.obytes,
            rx_missed: s.imissed,
            rx_errors: s.ierrors,
            tx_errors: s.oerrors,
            rx_no_buffer: s.rx_nombuf,
        })
    }

    /// The driver's own counters, by name.
    ///
    /// # Errors
    /// The driver doesn't report them.
    pub fn xstats(&self) -> Result<Vec<(String, u64)>, Error> {
        const STEP: &str = "read extended statistics";
        // SAFETY: with no room the function only counts.
        let count = unsafe { dpdk_sys::rte_eth_xstats_get_names(self.id(), std::ptr::null_mut(), 0) };
        self.check(STEP, count)?;
        let mut names = vec![dpdk_sys::rte_eth_xstat_name::default(); count as usize];
        let mut values = vec![dpdk_sys::rte_eth_xstat::default(); count as usize];
        // SAFETY: room for `count` names and values.
        let (named, valued) = unsafe {
            (
                dpdk_sys::rte_eth_xstats_get_names(self.id(), names.as_mut_ptr(), count as u32),
                dpdk_sys::rte_eth_xstats_get(self.id(), values.as_mut_ptr(), count as u32),
            )
        };
        self.check(STEP, named.min(valued))?;
        values.truncate(valued as usize);
        Ok(values.iter().filter_map(|v| Some((name_of(names.get(v.id as usize)?), v.value))).collect())
    }
}

fn name_of(name: &dpdk_sys::rte_eth_xstat_name) -> String {
    name.name.iter().take_while(|c| **c != 0).map(|c| char::from(*c as u8)).collect()
}
