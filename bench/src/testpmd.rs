//! The measure of what the machine and the devices allow: testpmd swapping MAC addresses, IP addresses and
//! ports, one core, no tables.

use std::{path::Path, process::Command, time::Duration};

use crate::{
    compare::{DESCRIPTORS, Scene},
    error::Result,
    process::{Process, wait_for},
    sample::{Subject, Thread},
    telemetry::Telemetry,
};

/// Starts it on the scene's ACKs and returns it running.
pub fn start(scene: &Scene, program: &Path) -> Result<Subject> {
    let mut command = Command::new(program);
    command.args(arguments(scene)).env("RUNTIME_DIRECTORY", scene.directory);
    let mut process = Process::spawn(&mut command, &scene.path("testpmd.log"))?;
    let connected = wait_for(Duration::from_secs(60), || {
        process.check_running()?;
        let Some(mut telemetry) = Telemetry::connect(process.pid(), scene.directory) else { return Ok(None) };
        // Ports appear one after another while EAL starts.
        Ok(telemetry.port("net_null").ok().map(|out| (telemetry, out)))
    })?;
    let Some((telemetry, out)) = connected else { return Err(process.failed("has no telemetry")) };
    let worker = Thread::busiest(process.pid())?;
    let mut subject = Subject { process, telemetry, out, worker };
    subject.wait_for_traffic(Duration::from_secs(120))?;
    subject.worker = Thread::busiest(subject.process.pid())?;
    Ok(subject)
}

fn arguments(scene: &Scene) -> Vec<String> {
    let acks = scene.acks().display().to_string();
    let mut eal = vec![
        "--lcores".to_owned(),
        format!("0@{},1@{}", scene.main_cpu, scene.worker_cpu),
        "--no-pci".to_owned(),
        format!("--file-prefix=weir-bench-testpmd-{}", std::process::id()),
        "--vdev".to_owned(),
        format!("net_pcap0,rx_pcap={acks},infinite_rx=1"),
        "--vdev".to_owned(),
        "net_null0,no-rx=1".to_owned(),
    ];
    eal.extend(scene.memory_arguments());
    let own = [
        "--".to_owned(),
        "--forward-mode=5tswap".to_owned(),
        "--auto-start".to_owned(),
        "--burst=32".to_owned(),
        format!("--rxd={}", DESCRIPTORS),
        format!("--txd={}", DESCRIPTORS),
        format!("--total-num-mbufs={}", scene.mbufs()),
    ];
    eal.into_iter().chain(own).collect()
}
