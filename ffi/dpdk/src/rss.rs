//! Receive-side scaling: which queue of a port a frame arrives in.
//!
//! The device hashes a frame's addresses and ports with a key (Toeplitz). The low bits of the hash are the index into a
//! table of queues, the redirection table.

use dpdk_sys::{RTE_ETH_RETA_GROUP_SIZE, rte_eth_rss_conf, rte_eth_rss_reta_entry64};

use crate::{Error, Port};

/// The bits of a set of hash types: which packets are hashed, and over which of their fields.
pub mod hash_types {
    /// IPv4 addresses, of any IPv4 packet.
    pub const IPV4: u64 = dpdk_sys::RTE_ETH_RSS_IPV4;
    /// IPv4 addresses, of fragments.
    pub const IPV4_FRAGMENT: u64 = dpdk_sys::RTE_ETH_RSS_FRAG_IPV4;
    /// IPv4 addresses and TCP ports.
    pub const IPV4_TCP: u64 = dpdk_sys::RTE_ETH_RSS_NONFRAG_IPV4_TCP;
    /// IPv4 addresses and UDP ports.
    pub const IPV4_UDP: u64 = dpdk_sys::RTE_ETH_RSS_NONFRAG_IPV4_UDP;
    /// IPv4 addresses and SCTP ports.
    pub const IPV4_SCTP: u64 = dpdk_sys::RTE_ETH_RSS_NONFRAG_IPV4_SCTP;
    /// IPv6 addresses, of any IPv6 packet.
    pub const IPV6: u64 = dpdk_sys::RTE_ETH_RSS_IPV6;
    /// IPv6 addresses and TCP ports.
    pub const IPV6_TCP: u64 = dpdk_sys::RTE_ETH_RSS_NONFRAG_IPV6_TCP;
    /// IPv6 addresses and UDP ports.
    pub const IPV6_UDP: u64 = dpdk_sys::RTE_ETH_RSS_NONFRAG_IPV6_UDP;
    /// IPv6 addresses and SCTP ports.
    pub const IPV6_SCTP: u64 = dpdk_sys::RTE_ETH_RSS_NONFRAG_IPV6_SCTP;
    /// IPv6 addresses, or those in mobility extension headers if a packet has them.
    pub const IPV6_MOBILE: u64 = dpdk_sys::RTE_ETH_RSS_IPV6_EX;
    /// The same with TCP ports.
    pub const IPV6_MOBILE_TCP: u64 = dpdk_sys::RTE_ETH_RSS_IPV6_TCP_EX;
    /// The same with UDP ports.
    pub const IPV6_MOBILE_UDP: u64 = dpdk_sys::RTE_ETH_RSS_IPV6_UDP_EX;
}

/// Key, table and hash types of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RssSettings {
    /// The hash key; the device determines its length ([`crate::PortInfo::hash_key_size`]).
    pub key: Vec<u8>,
    /// Queues by the low bits of the hash; the device determines the length ([`crate::PortInfo::table_size`]).
    pub table: Vec<u16>,
    /// Set of [`hash_types`].
    pub types: u64,
}

/// The number of entries in a group; DPDK passes tables in groups.
const GROUP: usize = RTE_ETH_RETA_GROUP_SIZE as usize;

impl Port {
    /// Sets key, hash types and redirection table of a started port. Success doesn't mean that they are in force:
    /// [`Port::rss`] returns the actual settings.
    ///
    /// # Errors
    /// The device has no RSS, keys and tables of other lengths, or refuses the values.
    pub fn set_rss(&self, settings: &RssSettings) -> Result<(), Error> {
        let info = self.info()?;
        // Drivers copy as much as they expect, whatever lengths are passed.
        if (settings.key.len(), settings.table.len()) != (info.hash_key_size, info.table_size) {
            let reason = format!(
                "a key of {} bytes and a table of {} entries are wanted",
                info.hash_key_size, info.table_size
            );
            return Err(self.error("set RSS", reason));
        }
        let mut key = settings.key.clone();
        let mut conf = conf(key.as_mut_ptr(), key.len() as u8, settings.types);
        // SAFETY: the configuration points at `rss_key_len` bytes that outlive the call.
        self.check("set RSS key", unsafe {
            dpdk_sys::rte_eth_dev_rss_hash_update(self.id(), &raw mut conf)
        })?;
        let mut groups = groups(&settings.table);
        // SAFETY: the table consists of as many groups as its size asks for.
        let result = unsafe {
            dpdk_sys::rte_eth_dev_rss_reta_update(self.id(), groups.as_mut_ptr(), settings.table.len() as u16)
        };
        self.check("set RSS table", result)
    }

    /// Key, hash types and redirection table of the device.
    ///
    /// # Errors
    /// The device has no RSS or doesn't report it.
    pub fn rss(&self) -> Result<RssSettings, Error> {
        let info = self.info()?;
        if info.hash_key_size == 0 || info.table_size == 0 {
            return Err(self.error("read RSS settings", "the device has none".to_owned()));
        }
        let mut key = vec![0; info.hash_key_size];
        let mut conf = conf(key.as_mut_ptr(), key.len() as u8, 0);
        // SAFETY: the configuration points at as many bytes as the device's keys have.
        self.check("read RSS key", unsafe {
            dpdk_sys::rte_eth_dev_rss_hash_conf_get(self.id(), &raw mut conf)
        })?;
        let mut groups = groups(&vec![0; info.table_size]);
        // SAFETY: the table consists of as many groups as its size asks for.
        let result = unsafe {
            dpdk_sys::rte_eth_dev_rss_reta_query(self.id(), groups.as_mut_ptr(), info.table_size as u16)
        };
        self.check("read RSS table", result)?;
        let table = (0..info.table_size).map(|i| groups[i / GROUP].reta[i % GROUP]).collect();
        Ok(RssSettings { key, table, types: conf.rss_hf })
    }
}

/// DPDK's structure for key and types.
#[allow(clippy::needless_update, reason = "later releases of DPDK have more fields")]
fn conf(rss_key: *mut u8, rss_key_len: u8, rss_hf: u64) -> rte_eth_rss_conf {
    rte_eth_rss_conf { rss_key, rss_key_len, rss_hf, ..Default::default() }
}

/// A table in DPDK's form: groups of 64 with a mask of the valid entries.
fn groups(table: &[u16]) -> Vec<rte_eth_rss_reta_entry64> {
    table
        .chunks(GROUP)
        .map(|part| {
            let mut group = rte_eth_rss_reta_entry64 {
                mask: if part.len() == GROUP { u64::MAX } else { (1 << part.len()) - 1 },
                ..Default::default()
            };
            group.reta[..part.len()].copy_from_slice(part);
            group
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PortConfig, testing};

    #[test]
    fn tables_are_cut_into_groups() {
        let table: Vec<u16> = (0..130).collect();
        let groups = groups(&table);
        assert_eq!(groups.len(), 3);
        assert_eq!((groups[1].mask, groups[1].reta[5]), (u64::MAX, 69));
        assert_eq!((groups[2].mask, groups[2].reta[1]), (3, 129));
    }

    #[test]
    fn settings_are_read_back() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let mut port = eal.attach("net_null0").unwrap();
        let info = port.info().unwrap();
        let types = hash_types::IPV4 | hash_types::IPV4_TCP | hash_types::IPV4_UDP;
        let config = PortConfig { rx_queues: 2, tx_queues: 2, hash_types: types, ..PortConfig::default() };
        let _queues = port.start(&config, &pool).unwrap();
        let wanted = RssSettings {
            key: (0..info.hash_key_size as u8).collect(),
            table: (0..info.table_size as u16).map(|i| i % 2).collect(),
            types: types & info.hash_types,
        };
        port.set_rss(&wanted).unwrap();
        assert_eq!(port.rss().unwrap(), wanted);

        let long = RssSettings { key: vec![0; 300], ..wanted.clone() };
        let short = RssSettings { table: vec![0], ..wanted };
        assert!(port.set_rss(&long).is_err() && port.set_rss(&short).is_err());
    }

    #[test]
    fn a_device_without_rss_says_so() {
        let eal = testing::eal(1);
        let port = eal.attach("net_ring0").unwrap();
        assert!(port.rss().is_err());
    }
}
