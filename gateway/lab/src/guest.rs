//! A virtual machine for the gateway: a Debian kernel in QEMU, by software emulation. Its two NICs are bound to vfio-pci
//! behind a virtual IOMMU, as on real hardware.
//!
//! ```text
//!  namespace of one side ── tap wan0 ── NIC 0000:00:03.0 [guest: weir] NIC 0000:00:05.0 ── tap lan0 ── the other side
//! ```
//!
//! The guest's root is an initramfs of this machine's files: busybox, weir and weirctl with their libraries, DPDK's
//! drivers of the NICs. Its init prints the gateway's output to the serial console, and every second one line each of
//! `weirctl stats --all --json` and `weirctl status --json`.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    Lab, Namespace,
    process::{self, Process, must},
};

/// The PCI addresses of the guest's NICs, in the order of [`TAPS`].
pub const SLOTS: [&str; 2] = ["0000:00:03.0", "0000:00:05.0"];
/// The taps that the NICs are connected to.
pub const TAPS: [&str; 2] = ["wan0", "lan0"];
/// Emulation is slow, and the host may be busy.
const BOOT: Duration = Duration::from_secs(120);
/// The DPDK drivers that the guest's gateway needs.
const DRIVERS: [&str; 5] = ["bus_pci", "bus_vdev", "mempool_ring", "net_e1000", "net_virtio"];
/// Kernel modules in loading order. `vfio_virqfd` is part of `vfio` since Linux 6.3.
const MODULES: [&str; 7] =
    ["irqbypass", "vfio", "vfio_virqfd", "vfio_iommu_type1", "vfio-pci-core", "vfio-pci", "tun"];

/// The guest's init. The gateway's own lines and the documents on the console can be told apart, because documents are
/// JSON.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/hugepages /dev/net /var/run /run/weir /tmp
mount -t hugetlbfs huge /dev/hugepages
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
for device in /sys/bus/pci/devices/*; do
  [ "$(cat $device/class)" = 0x020000 ] || continue
  # A driver that is built into the kernel has taken it already.
  [ ! -e $device/driver ] || echo ${device##*/} > $device/driver/unbind
  echo vfio-pci > $device/driver_override
  echo ${device##*/} > /sys/bus/pci/drivers_probe
done
weir --config /etc/weir.toml &
while sleep 1; do
  [ -e /run/weir/weir.sock ] || continue
  weirctl stats --all --json
  weirctl status --json
done
"#;

/// A kind of NIC in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nic {
    /// Intel's 82576: RSS over 8 queues.
    Igb,
    /// virtio-net with four queues and RSS.
    Virtio,
    /// virtio-net with four queues and no RSS: the host chooses the queue.
    VirtioWithoutRss,
}

impl Nic {
    /// QEMU's arguments for the NIC behind a tap.
    fn arguments(self, n: usize) -> [String; 4] {
        let (tap, slot, mac) = (TAPS[n], &SLOTS[n][8..], format!("02:00:00:00:00:0{}", n + 1));
        let queues = if self == Self::Igb { "" } else { ",queues=4" };
        let virtio = "virtio-net-pci,mq=on,vectors=10,disable-legacy=on,iommu_platform=on,ats=on";
        let device = match self {
            Self::Igb => "igb".to_owned(),
            Self::Virtio => format!("{virtio},rss=on,hash=on"),
            Self::VirtioWithoutRss => virtio.to_owned(),
        };
        [
            "-netdev".to_owned(),
            format!("tap,id={tap},ifname={tap},script=no,downscript=no{queues}"),
            "-device".to_owned(),
            format!("{device},netdev={tap},mac={mac},addr={slot}"),
        ]
    }
}

/// The parts that the guest is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The folder of its modules.
    pub modules: PathBuf,
    /// The gateway's program.
    pub weir: PathBuf,
    /// The tool.
    pub weirctl: PathBuf,
}

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    process: Process,
    namespace: Namespace,
}

impl Guest {
    /// Starts a guest whose gateway has this configuration and these rules (`/etc/rules` in the guest). Its taps appear
    /// in `namespace`.
    ///
    /// # Panics
    /// If the image can't be made or QEMU doesn't start.
    #[must_use]
    pub fn start(
        lab: &Lab,
        namespace: &Namespace,
        parts: &Parts,
        nic: Nic,
        (config, rules): (&str, &str),
    ) -> Self {
        let root = lab.subdirectory("root");
        let etc = root.join("etc");
        fs::create_dir_all(&etc).expect("the scratch directory takes files");
        fs::write(etc.join("weir.toml"), config).expect("the scratch directory takes files");
        fs::write(etc.join("rules"), rules).expect("the scratch directory takes files");
        let initrd = lab.directory().join("initrd");
        image(&root, parts, &initrd);
        Self::boot(lab, namespace, (&parts.kernel, &initrd), nic, (1024, "hugepages=192"))
    }

    /// Boots a kernel with an existing root in memory, this many MiB, and additional words on the kernel's command
    /// line.
    ///
    /// # Panics
    /// If QEMU doesn't start.
    #[must_use]
    pub fn boot(
        lab: &Lab,
        namespace: &Namespace,
        (kernel, initrd): (&Path, &Path),
        nic: Nic,
        (memory, words): (u32, &str),
    ) -> Self {
        let mut command = namespace.command("qemu-system-x86_64");
        command.args(["-machine", "q35,kernel-irqchip=split", "-accel", "tcg,thread=multi", "-cpu", "max"]);
        command.args([
            "-m",
            &memory.to_string(),
            "-smp",
            "2",
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
        ]);
        command.args(["-serial", "stdio", "-device", "intel-iommu,intremap=on,device-iotlb=on"]);
        command.args((0..TAPS.len()).flat_map(|n| nic.arguments(n)));
        let more = format!(
            "console=ttyS0 quiet panic=-1 intel_iommu=on tsc=reliable no_timer_check tsc_early_khz={} {words}",
            khz()
        );
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd).args(["-append", &more]);
        let process = Process::start("qemu", &mut command, &lab.directory().join("qemu.log"));
        Self { process, namespace: namespace.clone() }
    }

    /// Moves the tap to the namespace that it leads to, and gives it these addresses.
    ///
    /// # Panics
    /// If QEMU doesn't create it.
    pub fn connect(&self, tap: &str, to: &Namespace, addresses: &[&str]) {
        process::wait_until(tap, BOOT, || {
            self.namespace.ip("-o link").contains(&format!(" {tap}:")).then_some(())
        });
        self.namespace.ip(&format!("link set {tap} netns {}", to.name()));
        for address in addresses {
            to.address(tap, address);
        }
        to.ip(&format!("link set {tap} up"));
    }

    /// Waits until the gateway reports that it is ready.
    ///
    /// # Panics
    /// If it doesn't; the message has its output.
    pub fn wait_for_ready(&mut self) {
        self.line("ready", |line| (line == "ready").then_some(()));
    }

    /// The first result that `wanted` returns for a document of `command` (`stats`, `status`). Documents appear every
    /// second.
    ///
    /// # Panics
    /// If there is no result.
    pub fn document<T>(&mut self, command: &str, mut wanted: impl FnMut(&Value) -> Option<T>) -> T {
        self.line(command, |line| {
            let document: Value = serde_json::from_str(line).ok()?;
            if document["command"] == command { wanted(&document) } else { None }
        })
    }

    fn line<T>(&mut self, what: &str, wanted: impl FnMut(&str) -> Option<T>) -> T {
        self.line_within(what, BOOT, wanted)
    }

    /// The first result that `wanted` returns for a line on the console.
    ///
    /// # Panics
    /// If there is none in time.
    pub fn line_within<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let found = self.process.wait_for(what, limit, |line| wanted(line.trim_end()));
        found.unwrap_or_else(|said| panic!("{said}"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        // The gateway's output, and its last counters.
        let (documents, words): (Vec<_>, Vec<_>) =
            self.process.unread().partition(|line| line.starts_with('{'));
        eprintln!("--- the guest said last\n{}", words.join("\n"));
        let last = documents.iter().rev().find_map(|line| {
            let document: Value = serde_json::from_str(line.trim_end()).ok()?;
            (document["command"] == "stats").then_some(document)
        });
        for list in last.iter().flat_map(|stats| [&stats["counters"], &stats["drops"]]) {
            for counter in list.as_array().into_iter().flatten().filter(|counter| counter["total"] != 0) {
                eprintln!("{}: {}", counter["name"], counter["workers"]);
            }
        }
    }
}

/// The frequency of this machine's time-stamp counter, which the guest shares.
fn khz() -> u64 {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("cpu MHz"));
    let mhz = line.and_then(|line| line.trim_start_matches([' ', '\t', ':']).parse::<f64>().ok());
    (mhz.unwrap_or(2_000.0) * 1e3) as u64
}

/// Fills `root` with the guest's files and packs it.
fn image(root: &Path, parts: &Parts, initrd: &Path) {
    let folder = |name: &str| {
        let path = root.join(name);
        fs::create_dir_all(&path).expect("the scratch directory takes folders");
        path
    };
    let bin = folder("bin");
    for name in ["proc", "sys", "dev", "usr/lib", "usr/lib64"] {
        folder(name);
    }
    // As on Debian: otherwise a library would be found twice.
    symlink("usr/lib", root.join("lib")).expect("a link in a new folder");
    symlink("usr/lib64", root.join("lib64")).expect("a link in a new folder");
    let busybox = must(Command::new("sh").args(["-c", "command -v busybox"]));
    must(Command::new("cp").arg(busybox.trim()).arg(bin.join("busybox")));
    for name in ["sh", "mount", "mkdir", "insmod", "cat", "sleep"] {
        symlink("busybox", bin.join(name)).expect("a link in a new folder");
    }
    let mut files = BTreeSet::new();
    for (program, name) in [(&parts.weir, "weir"), (&parts.weirctl, "weirctl")] {
        must(Command::new("strip").arg("-o").arg(bin.join(name)).arg(program));
        files.extend(libraries(program));
    }
    files.extend(drivers(root));
    for file in &files {
        put(root, file);
    }
    modules(&folder("modules"), &parts.modules);
    let init = root.join("init");
    fs::write(&init, INIT).expect("the scratch directory takes files");
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).expect("an own file");
    let pack = format!("find . | cpio --quiet -o -H newc > '{}'", initrd.display());
    must(Command::new("sh").args(["-c", &pack]).current_dir(root));
}

/// Copies a library to the same path in `root`, below `/usr`.
fn put(root: &Path, file: &Path) {
    let Some(folder) = file.parent().and_then(|folder| folder.canonicalize().ok()) else { return };
    let to = root.join(folder.strip_prefix("/").unwrap_or(&folder));
    fs::create_dir_all(&to).expect("the scratch directory takes folders");
    let to = to.join(file.file_name().unwrap_or_default());
    fs::copy(file, &to).unwrap_or_else(|e| panic!("{} to {}: {e}", file.display(), to.display()));
}

/// The libraries that `ldd` lists for a program or library.
fn libraries(of: &Path) -> Vec<PathBuf> {
    let said = must(Command::new("ldd").arg(of));
    said.split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(PathBuf::from)
        .collect()
}

/// Links DPDK's drivers where EAL looks for them; returns them and their libraries.
fn drivers(root: &Path) -> Vec<PathBuf> {
    let said = must(Command::new("pkg-config").args(["--variable=libdir", "libdpdk"]));
    let libdir = PathBuf::from(said.trim());
    let version = must(Command::new("sh").arg("-c").arg(format!("ls '{}/dpdk'", libdir.display())));
    let version = version.trim().strip_prefix("pmds-").unwrap_or_default().to_owned();
    let abi = version.split('.').next().unwrap_or_default();
    let place = root.join(libdir.strip_prefix("/").unwrap_or(&libdir)).join(format!("dpdk/pmds-{version}"));
    fs::create_dir_all(&place).expect("the scratch directory takes folders");
    let mut files = Vec::new();
    for driver in DRIVERS {
        let name = format!("librte_{driver}.so.{abi}");
        symlink(format!("../../{name}"), place.join(format!("librte_{driver}.so")))
            .expect("a link in a new folder");
        let file = libdir.join(name);
        files.extend(libraries(&file));
        files.push(file);
    }
    files
}

/// Copies the kernel's modules, unpacked, and writes the loading order of those that exist.
fn modules(to: &Path, from: &Path) {
    let mut order = Vec::new();
    for name in MODULES {
        let pattern = format!("{name}.ko*");
        let found = must(Command::new("find").arg(from).args(["-name", &pattern]));
        let Some(file) = found.lines().next() else {
            assert_eq!(name, "vfio_virqfd", "{}: no such module", from.display());
            continue;
        };
        let unpack = if file.ends_with(".xz") { "busybox xzcat \"$0\" >\"$1\"" } else { "cp \"$0\" \"$1\"" };
        must(Command::new("sh").args(["-c", unpack, file]).arg(to.join(format!("{name}.ko"))));
        order.push(name);
    }
    fs::write(to.join("order"), order.join(" ")).expect("the scratch directory takes files");
}
