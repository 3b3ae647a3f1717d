//! The log's reader goes away, the disk is full, the reader stalls: nobody but the log notices.

use std::{
    fs::File,
    io::{PipeReader, PipeWriter, Read, Write, pipe},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::Stdio,
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::Signal,
};

use crate::scene::{Scene, programs};
use lab::{
    gateway::Gateway,
    process::wait_until,
    servers::Web,
    topology::{self, Options},
};

/// A gateway with web servers that logs to `stderr`.
fn scene(stderr: Stdio) -> Scene {
    let network = topology::fullnat(&Options::default());
    let web = network.servers.iter().map(|host| Web::start(&network.lab, host, 80)).collect();
    let mut command = network.gateway.command(programs().weir);
    command.env("WEIR_LOG", "debug");
    let gateway = Gateway::start_as(&programs(), &network.lab, &network.config, command, Some(stderr));
    Scene { gateway, web, network }
}

/// Something to log for the threads that talk to the kernel and to peers, and for the control loop.
fn provoke(scene: &mut Scene, peers: usize) {
    scene.gateway.process().signal(Signal::SIGHUP);
    scene.network.twins.ip("link set wan address 02:00:00:00:88:01");
    for _ in 0..peers {
        let mut peer =
            UnixStream::connect(&scene.network.config.socket).expect("the socket takes connections");
        // A frame of four bytes that is no greeting. The gateway closes the connection.
        peer.write_all(b"\x04\0\0\0abcd").expect("room for a few bytes");
        let _ = peer.read(&mut [0; 16]);
    }
    wait_until("the twin's address to be set back", Duration::from_secs(10), || {
        (!scene.network.twins.ip("link show wan").contains("02:00:00:00:88:01")).then_some(())
    });
}

/// The control loop, `weirctl`, the kernel's word on neighbours and SIGTERM.
fn goes_on(mut scene: Scene, peers: usize) {
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    provoke(&mut scene, peers);
    assert_eq!(scene.answers(2), ["RS1", "RS1"]);
    let router = &scene.network.beyond;
    router.sysctl("net.ipv4.conf.up0.arp_notify", 1);
    router.ip("link set up0 address 02:00:00:00:77:01");
    provoke(&mut scene, 1);
    assert_eq!(scene.answers(2), ["RS1", "RS1"]);
    assert!(scene.gateway.ctl("status").contains("Ports"));
    scene.gateway.stop();
}

#[test]
fn its_reader_goes_away() {
    let (reader, writer) = pipe().expect("a pipe");
    let scene = scene(writer.into());
    drop(reader);
    goes_on(scene, 1);
}

#[test]
fn its_disk_is_full() {
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    goes_on(scene(full.into()), 1);
}

#[test]
fn its_reader_stalls() {
    let (_reader, writer) = full_pipe();
    goes_on(scene(writer.into()), 1);
}

/// Lines beyond what the queue holds are lost, and that is said once somebody reads again.
#[test]
fn lost_lines_are_counted() {
    let (reader, writer) = full_pipe();
    let mut scene = scene(writer.into());
    provoke(&mut scene, 1500);
    fcntl(reader.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a pipe has flags");
    let mut file = File::from(OwnedFd::from(reader));
    let mut text = String::new();
    wait_until("a line on lost lines", Duration::from_secs(10), || {
        let mut chunk = [0; 4096];
        let n = file.read(&mut chunk).unwrap_or(0);
        text.push_str(&String::from_utf8_lossy(&chunk[..n]));
        text.contains(" lines lost\n").then_some(())
    });
    assert!(text.contains("SIGHUP is ignored"), "{text}");
    // From here on it is read no more.
    scene.gateway.stop();
}

/// A pipe that has no room left.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().expect("a pipe");
    let set = |flags| fcntl(writer.as_fd(), FcntlArg::F_SETFL(flags)).expect("a pipe has flags");
    set(OFlag::O_NONBLOCK);
    while writer.write(&[b'x'; 4096]).is_ok() {}
    fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).expect("a pipe has flags");
    (reader, writer)
}
