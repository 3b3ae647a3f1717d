//! The netlink thread: sets the twins up, keeps the mirror, and does what the gateway asks of the kernel.
//!
//! It lives in the twins' namespace for good, so that sockets, `/proc/sys` and new devices are that
//! namespace's. It sleeps until the kernel notifies, a command comes, or something is due.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Acquire},
        mpsc::{Receiver, Sender, SyncSender},
    },
    time::{Duration, Instant},
};

use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};

use super::{
    HostPort, Publish,
    error::HostError,
    kernel,
    mirror::{LinkEvent, Mirror},
    namespace,
    ports::KernelPorts,
    socket::{Notifications, Requests},
    state::{KernelNeighbour, TwinState},
    tap::Twin,
    twins::{self, Locals, TwinLink},
    wanted::{self, Wanted},
};
use crate::{io::PortId, threads};

/// How often neighbours that the gateway needs are asked for again: it revives entries that went with a
/// link, and stands in for `NTF_EXT_MANAGED` on kernels without it.
const REFRESH: Duration = Duration::from_secs(30);
/// A neighbour isn't asked for more often than this.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(1);
/// Neighbours kept resolved at most: requests come from packets, whose addresses others choose.
const MAX_WANTED: usize = 65_536;
/// More datagrams than the socket can hold.
const MAX_QUEUED: usize = 1 << 20;
/// Datagrams read before the state is published in between.
const BATCH: usize = 256;
/// Reading the routes again and publishing wait this many times what the last go took, so that a table that
/// changes all the time doesn't keep the thread busy all the time.
const PAUSE: u32 = 4;
/// The longest such pause: the receiver may be delayed, and notifications wait meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often the kernel's sockets are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Changed routes are published no more often than this: workers check what sessions remember after each time.
const ROUTES_PAUSE: Duration = Duration::from_millis(25);
/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// The verdict on a command, as it goes back.
pub(super) type Reply<T> = SyncSender<Result<T, HostError>>;

/// What the gateway asks for.
pub(super) enum Command {
    /// Have the neighbour resolved and kept so.
    Resolve(PortId, IpAddr),
    /// Packets go by these neighbours.
    InUse(Vec<(PortId, IpAddr)>),
    /// The neighbour needn't be kept resolved any more.
    Forget(PortId, IpAddr),
    /// Put the address on the twin as a host address; true if it wasn't there.
    AddLocal(PortId, IpAddr, Reply<bool>),
    /// Remove it again if `AddLocal` added it and it isn't needed otherwise; true if it was removed.
    RemoveLocal(PortId, IpAddr, Reply<bool>),
    /// Give the twin a carrier, or take it away.
    Carrier(PortId, bool, Reply<()>),
    /// Look at the ports of the kernel's sockets from now on, or no more.
    WatchPorts(bool),
    /// Set the twin's MTU.
    Mtu(PortId, u16, Reply<()>),
}

/// How the thread is reached from outside.
pub(super) struct Inbox {
    pub commands: Receiver<Command>,
    pub wake: Arc<EventFd>,
    pub stop: Arc<AtomicBool>,
    /// Takes twins that were created again.
    pub renewed: Sender<(PortId, Twin)>,
}

/// State of the thread.
pub(super) struct Netlink {
    requests: Requests,
    notifications: Notifications,
    mirror: Mirror,
    /// The wanted state of the twins.
    ports: Vec<HostPort>,
    links: Vec<TwinLink>,
    /// Twins that are gone.
    gone: BTreeSet<PortId>,
    next_renewal: Instant,
    wanted: HashMap<(PortId, IpAddr), Wanted>,
    locals: Locals,
    inbox: Inbox,
    publish: Publish,
    next_refresh: Instant,
    next_routes: Instant,
    next_publish: Instant,
    /// Everything must be read again: notifications were lost, or reading failed.
    lost: bool,
    next_resync: Instant,
    unpublished: bool,
    /// When to look at the kernel's sockets next; none if that isn't needed.
    next_look: Option<Instant>,
}

impl Netlink {
    /// Makes the twins in the calling thread's namespace, reads the tables and publishes them.
    pub fn start(
        ports: Vec<HostPort>,
        inbox: Inbox,
        publish: Publish,
    ) -> Result<(Self, Vec<Twin>), HostError> {
        let broken = |action| move |source| HostError::Netlink { action, source };
        let mut requests = Requests::open().map_err(broken("opening a socket"))?;
        let (mut made, mut links) = (Vec::new(), Vec::new());
        for port in &ports {
            let (twin, index) = Twin::create(&port.name)?;
            let link = TwinLink { name: port.name.clone(), index, mac: port.mac, up: true, running: false };
            twins::set_up(&mut requests, port, &link)?;
            made.push(twin);
            links.push(link);
        }
        // Only now, so as not to be told of the states that the twins went through.
        let notifications = Notifications::open().map_err(broken("subscribing to changes"))?;
        let by_index = (0u8..).zip(&links).map(|(n, l)| (l.index, PortId(n))).collect();
        let now = Instant::now();
        let mut netlink = Self {
            requests,
            notifications,
            mirror: Mirror::new(by_index),
            ports,
            links,
            gone: BTreeSet::new(),
            next_renewal: now,
            wanted: HashMap::new(),
            locals: Locals::default(),
            inbox,
            publish,
            next_refresh: now + REFRESH,
            next_routes: now,
            next_publish: now,
            lost: false,
            next_resync: now,
            unpublished: true,
            next_look: None,
        };
        netlink.resync().map_err(broken("reading the tables"))?;
        netlink.publish();
        Ok((netlink, made))
    }

    /// Works until it is told to stop; otherwise says why it ends.
    pub fn run(mut self) -> Result<(), String> {
        while !self.inbox.stop.load(Acquire) {
            if threads::fault("netlink") {
                return Err("ended".to_owned());
            }
            self.read();
            while let Ok(command) = self.inbox.commands.try_recv() {
                self.obey(command);
            }
            let now = Instant::now();
            if !self.gone.is_empty() && now >= self.next_renewal {
                self.renew_twins();
            }
            if self.lost && now >= self.next_resync {
                self.resync_or_retry();
            }
            if self.mirror.stale && now >= self.next_routes {
                self.reread_routes();
            }
            if self.next_look.is_some_and(|due| now >= due) {
                self.look_at_sockets();
            }
            if now >= self.next_refresh {
                self.refresh();
                self.next_refresh = now + REFRESH;
            }
            if now >= self.next_publish {
                self.publish();
            }
            self.wait();
        }
        Ok(())
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) {
        let mut due = self.next_look.map_or(self.next_refresh, |look| look.min(self.next_refresh));
        for (pending, when) in [
            (self.mirror.stale, self.next_routes),
            (self.unpublished, self.next_publish),
            (self.lost, self.next_resync),
            (!self.gone.is_empty(), self.next_renewal),
        ] {
            if pending {
                due = due.min(when);
            }
        }
        let left = due.saturating_duration_since(Instant::now());
        // Rounded up, or the last millisecond would be spent polling.
        let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut fds = [
            PollFd::new(self.notifications.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.inbox.wake.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut fds, left).is_ok() && fds[1].any().unwrap_or(false) {
            let _ = self.inbox.wake.read();
        }
    }

    /// Applies what the kernel notified.
    fn read(&mut self) {
        let mut events = Vec::new();
        for _ in 0..BATCH {
            let mirror = &mut self.mirror;
            match self.notifications.read(|message| events.extend(mirror.notified(&message))) {
                Ok(true) => self.unpublished = true,
                Ok(false) => break,
                Err(error) => {
                    if error.raw_os_error() != Some(Errno::ENOBUFS as i32) {
                        tracing::error!(%error, "netlink notifications");
                    }
                    self.lost = true;
                    break;
                }
            }
        }
        for event in events {
            match event {
                LinkEvent::Changed(port, message) => self.link_changed(port, &message),
                LinkEvent::Above => self.lost = true,
                LinkEvent::Addresses => {
                    self.lost |= kernel::dump_addresses(&mut self.requests, &mut self.mirror).is_err();
                }
                LinkEvent::Gone(port) => {
                    let name = self.links.get(port.index()).map(|l| l.name.as_str());
                    tracing::error!(name, "TAP twin was deleted: it will be created again");
                    self.mirror.note_twin(port, TwinState { present: false, ..TwinState::GOOD });
                    self.gone.insert(port);
                    self.next_renewal = Instant::now() + RETRY;
                }
            }
        }
    }

    fn link_changed(&mut self, port: PortId, message: &LinkMessage) {
        let Some(link) = self.links.get_mut(port.index()) else { return };
        for attribute in &message.attributes {
            // udev may give a new device an address of its own choice. The notification may be out of date,
            // and setting an address, even the same, costs the kernel's neighbours.
            if let LinkAttribute::Address(bytes) = attribute
                && *bytes != link.mac.0
                && kernel::mac(&mut self.requests, link.index).is_ok_and(|m| m != Some(link.mac))
            {
                tracing::warn!(name = link.name, "TAP twin's hardware address was changed: restored");
                if let Err(error) = kernel::set_mac(&mut self.requests, link.index, link.mac) {
                    tracing::error!(name = link.name, %error, "TAP twin's hardware address");
                }
            }
        }
        let running = message.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
        let came_up = running && !link.running;
        link.running = running;
        self.note_twin(port, message);
        if came_up {
            self.revive(port);
        }
    }

    /// Says when a twin was renamed, set down or up; one that is up again gets the addresses back that it lost.
    fn note_twin(&mut self, port: PortId, message: &LinkMessage) {
        let (Some(link), Some(wanted)) = (self.links.get_mut(port.index()), self.ports.get(port.index()))
        else {
            return;
        };
        let name = message.attributes.iter().find_map(|a| match a {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        if let Some(name) = name.filter(|name| *name != link.name) {
            tracing::warn!(port = wanted.name, twin = name, "the port's twin was renamed");
            link.name = name;
        }
        let up = message.header.flags.contains(LinkFlags::Up);
        if link.up && !up {
            tracing::warn!(name = link.name, "TAP twin was set down");
        } else if up && !link.up {
            tracing::info!(name = link.name, "TAP twin is up again");
            let put = twins::put_all(&mut self.requests, wanted, link);
            if let Err(error) = put.and_then(|()| self.locals.restore(&mut self.requests, link, port)) {
                tracing::error!(name = link.name, %error, "TAP twin's addresses");
            }
        }
        link.up = up;
        let renamed = (link.name != wanted.name).then(|| link.name.clone());
        self.mirror.note_twin(port, TwinState { present: true, up, renamed });
    }

    /// Makes twins again that were deleted. While their names are taken that is tried again and again.
    fn renew_twins(&mut self) {
        for port in self.gone.clone() {
            match self.renew_twin(port) {
                Ok(()) => {
                    self.gone.remove(&port);
                }
                Err(error) => tracing::debug!(%error, "TAP twin can't be created again"),
            }
        }
        self.next_renewal = Instant::now() + RETRY;
    }

    fn renew_twin(&mut self, port: PortId) -> Result<(), HostError> {
        let (Some(link), Some(wanted)) = (self.links.get_mut(port.index()), self.ports.get(port.index()))
        else {
            return Err(HostError::NoPort(port));
        };
        let (twin, index) = Twin::create(&wanted.name)?;
        link.name.clone_from(&wanted.name);
        (link.index, link.up, link.running) = (index, true, false);
        twins::set_up(&mut self.requests, wanted, link)?;
        self.locals.restore(&mut self.requests, link, port)?;
        // The other end goes only when the gateway stops.
        let _ = self.inbox.renewed.send((port, twin));
        tracing::info!(name = link.name, "TAP twin was created again");
        self.mirror.twin_is_back(port, index);
        self.lost = true;
        self.revive(port);
        Ok(())
    }

    fn resync_or_retry(&mut self) {
        tracing::debug!("netlink notifications were lost: reading all tables again");
        // What is still queued is older than the tables, and not to be applied on top of them.
        for _ in 0..MAX_QUEUED {
            if matches!(self.notifications.skip(), Ok(false)) {
                break;
            }
        }
        match self.resync() {
            Ok(()) => self.lost = false,
            Err(error) => {
                tracing::error!(%error, "reading the kernel's tables");
                self.next_resync = Instant::now() + RETRY;
            }
        }
    }

    /// Reads all tables again.
    fn resync(&mut self) -> io::Result<()> {
        self.unpublished = true;
        kernel::dump_links(&mut self.requests, &mut self.mirror)?;
        kernel::dump_addresses(&mut self.requests, &mut self.mirror)?;
        kernel::dump_neighbours(&mut self.requests, &mut self.mirror)?;
        kernel::dump_routes(&mut self.requests, &mut self.mirror)
    }

    fn reread_routes(&mut self) {
        let begin = Instant::now();
        self.unpublished = true;
        if let Err(error) = kernel::dump_routes(&mut self.requests, &mut self.mirror) {
            tracing::error!(%error, "reading the kernel's routes");
            self.mirror.stale = true;
            self.next_routes = Instant::now() + RETRY;
        } else {
            self.next_routes = Instant::now() + begin.elapsed() * PAUSE;
        }
    }

    fn look_at_sockets(&mut self) {
        match KernelPorts::read() {
            Ok(ports) => self.mirror.set_kernel_ports(ports),
            Err(error) => tracing::warn!(%error, "reading the kernel's ports"),
        }
        self.unpublished = true;
        self.next_look = Some(Instant::now() + LOOK);
    }

    fn publish(&mut self) {
        let begin = Instant::now();
        let before = self.mirror.published();
        let mut pause = Duration::ZERO;
        if let Some(state) = self.mirror.snapshot() {
            (self.publish)(&state);
            if !state.routes.is_same(&before.routes) {
                pause = ROUTES_PAUSE;
            }
        }
        self.unpublished = false;
        self.next_publish = Instant::now() + pause.max((begin.elapsed() * PAUSE).min(LONGEST_PAUSE));
    }

    fn obey(&mut self, command: Command) {
        // The requester may be gone; the work is done all the same.
        match command {
            Command::Resolve(port, address) => self.want(port, address),
            Command::InUse(hops) => hops.into_iter().for_each(|(port, address)| self.keep(port, address)),
            Command::Forget(port, address) => self.forget(port, address),
            Command::AddLocal(port, address, reply) => drop(reply.send(self.add_local(port, address))),
            Command::RemoveLocal(port, address, reply) => {
                drop(reply.send(self.locals.remove(&mut self.requests, &self.links, port, address)));
            }
            Command::Carrier(port, carrier, reply) => {
                if let Some(wanted) = self.ports.get_mut(port.index()) {
                    wanted.carrier = carrier;
                }
                drop(reply.send(self.change(port, "its carrier", |r, i| kernel::set_carrier(r, i, carrier))));
            }
            Command::WatchPorts(watch) => {
                if watch != self.next_look.is_some() {
                    self.next_look = watch.then(Instant::now);
                }
            }
            Command::Mtu(port, mtu, reply) => {
                if let Some(wanted) = self.ports.get_mut(port.index()) {
                    wanted.mtu = mtu;
                }
                drop(reply.send(self.change(port, "its MTU", |r, i| kernel::set_mtu(r, i, mtu))));
            }
        }
    }

    fn change(
        &mut self,
        port: PortId,
        action: &'static str,
        change: impl FnOnce(&mut Requests, u32) -> io::Result<()>,
    ) -> Result<(), HostError> {
        let link = self.links.get(port.index()).ok_or(HostError::NoPort(port))?;
        change(&mut self.requests, link.index).map_err(|source| HostError::Twin {
            name: link.name.clone(),
            action,
            source,
        })
    }

    fn want(&mut self, port: PortId, address: IpAddr) {
        let now = Instant::now();
        let known = self.wanted.get(&(port, address));
        if known.is_some_and(|wanted| now < wanted.asked + RESOLVE_INTERVAL) {
            return;
        }
        if known.is_none() && !self.has_room(now) {
            return;
        }
        self.wanted.insert((port, address), Wanted { asked: now, used: now });
        self.resolve(port, address, true);
    }

    /// Has the kernel verify a neighbour that it has an entry for, as long as packets go there.
    fn keep(&mut self, port: PortId, address: IpAddr) {
        let now = Instant::now();
        if let Some(wanted) = self.wanted.get_mut(&(port, address)) {
            wanted.used = now;
        } else if self.mirror.has_neighbour(port, address) && self.has_room(now) {
            self.wanted.insert((port, address), Wanted { asked: now, used: now });
            self.resolve(port, address, true);
        }
    }

    /// Whether another neighbour may be wanted; those that don't answer make room.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.wanted.len() >= MAX_WANTED {
            let state = self.mirror.published();
            let answers =
                |(port, address)| state.neighbour(port, address).and_then(KernelNeighbour::mac).is_some();
            let silent = wanted::silent(&self.wanted, now, answers);
            silent.into_iter().for_each(|(port, address)| self.forget(port, address));
        }
        self.wanted.len() < MAX_WANTED
    }

    fn forget(&mut self, port: PortId, address: IpAddr) {
        if self.wanted.remove(&(port, address)).is_some() {
            self.resolve(port, address, false);
        }
    }

    /// Asks the kernel for the neighbour, unless an administrator has said where it is.
    fn resolve(&mut self, port: PortId, address: IpAddr, managed: bool) {
        let Some(link) = self.links.get(port.index()) else { return };
        if self.mirror.is_fixed(port, address) {
            return;
        }
        if let Err(error) = kernel::resolve(&mut self.requests, link.index, address, managed) {
            tracing::debug!(name = link.name, %address, %error, "neighbour can't be resolved");
        }
    }

    /// Asks again for the wanted neighbours of `port`.
    fn revive(&mut self, port: PortId) {
        let keys: Vec<_> = self.wanted.keys().copied().filter(|(p, _)| *p == port).collect();
        for (port, address) in keys {
            self.resolve(port, address, true);
        }
    }

    /// Asks again for all wanted neighbours. Those that weren't needed recently are given up, the sooner if they
    /// don't answer.
    fn refresh(&mut self) {
        let (now, state) = (Instant::now(), self.mirror.published());
        let wanted: Vec<_> = self.wanted.iter().map(|(key, wanted)| (*key, *wanted)).collect();
        for ((port, address), wanted) in wanted {
            let answers = state.neighbour(port, address).and_then(KernelNeighbour::mac).is_some();
            if wanted.is_over(now, answers) {
                self.forget(port, address);
            } else {
                self.resolve(port, address, true);
            }
        }
    }

    fn add_local(&mut self, port: PortId, address: IpAddr) -> Result<bool, HostError> {
        // It may be there by configuration or by hand: look at the newest state.
        self.read();
        self.locals.add(&mut self.requests, (&self.links, &self.mirror), port, address)
    }
}

/// Runs the thread's whole life: enters the namespace, sets up, reports, works.
pub(super) fn thread(
    namespace: Option<&std::path::Path>,
    ports: Vec<HostPort>,
    inbox: Inbox,
    publish: Publish,
    started: &SyncSender<Result<Vec<Twin>, HostError>>,
) -> Result<(), String> {
    if let Some(path) = namespace
        && let Err(source) = namespace::enter(path)
    {
        let _ = started.send(Err(HostError::Namespace { path: path.to_owned(), source }));
        return Ok(());
    }
    match Netlink::start(ports, inbox, publish) {
        Ok((netlink, twins)) => {
            if started.send(Ok(twins)).is_ok() {
                return netlink.run();
            }
        }
        Err(error) => drop(started.send(Err(error))),
    }
    Ok(())
}
