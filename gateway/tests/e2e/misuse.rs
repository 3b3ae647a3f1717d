//! Mistakes in what operators give the gateway: exit status 2, with file, line and reason.

use std::{fs, path::Path};

use crate::scene::programs;
use lab::{
    Lab,
    gateway::{Config, Port},
    process::{output, text},
};

/// A configuration without mistakes, for a gateway that is never started.
fn sound(lab: &Lab) -> Config {
    let port = |name: &str, address: &str| Port {
        name: name.into(),
        device: format!("net_null_{name}"),
        addresses: vec![address.into()],
        vlan: None,
        mtu: None,
    };
    Config {
        socket: lab.directory().join("weir.sock"),
        workers: 1,
        host_namespace: "/proc/self/ns/net".into(),
        ports: vec![port("wan", "192.0.2.1/24"), port("lan", "198.51.100.1/24")],
        routes: Vec::new(),
        rules: Vec::new(),
        extra: String::new(),
    }
}

/// Both `weir --check` and `weir` refuse the file: exit status 2, naming `FILE:LINE` and the reasons.
fn refused(lab: &Lab, at: &Path, line: usize, config: &Path, reasons: &[&str]) {
    for check in [true, false] {
        let mut command = std::process::Command::new(programs().weir);
        let output = output(command.args(check.then_some("--check")).arg("--config").arg(config));
        let text = text(&output);
        assert_eq!(output.status.code(), Some(2), "check {check}: {text}");
        assert!(output.stdout.is_empty(), "nothing belongs on stdout: {text}");
        let place = format!("{}:{line}", at.display());
        assert!(text.contains(&place), "{place} isn't named: {text}");
        for reason in reasons {
            assert!(text.contains(reason), "{reason:?} isn't said: {text}");
        }
    }
    assert!(!lab.directory().join("weir.sock").exists(), "a refused configuration left a socket");
}

/// Writes the sound configuration with `old` replaced by `new`, and expects it to be refused in `new`'s line.
fn refused_change(old: &str, new: &str, reasons: &[&str]) {
    let lab = Lab::new();
    let text = sound(&lab).text(None);
    assert!(text.contains(old), "nothing to change: {text}");
    let text = text.replacen(old, new, 1);
    let last = new.lines().last().expect("a line to complain about");
    let line = 1 + text.lines().position(|line| line.contains(last)).expect("the new line is there");
    let file = lab.directory().join("weir.toml");
    fs::write(&file, text).expect("the scratch directory has room");
    refused(&lab, &file, line, &file, reasons);
}

#[test]
fn a_sound_configuration_passes_the_check() {
    let lab = Lab::new();
    let file = sound(&lab).write(lab.directory(), "weir");
    let output = output(std::process::Command::new(programs().weir).arg("--check").arg("--config").arg(file));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn an_unknown_key() {
    refused_change("workers = 1", "wrokers = 1", &["wrokers"]);
}

#[test]
fn a_bad_prefix() {
    refused_change("\"192.0.2.1/24\"", "\"192.0.2.1/33\"", &["33", "prefix length"]);
}

#[test]
fn a_missing_pci_device() {
    refused_change("\"net_null_wan\"", "\"0000:ff:1f.7\"", &["0000:ff:1f.7"]);
}

#[test]
fn an_unknown_driver() {
    refused_change("\"net_null_wan\"", "\"net_nosuchdriver0\"", &["net_nosuchdriver0"]);
}

#[test]
fn a_port_name_used_twice() {
    refused_change("name = \"lan\"", "name = \"wan\" # again", &["wan"]);
}

#[test]
fn a_wrong_type() {
    refused_change("workers = 1", "workers = \"one\"", &["workers"]);
}

#[test]
fn a_syntax_error() {
    refused_change("workers = 1", "workers = = 1", &[]);
}

#[test]
fn a_route_through_no_port() {
    let route = "\n[[route]]\nto = \"10.0.0.0/8\"\nvia = \"192.0.2.2\"\nport = \"nosuch\"\n";
    let lab = Lab::new();
    let text = sound(&lab).text(None) + route;
    let file = lab.directory().join("weir.toml");
    fs::write(&file, &text).expect("the scratch directory has room");
    let line = 1 + text.lines().position(|line| line.contains("nosuch")).expect("the line is there");
    refused(&lab, &file, line, &file, &["nosuch"]);
}

#[test]
fn a_rules_file_with_a_bad_line() {
    let lab = Lab::new();
    let mut config = sound(&lab);
    config.rules =
        vec!["-A -t 192.0.2.10:80 -s rr".into(), "-a -t 192.0.2.10:80 -r 10.0.0.1:80 -w many".into()];
    let file = config.write(lab.directory(), "weir");
    refused(&lab, &lab.directory().join("weir.rules"), 2, &file, &["weight"]);
}

#[test]
fn a_missing_rules_file() {
    let lab = Lab::new();
    let text = sound(&lab).text(Some(Path::new("nosuch.rules")));
    let line = 1 + text.lines().position(|line| line.contains("nosuch")).expect("the line is there");
    let file = lab.directory().join("weir.toml");
    fs::write(&file, text).expect("the scratch directory has room");
    refused(&lab, &file, line, &file, &["nosuch.rules"]);
}

#[test]
fn a_missing_configuration_file() {
    let output =
        output(std::process::Command::new(programs().weir).args(["--config", "/nonexistent/weir.toml"]));
    let text = text(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("/nonexistent/weir.toml"), "{text}");
}
