//! DPDK's `rte_mbuf` as the packet path sees it.

use std::{
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

/// The first cache line of an `rte_mbuf`. The packet path needs nothing else, except for the link to the next segment
/// and the offload lengths. Bindgen's structure isn't used, because its field names change between DPDK releases; the
/// layout is checked below.
#[repr(C, align(64))]
pub(crate) struct Head {
    pub buf_addr: *mut u8,
    _iova_or_next: u64,
    pub data_off: u16,
    pub refcnt: AtomicU16,
    pub nb_segs: u16,
    pub port: u16,
    pub ol_flags: u64,
    pub packet_type: u32,
    pub pkt_len: u32,
    pub data_len: u16,
    pub vlan_tci: u16,
    pub rss: u32,
    _hash_high: u32,
    _vlan_tci_outer: u16,
    pub buf_len: u16,
    pool: *mut dpdk_sys::rte_mempool,
}

const _: () = {
    use std::mem::offset_of;

    use dpdk_sys::*;
    assert!(offset_of!(Head, buf_addr) == SHIM_MBUF_BUF_ADDR as usize);
    assert!(offset_of!(Head, data_off) == SHIM_MBUF_DATA_OFF as usize);
    assert!(offset_of!(Head, refcnt) == SHIM_MBUF_REFCNT as usize);
    assert!(offset_of!(Head, nb_segs) == SHIM_MBUF_NB_SEGS as usize);
    assert!(offset_of!(Head, port) == SHIM_MBUF_PORT as usize);
    assert!(offset_of!(Head, ol_flags) == SHIM_MBUF_OL_FLAGS as usize);
    assert!(offset_of!(Head, packet_type) == SHIM_MBUF_PACKET_TYPE as usize);
    assert!(offset_of!(Head, pkt_len) == SHIM_MBUF_PKT_LEN as usize);
    assert!(offset_of!(Head, data_len) == SHIM_MBUF_DATA_LEN as usize);
    assert!(offset_of!(Head, vlan_tci) == SHIM_MBUF_VLAN_TCI as usize);
    assert!(offset_of!(Head, rss) == SHIM_MBUF_HASH_RSS as usize);
    assert!(offset_of!(Head, buf_len) == SHIM_MBUF_BUF_LEN as usize);
    assert!(offset_of!(Head, pool) == SHIM_MBUF_POOL as usize);
    assert!(size_of::<Head>() <= SHIM_MBUF_SIZE as usize);
    assert!(SHIM_MBUF_NEXT as usize + size_of::<usize>() <= SHIM_MBUF_SIZE as usize);
    assert!(SHIM_MBUF_TX_OFFLOAD as usize + size_of::<u64>() <= SHIM_MBUF_SIZE as usize);
};

impl Head {
    /// Whether the buffer has a single reference, and its own memory instead of a view of another buffer's.
    #[inline(always)]
    pub(crate) fn is_exclusive(&self) -> bool {
        self.refcnt.load(Relaxed) == 1 && self.ol_flags & dpdk_sys::RTE_MBUF_F_INDIRECT == 0
    }

    /// Whether the buffer can go straight back to `pool`: one segment, not shared, with its own memory.
    #[inline(always)]
    pub(crate) fn is_plain_of(&self, pool: *mut dpdk_sys::rte_mempool) -> bool {
        const ATTACHED: u64 = dpdk_sys::RTE_MBUF_F_INDIRECT | dpdk_sys::RTE_MBUF_F_EXTERNAL;
        self.pool == pool
            && self.refcnt.load(Relaxed) == 1
            && self.nb_segs == 1
            && self.ol_flags & ATTACHED == 0
    }

    /// Adds a reference to the buffer.
    #[cfg(test)]
    pub(crate) fn refer(&self) {
        self.refcnt.fetch_add(1, Relaxed);
    }

    #[inline(always)]
    pub(crate) fn pool(&self) -> *mut dpdk_sys::rte_mempool {
        self.pool
    }

    #[inline(always)]
    pub(crate) fn is_chained(&self) -> bool {
        self.nb_segs > 1
    }
}

/// The bytes of one segment.
#[inline(always)]
pub(crate) fn bytes_of(segment: &Head) -> &[u8] {
    // SAFETY: `data_off` and `data_len` stay inside the buffer (drivers and this module keep them there), whose
    // memory is always initialised; the frame owns the segment, and its borrow keeps writers away.
    unsafe { slice::from_raw_parts(segment.buf_addr.add(segment.data_off.into()), segment.data_len.into()) }
}

/// A field outside of [`Head`].
#[inline(always)]
pub(crate) fn field<T>(head: NonNull<Head>, offset: u32) -> *mut T {
    head.as_ptr().wrapping_byte_add(offset as usize).cast()
}

/// The segment after `head`, if there is one.
#[inline(always)]
pub(crate) fn next_of(head: NonNull<Head>) -> Option<NonNull<Head>> {
    // SAFETY: the field lies inside every mbuf, and is null in the last segment.
    NonNull::new(unsafe { *field::<*mut Head>(head, dpdk_sys::SHIM_MBUF_NEXT) })
}
