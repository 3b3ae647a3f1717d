//! An environment for tests: ordinary memory, no PCI. EAL starts only once per process, so the tests here rely on
//! running in separate processes, as with cargo-nextest.

use crate::{Cpus, Eal, EalConfig, Mempool, MempoolConfig};

pub(crate) fn config(workers: usize) -> EalConfig {
    EalConfig {
        name: "dpdk-test".to_owned(),
        cpus: Cpus::Floating(workers),
        devices: Vec::new(),
        memory: 64 << 20,
        args: vec!["--no-huge".to_owned(), "--no-pci".to_owned()],
        log: None,
    }
}

pub(crate) fn eal(workers: usize) -> Eal {
    Eal::init(&config(workers)).unwrap()
}

pub(crate) fn pool(eal: &Eal) -> Mempool {
    Mempool::new(eal, &MempoolConfig { buffers: 4095, ..MempoolConfig::default() }).unwrap()
}

/// A directory for a test's files, removed at the end with its contents.
pub(crate) struct Directory(pub std::path::PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("dpdk-test-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes frames as a pcap file (the classic format, Ethernet).
pub(crate) fn write_pcap(path: &str, frames: &[Vec<u8>]) {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, 1u32] {
        bytes.extend(word.to_le_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    std::fs::write(path, bytes).unwrap();
}

/// Reads such a file.
pub(crate) fn read_pcap(path: &str) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = &bytes[24..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        frames.push(rest[16..16 + length].to_vec());
        rest = &rest[16 + length..];
    }
    frames
}
