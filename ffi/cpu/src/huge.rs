//! Zero-initialised slices on huge pages, for tables of many megabytes.
//!
//! With 4 KB pages, a table with random look-ups costs a TLB miss per packet. Common kernels give transparent huge
//! pages only to memory that asks for them (`madvise`), which `Vec` doesn't. The memory is mapped but not touched: the
//! kernel provides zeroed pages on the NUMA node of the thread that touches them first. A table that would leave most
//! of a huge page unused has ordinary pages.

use std::{
    io,
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    slice,
};

use zerocopy::FromZeros;

/// The size of the requested huge pages, and the alignment of a slice that has any.
const HUGE_PAGE: usize = 2 << 20;
/// The size from which a slice is worth a huge page: zeroing one takes longer than a few TLB misses.
const WORTH_A_HUGE_PAGE: usize = HUGE_PAGE / 8;
/// The alignment of every mapping; the kernel's pages may be larger.
const PAGE: usize = 4096;

/// A slice of zero-initialised values in its own memory, on huge pages where the kernel has them.
#[derive(Debug)]
pub struct HugeSlice<T> {
    start: NonNull<T>,
    len: usize,
    /// The number of bytes to unmap; 0 for an empty slice or values without size.
    mapped: usize,
}

// SAFETY: the slice owns its memory as a `Vec<T>` does.
unsafe impl<T: Send> Send for HugeSlice<T> {}
// SAFETY: shared access gives `&[T]` only.
unsafe impl<T: Sync> Sync for HugeSlice<T> {}

/// Maps `len` zero-initialised values of type `T`. Nothing is touched yet: pages are provided on first use, unless
/// [`HugeSlice::populate`] requests them.
///
/// # Errors
/// The size overflows, or the kernel refuses the mapping.
pub fn zeroed_slice<T: FromZeros>(len: usize) -> io::Result<HugeSlice<T>> {
    const { assert!(align_of::<T>() <= HUGE_PAGE) };
    let bytes = len.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
    if bytes == 0 {
        return Ok(HugeSlice { start: NonNull::dangling(), len, mapped: 0 });
    }
    if bytes < WORTH_A_HUGE_PAGE && align_of::<T>() <= PAGE {
        let start = NonNull::new(map(bytes)?).ok_or(io::ErrorKind::OutOfMemory)?;
        return Ok(HugeSlice { start: start.cast(), len, mapped: bytes });
    }
    let mapped = bytes.checked_next_multiple_of(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
    let start = map_aligned(mapped)?;
    // SAFETY: the range was just mapped. The call is advice: without huge pages it fails, which is fine.
    unsafe { libc::madvise(start.as_ptr().cast(), mapped, libc::MADV_HUGEPAGE) };
    Ok(HugeSlice { start: start.cast(), len, mapped })
}

/// Maps `size` zeroed bytes at an address of the kernel's choice.
fn map(size: usize) -> io::Result<*mut u8> {
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
    let base = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(base.cast()) }
}

/// Maps `size` bytes, a multiple of the huge page size, aligned to it.
fn map_aligned(size: usize) -> io::Result<NonNull<u8>> {
    let base = map(size.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?)?;
    let before = base.align_offset(HUGE_PAGE);
    let start = base.wrapping_add(before);
    // SAFETY: both ranges lie inside the mapping just made, before and after the part that is kept, and
    // nothing refers to them.
    unsafe {
        if before > 0 {
            libc::munmap(base.cast(), before);
        }
        if before < HUGE_PAGE {
            libc::munmap(start.add(size).cast(), HUGE_PAGE - before);
        }
    }
    NonNull::new(start).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

impl<T> HugeSlice<T> {
    /// Has the kernel provide the pages of the first `values` now, so that the first use of a page doesn't have to wait
    /// for its zeroing. Must be called on a thread of the NUMA node that the memory should be on.
    ///
    /// # Errors
    /// Memory is short, or the kernel is older than 5.14.
    pub fn populate(&mut self, values: usize) -> io::Result<()> {
        let bytes = (values.min(self.len) * size_of::<T>()).next_multiple_of(HUGE_PAGE).min(self.mapped);
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the range is the beginning of this slice's mapping; populating it doesn't change its contents.
        let ret = unsafe { libc::madvise(self.start.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) };
        if ret == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl<T> Deref for HugeSlice<T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` values lie at `start`, initialised: zeros are a valid `T` (`FromZeros` at creation),
        // and only `T`s were written since. For an empty slice or values without size it is dangling, as it may be.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for HugeSlice<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and `&mut self` makes it exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for HugeSlice<T> {
    fn drop(&mut self) {
        if std::mem::needs_drop::<T>() {
            // SAFETY: the values are initialised and not used again.
            unsafe { ptr::drop_in_place(&raw mut **self) };
        }
        if self.mapped > 0 {
            // SAFETY: this is the mapping made for this slice, and nothing refers to it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
        }
    }
}

/// A slice of 2^n values whose indices wrap around, so that no index needs a bounds check.
#[derive(Debug)]
pub struct HugeTable<T> {
    slice: HugeSlice<T>,
    /// The length minus one. The length is a power of two and never changes.
    mask: usize,
}

/// Maps `len` zero-initialised values, rounded up to a power of two; see [`zeroed_slice`].
///
/// # Errors
/// See [`zeroed_slice`].
pub fn zeroed_table<T: FromZeros>(len: usize) -> io::Result<HugeTable<T>> {
    let len = len.checked_next_power_of_two().ok_or(io::ErrorKind::OutOfMemory)?;
    Ok(HugeTable { slice: zeroed_slice(len)?, mask: len - 1 })
}

impl<T> Deref for HugeTable<T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        &self.slice
    }
}

impl<T> DerefMut for HugeTable<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.slice
    }
}

impl<T> HugeTable<T> {
    /// See [`HugeSlice::populate`].
    ///
    /// # Errors
    /// See there.
    pub fn populate(&mut self, values: usize) -> io::Result<()> {
        self.slice.populate(values)
    }

    /// The value at `at`, modulo the length.
    #[inline(always)]
    pub fn at(&self, at: usize) -> &T {
        // SAFETY: masked, `at` is below the length, which is `mask + 1`.
        unsafe { self.slice.get_unchecked(at & self.mask) }
    }

    /// The value at `at`, modulo the length.
    #[inline(always)]
    pub fn at_mut(&mut self, at: usize) -> &mut T {
        // SAFETY: masked, `at` is below the length, which is `mask + 1`.
        unsafe { self.slice.get_unchecked_mut(at & self.mask) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[test]
    fn is_zero_aligned_and_writable() {
        let mut s = zeroed_slice::<u64>(300_000).unwrap();
        assert_eq!(s.len(), 300_000);
        assert_eq!(s.as_ptr() as usize % HUGE_PAGE, 0);
        assert!(s.iter().all(|v| *v == 0));
        s[299_999] = 5;
        s.populate(usize::MAX).unwrap();
        assert_eq!(s[299_999], 5);
    }

    #[test]
    fn empty_and_sizeless_slices_work() {
        assert!(zeroed_slice::<u64>(0).unwrap().is_empty());
        let mut units = zeroed_slice::<()>(5).unwrap();
        assert_eq!(units.len(), 5);
        units.populate(usize::MAX).unwrap();
    }

    #[test]
    fn small_slices_take_ordinary_pages() {
        for len in [1, PAGE, WORTH_A_HUGE_PAGE - 1, WORTH_A_HUGE_PAGE] {
            let mut s = zeroed_slice::<u8>(len).unwrap();
            assert!(s.iter().all(|v| *v == 0));
            assert_eq!(s.mapped, if len < WORTH_A_HUGE_PAGE { len } else { HUGE_PAGE });
            s[len - 1] = 7;
            s.populate(usize::MAX).unwrap();
            assert_eq!(s[len - 1], 7);
        }
    }

    #[test]
    fn a_tables_positions_wrap_round() {
        let mut table = zeroed_table::<u32>(5).unwrap();
        assert_eq!(table.len(), 8);
        *table.at_mut(usize::MAX) = 3;
        assert_eq!((*table.at(7), *table.at(15), *table.at(8)), (3, 3, 0));
        assert_eq!(zeroed_table::<u8>(0).unwrap().len(), 1);
        assert!(zeroed_table::<u8>(usize::MAX).is_err());
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(zeroed_slice::<u64>(usize::MAX / 4).is_err());
        assert!(zeroed_slice::<u8>(usize::MAX).is_err());
        assert!(zeroed_slice::<u8>(1 << 60).is_err());
    }

    #[test]
    fn untouched_memory_costs_nothing() {
        // Far more than the machine has: only touched pages take real memory.
        let mut s = zeroed_slice::<u8>(1 << 40).unwrap();
        s[1 << 39] = 1;
        assert_eq!(s[1 << 39], 1);
    }

    #[test]
    fn is_shared_between_threads() {
        let s = zeroed_slice::<AtomicU32>(1000).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| s.iter().for_each(|c| _ = c.fetch_add(1, Relaxed)));
            }
        });
        assert!(s.iter().all(|c| c.load(Relaxed) == 2));
    }
}
