//! Takes ports from configuration to operation: attaches devices, creates pools, deals queues to the workers, sets RSS
//! and reads it back.
//!
//! Shutdown has the reverse order: workers return (and with them their [`DpdkIo`]), control drops its [`PortHandle`]s,
//! and the [`Eal`] goes last and gives everything back.

use std::cell::RefCell;

use dpdk::{Eal, EalConfig, Mempool, MempoolConfig, Port, PortConfig, PortInfo, Queues, ring};
use thiserror::Error;

pub use super::handle::PortHandle;
use super::{
    PortPlace,
    dpdk::{DpdkIo, PortQueues, Relay, TxPath},
    rss::{HASH_TYPES, set_rss},
};
use crate::{config, mac::Mac, table::rss::Rss};

/// The most frames that may wait for another worker to send them, per port and sending worker.
const RELAY: u32 = 1024;
/// The number of buffers that an lcore caches, per pool.
const CACHE: u32 = 256;
/// The bytes of a frame in addition to its IP packet: Ethernet header, two VLAN tags, and a CRC that some devices
/// leave.
const FRAMING: usize = 14 + 8 + 4;

/// Why ports can't be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// DPDK or the device's driver refused.
    #[error("port `{port}`: {source}")]
    Device {
        /// The port's name.
        port: String,
        /// DPDK's error.
        source: dpdk::Error,
    },
    /// The device can't do what the configuration needs.
    #[error("port `{port}`: {reason}")]
    Unfit {
        /// The port's name.
        port: String,
        /// What is missing.
        reason: String,
    },
}

/// How to start EAL for `ports`: enough memory for their pools, access to their PCI devices only.
#[must_use]
pub fn eal_config(config: &config::Config, log: Option<dpdk::LogSink>) -> EalConfig {
    let cpus = match &config.workers {
        // If pinned, all gateways of a machine would crowd on its first CPU.
        config::Placement::Count(n) => dpdk::Cpus::Floating((*n).into()),
        config::Placement::Cores(cores) => {
            dpdk::Cpus::Pinned(cores.iter().map(|c| usize::from(*c)).collect())
        }
    };
    let workers = config.workers.count();
    let devices = devices(&config.ports);
    EalConfig {
        name: "weir".to_owned(),
        cpus,
        devices: devices.iter().map(|p| p.device.to_string()).collect(),
        memory: devices.iter().map(|p| memory_of(p, workers)).sum(),
        args: config.eal.clone(),
        log,
    }
}

/// The location of the ports: their devices and VLANs.
#[must_use]
pub fn places(ports: &[config::Port]) -> Vec<PortPlace> {
    super::places(ports.iter().map(|p| (&p.device, p.vlan)))
}

/// For each device, whether its frames come from a kernel interface.
#[must_use]
pub fn kernel_interfaces(ports: &[config::Port]) -> Vec<bool> {
    devices(ports).iter().map(|port| port.device.interface().is_some()).collect()
}

/// The first port of each device, with an MTU that suffices for all its ports.
fn devices(ports: &[config::Port]) -> Vec<config::Port> {
    let mut devices: Vec<config::Port> = Vec::new();
    for (port, place) in ports.iter().zip(places(ports)) {
        match devices.get_mut(usize::from(place.device)) {
            Some(first) => first.mtu = first.mtu.zip(port.mtu).map(|(a, b)| a.max(b)),
            None => devices.push(port.clone()),
        }
    }
    devices
}

/// The DPDK memory for a port: its pool, and descriptors of 64 bytes with the driver's data about each.
fn memory_of(port: &config::Port, workers: u16) -> u64 {
    let descriptors = (u64::from(port.rx_desc) + u64::from(port.tx_desc)) * u64::from(workers);
    let rings = u64::from(workers) * u64::from(RELAY) * 16;
    pool_of(port, data_room(port, true)).bytes() + descriptors * 256 + rings + (2 << 20)
}

fn pool_of(port: &config::Port, data_room: usize) -> MempoolConfig {
    MempoolConfig { buffers: port.mbufs, data_room, cache: CACHE, socket: None }
}

/// The bytes that a buffer of the port must hold: a frame, if the device can't receive one into several buffers
/// (`whole_frames`), and the size that `net_af_packet` requires.
fn data_room(port: &config::Port, whole_frames: bool) -> usize {
    let frame = port.mtu.filter(|_| whole_frames).map_or(0, |m| usize::from(m) + FRAMING);
    let slot = port.device.argument("framesz").and_then(|f| f.parse().ok()).unwrap_or(0);
    frame.max(slot).max(dpdk::DATA_ROOM).next_multiple_of(64).min(usize::from(u16::MAX) - dpdk::HEADROOM - 64)
}

pub(super) fn device_error(port: &str, source: dpdk::Error) -> OpenError {
    OpenError::Device { port: port.to_owned(), source }
}

/// Attaches and starts the devices of all `ports` for this many `workers`. Returns each worker's share and, for
/// control, a handle of every device, both numbered as in [`places`].
///
/// # Errors
/// A device can't be attached, set up or started, or lacks a required feature. Ports opened before are closed.
pub fn open(
    eal: &Eal,
    ports: &[config::Port],
    workers: u16,
) -> Result<(Vec<DpdkIo>, Vec<PortHandle>), OpenError> {
    let mut shares: Vec<Vec<PortQueues>> = (0..workers).map(|_| Vec::new()).collect();
    let mut handles = Vec::new();
    for port in &devices(ports) {
        let (queues, handle) = open_one(eal, port, workers)?;
        let dealt = deal(eal, queues, &handle, workers).map_err(|e| device_error(&port.name, e))?;
        shares.iter_mut().zip(dealt).for_each(|(worker, share)| worker.push(share));
        handles.push(handle);
    }
    Ok((shares.into_iter().map(DpdkIo::new).collect(), handles))
}

fn open_one(eal: &Eal, config: &config::Port, workers: u16) -> Result<(Queues, PortHandle), OpenError> {
    let refuse = |e| device_error(&config.name, e);
    let unfit = |reason: String| Err(OpenError::Unfit { port: config.name.clone(), reason });
    let mut port = eal.attach(&device_for(config, workers)).map_err(refuse)?;
    let info = port.info().map_err(refuse)?;
    if let Some(mtu) = config.mtu.filter(|mtu| !(info.min_mtu..=info.max_mtu).contains(mtu)) {
        return unfit(format!(
            "mtu {mtu}: its device ({}) takes {} to {}",
            info.driver, info.min_mtu, info.max_mtu
        ));
    }
    let (rx_queues, tx_queues) = (info.max_rx_queues.min(workers), info.max_tx_queues.min(workers));
    if rx_queues == 0 || tx_queues == 0 {
        return unfit(format!("its device ({}) lacks receive or transmit queues", info.driver));
    }
    // The kernel deals frames to every socket that the driver has opened, even if it isn't polled.
    if info.driver == "net_af_packet" && info.max_rx_queues > workers {
        return unfit(format!(
            "qpairs={} is more than the number of workers ({workers})",
            info.max_rx_queues
        ));
    }
    // Unlike most virtual devices, real ones take a buffer for every receive descriptor when they start.
    let descriptors = u32::from(rx_queues) * u32::from(config.rx_desc);
    if config.device.bus() == config::Bus::Pci && config.mbufs < descriptors {
        return unfit(format!(
            "mbufs {}: {rx_queues} receive queues with rx_desc {} need {descriptors}",
            config.mbufs, config.rx_desc
        ));
    }
    let room = data_room(config, !info.offloads.scatter).max(info.min_rx_buffer);
    let pool = MempoolConfig { socket: info.socket, ..pool_of(config, room) };
    let pool = Mempool::new(eal, &pool).map_err(refuse)?;
    let (queues, rss) = start(&mut port, &info, config, workers, &pool).map_err(refuse)?;
    let (mac, mtu) = (port.mac().map(Mac).map_err(refuse)?, port.mtu().map_err(refuse)?);
    let handle = PortHandle {
        name: config.name.clone(),
        device: port.device().to_owned(),
        port: RefCell::new(Some(port)),
        pool,
        mac,
        mtu,
        info,
        offloads: queues.offloads,
        rx_queues,
        tx_queues,
        rss,
    };
    Ok((queues, handle))
}

/// Sets up and starts an attached port with a queue pair per worker, as far as the device has that many.
pub(super) fn start(
    port: &mut Port,
    info: &PortInfo,
    config: &config::Port,
    workers: u16,
    pool: &Mempool,
) -> Result<(Queues, Result<Rss, String>), dpdk::Error> {
    let wanted = PortConfig {
        rx_queues: info.max_rx_queues.min(workers),
        tx_queues: info.max_tx_queues.min(workers),
        rx_descriptors: config.rx_desc,
        tx_descriptors: config.tx_desc,
        mtu: config.mtu,
        hash_types: if workers > 1 { HASH_TYPES } else { 0 },
        ..PortConfig::default()
    };
    let queues = port.start(&wanted, pool)?;
    // ARP, neighbour discovery and routing daemons use group addresses. Most virtual devices deliver those anyway and
    // don't have this mode.
    _ = port.set_all_multicast(true);
    let rss = set_rss(port, info, wanted.rx_queues, workers);
    Ok((queues, rss))
}

/// The device string: as configured, with a queue pair per worker where the driver must be told.
pub(super) fn device_for(port: &config::Port, workers: u16) -> String {
    /// The most queues that the driver supports.
    const AF_PACKET_QUEUES: u16 = 16;
    let device = port.device.to_string();
    let tell = port.device.bus() == config::Bus::Virtual("net_af_packet")
        && port.device.argument("qpairs").is_none()
        && workers > 1;
    if tell { format!("{device},qpairs={}", workers.min(AF_PACKET_QUEUES)) } else { device }
}

/// Deals a port's queues to the workers, with rings for those without a send queue.
pub(super) fn deal(
    eal: &Eal,
    queues: Queues,
    handle: &PortHandle,
    workers: u16,
) -> Result<Vec<PortQueues>, dpdk::Error> {
    let owners = handle.tx_queues;
    let mut ways = Vec::new();
    let mut senders = Vec::new();
    for (owner, queue) in (0..owners).zip(queues.tx) {
        let relay = if owner + owners < workers {
            let (sender, receiver) = ring::mpsc(eal, RELAY)?;
            senders.push(sender);
            Some(Box::new(Relay::new(receiver)))
        } else {
            None
        };
        ways.push(TxPath::Queue(queue, relay));
    }
    // Worker w without a queue uses the one of worker w mod owners, which has a relay since w - owners >= it.
    ways.extend((owners..workers).map(|w| TxPath::Ring(senders[usize::from(w % owners)].clone())));
    let rx = queues.rx.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
    Ok(ways.into_iter().zip(rx).map(|(way, rx)| PortQueues { rx, way, pool: handle.pool.clone() }).collect())
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs, path::Path, time::Duration};

    use super::*;
    use crate::io::{Burst, Frame, Hand, Io, PortId, memory::MemoryFrame};

    fn config(workers: u16, devices: &[&str]) -> config::Config {
        let mut text = format!("workers = {workers}\neal = [\"--no-huge\"]\n");
        for (n, device) in devices.iter().enumerate() {
            write!(text, "[[port]]\nname = \"p{n}\"\ndevice = \"{device}\"\nmbufs = 4096\n").unwrap();
        }
        config::Config::parse(&text, Path::new("test.toml")).unwrap()
    }

    /// Runs a test in its own process: DPDK's EAL starts only once per process, and tests may share one.
    fn in_own_process(test: &str, body: fn()) {
        const CHILD: &str = "WEIR_TEST_IN_OWN_PROCESS";
        if std::env::var_os(CHILD).is_some() {
            return body();
        }
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", &format!("{}::{test}", module_path!().split_once("::").unwrap().1)]);
        let output = child.args(["--nocapture"]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    fn eal(config: &config::Config) -> Eal {
        Eal::init(&eal_config(config, None)).unwrap()
    }

    /// A pcap file (classic format, Ethernet) of `frames`.
    fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
        let header = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_536, 1u32];
        let mut bytes: Vec<u8> = header.iter().flat_map(|w| w.to_le_bytes()).collect();
        for frame in frames {
            let length = frame.len() as u32;
            bytes.extend([0, 0, length, length].iter().flat_map(|w| w.to_le_bytes()));
            bytes.extend(frame);
        }
        bytes
    }

    /// The frames in such a file, without their time stamps.
    fn frames_in(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut rest = &bytes[24..];
        let mut frames = Vec::new();
        while let Some(length) = rest.get(8..12) {
            let end = 16 + u32::from_le_bytes(length.try_into().unwrap()) as usize;
            frames.push(rest[16..end].to_vec());
            rest = &rest[end..];
        }
        frames
    }

    #[test]
    fn a_worker_without_queues_sends_by_way_of_another() {
        in_own_process("a_worker_without_queues_sends_by_way_of_another", || {
            let dir = std::env::temp_dir().join(format!("weir-ports-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            let (input, output) = (dir.join("in.pcap"), dir.join("out.pcap"));
            let frames: Vec<Vec<u8>> = (0..40u8).map(|i| vec![i; 60 + usize::from(i) * 100]).collect();
            fs::write(&input, pcap(&frames)).unwrap();
            let device = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
            let config = config(3, &[&device]);
            let eal = eal(&config);
            let (mut workers, handles) = open(&eal, &config.ports, 3).unwrap();
            assert_eq!((handles[0].rx_queues, handles[0].tx_queues), (1, 1));
            assert_eq!(handles[0].rss, Err("1 receive queues for 3 workers".to_owned()));
            assert!(handles[0].wait_link(Duration::from_secs(1)).unwrap());

            let port = PortId(0);
            let mut burst = Burst::new();
            workers[1].rx(port, &mut burst);
            assert!(burst.is_empty());
            for worker in [1, 2, 1] {
                workers[0].rx(port, &mut burst);
                workers[worker].tx(port, &mut burst);
                assert!(burst.is_empty());
            }
            // The worker with the device's queue sends the others' frames as it polls, one burst at a time, and
            // receives nothing more.
            workers[0].rx(port, &mut burst);
            assert!(burst.is_empty());
            drop((workers, handles));
            eal.shutdown().unwrap();
            assert_eq!(frames_in(&fs::read(&output).unwrap()), frames);
            fs::remove_dir_all(&dir).unwrap();
        });
    }

    #[test]
    fn every_worker_has_its_queues_where_there_are_enough() {
        in_own_process("every_worker_has_its_queues_where_there_are_enough", || {
            let config = config(2, &["net_null0", "net_null1"]);
            let eal = eal(&config);
            let (mut workers, handles) = open(&eal, &config.ports, 2).unwrap();
            assert_eq!(workers.len(), 2);
            for (n, handle) in handles.iter().enumerate() {
                assert_eq!((handle.name(), handle.rx_queues, handle.tx_queues), (&*format!("p{n}"), 2, 2));
                assert!(handle.rss.as_ref().unwrap_err().contains("doesn't follow them"));
            }
            for worker in &mut workers {
                assert_eq!(worker.ports(), 2);
                let mut burst = Burst::new();
                worker.rx(PortId(1), &mut burst);
                assert_eq!(burst.len(), 32);
                worker.tx(PortId(0), &mut burst);
                assert!(burst.is_empty());
            }
            drop(workers);
            handles.into_iter().for_each(|h| h.close().unwrap());
            eal.shutdown().unwrap();
        });
    }

    #[test]
    fn a_device_can_be_taken_from_workers_and_brought_back() {
        in_own_process("a_device_can_be_taken_from_workers_and_brought_back", || {
            let config = config(3, &["net_null0,copy=1", "net_null1"]);
            let eal = eal(&config);
            let (mut workers, handles) = open(&eal, &config.ports, 3).unwrap();
            let port = PortId(0);
            let mut exchange = |hands: Vec<Hand>| {
                let each = workers.iter_mut().zip(hands);
                each.for_each(|(worker, mut hand)| worker.exchange(port, &mut hand));
                let mut burst = Burst::new();
                workers[1].rx(port, &mut burst);
                let received = burst.len();
                workers[1].tx(port, &mut burst);
                received
            };
            let mac = handles[0].mac();
            for _ in 0..3 {
                assert_eq!(exchange(handles[0].nothing(&eal, 3).unwrap()), 0);
                handles[0].detach(&eal).unwrap();
                assert!(handles[0].port().is_none() && !handles[0].is_up());
                let hands = handles[0].reattach(&eal, &config.ports[0], 3).unwrap();
                assert_eq!(exchange(hands), 32);
                assert_eq!(handles[0].port().unwrap().mac().unwrap(), mac.0);
            }
            drop(workers);
            handles.into_iter().for_each(|h| h.close().unwrap());
            eal.shutdown().unwrap();
        });
    }

    #[test]
    fn frames_of_dpdk_behave_as_those_in_memory() {
        in_own_process("frames_of_dpdk_behave_as_those_in_memory", || {
            let config = config(1, &["net_null0"]);
            let eal = eal(&config);
            let (mut workers, handles) = open(&eal, &config.ports, 1).unwrap();
            let mut fresh = workers[0].alloc().unwrap();
            assert_eq!((fresh.total_len(), Frame::data(&fresh).len()), (0, 0));
            assert!(Frame::reset(&mut fresh, 60) && !Frame::reset(&mut fresh, 1 << 20));
            assert_eq!(fresh.total_len(), 60);

            let bytes: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
            let real = handles[0].pool().alloc_from(&bytes).unwrap();
            let parts: Vec<&[u8]> = real.segments().collect();
            let model = MemoryFrame::chained(&parts);
            drive(handles[0].pool().alloc_from(&bytes).unwrap(), model);
            drop((real, fresh, workers, handles));
            eal.shutdown().unwrap();
        });
    }

    /// The same steps on both kinds of frames must have the same result.
    fn drive(mut a: dpdk::Mbuf, mut b: MemoryFrame) {
        let mut same = |step: &dyn Fn(&mut dyn Steps) -> bool| {
            assert_eq!(step(&mut a), step(&mut b));
            assert_eq!(a.all(), b.all());
        };
        same(&|f| f.prepend(14));
        same(&|f| f.prepend(10_000));
        same(&|f| f.trim_front(34));
        same(&|f| f.trim_front(3000));
        same(&|f| f.truncate(6000));
        same(&|f| f.truncate(4500));
        same(&|f| f.truncate(2100));
        same(&|f| f.truncate(60));
        same(&|f| f.write(b"header"));
    }

    /// The operations of any kind of frame.
    trait Steps {
        fn prepend(&mut self, n: usize) -> bool;
        fn trim_front(&mut self, n: usize) -> bool;
        fn truncate(&mut self, n: usize) -> bool;
        fn write(&mut self, bytes: &[u8]) -> bool;
        fn all(&self) -> (usize, Vec<Vec<u8>>);
    }

    impl<F: Frame> Steps for F {
        fn prepend(&mut self, n: usize) -> bool {
            let done = Frame::prepend(self, n);
            // What prepending uncovers is unspecified.
            if done {
                self.data_mut()[..n].fill(9);
            }
            done
        }
        fn trim_front(&mut self, n: usize) -> bool {
            Frame::trim_front(self, n)
        }
        fn truncate(&mut self, n: usize) -> bool {
            Frame::truncate(self, n);
            true
        }
        fn write(&mut self, bytes: &[u8]) -> bool {
            self.data_mut()[..bytes.len()].copy_from_slice(bytes);
            true
        }
        fn all(&self) -> (usize, Vec<Vec<u8>>) {
            (self.total_len(), (0..).map_while(|n| self.segment(n).map(<[u8]>::to_vec)).collect())
        }
    }

    #[test]
    fn queue_pairs_are_requested_where_the_driver_needs_it() {
        let config = config(2, &["net_af_packet0,iface=a", "net_af_packet1,iface=b,qpairs=1", "net_null0"]);
        let device = |n: usize, workers| device_for(&config.ports[n], workers);
        assert_eq!(device(0, 1), "net_af_packet0,iface=a");
        assert_eq!(device(0, 3), "net_af_packet0,iface=a,qpairs=3");
        assert_eq!(device(0, 30), "net_af_packet0,iface=a,qpairs=16");
        assert_eq!(device(1, 2), "net_af_packet1,iface=b,qpairs=1");
        assert_eq!(device(2, 2), "net_null0");
    }

    #[test]
    fn buffers_are_as_large_as_frames_need() {
        let mut config = config(1, &["net_null0", "net_af_packet0,iface=a,framesz=16384"]);
        let room = |c: &config::Config, n: usize, whole| data_room(&c.ports[n], whole);
        assert_eq!(room(&config, 0, true), 2048);
        assert_eq!(room(&config, 1, false), 16384);
        config.ports[0].mtu = Some(9000);
        assert_eq!((room(&config, 0, true), room(&config, 0, false)), (9088, 2048));
        config.ports[0].mtu = Some(u16::MAX);
        assert!(room(&config, 0, true) + dpdk::HEADROOM <= usize::from(u16::MAX));
    }

    #[test]
    fn a_port_that_can_t_be_opened_is_named() {
        in_own_process("a_port_that_can_t_be_opened_is_named", || {
            let config = config(1, &["net_null0", "net_af_packet0,iface=weir-nothere"]);
            let eal = eal(&config);
            let error = open(&eal, &config.ports, 1).err().unwrap().to_string();
            assert!(
                error.starts_with("port `p1`: device \"net_af_packet0,iface=weir-nothere\": attach: "),
                "{error}"
            );
            eal.shutdown().unwrap();
        });
    }
}
