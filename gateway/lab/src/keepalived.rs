//! keepalived's VRRP: virtual routers that one of several hosts provides at a time.

use std::fs;

use nix::sys::signal::Signal;

use crate::{Lab, Namespace, process::Process};

/// A virtual router of one host.
#[derive(Clone, Debug)]
pub struct Router {
    /// Its number, which is also the last byte of its MAC address.
    pub id: u8,
    /// The interface below it.
    pub interface: String,
    /// The host with the highest priority is the master.
    pub priority: u8,
    /// The virtual addresses, with prefix lengths, of one family.
    pub addresses: Vec<String>,
}

/// A running keepalived. Dropping it kills it, as a crash would.
#[derive(Debug)]
pub struct Keepalived {
    process: Process,
}

impl Keepalived {
    /// Starts keepalived in `namespace` with these routers, each on an interface `vrrp.ID` with the virtual router's MAC
    /// address.
    ///
    /// # Panics
    /// If it isn't installed, or its files can't be written.
    #[must_use]
    pub fn start(lab: &Lab, namespace: &Namespace, routers: &[Router]) -> Self {
        let directory = lab.subdirectory("keepalived");
        let file = directory.join("keepalived.conf");
        let text =
            "global_defs {\n    vrrp_version 3\n    dynamic_interfaces allow_if_changes\n}\n".to_owned();
        let text = routers.iter().fold(text, |text, router| text + &router.text());
        fs::write(&file, text).expect("a scratch directory can be filled");
        let mut command = namespace.command("keepalived");
        command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file"]).arg(&file);
        for (option, name) in [("--pid", "main.pid"), ("--vrrp_pid", "vrrp.pid")] {
            command.arg(option).arg(directory.join(name));
        }
        Self { process: Process::start("keepalived", &mut command, &directory.join("log")) }
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Stops it as an operator would: it gives up its routers.
    ///
    /// # Panics
    /// If it doesn't stop in time.
    pub fn stop(mut self) {
        self.process.signal(Signal::SIGTERM);
        self.process.wait(std::time::Duration::from_secs(20));
    }
}

impl Router {
    fn text(&self) -> String {
        let Self { id, interface, priority, addresses } = self;
        let addresses: String = addresses.iter().map(|address| format!("        {address}\n")).collect();
        format!(
            "vrrp_instance {id} {{\n    state BACKUP\n    interface {interface}\n    use_vmac vrrp.{id}\n    \
             virtual_router_id {id}\n    priority {priority}\n    advert_int 0.5\n    \
             virtual_ipaddress {{\n{addresses}    }}\n}}\n"
        )
    }
}
