//! Pools of frame buffers.
//!
//! A pool keeps free buffers in a ring that all threads share, with a cache for each lcore in front. Threads that
//! aren't lcores use the ring directly. A pool lives until EAL ends, since frames point at it.

use std::{
    ffi::CString,
    ptr::NonNull,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use arrayvec::ArrayVec;
use dpdk_sys::{rte_mbuf, rte_mempool};

use crate::{
    DATA_ROOM, Eal, Error, HEADROOM, Mbuf, Memory,
    eal::Shared,
    error::{last_code, meaning},
    hugepages,
};

/// Explains why there is no memory for this many bytes: another process may have taken huge pages since EAL started.
pub(crate) fn no_memory(eal: &Eal, bytes: u64) -> String {
    // DPDK 24.11 calls it a lack of buffers, which is misleading.
    let meaning = match last_code() {
        libc::ENOBUFS => meaning(libc::ENOMEM),
        code => meaning(code),
    };
    match eal.memory() {
        Memory::Huge { .. } | Memory::AsArguments => format!("{meaning}: {}", hugepages::shortage(bytes)),
        Memory::Ordinary { .. } => meaning,
    }
}

/// The configuration of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MempoolConfig {
    /// The minimum number of buffers. The ring of free ones needs slack, so there may be up to a third more. There are
    /// at least 2048.
    pub buffers: u32,
    /// The bytes that a buffer holds behind its headroom.
    pub data_room: usize,
    /// The number of buffers that an lcore may cache.
    pub cache: u32,
    /// The NUMA node of the memory; `None` for any.
    pub socket: Option<u32>,
}

impl Default for MempoolConfig {
    fn default() -> Self {
        Self { buffers: 16_384, data_room: DATA_ROOM, cache: 256, socket: None }
    }
}

impl MempoolConfig {
    /// The approximate DPDK memory of such a pool, in bytes: buffers with their heads, the ring and the caches.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        const HEADS: u64 = dpdk_sys::SHIM_MBUF_SIZE as u64 + 64 + 64;
        let buffer = HEADS + (HEADROOM + self.data_room).next_multiple_of(64) as u64;
        let buffers = u64::from(with_slack(self.buffers));
        let ring = (buffers + 1).next_power_of_two() * 8;
        let caches =
            u64::from(dpdk_sys::RTE_MAX_LCORE) * 16 * u64::from(dpdk_sys::RTE_MEMPOOL_CACHE_MAX_SIZE);
        buffers * buffer + ring + caches + (1 << 20)
    }
}

/// A pool in EAL's list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolPointer(NonNull<rte_mempool>);

// SAFETY: a pool's functions may be called from any thread.
unsafe impl Send for PoolPointer {}
// SAFETY: the same.
unsafe impl Sync for PoolPointer {}

impl PoolPointer {
    /// The number of buffers that are neither in the pool nor in one of its caches.
    pub(crate) fn in_use(&self) -> u32 {
        // SAFETY: pools live until EAL ends, and the list they are in goes before that.
        unsafe { dpdk_sys::rte_mempool_in_use_count(self.0.as_ptr()) }
    }
}

/// A pool of frame buffers. Clones are the same pool; any thread may use it.
#[derive(Clone)]
pub struct Mempool {
    pool: PoolPointer,
    data_room: usize,
    /// Keeps EAL alive as long as the pool.
    _shared: Arc<Shared>,
}

impl std::fmt::Debug for Mempool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mempool").field("data_room", &self.data_room).field("in_use", &self.in_use()).finish()
    }
}

impl Mempool {
    /// Creates a pool.
    ///
    /// # Errors
    /// There is no memory for it, or DPDK doesn't support the size.
    pub fn new(eal: &Eal, config: &MempoolConfig) -> Result<Self, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let what = || format!("a pool of {} buffers of {} bytes", config.buffers, config.data_room);
        let fail = |reason: String| Error::Memory { what: what(), reason };
        let room = u16::try_from(HEADROOM + config.data_room)
            .map_err(|_| fail("a buffer holds 65535 bytes at most, headroom included".to_owned()))?;
        let name = CString::new(format!("mbufs{}", NUMBER.fetch_add(1, Relaxed))).unwrap_or_default();
        // DPDK limits caches to two thirds of the pool, and to a maximum of its own.
        let buffers = with_slack(config.buffers);
        let cache = config.cache.min(dpdk_sys::RTE_MEMPOOL_CACHE_MAX_SIZE).min(buffers / 3 * 2);
        let socket = config.socket.and_then(|s| i32::try_from(s).ok()).unwrap_or(-1);
        // SAFETY: the name is a NUL-terminated text that DPDK copies; the operations' name is constant.
        let pool = unsafe {
            dpdk_sys::rte_pktmbuf_pool_create_by_ops(
                name.as_ptr(),
                buffers,
                cache,
                0,
                room,
                socket,
                OPERATIONS.as_ptr(),
            )
        };
        let pool = PoolPointer(NonNull::new(pool).ok_or_else(|| fail(no_memory(eal, config.bytes())))?);
        let shared = Arc::clone(eal.shared());
        shared.pools.lock().unwrap_or_else(PoisonError::into_inner).push(pool);
        Ok(Self { pool, data_room: config.data_room, _shared: shared })
    }

    /// The bytes that a buffer holds behind its headroom.
    #[must_use]
    pub fn data_room(&self) -> usize {
        self.data_room
    }

    /// The number of buffers in use: by frames, queues and drivers. Counting is too slow for the packet path.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.pool.in_use()
    }

    /// An empty frame; `None` if the pool is exhausted.
    #[inline]
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool is alive. A buffer from it is valid, reset, and nobody else's.
        unsafe { NonNull::new(dpdk_sys::rte_pktmbuf_alloc(self.raw())).map(|m| Mbuf::from_raw(m)) }
    }

    /// A frame with these bytes, over as many buffers as needed; `None` if the pool is exhausted.
    #[must_use]
    pub fn alloc_from(&self, bytes: &[u8]) -> Option<Mbuf> {
        let mut parts = bytes.chunks(self.data_room.max(1));
        let mut frame = self.alloc()?;
        if let Some(first) = parts.next() {
            frame.append(first.len())?.copy_from_slice(first);
        }
        for part in parts {
            let mut segment = self.alloc()?;
            segment.append(part.len())?.copy_from_slice(part);
            frame.chain(segment).ok()?;
        }
        Some(frame)
    }

    /// Fills the free room of `frames` with empty frames. If the pool doesn't have that many, returns false and changes
    /// nothing.
    pub fn alloc_bulk<const CAP: usize>(&self, frames: &mut ArrayVec<Mbuf, CAP>) -> bool {
        let have = frames.len();
        let room = CAP - have;
        // SAFETY: `Mbuf` is a transparent pointer, and the vector has room for as many from its length on. On
        // success all of them are valid, reset, and nobody else's.
        unsafe {
            let free = frames.as_mut_ptr().add(have).cast::<*mut rte_mbuf>();
            let result = dpdk_sys::rte_pktmbuf_alloc_bulk(self.raw(), free, room as u32);
            if result == 0 {
                frames.set_len(CAP);
            }
            result == 0
        }
    }

    pub(crate) fn raw(&self) -> *mut rte_mempool {
        self.pool.0.as_ptr()
    }
}

/// How the pool's ring is shared: with relaxed tails. With DPDK's default (`ring_mp_mc`) everybody waits for a thread
/// that is preempted during an operation, which happens often on a machine with shared CPUs: six threads on two CPUs
/// needed more than 100 s for what takes half a second with relaxed tails. With a CPU for each thread the two cost the
/// same.
const OPERATIONS: &std::ffi::CStr = c"ring_mt_rts";

/// The smallest number of buffers, from `asked` on, for which such a ring is safe.
///
/// The tails may lag behind by an eighth of the ring and a bulk. Buffers that were taken in the meantime can come back
/// while the ring still counts them as its own. Without room for both, the ring is full and DPDK loses the excess
/// (22.11: 511 buffers of 4095 within a second). A ring has the next power of two as its size.
fn with_slack(asked: u32) -> u32 {
    /// A bulk: what fills or empties a cache at once, plus a burst.
    const BULK: u32 = 2 * dpdk_sys::RTE_MEMPOOL_CACHE_MAX_SIZE;
    let asked = asked.clamp(2 * BULK, 1 << 30);
    let capacity = (asked + 1).next_power_of_two() - 1;
    // With one more than the ring holds, it is the next larger one, half of which is free.
    if capacity - asked >= capacity / 8 + BULK { asked } else { capacity + 1 }
}

/// Frees all `frames`: by one call if they are plain and from one pool, as in most bursts.
#[inline]
pub fn free_bulk<const CAP: usize>(frames: &mut ArrayVec<Mbuf, CAP>) {
    let Some(first) = frames.first() else { return };
    let pool = first.head().pool();
    let plain = frames.iter().all(|f| f.head().is_plain_of(pool));
    let count = frames.len() as u32;
    // SAFETY: `Mbuf` is a transparent pointer, so `raw` points at `count` valid frames, which are owned; emptying
    // the vector first gives them up. Plain buffers are as a pool wants them back: one segment, referred to
    // once, no memory but their own.
    unsafe {
        frames.set_len(0);
        let raw = frames.as_mut_ptr().cast::<*mut rte_mbuf>();
        if plain {
            dpdk_sys::rte_mempool_put_bulk(pool, raw.cast(), count);
        } else {
            dpdk_sys::rte_pktmbuf_free_bulk(raw, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn buffers_come_and_go_in_bulk() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let mut frames = ArrayVec::<Mbuf, 32>::new();
        assert!(pool.alloc_bulk(&mut frames));
        assert_eq!((frames.len(), pool.in_use()), (32, 32));
        free_bulk(&mut frames);
        assert_eq!((frames.len(), pool.in_use()), (0, 0));

        // Chained frames, and frames from two pools.
        let other = testing::pool(&eal);
        frames.push(pool.alloc_from(&[1; 5000]).unwrap());
        frames.push(other.alloc().unwrap());
        assert_eq!((frames[0].segment_count(), pool.in_use(), other.in_use()), (3, 3, 1));
        assert_eq!(frames[0].to_vec(), [1; 5000]);
        free_bulk(&mut frames);
        free_bulk(&mut frames);
        assert_eq!((pool.in_use(), other.in_use()), (0, 0));
        drop((pool, other));
        eal.shutdown().unwrap();
    }

    #[test]
    fn an_exhausted_pool_says_so() {
        let eal = testing::eal(1);
        let pool =
            Mempool::new(&eal, &MempoolConfig { buffers: 100, cache: 0, ..Default::default() }).unwrap();
        let mut frames: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!(frames.len(), with_slack(100) as usize);
        let mut burst = ArrayVec::<Mbuf, 2>::new();
        assert!(!pool.alloc_bulk(&mut burst) && burst.is_empty());
        assert!(pool.alloc_from(b"x").is_none());
        frames.truncate(frames.len() - 1);
        assert!(!pool.alloc_bulk(&mut burst) && burst.is_empty());
        assert!(pool.alloc_from(&[0; DATA_ROOM + 1]).is_none());
        assert!(pool.alloc_from(&[0; DATA_ROOM]).is_some());
        assert_eq!(pool.in_use() as usize, frames.len());
    }

    #[test]
    fn rings_have_slack() {
        for (asked, buffers) in [
            (0, 2048),
            (2048, 2048),
            (2500, 2500),
            (2900, 4096),
            (4095, 4096),
            (4096, 4096),
            (6000, 6000),
            (8191, 8192),
            (16_383, 16_384),
            (17_384, 17_384),
            (65_536, 65_536),
        ] {
            assert_eq!(with_slack(asked), buffers, "{asked}");
        }
        assert_eq!(with_slack(u32::MAX), 1 << 30);
    }

    #[test]
    fn any_thread_may_allocate_and_free() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let frames: Vec<Mbuf> = (0..100).filter_map(|_| pool.alloc()).collect();
        std::thread::scope(|s| {
            s.spawn(|| {
                drop(frames);
                assert_eq!(pool.alloc_from(b"made elsewhere").unwrap().to_vec(), b"made elsewhere");
            });
        });
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn preempted_threads_block_no_others() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let start = std::time::Instant::now();
        for _ in 0..5 {
            std::thread::scope(|s| {
                for _ in 0..6 {
                    s.spawn(|| (0..20_000).for_each(|_| drop(pool.alloc().unwrap())));
                }
            });
            // Nothing is lost, either.
            assert_eq!(pool.in_use(), 0);
        }
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }

    #[test]
    fn what_can_t_be_is_an_error() {
        let eal = testing::eal(1);
        let tall = MempoolConfig { data_room: 65_500, ..Default::default() };
        let wide = MempoolConfig { buffers: 10_000_000, ..Default::default() };
        assert!(Mempool::new(&eal, &tall).is_err());
        let error = Mempool::new(&eal, &wide).err().unwrap().to_string();
        assert_eq!(error, "a pool of 10000000 buffers of 2048 bytes: Cannot allocate memory");
    }

    #[test]
    fn needed_memory_is_reported() {
        let config = MempoolConfig { buffers: 16_384, ..Default::default() };
        assert!((40 << 20..60 << 20).contains(&config.bytes()), "{}", config.bytes());
    }
}
