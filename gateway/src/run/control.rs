//! The control loop: what the gateway does in addition to forwarding packets and answering on its socket.

use std::{
    sync::{
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use dpdk::Eal;
use tracing::{debug, info};
use weir_api::model::status::PortStatus;

use super::{
    Running, SharedStore,
    devices::Devices,
    happenings::Happenings,
    mac_filter::MacFilter,
    port_status,
    ready::Readiness,
    reattach::{Means, Reattach},
    routes::Picture,
    signals::Signals,
    watchdog::Watchdog,
    worker::TscClock,
};
use crate::{
    clock::Tick,
    config::Config,
    host::Host,
    io::{PortId, ports::PortHandle},
    run::RunError,
    table::snat::{BlockEvent, blocks::BLOCK},
    threads::{self, Failure},
};

/// How often control looks after rings, routes and counters.
const ROUND: Duration = Duration::from_millis(2);
/// How often links are looked at.
const LINK_ROUND: Duration = Duration::from_millis(500);
/// How often links are looked at while the gateway isn't ready.
const FIRST_LINK_ROUND: Duration = Duration::from_millis(10);

/// News of the kernel's state, as the host side's thread has made them up for the path.
pub(super) struct News(Receiver<Picture>);

impl News {
    /// News that come by `inbox`.
    pub fn new(inbox: Receiver<Picture>) -> Self {
        Self(inbox)
    }

    /// Tells the workers of what there is by now.
    pub fn take_all(&self, store: &SharedStore) {
        self.0.try_iter().for_each(|picture| take(picture, store));
    }
}

/// Tells the workers.
pub(super) fn take(picture: Picture, store: &SharedStore) {
    let mut store = store.lock();
    if let Some(table) = picture.table {
        store.plane_mut().set_routes(table);
    }
    if let Some(state) = picture.state {
        store.plane_mut().set_state(&state);
    }
    if !picture.neighbours.is_empty() {
        store.plane_mut().workers.set_neighbours(&picture.neighbours);
    }
}

/// What the control loop looks after.
pub(super) struct Control<'a> {
    pub eal: &'a Eal,
    pub config: &'a Config,
    pub handles: &'a [&'a PortHandle],
    pub store: &'a SharedStore,
    pub host: Option<&'a Host>,
    pub clock: TscClock,
    pub signals: &'a Signals,
}

impl Control<'_> {
    /// Runs until it is told to stop. The twins' carriers are what `devices` has seen last.
    pub fn run(&self, news: &News, mut devices: Devices, running: &Running) -> Result<(), RunError> {
        let mut carriers: Vec<bool> = devices.states().iter().map(|device| device.up).collect();
        let (mut ready, mut watchdog) = (Readiness::new(), Watchdog::from_environment());
        let mut looked = Instant::now();
        let (events, mut happenings) = (self.store.lock().events(), Happenings::default());
        let (mut filter, mut reattach) = (MacFilter::new(self.config), Reattach::new(self.config));
        self.look_at_ports(&devices);
        while !self.signals.stop.load(Relaxed) {
            if threads::fault("control") {
                return Err(Failure { thread: "control".to_owned(), why: "ended".to_owned() }.into());
            }
            self.take_news(news);
            if let Some(host) = self.host {
                filter.follow(&host.state().stations, self.handles);
            }
            self.look_after(self.clock.now());
            self.signals.log_ignored();
            if watchdog.is_due() {
                watchdog.look(self.store.lock().plane_mut().workers.polls());
            }
            if looked.elapsed() >= if ready.is_said() { LINK_ROUND } else { FIRST_LINK_ROUND } {
                looked = Instant::now();
                devices.look_again(self.config, self.handles);
                self.reattach(&mut reattach, &mut devices, &mut filter);
                self.mirror_carriers(&devices, &mut carriers);
                let (ports, was_ready) = (self.look_at_ports(&devices), ready.is_said());
                ready.tell(&ports)?;
                if ready.is_said() && !was_ready {
                    happenings.ready(&ports, &events);
                }
                happenings.look_at_ports(&ports, &events);
                happenings.look_around(self.store, &events);
            }
            if running.iter().any(dpdk::Running::is_finished) && !self.signals.stop.load(Relaxed) {
                return Err(Failure { thread: "worker".to_owned(), why: "ended".to_owned() }.into());
            }
        }
        info!("stopping");
        Ok(())
    }

    /// Waits for news, no longer than a round.
    fn take_news(&self, news: &News) {
        match news.0.recv_timeout(ROUND) {
            Ok(first) => {
                take(first, self.store);
                news.take_all(self.store);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(ROUND),
        }
    }

    /// Sees to devices that went and may come back.
    fn reattach(&self, reattach: &mut Reattach, devices: &mut Devices, filter: &mut MacFilter) {
        let Self { eal, config, handles, host, .. } = *self;
        let means = Means { eal, config, handles, host };
        reattach.step(&means, devices, &mut self.store.lock().plane_mut().workers, filter);
    }

    /// Notes the ports' state for `status`; returns it.
    fn look_at_ports(&self, devices: &Devices) -> Vec<PortStatus> {
        let twins = self.host.map(|host| host.state().twins.clone()).unwrap_or_default();
        let pairs = self.handles.iter().zip(&self.config.ports).zip(devices.states()).enumerate();
        let ports: Vec<_> = pairs
            .map(|(n, ((handle, port), device))| port_status::of(handle, port, device, twins.get(n)))
            .collect();
        self.store.lock().plane_mut().set_ports(ports.clone());
        ports
    }

    fn look_after(&self, now: Tick) {
        let mut store = self.store.lock();
        store.plane_mut().workers.service_rings();
        store.plane_mut().workers.publish_loads(now);
        store.plane_mut().workers.look_around(now);
        store.tick(now);
        let wishes = store.plane_mut().workers.take_resolves();
        let blocks = store.plane_mut().workers.take_snat_log();
        let in_use = if self.host.is_some() { store.plane_mut().hops_in_use(now) } else { Vec::new() };
        drop(store);
        for block in blocks {
            let BlockEvent { inside, external, first, given } = block;
            let last = first + BLOCK - 1;
            info!(%inside, %external, ports = %format_args!("{first}-{last}"), given, "snat port block");
        }
        let Some(host) = self.host else { return };
        for wish in wishes {
            host.resolve(wish.port, wish.address);
        }
        if !in_use.is_empty() {
            host.in_use(in_use);
        }
    }

    /// The twins' carriers follow their ports' links; `carriers` is what they are.
    fn mirror_carriers(&self, devices: &Devices, carriers: &mut [bool]) {
        let Some(host) = self.host else { return };
        for (n, (device, carrier)) in devices.states().iter().zip(carriers).enumerate() {
            if device.up == *carrier {
                continue;
            }
            match host.set_carrier(PortId(n as u8), device.up) {
                Ok(()) => *carrier = device.up,
                // It is tried again: the twin may be about to be created again.
                Err(error) => debug!(%error, "cannot set the twin's carrier"),
            }
        }
    }
}
