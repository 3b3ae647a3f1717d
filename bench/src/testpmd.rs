//! The measure of what the machine and the devices allow: testpmd swapping MAC addresses, IP addresses and
//! ports, one core, no tables.

use std::{path::Path, process::Command};

use crate::{
    compare::{DESCRIPTORS, Scene},
    error::Result,
    process::Process,
    sample::Subject,
    traffic,
};

/// Starts it on the scene's ACKs and returns it forwarding.
pub fn start(scene: &Scene, program: &Path) -> Result<Subject> {
    let from = format!("net_pcap0,{},infinite_rx=1", traffic::rx_pcap(&scene.acks()));
    launch(scene, program, &[from, "net_null0,no-rx=1".to_owned()])?.forwarding()
}

/// Starts it between two devices; it polls when this returns, or is about to.
pub fn launch(scene: &Scene, program: &Path, devices: &[String; 2]) -> Result<Subject> {
    let mut command = Command::new(program);
    command.args(arguments(scene, devices)).env("RUNTIME_DIRECTORY", scene.directory);
    let process = Process::spawn(&mut command, &scene.path("testpmd.log"))?;
    let out = devices[1].split(',').next().unwrap_or_default();
    Subject::connect(process, scene.directory, out, scene.workers)
}

fn arguments(scene: &Scene, devices: &[String; 2]) -> Vec<String> {
    let cpus = scene.worker_cpus();
    let workers = cpus.iter().enumerate().map(|(n, cpu)| format!(",{}@{cpu}", n + 1));
    let mut eal = vec![
        "--lcores".to_owned(),
        format!("0@{}{}", scene.main_cpu, workers.collect::<String>()),
        "--no-pci".to_owned(),
        format!("--file-prefix=weir-bench-testpmd-{}", std::process::id()),
        "--vdev".to_owned(),
        devices[0].clone(),
        "--vdev".to_owned(),
        devices[1].clone(),
    ];
    eal.extend(scene.memory_arguments());
    let own = [
        "--".to_owned(),
        "--forward-mode=5tswap".to_owned(),
        "--auto-start".to_owned(),
        "--burst=32".to_owned(),
        format!("--nb-cores={}", scene.workers),
        format!("--rxq={}", scene.workers),
        format!("--txq={}", scene.workers),
        format!("--rxd={}", DESCRIPTORS),
        format!("--txd={}", DESCRIPTORS),
        format!("--total-num-mbufs={}", scene.mbufs()),
    ];
    eal.into_iter().chain(own).collect()
}
