//! Frames from thread to thread: DPDK's bounded, lock-free rings.
//!
//! They carry frames that a worker hands to another one, or that leave by another worker's queue. A ring moves whole
//! bursts with one synchronisation each.

use std::{
    cell::Cell,
    ffi::CString,
    marker::PhantomData,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use arrayvec::ArrayVec;
use dpdk_sys::rte_ring;

use crate::{Eal, Error, Mbuf, eal::Shared, mempool::no_memory};

/// The most frames of a ring: far more than any backlog, far below what overflows in DPDK.
const GREATEST: u32 = 1 << 20;

/// The ring that its ends share. The last end frees it and the frames in it.
struct Ring {
    raw: NonNull<rte_ring>,
    _shared: Arc<Shared>,
}

// SAFETY: the ring's flags determine which functions several threads may call, and the types of its ends comply. Frames
// may go to any thread.
unsafe impl Send for Ring {}
// SAFETY: the same.
unsafe impl Sync for Ring {}

impl Ring {
    fn new(eal: &Eal, capacity: u32, flags: u32) -> Result<Arc<Self>, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let fail = |reason| Error::Memory { what: format!("a ring for {capacity} frames"), reason };
        if capacity == 0 || capacity > GREATEST {
            return Err(fail(format!("1 to {GREATEST} are possible")));
        }
        let name = CString::new(format!("frames{}", NUMBER.fetch_add(1, Relaxed))).unwrap_or_default();
        // SAFETY: the name is a NUL-terminated text that DPDK copies; -1 stands for any NUMA node.
        let raw = unsafe {
            dpdk_sys::rte_ring_create(name.as_ptr(), capacity, -1, flags | dpdk_sys::RING_F_EXACT_SZ)
        };
        let bytes = u64::from(capacity.saturating_add(1)).next_power_of_two() * 8;
        let raw = NonNull::new(raw).ok_or_else(|| fail(no_memory(eal, bytes)))?;
        Ok(Arc::new(Self { raw, _shared: Arc::clone(eal.shared()) }))
    }

    #[inline(always)]
    fn send<const CAP: usize>(&self, burst: &mut ArrayVec<Mbuf, CAP>) -> usize {
        let count = burst.len();
        // SAFETY: the vector holds `count` pointers, which is what an `Mbuf` is, to owned frames; those the ring
        // took belong to the receiver from then on, and the others move to the front. Until the length says
        // so nothing here can panic.
        unsafe {
            let frames = burst.as_mut_ptr().cast::<*mut std::ffi::c_void>();
            let sent =
                dpdk_sys::rte_ring_enqueue_burst(self.raw.as_ptr(), frames, count as u32, ptr::null_mut())
                    as usize;
            if sent < count {
                ptr::copy(frames.add(sent), frames, count - sent);
            }
            burst.set_len(count - sent);
            sent
        }
    }

    #[inline(always)]
    fn receive<const CAP: usize>(&self, burst: &mut ArrayVec<Mbuf, CAP>) -> usize {
        let had = burst.len();
        // SAFETY: the vector has room for as many pointers, which is what an `Mbuf` is; what the ring gives
        // are frames that a sender gave up.
        unsafe {
            let free = burst.as_mut_ptr().add(had).cast::<*mut std::ffi::c_void>();
            let room = (CAP - had) as u32;
            let got =
                dpdk_sys::rte_ring_dequeue_burst(self.raw.as_ptr(), free, room, ptr::null_mut()) as usize;
            burst.set_len(had + got);
            got
        }
    }

    fn len(&self) -> usize {
        // SAFETY: reads the ring's indices.
        unsafe { dpdk_sys::rte_ring_count(self.raw.as_ptr()) as usize }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut left = ArrayVec::<Mbuf, 32>::new();
        while self.receive(&mut left) > 0 {
            left.clear();
        }
        // SAFETY: both ends are gone.
        unsafe { dpdk_sys::rte_ring_free(self.raw.as_ptr()) }
    }
}

/// The only sending end of a ring between two threads.
pub struct Sender {
    ring: Arc<Ring>,
    _not_sync: PhantomData<Cell<()>>,
}

/// A sending end of a ring with several; cloning creates another one.
#[derive(Clone)]
pub struct SharedSender {
    ring: Arc<Ring>,
}

/// The receiving end.
pub struct Receiver {
    ring: Arc<Ring>,
    _not_sync: PhantomData<Cell<()>>,
}

/// A ring of up to `capacity` frames from one thread to another.
///
/// # Errors
/// There is no memory for it, or DPDK doesn't support the size.
pub fn spsc(eal: &Eal, capacity: u32) -> Result<(Sender, Receiver), Error> {
    let ring = Ring::new(eal, capacity, dpdk_sys::RING_F_SP_ENQ | dpdk_sys::RING_F_SC_DEQ)?;
    let receiver = Receiver { ring: Arc::clone(&ring), _not_sync: PhantomData };
    Ok((Sender { ring, _not_sync: PhantomData }, receiver))
}

/// A ring of up to `capacity` frames from several threads to one. A sender that is preempted while sending doesn't hold
/// up the others.
///
/// # Errors
/// There is no memory for it, or DPDK doesn't support the size.
pub fn mpsc(eal: &Eal, capacity: u32) -> Result<(SharedSender, Receiver), Error> {
    let ring = Ring::new(eal, capacity, dpdk_sys::RING_F_MP_RTS_ENQ | dpdk_sys::RING_F_SC_DEQ)?;
    let receiver = Receiver { ring: Arc::clone(&ring), _not_sync: PhantomData };
    Ok((SharedSender { ring }, receiver))
}

impl Sender {
    /// Sends frames from the front of `burst`, removes those that found room and returns their number.
    #[inline]
    pub fn send<const CAP: usize>(&mut self, burst: &mut ArrayVec<Mbuf, CAP>) -> usize {
        self.ring.send(burst)
    }
}

impl SharedSender {
    /// Sends frames from the front of `burst`, removes those that found room and returns their number.
    #[inline]
    pub fn send<const CAP: usize>(&self, burst: &mut ArrayVec<Mbuf, CAP>) -> usize {
        self.ring.send(burst)
    }
}

impl Receiver {
    /// Receives frames into the free room of `burst` and returns their number.
    #[inline]
    pub fn receive<const CAP: usize>(&mut self, burst: &mut ArrayVec<Mbuf, CAP>) -> usize {
        self.ring.receive(burst)
    }

    /// The number of frames waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether no frame is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn frames_keep_their_order_and_wait_for_room() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let (mut sender, mut receiver) = spsc(&eal, 5).unwrap();
        let mut burst: ArrayVec<Mbuf, 8> = (0..8).map(|i| pool.alloc_from(&[i]).unwrap()).collect();
        assert_eq!(sender.send(&mut burst), 5);
        assert_eq!(burst.iter().map(|f| f.data()[0]).collect::<Vec<_>>(), [5, 6, 7]);
        assert_eq!(receiver.len(), 5);
        let mut got = ArrayVec::<Mbuf, 4>::new();
        assert_eq!(receiver.receive(&mut got), 4);
        assert_eq!(got.iter().map(|f| f.data()[0]).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(sender.send(&mut burst), 3);
        got.clear();
        assert_eq!(receiver.receive(&mut got), 4);
        assert_eq!(got.iter().map(|f| f.data()[0]).collect::<Vec<_>>(), [4, 5, 6, 7]);
        assert!(receiver.is_empty());
        drop((got, burst, sender, receiver, pool));
        eal.shutdown().unwrap();
    }

    #[test]
    fn frames_left_in_a_ring_go_back() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let (sender, receiver) = mpsc(&eal, 64).unwrap();
        let mut burst: ArrayVec<Mbuf, 32> = (0..32).filter_map(|_| pool.alloc()).collect();
        sender.send(&mut burst);
        drop(receiver);
        assert_eq!(pool.in_use(), 32);
        drop(sender);
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn several_threads_send_to_one() {
        const EACH: usize = 20_000;
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let (sender, mut receiver) = mpsc(&eal, 128).unwrap();
        std::thread::scope(|s| {
            for id in 0..2u8 {
                let (sender, pool) = (sender.clone(), pool.clone());
                s.spawn(move || {
                    for i in 0..EACH {
                        let mut frame = ArrayVec::<Mbuf, 1>::new();
                        let mut bytes = [id; 5];
                        bytes[1..].copy_from_slice(&(i as u32).to_be_bytes());
                        frame.push(pool.alloc_from(&bytes).unwrap());
                        while sender.send(&mut frame) == 0 {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            let mut next = [0u32; 2];
            while next != [EACH as u32; 2] {
                let mut got = ArrayVec::<Mbuf, 32>::new();
                if receiver.receive(&mut got) == 0 {
                    std::thread::yield_now();
                }
                for frame in &got {
                    let (id, number) = frame.data().split_at(1);
                    assert_eq!(number, next[usize::from(id[0])].to_be_bytes());
                    next[usize::from(id[0])] += 1;
                }
            }
        });
        assert_eq!(pool.in_use(), 0);
    }

    #[test]
    fn too_much_is_an_error() {
        let eal = testing::eal(1);
        assert!(spsc(&eal, 1 << 31).is_err() && mpsc(&eal, 0).is_err());
    }
}
