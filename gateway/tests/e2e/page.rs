//! The status page of `weirctl serve` in a real Chromium: wide and narrow, light and dark, with few services and many.
//! `WEIR_SCREENSHOTS=FOLDER` keeps the pictures: scripts/screenshots makes those of docs/monitoring.

use std::{fs, path::Path, process::Output, time::Duration};

use lab::{
    process::{output_within, text, wait_until},
    topology::{LIP, Options, VIP},
};

use crate::{
    scene::Scene,
    serve::{AT, Serve, get},
};

const LIMIT: Duration = Duration::from_secs(30);
/// Starting it takes a second on a machine that is idle.
const CHROMIUM: Duration = Duration::from_secs(120);

/// Chromium in the gateway's namespace, with a profile of its own in `folder`.
fn chromium(scene: &Scene, folder: &Path, options: &[String]) -> Output {
    let mut command = scene.network.gateway.command("chromium");
    command
        .env("HOME", folder)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
        .args(["--enable-logging=stderr", "--timeout=20000"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .args(options)
        .arg(format!("http://{AT}/"));
    let output = output_within(&mut command, CHROMIUM);
    assert!(output.status.success(), "{}", text(&output));
    // The console tells what the policy forbids and where the script fails. Chromium's own pages talk there, too: about a
    // slow network, for instance.
    let said = String::from_utf8_lossy(&output.stderr);
    let ours = said.lines().filter(|line| line.contains("CONSOLE") && line.contains(AT));
    assert_eq!(ours.collect::<Vec<_>>(), [""; 0]);
    output
}

/// A gateway with so many services beside the one that has traffic.
fn scene(services: usize) -> Scene {
    let scene = Scene::fullnat(&Options::workers(2));
    let servers: Vec<_> = scene.network.servers.iter().map(|server| server.address).collect();
    let mut rules = Vec::new();
    for n in 0..services {
        let service = format!("-t {VIP}:{}", 80 + n);
        rules.push(format!("-A {service} -s wlc"));
        rules.push(format!("-P {service} -z {LIP}"));
        for (k, server) in servers.iter().enumerate() {
            let weight = usize::from(n % 7 != 3 || k > 0);
            rules.push(format!("-a {service} -r {server}:80 --fullnat -w {weight}"));
        }
    }
    let file = scene.network.lab.directory().join("many.rules");
    let end = format!("# end of {} rules\n", rules.len());
    fs::write(&file, rules.join("\n") + "\n" + &end).expect("a file");
    scene.gateway.ctl(&format!("apply {}", file.display()));
    assert_eq!(scene.answers(40).len(), 40);
    scene
}

fn shows(services: usize) {
    let scene = scene(services);
    let _serve = Serve::start(&scene, &[], &[]);
    wait_until("the rates", LIMIT, || {
        let (status, page) = get(&scene, "/", &[]);
        assert_eq!(status, 200);
        page.contains("data-r=").then_some(())
    });
    let scratch = scene.network.lab.subdirectory("chromium");
    let dom = chromium(&scene, &scratch, &["--dump-dom".into()]);
    let page = String::from_utf8_lossy(&dom.stdout).into_owned();
    assert_eq!(page.matches("<details").count(), services, "{page}");
    assert_eq!(page.matches("<path d=\"M").count(), services, "the script hasn't run: {page}");
    let kept = std::env::var_os("WEIR_SCREENSHOTS");
    // Each takes seconds: where nobody keeps them, one shows that it can be done.
    let themes: &[_] = if kept.is_some() { &[("light", 1), ("dark", 0)] } else { &[("dark", 0)] };
    let sizes: &[_] = if kept.is_some() { &[(1280, 1400), (390, 1900)] } else { &[(390, 1900)] };
    let folder = kept.map_or(scratch.clone(), Into::into);
    for (width, height) in sizes {
        for (theme, scheme) in themes {
            let file = folder.join(format!("status-{services}-{width}-{theme}.png"));
            let options = [
                format!("--window-size={width},{height}"),
                format!("--blink-settings=preferredColorScheme={scheme}"),
                format!("--screenshot={}", file.display()),
            ];
            chromium(&scene, &scratch, &options);
            assert!(fs::metadata(&file).is_ok_and(|f| f.len() > 1000), "{}", file.display());
        }
    }
    scene.gateway.stop();
}

#[test]
fn chromium_shows_ten_services() {
    shows(10);
}

#[test]
fn chromium_shows_a_thousand_services() {
    shows(1000);
}
