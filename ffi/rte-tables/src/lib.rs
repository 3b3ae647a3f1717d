//! Safe wrappers of DPDK's own tables, for comparisons: only benchmarks depend on this package. The packet path has its
//! own session index and its own lookup of marks, and uses no DPDK.

pub mod acl;
pub mod hash;

#[allow(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    dead_code,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "generated"
)]
mod sys {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}
