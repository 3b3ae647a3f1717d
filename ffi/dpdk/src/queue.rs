//! A port's queues: the packet path's access to the device.
//!
//! DPDK's burst functions are static inline, so using them takes two calls: one of a C wrapper, which calls the driver.
//! Calling the driver from here through `rte_eth_fp_ops`, as the inline functions do, halves the time of an empty poll
//! (2.0 instead of 4.0 ns). Callbacks are called if any are set (`dpdk-pdump` sets some).

use std::{
    ffi::c_void,
    marker::PhantomData,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicPtr, Ordering::Relaxed},
    },
};

use arrayvec::ArrayVec;
use dpdk_sys::{rte_eth_fp_ops, rte_mbuf};

use crate::{Mbuf, port::PortInner};

/// The device's functions and queues.
#[inline(always)]
fn operations(port: &PortInner) -> NonNull<rte_eth_fp_ops> {
    // SAFETY: the table has an entry for every port number there can be; only its address is taken.
    unsafe {
        NonNull::new_unchecked(
            (&raw mut dpdk_sys::rte_eth_fp_ops).cast::<rte_eth_fp_ops>().add(port.id().into()),
        )
    }
}

/// The callback registered for a queue, if any; C code sets it from any thread.
///
/// # Safety
/// `table` must have an entry for `queue`.
#[inline(always)]
unsafe fn callback(table: *mut *mut c_void, queue: u16) -> *mut c_void {
    // SAFETY: the caller's word; the entry is a pointer, which C reads and writes atomically, too.
    unsafe { AtomicPtr::from_ptr(table.add(queue.into())).load(Relaxed) }
}

/// A receive queue of a started port. There is one handle of each queue, and it keeps the port running.
pub struct RxQueue {
    operations: NonNull<rte_eth_fp_ops>,
    port: Arc<PortInner>,
    queue: u16,
    /// Whether received frames may be buffers that somebody sent, instead of fresh ones.
    passes_through: bool,
    lost: u64,
    /// Only one thread at a time may use it.
    _not_sync: PhantomData<std::cell::Cell<()>>,
}

// SAFETY: the handle is the queue's only one, and a queue may be used from any thread that is the only one.
unsafe impl Send for RxQueue {}

impl RxQueue {
    pub(crate) fn new(port: Arc<PortInner>, queue: u16, passes_through: bool) -> Self {
        Self { operations: operations(&port), port, queue, passes_through, lost: 0, _not_sync: PhantomData }
    }

    /// Number of the queue on its port.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.queue
    }

    /// Frames lost because they shared their buffer with others and no buffer was free for a copy.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Receives frames into the free room of `burst` and returns their number. Some drivers need room for 4 or 8 frames
    /// to receive anything, so `burst` should be empty.
    #[inline(always)]
    pub fn rx<const CAP: usize>(&mut self, burst: &mut ArrayVec<Mbuf, CAP>) -> usize {
        const { assert!(CAP > 0 && CAP <= u16::MAX as usize) };
        let had = burst.len();
        let room = (CAP - had) as u16;
        if room == 0 {
            return 0;
        }
        // SAFETY: the port is started and stays so while this handle holds it, so its entry of the table is
        // filled in and has this queue; `&mut self` on the only handle makes this the queue's only user. The
        // vector has `room` free places for pointers, which is what an `Mbuf` is; the driver fills in as many
        // as it returns, with frames that are the caller's.
        unsafe {
            let ops = self.operations.as_ref();
            let free = burst.as_mut_ptr().add(had).cast::<*mut rte_mbuf>();
            let queue = *ops.rxq.data.add(self.queue.into());
            let mut got = ops.rx_pkt_burst.unwrap_unchecked()(queue, free, room);
            let hook = callback(ops.rxq.clbk, self.queue);
            if !hook.is_null() {
                got = dpdk_sys::rte_eth_call_rx_callbacks(self.port.id(), self.queue, free, got, room, hook);
            }
            burst.set_len(had + usize::from(got));
        }
        if self.passes_through {
            self.unshare(burst, had);
        }
        debug_assert!(burst.iter().all(|f| f.head().is_exclusive()));
        burst.len() - had
    }

    /// Replaces frames whose buffer is shared by copies, so that they may be changed. A bond that broadcasts to ring
    /// devices delivers such frames.
    #[cold]
    fn unshare<const CAP: usize>(&mut self, burst: &mut ArrayVec<Mbuf, CAP>, from: usize) {
        let mut at = from;
        while at < burst.len() {
            if burst[at].head().is_exclusive() {
                at += 1;
                continue;
            }
            let frame = &burst[at];
            // SAFETY: a valid frame, and its pool is alive; the copy's buffers are fresh.
            let copy = unsafe { dpdk_sys::rte_pktmbuf_copy(frame.raw(), frame.head().pool(), 0, u32::MAX) };
            match NonNull::new(copy) {
                Some(copy) => {
                    // SAFETY: a fresh frame that nobody else has.
                    burst[at] = unsafe { Mbuf::from_raw(copy) };
                    at += 1;
                }
                None => {
                    drop(burst.remove(at));
                    self.lost += 1;
                }
            }
        }
    }
}

/// A send queue of a started port. There is one handle of each queue, and it keeps the port running.
pub struct TxQueue {
    operations: NonNull<rte_eth_fp_ops>,
    port: Arc<PortInner>,
    queue: u16,
    multi_segments: bool,
    lost: u64,
    /// Only one thread at a time may use it.
    _not_sync: PhantomData<std::cell::Cell<()>>,
}

// SAFETY: the handle is the queue's only one, and a queue may be used from any thread that is the only one.
unsafe impl Send for TxQueue {}

impl TxQueue {
    pub(crate) fn new(port: Arc<PortInner>, queue: u16, multi_segments: bool) -> Self {
        Self { operations: operations(&port), port, queue, multi_segments, lost: 0, _not_sync: PhantomData }
    }

    /// Number of the queue on its port.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.queue
    }

    /// Frames lost because they were longer than a buffer and the device supports only one segment per frame.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Sends frames from the front of `burst`, removes the accepted ones from it and returns their number; frames that
    /// the device has no room for stay.
    #[inline(always)]
    pub fn tx<const CAP: usize>(&mut self, burst: &mut ArrayVec<Mbuf, CAP>) -> usize {
        const { assert!(CAP > 0 && CAP <= u16::MAX as usize) };
        if !self.multi_segments {
            self.linearize(burst);
        }
        let count = burst.len();
        if count == 0 {
            return 0;
        }
        // SAFETY: the port is started and stays so while this handle holds it, so its entry of the table is
        // filled in and has this queue; `&mut self` on the only handle makes this the queue's only user. The
        // vector holds `count` pointers to owned frames; those the driver accepted are its own from then on, and
        // the others move to the front. Until the length says so nothing here can panic.
        unsafe {
            let ops = self.operations.as_ref();
            let frames = burst.as_mut_ptr().cast::<*mut rte_mbuf>();
            let mut offered = count as u16;
            let hook = callback(ops.txq.clbk, self.queue);
            if !hook.is_null() {
                offered =
                    dpdk_sys::rte_eth_call_tx_callbacks(self.port.id(), self.queue, frames, offered, hook);
            }
            let queue = *ops.txq.data.add(self.queue.into());
            let sent = usize::from(ops.tx_pkt_burst.unwrap_unchecked()(queue, frames, offered)).min(count);
            if sent < count {
                std::ptr::copy(frames.add(sent), frames, count - sent);
            }
            burst.set_len(count - sent);
            sent
        }
    }

    /// Has the driver check and complete checksum requests (pseudo-header sums); returns how many frames from the front
    /// of `burst` may be sent. Only needed for frames with checksum requests.
    pub fn prepare<const CAP: usize>(&mut self, burst: &mut ArrayVec<Mbuf, CAP>) -> usize {
        let count = burst.len().min(u16::MAX.into()) as u16;
        let frames = burst.as_mut_ptr().cast::<*mut rte_mbuf>();
        // SAFETY: the port is started and stays so while this handle holds it, and `&mut self` makes this the
        // queue's only user. The vector holds `count` pointers to owned frames, whose bytes may be changed.
        usize::from(unsafe { dpdk_sys::rte_eth_tx_prepare(self.port.id(), self.queue, frames, count) })
    }

    /// Joins the segments of chained frames for a device that doesn't support them; frames that don't fit one segment
    /// are dropped.
    fn linearize<const CAP: usize>(&mut self, burst: &mut ArrayVec<Mbuf, CAP>) {
        let mut lost = 0;
        burst.retain(|f| {
            let fits = !f.head().is_chained() || f.linearize();
            lost += u64::from(!fits);
            fits
        });
        self.lost += lost;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::{PortConfig, testing};

    /// Frames of many lengths, all different, some of them longer than a buffer.
    fn frames() -> Vec<Vec<u8>> {
        let lengths = [60, 61, 64, 128, 500, 1500, 1514, 2048, 2049, 5000, 9000];
        lengths.iter().map(|n| (0..*n).map(|i| (i * 7 + n) as u8).collect()).collect()
    }

    #[test]
    fn what_is_received_is_sent_byte_by_byte() {
        let files = testing::Directory::new();
        let (input, output) = (files.file("in.pcap"), files.file("out.pcap"));
        testing::write_pcap(&input, &frames());
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let mut port = eal.attach(&format!("net_pcap0,rx_pcap={input},tx_pcap={output}")).unwrap();
        let mut queues = port.start(&PortConfig::default(), &pool).unwrap();
        let (rx, tx) = (&mut queues.rx[0], &mut queues.tx[0]);

        let mut burst = ArrayVec::<Mbuf, 32>::new();
        while burst.len() < frames().len() {
            rx.rx(&mut burst);
        }
        for (frame, expected) in burst.iter_mut().zip(frames()) {
            assert_eq!((frame.len(), frame.to_vec()), (expected.len(), expected));
            assert_eq!(frame.port(), port.id());
        }
        assert!(burst.iter().any(|f| f.segment_count() > 1));
        // Whether the pcap driver takes one segment per frame or several, the bytes are the same.
        while tx.tx(&mut burst) > 0 {}
        assert!(burst.is_empty());
        assert_eq!(tx.lost(), 0);

        let stats = port.stats().unwrap();
        assert_eq!((stats.rx_packets, stats.tx_packets), (11, 11));
        let xstats = port.xstats().unwrap();
        assert!(xstats.contains(&("rx_good_packets".to_owned(), 11)), "{xstats:?}");
        drop((queues, burst));
        port.close().unwrap();
        drop(pool);
        eal.shutdown().unwrap();
        assert_eq!(testing::read_pcap(&output), frames());
    }

    #[test]
    fn what_finds_no_room_stays_in_order() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let mut port = eal.attach("net_ring0").unwrap();
        let mut queues = port.start(&PortConfig::default(), &pool).unwrap();
        let mut sent = 0u32;
        let mut burst = ArrayVec::<Mbuf, 32>::new();
        loop {
            while !burst.is_full() {
                burst.push(pool.alloc_from(&(sent + burst.len() as u32).to_be_bytes()).unwrap());
            }
            let taken = queues.tx[0].tx(&mut burst);
            sent += taken as u32;
            if taken < 32 {
                break;
            }
        }
        assert_eq!(burst[0].data(), sent.to_be_bytes());
        burst.clear();
        // Frames sent to a ring device come back from it.
        for expected in 0..sent {
            if burst.is_empty() {
                assert!(queues.rx[0].rx(&mut burst) > 0);
            }
            assert_eq!(burst.remove(0).data(), expected.to_be_bytes());
        }
        assert_eq!(queues.rx[0].rx(&mut burst), 0);
        assert_eq!(pool.in_use(), 0);
        drop((queues, port, pool));
        eal.shutdown().unwrap();
    }

    #[test]
    fn a_full_burst_receives_nothing() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let mut port = eal.attach("net_null0").unwrap();
        let mut queues = port.start(&PortConfig::default(), &pool).unwrap();
        let mut burst = ArrayVec::<Mbuf, 16>::new();
        assert_eq!(queues.rx[0].rx(&mut burst), 16);
        assert_eq!(queues.rx[0].rx(&mut burst), 0);
        assert_eq!(burst[0].len(), 64);
        drop((burst, queues, port, pool));
        eal.shutdown().unwrap();
    }

    #[test]
    fn shared_frames_are_received_as_copies() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let mut port = eal.attach("net_ring0").unwrap();
        let mut queues = port.start(&PortConfig::default(), &pool).unwrap();
        let mut burst = ArrayVec::<Mbuf, 4>::new();
        burst.push(pool.alloc_from(b"shared").unwrap());
        let raw = burst[0].raw();
        burst[0].head().refer();
        queues.tx[0].tx(&mut burst);
        queues.rx[0].rx(&mut burst);
        assert_ne!(burst[0].raw(), raw);
        assert_eq!((burst[0].data(), queues.rx[0].lost()), (&b"shared"[..], 0));
        // The other reference.
        drop(unsafe_frame(raw));
        drop((burst, queues, port, pool));
        eal.shutdown().unwrap();
    }

    fn unsafe_frame(raw: *mut rte_mbuf) -> Mbuf {
        // SAFETY: the test counted one more reference, and gives it back here.
        unsafe { Mbuf::from_raw(NonNull::new(raw).unwrap()) }
    }

    /// A callback like those of `dpdk-pdump`: counts frames, and drops every second one.
    unsafe extern "C" fn halve(
        _port: u16,
        _queue: u16,
        frames: *mut *mut rte_mbuf,
        count: u16,
        _room: u16,
        calls: *mut c_void,
    ) -> u16 {
        let kept = count / 2;
        // SAFETY: DPDK passes `count` frames that are the callback's to drop, and the test's counter.
        unsafe {
            (*calls.cast::<AtomicU32>()).fetch_add(1, Relaxed);
            dpdk_sys::rte_pktmbuf_free_bulk(frames.add(kept.into()), (count - kept).into());
        }
        kept
    }

    unsafe extern "C" fn watch(
        _port: u16,
        _queue: u16,
        _frames: *mut *mut rte_mbuf,
        count: u16,
        calls: *mut c_void,
    ) -> u16 {
        // SAFETY: DPDK passes the test's counter.
        unsafe { (*calls.cast::<AtomicU32>()).fetch_add(count.into(), Relaxed) };
        count
    }

    #[test]
    fn registered_callbacks_are_called() {
        static RECEIVED: AtomicU32 = AtomicU32::new(0);
        static SENT: AtomicU32 = AtomicU32::new(0);
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let mut port = eal.attach("net_null0").unwrap();
        let mut queues = port.start(&PortConfig::default(), &pool).unwrap();
        let counter = |c: &'static AtomicU32| std::ptr::from_ref(c).cast_mut().cast();
        // SAFETY: functions of the right types, counters that live for ever.
        unsafe {
            assert!(
                !dpdk_sys::rte_eth_add_rx_callback(port.id(), 0, Some(halve), counter(&RECEIVED)).is_null()
            );
            assert!(!dpdk_sys::rte_eth_add_tx_callback(port.id(), 0, Some(watch), counter(&SENT)).is_null());
        }
        let mut burst = ArrayVec::<Mbuf, 32>::new();
        assert_eq!(queues.rx[0].rx(&mut burst), 16);
        assert_eq!(queues.tx[0].tx(&mut burst), 16);
        assert_eq!((RECEIVED.load(Relaxed), SENT.load(Relaxed)), (1, 16));
        drop((queues, port, burst, pool));
        eal.shutdown().unwrap();
    }
}
