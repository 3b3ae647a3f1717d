//! Benchmarks of weir beside its peers.
fn main() {}
