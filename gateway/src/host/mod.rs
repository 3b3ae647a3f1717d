//! The kernel beside the packet path.
//!
//! Every port has a TAP twin with the port's hardware address. The kernel owns addresses, ARP and neighbour
//! discovery, ping, and routes; frames that the path doesn't claim go to the twin, and what the kernel sends
//! out of it is transmitted. Addresses, routes and neighbours are mirrored through netlink into
//! [`NetState`], which the path's route table is built from.
//!
//! Two threads that workers don't depend on: `punt` moves frames, `netlink` keeps the mirror and talks to the kernel.
//! None of this needs DPDK.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Release},
        mpsc::{self, Receiver, Sender, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

mod above;
mod decode;
mod error;
mod ingress;
pub mod interface;
mod kernel;
mod mirror;
mod namespace;
mod netlink;
mod ports;
mod punt;
mod socket;
pub mod state;
mod tap;
mod twins;
mod wanted;

pub use error::HostError;
pub use ports::KernelPorts;
pub use punt::PuntCounters;
pub use state::{
    KernelAddress, KernelNeighbour, KernelRoute, NetState, NextHop, Reachability, RouteAction, Table,
    TwinState,
};

use self::{
    ingress::{IngressDrop, QuietIpv6},
    netlink::{Command, Inbox},
    punt::Punt,
    tap::Twin,
};
use crate::{config::Config, io::PortId, mac::Mac, prefix::Prefix, threads};

/// The workers' end of the punt path.
pub trait HostFrames: Send {
    /// Takes what workers punted, up to some limit, giving each frame to `deliver` with the port it came
    /// in by.
    fn drain(&mut self, deliver: &mut dyn FnMut(PortId, &[u8]));

    /// Has a worker transmit `frame` on `port`; false if it has no room.
    fn inject(&mut self, port: PortId, frame: &[u8]) -> bool;
}

/// Called with the state whenever it has changed, from the netlink thread.
pub type Publish = Box<dyn FnMut(&Arc<NetState>) + Send>;

/// A port as its twin is to mirror it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Name of port and twin.
    pub name: String,
    /// The port's hardware address.
    pub mac: Mac,
    /// The port's MTU, bytes of an IP packet.
    pub mtu: u16,
    /// Whether the port's link is up.
    pub carrier: bool,
    /// Addresses to put on the twin.
    pub addresses: Vec<Prefix>,
    /// Routes to put there, beside those that the kernel has.
    pub routes: Vec<StaticRoute>,
    /// The kernel's interface, in the process's own namespace, that the device takes its frames from.
    pub interface: Option<String>,
}

/// A route of the configuration, over a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticRoute {
    /// Destination network.
    pub to: Prefix,
    /// The gateway, on the link regardless of the twin's addresses; none if the destination itself is on the link.
    pub via: Option<IpAddr>,
    /// Bytes of an IP packet, if fewer than the port's.
    pub mtu: Option<u16>,
}

/// What a device is like, as the driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// Hardware address.
    pub mac: Mac,
    /// MTU, bytes of an IP packet.
    pub mtu: u16,
    /// Whether the link is up.
    pub carrier: bool,
}

/// The wanted state of the host side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// Network namespace of the twins, if not the process's own.
    pub namespace: Option<PathBuf>,
    /// All ports, by [`PortId`].
    pub ports: Vec<HostPort>,
}

impl HostOptions {
    /// What `config` asks for, with `hardware` of each port in its order.
    #[must_use]
    pub fn new(config: &Config, hardware: &[Hardware]) -> Self {
        let ports = (0..).zip(config.ports.iter().zip(hardware)).map(|(n, (port, hardware))| HostPort {
            name: port.name.clone(),
            mac: hardware.mac,
            mtu: hardware.mtu,
            carrier: hardware.carrier,
            addresses: port.addresses.clone(),
            routes: static_routes(config, PortId(n), hardware.mtu),
            interface: port.device.interface().map(str::to_owned),
        });
        Self { namespace: config.host_namespace.clone(), ports: ports.collect() }
    }
}

/// The kernel believes a route that has more than its interface, whose device then drops what is too long.
fn static_routes(config: &Config, port: PortId, link_mtu: u16) -> Vec<StaticRoute> {
    let mine = config.routes.iter().filter(|route| route.port == port);
    let fewer = |mtu: &u16| *mtu < link_mtu;
    mine.map(|route| StaticRoute { to: route.to, via: route.via, mtu: route.mtu.filter(fewer) }).collect()
}

/// What keeps the kernel from taking an interface's frames for its own.
type Guards = (Option<IngressDrop>, Option<QuietIpv6>);

/// The running host side. Dropping it stops the threads and removes twins, addresses and the ingress drop;
/// so does the end of the process.
pub struct Host {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    stop: Arc<AtomicBool>,
    stop_punt: Arc<EventFd>,
    threads: Vec<JoinHandle<()>>,
    state: Arc<Mutex<Arc<NetState>>>,
    counters: Arc<[PuntCounters]>,
    // Dropped after the threads have ended and the twins are gone.
    _ingress: Option<IngressDrop>,
    _quiet: Vec<QuietIpv6>,
    /// The same for interfaces that were created again, by name.
    guards: Mutex<BTreeMap<String, Guards>>,
}

impl Host {
    /// Makes the twins and starts mirroring and punting. When it returns, the twins are up with their
    /// addresses and `publish` has been called with a first state.
    ///
    /// # Errors
    /// The namespace can't be entered, a twin's name is taken, a privilege (CAP_NET_ADMIN) is missing, or
    /// the kernel refuses something; nothing is left behind then.
    pub fn start(
        options: HostOptions,
        frames: Box<dyn HostFrames>,
        publish: Publish,
    ) -> Result<Self, HostError> {
        let HostOptions { namespace, ports } = options;
        // Ports that are VLANs have one interface.
        let interfaces: BTreeSet<&str> = ports.iter().filter_map(|p| p.interface.as_deref()).collect();
        let interfaces: Vec<&str> = interfaces.into_iter().collect();
        let own = namespace::is_own(namespace.as_deref())
            .map_err(|source| HostError::Namespace { path: namespace.clone().unwrap_or_default(), source })?;
        let ingress = drop_ingress(&interfaces, own)?;
        let quiet = interfaces.iter().filter_map(|i| QuietIpv6::new(i)).collect();

        let counters: Arc<[PuntCounters]> = ports.iter().map(|_| PuntCounters::default()).collect();
        let (commands, inbox) = mpsc::channel();
        let mut host = Self {
            commands,
            wake: Arc::new(event()?),
            stop: Arc::default(),
            stop_punt: Arc::new(event()?),
            threads: Vec::new(),
            state: Arc::default(),
            counters,
            _ingress: ingress,
            _quiet: quiet,
            guards: Mutex::default(),
        };
        let (renewed, renewals) = mpsc::channel();
        let inbox = Inbox { commands: inbox, wake: host.wake.clone(), stop: host.stop.clone(), renewed };
        let twins = host.start_netlink(namespace, ports, inbox, publish)?;
        host.start_punt(twins, renewals, frames)?;
        Ok(host)
    }

    fn start_netlink(
        &mut self,
        namespace: Option<PathBuf>,
        ports: Vec<HostPort>,
        inbox: Inbox,
        mut publish: Publish,
    ) -> Result<Vec<Twin>, HostError> {
        let state = self.state.clone();
        let publish: Publish = Box::new(move |new| {
            *state.lock() = new.clone();
            publish(new);
        });
        let (started, report) = sync_channel(1);
        let thread = move || netlink::thread(namespace.as_deref(), ports, inbox, publish, &started);
        self.threads.push(threads::spawn("netlink", thread).map_err(HostError::Thread)?);
        report.recv().map_err(|_| HostError::Stopped)?
    }

    fn start_punt(
        &mut self,
        twins: Vec<Twin>,
        renewals: Receiver<(PortId, Twin)>,
        frames: Box<dyn HostFrames>,
    ) -> Result<(), HostError> {
        let punt = Punt {
            twins: twins.into_iter().map(Some).collect(),
            renewals,
            frames,
            counters: self.counters.clone(),
            stop: self.stop_punt.clone(),
        };
        self.threads.push(threads::spawn("punt", || punt.run()).map_err(HostError::Thread)?);
        Ok(())
    }

    /// What was last published.
    #[must_use]
    pub fn state(&self) -> Arc<NetState> {
        self.state.lock().clone()
    }

    /// Frames between each port and the kernel, by port.
    #[must_use]
    pub fn counters(&self) -> &[PuntCounters] {
        &self.counters
    }

    /// Has the kernel resolve the next hop `address` on `port`, and keep it resolved until [`Host::forget`], or as
    /// long as it is asked for or in use ([`Host::in_use`]) every now and then. The outcome comes as a change of state. May be called for every packet that lacks
    /// the neighbour: the kernel is asked once a second at most.
    pub fn resolve(&self, port: PortId, address: IpAddr) {
        self.send(Command::Resolve(port, address));
    }

    /// Packets go by these next hops, of whatever the kernel has an entry for is verified from now on: one that
    /// introduced itself would be believed for ever otherwise. To be told again every few seconds.
    pub fn in_use(&self, hops: Vec<(PortId, IpAddr)>) {
        self.send(Command::InUse(hops));
    }

    /// The next hop is no longer needed: its entry may age and go.
    pub fn forget(&self, port: PortId, address: IpAddr) {
        self.send(Command::Forget(port, address));
    }

    /// Puts a local address (`-P`) on the twin of `port` as /32 or /128, unless one of the twins has it
    /// already. Counted by address, whatever the port: it stays until [`Host::remove_local`] has been called
    /// as often. True if it was put there now.
    ///
    /// # Errors
    /// The kernel refuses the address, or there is no such port.
    pub fn add_local(&self, port: PortId, address: IpAddr) -> Result<bool, HostError> {
        self.ask(|reply| Command::AddLocal(port, address, reply))
    }

    /// Takes back one [`Host::add_local`] with the same arguments. True if the address was taken off its twin
    /// now: the last of several, and not one that configuration or an operator put there.
    ///
    /// # Errors
    /// The kernel refuses, or there is no such port.
    pub fn remove_local(&self, port: PortId, address: IpAddr) -> Result<bool, HostError> {
        self.ask(|reply| Command::RemoveLocal(port, address, reply))
    }

    /// Keeps an eye on the ports that the kernel's sockets have, or no more: [`NetState::kernel_ports`].
    pub fn watch_ports(&self, watch: bool) {
        self.send(Command::WatchPorts(watch));
    }

    /// Gives the twin a carrier or takes it away, as the port's link goes up or down.
    ///
    /// # Errors
    /// The kernel refuses, or there is no such port.
    pub fn set_carrier(&self, port: PortId, carrier: bool) -> Result<(), HostError> {
        self.ask(|reply| Command::Carrier(port, carrier, reply))
    }

    /// Sets the twin's MTU to the port's, in bytes of an IP packet.
    ///
    /// # Errors
    /// The kernel refuses, or there is no such port.
    pub fn set_mtu(&self, port: PortId, mtu: u16) -> Result<(), HostError> {
        self.ask(|reply| Command::Mtu(port, mtu, reply))
    }

    /// The interface under a port was created again: the kernel is to leave its frames alone again.
    pub fn guard(&self, interface: &str) {
        let mut guards = self.guards.lock();
        guards.remove(interface);
        let ingress = drop_ingress(&[interface], false).ok().flatten();
        guards.insert(interface.to_owned(), (ingress, QuietIpv6::new(interface)));
    }

    fn ask<T>(
        &self,
        command: impl FnOnce(SyncSender<Result<T, HostError>>) -> Command,
    ) -> Result<T, HostError> {
        let (reply, answer) = sync_channel(1);
        self.send(command(reply));
        answer.recv().map_err(|_| HostError::Stopped)?
    }

    fn send(&self, command: Command) {
        if self.commands.send(command).is_ok() {
            let _ = self.wake.write(1);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Release);
        let _ = self.stop_punt.write(1);
        let _ = self.wake.write(1);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Has the kernel drop what the devices' interfaces receive. That is a must where the kernel owns the same
/// addresses; elsewhere it only saves it the work, and keeps it from routing the frames if it is a router.
fn drop_ingress(interfaces: &[&str], must: bool) -> Result<Option<IngressDrop>, HostError> {
    if interfaces.is_empty() {
        return Ok(None);
    }
    match IngressDrop::install(interfaces) {
        Ok(ingress) => Ok(Some(ingress)),
        Err(error) if must => Err(error),
        Err(error) => {
            tracing::debug!(%error, "the kernel still processes the ports' frames");
            Ok(None)
        }
    }
}

fn event() -> Result<EventFd, HostError> {
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    EventFd::from_flags(flags).map_err(|e| HostError::Thread(e.into()))
}
