//! What the crate capsule 0.1.5 expects of its `capsule-ffi`, for DPDK 22.11 and later.
//!
//! Only the benchmarks use capsule, as the baseline that Weir is compared with (`weir-bench compare --with-capsule`);
//! nothing that ships does. DPDK no longer has a kernel NIC interface (KNI): the functions that capsule calls report
//! that it isn't supported.
#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

pub use self::capsule_eal_init as rte_eal_init;

pub const ETH_RSS_IP: u64 = 1 << 2 | 1 << 3 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 13 | 1 << 15;
pub const ETH_RSS_TCP: u64 = 1 << 4 | 1 << 10 | 1 << 16;
pub const ETH_RSS_UDP: u64 = 1 << 5 | 1 << 11 | 1 << 17;
pub const ETH_RSS_SCTP: u64 = 1 << 6 | 1 << 12;
pub const DEV_TX_OFFLOAD_MBUF_FAST_FREE: u64 = 1 << 16;
/// 2 KB and the usual headroom.
pub const RTE_MBUF_DEFAULT_BUF_SIZE: u32 = 2048 + 128;

/// DPDK's buffer with the fields that capsule uses, at the offsets of the installed DPDK. bindgen's structure doesn't
/// fit: since DPDK 24.11 several of the fields are inside anonymous unions instead of the buffer itself.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct rte_mbuf {
    pub buf_addr: *mut std::os::raw::c_void,
    _to_data_off: [u8; MBUF_DATA_OFF as usize - size_of::<usize>()],
    pub data_off: u16,
    _to_pkt_len: [u8; (MBUF_PKT_LEN - MBUF_DATA_OFF) as usize - size_of::<u16>()],
    pub pkt_len: u32,
    pub data_len: u16,
    _to_buf_len: [u8; (MBUF_BUF_LEN - MBUF_DATA_LEN) as usize - size_of::<u16>()],
    pub buf_len: u16,
    pub pool: *mut rte_mempool,
    _to_end: [u8; (MBUF_SIZE - MBUF_POOL) as usize - size_of::<usize>()],
}

const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(rte_mbuf, buf_addr) == MBUF_BUF_ADDR as usize);
    assert!(offset_of!(rte_mbuf, data_off) == MBUF_DATA_OFF as usize);
    assert!(offset_of!(rte_mbuf, pkt_len) == MBUF_PKT_LEN as usize);
    assert!(offset_of!(rte_mbuf, data_len) == MBUF_DATA_LEN as usize);
    assert!(offset_of!(rte_mbuf, buf_len) == MBUF_BUF_LEN as usize);
    assert!(offset_of!(rte_mbuf, pool) == MBUF_POOL as usize);
    assert!(size_of::<rte_mbuf>() == MBUF_SIZE as usize);
};

/// A KNI device; there are none.
#[repr(C)]
#[derive(Debug, Default)]
pub struct rte_kni {
    _none: [u8; 0],
}

/// The configuration of a KNI device.
#[repr(C)]
#[derive(Debug)]
pub struct rte_kni_conf {
    pub name: [std::os::raw::c_char; 32],
    pub core_id: u32,
    pub group_id: u16,
    pub mbuf_size: u32,
    pub force_bind: u8,
    pub mac_addr: [u8; 6],
    pub mtu: u16,
}

impl Default for rte_kni_conf {
    fn default() -> Self {
        Self { name: [0; 32], core_id: 0, group_id: 0, mbuf_size: 0, force_bind: 0, mac_addr: [0; 6], mtu: 0 }
    }
}

/// The operations that the kernel may request of a KNI device.
#[repr(C)]
#[derive(Debug, Default)]
pub struct rte_kni_ops {
    pub port_id: u16,
    pub change_mtu: Option<unsafe extern "C" fn(u16, u32) -> i32>,
    pub config_network_if: Option<unsafe extern "C" fn(u16, u8) -> i32>,
    pub config_mac_address: Option<unsafe extern "C" fn(u16, *mut u8) -> i32>,
    pub config_promiscusity: Option<unsafe extern "C" fn(u16, u8) -> i32>,
    pub config_allmulticast: Option<unsafe extern "C" fn(u16, u8) -> i32>,
}

/// Not supported: always an error.
///
/// # Safety
/// None is needed.
pub unsafe fn rte_kni_init(_most: u32) -> i32 {
    -1
}

/// Not supported: always null.
///
/// # Safety
/// None is needed.
pub unsafe fn rte_kni_alloc(
    _pool: *mut rte_mempool,
    _conf: *const rte_kni_conf,
    _ops: *mut rte_kni_ops,
) -> *mut rte_kni {
    std::ptr::null_mut()
}

/// Not supported: always an error.
///
/// # Safety
/// None is needed.
pub unsafe fn rte_kni_release(_kni: *mut rte_kni) -> i32 {
    -1
}

/// Not supported: always an error.
///
/// # Safety
/// None is needed.
pub unsafe fn rte_kni_handle_request(_kni: *mut rte_kni) -> i32 {
    -1
}

/// Not supported: no name.
///
/// # Safety
/// None is needed.
pub unsafe fn rte_kni_get_name(_kni: *const rte_kni) -> *const std::os::raw::c_char {
    c"".as_ptr()
}

/// Not supported: receives nothing.
///
/// # Safety
/// None is needed.
pub unsafe fn rte_kni_rx_burst(_kni: *mut rte_kni, _mbufs: *mut *mut rte_mbuf, _count: u32) -> u32 {
    0
}

/// Not supported: sends nothing.
///
/// # Safety
/// None is needed.
pub unsafe fn rte_kni_tx_burst(_kni: *mut rte_kni, _mbufs: *mut *mut rte_mbuf, _count: u32) -> u32 {
    0
}

/// Nothing to close.
///
/// # Safety
/// None is needed.
pub unsafe fn rte_kni_close() {}
