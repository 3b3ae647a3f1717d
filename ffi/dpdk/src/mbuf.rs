//! One frame in one or more of DPDK's buffers.
//!
//! ```text
//!  rte_mbuf                 buf_addr        data_off                      buf_len
//!  +-----------------+      |<- headroom -->|<-- data_len -->|<-- tailroom -->|
//!  | line 0: receive |----->+---------------+----------------+----------------+
//!  | line 1: send,   |
//!  |   next segment  |----> the next rte_mbuf of the frame
//!  +-----------------+      pkt_len = data_len of all segments
//! ```
//!
//! The one invariant that makes `data_mut` sound: nobody else refers to the first segment's bytes. This holds for fresh
//! buffers, into which drivers receive. [`crate::RxQueue`] checks frames of the few drivers that pass on what was sent
//! to them. Nothing here shares a buffer.

use std::{marker::PhantomData, ptr::NonNull, slice};

use dpdk_sys::rte_mbuf;

use crate::{
    HEADROOM,
    head::{Head, bytes_of, field, next_of},
};

/// One frame, owned. Dropping it frees its buffers.
#[repr(transparent)]
pub struct Mbuf(NonNull<Head>);

// SAFETY: an `Mbuf` owns its buffers exclusively, and pools take buffers back on any thread.
unsafe impl Send for Mbuf {}
// SAFETY: through `&Mbuf` there is only reading.
unsafe impl Sync for Mbuf {}

impl Mbuf {
    /// Takes over a buffer.
    ///
    /// # Safety
    /// `raw` must be a valid mbuf (the first segment of its chain) in a pool that outlives it. The caller must own it,
    /// and nobody else may refer to the bytes of the first segment.
    #[inline(always)]
    pub(crate) unsafe fn from_raw(raw: NonNull<rte_mbuf>) -> Self {
        Self(raw.cast())
    }

    #[inline(always)]
    pub(crate) fn raw(&self) -> *mut rte_mbuf {
        self.0.as_ptr().cast()
    }

    /// The address of the head, for fields outside of [`Head`].
    #[inline(always)]
    pub(crate) fn address(&self) -> NonNull<Head> {
        self.0
    }

    #[inline(always)]
    pub(crate) fn head(&self) -> &Head {
        // SAFETY: the invariant of `from_raw`; no `&mut Head` exists while there is a `&Mbuf`.
        unsafe { self.0.as_ref() }
    }

    #[inline(always)]
    pub(crate) fn head_mut(&mut self) -> &mut Head {
        // SAFETY: the invariant of `from_raw`: the buffer is owned, and `&mut self` makes this access the only
        // one. The reference count, which others might read, is atomic.
        unsafe { self.0.as_mut() }
    }

    /// The bytes of the first segment.
    #[inline(always)]
    #[must_use]
    pub fn data(&self) -> &[u8] {
        bytes_of(self.head())
    }

    /// The bytes of the first segment, mutable.
    #[inline(always)]
    #[must_use]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let head = self.head();
        // SAFETY: `data_off` and `data_len` stay inside the buffer, whose memory is always initialised (pools
        // are made of zeroed pages); nobody else refers to it (the module's invariant), and `&mut self` keeps
        // this borrow the only one.
        unsafe { slice::from_raw_parts_mut(head.buf_addr.add(head.data_off.into()), head.data_len.into()) }
    }

    /// Bytes in all segments.
    #[inline(always)]
    #[must_use]
    pub fn len(&self) -> usize {
        self.head().pkt_len as usize
    }

    /// Whether there are no bytes.
    #[inline(always)]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of segments, at least 1.
    #[inline(always)]
    #[must_use]
    pub fn segment_count(&self) -> usize {
        self.head().nb_segs.into()
    }

    /// The bytes, segment by segment.
    #[must_use]
    pub fn segments(&self) -> Segments<'_> {
        Segments { next: Some(self.0), _frame: PhantomData }
    }

    /// The bytes of segment `n`, counted from 0; `None` past the last.
    #[inline]
    #[must_use]
    pub fn segment(&self, n: usize) -> Option<&[u8]> {
        if n == 0 { Some(self.data()) } else { self.segments().nth(n) }
    }

    /// All bytes, joined.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.segments().flatten().copied().collect()
    }
}

/// Iterator over the bytes of a frame's segments.
#[derive(Clone)]
pub struct Segments<'a> {
    next: Option<NonNull<Head>>,
    _frame: PhantomData<&'a Mbuf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        let segment = self.next?;
        self.next = next_of(segment);
        // SAFETY: the frame owns its segments, and its borrow for `'a` keeps writers away.
        Some(bytes_of(unsafe { segment.as_ref() }))
    }
}

/// Changes of a frame's extent. Those that move its start or end cancel requests to the sending device.
impl Mbuf {
    /// The room in front of the data.
    #[inline]
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.head().data_off.into()
    }

    /// The room behind the data of the last segment.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        // SAFETY: the frame owns its last segment, and `&self` keeps writers away.
        let last = unsafe { self.last().as_ref() };
        usize::from(last.buf_len - last.data_off - last.data_len)
    }

    /// Adds `n` unspecified bytes in front. Without the room it returns false and changes nothing.
    #[inline]
    pub fn prepend(&mut self, n: usize) -> bool {
        if n > self.headroom() {
            return false;
        }
        self.forget_requests();
        let head = self.head_mut();
        // The new bytes were already part of the buffer, so none of these can overflow.
        head.data_off -= n as u16;
        head.data_len += n as u16;
        head.pkt_len = head.pkt_len.wrapping_add(n as u32);
        true
    }

    /// Removes `n` bytes from the front of the first segment. If it has fewer, returns false and changes nothing.
    #[inline]
    pub fn adj(&mut self, n: usize) -> bool {
        if n > usize::from(self.head().data_len) {
            return false;
        }
        self.forget_requests();
        let head = self.head_mut();
        head.data_off += n as u16;
        head.data_len -= n as u16;
        head.pkt_len = head.pkt_len.wrapping_sub(n as u32);
        true
    }

    /// Adds `n` unspecified bytes behind the last segment's data and returns them. Without the room it returns `None`
    /// and changes nothing.
    pub fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.tailroom() || self.head().pkt_len.checked_add(n as u32).is_none() {
            return None;
        }
        self.forget_requests();
        self.head_mut().pkt_len += n as u32;
        let mut last = self.last();
        // SAFETY: the frame owns its last segment, and `&mut self` makes this access the only one. The room
        // was checked, so the bytes lie in the buffer and the sum fits.
        unsafe {
            let last = last.as_mut();
            let start = last.buf_addr.add(usize::from(last.data_off) + usize::from(last.data_len));
            last.data_len += n as u16;
            Some(slice::from_raw_parts_mut(start, n))
        }
    }

    /// Removes `n` bytes from the end, over as many segments as needed. If the frame has fewer, returns false and
    /// changes nothing.
    pub fn trim(&mut self, n: usize) -> bool {
        match self.len().checked_sub(n) {
            Some(rest) => {
                self.truncate(rest);
                true
            }
            None => false,
        }
    }

    /// Truncates the frame to `len` bytes and drops empty segments. Does nothing if the frame is shorter.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len() {
            return;
        }
        self.forget_requests();
        if self.head().nb_segs == 1 {
            let head = self.head_mut();
            head.data_len = len as u16;
            head.pkt_len = len as u32;
        } else {
            self.truncate_chain(len);
        }
    }

    #[cold]
    fn truncate_chain(&mut self, len: usize) {
        let mut segment = self.0;
        let mut left = len;
        let mut kept = 1;
        loop {
            // SAFETY: the frame owns the segment, and `&mut self` makes this access the only one.
            let here = unsafe { segment.as_mut() };
            here.data_len = here.data_len.min(left.min(u16::MAX.into()) as u16);
            left -= usize::from(here.data_len);
            match next_of(segment) {
                Some(next) if left > 0 => segment = next,
                _ => break,
            }
            kept += 1;
        }
        Self::cut_after(segment);
        let head = self.head_mut();
        head.nb_segs = kept;
        head.pkt_len = len as u32;
    }

    /// Frees the segments after `segment`, which becomes the last. The caller must update the frame's counts.
    fn cut_after(segment: NonNull<Head>) {
        if let Some(rest) = next_of(segment) {
            // SAFETY: the segments belong to the frame that the caller has borrowed mutably; unlinked, they
            // are referred to once, here.
            unsafe {
                *field::<*mut Head>(segment, dpdk_sys::SHIM_MBUF_NEXT) = std::ptr::null_mut();
                dpdk_sys::rte_pktmbuf_free(rest.as_ptr().cast());
            }
        }
    }

    /// Makes the frame one segment of `len` unspecified bytes behind the usual headroom. If the first segment has no
    /// such room, returns false and changes nothing.
    pub fn reset(&mut self, len: usize) -> bool {
        let head = self.head();
        let start = HEADROOM.min(head.buf_len.into());
        if len > usize::from(head.buf_len) - start {
            return false;
        }
        self.forget_requests();
        Self::cut_after(self.0);
        let head = self.head_mut();
        head.nb_segs = 1;
        head.data_off = start as u16;
        head.data_len = len as u16;
        head.pkt_len = len as u32;
        true
    }

    /// Links the segments of `tail` behind this frame's.
    ///
    /// # Errors
    /// Returns `tail` if the frame would have more segments or bytes than can be counted.
    pub fn chain(&mut self, tail: Self) -> Result<(), Self> {
        if self.head().pkt_len.checked_add(tail.head().pkt_len).is_none() {
            return Err(tail);
        }
        self.forget_requests();
        // SAFETY: both are valid frames and owned; on success `tail`'s segments belong to this one.
        if unsafe { dpdk_sys::rte_pktmbuf_chain(self.raw(), tail.raw()) } != 0 {
            return Err(tail);
        }
        std::mem::forget(tail);
        Ok(())
    }

    /// Moves all bytes into the first segment. If they don't fit, returns false and changes nothing.
    #[must_use]
    pub fn linearize(&mut self) -> bool {
        // SAFETY: a valid frame, and `&mut self` makes this access the only one.
        unsafe { dpdk_sys::rte_pktmbuf_linearize(self.raw()) == 0 }
    }

    fn last(&self) -> NonNull<Head> {
        let mut segment = self.0;
        while let Some(next) = next_of(segment) {
            segment = next;
        }
        segment
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the frame is owned, and not used again.
        unsafe { dpdk_sys::rte_pktmbuf_free(self.raw()) }
    }
}

impl std::fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mbuf").field("len", &self.len()).field("segments", &self.segment_count()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DATA_ROOM, testing};

    #[test]
    fn a_frame_grows_and_shrinks_at_both_ends() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let mut frame = pool.alloc().unwrap();
        assert!(frame.is_empty() && frame.data().is_empty());
        assert_eq!((frame.headroom(), frame.tailroom()), (HEADROOM, DATA_ROOM));

        frame.append(4).unwrap().copy_from_slice(b"body");
        assert!(frame.prepend(3));
        frame.data_mut()[..3].copy_from_slice(b"pre");
        assert_eq!(frame.data(), b"prebody");
        assert!(frame.adj(1) && frame.trim(2));
        assert_eq!(frame.data(), b"rebo");
        assert_eq!(frame.len(), 4);

        assert!(!frame.adj(5) && !frame.trim(5));
        assert!(!frame.prepend(frame.headroom() + 1));
        assert!(frame.append(frame.tailroom() + 1).is_none());
        frame.truncate(100);
        assert_eq!(frame.data(), b"rebo");
        assert!(frame.prepend(frame.headroom()) && frame.append(frame.tailroom()).is_some());
        assert_eq!(frame.len(), HEADROOM + DATA_ROOM);
        drop(frame);
        drop(pool);
        eal.shutdown().unwrap();
    }

    #[test]
    fn chains_are_cut_and_joined() {
        let eal = testing::eal(1);
        let pool = testing::pool(&eal);
        let build = || {
            let mut frame = pool.alloc_from(b"one ").unwrap();
            frame.chain(pool.alloc_from(b"two ").unwrap()).unwrap();
            frame.chain(pool.alloc_from(b"three").unwrap()).unwrap();
            frame
        };
        let mut frame = build();
        assert_eq!((frame.len(), frame.segment_count()), (13, 3));
        assert_eq!(frame.segments().collect::<Vec<_>>(), [&b"one "[..], b"two ", b"three"]);
        assert_eq!(frame.segment(2), Some(&b"three"[..]));
        assert_eq!(frame.segment(3), None);

        frame.truncate(10);
        assert_eq!((frame.to_vec(), frame.segment_count()), (b"one two th".to_vec(), 3));
        frame.truncate(8);
        assert_eq!((frame.to_vec(), frame.segment_count()), (b"one two ".to_vec(), 2));
        frame.append(1).unwrap()[0] = b'!';
        assert_eq!(frame.to_vec(), b"one two !");
        assert!(frame.trim(9));
        assert_eq!((frame.len(), frame.segment_count(), frame.data().len()), (0, 1, 0));

        frame = build();
        assert!(frame.linearize());
        assert_eq!((frame.data(), frame.segment_count()), (&b"one two three"[..], 1));

        frame = build();
        assert!(!frame.reset(DATA_ROOM + 1));
        assert_eq!(frame.len(), 13);
        assert!(frame.reset(60));
        assert_eq!((frame.len(), frame.segment_count(), frame.headroom()), (60, 1, HEADROOM));
        drop(frame);
        drop(pool);
        // Every segment was returned.
        eal.shutdown().unwrap();
    }
}
