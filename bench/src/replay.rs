//! One worker in process, on ordinary memory: the packet path alone, without DPDK.
//!
//! Frames are copied from a list of templates into buffers of a pool that works as a mempool's cache does
//! (last in, first out), so that what remains is the path's own cost, and it's the same in every run.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use weir::{
    clock::Tick,
    control::{
        plane::{AddressKind, Plane, PlaneChange, ServiceState},
        workers::{self, Workers},
    },
    id::{ServerId, ServiceId, WorkerId},
    io::{BURST, Burst, Frame, Io, PortId},
    net::ethernet::Mac,
    path::{
        Parts, Worker,
        egress::handover,
        flow::route::{Neighbour, PortFacts, Route, RouteTable, Via},
        settings::Settings,
        stages::Stage,
        verdict::PathCounters,
    },
    table::{
        index::HashKey,
        pool::{LocalPool, PoolConfig},
        rss::Rss,
        steering::Steering,
    },
};
use weir_api::model;

use crate::{
    error::{Error, Result},
    method::Method,
    traffic::{self, Kind, PORT, VIP},
};

/// Where the clients are.
pub const CLIENTS: PortId = PortId(0);
/// Where the servers are.
pub const SERVERS: PortId = PortId(1);
/// Where frames start in a buffer.
const HEADROOM: usize = 128;
/// Bytes of a buffer.
const ROOM: usize = 512;
/// MAC address of both ports.
pub const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x10];

/// A frame in a pooled buffer.
pub struct PooledFrame {
    buffer: Box<[u8; ROOM]>,
    start: usize,
    end: usize,
}

impl PooledFrame {
    fn empty() -> Self {
        Self { buffer: Box::new([0; ROOM]), start: HEADROOM, end: HEADROOM }
    }

    /// One of `pool`, or a new one, with these bytes.
    pub fn with(pool: &mut Vec<Self>, bytes: &[u8; 60]) -> Self {
        let mut frame = pool.pop().unwrap_or_else(Self::empty);
        (frame.start, frame.end) = (HEADROOM, HEADROOM + 60);
        frame.data_mut().copy_from_slice(bytes);
        frame
    }
}

impl Frame for PooledFrame {
    #[inline]
    fn data(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }
    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.start..self.end).unwrap_or_default()
    }
    #[inline]
    fn total_len(&self) -> usize {
        self.end - self.start
    }
    fn segment(&self, n: usize) -> Option<&[u8]> {
        (n == 0).then(|| self.data())
    }
    fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
    }
    fn reset(&mut self, len: usize) -> bool {
        let fits = HEADROOM + len <= ROOM;
        if fits {
            (self.start, self.end) = (HEADROOM, HEADROOM + len);
        }
        fits
    }
    fn prepend(&mut self, n: usize) -> bool {
        let fits = n <= self.start;
        self.start -= if fits { n } else { 0 };
        fits
    }
    fn trim_front(&mut self, n: usize) -> bool {
        let fits = n <= self.total_len();
        self.start += if fits { n } else { 0 };
        fits
    }
    fn prefetch(&self) {}
}

/// Frames as received: fixed length, one after the other, so that reading them costs what net_pcap's copying does.
#[derive(Default)]
struct Templates {
    bytes: Vec<[u8; 64]>,
    /// What frames have beyond 64 bytes, if they are longer.
    tails: Vec<[u8; 16]>,
    length: usize,
    next: usize,
}

/// What the service is like.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How packets get to the servers.
    pub method: Method,
    /// Scheduler.
    pub scheduler: &'static str,
    /// How servers learn the client's address.
    pub client_address: model::ClientAddress,
    /// Each server's weight.
    pub weight: u32,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            method: Method::default(),
            scheduler: "wlc",
            client_address: model::ClientAddress::None,
            weight: 1,
        }
    }
}

/// Receives templates on the clients' port, again and again, and counts what is sent on the servers'.
pub struct ReplayIo {
    templates: Templates,
    allowance: usize,
    pool: Vec<PooledFrame>,
    transmitted: [u64; 2],
}

impl Io for ReplayIo {
    type Frame = PooledFrame;

    fn ports(&self) -> usize {
        2
    }

    #[inline]
    fn rx(&mut self, port: PortId, burst: &mut Burst<PooledFrame>) {
        if port != CLIENTS {
            return;
        }
        let n = BURST.min(self.allowance);
        self.allowance -= n;
        for _ in 0..n {
            let mut frame = self.pool.pop().unwrap_or_else(PooledFrame::empty);
            let Some(template) = self.templates.bytes.get(self.templates.next) else { return };
            frame.start = HEADROOM;
            frame.end = HEADROOM + self.templates.length;
            if let Some(room) = frame.buffer.get_mut(HEADROOM..HEADROOM + 64) {
                room.copy_from_slice(template);
            }
            if let Some(tail) = self.templates.tails.get(self.templates.next)
                && let Some(room) = frame.buffer.get_mut(HEADROOM + 64..HEADROOM + 80)
            {
                room.copy_from_slice(tail);
            }
            self.templates.next += 1;
            if self.templates.next == self.templates.bytes.len() {
                self.templates.next = 0;
            }
            burst.push(frame);
        }
    }

    #[inline]
    fn tx(&mut self, port: PortId, burst: &mut Burst<PooledFrame>) {
        self.transmitted[usize::from(port.0 & 1)] += burst.len() as u64;
        self.pool.extend(burst.drain(..));
    }

    fn alloc(&mut self) -> Option<PooledFrame> {
        Some(self.pool.pop().unwrap_or_else(PooledFrame::empty))
    }
}

/// A worker with a FULLNAT service and its sessions.
pub struct Replay {
    worker: Worker<ReplayIo>,
    /// Keeps control's end of the rings.
    _control: Workers,
}

impl Replay {
    /// A worker that has opened a session for each of `flows` flows, about to receive their ACKs in
    /// shuffled order.
    pub fn open(flows: u32, frame: usize) -> Result<Self> {
        Self::open_as(&Setup::default(), flows, frame)
    }

    /// The same with such a service.
    pub fn open_as(setup: &Setup, flows: u32, frame: usize) -> Result<Self> {
        // Nobody answers SYNs here: connections are taken up in their middle, and established at once.
        let mut this = Self::idle(setup, flows, Settings { sloppy_tcp: true, ..Settings::default() })?;
        this.load(setup.method.v6(), flows, Kind::Ack, frame, 2);
        let forwarded = this.run(flows as usize);
        if forwarded != u64::from(flows) {
            return Err(Error::Unexpected(format!("{forwarded} of {flows} first ACKs were forwarded")));
        }
        this.load(setup.method.v6(), flows, Kind::Ack, frame, 1);
        Ok(this)
    }

    /// A worker without sessions, about to receive each flow's SYN.
    pub fn begin(setup: &Setup, flows: u32, frame: usize) -> Result<Self> {
        let mut this = Self::idle(setup, flows, Settings::default())?;
        this.load(setup.method.v6(), flows, Kind::Syn, frame, 2);
        Ok(this)
    }

    fn idle(setup: &Setup, flows: u32, settings: Settings) -> Result<Self> {
        let io = ReplayIo {
            templates: Templates::default(),
            allowance: 0,
            pool: Vec::with_capacity(4 * BURST),
            transmitted: [0; 2],
        };
        let (worker, workers) = worker(io, setup, flows, settings)?;
        Ok(Self { worker, _control: workers })
    }

    fn load(&mut self, v6: bool, flows: u32, kind: Kind, length: usize, seed: u64) {
        let (mut bytes, mut tails) = (Vec::new(), Vec::new());
        let mut longest = length.min(64);
        for i in traffic::shuffled(flows, seed) {
            let mut whole = [0; 80];
            let frame = if v6 {
                traffic::frame_v6(i, kind, MAC, VIP)
            } else {
                traffic::frame(i, kind, MAC, length.min(64), VIP)
            };
            longest = longest.max(frame.len());
            whole[..frame.len()].copy_from_slice(&frame);
            bytes.push(*whole.first_chunk().unwrap_or(&[0; 64]));
            if frame.len() > 64 {
                tails.push(*whole.last_chunk().unwrap_or(&[0; 16]));
            }
        }
        self.worker.io_mut().templates = Templates { bytes, tails, length: longest, next: 0 };
    }

    /// Runs `packets` frames through the path and returns how many came out on the servers' side.
    pub fn run(&mut self, packets: usize) -> u64 {
        self.worker.io_mut().allowance = packets;
        let before = self.worker.io_mut().transmitted[1];
        while self.worker.io_mut().allowance > 0 {
            self.worker.poll(Tick(1));
        }
        self.worker.io_mut().transmitted[1] - before
    }

    /// Cycles by stage so far; none in builds that don't count them.
    pub fn cycles(&self) -> Vec<(Stage, u64)> {
        self.worker.stages().cycles().collect()
    }

    /// Frames forwarded so far, as the path itself counts.
    #[cfg(test)]
    pub fn forwarded(&self) -> u64 {
        self.worker.counters().get(weir::path::verdict::Verdict::Forwarded)
    }
}

/// A worker on `io` with such a service and room for `flows` sessions, and control's end of its rings, which it needs.
pub fn worker<I: Io<Frame = PooledFrame>>(
    io: I,
    setup: &Setup,
    flows: u32,
    settings: Settings,
) -> Result<(Worker<I>, Workers)> {
    let (mut workers, control) = workers(vec![io], setup, flows, settings)?;
    let worker = workers.pop().ok_or_else(|| Error::Unexpected("no worker".to_owned()))?;
    Ok((worker, control))
}

/// The same for several workers that one control has, a worker on each `Io`.
pub fn workers<I: Io<Frame = PooledFrame>>(
    ios: Vec<I>,
    setup: &Setup,
    flows: u32,
    settings: Settings,
) -> Result<(Vec<Worker<I>>, Workers)> {
    let count = ios.len() as u16;
    let steering = Arc::new(match count {
        1 => Steering::single(),
        _ => Steering::for_ports(&[Some(Rss::weir(count))], count),
    });
    let max_sessions = (flows as usize * 5 / 4).max(1 << 20);
    let config = PoolConfig { sessions: max_sessions, ..PoolConfig::default() };
    let (mut made, mut links) = (Vec::new(), Vec::new());
    for (n, (io, peers)) in ios.into_iter().zip(handover::connect(usize::from(count))).enumerate() {
        let id = WorkerId(n as u16);
        let counters = Arc::new(PathCounters::new().map_err(Error::file("servers' counters"))?);
        let (mut link, control) = workers::connect(Arc::clone(&counters));
        let of_v6 = Arc::clone(&steering);
        link.make_pool_v6 = Some(Box::new(move || LocalPool::new(of_v6, id, &config)));
        links.push(link);
        let parts = Parts {
            id,
            io,
            macs: vec![Mac(MAC); 2],
            steered: vec![true; 2],
            max_sessions,
            key: HashKey::from_seed(1),
            pool: LocalPool::new(Arc::clone(&steering), id, &config)
                .map_err(|e| Error::Unexpected(format!("local addresses: {e}")))?,
            steering: Arc::clone(&steering),
            counters,
            control,
            host: None,
            peers,
        };
        made.push(Worker::new(parts, Tick(0)).map_err(Error::file("session table"))?);
    }
    let mut control = Workers::new(
        links,
        vec!["clients".to_owned(), "servers".to_owned()],
        Box::new(|| {}),
        Box::new(|_| AddressKind::Other),
    );
    control.apply(vec![PlaneChange::Settings(Arc::new(settings))]);
    configure(&mut control, setup, flows);
    for worker in &mut made {
        worker.poll(Tick(0));
    }
    Ok((made, control))
}

/// The service, its servers and local addresses, routes and neighbours: as `weir.rs` writes them into files.
fn configure(workers: &mut Workers, setup: &Setup, flows: u32) {
    let of = |v4: Ipv4Addr, v6: bool| if v6 { traffic::six(v4).into() } else { IpAddr::V4(v4) };
    let method = setup.method;
    let mut servers: Vec<_> = traffic::servers(4)
        .enumerate()
        .map(|(n, address)| (ServerId(n as u32), server(method.server_side(address), setup)))
        .collect();
    servers.reverse(); // the newest first
    let service = model::Service {
        key: model::ServiceKey::Address {
            protocol: model::Protocol::Tcp,
            address: method.client_side(VIP),
            port: PORT,
        },
        scheduler: setup.scheduler.to_owned(),
        scheduler_flags: 0,
        persistent: None,
        netmask: if method.v6() { 128 } else { u32::MAX },
        one_packet: false,
        engine: None,
    };
    let local_addresses = traffic::local_addresses(flows)
        .map(|address| model::LocalAddress { address: method.server_side(address), interface: None })
        .collect();
    let client_address = setup.client_address;
    let state = ServiceState { id: ServiceId(0), service, servers, local_addresses, client_address };
    workers.apply(vec![PlaneChange::SetService(state)]);
    let mut routes = Vec::new();
    for v6 in [false, true] {
        for (network, prefix, gateway, port) in
            [([10, 0, 0, 0], 8, [192, 0, 2, 1], CLIENTS), ([198, 19, 0, 0], 16, [192, 0, 2, 129], SERVERS)]
        {
            routes.push(Route {
                network: of(network.into(), v6),
                prefix: if v6 { 96 + prefix } else { prefix },
                via: [Via { port, gateway: Some(of(gateway.into(), v6)), weight: 1 }].into(),
                metric: 0,
                mtu: None,
            });
        }
    }
    let own = Ipv4Addr::new(192, 0, 2, 254);
    let facts =
        PortFacts { mac: Mac(MAC), mtu: 1500, address: Some(own), address_v6: Some(traffic::six(own)) };
    workers.set_routes(&Arc::new(RouteTable::new(&routes, vec![facts; 2])));
    let neighbour = |port, address: [u8; 4], mac, v6| Neighbour {
        port,
        address: of(address.into(), v6),
        mac: Some(Mac(mac)),
    };
    let both = [false, true].into_iter().flat_map(|v6| {
        [
            neighbour(CLIENTS, [192, 0, 2, 1], traffic::CLIENT_MAC, v6),
            neighbour(SERVERS, [192, 0, 2, 129], traffic::SERVER_MAC, v6),
        ]
    });
    workers.set_neighbours(&both.collect::<Vec<_>>());
}

fn server(address: IpAddr, setup: &Setup) -> model::Server {
    let Setup { weight, .. } = *setup;
    let forwarding = setup.method.forwarding();
    model::Server { address, port: PORT, forwarding, weight, upper: 0, lower: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_of_every_flow_is_forwarded() {
        let mut replay = Replay::open(1000, 60).unwrap();
        assert_eq!(replay.run(5000), 5000);
        assert_eq!(replay.forwarded(), 6000);
    }
}
