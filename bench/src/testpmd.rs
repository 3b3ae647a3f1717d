//! The measure of what the machine and the devices allow: testpmd swapping MAC addresses, IP addresses and
//! ports, one core, no tables.

use std::{path::Path, process::Command};

use crate::{
    compare::{DESCRIPTORS, Testbed},
    error::Result,
    process::Process,
    sample::Subject,
    traffic,
};

/// Starts it on the testbed's ACKs and returns it forwarding.
pub fn start(testbed: &Testbed, program: &Path) -> Result<Subject> {
    let from = format!("net_pcap0,{},infinite_rx=1", traffic::rx_pcap(&testbed.acks()));
    launch(testbed, program, &[from, "net_null0,no-rx=1".to_owned()])?.forwarding()
}

/// Starts it between two devices; it polls when this returns, or is about to.
pub fn launch(testbed: &Testbed, program: &Path, devices: &[String; 2]) -> Result<Subject> {
    let mut command = Command::new(program);
    command.args(arguments(testbed, devices)).env("RUNTIME_DIRECTORY", testbed.directory);
    let process = Process::spawn(&mut command, &testbed.path("testpmd.log"))?;
    let out = devices[1].split(',').next().unwrap_or_default();
    Subject::connect(process, testbed.directory, out, testbed.workers)
}

fn arguments(testbed: &Testbed, devices: &[String; 2]) -> Vec<String> {
    let cpus = testbed.worker_cpus();
    let workers = cpus.iter().enumerate().map(|(n, cpu)| format!(",{}@{cpu}", n + 1));
    let mut eal = vec![
        "--lcores".to_owned(),
        format!("0@{}{}", testbed.main_cpu, workers.collect::<String>()),
        "--no-pci".to_owned(),
        format!("--file-prefix=weir-bench-testpmd-{}", std::process::id()),
        "--vdev".to_owned(),
        devices[0].clone(),
        "--vdev".to_owned(),
        devices[1].clone(),
    ];
    eal.extend(testbed.memory_arguments());
    let own = [
        "--".to_owned(),
        "--forward-mode=5tswap".to_owned(),
        "--auto-start".to_owned(),
        "--burst=32".to_owned(),
        format!("--nb-cores={}", testbed.workers),
        format!("--rxq={}", testbed.workers),
        format!("--txq={}", testbed.workers),
        format!("--rxd={}", DESCRIPTORS),
        format!("--txd={}", DESCRIPTORS),
        format!("--total-num-mbufs={}", testbed.mbufs()),
    ];
    eal.into_iter().chain(own).collect()
}
