//! Safe access to the processor features that the packet path uses: prefetch, a 16-byte tag match, slices on huge pages
//! and the time-stamp counter. This crate doesn't use DPDK, so that tables can be tested and measured without it.
// Rules for production code that tests needn't follow.
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
        clippy::mem_forget,
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

mod cache;
mod huge;
mod tsc;

pub use cache::{CACHE_LINE, match16, prefetch, prefetch_object};
pub use huge::{HugeSlice, HugeTable, zeroed_slice, zeroed_table};
pub use tsc::{tsc, tsc_hz};
