//! Ethernet ports: a device's capabilities, its set-up, and its control while it runs.
//!
//! DPDK's control functions aren't thread-safe, so only one thread at a time uses a [`Port`]. Its queues are separate
//! handles, for the workers; the device is stopped and closed when the last handle is dropped.

use std::{
    cell::Cell,
    collections::BTreeSet,
    ffi::{CStr, CString},
    marker::PhantomData,
    mem::MaybeUninit,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use dpdk_sys::{rte_eth_conf, rte_eth_dev_info};

use crate::{Error, Mempool, RxQueue, TxQueue, eal::Shared, error::meaning, log};

/// Work that can be offloaded to devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Receive a frame into several buffers.
    pub scatter: bool,
    /// Leave the RSS hash in the frame.
    pub rss_hash: bool,
    /// Check IPv4, TCP and UDP checksums of received frames. A virtio device then also delivers frames whose checksums
    /// aren't filled in.
    pub rx_checksum: bool,
    /// Send a frame from several buffers.
    pub multi_segments: bool,
    /// Fill in IPv4, TCP and UDP checksums of sent frames.
    pub tx_checksum: bool,
}

const RX_CHECKSUM: u64 = dpdk_sys::RTE_ETH_RX_OFFLOAD_IPV4_CKSUM
    | dpdk_sys::RTE_ETH_RX_OFFLOAD_TCP_CKSUM
    | dpdk_sys::RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
const TX_CHECKSUM: u64 = dpdk_sys::RTE_ETH_TX_OFFLOAD_IPV4_CKSUM
    | dpdk_sys::RTE_ETH_TX_OFFLOAD_TCP_CKSUM
    | dpdk_sys::RTE_ETH_TX_OFFLOAD_UDP_CKSUM;

impl Offloads {
    fn of(rx: u64, tx: u64) -> Self {
        Self {
            scatter: rx & dpdk_sys::RTE_ETH_RX_OFFLOAD_SCATTER != 0,
            rss_hash: rx & dpdk_sys::RTE_ETH_RX_OFFLOAD_RSS_HASH != 0,
            rx_checksum: rx & RX_CHECKSUM == RX_CHECKSUM,
            multi_segments: tx & dpdk_sys::RTE_ETH_TX_OFFLOAD_MULTI_SEGS != 0,
            tx_checksum: tx & TX_CHECKSUM == TX_CHECKSUM,
        }
    }

    /// The offloads that are in both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            scatter: self.scatter && other.scatter,
            rss_hash: self.rss_hash && other.rss_hash,
            rx_checksum: self.rx_checksum && other.rx_checksum,
            multi_segments: self.multi_segments && other.multi_segments,
            tx_checksum: self.tx_checksum && other.tx_checksum,
        }
    }

    fn rx_bits(self) -> u64 {
        let bit = |on: bool, bits: u64| if on { bits } else { 0 };
        bit(self.scatter, dpdk_sys::RTE_ETH_RX_OFFLOAD_SCATTER)
            | bit(self.rss_hash, dpdk_sys::RTE_ETH_RX_OFFLOAD_RSS_HASH)
            | bit(self.rx_checksum, RX_CHECKSUM)
    }

    fn tx_bits(self) -> u64 {
        let bit = |on: bool, bits: u64| if on { bits } else { 0 };
        bit(self.multi_segments, dpdk_sys::RTE_ETH_TX_OFFLOAD_MULTI_SEGS) | bit(self.tx_checksum, TX_CHECKSUM)
    }
}

/// A device's properties and capabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// The driver's name: `net_af_packet`, `net_ixgbe`.
    pub driver: String,
    /// NUMA node of the device, if it is on one.
    pub socket: Option<u32>,
    /// The most receive queues.
    pub max_rx_queues: u16,
    /// The most send queues.
    pub max_tx_queues: u16,
    /// The smallest MTU, in bytes of IP packet.
    pub min_mtu: u16,
    /// The largest MTU, in bytes of IP packet.
    pub max_mtu: u16,
    /// The bytes that a receive buffer must hold at least, not counting headroom.
    pub min_rx_buffer: usize,
    /// The number of entries in the RSS redirection table; 0 without RSS.
    pub table_size: usize,
    /// The length of the RSS key in bytes; 0 without RSS.
    pub hash_key_size: usize,
    /// The RSS [`crate::hash_types`] that it supports.
    pub hash_types: u64,
    /// The offloads that it supports.
    pub offloads: Offloads,
}

/// The configuration of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// The number of receive queues.
    pub rx_queues: u16,
    /// The number of send queues.
    pub tx_queues: u16,
    /// Descriptors of a receive queue; adjusted to the device's limits.
    pub rx_descriptors: u16,
    /// Descriptors of a send queue; adjusted to the device's limits.
    pub tx_descriptors: u16,
    /// MTU in bytes of IP packet; `None` keeps the device's.
    pub mtu: Option<u16>,
    /// Packets to spread over the receive queues ([`crate::hash_types`]); unsupported ones are left out.
    pub hash_types: u64,
    /// The requested offloads; unsupported ones are left out.
    pub offloads: Offloads,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            hash_types: 0,
            offloads: Offloads {
                scatter: true,
                rss_hash: true,
                multi_segments: true,
                rx_checksum: false,
                tx_checksum: false,
            },
        }
    }
}

/// The queues of a started port, and the settings that the device adopted.
pub struct Queues {
    /// Receive queues by number.
    pub rx: Vec<RxQueue>,
    /// Send queues by number.
    pub tx: Vec<TxQueue>,
    /// Offloads in use.
    pub offloads: Offloads,
    /// Descriptors of a receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of a send queue.
    pub tx_descriptors: u16,
}

/// The length of an RSS key on most devices: enough for the addresses and ports of IPv6.
const USUAL_KEY: usize = 40;

/// Drivers that deliver the very buffers that were sent to them, which the sender may share. All others receive into
/// fresh ones.
const PASSING_THROUGH: [&str; 4] = ["net_ring", "net_bonding", "net_failsafe", "net_softnic"];

/// The state that a port's handles share; stops and closes the device at the end.
pub(crate) struct PortInner {
    id: u16,
    device: String,
    started: AtomicBool,
    closed: AtomicBool,
    _shared: Arc<Shared>,
}

impl PortInner {
    #[inline(always)]
    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    fn close(&self) -> Result<(), Error> {
        let failed = |step, code| Error::Port { device: self.device.clone(), step, reason: meaning(code) };
        let mut result = Ok(());
        if self.started.swap(false, Ordering::SeqCst) {
            // SAFETY: no queue handle is left (this has the last reference), so nobody polls the device.
            let code = unsafe { dpdk_sys::rte_eth_dev_stop(self.id) };
            if code != 0 {
                result = Err(failed("stop", code));
            }
        }
        if self.closed.swap(true, Ordering::SeqCst) {
            return result;
        }
        // SAFETY: as before; the port is closed once and its number not used again.
        let code = unsafe { dpdk_sys::rte_eth_dev_close(self.id) };
        if code == 0 { result } else { result.and(Err(failed("close", code))) }
    }
}

impl Drop for PortInner {
    fn drop(&mut self) {
        // A caller that needs the result uses `Port::close` on the last handle; DPDK has logged the reason.
        _ = self.close();
    }
}

/// A device that was attached. One thread at a time may use it.
pub struct Port {
    inner: Arc<PortInner>,
    /// DPDK's control functions aren't thread-safe.
    _not_sync: PhantomData<Cell<()>>,
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port").field("id", &self.inner.id).field("device", &self.inner.device).finish()
    }
}

/// All port numbers in use.
pub(crate) fn all() -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    let mut next = 0;
    loop {
        // SAFETY: reads DPDK's table of ports.
        let id = unsafe { dpdk_sys::rte_eth_find_next(next) };
        if id >= dpdk_sys::RTE_MAX_ETHPORTS as u16 {
            return ports;
        }
        ports.insert(id);
        next = id + 1;
    }
}

/// The port of a device by its [`crate::normal_name`], unless it is `taken`.
pub(crate) fn find(name: &str, taken: &BTreeSet<u16>) -> Option<u16> {
    let text = CString::new(name).ok()?;
    let mut id = 0;
    // SAFETY: a NUL-terminated text, and room for the number.
    let by_name = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(text.as_ptr(), &raw mut id) };
    if by_name == 0 && !taken.contains(&id) {
        return Some(id);
    }
    // A driver may name its ports differently from their device.
    all().into_iter().filter(|p| !taken.contains(p)).find(|p| device_name(*p).as_deref() == Some(name))
}

/// The name of a port's device.
fn device_name(id: u16) -> Option<String> {
    let device = device_info(id).ok()?.device;
    if device.is_null() {
        return None;
    }
    // SAFETY: the device of a port in use; its name is a NUL-terminated text that lives as long.
    let text = unsafe { CStr::from_ptr(dpdk_sys::rte_dev_name(device)) };
    Some(text.to_string_lossy().into_owned())
}

fn device_info(id: u16) -> Result<rte_eth_dev_info, i32> {
    let mut info = MaybeUninit::<rte_eth_dev_info>::zeroed();
    // SAFETY: room for the structure, of which all-zero is a valid value.
    unsafe {
        match dpdk_sys::rte_eth_dev_info_get(id, info.as_mut_ptr()) {
            0 => Ok(info.assume_init()),
            code => Err(code),
        }
    }
}

impl Port {
    pub(crate) fn new(id: u16, device: String, shared: Arc<Shared>) -> Result<Self, Error> {
        let inner = PortInner {
            id,
            device,
            started: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            _shared: shared,
        };
        let port = Self { inner: Arc::new(inner), _not_sync: PhantomData };
        port.info()?;
        port.listen_to_events()?;
        Ok(port)
    }

    /// DPDK's number of the port, as in [`crate::Mbuf::port`].
    #[must_use]
    pub fn id(&self) -> u16 {
        self.inner.id
    }

    /// The device, as given when it was attached.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.inner.device
    }

    pub(crate) fn error(&self, step: &'static str, reason: String) -> Error {
        Error::Port { device: self.inner.device.clone(), step, reason }
    }

    /// Turns a function's result into an error that names the failed step.
    pub(crate) fn check(&self, step: &'static str, code: i32) -> Result<(), Error> {
        if code < 0 { Err(self.error(step, meaning(code))) } else { Ok(()) }
    }

    /// Carries out a step of set-up; DPDK's or the driver's log lines explain a failure.
    pub(crate) fn step(&self, step: &'static str, take: impl FnOnce() -> i32) -> Result<(), Error> {
        let (code, said) = log::listen(take);
        if code < 0 { Err(self.error(step, log::reason(&said, code))) } else { Ok(()) }
    }

    /// The device's properties and capabilities.
    ///
    /// # Errors
    /// The driver doesn't report them.
    pub fn info(&self) -> Result<PortInfo, Error> {
        let info = device_info(self.id()).map_err(|c| self.error("query", meaning(c)))?;
        // SAFETY: the driver's name is null or a NUL-terminated constant; the socket is read from a table.
        let (driver, socket) = unsafe {
            let name = (!info.driver_name.is_null()).then(|| CStr::from_ptr(info.driver_name));
            (name.unwrap_or_default(), dpdk_sys::rte_eth_dev_socket_id(self.id()))
        };
        Ok(PortInfo {
            driver: driver.to_string_lossy().into_owned(),
            socket: u32::try_from(socket).ok(),
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            min_mtu: info.min_mtu,
            max_mtu: max_mtu(info.max_mtu, info.max_rx_pktlen),
            min_rx_buffer: info.min_rx_bufsize as usize,
            table_size: info.reta_size.into(),
            // Drivers that don't report a length use keys of the usual one.
            hash_key_size: match info.hash_key_size {
                0 if info.reta_size > 0 => USUAL_KEY,
                size => size.into(),
            },
            hash_types: info.flow_type_rss_offloads,
            offloads: Offloads::of(info.rx_offload_capa, info.tx_offload_capa),
        })
    }

    /// Sets the port up with queues that receive into `pool`, and starts it. Possible only once.
    ///
    /// # Errors
    /// The device refuses a step, or is already started.
    pub fn start(&mut self, config: &PortConfig, pool: &Mempool) -> Result<Queues, Error> {
        if self.inner.started.load(Ordering::SeqCst) {
            return Err(self.error("start", "it is started already".to_owned()));
        }
        let info = self.info()?;
        let offloads = self.configure(config, &info)?;
        let (rx_descriptors, tx_descriptors) = self.set_up_queues(config, pool)?;
        if let Some(mtu) = config.mtu {
            self.set_mtu(mtu)?;
        }
        // SAFETY: the port is configured, with all its queues.
        self.step("start", || unsafe { dpdk_sys::rte_eth_dev_start(self.id()) })?;
        self.inner.started.store(true, Ordering::SeqCst);
        let passes = PASSING_THROUGH.contains(&info.driver.as_str());
        // The driver joins segments itself but doesn't report this.
        let chains = offloads.multi_segments || info.driver == "net_pcap";
        let rx = (0..config.rx_queues).map(|q| RxQueue::new(Arc::clone(&self.inner), q, passes)).collect();
        let tx = (0..config.tx_queues).map(|q| TxQueue::new(Arc::clone(&self.inner), q, chains)).collect();
        Ok(Queues { rx, tx, offloads, rx_descriptors, tx_descriptors })
    }

    fn configure(&self, config: &PortConfig, info: &PortInfo) -> Result<Offloads, Error> {
        let offloads = config.offloads.and(info.offloads);
        let mut conf = rte_eth_conf::default();
        conf.rxmode.offloads = offloads.rx_bits();
        conf.txmode.offloads = offloads.tx_bits();
        conf.rxmode.mtu = config.mtu.unwrap_or(0).into();
        let types = config.hash_types & info.hash_types;
        if config.rx_queues > 1 && types != 0 {
            conf.rxmode.mq_mode = dpdk_sys::RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = types;
        } else {
            // With a single queue the hash has no use.
            conf.rxmode.offloads &= !dpdk_sys::RTE_ETH_RX_OFFLOAD_RSS_HASH;
        }
        // SAFETY: the configuration outlives the call and holds no pointers but null.
        self.step("configure", || unsafe {
            dpdk_sys::rte_eth_dev_configure(self.id(), config.rx_queues, config.tx_queues, &raw const conf)
        })?;
        let applied = Offloads::of(conf.rxmode.offloads, conf.txmode.offloads);
        Ok(applied)
    }

    /// Sets up all queues; returns their numbers of descriptors.
    fn set_up_queues(&self, config: &PortConfig, pool: &Mempool) -> Result<(u16, u16), Error> {
        let (id, socket) = (self.id(), self.info()?.socket.unwrap_or(u32::MAX));
        let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
        // SAFETY: both numbers are ours.
        let code = unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &raw mut rx, &raw mut tx) };
        self.check("choose descriptors", code)?;
        for queue in 0..config.rx_queues {
            // SAFETY: a null configuration stands for the device's default; the pool lives until EAL ends,
            // which the port prevents.
            self.step("set up a receive queue", || unsafe {
                dpdk_sys::rte_eth_rx_queue_setup(id, queue, rx, socket, std::ptr::null(), pool.raw())
            })?;
        }
        for queue in 0..config.tx_queues {
            // SAFETY: a null configuration stands for the device's default.
            self.step("set up a send queue", || unsafe {
                dpdk_sys::rte_eth_tx_queue_setup(id, queue, tx, socket, std::ptr::null())
            })?;
        }
        Ok((rx, tx))
    }

    /// EAL's device of the port.
    pub(crate) fn rte_device(&self) -> Option<*mut dpdk_sys::rte_device> {
        let device = device_info(self.id()).ok()?.device;
        (!device.is_null()).then_some(device)
    }

    /// Closes the port of a device that may be gone, and ignores the driver's errors.
    ///
    /// # Errors
    /// Queues are still held.
    pub(crate) fn close_whatever_it_says(self) -> Result<(), Error> {
        if Arc::strong_count(&self.inner) == 1 {
            _ = self.close();
            return Ok(());
        }
        self.close()
    }

    /// Stops and closes the port. Otherwise its last handle does so, silently.
    ///
    /// # Errors
    /// Queues are still held, or the device refuses.
    pub fn close(self) -> Result<(), Error> {
        let device = self.inner.device.clone();
        match Arc::try_unwrap(self.inner) {
            Ok(inner) => inner.close(),
            Err(_) => {
                let reason = "its queues are still in use".to_owned();
                Err(Error::Port { device, step: "close", reason })
            }
        }
    }
}

/// The largest MTU that both of a driver's limits allow, for the MTU and for the frame. If a driver has an MTU limit,
/// the difference is what it counts as framing; otherwise header and CRC count, as in ethdev.
fn max_mtu(mtu: u16, frame: u32) -> u16 {
    const FRAMING: u32 = 14 + 4;
    let framing = if mtu != u16::MAX && frame > u32::from(mtu) { frame - u32::from(mtu) } else { FRAMING };
    match frame {
        // The driver reports no limit.
        0 => mtu,
        _ => u16::try_from(frame.saturating_sub(framing)).unwrap_or(u16::MAX).min(mtu),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Stats, testing};

    #[test]
    fn both_limits_of_a_driver_count() {
        assert_eq!(max_mtu(u16::MAX, 1518), 1500);
        assert_eq!(max_mtu(u16::MAX, u32::MAX), u16::MAX);
        assert_eq!(max_mtu(9702, 9728), 9702);
        assert_eq!(max_mtu(1500, 1518), 1500);
        assert_eq!(max_mtu(1500, 0), 1500);
    }

    #[test]
    fn a_port_tells_what_it_is() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let mut port = eal.attach("net_null0").unwrap();
        let info = port.info().unwrap();
        assert_eq!(info.driver, "net_null");
        assert!(info.max_rx_queues > 1 && info.table_size > 0);
        let queues = port.start(&PortConfig::default(), &pool).unwrap();
        assert_eq!((queues.rx.len(), queues.tx.len()), (1, 1));
        assert!(queues.rx_descriptors > 0);
        assert!(port.wait_link(Duration::from_secs(1)).unwrap().up);
        assert_eq!(port.mtu().unwrap(), 1500);
        assert_eq!(port.mac().unwrap().len(), 6);
        assert_eq!(port.stats().unwrap(), Stats::default());
        assert!(port.start(&PortConfig::default(), &pool).is_err());
    }

    #[test]
    fn a_port_is_closed_after_its_queues() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let mut port = eal.attach("net_null0").unwrap();
        let queues = port.start(&PortConfig::default(), &pool).unwrap();
        let id = port.id();
        assert!(port.close().err().unwrap().to_string().contains("queues are still in use"));
        assert!(all().contains(&id));
        drop(queues);
        assert!(!all().contains(&id));
        drop(pool);
        eal.shutdown().unwrap();
    }

    #[test]
    fn a_detached_device_can_be_attached_again() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        for _ in 0..3 {
            let mut port = eal.attach("net_null0").unwrap();
            let queues = port.start(&PortConfig::default(), &pool).unwrap();
            assert!(eal.attach("net_null0").is_err(), "it is in use");
            drop(queues);
            eal.detach(port).unwrap();
            assert!(all().is_empty());
        }
        let mut port = eal.attach("net_null0").unwrap();
        let queues = port.start(&PortConfig::default(), &pool).unwrap();
        assert!(eal.detach(port).err().unwrap().to_string().contains("queues are still in use"));
        drop(queues);
        drop(pool);
        eal.shutdown().unwrap();
    }

    #[test]
    fn what_the_device_can_t_do_is_refused() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let mut port = eal.attach("net_ring0").unwrap();
        let many = PortConfig { rx_queues: 500, ..PortConfig::default() };
        let error = port.start(&many, &pool).err().unwrap().to_string();
        assert!(error.starts_with("device \"net_ring0\": configure: "), "{error}");
        assert!(error.contains("500"), "{error}");
        // A refusal leaves the port unchanged.
        assert!(port.start(&PortConfig::default(), &pool).is_ok());
        assert!(port.set_mtu(60_000).is_err());
    }
}
