//! Control's handle of a device: queries it, takes it out of use, and brings it back.

use std::{
    cell::{Ref, RefCell},
    time::Duration,
};

use dpdk::{Eal, Mempool, Offloads, Port, PortInfo, Queues, ring};

use super::{
    Hand,
    dpdk::{PortQueues, TxPath},
    ports::{OpenError, deal, device_error, device_for, start},
};
use crate::{config, mac::Mac, table::rss::Rss};

/// The most frames that may wait for a device that is gone.
const NOWHERE: u32 = 2;

/// Control's view of a device.
pub struct PortHandle {
    pub(super) name: String,
    pub(super) device: String,
    /// None while the device is gone.
    pub(super) port: RefCell<Option<Port>>,
    pub(super) pool: Mempool,
    /// Its hardware address, which is set again when the device comes back.
    pub(super) mac: Mac,
    /// The device's MTU at the start.
    pub(super) mtu: u16,
    /// What the device is.
    pub info: PortInfo,
    /// Offloads in use.
    pub offloads: Offloads,
    /// Receive queues: workers from this number on receive nothing here.
    pub rx_queues: u16,
    /// The number of send queues: workers from this number on send through another worker.
    pub tx_queues: u16,
    /// The key, table and hashed fields in force, as read back; or why frames aren't spread by them.
    pub rss: Result<Rss, String>,
}

impl PortHandle {
    /// The name of the first port on it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device string, as it was attached.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// DPDK's own view of the port: MTU, link, statistics. None while the device is gone.
    #[must_use]
    pub fn port(&self) -> Option<Ref<'_, Port>> {
        Ref::filter_map(self.port.borrow(), Option::as_ref).ok()
    }

    /// The port's pool of buffers, for frames that control makes. Any thread may use it.
    #[must_use]
    pub fn pool(&self) -> &Mempool {
        &self.pool
    }

    /// The port's hardware address.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// The MTU, in bytes of an IP packet, of a port on the device.
    #[must_use]
    pub fn mtu_of(&self, port: &config::Port) -> u16 {
        let device = self.port().and_then(|port| port.mtu().ok()).unwrap_or(self.mtu);
        port.mtu.map_or(device, |mtu| mtu.min(device))
    }

    /// Whether the link is up; no if the driver can't tell.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.port().is_some_and(|port| port.link().is_ok_and(|l| l.up))
    }

    /// Waits at most for `limit` until the link is up; returns whether it is.
    ///
    /// # Errors
    /// The driver can't tell.
    pub fn wait_link(&self, limit: Duration) -> Result<bool, OpenError> {
        let Some(port) = self.port() else { return Ok(false) };
        port.wait_link(limit).map(|l| l.up).map_err(|e| device_error(&self.name, e))
    }

    /// Shares without a device, which workers hold while the device is gone. Frames for it find no room.
    ///
    /// # Errors
    /// Memory is short.
    pub fn nothing(&self, eal: &Eal, workers: u16) -> Result<Vec<Hand>, OpenError> {
        let (sender, _) = ring::mpsc(eal, NOWHERE).map_err(|e| device_error(&self.name, e))?;
        let share = || PortQueues { rx: None, way: TxPath::Ring(sender.clone()), pool: self.pool.clone() };
        Ok((0..workers).map(|_| Box::new(share()) as Hand).collect())
    }

    /// Has EAL forget the device. The workers must have given up its queues.
    ///
    /// # Errors
    /// Queues are still held, or EAL keeps the device.
    pub fn detach(&self, eal: &Eal) -> Result<(), OpenError> {
        let Some(port) = self.port.borrow_mut().take() else { return Ok(()) };
        eal.detach(port).map_err(|e| device_error(&self.name, e))
    }

    /// Attaches the device of `config` again. Returns each worker's share.
    ///
    /// # Errors
    /// The device isn't there, or isn't what it was.
    pub fn reattach(&self, eal: &Eal, config: &config::Port, workers: u16) -> Result<Vec<Hand>, OpenError> {
        let mut port = eal.attach(&device_for(config, workers)).map_err(|e| device_error(&self.name, e))?;
        let dealt = self
            .restart(&mut port, config, workers)
            .and_then(|queues| deal(eal, queues, self, workers).map_err(|e| device_error(&self.name, e)));
        match dealt {
            Ok(shares) => {
                *self.port.borrow_mut() = Some(port);
                Ok(shares.into_iter().map(|share| Box::new(share) as Hand).collect())
            }
            Err(error) => {
                // The device may come back another time.
                _ = eal.detach(port);
                Err(error)
            }
        }
    }

    fn restart(&self, port: &mut Port, config: &config::Port, workers: u16) -> Result<Queues, OpenError> {
        let refuse = |e| device_error(&self.name, e);
        let info = port.info().map_err(refuse)?;
        if (info.max_rx_queues.min(workers), info.max_tx_queues.min(workers))
            != (self.rx_queues, self.tx_queues)
        {
            return Err(self.unfit("the device came back with another number of queues: restart the gateway"));
        }
        if port.mac().map_err(refuse)? != self.mac.0 {
            port.set_mac(self.mac.0).map_err(refuse)?;
        }
        let (queues, rss) = start(port, &info, config, workers, &self.pool).map_err(refuse)?;
        if rss != self.rss {
            return Err(self.unfit("the device came back with other RSS settings: restart the gateway"));
        }
        if port.mtu().map_err(refuse)? < self.mtu {
            port.set_mtu(self.mtu).map_err(refuse)?;
        }
        Ok(queues)
    }

    fn unfit(&self, reason: &str) -> OpenError {
        OpenError::Unfit { port: self.name.clone(), reason: reason.to_owned() }
    }

    /// Stops and closes the port. The workers must have given up its queues.
    ///
    /// # Errors
    /// Queues are still held, or the driver fails.
    pub fn close(self) -> Result<(), OpenError> {
        let Self { name, port, .. } = self;
        port.into_inner().map_or(Ok(()), Port::close).map_err(|e| device_error(&name, e))
    }
}
