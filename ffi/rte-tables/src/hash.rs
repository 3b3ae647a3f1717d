//! A safe wrapper of DPDK's cuckoo hash table, which a gateway built from DPDK's own parts would use as its session
//! index.
//!
//! Keys have 16 bytes, data are 64-bit numbers. It supports one thread, with the default hash (CRC-32C in hardware) and
//! no locks.

use std::{
    ffi::{CString, c_void},
    marker::PhantomData,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use dpdk::Eal;

use crate::sys;

/// A key.
pub type Key = [u8; 16];

/// The most keys of one bulk lookup.
pub const BULK: usize = 64;

/// A table, usable as long as EAL is up.
pub struct RteHash<'eal> {
    table: NonNull<sys::rte_hash>,
    _eal: PhantomData<&'eal Eal>,
}

impl<'eal> RteHash<'eal> {
    /// A table for `entries` keys. `None` if DPDK has no memory for it.
    #[must_use]
    pub fn new(_eal: &'eal Eal, entries: u32) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = CString::new(format!("bench{}", NUMBER.fetch_add(1, Relaxed))).ok()?;
        let parameters = sys::rte_hash_parameters {
            name: name.as_ptr(),
            entries,
            key_len: size_of::<Key>() as u32,
            ..Default::default()
        };
        // SAFETY: EAL is up (there is an `Eal`); the parameters and the name live through the call, which
        // copies both.
        let table = unsafe { sys::rte_hash_create(&raw const parameters) };
        NonNull::new(table).map(|table| Self { table, _eal: PhantomData })
    }

    /// Adds a key or changes its number. False if the table is full.
    pub fn insert(&mut self, key: &Key, number: u64) -> bool {
        let data = std::ptr::without_provenance_mut(number as usize);
        // SAFETY: the table is ours alone; the key has the length the table was made for; data are never
        // followed as a pointer.
        unsafe { sys::rte_hash_add_key_data(self.table.as_ptr(), key.as_ptr().cast(), data) == 0 }
    }

    /// Removes a key. False if it wasn't there.
    pub fn remove(&mut self, key: &Key) -> bool {
        // SAFETY: the table is ours alone; the key has the length the table was made for.
        unsafe { sys::rte_hash_del_key(self.table.as_ptr(), key.as_ptr().cast()) >= 0 }
    }

    /// Looks up at most [`BULK`] keys at once, with prefetching. Bit `n` of the result tells whether key `n` was found;
    /// `numbers[n]` is then its number.
    pub fn find(&self, keys: &[Key], numbers: &mut [u64; BULK]) -> u64 {
        let mut pointers = [std::ptr::null::<c_void>(); BULK];
        for (pointer, key) in pointers.iter_mut().zip(keys) {
            *pointer = key.as_ptr().cast();
        }
        let mut found = 0;
        let mut data = [std::ptr::null_mut::<c_void>(); BULK];
        let count = keys.len().min(BULK) as u32;
        // SAFETY: `pointers` holds `count` pointers to keys of the table's length; `data` has room for as many
        // results.
        unsafe {
            sys::rte_hash_lookup_bulk_data(
                self.table.as_ptr(),
                pointers.as_mut_ptr(),
                count,
                &raw mut found,
                data.as_mut_ptr(),
            );
        }
        for (number, pointer) in numbers.iter_mut().zip(&data[..count as usize]) {
            *number = pointer.addr() as u64;
        }
        found
    }
}

impl Drop for RteHash<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `rte_hash_create`, freed once, EAL still up by the lifetime.
        unsafe { sys::rte_hash_free(self.table.as_ptr()) }
    }
}
