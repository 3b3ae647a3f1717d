//! Generates the bindings of the few functions that capsule uses, for the installed DPDK.

use std::{env, path::PathBuf, process::Command};

const FUNCTIONS: &[&str] = &[
    "rte_eal_cleanup",
    "capsule_eal_init",
    "rte_strerror",
    "rte_socket_(count|id|id_by_idx)",
    "rte_thread_set_affinity",
    "rte_eth_(add_[rt]x_callback|stats_get|macaddr_get)",
    "rte_eth_(promiscuous|allmulticast)_(enable|disable)",
    "rte_eth_[rt]x_queue_setup",
    "rte_eth_dev_(start|stop|close|configure|info_get|socket_id|get_port_by_name|adjust_nb_rx_tx_desc)",
    "rte_pktmbuf_pool_create",
    "rte_mempool_(free|in_use_count)",
    "numa_node_of_cpu",
    "_rte_.*",
];

/// DPDK's names since 21.11, mapped to the names that capsule uses.
#[derive(Debug)]
struct OldNames;

impl bindgen::callbacks::ParseCallbacks for OldNames {
    fn enum_variant_name(
        &self,
        _enum: Option<&str>,
        variant: &str,
        _value: bindgen::callbacks::EnumVariantValue,
    ) -> Option<String> {
        variant.strip_prefix("RTE_").filter(|name| name.starts_with("ETH_MQ_")).map(str::to_owned)
    }
}

fn main() {
    for file in ["build.rs", "wrapper.h", "shim.c"] {
        println!("cargo:rerun-if-changed={file}");
    }
    let found = pkg_config::Config::new()
        .atleast_version("22.11")
        .probe("libdpdk")
        .expect("libdpdk-dev is installed");
    println!("cargo:rustc-link-lib=numa");
    // The pkg-config crate omits the instruction set, without which DPDK's headers don't compile.
    let said = Command::new("pkg-config").args(["--cflags", "libdpdk"]).output().expect("pkg-config runs");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let machine = said.split_whitespace().filter(|word| word.starts_with("-march=")).map(str::to_owned);
    let mut flags = vec!["-D_GNU_SOURCE".to_owned(), "-includerte_config.h".to_owned()];
    flags.extend(found.include_paths.iter().map(|path| format!("-I{}", path.display())));
    flags.extend(machine);
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(&flags)
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(false)
        .prepend_enum_name(false)
        .constified_enum_module("rte_eth_rx_mq_mode")
        .parse_callbacks(Box::new(OldNames))
        .allowlist_type("rte_(mempool|eth_conf|eth_dev_info|eth_stats|ether_addr|cpuset_t)")
        .allowlist_type("capsule_mbuf_layout")
        // lib.rs defines it.
        .blocklist_type("rte_mbuf");
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let bindings = builder.generate().expect("DPDK's headers are understood");
    bindings.write_to_file(out.join("bindings.rs")).expect("the output folder takes files");
    let mut shim = cc::Build::new();
    shim.file("shim.c").warnings(false);
    for flag in &flags {
        shim.flag(flag);
    }
    shim.compile("capsule_shim");
}
