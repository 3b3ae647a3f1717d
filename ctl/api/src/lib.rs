//! What the gateway and its clients share: the [`model`] of what is configured and told, the control [`protocol`]
//! that carries it over a Unix socket, the [`client`]'s side of that, the JSON [`documents`] that `weirctl --json`
//! prints, and configuration as text, its [`input`] bounded: [`rules`] in words and lines of [`ipvsadm`]'s, as rules files hold them.
#![forbid(unsafe_code)]
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

pub mod client;
pub mod documents;
pub mod input;
pub mod ipvsadm;
pub mod model;
pub mod protocol;
pub mod rules;
