//! Tests the installed package under a real systemd, in a guest whose root is a Debian with the package's dependencies.
//! `scripts/service` makes that root and runs this. Inside the guest `scripts/service-guest` runs and reports each step
//! on the console.
#![forbid(unsafe_code)]

use std::{env, path::Path, process::ExitCode, time::Duration};

use lab::{
    Lab, clients,
    guest::{Guest, Nic, TAPS},
    process::wait_until,
    servers::Web,
    topology::Host,
};

const VIP: &str = "192.168.80.4";
const SERVER: &str = "10.10.0.11";
/// The limit for a step of an emulated machine, including its boot, on a busy host.
const PATIENCE: Duration = Duration::from_secs(600);
/// Memory in MiB: the root is in memory, too.
const MEMORY: u32 = 3072;
/// The guest's lines, in this order; in those marked, it waits for a session from here.
const STEPS: [(&str, bool); 10] = [
    ("installed", false),
    ("unconfigured", false),
    ("bound", false),
    ("started", true),
    ("forwarded", false),
    ("reloaded", false),
    ("killed", true),
    ("forwarded", false),
    ("hung", false),
    ("given back", false),
];

fn main() -> ExitCode {
    let words: Vec<_> = env::args().skip(1).collect();
    let [kernel, initrd] = &words[..] else {
        eprintln!("usage: service KERNEL INITRD");
        return ExitCode::from(2);
    };
    let mut lab = Lab::new();
    let [cradle, client, servers] = ["guest", "client", "servers"].map(|role| lab.namespace(role));
    let words = "rdinit=/sbin/init systemd.show_status=no systemd.mask=serial-getty@ttyS0.service";
    let paths = (Path::new(kernel), Path::new(initrd));
    let mut guest = Guest::boot(&lab, &cradle, paths, Nic::Igb, (MEMORY, words));
    guest.connect(TAPS[0], &client, &["192.168.80.100/24"]);
    guest.connect(TAPS[1], &servers, &[&format!("{SERVER}/24")]);
    let host =
        Host { name: "RS1".to_owned(), address: SERVER.parse().expect("an address"), namespace: servers };
    let _web = Web::start(&lab, &host, 80);
    let mut console = Vec::new();
    for (step, visit) in STEPS {
        let said = guest.line_within(step, PATIENCE, |line| {
            console.push(line.to_owned());
            assert!(!line.starts_with("failed: "), "in the guest:\n{}", console.join("\n"));
            line.strip_prefix("step: ").filter(|said| said.starts_with(step)).map(str::to_owned)
        });
        println!("service: {said}");
        if visit {
            wait_until("a page through the guest", PATIENCE, || {
                clients::reaches(&client, &format!("http://{VIP}/"), 2).then_some(())
            });
        }
    }
    ExitCode::SUCCESS
}
