//! Generates the bindings of the installed rte_hash and rte_acl. dpdk-sys does the linking.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(program).args(["--cflags", "libdpdk"]).output().expect("pkg-config runs");
    assert!(output.status.success(), "libdpdk isn't installed (Debian: libdpdk-dev)");
    let flags = String::from_utf8_lossy(&output.stdout).into_owned();
    let bindings = bindgen::Builder::default()
        .header_contents("rte_tables_only.h", "#include <rte_hash.h>\n#include <rte_acl.h>")
        .clang_args(["-D_GNU_SOURCE", "-includerte_config.h"])
        .clang_args(flags.split_whitespace())
        .allowlist_function("rte_hash_(create|free|add_key_data|lookup_bulk_data|del_key)")
        .allowlist_function("rte_acl_(create|free|add_rules|build|classify)")
        .allowlist_type("rte_acl_(rule_data|field)")
        .allowlist_var("RTE_ACL_FIELD_TYPE_.*|RTE_ACL_MAX_PRIORITY")
        .opaque_type("rte_hash|rte_acl_(ctx|rule)")
        .derive_default(true)
        .layout_tests(true)
        .generate_comments(false)
        .generate()
        .expect("bindgen understands both headers");
    bindings.write_to_file(out.join("bindings.rs")).expect("OUT_DIR is writable");
}
