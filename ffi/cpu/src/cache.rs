//! Prefetch and the tag match of a bucketed hash table.

/// The size of a cache line on the supported machines.
pub const CACHE_LINE: usize = 64;

/// Starts loading the cache line of the first byte of `value`; never faults, never waits.
#[inline(always)]
pub fn prefetch<T: ?Sized>(value: &T) {
    prefetch_line(std::ptr::from_ref(value).cast());
}

/// Starts loading every cache line of `value`: for records of a few lines.
#[inline(always)]
pub fn prefetch_object<T>(value: &T) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    let mut offset = 0;
    while offset < size_of::<T>() {
        prefetch_line(start.wrapping_add(offset));
        offset += CACHE_LINE;
    }
    // A record that isn't aligned to a cache line may extend into one more.
    if align_of::<T>() < CACHE_LINE && size_of::<T>() > 1 {
        prefetch_line(start.wrapping_add(size_of::<T>() - 1));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_line(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch is a hint: any address is allowed, and there is no architectural read. SSE is part of the
    // x86-64 baseline.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn prefetch_line(address: *const u8) {
    // SAFETY: a prefetch is a hint: any address is allowed, nothing is read or written.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, readonly, preserves_flags));
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn prefetch_line(_address: *const u8) {}

/// Compares all sixteen `tags` with `tag` at once. Bit `i` of the result is set if `tags[i] == tag`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[must_use]
pub fn match16(tags: &[u8; 16], tag: u8) -> u16 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
    // SAFETY: the load is unaligned and reads the 16 bytes of the reference; SSE2 is part of the x86-64
    // baseline.
    unsafe {
        let loaded = _mm_loadu_si128(std::ptr::from_ref(tags).cast());
        let equal = _mm_cmpeq_epi8(loaded, _mm_set1_epi8(tag as i8));
        _mm_movemask_epi8(equal) as u16
    }
}

/// Compares all sixteen `tags` with `tag` at once. Bit `i` of the result is set if `tags[i] == tag`.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
#[must_use]
pub fn match16(tags: &[u8; 16], tag: u8) -> u16 {
    match16_portable(tags, tag)
}

/// The same in plain code, which compilers vectorise if they can.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn match16_portable(tags: &[u8; 16], tag: u8) -> u16 {
    let mut mask = 0;
    for (i, t) in tags.iter().enumerate() {
        mask |= u16::from(*t == tag) << i;
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn match16_sets_the_bits_of_equal_tags() {
        let mut tags = [0; 16];
        tags[0] = 7;
        tags[3] = 7;
        tags[15] = 7;
        assert_eq!(match16(&tags, 7), 0x8009);
        assert_eq!(match16(&tags, 0), !0x8009);
        assert_eq!(match16(&tags, 9), 0);
    }

    #[test]
    fn match16_equals_its_portable_form() {
        let mut state = 1u32;
        for _ in 0..1000 {
            let tags: [u8; 16] = std::array::from_fn(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 28) as u8 | 0xf0
            });
            for tag in 0..=255 {
                assert_eq!(match16(&tags, tag), match16_portable(&tags, tag));
            }
        }
    }

    #[test]
    fn prefetch_takes_anything() {
        prefetch(&[0u8; 0]);
        prefetch("text");
        prefetch_object(&[0u64; 40]);
        prefetch_object(&());
    }
}
