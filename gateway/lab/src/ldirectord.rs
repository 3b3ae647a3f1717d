//! ldirectord, unmodified: it checks real servers and drives the gateway by `/usr/sbin/ipvsadm`, which is weirctl there.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{Lab, Namespace, process::Process};

/// Makes weirctl (`$1`) the program ipvsadm, in a mount namespace of its own, and runs ldirectord with the file `$2`.
const RUN: &str = "mount --bind \"$1\" /usr/sbin/ipvsadm && exec ldirectord \"$2\" start >&2";

/// What begins every configuration; it stays in the foreground.
const GLOBAL: &str = "checktimeout = 2\ncheckinterval = 1\nautoreload = no\nsupervised = yes\n\n";

/// A running ldirectord. Dropping it kills it, as a crash would.
#[derive(Debug)]
pub struct Ldirectord {
    process: Process,
    file: PathBuf,
}

impl Ldirectord {
    /// Starts it in `namespace` for the gateway at `socket`; `text` are the virtual services of its configuration.
    ///
    /// # Panics
    /// If it isn't installed, or its files can't be written.
    #[must_use]
    pub fn start(lab: &Lab, namespace: &Namespace, weirctl: &Path, socket: &Path, text: &str) -> Self {
        let directory = lab.subdirectory("ldirectord");
        let file = directory.join("ldirectord.cf");
        write(&file, text);
        let mut command = namespace.command("unshare");
        command.args(["--mount", "sh", "-c", RUN, "sh"]).arg(weirctl).arg(&file).env("WEIR_SOCKET", socket);
        let process = Process::start("ldirectord", &mut command, &directory.join("log"));
        Self { process, file }
    }

    /// Gives it another configuration.
    ///
    /// # Panics
    /// If the file can't be written, or ldirectord has ended.
    pub fn reload(&self, text: &str) {
        write(&self.file, text);
        self.process.signal(Signal::SIGHUP);
    }

    /// Stops it as an operator would: it takes its services away. What it has logged, calls of ipvsadm with another exit
    /// status than 0 included.
    ///
    /// # Panics
    /// If it doesn't stop in time.
    #[must_use]
    pub fn stop(mut self) -> String {
        self.process.signal(Signal::SIGTERM);
        self.process.wait(Duration::from_secs(20));
        self.process.log()
    }
}

fn write(file: &Path, text: &str) {
    fs::write(file, GLOBAL.to_owned() + text).expect("a scratch directory can be filled");
}
