//! Links that are down when the gateway starts or go later, devices and twins that go: it does what it can, and says so.

use std::{path::Path, process::Command, time::Duration};

use arrayvec::ArrayVec;
use dpdk::{Cpus, Eal, EalConfig, Mbuf, Mempool, MempoolConfig, PortConfig};
use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use lab::{
    Lab, Namespace,
    gateway::Gateway,
    process::{self, Process, wait_until},
    servers::Web,
    topology::{self, Options, VIP},
};
use nix::sys::signal::Signal;

use crate::scene::{Scene, Visitor, programs, with_one_and_two_workers};

const PATIENCE: Duration = Duration::from_secs(20);

/// `weirctl status --json`.
fn status(gateway: &Gateway) -> serde_json::Value {
    serde_json::from_str(&gateway.ctl("status --json")).expect("--json prints JSON")
}

/// Waits until exactly these are the faults of port number `port`.
fn wait_for_faults(gateway: &Gateway, port: usize, wanted: &[&str]) {
    let mut seen = String::new();
    for _ in 0..200 {
        let status = status(gateway);
        let faults = status["ports"][port]["faults"].as_array().cloned().unwrap_or_default();
        seen = format!("{faults:?}");
        let same = faults.len() == wanted.len()
            && faults.iter().zip(wanted).all(|(f, w)| f.as_str().is_some_and(|f| f.starts_with(w)));
        if same {
            assert_eq!(status["degraded"], !wanted.is_empty());
            let warned = status["warnings"].to_string();
            assert!(wanted.iter().all(|fault| warned.contains(fault)), "{warned}");
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("waited in vain for {wanted:?}: {seen}");
}

/// Whether the kernel's side of a port has a carrier.
fn wait_for_carrier(twins: &Namespace, name: &str, carrier: bool) {
    wait_until(&format!("carrier {carrier} of {name}"), PATIENCE, || {
        (twins.ip(&format!("link show {name}")).contains("NO-CARRIER") != carrier).then_some(())
    });
}

/// The good port serves; the other one joins when its link comes.
#[test]
fn a_link_that_is_down_at_start_joins_later() {
    let network = topology::fullnat(&Options::default());
    let router = network.beyond.clone();
    router.ip("link set up0 down");
    let web = network.servers.iter().map(|host| Web::start(&network.lab, host, 80)).collect();
    let gateway = Gateway::start(&programs(), &network.lab, &network.gateway, &network.config);
    let mut scene = Scene { gateway, web, network };
    wait_for_faults(&scene.gateway, 1, &["the link is down"]);
    assert!(scene.gateway.ctl("status").lines().next().is_some_and(|line| line.ends_with(", degraded")));
    let client = scene.network.client.clone();
    client.run(&format!("ping -c 1 -W 5 -q {VIP}"));
    assert!(scene.gateway.process().log().contains("degraded: port lan: the link is down"));

    router.ip("link set up0 up");
    wait_for_carrier(&scene.network.twins, "lan", true);
    wait_for_faults(&scene.gateway, 1, &[]);
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    assert_eq!(scene.answers(2), ["RS1", "RS1"]);
    scene.gateway.stop();
}

#[test]
fn a_link_that_goes_takes_the_twins_carrier_with_it() {
    let scene = Scene::fullnat(&Options::default());
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let mut visitor = Visitor::connect(&scene);
    let router = &scene.network.beyond;
    router.ip("link set up0 down");
    wait_for_carrier(&scene.network.twins, "lan", false);
    wait_for_faults(&scene.gateway, 1, &["the link is down"]);
    router.ip("link set up0 up");
    wait_for_carrier(&scene.network.twins, "lan", true);
    wait_for_faults(&scene.gateway, 1, &[]);
    assert_eq!(visitor.ask().expect("the connection goes on"), "RS1");
    scene.gateway.stop();
}

#[test]
fn a_deleted_interface_is_reported() {
    let scene = Scene::fullnat(&Options::default());
    scene.network.gateway.ip("link del lan0");
    wait_for_faults(&scene.gateway, 1, &["interface `lan0` is gone"]);
    wait_for_carrier(&scene.network.twins, "lan", false);
    scene.network.client.run(&format!("ping -c 1 -W 5 -q {VIP}"));
    scene.gateway.stop();
}

with_one_and_two_workers!(a_recreated_interface_joins_again);

/// Deleted and made again, with another MAC address, twice.
fn a_recreated_interface_joins_again(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    let (gateway, router) = (&scene.network.gateway, &scene.network.beyond);
    for _ in 0..2 {
        assert_eq!(scene.answers(2).len(), 2);
        gateway.ip("link del lan0");
        wait_for_faults(&scene.gateway, 1, &["interface `lan0` is gone"]);
        wait_for_carrier(&scene.network.twins, "lan", false);
        scene.network.client.run(&format!("ping -c 1 -W 5 -q {VIP}"));
        gateway.cable("lan0", router, "up0");
        router.address("up0", "10.10.0.1/24");
        wait_for_faults(&scene.gateway, 1, &[]);
        wait_for_carrier(&scene.network.twins, "lan", true);
    }
    assert_eq!(scene.answers(2).len(), 2);
    scene.gateway.stop();
}

#[test]
fn twins_that_are_set_down_renamed_or_deleted() {
    let scene = Scene::fullnat(&Options::default());
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let twins = &scene.network.twins;
    twins.ip("link set lan down");
    wait_for_faults(&scene.gateway, 1, &["its twin is down"]);
    twins.ip("link set lan up");
    wait_for_faults(&scene.gateway, 1, &[]);
    assert_eq!(scene.answers(1), ["RS1"]);
    twins.ip("link set lan name inner");
    wait_for_faults(&scene.gateway, 1, &["its twin was renamed to `inner`"]);
    twins.ip("link set inner name lan");
    wait_for_faults(&scene.gateway, 1, &[]);
    twins.ip("link del lan");
    wait_until("the twin to be created again", PATIENCE, || {
        twins.ip("-br address").contains("10.10.0.200/32").then_some(())
    });
    wait_for_faults(&scene.gateway, 1, &[]);
    assert_eq!(scene.answers(1), ["RS1"]);
    scene.gateway.stop();
}

#[test]
fn signals_that_daemons_get_are_ignored() {
    let mut scene = Scene::fullnat(&Options::default());
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    for signal in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGALRM] {
        scene.gateway.process().signal(signal);
        let line = format!("{signal} is ignored");
        wait_until(&line, PATIENCE, || {
            let told = scene.gateway.process().log().contains(&line);
            (told || signal == Signal::SIGPIPE).then_some(())
        });
    }
    assert_eq!(scene.answers(1), ["RS1"]);
    scene.gateway.stop();
}

/// A killed gateway leaves nothing where EAL has its files, and what a dead one of old has left goes with the next start.
#[test]
fn nothing_is_left_in_eals_directory() {
    let mut scene = Scene::fullnat(&Options::default());
    let directory = Path::new("/run/dpdk");
    let own = format!("weir-{}-", scene.gateway.process().id());
    let left = |prefix: &str| {
        let entries = directory.read_dir().into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).count()
    };
    assert_eq!(left(&own), 0);
    scene.gateway.process().kill();
    assert_eq!(left(&own), 0);
    // The killed one's number is nobody's now.
    let old = directory.join(format!("{own}abc123"));
    std::fs::create_dir_all(&old).expect("a directory");
    std::fs::write(old.join("config"), "old").expect("a file");
    let network = &scene.network;
    scene.gateway = Gateway::start(&programs(), &network.lab, &network.gateway, &network.config);
    assert!(!old.exists());
    scene.gateway.stop();
}

const TWIN: [u8; 6] = [2, 0, 0, 0, 0, 0x20];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// memif has no link until its other end is there. Then the kernel answers ARP.
#[test]
fn a_memif_whose_peer_comes_late_joins() {
    let mut lab = Lab::new();
    let twins = lab.namespace("twins");
    let directory = lab.directory().to_owned();
    let socket = directory.join("memif.sock");
    let device =
        |role: &str| format!("net_memif0,role={role},id=0,socket={},socket-abstract=no", socket.display());
    let text = format!(
        "socket = {:?}\nhost_namespace = {:?}\nidle = \"backoff\"\neal = [\"--no-pci\", \"--no-huge\", \"-m\", \"256\"]\n\
         [[port]]\nname = \"wan\"\ndevice = \"{},mac=02:00:00:00:00:20\"\nmbufs = 8192\n\
         addresses = [\"192.0.2.1/24\"]\n",
        directory.join("weir.sock"),
        twins.path(),
        device("server"),
    );
    let file = directory.join("weir.toml");
    std::fs::write(&file, text).expect("a file in the lab");
    let mut command = Command::new(programs().weir);
    let mut weir = Process::start("weir", command.arg("--config").arg(&file), &directory.join("weir.log"));
    weir.wait_for_line("ready", Duration::from_secs(30)).expect("ready with the link down");
    let shown = || {
        let mut command = Command::new(programs().weirctl);
        process::must(command.env("WEIR_SOCKET", directory.join("weir.sock")).arg("status"))
    };
    assert!(shown().contains(", degraded"), "{}", shown());
    wait_for_carrier(&twins, "wan", false);

    let eal = Eal::init(&EalConfig {
        name: "weir-test-peer".to_owned(),
        cpus: Cpus::Floating(0),
        devices: Vec::new(),
        memory: 64 << 20,
        args: ["--no-huge", "--no-pci"].map(str::to_owned).to_vec(),
        log: None,
    })
    .unwrap();
    let pool = Mempool::new(&eal, &MempoolConfig { buffers: 8191, ..Default::default() }).unwrap();
    let mut port = eal.attach(&(device("client") + ",zero-copy=no")).unwrap();
    let mut queues = port.start(&PortConfig::default(), &pool).unwrap();
    wait_for_carrier(&twins, "wan", true);
    let request = who_has([192, 0, 2, 1], [192, 0, 2, 9]);
    wait_until("an answer to ARP", PATIENCE, || {
        let mut burst = ArrayVec::<Mbuf, 1>::new();
        burst.extend(pool.alloc_from(&request));
        queues.tx[0].tx(&mut burst);
        let mut received = ArrayVec::<Mbuf, 32>::new();
        queues.rx[0].rx(&mut received);
        received
            .iter()
            .any(|frame| frame.data().get(20..28) == Some(&[&[0, 2], &TWIN[..]].concat()))
            .then_some(())
    });
    assert!(!shown().contains(", degraded"), "{}", shown());
    weir.signal(Signal::SIGTERM);
    assert!(weir.wait(Duration::from_secs(10)).success());
}

/// An ARP request for `target` from `sender`.
fn who_has(target: [u8; 4], sender: [u8; 4]) -> Vec<u8> {
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &PEER,
        &sender,
        &[0; 6],
        &target,
    );
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(PEER, [0xff; 6])
        .arp(arp.expect("lengths that fit"))
        .write(&mut frame)
        .expect("a frame");
    frame
}
