//! Errors between the gateway and the kernel.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{io::PortId, prefix::Prefix};

/// An operation of the host side failed.
#[derive(Debug, Error)]
pub enum HostError {
    /// The namespace can't be entered.
    #[error("network namespace `{}`: {source}", path.display())]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// An interface has the twin's name already.
    #[error("TAP twin `{0}`: an interface of that name already exists")]
    NameTaken(String),
    /// The twin couldn't be made or set up.
    #[error("TAP twin `{name}`: {action}: {source}")]
    Twin {
        /// Its name.
        name: String,
        /// What was tried.
        action: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// An address couldn't be put on a twin or taken off.
    #[error("TAP twin `{name}`: address {address}: {source}")]
    Address {
        /// The twin's name.
        name: String,
        /// The address.
        address: Prefix,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Netlink doesn't work.
    #[error("netlink: {action}: {source}")]
    Netlink {
        /// What was tried.
        action: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel would answer the port's frames beside the gateway.
    #[error(
        "the kernel would answer the packets of interface `{interface}`, and dropping them there (nftables, \
            netdev ingress) failed: {source}; set host_namespace to give the twins a namespace of their own"
    )]
    Ingress {
        /// The kernel's interface.
        interface: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A thread couldn't be started.
    #[error("thread: {0}")]
    Thread(#[source] io::Error),
    /// There is no such port.
    #[error("there is no port number {}", .0.0)]
    NoPort(PortId),
    /// The host side has stopped.
    #[error("the host side has stopped")]
    Stopped,
}
