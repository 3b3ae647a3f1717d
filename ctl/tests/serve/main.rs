//! `weirctl serve`, the real program, in front of a gateway that is made up: requests of all kinds, good and bad.
#![cfg(feature = "serve")]
#![forbid(unsafe_code)]

mod fake;

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fake::Fake;
use serde_json::Value;

/// The program, which is ended with this.
struct Server {
    child: Child,
    at: SocketAddr,
}

impl Server {
    fn start(socket: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_weirctl"))
            .args(["--timeout", "1", "serve", "--listen", "127.0.0.1:0", "--socket"])
            .arg(socket)
            .stderr(Stdio::piped())
            .spawn()
            .expect("weirctl starts");
        let mut line = String::new();
        BufReader::new(child.stderr.take().expect("stderr is piped")).read_line(&mut line).expect("a line");
        let at =
            line.trim().strip_prefix("weirctl: serving on http://").and_then(|rest| rest.strip_suffix('/'));
        let at = at.unwrap_or_else(|| panic!("{line}")).parse().expect("an address");
        Self { child, at }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
        stream
    }

    /// What comes back for `request`, up to the end of the stream.
    fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).expect("it is taken, even if nobody wants it");
        stream.shutdown(Shutdown::Write).expect("it is open");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer that isn't cut off");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Status and body, by curl.
    fn curl(&self, path: &str, options: &[&str]) -> (u16, String) {
        let url = format!("http://{}{path}", self.at);
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "60", "--path-as-is", "-w", "\n%{http_code}"])
            .args(options)
            .arg(url)
            .output()
            .expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{path}: {output:?}"));
        (status.parse().expect("a status"), body.to_owned())
    }

    fn json(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.curl(path, &[]);
        (status, serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}")))
    }

    /// Largest resident size so far, in kibibytes.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn status(answer: &str) -> u16 {
    let code = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    code.and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"))
}

#[test]
fn promtool_finds_no_fault_with_the_metrics() {
    let fake = Fake::start("promtool", 20, 5);
    let server = Server::start(fake.socket());
    let (status, text) = server.curl("/metrics", &[]);
    assert_eq!(status, 200, "{text}");
    for line in [
        "node_ipvs_connections_total 600",
        "node_ipvs_backend_weight{local_address=\"198.18.0.0\",local_port=\"83\",remote_address=\"10.20.0.1\",\
         remote_port=\"8080\",proto=\"TCP\",local_mark=\"\"} 0",
        "weir_drops_total{reason=\"no-server\",worker=\"1\"} 3",
        "weir_drops_total{reason=\"no-route\",worker=\"0\"} 0",
        "weir_handed_over_total{worker=\"0\"} 7",
        "weir_port_up{port=\"wan\\\"\\\\\\n\"} 1",
        "weir_local_ports_free{address=\"10.10.0.200\"} 40",
        "weir_servers 100",
        "weir_servers_left_out 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    let (_, open) = server.curl("/metrics", &["-H", "Accept: application/openmetrics-text; version=1.0.0"]);
    assert!(open.contains("# TYPE weir_drops counter\n") && open.ends_with("# EOF\n"), "{open}");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs: scripts/deps installs Debian's prometheus, which has it");
    promtool.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn bad_requests_are_refused() {
    let fake = Fake::start("bad", 1, 1);
    let server = Server::start(fake.socket());
    for path in [
        "/..",
        "/../etc/passwd",
        "/%2e%2e/etc/passwd",
        "//metrics",
        "/metrics/",
        "/metrics%00",
        "/Metrics",
        "/v1/drain",
        "/v1/apply",
        "/v1/../metrics",
        "/v1/status/",
        "/index.html",
        "/events/",
        "/.",
    ] {
        let (status, body) = server.curl(path, &[]);
        assert_eq!(status, 404, "{path}: {body}");
        assert!(body.contains("nothing here"), "{path}: {body}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"] {
        let answer = server.raw(format!("{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        assert!(matches!(status(&answer), 400 | 405), "{method}: {answer}");
    }
    let body = "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(status(&server.raw(body.as_bytes())), 413);
    let chunked = "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(status(&server.raw(chunked.as_bytes())), 413);
    let long_field = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(1 << 20));
    let many_fields = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20));
    for giant in [long_field, many_fields, long_path] {
        let answer = server.raw(giant.as_bytes());
        assert!(matches!(status(&answer), 414 | 431), "{answer}");
    }
    for nonsense in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{16}\u{3}\u{1}",
        "GET / HTTP/1.1\r\nX y\r\n\r\n",
    ] {
        let answer = server.raw(nonsense.as_bytes());
        assert!(answer.is_empty() || status(&answer) >= 400, "{nonsense:?}: {answer}");
    }
    for (path, why) in [
        ("/v1/sessions?kill=1", "no parameter `kill'"),
        ("/v1/status?socket=/etc/passwd", "no parameter `socket'"),
        ("/v1/stats?service=tpc/10.0.0.1:80", "did you mean tcp?"),
        ("/v1/sessions?limit=99999", "10000 at most"),
        ("/?x=1", "no parameter `x'"),
        ("/?q=%ff", "isn't encoded"),
    ] {
        let (status, body) = server.curl(path, &[]);
        assert!(status == 400 && body.contains(why), "{path}: {status} {body}");
    }
    assert_eq!(server.curl("/metrics", &["-I"]).0, 200);
    assert_eq!(server.json("/healthz").0, 200);
}

#[test]
fn two_hundred_slow_clients_leave_the_gateway_alone_and_are_given_up() {
    let fake = Fake::start("slow", 1, 1);
    let server = Server::start(fake.socket());
    assert_eq!(server.json("/readyz").0, 200);
    let mut slow: Vec<TcpStream> = (0..200).map(|_| server.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /metrics HT").expect("it is taken");
    }
    // There is no room for another one, and it is said at once.
    let start = Instant::now();
    let answer = server.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.is_empty() || status(&answer) == 503, "{answer}");
    assert!(start.elapsed() < Duration::from_secs(5));
    // Those that end make room; those that say nothing are ended.
    slow.truncate(150);
    let there = || matches!(server.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"), a if !a.is_empty() && status(&a) == 200);
    assert!(wait(Duration::from_secs(10), there));
    let closed = |stream: &mut TcpStream| matches!(stream.read_to_end(&mut Vec::new()), Ok(_) | Err(_));
    let start = Instant::now();
    assert!(slow.iter_mut().all(closed));
    assert!(start.elapsed() < Duration::from_secs(50), "{:?}", start.elapsed());
    assert!(fake.most_connections() <= 2, "{}", fake.most_connections());
}

fn wait(limit: Duration, mut event: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !event() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

#[test]
fn a_stopped_gateway_is_said_to_be_at_once_and_comes_back() {
    let fake = Fake::start("stopped", 2, 2);
    let server = Server::start(fake.socket());
    assert_eq!(server.json("/readyz"), (200, serde_json::json!({ "ready": true, "reasons": [] })));
    fake.stop(true);
    // What was seen a moment ago is served for a second.
    assert!(wait(Duration::from_secs(20), || server.json("/healthz").0 == 503));
    let start = Instant::now();
    for path in ["/healthz", "/readyz", "/metrics", "/", "/stub_status", "/v1/status"] {
        let (status, body) = server.curl(path, &[]);
        assert!(status == 503 && body.contains("has not answered for 1 s"), "{path}: {status} {body}");
    }
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    fake.stop(false);
    assert!(wait(Duration::from_secs(20), || server.json("/readyz").0 == 200));
    fake.hang();
    let hangs = || server.json("/healthz").1["reasons"][0] == "worker 1 doesn't poll";
    assert!(wait(Duration::from_secs(20), hangs));
}

#[test]
fn documents_are_those_of_the_tool() {
    let fake = Fake::start("documents", 3, 2);
    let server = Server::start(fake.socket());
    let names = server.json("/v1/").1["documents"].as_array().expect("names").clone();
    assert_eq!(names.len(), 11);
    // What is described is there, and what is there is described.
    let description = server.json("/v1/openapi.json").1;
    assert_eq!(description["openapi"], "3.1.0");
    let paths = description["paths"].as_object().expect("paths");
    for path in paths.keys().filter(|path| *path != "/events") {
        let (status, body) = server.curl(path, &["-I"]);
        assert_eq!(status, 200, "{path}: {body}");
        let kind = paths[path]["get"]["responses"]["200"]["content"].as_object().expect("a type");
        let kind = kind.keys().next().expect("a type");
        let told = body.lines().any(|line| line.to_lowercase().starts_with(&format!("content-type: {kind}")));
        assert!(told, "{path} isn't {kind}: {body}");
    }
    for name in &names {
        assert!(paths.contains_key(name.as_str().expect("a name")), "{name} isn't described");
    }
    // Nobody may change anything here.
    let (status, body) = server.curl("/v1/rules", &["-X", "PUT", "-H", "If-Match: \"7\"", "-d", "timeouts"]);
    assert!(status == 405 && body.contains("only GET and HEAD"), "{status} {body}");
    for name in names {
        let path = name.as_str().expect("a name");
        let (status, document) = server.json(path);
        assert_eq!((status, &document["version"]), (200, &1.into()), "{path}: {document}");
    }
    assert_eq!(server.json("/v1/stats").1["services"].as_array().map(Vec::len), Some(3));
    let (_, four) = server.curl("/stub_status", &[]);
    assert_eq!(
        four,
        "Active connections: 36 \nserver accepts handled requests\n 46 40 2000 \nReading: 0 Writing: 24 Waiting: 12 \n"
    );
}

#[test]
fn the_page_is_complete_and_events_come() {
    let fake = Fake::start("page", 3, 2);
    let server = Server::start(fake.socket());
    let (status, page) = server.curl("/", &["-i"]);
    assert_eq!(status, 200);
    let lower = page.to_lowercase();
    assert!(lower.contains("content-security-policy: default-src 'none'; script-src 'sha256-"), "{page}");
    assert!(lower.contains("x-content-type-options: nosniff") && lower.contains("cache-control: no-store"));
    for text in [
        "tcp/198.18.0.0:82",
        "10.20.0.2:8080",
        "no-server",
        "something &lt;b&gt;isn&#39;t&lt;/b&gt; well",
        "10.10.0.200",
    ] {
        assert!(page.contains(text), "{text}");
    }
    let mut stream = server.connect();
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").expect("it is taken");
    let mut seen = String::new();
    let mut reader = BufReader::new(stream);
    while seen.matches("event: look").count() < 2 {
        assert!(reader.read_line(&mut seen).expect("a line") > 0, "{seen}");
    }
    assert!(seen.contains("data: {\"generation\":7,"), "{seen}");
}

/// A page of all servers is larger than the kernel's buffers: a reader that stops costs a look, and not for long.
#[test]
fn a_reader_that_stops_is_given_up() {
    let fake = Fake::start("reader", 2000, 20);
    let server = Server::start(fake.socket());
    let mut stopped = server.connect();
    stopped.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("it is taken");
    let start = Instant::now();
    assert_eq!(server.curl("/metrics", &["-o", "/dev/null"]).0, 200);
    std::thread::sleep(Duration::from_secs(15).saturating_sub(start.elapsed()));
    // What was sent before the end is there, and then nothing more comes.
    let mut rest = Vec::new();
    let ended = stopped.read_to_end(&mut rest);
    let whole = String::from_utf8_lossy(&rest).contains("weir_server_session_limit{");
    assert!(!whole && !matches!(ended, Err(ref e) if e.kind() == io::ErrorKind::WouldBlock), "{ended:?}");
}

#[test]
fn ten_thousand_services_of_ten_servers() {
    let fake = Fake::start("large", 10_000, 10);
    let server = Server::start(fake.socket());
    let start = Instant::now();
    let (status, text) = server.curl("/metrics", &[]);
    let (time, peak) = (start.elapsed(), server.peak());
    assert_eq!(status, 200);
    assert_eq!(text.matches("\nnode_ipvs_backend_weight{").count(), 100_000);
    eprintln!("{} bytes in {time:?}, {peak} KiB at most", text.len());
    assert!(peak < 200 << 10, "{peak} KiB");
    let (status, page) = server.curl("/", &[]);
    assert!(status == 200 && page.matches("<details").count() == 1000 && page.contains("1000 of 10000"));
    let (status, why) = server.json("/v1/stats");
    assert!(
        status == 503 && why["error"].as_str().is_some_and(|e| e.contains("100000 servers are too many")),
        "{why}"
    );
    assert!(server.peak() < 300 << 10, "{} KiB", server.peak());
}
