//! The gateway under test: its configuration file, its process, and `weirctl`.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    Lab, Namespace,
    process::{self, Process, text},
};

/// How long the gateway may take to be ready. EAL without hugepages needs a fraction of a second; the rest is for a
/// busy machine.
const START: Duration = Duration::from_secs(30);
/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// A port in the configuration.
#[derive(Clone, Debug)]
pub struct Port {
    /// The name of the port and of its twin.
    pub name: String,
    /// The device that DPDK drives.
    pub device: String,
    /// Its VLAN on the device, if any.
    pub vlan: Option<u16>,
    /// Addresses with prefix lengths.
    pub addresses: Vec<String>,
    /// Its MTU, if it differs from the device's.
    pub mtu: Option<u16>,
}

/// A static route in the configuration.
#[derive(Clone, Debug)]
pub struct Route {
    /// Destination with prefix length.
    pub to: String,
    /// Next hop.
    pub via: String,
    /// Port name.
    pub port: String,
}

/// The contents of a configuration file.
#[derive(Clone, Debug)]
pub struct Config {
    /// Control socket.
    pub socket: PathBuf,
    /// Workers.
    pub workers: u16,
    /// The namespace of the TAP twins.
    pub host_namespace: PathBuf,
    /// Ports.
    pub ports: Vec<Port>,
    /// Static routes.
    pub routes: Vec<Route>,
    /// Rules loaded before the first packet, as `weirctl -S` prints them.
    pub rules: Vec<String>,
    /// Further sections, copied verbatim.
    pub extra: String,
}

impl Config {
    /// The file's text; `rules` is the path of the rules file, if there is one.
    #[must_use]
    pub fn text(&self, rules: Option<&Path>) -> String {
        let mut out = String::new();
        let mut say = |line: String| out.write_str(&(line + "\n")).expect("a String takes what it is given");
        say(format!("socket = {:?}", self.socket));
        say(format!("workers = {}", self.workers));
        say(format!("host_namespace = {:?}", self.host_namespace));
        say("idle = \"backoff\"".into());
        say("eal = [\"--no-pci\", \"-m\", \"256\"]".into());
        if let Some(rules) = rules {
            say(format!("rules = {rules:?}"));
        }
        for port in &self.ports {
            say(format!("\n[[port]]\nname = {:?}\ndevice = {:?}", port.name, port.device));
            say(format!("addresses = {:?}\nmbufs = 16384", port.addresses));
            if let Some(vlan) = port.vlan {
                say(format!("vlan = {vlan}"));
            }
            if let Some(mtu) = port.mtu {
                say(format!("mtu = {mtu}"));
            }
        }
        for route in &self.routes {
            let Route { to, via, port } = route;
            say(format!("\n[[route]]\nto = {to:?}\nvia = {via:?}\nport = {port:?}"));
        }
        say(format!("\n{}", self.extra));
        out
    }

    /// Writes the file as `DIRECTORY/NAME.toml`, and the rules next to it.
    ///
    /// # Panics
    /// If they can't be written.
    #[must_use]
    pub fn write(&self, directory: &Path, name: &str) -> PathBuf {
        let rules = directory.join(format!("{name}.rules"));
        let file = directory.join(format!("{name}.toml"));
        let write = |path: &Path, text: String| {
            fs::write(path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
        };
        if self.rules.is_empty() {
            write(&file, self.text(None));
        } else {
            write(&rules, self.rules.join("\n") + "\n");
            write(&file, self.text(Some(&rules)));
        }
        file
    }
}

/// The two programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The gateway.
    pub weir: PathBuf,
    /// The operator's tool.
    pub weirctl: PathBuf,
}

impl Programs {
    /// `weir`, and `weirctl` in the same directory.
    ///
    /// # Panics
    /// If one of them doesn't exist.
    #[must_use]
    pub fn beside(weir: &Path) -> Self {
        let weirctl = weir.with_file_name("weirctl");
        for program in [weir, &weirctl] {
            assert!(program.exists(), "{} is missing: cargo build -p weir -p weirctl", program.display());
        }
        Self { weir: weir.to_owned(), weirctl }
    }
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    programs: Programs,
    socket: PathBuf,
}

impl Gateway {
    /// Starts the gateway in `namespace` and waits until it is ready.
    ///
    /// # Panics
    /// If it doesn't become ready; the message has its log.
    #[must_use]
    pub fn start(programs: &Programs, lab: &Lab, namespace: &Namespace, config: &Config) -> Self {
        Self::start_as(programs, lab, config, namespace.command(&programs.weir), None)
    }

    /// Like [`Self::start`], with a command that runs the gateway, and with its stderr unless that goes to a file.
    ///
    /// # Panics
    /// If it doesn't become ready; the message has its log.
    #[must_use]
    pub fn start_as(
        programs: &Programs,
        lab: &Lab,
        config: &Config,
        mut command: Command,
        stderr: Option<Stdio>,
    ) -> Self {
        let file = config.write(lab.directory(), "weir");
        command.arg("--config").arg(&file);
        let mut process = match stderr {
            Some(stderr) => Process::start_to("weir", &mut command, stderr),
            None => Process::start("weir", &mut command, &lab.directory().join("weir.log")),
        };
        if let Err(reason) = process.wait_for_line("ready", START) {
            panic!("{reason}");
        }
        Self { process, programs: programs.clone(), socket: config.socket.clone() }
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A command for `weirctl` with the words of `line`, not yet started.
    #[must_use]
    pub fn ctl_command(&self, line: &str) -> Command {
        let mut command = Command::new(&self.programs.weirctl);
        command.env("WEIR_SOCKET", &self.socket).args(line.split_whitespace());
        command
    }

    /// Runs `weirctl` with the words of `line`; it may fail.
    #[must_use]
    pub fn try_ctl(&self, line: &str) -> Output {
        process::output(&mut self.ctl_command(line))
    }

    /// Runs `weirctl` with the words of `line` and returns its output.
    ///
    /// # Panics
    /// If its exit status isn't 0.
    pub fn ctl(&self, line: &str) -> String {
        let output = self.try_ctl(line);
        assert!(output.status.success(), "weirctl {line}: {}\n{}", output.status, text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A counter of `weirctl stats`, summed over all workers.
    ///
    /// # Panics
    /// If there is no such counter.
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        let stats = self.ctl("stats --json");
        let stats: serde_json::Value = serde_json::from_str(&stats).expect("--json prints JSON");
        let all =
            ["counters", "drops"].map(|kind| stats[kind].as_array().cloned().unwrap_or_default()).concat();
        let found = all.iter().find(|counter| counter["name"] == name);
        found
            .and_then(|counter| counter["total"].as_u64())
            .unwrap_or_else(|| panic!("no counter {name}: {stats}"))
    }

    /// Stops the gateway as an operator would.
    ///
    /// # Panics
    /// If it doesn't stop in time or the exit status isn't 0.
    pub fn stop(mut self) {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait(STOP);
        assert!(status.success(), "weir stopped with {status}");
    }
}
