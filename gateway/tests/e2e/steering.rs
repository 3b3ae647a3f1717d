//! The test plays the NIC: the other ends of two memif devices with two queues each, and a queue for every frame.
//!
//! memif has no RSS, so the gateway computes owners itself, by the function that it would set on a NIC. Here that
//! function chooses the queues: then no reply may need handing over. In the wrong queue every one does.

use std::{net::Ipv4Addr, path::Path, process::Command, time::Duration};

use arrayvec::ArrayVec;
use dpdk::{Cpus, Eal, EalConfig, Mbuf, Mempool, MempoolConfig, Port, PortConfig, Queues};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use lab::{
    Lab,
    process::{self, Process, wait_until},
};
use weir::{net::toeplitz::Toeplitz, table::rss::Rss};

use crate::scene::programs;

const WORKERS: u16 = 2;
const CLIENTS: u16 = 200;
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x20];
const PEER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

/// Source and destination with ports.
type Tuple = (Ipv4Addr, u16, Ipv4Addr, u16);

/// One end of a wire.
struct End {
    queues: Queues,
    _port: Port,
}

/// What hashes frames onto queues.
struct Nic {
    pool: Mempool,
    hash: Toeplitz,
    rss: Rss,
    clients: End,
    servers: End,
    _eal: Eal,
}

impl Nic {
    fn new(directory: &Path) -> Self {
        let args = ["--no-huge", "--no-pci"].map(str::to_owned).to_vec();
        let eal = Eal::init(&EalConfig {
            name: "weir-test-nic".to_owned(),
            cpus: Cpus::Floating(0),
            devices: Vec::new(),
            memory: 64 << 20,
            args,
            log: None,
        })
        .unwrap();
        let pool = Mempool::new(&eal, &MempoolConfig { buffers: 8191, ..Default::default() }).unwrap();
        let end = |id| {
            let mut port = eal.attach(&device(directory, id, "server")).unwrap();
            let config = PortConfig { rx_queues: WORKERS, tx_queues: WORKERS, ..Default::default() };
            End { queues: port.start(&config, &pool).unwrap(), _port: port }
        };
        let (clients, servers) = (end(0), end(1));
        let rss = Rss::weir(WORKERS);
        Self { hash: Toeplitz::new(&rss.key), rss, pool, clients, servers, _eal: eal }
    }

    /// The queue that a NIC with the gateway's key and table would choose.
    fn queue(&self, (source, sport, destination, dport): Tuple) -> usize {
        let hash = self.hash.ipv4_ports(source, destination, sport, dport) as usize;
        self.rss.reta[hash % self.rss.reta.len()].into()
    }

    /// Puts a TCP packet into queue number `queue`: a SYN, or with `ack` the answer to one.
    fn send(&mut self, from_servers: bool, queue: usize, tuple: Tuple, ack: bool) {
        let (source, sport, destination, dport) = tuple;
        let packet = PacketBuilder::ethernet2(PEER, MAC)
            .ipv4(source.octets(), destination.octets(), 64)
            .tcp(sport, dport, 7, 1024)
            .syn();
        let packet = if ack { packet.ack(8) } else { packet };
        let mut bytes = Vec::new();
        packet.write(&mut bytes, &[]).unwrap();
        let mut burst = ArrayVec::<Mbuf, 1>::new();
        burst.push(self.pool.alloc_from(&bytes).unwrap());
        let end = if from_servers { &mut self.servers } else { &mut self.clients };
        // memif's ends find each other in their own time: the gateway is ready before this one has heard of it.
        wait_until("a wire that takes a frame", Duration::from_secs(5), || {
            (end.queues.tx[queue].tx(&mut burst) == 1).then_some(())
        });
    }

    /// The next packet's tuple on one side, from whichever queue.
    fn receive(&mut self, from_servers: bool) -> Tuple {
        let end = if from_servers { &mut self.servers } else { &mut self.clients };
        wait_until("a frame", Duration::from_secs(5), || {
            let mut burst = ArrayVec::<Mbuf, 1>::new();
            end.queues.rx.iter_mut().position(|queue| queue.rx(&mut burst) > 0)?;
            tuple(burst[0].data())
        })
    }
}

fn device(directory: &Path, id: u16, role: &str) -> String {
    let socket = directory.join("memif.sock");
    format!("net_memif{id},role={role},id={id},socket={},socket-abstract=no", socket.display())
}

fn tuple(frame: &[u8]) -> Option<Tuple> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (&packet.net, &packet.transport) else {
        return None;
    };
    let header = ip.header();
    Some((header.source_addr(), tcp.source_port(), header.destination_addr(), tcp.destination_port()))
}

fn configuration(directory: &Path) -> String {
    let mut text = format!(
        "socket = {:?}\nworkers = {WORKERS}\nhost = false\nidle = \"backoff\"\nrules = {:?}\n\
         eal = [\"--no-pci\", \"--no-huge\", \"-m\", \"256\"]\n",
        directory.join("weir.sock"),
        directory.join("rules")
    );
    for (id, name, network, via) in
        [(0, "clients", "172.16.0.0/16", "192.0.2.254"), (1, "servers", "10.0.0.0/24", "10.0.0.254")]
    {
        let device = format!("{},zero-copy=no,mac=02:00:00:00:00:20", device(directory, id, "client"));
        text += &format!(
            "[[port]]\nname = {name:?}\ndevice = {device:?}\nmbufs = 8192\n[[route]]\nto = {network:?}\nvia = {via:?}\n\
             port = {name:?}\n[[neighbour]]\naddress = {via:?}\nmac = \"02:00:00:00:00:01\"\nport = {name:?}\n"
        );
    }
    text
}

/// Counters by worker.
fn by_worker(directory: &Path, name: &str) -> Vec<u64> {
    let mut command = Command::new(programs().weirctl);
    let stats = process::must(
        command.env("WEIR_SOCKET", directory.join("weir.sock")).args(["stats", "--all", "--json"]),
    );
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let counter =
        stats["counters"].as_array().unwrap().iter().find(|counter| counter["name"] == name).unwrap();
    counter["workers"].as_array().unwrap().iter().filter_map(serde_json::Value::as_u64).collect()
}

#[test]
fn replies_come_home_by_the_nics_hash() {
    let lab = Lab::new();
    let directory = lab.directory();
    let mut nic = Nic::new(directory);
    let rules = format!(
        "-A -t {VIP}:80 -s rr\n-P -t {VIP}:80 -z 10.0.0.100\n-a -t {VIP}:80 -r {SERVER}:80 --fullnat\n"
    );
    std::fs::write(directory.join("rules"), rules).unwrap();
    let file = directory.join("weir.toml");
    std::fs::write(&file, configuration(directory)).unwrap();
    let mut command = Command::new(programs().weir);
    let mut weir = Process::start("weir", command.arg("--config").arg(&file), &directory.join("weir.log"));
    weir.wait_for_line("ready", Duration::from_secs(30)).unwrap();

    let mut replies = Vec::new();
    for n in 0..CLIENTS {
        let syn = (Ipv4Addr::new(172, 16, 0, n as u8), 20_000 + n, VIP, 80);
        let queue = nic.queue(syn);
        nic.send(false, queue, syn, false);
        let (local, port, server, server_port) = nic.receive(true);
        assert_eq!((server, server_port), (SERVER, 80));
        let reply = (server, server_port, local, port);
        let queue = nic.queue(reply);
        nic.send(true, queue, reply, true);
        assert_eq!(nic.receive(false), (VIP, 80, syn.0, syn.1));
        replies.push((reply, syn));
    }
    let opened = by_worker(directory, "sessions-opened");
    assert_eq!(opened.iter().sum::<u64>(), u64::from(CLIENTS));
    assert!(opened.iter().all(|&sessions| sessions > 40), "sessions by worker: {opened:?}");
    assert_eq!(by_worker(directory, "handed-over"), [0, 0]);

    for (reply, syn) in replies {
        let wrong = 1 - nic.queue(reply);
        nic.send(true, wrong, reply, true);
        assert_eq!(nic.receive(false), (VIP, 80, syn.0, syn.1));
    }
    let handed = by_worker(directory, "handed-over");
    assert_eq!(handed.iter().sum::<u64>(), u64::from(CLIENTS), "by worker: {handed:?}");
}
