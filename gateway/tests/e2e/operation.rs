//! What operators do while traffic flows, and what breaks while it does.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use crate::scene::{Scene, Visitor, with_one_and_two_workers};
use lab::{
    clients,
    servers::Web,
    topology::{Options, VIP},
};

with_one_and_two_workers!(
    a_killed_server_is_taken_out_under_load,
    a_quiesced_server_keeps_its_visitors,
    a_server_added_again_finds_its_sessions,
    edits_disturb_nobody,
    deleting_a_service_leaves_others_alone,
);

fn service(kind: &str) -> String {
    format!("{kind} {VIP}:80")
}

/// A connection to the server called `name`; others are let go.
fn visitor_of(scene: &Scene, name: &str) -> Visitor {
    let found = (0..8).find_map(|_| {
        let mut visitor = Visitor::connect(scene);
        (visitor.ask().expect("an answer") == name).then_some(visitor)
    });
    found.unwrap_or_else(|| panic!("no connection in eight came to {name}"))
}

/// One of two servers crashes under load. With weight 0 nobody new is sent there; who talks to the other one
/// never notices anything.
fn a_killed_server_is_taken_out_under_load(workers: u16) {
    let mut scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    let steady: Vec<_> = (0..8).map(|_| visitor_of(&scene, "RS2")).collect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let talks: Vec<_> = steady
            .into_iter()
            .map(|mut visitor| {
                let over = &over;
                scope.spawn(move || {
                    let mut answers = 0_u32;
                    while !over.load(Relaxed) {
                        assert_eq!(visitor.ask().expect("a steady visitor noticed"), "RS2");
                        answers += 1;
                    }
                    answers
                })
            })
            .collect();
        scene.web[0].process.kill();
        let down = scene.network.servers[0].at(80);
        scene.gateway.ctl(&format!("-e {} -r {down} --fullnat -w 0", service("-t")));
        for page in 0..20 {
            let body = clients::curl(&scene.network.client, &format!("http://{VIP}/"));
            assert!(body.starts_with("<h1>RS2"), "page {page} after the server was taken out: {body}");
        }
        over.store(true, Relaxed);
        for talk in talks {
            assert!(talk.join().expect("a steady visitor") > 0);
        }
    });

    scene.web[0] = Web::start(&scene.network.lab, &scene.network.servers[0], 80);
    let back = scene.network.servers[0].at(80);
    scene.gateway.ctl(&format!("-e {} -r {back} --fullnat -w 1", service("-t")));
    assert!(scene.answers(6).iter().any(|name| name == "RS1"), "the server came back and gets nothing");
    scene.gateway.stop();
}

fn a_quiesced_server_keeps_its_visitors(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "wrr", &[(0, 1), (1, 1)]);
    let mut visitor = visitor_of(&scene, "RS1");
    let server = scene.network.servers[0].at(80);
    scene.gateway.ctl(&format!("-e {} -r {server} --fullnat -w 0", service("-t")));
    assert!(scene.answers(8).iter().all(|name| name == "RS2"));
    assert_eq!(visitor.ask().expect("the old connection goes on"), "RS1");
    scene.gateway.stop();
}

fn a_server_added_again_finds_its_sessions(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    let mut visitor = visitor_of(&scene, "RS1");
    let server = scene.network.servers[0].at(80);
    let (active, _) = scene.counts(server).expect("the server is listed");
    assert_eq!(active, 1);
    scene.gateway.ctl(&format!("-d {} -r {server}", service("-t")));
    assert_eq!(scene.counts(server), None);
    assert!(scene.answers(4).iter().all(|name| name == "RS2"));
    scene.gateway.ctl(&format!("-a {} -r {server} --fullnat", service("-t")));
    let (active, _) = scene.counts(server).expect("the server is listed again");
    assert_eq!(active, 1, "its session is counted again");
    assert_eq!(visitor.ask().expect("the old connection goes on"), "RS1");
    scene.gateway.stop();
}

fn edits_disturb_nobody(workers: u16) {
    let scene = Scene::fullnat(&Options { servers: 3, ..Options::workers(workers) });
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    let mut visitors: Vec<_> = (0..6).map(|_| Visitor::connect(&scene)).collect();
    let before: Vec<_> = visitors.iter_mut().map(|v| v.ask().expect("an answer")).collect();
    let third = scene.network.servers[2].at(80);
    let mut ask_again = |after: &str| {
        let now: Vec<_> = visitors.iter_mut().map(|v| v.ask().expect("an answer")).collect();
        assert_eq!(now, before, "after {after}");
    };
    for edit in [
        format!("-E {} -s wlc", service("-t")),
        format!("-a {} -r {third} --fullnat", service("-t")),
        format!("-e {} -r {third} --fullnat -w 7", service("-t")),
        format!("-E {} -s wrr", service("-t")),
        format!("-d {} -r {third}", service("-t")),
        "-Z".to_owned(),
    ] {
        scene.gateway.ctl(&edit);
        ask_again(&edit);
    }
    scene.gateway.stop();
}

fn deleting_a_service_leaves_others_alone(workers: u16) {
    let scene = Scene::fullnat(&Options::workers(workers));
    let _other = Web::start(&scene.network.lab, &scene.network.servers[1], 81);
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    scene.serve("-t", 81, "rr", &[(1, 1)]);
    let mut visitor = visitor_of(&scene, "RS1");
    scene.gateway.ctl(&format!("-D -t {VIP}:81"));
    assert!(
        !clients::reaches(&scene.network.client, &format!("http://{VIP}:81/"), 2),
        "a deleted service answers"
    );
    assert_eq!(visitor.ask().expect("the other service goes on"), "RS1");
    scene.gateway.ctl("-C");
    assert_eq!(scene.gateway.ctl("-Ln").lines().count(), 3, "only the head is left");
    assert!(visitor.ask().is_err(), "a session outlived its service");
    scene.gateway.stop();
}
