//! The one safe wrapper around DPDK: environment, lcores, ports, queues, buffers and rings.
//!
//! Who owns what, and so why safe code can't go wrong with it:
//!
//! ```text
//! Eal ── once a process, stays on its thread; dropping it (last) gives everything back
//!  ├── Lcore      a worker thread of EAL, to launch a closure on
//!  ├── Mempool    a pool of buffers; clones share it; lives as long as the Eal
//!  │    └── Mbuf  one frame, owned; dropping it gives the buffer back to its pool
//!  ├── Port       a device, one thread at a time; closed when it and its queues are gone
//!  │    ├── RxQueue, TxQueue   one thread at a time each, no lock
//!  └── ring::{Sender, Receiver}  frames from thread to thread
//! ```
//!
//! Handles may outlive the [`Eal`]: it then leaves DPDK's memory alone instead of unmapping it under them.
// What production code keeps to and tests needn't.
#![cfg_attr(
    not(test),
    warn(
        clippy::borrow_as_ptr,
        clippy::cast_lossless,
        clippy::checked_conversions,
        clippy::cloned_instead_of_copied,
        clippy::dbg_macro,
        clippy::empty_structs_with_brackets,
        clippy::expect_used,
        clippy::explicit_iter_loop,
        clippy::fallible_impl_from,
        clippy::flat_map_option,
        clippy::float_cmp,
        clippy::get_unwrap,
        clippy::ignored_unit_patterns,
        clippy::implicit_clone,
        clippy::inefficient_to_string,
        clippy::invalid_upcast_comparisons,
        clippy::large_types_passed_by_value,
        clippy::lossy_float_literal,
        clippy::macro_use_imports,
        clippy::needless_continue,
        clippy::panic,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::ptr_as_ptr,
        clippy::ptr_cast_constness,
        clippy::rc_buffer,
        clippy::redundant_closure_for_method_calls,
        clippy::redundant_else,
        clippy::ref_option,
        clippy::same_functions_in_if_condition,
        clippy::semicolon_if_nothing_returned,
        clippy::todo,
        clippy::unimplemented,
        clippy::uninlined_format_args,
        clippy::unnested_or_patterns,
        clippy::unreachable,
        clippy::unwrap_used,
        clippy::use_self,
        clippy::verbose_file_reads,
        clippy::zero_sized_map_values,
    )
)]

mod args;
mod control;
mod device;
mod eal;
mod error;
mod event;
mod head;
mod hugepages;
mod lcore;
mod log;
mod mbuf;
mod mempool;
mod offload;
mod options;
mod port;
mod queue;
pub mod ring;
mod rss;
mod runtime;

pub use args::lacks_huge_pages;
pub use control::{Link, Stats};
pub use device::{is_pci_address, normal_name};
pub use eal::{Cpus, Eal, EalConfig, Memory};
pub use error::Error;
pub use lcore::{Lcore, Running};
pub use log::{LogLevel, LogSink};
pub use mbuf::{Mbuf, Segments};
pub use mempool::{Mempool, MempoolConfig, free_bulk};
pub use offload::{Checksum, L4};
pub use options::wrong_arguments;
pub use port::{Offloads, Port, PortConfig, PortInfo, Queues};
pub use queue::{RxQueue, TxQueue};
pub use rss::{RssSettings, hash_types};

/// The room in front of the data of a fresh buffer, in bytes.
pub const HEADROOM: usize = dpdk_sys::RTE_PKTMBUF_HEADROOM as usize;

/// The default number of bytes that a buffer holds behind its headroom: an Ethernet frame.
pub const DATA_ROOM: usize = 2048;

#[cfg(test)]
pub(crate) mod testing;
