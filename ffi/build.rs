//! Finds libdpdk, generates the bindings for the installed version and compiles the wrappers of DPDK's
//! static inline functions.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Functions that the wrapper crate calls; static inline ones get C wrappers.
const FUNCTIONS: &[&str] = &[
    // EAL, logs, devices, lcores
    "rte_(version|strerror)",
    "rte_eal_(init|cleanup|get_runtime_dir|remote_launch|wait_lcore|get_lcore_state|has_hugepages)",
    "rte_(openlog_stream|log_cur_msg_loglevel)",
    "fopencookie|fclose",
    "rte_dev_(probe|name|remove)",
    "rte_(get_next_lcore|get_main_lcore|lcore_count|lcore_to_socket_id)",
    // ports
    "rte_eth_find_next",
    "rte_eth_dev_(get_port_by_name|get_name_by_port|info_get|socket_id|is_valid_port)",
    "rte_eth_dev_(configure|adjust_nb_rx_tx_desc|start|stop|close|get_mtu|set_mtu)",
    "rte_eth_dev_rss_(hash_update|hash_conf_get|reta_update|reta_query)",
    "rte_eth_[rt]x_queue_setup",
    "rte_eth_dev_callback_register",
    "rte_eth_macaddr_get",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_promiscuous_(enable|disable|get)",
    "rte_eth_dev_mac_addr_(add|remove)",
    "rte_eth_allmulticast_(enable|disable|get)",
    "rte_eth_(stats_get|stats_reset|xstats_get|xstats_get_names)",
    // queues
    "rte_eth_(call_[rt]x_callbacks|add_[rt]x_callback)",
    "rte_eth_tx_prepare",
    // buffers
    "rte_pktmbuf_pool_create_by_ops",
    "rte_pktmbuf_(alloc|alloc_bulk|free|free_bulk|copy|chain|linearize)",
    "rte_mempool_(free|avail_count|in_use_count|put_bulk)",
    // rings
    "rte_ring_(create|free|count|enqueue_burst|dequeue_burst)",
    "shim_.*",
];

/// Types that aren't used in any signature above.
const TYPES: &[&str] = &[
    "rte_eth_fp_ops",
    "rte_eth_event_type",
    "rte_eth_rss_reta_entry64",
    "cookie_io_functions_t",
    "shim_mbuf_layout",
];

/// Variables and macros.
const VARS: &[&str] = &[
    "rte_eth_fp_ops",
    "RTE_ETH_RSS_.*",
    "RTE_ETH_[RT]X_OFFLOAD_.*",
    "RTE_ETH_RETA_GROUP_SIZE",
    "RTE_ETH_EVENT_.*",
    "RTE_ETH_NAME_MAX_LEN",
    "RTE_MBUF_F_.*",
    "RTE_PKTMBUF_HEADROOM",
    "RTE_MEMPOOL_CACHE_MAX_SIZE",
    "RTE_MAX_(ETHPORTS|LCORE)",
    "RTE_MAX_QUEUES_PER_PORT",
    "RTE_VER_(YEAR|MONTH)",
    "RING_F_.*",
    "SHIM_.*",
];

/// Structures of DPDK to which Rust only has pointers.
const OPAQUE: &[&str] = &["rte_mempool", "rte_ring", "rte_device", "rte_memzone", "rte_mbuf_ext_shared_info"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=wrapper.h");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let is_static = env::var_os("CARGO_FEATURE_STATIC").is_some();

    let found = pkg_config::Config::new()
        .atleast_version("22.11")
        .cargo_metadata(!is_static)
        .probe("libdpdk")
        .expect("libdpdk 22.11 or later is needed (Debian: libdpdk-dev)");
    let includes: Vec<String> = found.include_paths.iter().map(|p| format!("-I{}", p.display())).collect();
    let mut flags = vec!["-D_GNU_SOURCE".to_owned(), "-includerte_config.h".to_owned()];
    flags.extend(includes);
    flags.extend(machine_flags());

    let statics = out.join("statics.c");
    generate(&out, &statics, &flags);
    compile(&statics, &flags);
    if is_static {
        link_static();
    }
}

/// The instruction set DPDK was built for: its inline functions don't compile without it, and the pkg-config crate
/// ignores the flag.
fn machine_flags() -> Vec<String> {
    pkg_config_words(&["--cflags", "libdpdk"]).into_iter().filter(|w| w.starts_with("-march=")).collect()
}

fn pkg_config_words(args: &[&str]) -> Vec<String> {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(program).args(args).output().expect("pkg-config runs");
    assert!(output.status.success(), "pkg-config {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
}

/// Offload, hash-type and mbuf flags are 64-bit masks, even if a single value would fit fewer bits.
#[derive(Debug)]
struct FlagsAreU64;

impl bindgen::callbacks::ParseCallbacks for FlagsAreU64 {
    fn int_macro(&self, name: &str, _value: i64) -> Option<bindgen::callbacks::IntKind> {
        ["RTE_ETH_RSS_", "RTE_ETH_RX_OFFLOAD_", "RTE_ETH_TX_OFFLOAD_", "RTE_MBUF_F_"]
            .iter()
            .any(|p| name.starts_with(p))
            .then_some(bindgen::callbacks::IntKind::U64)
    }
}

fn generate(out: &Path, statics: &Path, flags: &[String]) {
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(flags)
        .clang_macro_fallback()
        .clang_macro_fallback_build_dir(out)
        .layout_tests(true)
        .derive_default(true)
        .generate_comments(false)
        .prepend_enum_name(false)
        .wrap_static_fns(true)
        .wrap_static_fns_path(statics)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .parse_callbacks(Box::new(FlagsAreU64));
    for f in FUNCTIONS {
        builder = builder.allowlist_function(f);
    }
    for t in TYPES {
        builder = builder.allowlist_type(t);
    }
    for v in VARS {
        builder = builder.allowlist_var(v);
    }
    for t in OPAQUE {
        builder = builder.opaque_type(t);
    }
    let bindings = builder.generate().expect("bindgen understands DPDK's headers");
    bindings.write_to_file(out.join("bindings.rs")).expect("OUT_DIR is writable");
}

fn compile(statics: &Path, flags: &[String]) {
    let here = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let mut build = cc::Build::new();
    build.file(statics).include(here).opt_level(2).warnings(false);
    for flag in flags {
        build.flag(flag);
    }
    build.compile("dpdk_statics");
}

/// Drivers of devices that no gateway has: their kinds.
const OTHER_KINDS: [&str; 10] =
    ["baseband", "compress", "crypto", "dma", "event", "gpu", "ml", "raw", "regex", "vdpa"];
/// What else isn't linked, for the libraries that it would need: libpcap, jansson, libfdt, OpenSSL, libipsec-mb. Other
/// distributions don't have all of them, nor under the same names.
const LEFT_OUT: [&str; 13] = [
    "bitratestats",
    "bpf",
    "common_qat",
    "latencystats",
    "metrics",
    "net_ipn3ke",
    "net_pcap",
    "net_softnic",
    "pcapng",
    "pdump",
    "pipeline",
    "port",
    "table",
];

/// Whether an archive of DPDK is linked into the program.
fn is_wanted(archive: &str) -> bool {
    let name = archive.trim_start_matches("librte_").trim_end_matches(".a");
    let kind = name.split_once('_').map_or("", |(kind, _)| kind);
    !OTHER_KINDS.contains(&kind) && !LEFT_OUT.contains(&name)
}

/// Drivers register themselves in constructors, so every archive is linked whole. The libraries that the archives need
/// are linked as usual, libbsd and libmd as archives: the C library of other distributions has their functions or not.
fn link_static() {
    let libdir = pkg_config_words(&["--variable=libdir", "libdpdk"]).concat();
    println!("cargo:rustc-link-search=native={libdir}");
    let compiler = cc::Build::new().get_compiler().path().to_owned();
    let mut seen = std::collections::HashSet::new();
    for word in pkg_config_words(&["--static", "--libs", "libdpdk"]) {
        if !seen.insert(word.clone()) {
            continue;
        }
        if let Some(archive) = word.strip_prefix("-l:") {
            if is_wanted(archive) {
                println!("cargo:rustc-link-lib=static:-bundle,+whole-archive,+verbatim={archive}");
            }
        } else if let Some(dir) = word.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={dir}");
        } else if let Some(lib) =
            word.strip_prefix("-l").filter(|l| !l.starts_with("rte_") && exists(l, &compiler))
        {
            let kind = if ["bsd", "md"].contains(&lib) { "static:-bundle=" } else { "" };
            println!("cargo:rustc-link-lib={kind}{lib}");
        }
    }
}

/// Whether the C compiler finds something to link for `lib`. The list also has the dependencies of shared libraries,
/// which aren't linked statically here and need no development package.
fn exists(lib: &str, compiler: &Path) -> bool {
    ["so", "a"].iter().any(|end| {
        let name = format!("lib{lib}.{end}");
        let found = Command::new(compiler).arg(format!("-print-file-name={name}")).output();
        // The compiler prints the bare name if there is no such file.
        found.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).trim() != name)
    })
}
