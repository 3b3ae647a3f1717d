//! Safe access to a few things of the processor that the packet path wants: prefetch, a 16-byte tag
//! match, slices on huge pages and the time-stamp counter. No DPDK here, so that tables can be tested
//! and measured without it.

mod cache;
mod huge;
mod tsc;

pub use cache::{CACHE_LINE, match16, prefetch, prefetch_object};
pub use huge::{HugeSlice, HugeTable, zeroed_slice, zeroed_table};
pub use tsc::{tsc, tsc_hz};
