//! The one safe wrapper around DPDK.
