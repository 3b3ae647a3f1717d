//! `weirctl serve` before a gateway that forwards: what it tells is what happened, and nothing that is done to it is felt by
//! clients.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use lab::{
    clients,
    process::{Process, must, wait_until},
    topology::{LIP, Options, VIP},
};
use nix::sys::signal::Signal;

use crate::scene::{Scene, programs};

const LIMIT: Duration = Duration::from_secs(30);
/// Where it listens, in the gateway's namespace.
pub const AT: &str = "127.0.0.1:9901";

/// A running `weirctl serve` in the gateway's namespace.
pub struct Serve(Process);

impl Serve {
    /// Starts it; `options` go before and after the word.
    pub fn start(scene: &Scene, before: &[&str], after: &[&str]) -> Self {
        let mut command = scene.network.gateway.command(programs().weirctl);
        command.env("WEIR_SOCKET", &scene.network.config.socket).args(before).arg("serve").args(after);
        let process =
            Process::start("weirctl serve", &mut command, &scene.network.lab.directory().join("serve.log"));
        wait_until("weirctl serve", LIMIT, || process.log().contains("serving on").then_some(()));
        Self(process)
    }

    fn stop(mut self) {
        self.0.signal(Signal::SIGTERM);
        let status = self.0.wait(LIMIT);
        assert!(status.success(), "weirctl serve ended with {status}");
    }
}

/// Status and body, by curl with these options.
pub fn get(scene: &Scene, path: &str, options: &[&str]) -> (u16, String) {
    let url = format!("http://{AT}{path}");
    let mut command = scene.network.gateway.command("curl");
    let text = must(
        command
            .args(["-sS", "--max-time", "30", "--path-as-is", "--globoff", "-w", "\n%{http_code}"])
            .args(options)
            .arg(&url),
    );
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (status.parse().expect("a number"), body.to_owned())
}

fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {series}: {metrics}"))
}

/// Metrics in which the service on port 80 has counted so many connections: they are summed up every 2 s.
fn counted(scene: &Scene, connections: f64) -> String {
    let series = format!("weir_service_connections_total{{service=\"tcp/{VIP}:80\"}}");
    wait_until("the sessions to be counted", LIMIT, || {
        let (_, metrics) = get(scene, "/metrics", &[]);
        (value(&metrics, &series) >= connections).then_some(metrics)
    })
}

/// What was forwarded is counted, and every reason and every name is in the documentation.
#[test]
fn metrics_tell_what_was_forwarded() {
    let scene = Scene::fullnat(&Options::workers(2));
    let serve = Serve::start(&scene, &[], &[]);
    scene.serve("-t", 80, "rr", &[(0, 2), (1, 1)]);
    assert_eq!(scene.answers(6).len(), 6);
    let metrics = counted(&scene, 6.0);
    let server = scene.network.servers[0].address;
    let backend = format!(
        "{{local_address=\"{VIP}\",local_port=\"80\",remote_address=\"{server}\",remote_port=\"80\",\
         proto=\"TCP\",local_mark=\"\"}}"
    );
    assert!((value(&metrics, &format!("node_ipvs_backend_weight{backend}")) - 2.0).abs() < 0.1);
    for (series, least) in [
        ("node_ipvs_connections_total".to_owned(), 6.0),
        ("node_ipvs_incoming_bytes_total".to_owned(), 1000.0),
        ("node_ipvs_outgoing_bytes_total".to_owned(), 1000.0),
        ("weir_worker_polls_total{worker=\"0\"}".to_owned(), 1.0),
        ("weir_worker_polls_total{worker=\"1\"}".to_owned(), 1.0),
        ("weir_port_up{port=\"wan\"}".to_owned(), 1.0),
        ("weir_port_receive_packets_total{port=\"lan\"}".to_owned(), 10.0),
        (format!("weir_local_ports{{address=\"{LIP}\"}}"), 1000.0),
    ] {
        assert!(value(&metrics, &series) >= least, "{series}: {metrics}");
    }
    let opened = scene.gateway.counter("sessions-opened");
    let told: f64 = ["0", "1"]
        .map(|w| value(&metrics, &format!("weir_sessions_opened_total{{worker=\"{w}\"}}")))
        .iter()
        .sum();
    assert!((told - opened as f64).abs() < 0.1, "{told} are told, {opened} were opened");
    let documentation = include_str!("../../../docs/monitoring.md");
    let labels = metrics.lines().filter_map(|line| line.strip_prefix("weir_drops_total{reason=\""));
    for reason in labels.filter_map(|rest| rest.split('"').next()) {
        assert!(documentation.contains(&format!("| `{reason}` |")), "docs/monitoring.md lacks {reason}");
    }
    let names = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    for name in names.filter(|name| !name.contains("_punt")) {
        assert!(documentation.contains(&format!("`{name}`")), "docs/monitoring.md lacks {name}");
    }
    for (path, has) in [
        ("/", "<details"),
        ("/stub_status", "Active connections: "),
        ("/v1/", "/v1/status"),
        ("/v1/openapi.json", "\"openapi\""),
        ("/v1/status", "\"generation\""),
        ("/v1/stats?service=tcp/192.168.80.4:80", "\"connections\""),
        ("/v1/sessions", "\"sessions\""),
        ("/v1/export", "\"scheduler\":\"rr\""),
        ("/v1/top", "\"services\""),
        ("/v1/mark", "\"version\""),
        ("/v1/snat", "\"version\""),
        ("/v1/client-address", "\"version\""),
        ("/v1/local-address", LIP),
        ("/healthz", "{\"healthy\":true,\"reasons\":[]}"),
        ("/readyz", "{\"ready\":true,\"reasons\":[]}"),
    ] {
        let (status, body) = get(&scene, path, &[]);
        assert!(status == 200 && body.contains(has), "{path}: {status} {body}");
        let (status, body) = get(&scene, path, &["-I"]);
        assert!(status == 200 && body.starts_with("HTTP/1.1 200"), "HEAD {path}: {status} {body}");
    }
    serve.stop();
    scene.gateway.stop();
}

/// A gateway without rules, one without a link, one that is stopped and one that is dead are told apart, by `weirctl ready` in the
/// same words.
#[test]
fn why_a_gateway_isnt_ready_is_told() {
    let mut scene = Scene::fullnat(&Options::workers(2));
    let serve = Serve::start(&scene, &["--timeout", "2"], &[]);
    let until = |scene: &Scene, path: &str, status: u16, why: &str| {
        wait_until(why, LIMIT, || {
            let (got, body) = get(scene, path, &[]);
            (got == status && body.contains(why)).then_some(())
        });
    };
    until(&scene, "/readyz", 503, "no rules are loaded");
    assert_eq!(get(&scene, "/healthz", &[]).0, 200);
    let asked = |scene: &Scene, line: &str| {
        let said = scene.gateway.try_ctl(line);
        (said.status.code(), String::from_utf8_lossy(&said.stderr).into_owned())
    };
    assert_eq!(asked(&scene, "ready").0, Some(0));
    let (status, why) = asked(&scene, "ready --rules");
    assert!(status == Some(4) && why.contains("no rules are loaded"), "{why}");
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    until(&scene, "/readyz", 200, "[]");
    assert_eq!(asked(&scene, "ready --rules").0, Some(0));
    scene.network.client.ip("link set eth0 down");
    until(&scene, "/readyz", 503, "port wan: ");
    assert_eq!(get(&scene, "/healthz", &[]).0, 200);
    let (_, body) = get(&scene, "/readyz", &[]);
    let (status, why) = asked(&scene, "ready");
    let reason = body.split('"').find(|part| part.starts_with("port wan")).expect("a reason");
    assert!(status == Some(4) && why.contains(reason), "{body} {why}");
    scene.network.client.ip("link set eth0 up");
    until(&scene, "/readyz", 200, "[]");
    scene.gateway.process().signal(Signal::SIGSTOP);
    for path in ["/healthz", "/readyz", "/metrics", "/", "/stub_status", "/v1/status"] {
        until(&scene, path, 503, "has not answered for 2 s");
    }
    scene.gateway.process().signal(Signal::SIGCONT);
    until(&scene, "/readyz", 200, "[]");
    assert_eq!(scene.answers(1).len(), 1);
    scene.gateway.process().kill();
    until(&scene, "/healthz", 503, "cannot reach the gateway");
    serve.stop();
}

/// What an operator does, what the network does, and numbers that go on.
#[test]
fn events_tell_what_happened() {
    let scene = Scene::fullnat(&Options::workers(1));
    let serve = Serve::start(&scene, &[], &[]);
    let page = |from: u64| {
        let (status, body) = get(&scene, &format!("/v1/events?from={from}"), &[]);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<serde_json::Value>(&body).expect("JSON")
    };
    let first = page(0);
    assert_eq!(first["events"][0]["event"], "gateway-ready", "{first}");
    let next = first["next"].as_u64().expect("a number");
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    let server = scene.network.servers[0].address;
    scene.gateway.ctl(&format!("drain tcp/{VIP}:80 {server}:80"));
    let page = page(next);
    let told: Vec<String> = page["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(|e| format!("{} {}", e["event"].as_str().expect("a name"), e["text"].as_str().expect("a text")))
        .collect();
    let service = format!("tcp/{VIP}:80");
    assert_eq!(
        told,
        [
            format!("service-added {service}: added"),
            format!("rules-changed {service}: local addresses changed"),
            format!("server-added {service}: server {server}:80 added, weight 1"),
            format!("server-weight {service}: server {server}:80 has weight 0, before 1"),
        ]
    );
    let weight = &page["events"][3];
    assert_eq!(weight["sequence"].as_u64(), Some(next + 3));
    let field = |name: &str| weight["fields"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!([field("service"), field("weight"), field("before")], [service, "0".into(), "1".into()]);
    // A follower sees what comes, line by line.
    let mut command = scene.gateway.ctl_command("events --limit 0 --follow");
    let mut follower =
        Process::start("weirctl events", &mut command, &scene.network.lab.directory().join("events.log"));
    // It follows from when it began, which nobody is told of: a mark shows it.
    wait_until("the follower", LIMIT, || {
        scene.gateway.ctl("mark add 7");
        scene.gateway.ctl("mark delete 7");
        follower
            .wait_for("a mark", Duration::from_secs(1), |line| line.contains("mark rules").then_some(()))
            .ok()
    });
    scene.network.client.ip("link set eth0 down");
    let down =
        follower.wait_for("link-down", LIMIT, |line| line.contains("link-down").then(|| line.to_owned()));
    assert!(down.as_ref().is_ok_and(|line| line.contains("port wan: ")), "{down:?}");
    scene.network.client.ip("link set eth0 up");
    follower
        .wait_for("link-up", LIMIT, |line| line.contains("link-up").then_some(()))
        .expect("the link is back");
    // The next hop to the servers falls silent, and packets need it.
    scene.gateway.ctl(&format!("undrain tcp/{VIP}:80 {server}:80"));
    scene.network.beyond.ip("link set up0 arp off");
    scene.network.twins.run("ip neigh flush dev lan");
    wait_until("neighbour-lost", 2 * LIMIT, || {
        let _ = scene.connect(80, Duration::from_millis(200));
        let lost = |line: &str| line.contains("neighbour-lost").then(|| line.to_owned());
        follower.wait_for("neighbour-lost", Duration::from_secs(1), lost).ok()
    });
    follower.signal(Signal::SIGINT);
    assert!(follower.wait(LIMIT).success());
    serve.stop();
    scene.gateway.stop();
}

/// The rules are replaced by whoever has the token, if nobody has changed them meanwhile, and by nobody else.
#[test]
fn rules_are_replaced_by_whoever_may() {
    let scene = Scene::fullnat(&Options::workers(1));
    let (directory, token) = (scene.network.lab.directory(), "a-token-of-many-characters");
    let file = directory.join("token");
    std::fs::write(&file, token).expect("a file");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("it is ours");
    let serve = Serve::start(&scene, &[], &["--allow-write", "--token-file", &file.display().to_string()]);
    scene.serve("-t", 80, "rr", &[(0, 1)]);
    assert_eq!(scene.answers(1), ["RS1"]);
    let (status, head) = get(&scene, "/v1/rules", &["-i"]);
    let lower = head.to_lowercase();
    let tag = lower.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a generation").to_owned();
    let rules = head.split_once("\r\n\r\n").expect("a body").1.to_owned();
    assert!(status == 200 && rules.contains("192.168.80.4:80"), "{head}");
    let servers = &scene.network.servers;
    let moved = rules.replace(&servers[0].address.to_string(), &servers[1].address.to_string());
    let path = directory.join("rules.toml");
    let body = format!("@{}", path.display());
    let put = |text: &str, tag: Option<&str>, token: &str| {
        std::fs::write(&path, text).expect("a file");
        let bearer = format!("Authorization: Bearer {token}");
        let matching = tag.map(|tag| format!("If-Match: {tag}"));
        let mut options = vec!["-X", "PUT", "-H", &bearer, "--data-binary", &body];
        if let Some(matching) = &matching {
            options.extend(["-H", matching]);
        }
        get(&scene, "/v1/rules", &options)
    };
    for (text, tag, token, expected, why) in [
        (&*moved, Some(&*tag), "another-token-of-many-characters", 401, "the right token"),
        (&moved, None, token, 428, "If-Match"),
        (&moved, Some("7x"), token, 400, "a generation"),
        (&moved, Some("\"999\""), token, 412, "has generation"),
        ("[[service]]\nprotocol = \"tpc\"\n", Some(&tag), token, 400, "rules:2"),
        (&moved.replace("\"rr\"", "\"rrr\""), Some(&tag), token, 422, "nothing was changed"),
    ] {
        let (status, body) = put(text, tag, token);
        assert!(status == expected && body.contains(why), "{expected} {why}: {status} {body}");
    }
    let (status, body) = get(&scene, "/v1/rules", &["-X", "DELETE"]);
    assert_eq!(status, 405, "{body}");
    assert_eq!(scene.answers(1), ["RS1"], "nothing was changed");
    // Whoever has the token and hasn't sent all rules yet keeps others with the token out, and learns nothing from them.
    let mut first = connect(&scene);
    let head = format!(
        "PUT /v1/rules HTTP/1.1\r\nHost: weir\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         If-Match: {tag}\r\nContent-Length: {}\r\n\r\n",
        moved.len()
    );
    first.write_all(head.as_bytes()).expect("it is taken");
    let outdated = || put(&rules, Some("\"999\""), token);
    let busy = wait_until("a writer's turn", LIMIT, || Some(outdated()).filter(|(status, _)| *status != 412));
    assert!(busy.0 == 503 && busy.1.contains("somebody else"), "{busy:?}");
    assert_eq!(put(&rules, Some(&tag), "another-token-of-many-characters").0, 401);
    assert_eq!(scene.answers(1), ["RS1"], "nothing was changed");
    first.write_all(moved.as_bytes()).expect("it is taken");
    let mut answer = String::new();
    first.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"changed\":true"), "{answer}");
    assert_eq!(outdated().0, 412, "the turn is over");
    assert_eq!(scene.answers(2), ["RS2", "RS2"]);
    // The generation is another one now.
    assert_eq!(put(&rules, Some(&tag), token).0, 412);
    serve.stop();
    scene.gateway.stop();
}

fn connect(scene: &Scene) -> TcpStream {
    let at: SocketAddr = AT.parse().expect("an address");
    let stream = scene.network.gateway.connect(at, LIMIT).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit can be set");
    stream
}

/// What comes back for bytes as they are.
fn raw(scene: &Scene, request: &[u8]) -> String {
    let mut stream = connect(scene);
    stream.write_all(request).expect("it is taken");
    stream.shutdown(Shutdown::Write).expect("it is open");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer that isn't cut off");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Bad requests, and more clients than there is room for, all slow: clients of the gateway don't notice, nor do those who
/// ask it by its socket.
#[test]
fn whatever_is_done_to_it_the_gateway_forwards() {
    let scene = Scene::fullnat(&Options::workers(1));
    let serve = Serve::start(&scene, &[], &[]);
    scene.serve("-t", 80, "rr", &[(0, 1), (1, 1)]);
    for path in [
        "/..",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2fetc/passwd",
        "//etc/passwd",
        "/v1/../../etc/passwd",
        "/v1/drain",
        "/v1/status%00.html",
        "/metrics/..",
        "/\\..\\etc",
    ] {
        let (status, body) = get(&scene, path, &[]);
        assert!(status == 404 && body.contains("nothing here"), "{path}: {status} {body}");
    }
    let giant = |of: &str| of.repeat(1 << 20);
    for (request, statuses) in [
        (format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", giant("a")), "431"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(1000)), "431"),
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", giant("a")), "414 431"),
        (format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n{}", giant("a")), "405"),
        (format!("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n{}", giant("a")), "413"),
        ("GET /v1/sessions?client=%00 HTTP/1.1\r\nHost: x\r\n\r\n".into(), "400"),
        ("\u{16}\u{3}\u{1}\0\r\n\r\n".into(), "400"),
    ] {
        let answer = raw(&scene, request.as_bytes());
        let status = answer.get(9..12).unwrap_or_default();
        assert!(!status.is_empty() && statuses.contains(status), "{statuses}: {answer}");
    }
    let mut slow: Vec<TcpStream> = (0..200).map(|_| connect(&scene)).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nX-Slow: ").expect("it is taken");
    }
    let answer = raw(&scene, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("too many connections"), "{answer}");
    for stream in slow.iter_mut().skip(100) {
        stream.write_all(b"a\r\n\r\n").expect("it is taken");
    }
    for _ in 0..5 {
        let page = clients::curl(&scene.network.client, &format!("http://{VIP}/"));
        assert!(page.contains("<h1>RS"), "{page}");
    }
    assert!(scene.gateway.ctl("ready --rules").starts_with("ready: "));
    // A hundred scrapes at once: four are answered at a time, the others are told to come again, or were quick.
    for stream in slow.drain(100..) {
        let (mut stream, mut head) = (stream, [0; 12]);
        stream.read_exact(&mut head).expect("an answer");
        assert!([&b"HTTP/1.1 200"[..], b"HTTP/1.1 503", b"HTTP/1.1 400"].contains(&&head[..]), "{head:?}");
    }
    drop(slow);
    wait_until("room again", LIMIT, || {
        raw(&scene, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200").then_some(())
    });
    assert_eq!(scene.gateway.counter("no-server"), 0);
    serve.stop();
    scene.gateway.stop();
}
