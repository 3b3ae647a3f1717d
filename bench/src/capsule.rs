//! The baseline: the same rewrite on capsule's packet API (`bench/capsule`), on the same frames and devices.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    compare::Testbed,
    error::{Error, Result},
    process::Process,
    sample::Subject,
    traffic, weir,
};

/// Builds the program and says where it is.
pub fn find() -> Result<PathBuf> {
    weir::build(&["weir-bench-capsule"])?;
    let beside = std::env::current_exe().map_err(Error::file("this program"))?;
    Ok(beside.with_file_name("weir-bench-capsule"))
}

/// Starts it on the testbed's ACKs and returns it forwarding. (It opens a session with any packet.)
pub fn start(testbed: &Testbed, program: &Path) -> Result<Subject> {
    let mut command = Command::new(program);
    command
        .arg(format!("net_pcap0,{},infinite_rx=1", traffic::rx_pcap(&testbed.acks())))
        .arg("net_null0,no-rx=1")
        .args([testbed.main_cpu, testbed.worker_cpu].map(|cpu| cpu.to_string()))
        .arg(testbed.mbufs().to_string())
        .arg("--no-pci")
        .args(testbed.memory_arguments())
        .env("RUNTIME_DIRECTORY", testbed.directory);
    let process = Process::spawn(&mut command, &testbed.path("capsule.log"))?;
    Subject::connect(process, testbed.directory, "net_null", testbed.workers)?.forwarding()
}
