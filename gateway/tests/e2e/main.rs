//! End to end: the real programs, real kernels' TCP, real servers, DPDK on veths.
//!
//! Every test builds its own network namespaces (see `lab`) and so needs to be root; they run in parallel,
//! except for those below `throughput`, which `.config/nextest.toml` runs alone.
#![forbid(unsafe_code)]

mod forwarding;
mod ipv6;
mod keepalived;
mod ldirectord;
mod lifecycle;
mod links;
mod local_server;
mod log;
mod misuse;
mod neighbours;
mod offloads;
mod operation;
mod outages;
mod page;
mod path_mtu;
mod pool;
mod prometheus;
mod proxy;
mod routes;
mod scene;
mod serve;
mod session_log;
mod site;
mod snat;
mod steering;
mod threads;
mod throughput;
mod tool;
mod vrrp;
